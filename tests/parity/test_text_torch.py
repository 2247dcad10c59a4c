"""The sentence network against one written with PyTorch, of the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal

from jaxcnn.models.text_cnn import text_cnn

torch = pytest.importorskip("torch")


def test_text_cnn_and_its_gradient():
    """PyTorch is given each sentence alone, without padding, inside zeros of its own."""
    model = text_cnn(classes=3, vocabulary=30, features=7, widths=(3, 4, 5), embedding=10)
    params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 5), jnp.int32))
    params = jax.tree.map(lambda x: x + 0.3 * normal(x.size, *x.shape), params)
    lengths = [1, 2, 5, 9, 12]
    words = np.zeros((5, 12), np.int32)
    for row, length in zip(words, lengths, strict=True):
        row[:length] = np.random.default_rng(length).integers(1, 30, length)
    weights = jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), params)

    def theirs(row, length):
        x = weights["embed"]["kernel"][torch.tensor(row[:length], dtype=torch.long)].T[None]
        pooled = []
        for width in (3, 4, 5):
            layer = weights[f"conv{width}"]
            y = torch.nn.functional.conv1d(x, layer["kernel"].permute(2, 1, 0), layer["bias"], padding=width - 1)
            pooled.append(torch.relu(y).amax(2))
        return torch.cat(pooled, 1) @ weights["fc"]["kernel"] + weights["fc"]["bias"]

    expected = torch.cat([theirs(row, length) for row, length in zip(words, lengths, strict=True)])
    expected.square().sum().backward()

    @jax.jit
    def ours(p):
        y = model.apply(p, {}, words)[0]
        return jnp.square(y).sum(), y

    slope, got = jax.grad(ours, has_aux=True)(params)
    close(got, expected.detach().numpy())
    close(slope, jax.tree.map(lambda w: w.grad.numpy(), weights), 1e-4)
