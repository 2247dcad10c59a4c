"""The recipe that the options of `jaxcnn train` describe: a new one, a file's, or that of a resumed run."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from jaxcnn import __version__
from jaxcnn.cli.options import Given, Train
from jaxcnn.errors import UserError
from jaxcnn.runs.named import named_recipe
from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe

_PATHS = frozenset(("data_dir", "weights", "model", "data"))  # may differ between hosts; compared later


def process_of(given: Process) -> Process:
    """The options of the process."""
    return Process(**{field.name: getattr(given, field.name) for field in dataclasses.fields(Process)})


def recipe_of(given: Given) -> Recipe:
    """The recipe of the options, which override those of `--recipe` or `--config`.

    Raises:
      UserError: for both of these, or if one cannot be used.
    """
    fields = dataclasses.fields(Recipe)
    if given.config is None and given.recipe is None:
        return Recipe(**{field.name: getattr(given, field.name) for field in fields})
    if given.config is not None and given.recipe is not None:
        raise UserError("--recipe and --config both say the settings: give one of them")
    base = Recipe.read(given.config) if given.config is not None else named_recipe(str(given.recipe)).recipe
    own = {field.name: getattr(given, field.name) for field in fields if field.name in given.given}
    return dataclasses.replace(base, **own)


def resumed(given: Train) -> tuple[Recipe, Process, Any]:
    """The recipe, process and folder of a resumed run; other options that are given have to agree with its recipe.

    Raises:
      UserError: if they do not agree, or the run in the folder cannot be resumed.
    """
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
        if "model" not in config:
            raise UserError(f"{found.path / 'config.json'} does not say 'model': the run cannot go on")
        Recipe.of(config, str(found.path / "config.json"))
        return config

    config = from_first(read)
    process = process_of(given)
    folder = Run(path, resume=True, **process.written())
    was, asked = Recipe.of(config), recipe_of(given).absolute()
    recipe = dataclasses.replace(was, data_dir=asked.data_dir or was.data_dir)
    for field in dataclasses.fields(Recipe):
        if field.name in given.given and field.name in config and field.name != "data_dir":
            _check_same(given.run, field.name, getattr(asked, field.name), getattr(was, field.name), was)
    trusted = given.trust or given.model != Train.model  # naming the file again means that the user trusts it
    from_first(lambda: check_code(folder.path, config, trusted))
    return recipe, dataclasses.replace(process, devices=_devices(given, config)), folder


def _check_same(run: Path, name: str, asked: Any, was: Any, recipe: Recipe) -> None:
    """Checks that an option has the value that the run was made with."""
    from jaxcnn import tasks
    from jaxcnn.tasks.classification.task import usual_augment

    if name == "augment" and asked == "auto" and was == usual_augment(recipe.data):
        return
    if name == "task" and None not in (asked, was) and tasks.find(asked) is tasks.find(was):
        return
    if str(asked) != str(was):
        option = "model" if name == "model" else "--" + name.replace("_", "-")
        raise UserError(f"{run} was made with {option} {was}, not {asked}; start another run for that")


def _devices(given: Train, config: dict[str, Any]) -> int | None:
    """The number of devices of a resumed run: as many as before, if they are available and no other number is given.
    `fit` warns about what another number changes."""
    import jax

    was = config.get("devices")
    if given.devices is not None or was is None or jax.process_count() > 1 or was > jax.device_count():
        return given.devices
    return int(was)


def same_in_all(given: Train) -> dict[str, Any]:
    """What must be the same in all processes from the start: the options and the code."""
    import jax

    from jaxcnn import devices

    recipe = recipe_of(given)
    options = {"--" + field.name.replace("_", "-"): getattr(recipe, field.name) for field in dataclasses.fields(recipe)
               if field.name not in _PATHS}  # fmt: skip
    options |= {"--resume": given.resume, "--devices": given.devices}
    names = {name: os.path.basename(str(getattr(recipe, name))) for name in ("model", "data")}
    versions = {"the version of jaxcnn": __version__, "the version of JAX": jax.__version__}
    return {**versions, "the code of jaxcnn": devices.code_hash(), **names, **options}
