"""ConvNeXt and MobileNetV2 as the guide writes them: short, whole, and the same functions as the library's networks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import jupytext
import numpy as np
import pytest
from helpers import close

import jaxcnn as cnn
from jaxcnn.models.convnext import convnext

GUIDE = Path(__file__).parents[2] / "notebooks/10_a_layer_of_your_own.py"
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def cells() -> dict[str, str]:
    """The code of both cells, by the last function that each defines."""
    code = [cell.source for cell in jupytext.read(GUIDE).cells if cell.cell_type == "code"]
    return {name: next(c for c in code if f"\ndef {name}(" in c) for name in ("convnext", "mobilenet_v2")}


@pytest.fixture(scope="module")
def written(cells: dict[str, str]) -> dict[str, object]:
    """What the cells define."""
    names: dict[str, object] = {"cnn": cnn}
    for code in cells.values():
        exec(code, names)
    return names


@pytest.mark.parametrize(
    ("name", "library", "parameters"),
    [("convnext", cnn.models.convnext_tiny, 28_589_128), ("mobilenet_v2", cnn.models.mobilenet_v2, 3_504_872)],
)
def test_25_lines_have_all_parameters_of_the_paper(name, library, parameters, cells, written) -> None:
    assert len([line for line in cells[name].splitlines() if line.strip()]) <= 25
    photo = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params, state = jax.eval_shape(written[name]().init, KEY, photo)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    assert (params, state) == jax.eval_shape(library().init, KEY, photo)


@pytest.mark.parametrize(
    ("make", "library", "side"),
    [
        (lambda written: written["convnext"]((1, 2), 8, 5), lambda: convnext((1, 2), 8, 5), 16),
        (lambda written: written["mobilenet_v2"](5), lambda: cnn.models.mobilenet_v2(5), 32),
    ],
    ids=["convnext", "mobilenet_v2"],
)
def test_same_outputs_as_the_library(make, library, side, written) -> None:
    """With the same random numbers in all variables. Both compute the same sums; XLA may order them otherwise."""
    mine, theirs = make(written), library()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, side, side, 3)).astype(np.float32)

    def random(leaf):
        if leaf.ndim == 1:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) * np.prod(leaf.shape[:-1]) ** -0.5).astype(np.float32)

    params, state = jax.tree.map(random, jax.eval_shape(theirs.init, KEY, x))
    expected = jax.jit(theirs.apply)(params, state, x)[0]
    assert np.std(expected) > 1e-3
    close(jax.jit(mine.apply)(params, state, x)[0], expected, 1e-5)
