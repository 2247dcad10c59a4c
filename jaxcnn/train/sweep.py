"""`sweep`: a training for each combination of some settings."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxcnn.errors import UserError, first_line
from jaxcnn.format import duration, first_sentence, plural, printable
from jaxcnn.metrics import name_of
from jaxcnn.runs import groups
from jaxcnn.runs.folder import Run
from jaxcnn.runs.grid import Over, recipes
from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.table import RunSummary, read
from jaxcnn.train.train import completed, prepare

_ANYWHERE = ("data_dir",)  # settings that a run may be continued without


@dataclass(frozen=True, eq=False, repr=False)
class SweepResult:
    """What `sweep` returns. Printed, and in a notebook, it is a table: the best combination of settings first.

    Attributes:
      runs: the summary of each run, in the order of the grid.
      recipes: their recipes.
    """

    runs: tuple[RunSummary, ...]
    recipes: tuple[Recipe, ...]

    @property
    def groups(self) -> list[groups.Group]:
        """The combinations of settings, with the runs of each for all seeds and folds; the best mean first."""
        return groups.grouped(self.runs)

    @property
    def best(self) -> Recipe:
        """The recipe of the best combination, with its first seed and fold.

        Raises:
          UserError: if no run is complete.
        """
        first = self.groups[0]
        if first.mean(groups.compared(self.groups)) is None:
            raise UserError("no run of the sweep is complete: there is no best one")
        return self.recipes[self.runs.index(first.runs[0])]

    @property
    def failures(self) -> dict[str, str]:
        """Why runs failed, by their names."""
        return {run.path.name: run.failure for run in self.runs if run.failure is not None}

    def draw(self) -> Any:
        """The metric against each varied setting, as a matplotlib figure; see `jaxcnn.inspect.settings.by_setting`."""
        return groups.drawn(self.runs)

    def __repr__(self) -> str:
        return groups.group_table(self.runs)

    def _repr_html_(self) -> str:
        return groups.group_html(self.runs)


def sweep(
    recipe: Recipe,
    over: Over | None = None,
    *,
    seeds: int = 1,
    folds: int | None = None,
    random: int | None = None,
    runs: str | Path | None = None,
    process: Process | None = None,
    show: bool = True,
) -> SweepResult:
    """Trains a recipe with each combination of values of some settings, one run after the other.

        cnn.train.sweep(Recipe("lenet5", "digits", epochs=5), {"lr": [0.001, 0.01], "optimizer": "adam,momentum"})

    With `runs`, each is a run in that folder, named by its settings. A sweep that was stopped is continued by the same
    call: complete runs are not trained again, others are resumed, and failed ones are tried again. More values, seeds
    or random combinations add runs. Several processes may share the folder: each takes runs that no other one trains.

    A run that fails, since its loss is not finite for instance, does not end the sweep.

    Args:
      recipe: the settings that all runs share.
      over: the values of the settings that vary, by name; also as text: `"0.001,0.01"`; `"affine|flip,crop"` for values
        with commas; `"1e-4..1e-1"` for a range, which is drawn log-uniformly (from 0: uniformly) and needs `random`.
      seeds: the number of seeds of each combination, from the recipe's on.
      folds: the number of folds: each combination is trained once for each fold of a cross-validation.
      random: the number of random combinations to train, instead of all.
      runs: the folder of the runs. Nothing is written when None.
      process: devices and threads; all devices when None.
      show: whether to print a line for each run.

    Raises:
      UserError: if a recipe cannot be used, or a run in the folder was made with other settings; before any training.
      Interrupted: after Ctrl-C or SIGTERM, once the current run has been saved.
    """
    chosen = recipes(recipe, over, seeds=seeds, folds=folds, random=random)
    checked = {name: completed(each) for name, each in chosen.items()}
    folder = None if runs is None else Path(runs).expanduser().absolute()
    if folder is not None:
        for name, each in checked.items():
            _check_same(folder / name, each)
    found: list[RunSummary] = []
    clock = _Clock(len(chosen))
    for number, (name, each) in enumerate(chosen.items(), 1):
        done = None if folder is None else _done(folder / name)
        summary = done or _trained(each, name, folder, process or Process())
        found.append(summary)
        if show:
            print(_line(number, len(chosen), summary, clock.left(number, trained=done is None)), flush=True)
    return SweepResult(tuple(found), tuple(chosen.values()))


class _Clock:
    """The time left, by the mean duration of the runs that this call trained."""

    def __init__(self, count: int):
        self._count, self._done, self._spent, self._mark = count, 0, 0.0, time.monotonic()

    def left(self, number: int, trained: bool) -> float | None:
        now = time.monotonic()
        if trained:
            self._done, self._spent = self._done + 1, self._spent + now - self._mark
        self._mark = now
        return self._spent / self._done * (self._count - number) if self._done and number < self._count else None


def _line(number: int, count: int, run: RunSummary, left: float | None) -> str:
    """A line for a run that is complete, failed, or trained by another process."""
    row = run.row()
    figures = [
        f"{part} {name_of(run.measure.primary)} {run.measure.shown(row[part])}"
        for part in ("validation", "test")
        if row[part] is not None and run.failure is None
    ]
    why = f": {first_sentence(run.failure)}" if run.failure else ""
    state = [] if run.state == "complete" else [run.state + why]
    took = [duration(row["seconds"])] if row["seconds"] is not None else []
    remaining = [f"{duration(left)} left"] if left is not None else []
    parts = "  ".join([run.path.name, *state, *figures, *took, *remaining])
    return printable(f"{number:>{len(str(count))}}/{count}  {parts}")


def _check_same(folder: Path, recipe: Recipe) -> None:
    """Checks that a run in the sweep's folder was made with this recipe."""
    found = read(folder)
    if found is None:
        return
    was, now = found.config, recipe.as_config()
    for name, value in now.items():
        if name in _ANYWHERE or (name == "epochs" and value is None) or name not in was or was[name] == value:
            continue
        raise UserError(
            f"{folder} was made with {name}={was[name]}, not {value}: choose another folder for the runs of this sweep"
        )


def _done(folder: Path) -> RunSummary | None:
    """The summary of a run that is complete, or that another process is training."""
    found = read(folder)
    if found is None or found.state not in ("complete", "running", "running?"):
        return None
    return found if found.state != "complete" or Run(folder).pictured else None


def _trained(recipe: Recipe, name: str, runs: Path | None, process: Process) -> RunSummary:
    """Trains a recipe; the summary has the reason if that failed."""
    folder = Path(name) if runs is None else runs / name
    begun = runs is not None and (folder / "config.json").is_file()
    run = None if runs is None else Run(folder, resume=begun, **process.written())
    config, history, result, failure = recipe.as_config(), [], None, None
    try:
        work = prepare(recipe, process, begun)
        config = {**work.config, **dataclasses.asdict(work.task.primary)}
        fitted = work.fit(run, show=False)
        history, result = fitted.history, fitted.result
    except (UserError, jax.errors.JaxRuntimeError) as error:  # the latter if memory is short
        failure = first_line(error)
    written = None if runs is None else read(folder)
    if written is not None and (failure is None or written.state == "running"):
        return written
    if written is not None:
        return dataclasses.replace(written, failure=failure)
    return RunSummary(folder, config, history, result, failure=failure)


def outcome(result: SweepResult) -> str:
    """How many runs are complete, and how many failed."""
    counts = {state: sum(run.state == state for run in result.runs) for state in ("complete", "failed")}
    total = len(result.runs)
    other = total - sum(counts.values())
    parts = [f"{counts['complete']} of {total} {plural(total, 'run')} complete"]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    parts += [f"{other} in other processes"] if other else []
    return ", ".join(parts)
