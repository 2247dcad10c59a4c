"""`train`: what `jaxcnn train` does, from a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax

from jaxcnn import __version__, models, tasks, weights
from jaxcnn.core import Layer
from jaxcnn.data.preprocess import inputs_of
from jaxcnn.devices import OneDevice
from jaxcnn.errors import UserError
from jaxcnn.runs import identity
from jaxcnn.runs.folder import Run
from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data, Task
from jaxcnn.train.checks import batch_of
from jaxcnn.train.fit import FitResult, fit
from jaxcnn.train.optimizers import DECAYS, make_optimizer
from jaxcnn.train.rates import RateSearch, find_learning_rate
from jaxcnn.train.training import Callback


def train(
    recipe: Recipe,
    run: str | Path | Run | None = None,
    *,
    process: Process | None = None,
    callbacks: Sequence[Callback] = (),
    show: bool = True,
) -> FitResult:
    """Trains by a recipe, with exactly the results of `jaxcnn train`: `train(Recipe("lenet5", "mnist"), "runs/five")`.

    Args:
      recipe: the model, data and settings. `dataclasses.replace(recipe, seed=3)` changes a setting.
      run: the folder to write, or a `Run` with its settings, which may be resumed. Nothing is written when None.
      process: devices and threads; all devices when None.
      callbacks: as for `fit`.
      show: whether to show progress.

    Raises:
      UserError: if the recipe, data or folder cannot be used.
      TrainingError, Interrupted: as for `fit`.
    """
    resume = isinstance(run, Run) and run.resume
    return prepare(recipe, process or Process(), resume).fit(run, callbacks, show)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe with its data and network: the arguments of `fit`.

    Attributes:
      recipe: the recipe, with the defaults of its task.
      task: its task.
      train, val, test: the data; `val` chooses the best epoch and may be None.
      model: the network, before the recipe's precision is applied.
      objective, optimizer: those of the training.
      epochs, steps_per_epoch: the length of the training.
      variables: the initial variables; None for new ones.
      devices: the devices that share a batch; None for one device.
      config: the content of config.json.
    """

    recipe: Recipe
    task: Task
    train: Data
    val: Data | None
    test: Data
    model: Layer
    objective: Objective
    optimizer: optax.GradientTransformation
    epochs: int
    steps_per_epoch: int
    variables: tuple[Any, Any] | None
    devices: OneDevice | None
    config: dict[str, Any]

    def fit(self, run: str | Path | Run | None, callbacks: Sequence[Callback] = (), show: bool = True) -> FitResult:
        """Trains and writes the run's folder."""
        recipe = self.recipe
        if run is not None:
            run = run if isinstance(run, Run) else Run(run)
            run.asked = {**self.config, **run.asked}
        return fit(
            recipe.computed(self.model), self.train, self.objective, validation=self.val, test=self.test,
            optimizer=self.optimizer, epochs=self.epochs, batch_size=int(recipe.batch_size or 0), seed=recipe.seed,
            variables=self.variables, patience=recipe.patience, accumulate=recipe.accumulate, ema=recipe.ema,
            devices=self.devices, run=run, callbacks=callbacks, show=show,
        )  # fmt: skip


def task_of(recipe: Recipe) -> Task:
    """The task that a recipe names, or else its model's task.

    Raises:
      UserError: if the task or model is unknown.
    """
    if ":" not in recipe.model and recipe.model not in models.MODELS:
        raise models.unknown_model(recipe.model)
    entry = models.MODELS.get(recipe.model)
    return tasks.find(recipe.task or (entry.task if entry else tasks.CLASSIFY))


def prepare(recipe: Recipe, process: Process, resume: bool = False) -> Prepared:
    """Loads the data of a recipe and makes its network.

    Args:
      resume: whether a run is resumed, so that the recipe's initial weights are not loaded.

    Raises:
      UserError: if the recipe cannot be used.
    """
    task = task_of(recipe)
    recipe = completed(recipe)
    if recipe.weights is not None and not resume:
        weights.files.check_path(recipe.weights)
        task.check_weights(recipe)
    devices = process.spread(recipe.parallel)
    threads = {"workers": process.workers} if recipe.stream else {}
    train, val, test = task.splits(recipe, **threads)
    facts = task.facts(recipe, train)
    options = {**task.model_options(recipe, train), **recipe.model_options}
    model = recipe.build(len(train.classes), options)
    steps_per_epoch = max(1, len(train) // int(recipe.batch_size or 1))
    epochs = recipe.epochs or task.epochs(recipe, steps_per_epoch)
    objective = dataclasses.replace(task.objective(recipe, facts), loss_scale=recipe.precision == "float16")
    variables = None
    if recipe.weights is not None and not resume:
        example, _ = batch_of(objective, train, 1)
        inputs = jax.eval_shape(lambda example: inputs_of(objective.inputs, example), example)
        key = jax.random.key(recipe.seed)
        variables = weights.load(model, recipe.weights, input=inputs, fresh=task.fresh(recipe), key=key)
    config = {
        **recipe.as_config(), "model_options": options, "code_sha256": identity.of_code(recipe.model), "epochs": epochs,
        "version": __version__, "facts": facts,
    }  # fmt: skip
    if not task.chooses:
        config["tested"] = dataclasses.asdict(task.metric)
    optimizer = task.optimizer(optimizer_of(recipe, epochs, steps_per_epoch))
    return Prepared(
        recipe, task, train, val, test, model, objective, optimizer, epochs, steps_per_epoch, variables, devices,
        config,
    )  # fmt: skip


def completed(recipe: Recipe) -> Recipe:
    """The recipe with the defaults of its task and its optimizer.

    Raises:
      UserError: if a setting cannot be used, as far as that is known before the data are read.
    """
    recipe = task_of(recipe).completed(recipe)
    check(recipe)
    if recipe.weight_decay is None:
        recipe = dataclasses.replace(recipe, weight_decay=DECAYS.get(recipe.optimizer, 0.0))
    return recipe


def check(recipe: Recipe) -> None:
    """Checks the settings that can be checked before the data are read."""
    if not 0 <= recipe.validation < 1:
        raise UserError(f"--validation is a share from 0 to below 1, got {recipe.validation}")
    if (recipe.batch_size or 0) < 1 or (recipe.epochs is not None and recipe.epochs < 1):
        raise UserError(f"--batch-size {recipe.batch_size} and --epochs {recipe.epochs} should be at least 1")
    if recipe.limit is not None and recipe.limit < 1:
        raise UserError(f"--limit {recipe.limit} should be at least 1 example")
    if not 0 <= recipe.label_smoothing < 1:
        raise UserError(f"--label-smoothing is a share from 0 to below 1, got {recipe.label_smoothing}")
    if recipe.optimizer == "muon" and recipe.ensemble:
        raise UserError("--optimizer muon takes a kernel as one matrix, and those of an --ensemble are several")
    _ = recipe.model_options, recipe.shape, recipe.part
    make_optimizer(recipe.optimizer, recipe.lr, recipe.schedule, 1, clip=recipe.clip)


def optimizer_of(recipe: Recipe, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of a recipe, for a training of this length."""
    return make_optimizer(
        recipe.optimizer, recipe.lr, recipe.schedule, epochs * steps_per_epoch, recipe.weight_decay,
        warmup=round(recipe.warmup * steps_per_epoch), clip=recipe.clip,
    )  # fmt: skip


def learning_rates(recipe: Recipe, low: float = 1e-6, high: float = 10.0, steps: int = 200) -> RateSearch:
    """Looks for a learning rate for a recipe, as `jaxcnn lr` does; see `find_learning_rate`.

    Raises:
      UserError: if the recipe or its data cannot be used.
    """
    work = prepare(recipe, Process())
    recipe = work.recipe

    def optimizer(rate: optax.Schedule) -> optax.GradientTransformation:
        made = make_optimizer(recipe.optimizer, rate, weight_decay=recipe.weight_decay, clip=recipe.clip)
        return work.task.optimizer(made)

    return find_learning_rate(
        recipe.computed(work.model), work.train, work.objective, optimizer=optimizer, low=low, high=high, steps=steps,
        batch_size=int(recipe.batch_size or 0), seed=recipe.seed, variables=work.variables,
    )  # fmt: skip
