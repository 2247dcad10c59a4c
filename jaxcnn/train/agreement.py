"""What decides a run's figures: the same in all its processes, and the same when it goes on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.data.stream import Stream
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
from jaxcnn.runs import identity

PyTree = Any
# Of config.json; what else is in it says where things lie, or follows from these.
_DECIDES = (
    "epochs", "batch_size", "seed", "patience", "accumulate", "ema", "loss_scale", "parallel", "image", "inputs",
    "extra", "classes", "preprocess",
)  # fmt: skip
_PER_HOST = ("data_dir", "weights", "model", "data", "examples")  # paths, which may differ; the data, compared below


def check_unchanged(config: Mapping[str, Any], now: Mapping[str, Any], path: Any) -> None:
    """Compares the settings of a run with those it is to go on with. What config.json does not have yet is passed over.

    Raises:
      UserError: for one that decides the figures and is not what it was.
    """
    for name in _DECIDES:
        if name in config and name in now and _rounded(config[name]) != _rounded(now[name]):
            was, became = (_short(values[name]) for values in (config, now))
            changed = f"{name}={was}, not {became}" if was != became else f"other {name}"
            raise UserError(f"{path} was made with {changed}; start another run for that")


def check_devices(config: Mapping[str, Any], on: OneDevice, path: Any) -> str | None:
    """What differs between the devices of a run and those it is to go on with, in a sentence; None for nothing.

    Raises:
      UserError: for another number of devices with `pmap`, where each has random numbers of its own.
    """
    was, platform = config.get("devices", on.size), config.get("platform", jax.default_backend())
    if was != on.size and on.form == "pmap":
        raise UserError(
            f"{path} was made with pmap on {was} devices, each with its own random numbers; it goes on with as many, "
            f"not {on.size}"
        )
    if (was, platform) == (on.size, jax.default_backend()):
        return None
    return (
        f"{path} was made on {was} devices ({platform}) and goes on with {on.size} ({jax.default_backend()}): sums are "
        "rounded in another order, and the figures may differ in the last digits"
    )


def shared_facts(config: Mapping[str, Any], **data: Any) -> dict[str, Any]:
    """What has to be the same in all processes: the settings, and each of the data by its count and hash; JSON."""
    settings = {name: value for name, value in config.items() if name not in _PER_HOST}
    return settings | {f"the {name} data": identity.of_data(found) for name, found in data.items() if found is not None}


def program(step: Any, state: PyTree, size: int, data: Any, on: OneDevice) -> str:
    """The first digits of the SHA-256 of the compiled step: of network, loss, optimizer and all their constants."""
    if isinstance(data, Stream):
        example = np.zeros((1, *data.image), np.uint8), np.zeros(1, np.int32)
    else:
        example = data.inputs, data.labels
    apart = (on.size // on.shard[1],) if on.form == "pmap" else ()  # the devices of a process, each with its own

    def of_state(x: Any) -> Any:
        return jax.ShapeDtypeStruct((*apart, *x.shape), x.dtype)

    def of_batch(x: Any) -> Any:
        return jax.ShapeDtypeStruct((*apart, size // on.size if apart else size, *x.shape[1:]), x.dtype)

    traced = step.trace(jax.tree.map(of_state, state), jax.tree.map(of_batch, example))
    # A call that is divided among devices stands in the lowered program without its settings, by a number of this
    # process: the settings are in the traced one, which has no constants.
    text = re.sub('0x[0-9a-f]+|backend_config = "[0-9]+"', "", f"{traced.jaxpr}{traced.lower().as_text()}")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    """As JSON has it, with numbers to six digits: a mean may be rounded in another way on another machine."""
    return json.loads(json.dumps(value), parse_float=lambda text: f"{float(text):.6g}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
