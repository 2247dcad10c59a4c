"""Makes the notebooks: `python notebooks/build.py [NAME.py ...]` runs each text form and stores it as NAME.ipynb.

A notebook is written as `NAME.py` (Jupytext's percent format, which diffs and lints like any Python file); its
`NAME.ipynb` has the same cells, and what they showed when they were last run. Needs the extra `test`.
"""

import base64
import io
import sys
from pathlib import Path
from zlib import crc32

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """The text forms: every file here whose name begins with a number."""
    return sorted(HERE.glob("[0-9]*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a text form, without outputs. A cell's id follows from its text, so unchanged cells keep it."""
    notebook = jupytext.read(source)
    kernel = notebook.metadata.kernelspec
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        name = f"{crc32(cell.source.encode()):08x}"
        seen[name] = seen.get(name, 0) + 1
        cell.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return notebook


def execute(notebook: nbformat.NotebookNode, timeout: int = 600) -> None:
    """Runs the cells in a new kernel; keeps what they show, and neither times nor versions."""
    metadata = notebook.metadata.copy()
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False, coalesce_streams=True
    )
    client.execute(cwd=HERE)
    notebook.metadata = metadata
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = shrink(output.data["image/png"])


def shrink(picture: str) -> str:
    """A PNG (in base64) with a palette of 256 colours where that is smaller; no colour moves by more than 10 in 255."""
    small = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(picture, base64.b64encode(small.getvalue()).decode(), key=len)


def main() -> None:
    for source in [Path(name) for name in sys.argv[1:]] or sources():
        notebook = read(source)
        execute(notebook)
        target = source.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        print(f"{target.name}: {len(notebook.cells)} cells, {target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
