"""Reads Keras's HDF5 files of weights as named arrays, without Keras.

Three kinds of files are read. A `.weights.h5` of Keras 3 is a tree of groups; the arrays of a layer lie in its group
`vars`, numbered in the order in which the layer made them: `block1/layers/conv2d/vars/0`. A `.keras` archive holds such
a file. An `.h5` of Keras 2 lists its layers and their arrays in attributes; these arrays get the same form of name:
`block1_conv1/vars/0`. Only numbers are read: no configuration, no pickles, and no links to other files.

Source: Keras's `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py`, for the formats.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import DataError, UserError, first_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_INSIDE = "model.weights.h5"  # the weights of a .keras archive
_DEEPEST = 50  # levels of groups


def is_archive(path: Path) -> bool:
    """Whether the file is a `.keras` archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _INSIDE in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return False


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, without those of the optimizer and of random generators.

    Raises:
      UserError: when h5py is not installed.
      DataError: when the file is damaged, holds no arrays, or refers to other files.
    """
    try:
        import h5py
    except ImportError:
        raise UserError(f'{path} is a file of Keras, which needs h5py: pip install "jaxcnn[keras]"') from None
    try:
        source: Any = path
        size = path.stat().st_size
        if is_archive(path):
            with zipfile.ZipFile(path) as archive:
                source = io.BytesIO(archive.read(_INSIDE))
            size = source.getbuffer().nbytes
        with h5py.File(source, "r") as file:
            root = file["model_weights"] if "layer_names" not in file.attrs and "model_weights" in file else file
            found = _listed(root) if "layer_names" in root.attrs else _tree(root)
            arrays = {name: _array(dataset, name, size) for name, dataset in found.items()}
    except (DataError, UserError):
        raise
    except Exception as error:  # h5py and zipfile raise many types of errors
        raise DataError(f"{path} cannot be read as a file of Keras: {first_line(error)[:150]}") from None
    if not arrays:
        raise DataError(f"{path} is HDF5 without the weights of a Keras network")
    return arrays


def _tree(root: Any) -> dict[str, Any]:
    """The datasets in groups called `vars`."""
    found: dict[str, Any] = {}

    def walk(group: Any, path: tuple[str, ...]) -> None:
        if len(path) > _DEEPEST:
            raise DataError(f"{group.file.filename} has groups more than {_DEEPEST} levels deep")
        for key in sorted(group, key=lambda k: (int(k) if k.isdecimal() else -1, k)):
            if path == () and key in ("optimizer", "metrics"):
                continue
            item = _member(group, key)
            if hasattr(item, "keys"):
                if key != "seed_generator":
                    walk(item, (*path, key))
            elif path and path[-1] == "vars":
                found["/".join((*path, key))] = item

    walk(root, ())
    return found


def _listed(root: Any) -> dict[str, Any]:
    """The datasets that the attributes of a Keras 2 file list."""
    found = {}
    for layer in map(_text, root.attrs["layer_names"]):
        group = _member(root, layer)
        # A network inside of the network lists all its arrays: those of a layer share the name up to the last part.
        counts: dict[str, int] = {}
        for name in map(_text, group.attrs["weight_names"]):
            item = group
            for part in name.split("/"):
                item = _member(item, part)
            above = name.rpartition("/")[0]
            inner = above.rpartition("/")[2]
            place = layer if inner in ("", layer) else f"{layer}/{inner}"
            index = counts[above] = counts.get(above, -1) + 1
            found[f"{place}/vars/{index}"] = item
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _member(group: Any, key: str) -> Any:
    """A member of a group, which must lie in the same place of the same file."""
    link = group.get(key, getlink=True)
    if type(link).__name__ != "HardLink":
        raise DataError(f"{group.file.filename}: {key} is a link to another place, which Keras never writes")
    return group[key]


def _array(dataset: Any, name: str, size: int) -> np.ndarray:
    if dataset.is_virtual or dataset.external or dataset.dtype.kind not in "fiub" or dataset.nbytes > size:
        raise DataError(f"{dataset.file.filename}: {name} is no plain array of numbers, as Keras writes them")
    return np.asarray(dataset[()])
