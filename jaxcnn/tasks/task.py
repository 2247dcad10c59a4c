"""What a network is for: how it is trained, measured and asked. Commands and `train` know nothing else of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from jaxcnn import data
from jaxcnn.data.datasets import lookup
from jaxcnn.errors import UserError
from jaxcnn.runs.primary import LOSS, Primary
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.objective import Objective

Data = Any
"""A `Dataset`, `Examples` or a `Stream`."""
Row = dict[str, Any]
Facts = Mapping[str, Any]
"""What a task has to know of the training data to build its objective and its model: JSON, kept in config.json."""


class Task:
    """A kind of question that networks answer about images, or sentences. A task is a subclass in a folder of its own.

    `load`, `facts` and `objective` are what a training asks for, in this order; `evaluate` and `predict` are asked of a
    trained network, with the facts of its run, so that no training data is read again.

    Attributes:
      name: segment, detect, ...
      about: what is asked, in a few words.
      kind: the kind of data, a key of `jaxcnn.data.datasets.KINDS`.
      unit: what the data consist of, in the plural.
      defaults: the recipe's data, batch_size and epochs where a recipe does not say them.
      metric: the figure by which results are compared, and whether it is maximized.
      chooses: whether `metric` is measured after each epoch and chooses the best one; else the loss does.
    """

    name: str
    about: str
    kind: str = "images"
    unit: str = "images"
    defaults: Recipe = Recipe()
    metric: Primary = LOSS
    chooses: bool = True

    @property
    def primary(self) -> Primary:
        """The figure that chooses the best epoch."""
        return self.metric if self.chooses else LOSS

    # --- for a training

    def completed(self, recipe: Recipe) -> Recipe:
        """The recipe with the defaults of the task where it says nothing.

        Raises:
          UserError: for settings that the task has no use for.
        """
        for name, value in (("stream", recipe.stream), ("weights", recipe.weights), ("ensemble", recipe.ensemble)):
            if value:
                raise UserError(f"--{name} is for networks that name the class of an image; {recipe.model} does not")
        if recipe.augment not in ("auto", "none"):
            raise UserError(f"--augment {recipe.augment}: for {self.about}, choose auto or none")
        return self.with_defaults(recipe)

    def with_defaults(self, recipe: Recipe) -> Recipe:
        """The recipe with the task's name, and its data, batch size and epochs where it says nothing."""
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
        """Training, validation and test data. A set without a validation split has a share of its training data held
        out; there is no validation where the recipe's share is 0."""
        train, val = self.load(recipe, recipe.training_split), None
        if recipe.validation and lookup(str(recipe.data), self.kind).validation:
            val = self.load(recipe, "validation")
        elif recipe.validation:
            train, val = train.hold_out(recipe.validation)
        return train, val, self.load(recipe, "test")

    def facts(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        """What the objective and the model have to know of the training data."""
        return {"classes": list(train.classes)}

    def model_options(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        """Arguments of the model, beside `classes`, that the training data decide: the size of a vocabulary."""
        return {}

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        """What is minimized and measured."""
        raise NotImplementedError

    def optimizer(self, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        """The optimizer, with a rule that the parameters keep, such as a largest norm."""
        return optimizer

    def epochs(self, recipe: Recipe, steps_per_epoch: int) -> int:
        """The number of epochs of a recipe that does not say it."""
        raise UserError(f"--epochs is missing: the task {self.name} has no number of its own")

    # --- for a trained network

    def recorded(self, config: Mapping[str, Any]) -> Facts:
        """The facts in a run's config.json. Runs of earlier versions have them at its top level, or lack them."""
        return config.get("facts") or config

    def evaluation(self, recipe: Recipe, facts: Facts) -> Objective:
        """What `evaluate` measures: the objective, with what is measured on a test set."""
        return self.objective(recipe, facts).for_test()

    def adapted(self, found: Data, trained: TrainedModel) -> Data:
        """Other data than the run's own as the network can take it, with its own vocabulary for instance."""
        return found

    def load_for(self, trained: TrainedModel, name: str, split: str, data_dir: Path | None) -> Data:
        """The data of a split for a trained network.

        Raises:
          UserError: when it has another number of classes than the network.
        """
        recipe = Recipe.of(trained.config, str(trained.config.get("run", "config.json")))
        found = self.load(dataclasses.replace(recipe, data=name, data_dir=data_dir), split)
        if len(found.classes) != len(trained.classes):
            raise UserError(f"{name} has {len(found.classes)} classes; the run has {len(trained.classes)}")
        return self.adapted(found, trained)

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        """A row for each file or sentence: `text` for a reader, and what a program wants to know.

        Pictures are written to the folder `out`.
        """
        raise NotImplementedError
