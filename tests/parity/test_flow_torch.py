"""FlowNetS, correlation, warping and end-point error against PyTorch's own operations with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

from jaxcnn import flow
from jaxcnn.models.flownet import flownet_s
from jaxcnn.ops.correlation import correlation

torch = pytest.importorskip("torch")
F = torch.nn.functional


def nchw(x):
    return torch.from_numpy(np.array(x, np.float64)).movedim(-1, 1)


def nhwc(x):
    return x.movedim(1, -1).numpy()


def conv(params, x, stride=1):
    kernel = torch.from_numpy(np.array(params["kernel"], np.float64)).permute(3, 2, 0, 1)
    bias = torch.from_numpy(np.array(params["bias"], np.float64))
    return F.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2)


def deconv(params, x):
    kernel = torch.from_numpy(np.array(params["kernel"], np.float64)).permute(2, 3, 0, 1)
    return F.conv_transpose2d(x, kernel, torch.from_numpy(np.array(params["bias"], np.float64)), 2, 1)


def flownet_s_in_torch(params, first, second):
    def unit(name, x, stride=1):
        return F.leaky_relu(conv(params[name]["conv"], x, stride), 0.1)

    both = np.stack([first, second]).astype(np.float64)
    mean, deviation = both.mean((0, 2, 3, 4), keepdims=True), both.std((0, 2, 3, 4), keepdims=True)
    x = torch.cat([nchw(image) for image in (both - mean) / deviation], 1)
    height, width = x.shape[2:]
    x = F.pad(x, (0, -width % 64, 0, -height % 64), mode="replicate")
    maps = {}
    maps[2] = unit("conv2", unit("conv1", x, 2), 2)
    maps[3] = unit("conv3_1", unit("conv3", maps[2], 2))
    for level in (4, 5, 6):
        maps[level] = unit(f"conv{level}_1", unit(f"conv{level}", maps[level - 1], 2))
    x = maps[6]
    flows = [conv(params["flow6"], x)]
    for level in (5, 4, 3, 2):
        up = F.leaky_relu(deconv(params[f"deconv{level}"]["conv"], x), 0.1)
        x = torch.cat([maps[level], up, deconv(params[f"upflow{level}"], flows[0])], 1)
        flows.insert(0, conv(params[f"flow{level}"], x))
    flows = [20 * f for f in flows]
    large = F.interpolate(flows[0], scale_factor=4, mode="bilinear", align_corners=False)
    return flows, large[:, :, :height, :width]


def test_flownet_s_is_torchs():
    first, second = normal(0, 2, 33, 70, 3), normal(1, 2, 33, 70, 3)
    model = flownet_s(width=4)
    params, state = model.init(jax.random.key(0), first, second)
    run = jax.jit(model.apply, static_argnames="train")
    flows, large = flownet_s_in_torch(params, first, second)
    close(run(params, state, first, second)[0], nhwc(large), 1e-4)
    for got, expected in zip(run(params, state, first, second, train=True)[0], flows, strict=True):
        close(got, nhwc(expected), 1e-4)


def test_correlation_and_its_gradient_are_those_of_unfolded_windows():
    first, second = normal(0, 2, 6, 5, 3), normal(1, 2, 6, 5, 3)
    weights = normal(2, 2, 6, 5, 25)
    a, b = nchw(first).requires_grad_(), nchw(second).requires_grad_()
    windows = F.unfold(b, 5, padding=2).reshape(2, 3, 25, 6, 5)
    expected = (a[:, :, None] * windows).mean(1)
    (expected * nchw(weights)).sum().backward()
    close(correlation(first, second, 2), nhwc(expected.detach()))
    got = jax.grad(lambda x, y: (correlation(x, y, 2) * weights).sum(), (0, 1))(first, second)
    close(got, (nhwc(a.grad), nhwc(b.grad)))


def test_warping_is_grid_sample():
    images, moves = normal(0, 2, 7, 9, 3), 3 * normal(1, 2, 7, 9, 2)
    places = np.stack(np.meshgrid(np.arange(9), np.arange(7)), -1) + moves.astype(np.float64)
    grid = torch.from_numpy(2 * places / (8, 6) - 1)
    expected = F.grid_sample(nchw(images), grid, mode="bilinear", padding_mode="border", align_corners=True)
    close(flow.warp(images, moves), nhwc(expected))


def test_multi_scale_loss_is_torchs_where_all_is_known():
    labels = normal(0, 2, 16, 24, 2)
    outputs = tuple(normal(k, 2, 4 >> k, 6 >> k, 2) for k in (0, 1))
    labels = labels[:, :16, :24]
    expected = 0.0
    for weight, output, side in zip((0.5, 0.25), outputs, (4, 8), strict=True):
        scaled = F.avg_pool2d(nchw(labels), side)
        expected = expected + weight * torch.norm(nchw(output) - scaled, 2, 1).sum((1, 2))
    close(flow.multi_scale((0.5, 0.25))(outputs, jnp.asarray(labels)), expected.numpy())
