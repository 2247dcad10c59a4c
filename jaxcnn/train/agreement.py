"""Checks that all processes of a run, and a resumed run, have the settings that decide its results."""

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

PyTree = Any
# Keys of config.json; its other entries are paths, or follow from these.
_DECIDES = (
    "epochs", "batch_size", "seed", "patience", "accumulate", "ema", "loss_scale", "parallel", "image", "inputs",
    "extra", "classes", "preprocess",
)  # fmt: skip
_PER_HOST = ("data_dir", "weights", "model", "data", "examples")  # paths, which may differ; the data, compared below


def check_unchanged(config: Mapping[str, Any], now: Mapping[str, Any], path: Any) -> None:
    """Checks that a run is resumed with its settings. Keys that an older config.json lacks are skipped.

    Raises:
      UserError: if a setting that decides the results has changed.
    """
    for name in _DECIDES:
        if name in config and name in now and _rounded(config[name]) != _rounded(now[name]):
            was, became = (_short(values[name]) for values in (config, now))
            changed = f"{name}={was}, not {became}" if was != became else f"other {name}"
            raise UserError(f"{path} was made with {changed}; start another run for that")


def check_devices(config: Mapping[str, Any], on: OneDevice, path: Any) -> str | None:
    """A sentence about how the devices of a resumed run differ from the former ones; None if they do not.

    Raises:
      UserError: if the number of devices differs with `pmap`, where each device has different random numbers.
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


def shared_facts(config: Mapping[str, Any], examples: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in all processes: the settings, and each dataset's count and hash. JSON.

    Args:
      examples: `identity.of_data` of each dataset, by the names `train`, `validation` and `test`.
    """
    settings = {name: value for name, value in config.items() if name not in _PER_HOST}
    named = {"training" if name == "train" else name: found for name, found in examples.items()}
    return settings | {f"the {name} data": found for name, found in named.items() if found is not None}


def program(step: Any, state: PyTree, size: int, data: Any, on: OneDevice) -> str:
    """The first digits of the SHA-256 of the lowered step: network, loss, optimizer and all constants."""
    if isinstance(data, Stream):
        example: tuple[Any, ...] = np.zeros((1, *data.image), np.uint8), np.zeros(1, np.int32)
    else:
        example = data.inputs, data.labels
        if data.weights is not None:
            example = *example, data.weights
    split = (on.size // on.shard[1],) if on.form == "pmap" else ()  # pmap: an axis for the devices of a process

    def of_state(x: Any) -> Any:
        return jax.ShapeDtypeStruct((*split, *x.shape), x.dtype)

    def of_batch(x: Any) -> Any:
        return jax.ShapeDtypeStruct((*split, size // on.size if split else size, *x.shape[1:]), x.dtype)

    traced = step.trace(jax.tree.map(of_state, state), jax.tree.map(of_batch, example))
    # The lowered program refers to a sharded call by a number that depends on the process; the call's settings are in
    # the traced program, which in turn has no constants.
    text = re.sub('0x[0-9a-f]+|backend_config = "[0-9]+"', "", f"{traced.jaxpr}{traced.lower().as_text()}")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    """The value as JSON with numbers to six digits: means may be rounded differently on another machine."""
    return json.loads(json.dumps(value), parse_float=lambda text: f"{float(text):.6g}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
