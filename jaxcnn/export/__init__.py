"""Serving: a trained network as a folder that runs without jaxcnn.

model.jax            the computation with its weights: StableHLO, serialized by `jax.export`
weights.safetensors  the weights by name: `params/conv1/kernel`, `state/bn1/mean`
export.json          the inputs, the outputs, and the names of the classes
predict.py           classifies images by model.jax and export.json; a command and a module

The computation takes uint8 images `(N, H, W, C)` with any N, does the preprocessing, and returns the network's outputs
in evaluation mode. It is traced in the general form (`jaxcnn.ops.backend.general_form`), with XLA's operations, and for
several platforms at once, which need not exist on the machine that writes it. Later versions of JAX can run it for at
least six months.

>>> cnn.export.save(model, params, model_state, (32, 32, 1), "lenet5", preprocess=preprocess)
>>> served = jax.export.deserialize(bytearray(open("lenet5/model.jax", "rb").read()))    # without jaxcnn
>>> logits = jax.jit(served.call)(images)

`jax.export` itself also takes the `apply` of any layer, with a symbolic batch and for several platforms. Convolutions
and products are then XLA's operations, which run on any machine. If the export is made on a CPU for a fixed batch size,
the other operations have the forms of `jaxcnn.ops.backend`. These run anywhere, but an accelerator is faster with XLA's
operations; use `general_form` around the export to get them.

>>> batch = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 32, 32, 1), jnp.float32)
>>> predict = jax.jit(lambda params, state, x: model.apply(params, state, x)[0])
>>> exported = jax.export.export(predict, platforms=("cpu", "cuda"))(params, state, batch)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.export  # `import jax` alone does not have it
import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, Variables
from jaxcnn.data.preprocess import Preprocess, to_float
from jaxcnn.errors import UserError, first_line
from jaxcnn.ops.backend import general_form
from jaxcnn.weights import files

__all__ = ["FILES", "PLATFORMS", "check_new", "program", "save"]

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = ("model.jax", "weights.safetensors", "export.json", "predict.py")


def program(
    model: Layer,
    params: Variables,
    model_state: Variables,
    image: Sequence[int],
    *,
    preprocess: Callable[[Any], Any] = to_float,
    platforms: Sequence[str] = PLATFORMS,
) -> jax.export.Exported:
    """The network as one function of images: `serialize()` turns it into bytes, and `call(images)` runs it.

    Args:
      model: a Layer whose input is a batch of images and whose output, in an evaluation, is one array.
      params, model_state: its variables, which become constants of the function.
      image: the shape of one image, `(height, width, channels)`, before `preprocess`.
      preprocess: a function of the uint8 images; by default it scales them to 0 to 1.
      platforms: the platforms to run on.

    Returns:
      `uint8 (N, *image) -> (N, ...)`, for any N of at least 1.

    Raises:
      UserError: for a model with several outputs; for one that computes with the number of images; for one with
        operations that exist only on this machine.
    """
    shape = tuple(image)
    if not shape or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise UserError(f"image={image!r}: expected the shape of one image, (height, width, channels)")

    def predict(images: jax.Array) -> Any:
        return model.apply(params, model_state, preprocess(images))[0]

    # If the network cannot take this input, its own error says so.
    found = jax.eval_shape(predict, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
    if getattr(found, "shape", ())[:1] != (1,):
        outputs = jax.tree.map(lambda x: x.shape, found)
        raise UserError(f"the network's output should be one array (N, ...), and for one image it is {outputs}")
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), jnp.uint8)
    try:
        with general_form(), _without_paths():
            return jax.export.export(jax.jit(predict), platforms=tuple(platforms))(images)
    except Exception as error:  # JAX raises many types; for one image, tracing succeeded
        if calls := sorted(set(re.findall(r"custom_call @(\S+?)\(", str(error)))):
            raise UserError(f"the network calls {', '.join(calls)}, which not every machine has") from error
        first = first_line(error)[:200]
        raise UserError(
            f"the network can be traced for one image, but not for any number of images: {first}. "
            "Use x.shape[0] instead of len(x), and no arithmetic on it"
        ) from error


def save(
    model: Layer,
    params: Variables,
    model_state: Variables,
    image: Sequence[int],
    path: str | Path,
    *,
    preprocess: Callable[[Any], Any] = to_float,
    classes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes the folder that the module's docstring describes. An incomplete folder is never left.

    Args:
      model, params, model_state, image, preprocess, platforms: as in `program`.
      path: the folder, which must be new or empty.
      classes: the names of the classes, in the order of the outputs.
      about: additional entries for export.json.

    Returns:
      The content of export.json.

    Raises:
      UserError: as in `program`; when the folder is not empty, or cannot be written.
    """
    folder = Path(path).expanduser().absolute()
    check_new(folder)
    served = program(model, params, model_state, image, preprocess=preprocess, platforms=platforms)
    (output,) = served.out_avals
    if classes and output.shape[-1] != len(classes):
        raise UserError(f"the network has {output.shape[-1]} outputs, but classes= has {len(classes)} names")
    from jaxcnn import __version__

    weights = _named({"params": params, "state": model_state})
    content: dict[str, Any] = {
        **(about or {}),
        "classes": list(classes),
        "input": {"dtype": "uint8", "shape": ["N", *map(int, image)], "axes": "batch, height, width, channels"},
        "output": {"dtype": output.dtype.name, "shape": ["N", *map(int, output.shape[1:])], "values": "logits"},
        "preprocessing": "inside the model",
        **({"preprocess": dataclasses.asdict(preprocess)} if isinstance(preprocess, Preprocess) else {}),
        "platforms": list(served.platforms),
        "calling_convention_version": served.calling_convention_version,
        "jax": jax.__version__,
        "jaxcnn": __version__,
    }
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / "model.jax").write_bytes(served.serialize())
        files.write(part / "weights.safetensors", weights)
        (part / "export.json").write_text(json.dumps(content, indent=2) + "\n")
        (part / "predict.py").write_text(resources.files(__name__).joinpath("predict.py").read_text())
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return content


def check_new(path: str | Path) -> None:
    """Checks that a path does not exist or is an empty folder.

    Raises:
      UserError: for any other path.
    """
    folder = Path(path).expanduser()
    try:
        empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"the folder {path} cannot be written: {error.strerror or error}") from None
    if not empty:
        raise UserError(f"{path} exists and is not empty; choose another folder for the export, or remove it")


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """A context in which traced operations do not record the files and lines where they were made."""
    setting = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 0)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of nested dicts by path."""
    flat = jax.tree.leaves_with_path(tree)
    return {"/".join(str(entry.key) for entry in path): np.asarray(leaf) for path, leaf in flat}
