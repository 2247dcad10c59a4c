"""Counts sizes in the package: `python tests/counts.py [FOLDER]`, `jaxcnn` when no folder is given.

It prints files of more than 500 lines, functions of more than 60 lines, functions with more than 8 parameters, and the
number of lines in all. A docstring does not count as lines of its function, nor do the functions nested in it: each of
those is counted by itself. `self` and `cls` do not count as parameters, `*args` and `**kwargs` do.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES, FUNCTION_LINES, PARAMETERS = 500, 60, 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """All functions in a syntax tree with their qualified names, nested ones and methods included."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if not isinstance(child, ast.ClassDef):
                yield name, child
            yield from functions(child, f"{name}.")
        else:
            yield from functions(child, prefix)


def span(node: ast.stmt) -> int:
    """The lines from a statement's first to its last, decorators included."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    return (node.end_lineno or first) - first + 1


def function_lines(function: Function) -> int:
    """The lines of a function, without its docstring and without nested functions."""
    docstring = span(function.body[0]) if ast.get_docstring(function) is not None else 0
    nested = sum(span(inner) for name, inner in functions(function) if "." not in name)
    return span(function) - docstring - nested


def parameters(function: Function) -> int:
    """The number of parameters of a function, without `self` and `cls`."""
    a = function.args
    named = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
    return len(named) + (a.vararg is not None) + (a.kwarg is not None)


def main(root: Path) -> None:
    long_files, long_functions, many_parameters, total = [], [], [], 0
    for path in sorted(root.rglob("*.py")):
        text = path.read_text()
        lines = len(text.splitlines())
        total += lines
        if lines > FILE_LINES:
            long_files.append((lines, str(path)))
        for name, function in functions(ast.parse(text)):
            if (count := function_lines(function)) > FUNCTION_LINES:
                long_functions.append((count, f"{path}:{function.lineno} {name}"))
            if (count := parameters(function)) > PARAMETERS:
                many_parameters.append((count, f"{path}:{function.lineno} {name}"))

    for title, found in (
        (f"files of more than {FILE_LINES} lines", long_files),
        (f"functions of more than {FUNCTION_LINES} lines, docstring not counted", long_functions),
        (f"functions with more than {PARAMETERS} parameters", many_parameters),
    ):
        print(f"{title}: {len(found)}")
        for count, where in sorted(found, reverse=True):
            print(f"  {count:4} {where}")
    print(f"lines in all: {total:,}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "jaxcnn"))
