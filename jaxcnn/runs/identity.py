"""Hashes of a run's data, and of the code of a user's network.

Both are in config.json. A resumed run compares them, since other data would change its results.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.loader import Loader
from jaxcnn.data.sources import Files
from jaxcnn.data.stream import Stream
from jaxcnn.errors import UserError
from jaxcnn.runs.checkpoint import sha256

_MOST, _SAMPLE = 1 << 28, 4096  # bytes up to which an array is hashed completely; number of examples hashed otherwise
_PIECE = 1 << 24


def of_data(data: Any) -> dict[str, Any] | None:
    """The number of examples, and a SHA-256 of the arrays, or of a stream's file names and labels. JSON.

    Of an array of more than 256 MB, 4096 evenly spaced examples are hashed; of a loader, the first batch, if its order
    is known.
    """
    hashed = hashlib.sha256()
    if isinstance(data, Stream):
        source = data.source
        hashed.update(repr(source.classes).encode())
        names = source.paths if isinstance(source, Files) else source.index
        _add(hashed, names)
        if isinstance(source, Files):
            _add(hashed, source.labels)
    elif isinstance(data, (Dataset, Examples)):
        hashed.update(repr(data.classes).encode())
        own = (data.inputs, data.labels) if data.weights is None else (data.inputs, data.labels, data.weights)
        for path, leaf in jax.tree_util.tree_leaves_with_path(own):
            hashed.update(jax.tree_util.keystr(path).encode())
            _add(hashed, np.asarray(leaf))
    elif isinstance(data, Loader):
        if not data.ordered:
            return {"count": len(data), "sha256": None}
        for leaf in jax.tree.leaves(data.first):
            _add(hashed, np.asarray(leaf))
    else:
        return None
    return {"count": len(data), "sha256": hashed.hexdigest()}


def _add(hashed: Any, array: np.ndarray) -> None:
    hashed.update(f"{array.dtype.name} {array.shape}".encode())
    if array.dtype.hasobject:
        hashed.update(repr(array.tolist()).encode())
        return
    if array.nbytes > _MOST and len(array) > _SAMPLE:
        array = array[np.linspace(0, len(array) - 1, _SAMPLE).astype(np.int64)]
    rows = max(1, _PIECE // max(1, array.nbytes // max(1, len(array)))) if array.ndim else 1
    for first in range(0, len(array) if array.ndim else 1, rows):
        part = array[first : first + rows] if array.ndim else array
        hashed.update(np.ascontiguousarray(part).tobytes())


def compare(was: Any, now: Mapping[str, Any]) -> None:
    """Compares the hashes in a run's config.json with those of the data it is resumed with.

    Raises:
      UserError: if the data differ.
    """
    for name, found in now.items():
        before = was.get(name) if isinstance(was, dict) else None
        if before is None or found is None or before == found:
            continue  # from an earlier version of jaxcnn, or of an unknown type of data
        counts = f"{before.get('count')} examples when the run began, and now {found['count']}"
        same = before.get("count") == found["count"]
        raise UserError(
            f"the {name} data is not what the run began with ({'as many examples, but others' if same else counts}): "
            "it cannot go on as it would have. Bring the data back, or start another run"
        )


# --- code --------------------------------------------------------------------------------------------------------


def code_file(model: Any) -> Path | None:
    """The file of a model `file.py:function`; None for a model's name."""
    if not isinstance(model, str) or ":" not in model:
        return None
    return Path(model.rpartition(":")[0]).expanduser()


def of_code(model: str) -> str | None:
    """The SHA-256 of that file; None if there is none."""
    file = code_file(model)
    return sha256(file) if file is not None and file.is_file() else None


def check_code(run: Path, config: Mapping[str, Any], trust: bool) -> None:
    """Checks that the code of a run's network may be executed.

    The file must be below the current folder, outside the run's folder, and unchanged since the training; `trust` skips
    these checks. What the file imports is not compared.

    Raises:
      UserError: if it may not.
    """
    file = code_file(config.get("model"))
    if file is None or trust or not file.is_file():  # a missing file is reported when the network is made
        return
    where, here = Path(os.path.realpath(file)), Path(os.path.realpath(Path.cwd()))
    if not where.is_relative_to(here):
        why = "lies outside the current folder"
    elif where.is_relative_to(os.path.realpath(run)):
        why = "came with the run"
    elif config.get("code_sha256", found := sha256(file)) != found:
        why = "is not what the run was trained with"
    else:
        return
    raise UserError(
        f"{run} would execute the code {file}, which {why}. Read it, and say that you trust it: --trust "
        "(trust=True in TrainedModel.load)"
    )
