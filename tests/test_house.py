"""The structure of the package: imports run downwards, without a circle; nobody imports the root package."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "jaxcnn"
# From the ground up. What stands in one line may import from the lines before it, and from itself.
FLOORS = [
    ["format"],
    ["errors"],
    ["files", "atomic", "signals", "declared", "processors"],
    ["ops"],
    ["core"],
    ["devices", "layers", "losses"],
    ["metrics"],
    ["data"],
    ["transforms"],
    ["models"],
    ["inspect"],
    ["runs"],
    ["weights"],
    ["tasks"],
    ["train"],
    ["export", "explore"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = {
    ".".join(
        ("jaxcnn", *(path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(ROOT).parts)
    ): path
    for path in ROOT.rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, `jaxcnn` for the root itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "jaxcnn"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "jaxcnn":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in FILES:
                    found.add(full)
                elif not (node.module == "jaxcnn" and alias.name == "__version__"):
                    found.add(node.module)
    return found


@pytest.mark.parametrize("name", sorted(set(FILES) - {"jaxcnn"}))
def test_imports_run_downwards(name: str) -> None:
    room = name.split(".")[1]
    for imported in imports(FILES[name]):
        assert imported != "jaxcnn", f"{name} imports the root package"
        below = imported.split(".")[1]
        assert below == room or FLOOR[below] < FLOOR[room], f"{name} imports {imported}"


def test_there_is_no_circle() -> None:
    edges = {name: {i for i in imports(path) if i != name} for name, path in FILES.items() if name != "jaxcnn"}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for imported in edges.get(name, ()):
                visit(imported, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())
