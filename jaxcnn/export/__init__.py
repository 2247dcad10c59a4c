"""Serving: a trained network as a folder that runs where jaxcnn is not installed.

model.jax            the computation, StableHLO as `jax.export` serializes it, with the weights inside
weights.safetensors  the weights alone, by name: `params/conv1/kernel`, `state/bn1/mean`
export.json          what goes in, what comes out, and the names of the classes
predict.py           reads the first and third and names pictures; a program may import it

The computation takes images as the data had them, uint8 `(N, H, W, C)` with any N, does the preprocessing itself, and
returns the network's outputs in evaluation mode. It is traced in the general form (`jaxcnn.ops.backend.general_form`):
XLA's own operations, for several platforms at once, none of which has to be there when it is written. JAX promises to
run such a file for six months of its later versions.

>>> cnn.export.save(model, params, model_state, (32, 32, 1), "lenet5", preprocess=preprocess)
>>> served = jax.export.deserialize(bytearray(open("lenet5/model.jax", "rb").read()))    # without jaxcnn
>>> logits = jax.jit(served.call)(images)

`jax.export` itself takes any layer's `apply`, too, with a symbolic batch and for several platforms. Convolutions and
products are then XLA's own, with nothing that another machine may not have. On a CPU, the other operations of a batch
of fixed size keep the forms of `jaxcnn.ops.backend`: they run anywhere, and `general_form` around the export makes them
those that an accelerator is quick at.

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
    """The network as one function of images, which `serialize()` makes bytes of and `call(images)` runs.

    Args:
      model: a Layer whose input is a batch of images and whose output, in evaluation, is one array.
      params, model_state: its variables, which become constants of the function.
      image: the shape of one image, `(height, width, channels)`, before `preprocess`.
      preprocess: what is done to the images first; uint8 to 0 to 1 when not given.
      platforms: what it is to run on.

    Returns:
      `uint8 (N, *image) -> (N, ...)`, for any N of at least 1.

    Raises:
      UserError: for a model with several outputs, one that computes with the number of images, or one with operations
        that exist on this machine only.
    """
    shape = tuple(image)
    if not shape or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise UserError(f"image={image!r}: expected the shape of one image, (height, width, channels)")

    def predict(images: jax.Array) -> Any:
        return model.apply(params, model_state, preprocess(images))[0]

    # An input that the network cannot take is said by the network itself.
    found = jax.eval_shape(predict, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
    if getattr(found, "shape", ())[:1] != (1,):
        outputs = jax.tree.map(lambda x: x.shape, found)
        raise UserError(f"the network's output should be one array (N, ...), and for one image it is {outputs}")
    images = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), *shape), jnp.uint8)
    try:
        with general_form(), _without_paths():
            return jax.export.export(jax.jit(predict), platforms=tuple(platforms))(images)
    except Exception as error:  # of many types: for one image it went well
        if calls := sorted(set(re.findall(r"custom_call @(\S+?)\(", str(error)))):
            raise UserError(f"the network calls {', '.join(calls)}, which not every machine has") from error
        first = first_line(error)[:200]
        raise UserError(
            f"the network cannot be traced for any number of images, as it can for one: {first}. "
            "Use x.shape[0] where it says len(x), and no arithmetic on it"
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
    """Writes the folder that is described above, as a whole or not at all.

    Args:
      model, params, model_state, image, preprocess, platforms: as in `program`.
      path: the folder, which is made; an empty one that is there is taken.
      classes: the names of the classes, in the order of the outputs.
      about: more to write in export.json.

    Returns:
      What export.json has.

    Raises:
      UserError: as `program`; when the folder is there and not empty, or cannot be written.
    """
    folder = Path(path).expanduser().absolute()
    check_new(folder)
    served = program(model, params, model_state, image, preprocess=preprocess, platforms=platforms)
    (output,) = served.out_avals
    if classes and output.shape[-1] != len(classes):
        raise UserError(f"the network has {output.shape[-1]} outputs, and classes= has {len(classes)} names")
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
    """Raises UserError for a path where something is that is no empty folder."""
    folder = Path(path).expanduser()
    try:
        empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise UserError(f"the folder {path} cannot be written: {error.strerror or error}") from None
    if not empty:
        raise UserError(f"{path} is there and not empty; choose another folder for the export, or remove it")


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Operations do not say in which lines of which files of this machine they were made."""
    setting = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, setting)
    jax.config.update(setting, 0)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of nested dicts by their paths."""
    flat = jax.tree.leaves_with_path(tree)
    return {"/".join(str(entry.key) for entry in path): np.asarray(leaf) for path, leaf in flat}
