"""Reads files of weights as named arrays. The first bytes tell the format."""

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
from jaxcnn.runs.folder import Run
from jaxcnn.weights import keras, pth
from jaxcnn.weights.unpickle import Damaged, Tensor

ENDINGS = (".safetensors", ".pth", ".pt", ".bin")
_IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")

# The names of the network's weights in training checkpoints; the first that exists is used, averaged weights last.
_ENTRIES = "state_dict model_state_dict model_state model net_state_dict net network module weights params"
_ENTRIES += " state_dict_ema ema_state_dict model_ema ema_model ema params_ema swa_model averaged_model"
_DEEPEST = 3  # levels of entries within entries
# The prefix that DataParallel, DistributedDataParallel and AveragedModel put before every name.
_WRAPPER = "module."
# The prefixes that torch.compile, FSDP and activation checkpointing put before the names of a wrapped part.
_WRAPPED = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# AveragedModel's count of averaged models.
_COUNTED = "n_averaged"


@dataclass(frozen=True)
class Content:
    """The arrays of a file by name, and the library that wrote it.

    Attributes:
      wrapping: what was around the network: entries of a checkpoint, `state_dict`; prefixes that all its names had,
        `module.`; and AveragedModel's `n_averaged`.
    """

    path: Path
    kind: Literal["torch", "flax", "keras", "jaxcnn"]
    arrays: dict[str, np.ndarray]
    wrapping: tuple[str, ...] = ()


def read(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of a file of weights, by their names in the file. It runs no code from the file and needs no PyTorch.

    Args:
      path: safetensors; PyTorch's `.pth`, `.pt` or `.bin` in either of its formats; Flax's msgpack; a folder with
        `model.safetensors` or `pytorch_model.bin`; a checkpoint folder of Orbax; Keras's `.weights.h5`, `.keras` or
        `.h5`, for which h5py must be installed (`pip install "jaxcnn[keras]"`); or the folder of a run of jaxcnn, for
        the weights of its best epoch.
      entry: the weights to read from a training checkpoint that holds several, `"state_dict_ema"` for averaged ones. By
        default: the one called `state_dict`, `model_state_dict`, `model`, `net`, `module` or similar, averaged ones if
        there are no others; without such a name, the only entry that holds weights.

    Returns:
      A dict, in the file's order. PyTorch's names lose the prefixes of wrappers (`module.`, `_orig_mod.`, ...), and an
      `AveragedModel` loses its count `n_averaged`. Flax's names are `params/...` and `batch_stats/...`; Keras's are
      paths in the file, `conv1/vars/0`; a run's are paths in its network, `conv1/kernel`. A `.pth` is mapped into
      memory: its arrays are read-only views of the file.

    Raises:
      DataError: when the file does not exist, is damaged or of another kind, or holds code.
      UserError: for an entry that the file does not have, for several entries of which none is the usual one, or when
        h5py is needed and missing.
    """
    return content(path, entry).arrays


def content(path: str | Path, entry: str | None = None) -> Content:
    """`read`, together with the kind of the file."""
    path = Path(path).expanduser()
    if path.is_dir():
        for name in _IN_FOLDERS:
            if (path / name).is_file():
                return content(path / name, entry)
        _only_one(path, entry)
        if is_run(path):
            return Content(path, "jaxcnn", _run(path))
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
        return Content(path, "torch", *_unwrapped(_safetensors(path), ()))
    if start.startswith(keras.SIGNATURE) or (start[:4] == b"PK\x03\x04" and keras.is_archive(path)):
        _only_one(path, entry)
        return Content(path, "keras", keras.read(path))
    if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        return Content(path, "torch", *_unwrapped(*_state_dict(pth.read(path), path, entry)))
    # A map of MessagePack, with up to 15 entries or more. HDF5, read above, begins like one.
    if start and not start.startswith(b"\x89HDF") and (0x81 <= start[0] <= 0x8F or start[0] in (0xDE, 0xDF)):
        _only_one(path, entry)
        return Content(path, "flax", _flax(_msgpack(path), path))
    raise DataError(
        f"{path} {_what_else(start)}; expected safetensors, PyTorch's .pth, a checkpoint of Flax, or Keras's .h5"
    )


def is_run(path: str | Path) -> bool:
    """Whether the path is the folder of a run of jaxcnn, with its config.json and checkpoints."""
    path = Path(path).expanduser()
    return (path / "config.json").is_file() and (path / "checkpoints").is_dir()


def check_path(path: str | Path) -> None:
    """Checks that there is a file, or a folder with weights, without reading them.

    Raises:
      DataError: when there is not.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: there is no such file")
    if not path.is_dir() or is_run(path) or any((path / name).is_file() for name in _IN_FOLDERS):
        return
    if _checkpoint(path) is None:
        raise DataError(
            f"{path} is a folder without weights: expected a run of jaxcnn (config.json and checkpoints), "
            f"{', '.join(_IN_FOLDERS)}, or a checkpoint of Orbax"
        )


def _run(path: Path) -> dict[str, np.ndarray]:
    """The variables of a run's best epoch, parameters and running statistics, by their paths in the network."""
    found: dict[str, np.ndarray] = {}
    for tree in Run.open(path).restore_best():
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = [jax.tree_util.keystr((key,), simple=True) for key in keys]
            found["/".join(name for name in names if name != "frozen")] = np.asarray(leaf)
    return found


def _only_one(path: Path, entry: str | None) -> None:
    if entry is not None:
        raise UserError(f"{path} holds one set of weights; entry={entry!r} is for PyTorch's training checkpoints")


def _what_else(start: bytes) -> str:
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer to a file that was not fetched"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, perhaps from a failed download"
    if start.startswith(b"\x89HDF"):
        return "is damaged HDF5"
    return "is not a known file of weights"


# --- PyTorch's names ---------------------------------------------------------------------------------------------


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # safetensors' errors, and NumPy's for a dtype that it does not have
        raise DataError(f"{path} cannot be read as safetensors: {str(error)[:100]}") from None


def _state_dict(found: Any, path: Path, entry: str | None) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors of the state dict in the object of a `.pth`, and the entries that lead to it."""
    if entry is not None:
        named = found.get(entry) if isinstance(found, dict) else None
        if not isinstance(named, dict):
            has = ", ".join(str(k)[:40] for k, v in list(found.items())[:20] if isinstance(v, dict)) if found else ""
            raise UserError(f"{path} has no entry {entry!r} that holds weights; it has {has or 'none'}")
        found = named
    found, entries = _innermost(found, path)
    tensors = _tensors(found)
    if not tensors:
        has = ", ".join(str(k)[:40] for k in list(found)[:10]) if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{path} holds no state dict; it has {has or 'nothing'}")
    try:
        arrays = {name: tensor.array() for name, tensor in tensors.items()}
    except (Damaged, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    return arrays, (*([entry] if entry else []), *entries)


def _innermost(found: Any, path: Path) -> tuple[Any, tuple[str, ...]]:
    """The entry that holds the network's weights, or the argument if no entry has any; and the way to it."""
    way: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        if not isinstance(found, dict):
            break
        inner = {name: found[name] for name in _ENTRIES.split() if isinstance(found.get(name), dict)}
        with_weights = [name for name, entry in inner.items() if _tensors(entry)]
        if not with_weights and not _tensors(found):
            others = [name for name, entry in found.items() if isinstance(name, str) and _tensors(entry)]
            if len(others) > 1:
                raise UserError(
                    f"{path} holds several sets of weights: choose one of entry={', entry='.join(map(repr, others))}"
                )
            with_weights = others or list(inner)
        if not with_weights:
            break
        found, way = found[with_weights[0]], (*way, with_weights[0])
    return found, way


def _tensors(found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, Tensor) and isinstance(k, str)}


def _unwrapped(
    arrays: dict[str, np.ndarray], wrapping: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The arrays, their names without the prefixes of wrappers around the network or a part of it, and the prefixes."""
    names = {name: _WRAPPED.sub(r"\1", name) for name in arrays}
    found = sorted({match[0].lstrip(".") for name in arrays for match in _WRAPPED.finditer(name)})
    while True:
        weights = {name: there for name, there in names.items() if there != _COUNTED or arrays[name].shape}
        if not weights or not all(there.startswith(_WRAPPER) for there in weights.values()):
            break
        found += [_WRAPPER, *([_COUNTED] if len(weights) < len(names) else [])]
        names = {name: there.removeprefix(_WRAPPER) for name, there in weights.items()}
    if len(set(names.values())) < len(names):  # the prefix was not a wrapper's
        return arrays, wrapping
    return {there: arrays[name] for name, there in names.items()}, (*wrapping, *found)


# --- Flax's ------------------------------------------------------------------------------------------------------


def _msgpack(path: Path) -> Any:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # msgpack's and NumPy's errors, which have no common base class
        raise DataError(f"{path} cannot be read as a checkpoint of Flax: {str(error)[:100]}") from None


def _orbax(path: Path) -> Any:
    """The tree of an Orbax checkpoint, or of the last step of a folder of them, as NumPy arrays."""
    check_path(path)
    folder = _checkpoint(path)
    try:
        import orbax.checkpoint as ocp  # the import takes a second
    except ImportError:
        raise UserError(f"{path} is a folder of Orbax, which is not installed: pip install orbax-checkpoint") from None

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
    except Exception as error:  # from Orbax, TensorStore and the file system
        first = first_line(error)[:150]
        raise DataError(f"{path} cannot be read as a checkpoint of Orbax: {first}") from None


def _checkpoint(path: Path) -> Path | None:
    """The folder with Orbax's `_METADATA`: this one, or that of the last step below it."""
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
    """The network's part of a train state: the outermost `params`, with `batch_stats` if they are beside it."""
    level = [tree]
    for _ in range(4):
        level = [value for value in level if isinstance(value, Mapping)]
        # The `params` of a train state may be all variables, with another `params` inside.
        if found := [v for v in level if isinstance(v.get("params"), Mapping) and "params" not in v["params"]]:
            return {key: found[0][key] for key in ("params", "batch_stats") if key in found[0]}
        level = [inner for value in level for inner in value.values()]
    raise DataError(f"{path} holds no `params`, so it is not a checkpoint of a Flax network")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without Orbax's log messages about its future changes."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


# --- writing -----------------------------------------------------------------------------------------------------


def write(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as safetensors or `.pth`, depending on the path's ending. An incomplete file is never left.

    Raises:
      UserError: for another ending, or when the file cannot be written.
    """
    path = Path(path).expanduser()
    check_ending(path)
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".safetensors":
            # `ascontiguousarray` changes the shape of a scalar.
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
    """Checks that the ending of the path is that of a format.

    Raises:
      UserError: when it is not.
    """
    if Path(path).suffix not in ENDINGS:
        raise UserError(f"{path}: expected the ending .safetensors, or .pth, .pt or .bin for PyTorch's own format")
