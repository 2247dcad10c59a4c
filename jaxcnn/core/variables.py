"""Variables by their paths: values in nested dicts."""

from __future__ import annotations

from typing import Any

from jaxcnn.core.layer import Variables

Path = tuple[str, ...]


def get(tree: Any, path: Path) -> Any:
    """The value at a path of nested dicts, or None."""
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return None
        tree = tree[name]
    return tree


def put(tree: Variables, path: Path, value: Any) -> None:
    """Puts a value at a path of nested dicts, unless it is an empty dict."""
    if isinstance(value, dict) and not value:
        return
    if not path:
        tree.update(value)
        return
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value
