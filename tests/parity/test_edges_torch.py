"""Against PyTorch: its loaders in `fit`, and its cross-entropy with weights of the classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import same

import jaxcnn as cnn
from jaxcnn import losses, train
from jaxcnn.data import Examples, Loader
from jaxcnn.errors import DataError, UserError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional
RNG = np.random.default_rng(0)


def test_its_loader_trains_as_the_same_batches_in_memory() -> None:
    images, labels = RNG.integers(0, 256, (11, 6, 6, 1), np.uint8), np.arange(11) % 2
    pairs = torch.utils.data.TensorDataset(
        torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    )
    loader = Loader(torch.utils.data.DataLoader(pairs, batch_size=4), channels_first=True)
    assert (len(loader), loader.size, loader.ordered) == (11, 4, False)
    rows = [(images[first : first + 4], labels[first : first + 4]) for first in (0, 4)]
    net, objective = cnn.serial(flat=cnn.flatten, head=cnn.dense(2)), train.Objective(preprocess=cnn.data.to_float)
    settings: dict[str, Any] = {"optimizer": optax.sgd(0.1), "epochs": 2, "show": False}
    memory = Examples(images, labels)
    expected = train.fit(net, Loader(rows), objective, validation=memory, **settings)
    found = train.fit(net, loader, objective, validation=loader, **settings)
    same(found.params, expected.params)
    # Sums of batches of 4 and of 11, in another order.
    assert found.result["validation_loss"] == pytest.approx(expected.result["validation_loss"], rel=1e-6)
    with pytest.raises(UserError, match="TensorDataset gives single examples; pass a loader"):
        train.fit(net, pairs, show=False)
    grown = torch.utils.data.DataLoader([(torch.ones(3, requires_grad=True), 0)] * 4, batch_size=2)
    with pytest.raises(DataError, match="a Tensor cannot be read as a NumPy array: Can't call numpy"):
        train.fit(net, grown, show=False)


@pytest.mark.parametrize("shape", [(6,), (4, 3, 5)], ids=["classes", "pixels"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_cross_entropy_with_weights_of_the_classes(shape: tuple[int, ...], accumulate: int) -> None:
    """Loss and gradient of a step, and the loss of an evaluation in padded batches, are those of the whole batch."""
    outputs, labels = RNG.normal(size=(*shape, 3)).astype(np.float32), RNG.integers(0, 3, shape)
    weights = (0.5, 1.0, 4.0)
    theirs = torch.tensor(np.moveaxis(outputs, -1, 1), requires_grad=True)
    expected = F.cross_entropy(theirs, torch.tensor(labels), weight=torch.tensor(weights))
    expected.backward()
    slope = np.moveaxis(theirs.grad.numpy(), 1, -1)

    class_loss = losses.class_weighted(losses.softmax_cross_entropy, weights)
    # A network whose parameter is added to its input: the gradient of the parameter is the sum of the outputs'.
    shift = cnn.Layer(lambda key, x: ({"b": jnp.zeros(3)}, {}), lambda params, state, x, **_: (x + params["b"], state))
    step = train.make_step(shift, class_loss, optax.sgd(1.0), accumulate=accumulate)
    state, measured = step(train.create_state(shift, optax.sgd(1.0), jax.random.key(0), outputs), (outputs, labels))
    evaluate = train.make_evaluate(shift, class_loss, batch_size=4)
    data = Examples(outputs, labels.astype(np.int32))
    evaluated = evaluate({"b": jnp.zeros(3)}, {}, data).metrics
    # Float32 sums in another order.
    assert float(measured["loss"]) == pytest.approx(expected.item(), rel=2e-6)
    assert evaluated["loss"] == pytest.approx(expected.item(), rel=2e-6)
    np.testing.assert_allclose(-state.params["b"], slope.reshape(-1, 3).sum(0), rtol=2e-5, atol=1e-7)
    assert evaluated["accuracy"] == pytest.approx((outputs.argmax(-1) == labels).mean())  # not weighted
