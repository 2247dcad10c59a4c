"""Datasets, one file each. A file in this folder with `@dataset(...)` in it needs no other entry anywhere."""

from importlib import import_module
from pkgutil import iter_modules

from jaxcnn.data.datasets.registry import DATASETS, KINDS, READERS, Entry, dataset, listed, lookup, read, reader

__all__ = ["DATASETS", "KINDS", "READERS", "Entry", "dataset", "discover", "listed", "lookup", "read", "reader"]


def discover() -> None:
    """Imports each file of this folder, which registers its datasets."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
