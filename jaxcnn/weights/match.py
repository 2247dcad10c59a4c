"""Compares the arrays of a file with the variables of a model."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxcnn.core import Layer, leaves
from jaxcnn.errors import UserError, unknown
from jaxcnn.models.registry import Published, families, published_weights
from jaxcnn.weights.files import Content
from jaxcnn.weights.names import Namer, Variable, by_user, flax_resnet, option, timm_vgg

Names = Mapping[str, str] | Callable[[str], str] | Literal["timm"]


def without(content: Content, ignore: str | Sequence[str]) -> Content:
    """The content without the arrays that these names or patterns mean.

    Raises:
      UserError: for one that means no array.
    """
    arrays = content.arrays
    for each in (ignore,) if isinstance(ignore, str) else tuple(ignore):
        gone = {n for n in arrays if n.startswith((f"{each}.", f"{each}/")) or fnmatch.fnmatchcase(n, each)}
        if not gone:
            raise unknown(f"name in {content.path} for ignore=", each, list(arrays))
        arrays = {name: array for name, array in arrays.items() if name not in gone}
    return dataclasses.replace(content, arrays=arrays)


# --- names -------------------------------------------------------------------------------------------------------


def namer_of(
    model: Layer, kind: str, arrays: Collection[str], names: Names | None, path: str | FilePath
) -> Callable[[tuple[str, ...]], str]:
    """The names of the model's layers in a file of this kind with these arrays.

    Raises:
      UserError: when the names are not known, or the network would compute something else than that of the file.
    """
    found = published_weights(model)
    if isinstance(names, str):
        return _timm(model, names, found)
    if names is not None:
        return by_user(names, model, kind)
    if kind == "jaxcnn":
        return "/".join
    assert found is not None
    if kind == "keras":
        if found.keras is None:
            raise UserError(
                f"{path} is a file of Keras, whose names for {call_of(model)} are not known: pass names=, from the "
                "path of a layer to that of its group in the file"
            )
        return found.keras(model)
    padding = option(model, "padding", "symmetric")
    if kind == "flax":
        if found.family != "resnet":
            raise UserError(
                f"{path} is a checkpoint of Flax, whose names are known for ResNets only; {call_of(model)} is not a "
                "ResNet: pass names="
            )
        if padding != "same":
            raise UserError(
                f"{path} is a checkpoint of Flax, whose ResNet pads differently from {call_of(model)}: make the model "
                'with padding="same", or it would compute something else'
            )
        return flax_resnet(model)
    if padding != "symmetric":
        raise UserError(
            f"{path} has PyTorch's names, and {call_of(model)} pads differently from PyTorch's network: make the model "
            f"without padding={padding!r}, or it would compute something else"
        )
    if found.family == "vgg" and any(".pre_logits." in f".{name}" for name in arrays):
        return timm_vgg(model)
    torch = found.torch(model)
    if found.timm is not None:
        timm = found.timm(model)
        if _count(timm, model, arrays) > _count(torch, model, arrays):
            return timm
    return torch


def _timm(model: Layer, names: str, found: Published | None) -> Namer:
    """The names of timm's files, where they differ from torchvision's."""
    if names != "timm":
        raise UserError(f'names={names!r}: expected "timm", or a dict or a function from a layer\'s path to its name')
    if found is None or found.timm is None:
        known = ", ".join(name for name, family in families().items() if family.timm is not None)
        raise UserError(f'names="timm" is for the families {known}; {call_of(model)} is of none of them')
    return found.timm(model)


def _count(namer: Namer, model: Layer, arrays: Collection[str]) -> int:
    """How many of a file's arrays are in layers that have these names, maybe with a prefix."""
    layers = {namer(at) for at, _ in leaves(model)}
    parts = [name.split(".")[:-1] for name in arrays]
    return sum(any(".".join(steps[n:]) in layers for n in range(len(steps))) for steps in parts)


def named(model: Layer, content: Content, names: Names | None) -> tuple[Namer, Content]:
    """The names of the model's layers in a file, and the file's content under these names.

    If the network is a part of another module, its names have a prefix, such as Lightning's `model.` or `backbone.`.
    The prefix is removed if layers of the model have names without it, but none has with it.

    Raises:
      UserError: when the layers are found under several prefixes; and as in `namer_of`.
    """
    arrays, found = content.arrays, published_weights(model)
    if names is None and content.kind == "torch" and found is not None and found.older:
        arrays = {re.sub(*found.older, name): array for name, array in arrays.items()}
    namer = namer_of(model, content.kind, arrays, names, content.path)
    if content.kind != "flax":
        prefix = _prefix({namer(at) for at, _ in leaves(model)}, content.kind, arrays, content.path)
        shorter = {name.removeprefix(prefix): array for name, array in arrays.items()}
        if prefix and len(shorter) == len(arrays):
            return namer, dataclasses.replace(content, arrays=shorter, wrapping=(*content.wrapping, prefix))
    return namer, dataclasses.replace(content, arrays=arrays)


def _prefix(layers: set[str], kind: str, arrays: Collection[str], path: FilePath) -> str:
    """What stands before the names of these layers in a file: `""`, `"model."`, ..."""
    sign = "." if kind == "torch" else "/"
    counts: Counter[str] = Counter()
    for name in arrays:
        parts = name.rpartition("/vars/")[0].split(sign) if kind == "keras" else name.split(sign)[:-1]
        for n in range(len(parts)):
            if sign.join(parts[n:]) in layers:
                counts["".join(part + sign for part in parts[:n])] += 1
    if "" in counts or not counts:
        return ""
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) > 1:
        choices = " or ".join(f"ignore={prefix + '*'!r}" for prefix in sorted(best)[:5])
        raise UserError(f"{path} holds the layers of {len(best)} such networks: leave out all but one, by {choices}")
    return best[0]


# --- shapes ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Match:
    """What a model finds in a file, and all differences, for one error.

    Attributes:
      given: the arrays of the file, with this package's axes.
      missing: variables that the file does not have.
      misfits: variables whose array in the file has another shape or kind, and that array.
      extra: names in the file that the model does not have.
    """

    model: Layer
    content: Content
    published: Published | None
    count: int
    given: dict[Variable, np.ndarray] = dataclasses.field(default_factory=dict)
    missing: list[Variable] = dataclasses.field(default_factory=list)
    misfits: list[tuple[Variable, np.ndarray]] = dataclasses.field(default_factory=list)
    extra: list[str] = dataclasses.field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether there are no differences."""
        return not (self.missing or self.extra or self.misfits)

    def check(self) -> None:
        """Checks that there are no differences.

        Raises:
          UserError: lists them.
        """
        if self.fits:
            return
        lines = [f"{self.content.path} does not fit {call_of(self.model)}, which has {self.count} arrays:"]
        lines += self._list(
            f"{len(self.misfits)} of another shape or kind",
            [f"{_where(v)}: {v.name} should be {self._there(v)}, is {_shape(a, v)}" for v, a in self.misfits],
        )
        lines += self._list(
            f"{len(self.missing)} that the file does not have",
            [f"{_where(v)}: no {v.name} {self._there(v)}" for v in self.missing],
        )
        lines += self._list(
            f"{len(self.extra)} in the file that the model does not have",
            [f"{name} {self.content.arrays[name].shape}" for name in self.extra],
        )
        raise UserError("\n".join([*lines, self._hint()]))

    def _there(self, variable: Variable) -> tuple[int, ...]:
        return variable.there if self.content.kind == "torch" else variable.shape

    def _list(self, what: str, items: list[str]) -> list[str]:
        if not items:
            return []
        rest = [f"    and {len(items) - 10} more"] if len(items) > 10 else []
        return [f"  {what}:", *(f"    {item}" for item in items[:10]), *rest]

    def _hint(self) -> str:
        heads = self.published.heads if self.published else ()
        layers = {"/".join(v.path[:-1]) for v in [*self.missing, *(v for v, _ in self.misfits)]}
        aux = {layer for layer in layers if layer.startswith(("aux1/", "aux2/"))}
        if self.extra and not layers:
            return "The model is complete without them: ignore= passes over arrays of the file."
        if self.extra or len(layers) > self.count // 4:
            if self.missing and self.extra:
                return "They are weights of another network, or under other names: names= says what they are called."
            return "They are weights of another network, or of one made with other options."
        if layers and layers <= set(heads):
            return 'For other classes than the file\'s: fresh="head" starts the last layer anew.'
        if layers and layers == aux:
            return 'The file has no auxiliary heads: fresh=("aux1", "aux2") starts them anew, or make it without aux.'
        return "fresh= starts layers anew, names= says what they are called, input= is the image's (H, W, C)."


def compared(
    model: Layer, content: Content, wanted: Sequence[Variable], anew: Collection[Variable], found: Published | None
) -> Match:
    """Compares the arrays of a file with the variables of a model.

    Args:
      wanted: the variables, with their names in the file.
      anew: those that are not taken from the file.
      found: the published weights of the model's family, unless the user gives the names.
    """
    arrays, match = content.arrays, Match(model, content, found, len(wanted))
    for variable in wanted:
        if variable in anew:
            continue
        if variable.name not in arrays:
            match.missing.append(variable)
            continue
        array = arrays[variable.name]
        ours = getattr(variable, f"from_{content.kind}")(array)
        if ours is None or ours.shape != variable.shape or not alike(ours.dtype, variable.dtype):
            match.misfits.append((variable, array))
        elif content.kind == "keras" and found and variable.path[-1] == "kernel" and variable.path[:-1] in found.bgr:
            match.given[variable] = ours[:, :, ::-1]
        else:
            match.given[variable] = ours
    known = {variable.name for variable in wanted}
    optional = [p for p in found.training if not any(n.startswith(p) for n in known)] if found else []
    for name in arrays:
        counts_steps = content.kind == "torch" and name.endswith("num_batches_tracked")
        if name not in known and not counts_steps and not name.startswith(tuple(optional)):
            match.extra.append(name)
    return match


def alike(there: Any, here: Any) -> bool:
    """Whether both dtypes are floating, or neither is."""
    return jnp.issubdtype(there, jnp.floating) == jnp.issubdtype(here, jnp.floating)


def call_of(model: Layer) -> str:
    """The call that made the model, for a message."""
    text = " ".join(repr(model).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _where(variable: Variable) -> str:
    return f"{'/'.join(variable.path)} {variable.shape}"


def _shape(array: np.ndarray, variable: Variable) -> str:
    return f"{array.shape}" if alike(array.dtype, variable.dtype) else f"{array.shape} of {array.dtype}"
