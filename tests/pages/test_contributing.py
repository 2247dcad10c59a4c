"""What CONTRIBUTING.md, CITATION.cff and the package's metadata say is so."""

import re
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_layer_of_the_guide_is_a_layer():
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert block
    namespace: dict = {"__name__": "guide"}
    exec(compile(block[1], "CONTRIBUTING.md", "exec"), namespace)
    made = namespace["swish"](2.0)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    params, state = made.init(jax.random.key(0), jnp.asarray(x))
    out, _ = made.apply(params, state, jnp.asarray(x))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out, wide / (1 + np.exp(-2 * wide)), rtol=1e-5)  # a few roundings of float32
    assert jax.tree.map(jnp.shape, params) == {"beta": (1,)}
    assert repr(made) == "swish(2.0)"

    def total(params, x):
        return made.apply(params, state, x)[0].sum()

    # What the table of layers asks, too: the gradient of beta is summed in float32, and rounded once.
    images = np.random.default_rng(1).normal(size=(64, 64)).astype(jnp.bfloat16)
    half = jax.grad(total)({"beta": jnp.full((1,), 2, jnp.bfloat16)}, jnp.asarray(images))["beta"]
    wide = images.astype(np.float64)
    gate = 1 / (1 + np.exp(-2 * wide))
    np.testing.assert_allclose(
        np.asarray(half).astype(np.float64), [(wide**2 * gate * (1 - gate)).sum()], rtol=1.5 * 2**-8
    )


def test_files_and_folders_that_the_guide_names_are_there():
    named = set(re.findall(r"`((?:jaxcnn|tests|notebooks)/[\w./]+)`", TEXT))
    assert named
    for path in named - {"notebooks/NAME.py"}:
        assert (ROOT / path).exists(), path
    tree = re.search(r"```\njaxcnn/\n(.*?)```", TEXT, re.DOTALL)
    assert tree
    inner, outer = tree[1].split("experiments/")
    for names in re.findall(r"^  ((?:\w+/?, )*\w+/?)  ", inner, re.MULTILINE):
        for name in names.split(", "):
            assert (ROOT / "jaxcnn" / name).is_dir() or (ROOT / "jaxcnn" / f"{name}.py").is_file(), name
    for name in re.findall(r"^(\w+)/", outer, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == cnn.__version__
    assert cnn.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_the_source_distribution_has_the_files_that_are_shown():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for name in included:
        assert (ROOT / name).exists(), name
    assert {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"} <= set(included)
    oldest = project["project"]["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in project["project"]["classifiers"]
