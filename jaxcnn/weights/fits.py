"""Which registered networks fit a file of weights."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn.core import leaves
from jaxcnn.errors import UserError
from jaxcnn.models.registry import MODELS, Entry, unknown_model
from jaxcnn.weights.files import Content
from jaxcnn.weights.match import Match, compared, named
from jaxcnn.weights.names import Namer, variables


@dataclass(frozen=True)
class Fit:
    """A network that fits a file: every array has its place, and the other way round.

    Attributes:
      model: its name in `MODELS`.
      classes: the number of classes of the file; None for a network without classes.
      options: further arguments of the builder.
      wrapping: what is around the network in the file; see `Content`.
    """

    model: str
    classes: int | None
    options: dict[str, Any]
    wrapping: tuple[str, ...]

    @property
    def call(self) -> str:
        """The call that makes the network: `cnn.models.resnet18(classes=3)`."""
        given = ({} if self.classes is None else {"classes": self.classes}) | self.options
        return f"cnn.models.{self.model}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def fits(content: Content) -> list[Fit]:
    """The registered networks that fit a file, found by names and shapes; most files fit one or none."""
    found = []
    for name in MODELS:
        try:
            fit, match = fit_of(name, content, quick=True)
        except UserError:  # its names are not known for this kind of file, or it holds the network twice
            continue
        if match is not None and match.fits:
            found.append(fit)
    return found


def fit_of(name: str, content: Content, quick: bool = False) -> tuple[Fit, Match | None]:
    """One registered network beside a file: the call that has the file's number of classes, and all differences.

    Args:
      quick: return None for the differences when names alone show that it does not fit; else the network is traced.

    Raises:
      UserError: for an unknown name, or a network whose names in such files are not known.
    """
    if name not in MODELS:
        raise unknown_model(name)
    entry = MODELS[name]
    if entry.published is None:
        raise UserError(f"{name} has no published weights, so its names in files are not known")
    options = dict(entry.published.options)
    if content.kind == "flax" and entry.published.family == "resnet":
        options["padding"] = "same"
    net = entry.make(**options)
    namer, content_here = named(net, content, None)
    arrays, kind = content_here.arrays, content.kind
    takes = "classes" in inspect.signature(entry.make).parameters
    classes = _classes(entry, namer, content_here) if takes else None
    fit = Fit(name, classes, options, content_here.wrapping)
    if quick:
        layers = {_full(namer(at), kind) for at, _ in leaves(net)}
        training = entry.published.training
        known = {n for n in arrays if _layer(n, kind) in layers or n in layers or n.startswith(training)}
        if len(known) < len(arrays) or (takes and classes is None):
            return fit, None
    if takes:
        net = entry.make(classes=entry.classes if classes is None else classes, **options)
    image = jax.ShapeDtypeStruct((1, *entry.input), jnp.float32)
    wanted = variables(net, (image,), namer, kind)
    return fit, compared(net, content_here, wanted, (), entry.published)


def _full(name: str, kind: str) -> str:
    return f"{name}/vars" if kind == "keras" else name


def _layer(name: str, kind: str) -> str:
    """The layer of an array, by its name in the file."""
    if kind == "torch":
        return name.rpartition(".")[0]
    return name.rpartition("/")[0].removeprefix("params/").removeprefix("batch_stats/")


def _classes(entry: Entry, namer: Namer, content: Content) -> int | None:
    """The number of classes: the units of the last layer in the file, None if it is not there."""
    assert entry.published is not None
    kernel = {"torch": "{}.weight", "flax": "params/{}/kernel", "keras": "{}/vars/0", "jaxcnn": "{}/kernel"}[
        content.kind
    ]
    for head in entry.published.heads:
        array = content.arrays.get(kernel.format(namer(tuple(head.split("/")))))
        if array is not None and array.ndim > 1:
            return array.shape[0 if content.kind == "torch" else -1]
    return None


def parameters(content: Content) -> int:
    """The numbers in a file's floating-point arrays, without running statistics."""
    statistics = ("/mean", "/var") if content.kind == "jaxcnn" else ("running_mean", "running_var")
    return sum(
        array.size
        for name, array in content.arrays.items()
        if jnp.issubdtype(array.dtype, jnp.floating)
        and not name.endswith(statistics)
        and not name.startswith("batch_stats/")
    )
