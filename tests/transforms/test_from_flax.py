"""Modules of Flax as layers: the numbers are Flax's, in evaluation and in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import close, same

import jaxcnn as cnn
from jaxcnn import train

X = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype(np.float32)
KEY = jax.random.key(3)


class Linen(nn.Module):
    classes: int = 2

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.Conv(3, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class NNX(nnx.Module):
    def __init__(self, classes: int = 2, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.heads = nnx.List([nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, classes, rngs=rngs)])

    def __call__(self, x: Any) -> Any:
        x = self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2))
        for head in self.heads:
            x = head(x)
        return x


def test_linen_s_numbers() -> None:
    module = Linen()
    model = cnn.from_flax(module)
    params, state = model.init(KEY, X)
    shapes = {"params": jax.tree.map(jnp.shape, params), **jax.tree.map(jnp.shape, state)}
    assert jax.tree.map(jnp.shape, jax.eval_shape(module.init, KEY, X)) == shapes
    variables = {"params": params, **state}
    close(jax.jit(model.apply)(params, state, X)[0], jax.jit(module.apply)(variables, X))
    found, changed = jax.jit(lambda key: model.apply(params, state, X, train=True, key=key))(KEY)
    expected, updates = module.apply(variables, X, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    close(found, expected)
    close(changed, dict(updates))
    assert not np.allclose(changed["batch_stats"]["BatchNorm_0"]["mean"], 0)
    assert model == cnn.from_flax(Linen())
    assert model != cnn.from_flax(Linen(3))


def test_nnx_s_numbers() -> None:
    model = cnn.from_flax(NNX)
    params, state = model.init(KEY, X)
    module = NNX(rngs=nnx.Rngs(KEY))
    close(params["heads"]["1"]["kernel"], module.heads[1].kernel[...])
    module.eval()
    close(model.apply(params, state, X)[0], module(X))
    (found, changed), (other, _) = (model.apply(params, state, X, train=True, key=k) for k in (KEY, jax.random.key(4)))
    assert not np.allclose(found, other)
    same(model.apply(params, state, X, train=True, key=jax.random.key_data(KEY))[0], found)
    module.train()
    module(X)
    close(changed["norm"]["mean"], module.norm.mean[...])
    with pytest.raises(cnn.LayerError, match="needs a random key in training"):
        model.apply(params, state, X, train=True)


@pytest.mark.parametrize("module", [Linen(), lambda rngs: NNX(rngs=rngs)], ids=["linen", "nnx"])
def test_they_train_inside_networks_and_are_exported(module: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    data = cnn.data.Dataset(images, np.arange(4) % 2, ("a", "b"))
    model = cnn.serial(body=cnn.from_flax(module), head=cnn.dense(2))
    found = train.fit(model, data, epochs=1, batch_size=4, optimizer=optax.sgd(0.1), run=tmp_path / "run", show=False)
    assert np.isfinite(found.history[0]["loss"])
    trained = train.TrainedModel.load(tmp_path / "run", model)
    same((trained.params, trained.model_state), (found.params, found.model_state))
    assert "body" in found.params
    served = jax.export.export(jax.jit(lambda x: model.apply(found.params, found.model_state, x)[0]))(
        jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 6, 6, 1), jnp.float32)
    )
    close(served.call(X), jax.jit(model.apply)(found.params, found.model_state, X)[0])


def test_other_ways_to_call_a_module() -> None:
    class Deterministic(nn.Module):
        @nn.compact
        def __call__(self, x: Any, *, deterministic: bool) -> Any:
            return nn.Dropout(0.5)(x, deterministic=deterministic)

    dropped = cnn.from_flax(Deterministic())
    assert dropped.init(KEY, X) == ({}, {})
    same(dropped.apply({}, {}, X)[0], X)
    assert not np.allclose(dropped.apply({}, {}, X, train=True, key=KEY)[0], X)
    scaled = cnn.from_flax(Linen(), lambda module, x, train: module(2 * x, train))
    params, state = scaled.init(KEY, X)
    close(scaled.apply(params, state, X)[0], cnn.from_flax(Linen()).apply(params, state, 2 * X)[0])


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Linen, r"Linen is a class; call it: from_flax\(Linen\(\.\.\.\)\)"),
        (3, "expected a linen module, or a function of nnx.Rngs"),
    ],
)
def test_what_is_no_module(module: Any, says: str) -> None:
    with pytest.raises(cnn.LayerError, match=says):
        cnn.from_flax(module)


def test_an_nnx_instance_and_a_function_of_something_else() -> None:
    with pytest.raises(cnn.LayerError, match=r"pass a function, from_flax\(lambda rngs: NNX\(\.\.\., rngs=rngs\)\)"):
        cnn.from_flax(NNX(rngs=nnx.Rngs(0)))
    with pytest.raises(cnn.LayerError, match="should return an NNX module, it returned int"):
        cnn.from_flax(lambda rngs: 3).init(KEY, X)
