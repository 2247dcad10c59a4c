"""Files of weights as named arrays, whatever wrote them; what a file is, is seen from its first bytes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import safetensors
from flax import serialization
from safetensors.numpy import save_file

from jaxcnn.errors import DataError, UserError, first_line
from jaxcnn.files import regular
from jaxcnn.weights import pth
from jaxcnn.weights.unpickle import Damaged, Tensor

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")

# What a training's checkpoint calls the network's weights; the first that is there is taken, averaged ones last.
_ENTRIES = "state_dict model_state_dict model_state model net_state_dict net network module weights params"
_ENTRIES += " state_dict_ema ema_state_dict model_ema ema_model ema params_ema swa_model averaged_model"
_DEEPEST = 3  # entries within entries
# What PyTorch's wrappers put before every name: DataParallel, DistributedDataParallel and AveragedModel.
_WRAPPER = "module."
# What others put before the names of the part that they wrap: torch.compile, FSDP, checkpoints of activations.
_WRAPPED = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# What AveragedModel counts beside the weights.
_COUNTED = "n_averaged"


@dataclass(frozen=True)
class Content:
    """The arrays of a file by name, and whose names they are."""

    path: Path
    kind: Literal["torch", "flax"]
    arrays: dict[str, np.ndarray]


def read(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file of weights by the names that they have in it; nothing in it is run, and PyTorch not needed.

    Args:
      path: safetensors; PyTorch's `.pth`, `.pt` or `.bin` in either of its formats; Flax's msgpack; a folder with one
        of the first two as `model.safetensors` or `pytorch_model.bin`; or a checkpoint folder of Orbax.
      entry: which weights of a training's checkpoint that holds several, `"state_dict_ema"` for the averaged ones.
        When not given: `state_dict`, `model_state_dict`, `model`, `net`, `module` or the like, and averaged ones if it
        has no others.

    Returns:
      A dict, in the file's order. PyTorch's names lose what its wrappers add: `module.`, `_orig_mod.` and the like, and
      the count `n_averaged` of an `AveragedModel`. Flax's are
      `params/...` and `batch_stats/...`. A `.pth` is mapped into memory: its arrays are read-only views of the file.

    Raises:
      DataError: when there is no such file, when it is of another kind or damaged, or when it holds code.
      UserError: for an entry that it does not have.
    """
    return content(path, entry).arrays


def content(path: str | Path, entry: str | None = None) -> Content:
    """As `read`, with what kind of file it is."""
    path = Path(path).expanduser()
    if path.is_dir():
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (path / name).is_file():
                return content(path / name, entry)
        _only_one(path, entry)
        return Content(path, "flax", _flax(_orbax(path), path))
    try:
        with open(regular(path), "rb") as file:
            start = file.read(512)
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    header = int.from_bytes(start[:8], "little")
    if len(start) > 8 and start[8:9] == b"{" and header <= size - 8:
        _only_one(path, entry)
        return Content(path, "torch", _unwrapped(_safetensors(path)))
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return Content(path, "torch", _unwrapped(_state_dict(pth.read(path), path, entry)))
    # A map of MessagePack: of up to 15 entries, or more. HDF5 begins like one.
    if start and not start.startswith(b"\x89HDF") and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        _only_one(path, entry)
        return Content(path, "flax", _flax(_msgpack(path), path))
    raise DataError(f"{path} {_what_else(start)}; expected safetensors, PyTorch's .pth, or a checkpoint of Flax")


def _only_one(path: Path, entry: str | None) -> None:
    if entry is not None:
        raise UserError(f"{path} holds one set of weights; entry={entry!r} is for PyTorch's checkpoints of a training")


def _what_else(start: bytes) -> str:
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is git-lfs's note of a file that was not fetched"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, perhaps of a download that failed"
    if start.startswith(b"\x89HDF"):
        return "is HDF5, which Keras writes"
    return "is no file of weights that can be read"


# --- PyTorch's names ---------------------------------------------------------------------------------------------


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # safetensors' own, and NumPy's for dtypes that it does not have
        raise DataError(f"{path} cannot be read as safetensors: {str(error)[:100]}") from None


def _state_dict(found: Any, path: Path, entry: str | None) -> dict[str, np.ndarray]:
    """The tensors of the state dict in what a `.pth` holds."""
    if entry is not None:
        named = found.get(entry) if isinstance(found, dict) else None
        if not isinstance(named, dict):
            has = ", ".join(str(k)[:40] for k, v in list(found.items())[:20] if isinstance(v, dict)) if found else ""
            raise UserError(f"{path} has no entry {entry!r} that holds weights; it has {has or 'none'}")
        found = named
    found = _innermost(found)
    tensors = _tensors(found)
    if not tensors:
        has = ", ".join(str(k)[:40] for k in list(found)[:10]) if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{path} holds no state dict: what it has is {has or 'nothing'}")
    try:
        return {name: tensor.array() for name, tensor in tensors.items()}
    except (Damaged, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _innermost(found: Any) -> Any:
    """The first entry with weights in it, or what was given where no entry has any."""
    for _ in range(_DEEPEST):
        if not isinstance(found, dict):
            break
        inner = [found[name] for name in _ENTRIES.split() if isinstance(found.get(name), dict)]
        with_weights = [entry for entry in inner if _tensors(entry)] or ([] if _tensors(found) else inner)
        if not with_weights:
            break
        found = with_weights[0]
    return found


def _tensors(found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, Tensor) and isinstance(k, str)}


def _unwrapped(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays by the names that they have without wrappers around the network, or a part of it."""
    names = {name: _WRAPPED.sub(r"\1", name) for name in arrays}
    while True:
        weights = {name: there for name, there in names.items() if there != _COUNTED or arrays[name].shape}
        if not weights or not all(there.startswith(_WRAPPER) for there in weights.values()):
            break
        names = {name: there.removeprefix(_WRAPPER) for name, there in weights.items()}
    if len(set(names.values())) < len(names):  # a name that was no wrapper's
        return arrays
    return {there: arrays[name] for name, there in names.items()}


def without_first(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The arrays without the first part of their names, `model.` for instance, when all have it in common."""
    first = {name.partition(".")[0] if "." in name else None for name in arrays}
    if len(first) != 1 or None in first:
        return None
    return {name.partition(".")[2]: array for name, array in arrays.items()}


# --- Flax's ------------------------------------------------------------------------------------------------------


def _msgpack(path: Path) -> Any:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # msgpack's and NumPy's, which have no common base
        raise DataError(f"{path} cannot be read as a checkpoint of Flax: {str(error)[:100]}") from None


def _orbax(path: Path) -> Any:
    """The tree of an Orbax checkpoint, or of the last step of a folder of them, as NumPy arrays."""
    try:
        import orbax.checkpoint as ocp  # it takes a second to import
    except ImportError:
        raise UserError(f"{path} is a folder of Orbax, which is not installed: pip install orbax-checkpoint") from None

    folder = _checkpoint(path)
    if folder is None:
        raise DataError(f"{path} is a folder without a checkpoint of Orbax, model.safetensors or pytorch_model.bin")
    try:
        with _quiet():
            reader = ocp.PyTreeCheckpointer()
            metadata = reader.metadata(folder)
            tree = getattr(metadata, "item_metadata", metadata)
            if tree is None:
                raise ValueError("its list of arrays is damaged")
            tree = _weights(getattr(tree, "tree", tree), path)
            wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return reader.restore(
                folder, args=ocp.args.PyTreeRestore(item=tree, restore_args=wanted, partial_restore=True)
            )
    except DataError:
        raise
    except Exception as error:  # Orbax's, TensorStore's and the file system's
        first = first_line(error)[:150]
        raise DataError(f"{path} cannot be read as a checkpoint of Orbax: {first}") from None


def _checkpoint(path: Path) -> Path | None:
    """The folder that Orbax's `_METADATA` is in: this one, or below it the last step's."""
    path = path.absolute()
    for _ in range(3):
        if (path / "_METADATA").is_file():
            return path
        steps = sorted((int(p.name.rpartition("_")[2]), p) for p in path.iterdir() if _is_step(p))
        items = [path / name for name in ("default", "state", "params") if (path / name / "_METADATA").is_file()]
        if not steps and not items:
            return None
        path = items[0] if items else steps[-1][1]
    return None


def _is_step(path: Path) -> bool:
    return path.is_dir() and path.name.rpartition("_")[2].isdecimal()


def _flax(tree: Any, path: Path) -> dict[str, np.ndarray]:
    """`params` and `batch_stats` of a tree as `{"params/conv_init/kernel": array}`."""
    flat: dict[str, np.ndarray] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{name}/{key}" if name else str(key))
        elif hasattr(value, "shape"):
            flat[name] = np.asarray(value)

    walk(_weights(tree, path), "")
    return flat


def _weights(tree: Any, path: Path) -> dict[str, Any]:
    """The part of a train state that is the network's: the outermost `params` with what `batch_stats` are beside it."""
    level = [tree]
    for _ in range(4):
        level = [value for value in level if isinstance(value, Mapping)]
        # A train state may have the whole of the variables as its `params`.
        if found := [v for v in level if isinstance(v.get("params"), Mapping) and "params" not in v["params"]]:
            return {key: found[0][key] for key in ("params", "batch_stats") if key in found[0]}
        level = [inner for value in level for inner in value.values()]
    raise DataError(f"{path} holds no `params`: it is no checkpoint of a network of Flax")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Orbax writes to the log about its own coming changes."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


# --- writing -----------------------------------------------------------------------------------------------------


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as safetensors or `.pth`, as the path ends, as a whole or not at all.

    Raises:
      UserError: for another ending, or when the file cannot be written.
    """
    path = Path(path).expanduser()
    check_ending(path)
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".safetensors":
            # Scalars aside, `ascontiguousarray` keeps the shape.
            whole = {name: np.ascontiguousarray(a).reshape(np.shape(a)) for name, a in arrays.items()}
            save_file(whole, part, metadata={"format": "pt"})
        else:
            pth.write(part, arrays)
        os.replace(part, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        part.unlink(missing_ok=True)


def check_ending(path: str | Path) -> None:
    """Raises UserError for a path whose ending does not say what to write."""
    if Path(path).suffix not in ENDINGS:
        raise UserError(f"{path}: expected the ending .safetensors, or .pth, .pt or .bin for PyTorch's own format")
