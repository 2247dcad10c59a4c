"""Every notebook runs in a new kernel without an error or a warning, and is stored as its text form says."""

import os
import runpy
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
build = runpy.run_path(str(NOTEBOOKS / "build.py"))
SOURCES = build["sources"]()
TRAINING = (
    "01_convolution_and_receptive_fields", "03_training", "11_fine_tuning", "16_from_an_idea_to_a_figure"
)  # fmt: skip

notebooks = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def text(output: nbformat.NotebookNode) -> str:
    """What an output says in words: of a picture its caption, never the picture."""
    return output.get("text", "") + output.get("data", {}).get("text/plain", "")


def test_each_has_both_forms():
    assert SOURCES
    assert {path.stem for path in SOURCES} >= set(TRAINING)
    assert [path.with_suffix(".ipynb") for path in SOURCES] == sorted(NOTEBOOKS.glob("*.ipynb"))


@notebooks
def test_stored_as_its_text_form_says(source: Path):
    stored = nbformat.read(source.with_suffix(".ipynb"), 4)
    made = build["read"](source)
    assert [(c.id, c.cell_type, c.source) for c in stored.cells] == [(c.id, c.cell_type, c.source) for c in made.cells]
    assert stored.metadata == made.metadata


@notebooks
def test_stored_with_its_outputs_and_without_noise(source: Path):
    path = source.with_suffix(".ipynb")
    stored = nbformat.read(path, 4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run python notebooks/build.py"
    assert not any(cell.metadata for cell in stored.cells)
    for output in outputs(stored):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert " at 0x" not in text(output), "an address, which is another one in each run"
    assert path.stat().st_size < 1000 * 1024


@pytest.mark.slow
@notebooks
def test_runs(source: Path, monkeypatch: pytest.MonkeyPatch):
    # Where a notebook trains for long, its programs are optimized a little; the other flags are those of `conftest.py`.
    if source.stem in TRAINING:
        flags = os.environ.get("XLA_FLAGS", "").replace("optimization_level=0", "optimization_level=1")
        monkeypatch.setenv("XLA_FLAGS", flags)
    notebook = build["read"](source)
    build["execute"](notebook)
    assert [text(o) for o in outputs(notebook) if o.get("name") == "stderr"] == []
    stored = nbformat.read(source.with_suffix(".ipynb"), 4)
    assert [o.output_type for o in outputs(notebook)] == [o.output_type for o in outputs(stored)]
