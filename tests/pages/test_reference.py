"""The API reference that pdoc makes of the docstrings: without a warning, with every public name, each documented."""

import contextlib
import importlib
import inspect
import re
import shlex
import types
from pathlib import Path

import pytest

import jaxcnn as cnn

pdoc = pytest.importorskip("pdoc", reason="pdoc is not installed")


README = Path(__file__).parents[2] / "notebooks/README.md"


def public(room: types.ModuleType) -> dict[str, object]:
    """What a module offers under its own name: its `__all__`, or what it defines without an underscore."""
    names = getattr(room, "__all__", None) or [
        name
        for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__
    ]
    return {name: getattr(room, name) for name in names}


ROOMS = ["jaxcnn", *sorted(f"jaxcnn.{name}" for name, value in public(cnn).items() if inspect.ismodule(value))]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command of the notebooks' page writes; its warnings are errors, as everywhere."""
    from pdoc.__main__ import cli

    line = re.search(r"^python -m pdoc (.*)$", README.read_text(), re.MULTILINE)
    assert line
    folder = tmp_path_factory.mktemp("reference")
    with contextlib.chdir(folder):
        cli(shlex.split(line[1]))
    return folder / "reference"


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOMS)
def test_every_public_name_is_on_its_page(name: str, reference: Path) -> None:
    page = (reference / f"{name.replace('.', '/')}.html").read_text()
    found = public(importlib.import_module(name))
    assert found
    for member, value in found.items():
        if inspect.ismodule(value):
            assert (reference / f"{value.__name__.replace('.', '/')}.html").is_file(), value.__name__
        else:
            assert f'id="{member}"' in page, f"{name}.{member} is not in the reference"


@pytest.mark.parametrize("name", ROOMS)
def test_every_public_name_says_what_it_is(name: str) -> None:
    room = importlib.import_module(name)
    assert inspect.getdoc(room)
    for member, value in public(room).items():
        if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{name}.{member} has no docstring"
        if inspect.isclass(value) and value.__module__.startswith("jaxcnn"):
            for method, function in vars(value).items():
                if getattr(function, "__qualname__", "") == f"{value.__qualname__}.{method}" and method[0] != "_":
                    assert inspect.getdoc(function), f"{name}.{member}.{method} has no docstring"


@pytest.mark.parametrize("name", ROOMS)
def test_arguments_that_are_described_are_those_that_there_are(name: str) -> None:
    for member, function in public(importlib.import_module(name)).items():
        text = inspect.getdoc(function) or ""
        if inspect.isfunction(function) and "\nArgs:\n" in text:
            lines = text.split("\nArgs:\n")[1].split("\n\n")[0].splitlines()
            heads = [line.strip().split(":")[0] for line in lines if line[:2] == "  " and line[2:3] not in (" ", "")]
            told = {word.strip().lstrip("*") for head in heads for word in head.split(",")}
            taken = set(inspect.signature(function).parameters)
            assert told, f"{name}.{member} has an empty list of arguments"
            assert told <= taken, f"{name}.{member} describes {sorted(told - taken)}, which it does not take"
