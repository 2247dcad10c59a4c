"""What a run that goes on takes from its config.json, and what several processes compare before they begin."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from pathlib import Path
from typing import Any

from jaxcnn import __version__
from jaxcnn.cli.options import Train, usual_augment
from jaxcnn.errors import UserError

# What a run that goes on may do in another way: it says how its process works, not what is computed.
_NAMES = "run resume devices distributed coordinator processes process save_every keep tensorboard"
_NAMES += " profile workers trust"
OF_THE_PROCESS = frozenset(_NAMES.split())


def fresh(given: Train) -> tuple[Train, Any]:
    if given.run is None:
        return given, None
    from jaxcnn.devices import from_first
    from jaxcnn.train import Run

    path = given.run
    return given, Run(from_first(lambda: str(Run.new(path).path)))


def resumed(given: Train) -> tuple[Train, Any]:
    """The run's own settings; what was given beside them has to agree."""
    from jaxcnn.devices import from_first
    from jaxcnn.runs import lock
    from jaxcnn.runs.identity import check_code
    from jaxcnn.train import Run

    if given.run is None:
        raise UserError("--resume goes on with a run: say which, --run FOLDER")
    path = given.run

    def read() -> dict[str, Any]:
        found = Run.open(path)
        config = found.config
        lock.refuse(found.path / lock.NAME)  # before the data are read
        found.check()
        _check_types(found.path, config)
        return config

    config = from_first(read)
    folder = Run(path)
    options = dataclasses.replace(given)
    named: frozenset[str] = getattr(given, "named", frozenset())
    for f in dataclasses.fields(Train):
        if f.name in OF_THE_PROCESS or f.name not in config:
            continue
        asked, was = getattr(absolute(given), f.name), config[f.name]
        is_asked = f.name in named or asked != f.default
        if f.name == "augment" and asked == "auto" and was == usual_augment(config.get("data")):
            asked = was
        if is_asked and str(asked) != str(was) and f.name != "data_dir":
            option = "--" + f.name.replace("_", "-") if f.name != "model" else "model"
            raise UserError(f"{given.run} was made with {option} {was}, not {asked}; start another run for that")
        if f.name != "data_dir" or asked is None:
            setattr(options, f.name, Path(was) if f.name in ("data_dir", "weights") and was else was)
    options.devices = _devices(given, config)
    trusted = given.trust or given.model != Train.model  # who names the file knows what it is
    from_first(lambda: check_code(folder.path, config, trusted))
    return options, folder


def _devices(given: Train, config: dict[str, Any]) -> int | None:
    """How many devices a run goes on with: as many as it had, where they are there and no other number is asked for.
    `fit` says what another number changes."""
    import jax

    was = config.get("devices")
    if given.devices is not None or was is None or jax.process_count() > 1 or was > jax.device_count():
        return given.devices
    return was


def _check_types(run: Path, config: dict[str, Any]) -> None:
    """Whether the settings in a config.json have the types of their options.

    Raises:
      UserError: for the first one that has not.
    """
    from jaxcnn.runs.record import named

    for name, expected in typing.get_type_hints(Train).items():
        kinds = (str if kind is Path else kind for kind in typing.get_args(expected) or (expected,))
        if name in config and not any(_has_type(config[name], kind) for kind in kinds):
            said = re.sub(r"<class '(\w+)'>|typing\.|pathlib\.", r"\1", str(expected))
            raise UserError(f"{run / 'config.json'}: {name} is {named(config[name])}, expected {said}")
    if "model" not in config:
        raise UserError(f"{run / 'config.json'} does not say 'model': the run cannot go on")


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type, or one of a Literal's words."""
    if not isinstance(kind, type):
        return value == kind
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float)) if kind is float else isinstance(value, kind)


def told(given: Train) -> dict[str, Any]:
    """What has to be the same in all processes before they do anything together: the options and the code."""
    import jax

    from jaxcnn import devices

    # Paths may differ between hosts; what is read from them is compared later.
    own = OF_THE_PROCESS - {"resume", "devices"} | {"data_dir", "weights", "model", "data"}
    options = {"--" + f.name.replace("_", "-"): getattr(given, f.name) for f in dataclasses.fields(given)
               if f.name not in own}  # fmt: skip
    names = {name: Path(str(getattr(given, name))).name for name in ("model", "data")}
    versions = {"the version of jaxcnn": __version__, "the version of JAX": jax.__version__}
    return {**versions, "the code of jaxcnn": devices.code_hash(), **names, **options}


def absolute(options: Train) -> Train:
    """The options with absolute paths, which stay right when `evaluate` is called from another folder."""
    model, data = options.model, options.data
    if ":" in model:
        file, _, function = model.rpartition(":")
        model = f"{Path(file).expanduser().absolute()}:{function}"
    if data and (os.sep in data or data.startswith(("~", "."))):
        data = str(Path(data).expanduser().absolute())
    paths = {name: getattr(options, name) for name in ("data_dir", "weights")}
    absolute = {name: path and path.expanduser().absolute() for name, path in paths.items()}
    return dataclasses.replace(options, model=model, data=data, **absolute)
