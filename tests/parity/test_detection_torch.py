"""Pooling of regions against PyTorch's adaptive pooling and grid sampling, whose bins and samples are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

from jaxcnn.models.fast_rcnn import Regions
from jaxcnn.ops.boxes import encode
from jaxcnn.ops.roi import crop_regions, roi_align, roi_max_pool
from jaxcnn.tasks.detection.objective import multi_task

torch = pytest.importorskip("torch")
F = torch.nn.functional


@pytest.mark.parametrize("seed", range(3))
def test_roi_max_pool_and_its_gradient(seed):
    """Of a region inside the map, the bins are those of adaptive max pooling of the part that it covers."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (1, 12, 17, 3)).astype(np.float32)  # ties: the first of equals has the gradient there, too
    first = rng.integers(0, [17, 12], (8, 2))
    last = np.minimum(first + rng.integers(0, 12, (8, 2)), [16, 11])
    boxes = np.concatenate([first, last], 1).astype(np.float32)
    size = (4, 3)
    tensor = torch.tensor(x, requires_grad=True)
    parts = [
        F.adaptive_max_pool2d(tensor[:, y1 : y2 + 1, x1 : x2 + 1].movedim(-1, 1), size).movedim(1, -1)
        for x1, y1, x2, y2 in boxes.astype(int)
    ]
    expected = torch.stack(parts, 1)
    weight = normal(seed, *expected.shape)
    expected.backward(torch.tensor(weight))

    @jax.jit
    def run(x):
        y, back = jax.vjp(lambda x: roi_max_pool(x, jnp.asarray(boxes[None]) * 8, size, 1 / 8), x)
        return y, back(jnp.asarray(weight))[0]

    close(run(x), (expected.detach().numpy(), tensor.grad.numpy()))


def grid(boxes, count, length, context=0):
    """Where to sample along one dimension, in the units of `grid_sample`: -1 and 1 are the image's edges."""
    low, high = boxes[:, :1], boxes[:, 1:]
    at = low + (np.arange(count) + 0.5 - context) / (count - 2 * context) * (high - low)
    return 2 * at / length - 1


@pytest.mark.parametrize("context", [None, 2])
def test_bilinear_regions_and_their_gradient(context):
    """RoI align (edges repeated) and crops of regions (zeros outside) against `grid_sample` at the same places."""
    rng = np.random.default_rng(4)
    x = normal(5, 1, 9, 13, 2)
    first = rng.uniform(-2, 9, (6, 2))
    boxes = np.concatenate([first, first + rng.uniform(0.5, 5, (6, 2))], 1)
    if context is None:
        boxes = np.clip(boxes, 0, [13, 9, 13, 9])  # beyond the edge RoI align is 0, grid_sample is not
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    size, samples = (5, 6), 2 if context is None else 1
    tensor = torch.tensor(x, requires_grad=True)
    rows = grid(boxes[:, [1, 3]], size[0] * samples, 9, context or 0)
    columns = grid(boxes[:, [0, 2]], size[1] * samples, 13, context or 0)
    places = np.stack(np.broadcast_arrays(columns[:, None, :], rows[:, :, None]), -1).astype(np.float32)
    sampled = F.grid_sample(
        tensor.movedim(-1, 1).expand(6, -1, -1, -1), torch.tensor(places), align_corners=False,
        padding_mode="border" if context is None else "zeros",
    )  # fmt: skip
    expected = F.avg_pool2d(sampled, samples).movedim(1, -1)[None]
    weight = normal(6, *expected.shape)
    expected.backward(torch.tensor(weight))
    own = jnp.asarray(boxes[None], jnp.float32)

    def ours(x):
        return roi_align(x, own, size, samples=samples) if context is None else crop_regions(x, own, size, context)

    @jax.jit
    def run(x):
        y, back = jax.vjp(ours, x)
        return y, back(jnp.asarray(weight))[0]

    close(run(x), (expected.detach().numpy(), tensor.grad.numpy()), 3e-5)


def test_multi_task_loss():
    """Cross-entropy and smooth L1 as PyTorch has them, for regions that are all objects of known classes."""
    truth = np.array([[[0, 0, 8, 8], [20, 0, 32, 9]]], np.float32)
    labels = {"boxes": truth, "classes": np.array([[1, 0]], np.int32)}
    regions = truth + np.array([[[0, 1, 0.5, 0], [1, 0, -1, 1]]], np.float32)
    logits, deltas = normal(7, 1, 2, 3), normal(8, 1, 2, 2, 4)
    tensors = [torch.tensor(a, requires_grad=True) for a in (logits, deltas)]
    goal = torch.tensor(np.asarray(encode(regions, truth, (0.1, 0.1, 0.2, 0.2))))[0]
    own = torch.tensor([1, 0])
    entropy = F.cross_entropy(tensors[0][0], own, reduction="sum")
    expected = (entropy + F.smooth_l1_loss(tensors[1][0, [0, 1], own], goal, reduction="sum")) / 2
    expected.backward()

    @jax.jit
    def run(logits, deltas):
        return jax.value_and_grad(lambda o: multi_task()(Regions(*o, jnp.asarray(regions)), labels)[0])(
            (logits, deltas)
        )

    close(run(logits, deltas), (expected.item(), tuple(t.grad.numpy() for t in tensors)), 3e-5)
