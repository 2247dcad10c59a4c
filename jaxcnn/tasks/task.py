"""The interface of a task: how its networks are trained, evaluated and used for prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from jaxcnn import data, weights
from jaxcnn.data.datasets import lookup
from jaxcnn.errors import UserError
from jaxcnn.runs.primary import LOSS, Primary
from jaxcnn.runs.recipe import Recipe, words
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.objective import Objective

Data = Any
"""A `Dataset`, `Examples` or a `Stream`."""
Row = dict[str, Any]
Facts = Mapping[str, Any]
"""What objective and model need to know of the training data: JSON, kept in config.json."""


class Task:
    """The base class of tasks. Each task is a subclass in a separate folder.

    A training calls `load`, `facts` and `objective`, in this order. `evaluation` and `predict` are for a trained
    network, with the facts of its run, so that no training data is read again.

    Attributes:
      name: segmentation, detection, ...
      about: what the network predicts, in a few words.
      kind: the kind of data, a key of `jaxcnn.data.datasets.KINDS`.
      unit: what one example is called, in the plural.
      defaults: a recipe with the default data, batch_size and epochs.
      metric: the metric that compares results, and whether it is maximized.
      transfers: whether a network can begin with the weights of another run.
      anew: the layers of a network with initial weights that begin with new ones all the same, unless a recipe names
        others.
      chooses: whether `metric` is measured after each epoch and chooses the best epoch; else the loss does.
    """

    name: str
    about: str
    kind: str = "images"
    unit: str = "images"
    defaults: Recipe = Recipe()
    metric: Primary = LOSS
    chooses: bool = True
    transfers: bool = True
    anew: tuple[str, ...] = ()

    @property
    def primary(self) -> Primary:
        """The metric that chooses the best epoch."""
        return self.metric if self.chooses else LOSS

    # --- for a training

    def completed(self, recipe: Recipe) -> Recipe:
        """The recipe with the task's defaults for missing settings.

        Raises:
          UserError: if a setting does not apply to the task.
        """
        given = {name: getattr(recipe, name) for name in ("stream", "ensemble", "label_smoothing")}
        for name, value in given.items():
            if value:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is for networks that name the class of an image; {recipe.model} does not")
        if recipe.augment not in ("auto", "none"):
            raise UserError(f"--augment {recipe.augment}: for {self.about}, choose auto or none")
        return self.with_defaults(recipe)

    def check_weights(self, recipe: Recipe) -> None:
        """Checks that the task's networks can begin with the recipe's weights.

        Raises:
          UserError: for words, which are numbered by each run's own vocabulary, and for published weights, which need a
            preprocessing that the task does not have.
        """
        if not self.transfers:
            raise UserError(f"--weights: the words of {recipe.model} are numbered by each run's own vocabulary")
        if not weights.is_run(str(recipe.weights)):
            raise UserError(
                f"--weights {recipe.weights}: {recipe.model} begins with the weights of a run of jaxcnn; published "
                "ones are for networks that name the class of an image"
            )

    def fresh(self, recipe: Recipe) -> tuple[str, ...]:
        """The layers that begin with new weights all the same."""
        return self.anew if recipe.fresh == "auto" else words(recipe.fresh)

    def with_defaults(self, recipe: Recipe) -> Recipe:
        """The recipe with the task's name, and the default data, batch size and epochs if they are missing."""
        missing = {
            name: getattr(self.defaults, name)
            for name in ("data", "batch_size", "epochs")
            if getattr(recipe, name) is None
        }
        return dataclasses.replace(recipe, task=self.name, **missing)

    def load(self, recipe: Recipe, split: str) -> Data:
        """The data of a split."""
        return data.load(str(recipe.data), split, recipe.data_dir, recipe.shape, kind=self.kind)

    def splits(self, recipe: Recipe) -> tuple[Data, Data | None, Data]:
        """Training, validation and test data. Without a validation split, a share of the training data is held out;
        there is no validation if the recipe's share is 0. With a `fold`, that part of the training data is."""
        train, val = self.load(recipe, recipe.training_split), None
        if recipe.part:
            train, val = data.fold(train, *recipe.part)
        elif recipe.validation and lookup(str(recipe.data), self.kind).validation:
            val = self.load(recipe, "validation")
        elif recipe.validation:
            train, val = train.hold_out(recipe.validation)
        return train, val, self.load(recipe, "test")

    def facts(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        """What the objective and the model need to know of the training data."""
        return {"classes": list(train.classes)}

    def model_options(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        """Further arguments of the model that follow from the training data, such as the size of a vocabulary."""
        return {}

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        """What is minimized and measured."""
        raise NotImplementedError

    def chosen(self, recipe: Recipe, objective: Objective) -> Objective:
        """The objective with the task's `primary` and `unit`, and without its augmentation if the recipe says none."""
        augment = None if recipe.augment == "none" else objective.augment
        return dataclasses.replace(objective, augment=augment, unit=self.unit, **dataclasses.asdict(self.primary))

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer, with the task's constraints on the parameters, such as a largest norm."""
        return optimizer

    def epochs(self, recipe: Recipe, steps_per_epoch: int) -> int:
        """The default number of epochs."""
        raise UserError(f"--epochs is missing: the task {self.name} has no number of its own")

    # --- for a trained network

    def recorded(self, config: Mapping[str, Any]) -> Facts:
        """The facts in a run's config.json. Runs of earlier versions have them at its top level, or lack them."""
        return config.get("facts") or config

    def evaluation(self, recipe: Recipe, facts: Facts) -> Objective:
        """The objective of `evaluate`: that of the training, with its `test_metrics`."""
        return self.objective(recipe, facts)

    def adapted(self, found: Data, trained: TrainedModel) -> Data:
        """Other data in the form that the network takes, for instance with the network's vocabulary."""
        return found

    def load_for(self, trained: TrainedModel, name: str, split: str, data_dir: Path | None) -> Data:
        """The data of a split for a trained network.

        Raises:
          UserError: if the number of classes is not the network's.
        """
        recipe = Recipe.of(trained.config, "config.json")
        found = self.load(dataclasses.replace(recipe, data=name, data_dir=data_dir), split)
        if len(found.classes) != len(trained.classes):
            raise UserError(f"{name} has {len(found.classes)} classes; the run has {len(trained.classes)}")
        return self.adapted(found, trained)

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        """A row for each file or sentence: `text` for a reader, and the same data for a program.

        Pictures are written to the folder `out`.
        """
        raise NotImplementedError

    def line(self, row: Row) -> str:
        """A row for a reader."""
        return str(row["text"])
