"""A class for an image."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxcnn import data, models, weights
from jaxcnn.data.augment import Augment
from jaxcnn.data.datasets import DATASETS, KINDS
from jaxcnn.data.images import read_image
from jaxcnn.data.preprocess import Preprocess
from jaxcnn.data.stream import read_middle
from jaxcnn.errors import UserError, unknown
from jaxcnn.format import printable
from jaxcnn.losses import Loss, every_output, softmax_cross_entropy
from jaxcnn.metrics import accuracy, top_k
from jaxcnn.runs.primary import ACCURACY
from jaxcnn.runs.recipe import Recipe, words
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data, Facts, Row, Task

_STEPS = 8000  # the default length of a training
_OWN_SIZE = (224, 224)  # of streamed images, for a user's network

# Functions of the side of an image and the number of classes.
AUGMENTATIONS: dict[str, Callable[[int, int], Augment | None]] = {
    "none": lambda side, classes: None,
    "affine": lambda side, classes: data.affine(),
    "flip": lambda side, classes: data.flip,
    "crop": lambda side, classes: data.crop(padding=max(1, side // 8)),  # the 4 of 32 pixels of He et al.
    "rotate": lambda side, classes: data.rotate(15),
    "scale": lambda side, classes: data.scale(),
    "colour": lambda side, classes: data.colour(),
    "cutout": lambda side, classes: data.cutout(max(1, side // 4)),
    "mixup": lambda side, classes: data.mixup(classes),
}


class Classification(Task):
    """A class for an image, by softmax cross-entropy."""

    name = "classification"
    about = "the class of an image"
    defaults = Recipe(data="digits", batch_size=128)
    metric = ACCURACY
    anew = ("head",)

    # --- for a training

    def completed(self, recipe: Recipe) -> Recipe:
        recipe = self.with_defaults(recipe)
        if recipe.augment == "auto":
            recipe = dataclasses.replace(recipe, augment=usual_augment(recipe.data))
        for augmentation in words(recipe.augment):
            if augmentation not in AUGMENTATIONS:
                raise unknown("augmentation", augmentation, AUGMENTATIONS)
        if recipe.ensemble and (recipe.weights or recipe.ensemble < 0):
            raise UserError(
                "--ensemble is a number of networks that start at different weights, and takes no --weights"
            )
        entry = DATASETS.get(str(recipe.data))
        if entry is not None and entry.kind != self.kind:
            raise UserError(
                f"{entry.name} is for other networks than {recipe.model}: {KINDS.get(entry.kind, entry.kind)}"
            )
        return recipe

    def check_weights(self, recipe: Recipe) -> None:
        """Published weights suit, too: `facts` has their preprocessing."""

    def load(self, recipe: Recipe, split: str, workers: int | None = None) -> Data:
        name, size = str(recipe.data), recipe.shape
        if not recipe.stream:
            return data.load(name, split, recipe.data_dir, size, kind=self.kind)
        entry = models.MODELS.get(recipe.model)
        own = (entry.input[0], entry.input[1]) if entry else _OWN_SIZE
        return data.stream(name, split, recipe.data_dir, size=size or own, workers=workers, damaged=recipe.damaged)

    def splits(self, recipe: Recipe, workers: int | None = None) -> tuple[Data, Data | None, Data]:
        everything = self.load(recipe, recipe.training_split, workers)
        if recipe.stream:
            test = self.load(recipe, "test", workers)
        else:
            height, width = everything.image[:2]
            test = self.load(dataclasses.replace(recipe, size=f"{height},{width}"), "test")
        if recipe.part:
            return *data.fold(everything, *recipe.part), test
        train, val = everything.hold_out(recipe.validation) if recipe.validation else (everything, None)
        return train, val, test

    def facts(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        """The classes, the size of an image, and the preprocessing: mean and std of the training data, or the
        preprocessing that the recipe's weights were trained with."""
        entry = models.MODELS.get(recipe.model)
        if recipe.weights is not None:
            own = weights.is_run(recipe.weights)
            preprocess = weights.preprocess(recipe.weights if own else recipe.build(len(train.classes)))
            if recipe.stream or recipe.shape:  # the images already have the network's input size
                preprocess = dataclasses.replace(preprocess, size=train.image[:2], resize=())
        elif recipe.stream:
            preprocess = Preprocess.imagenet(train.image)
        else:
            preprocess = Preprocess.of(train.images, entry.input[:2] if entry and entry.fixed_size else None)
        image, values = list(train.image), dataclasses.asdict(preprocess)
        return {**super().facts(recipe, train), "image": image, "preprocess": values}

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        side, classes = min(facts["image"][:2]), len(facts["classes"])
        made = [AUGMENTATIONS[name](side, classes) for name in words(recipe.augment)]
        chosen = [augment for augment in made if augment is not None]
        return Objective(
            every_output(_loss(recipe)),
            augment=data.compose(*chosen) if len(chosen) > 1 else chosen[0] if chosen else None,
            preprocess=Preprocess(**{name: tuple(value) for name, value in facts["preprocess"].items()}),
        )

    def epochs(self, recipe: Recipe, steps_per_epoch: int) -> int:
        return min(60, max(15, -(-_STEPS // steps_per_epoch)))

    # --- for a trained network

    def evaluation(self, recipe: Recipe, facts: Facts) -> Objective:
        metrics = {"accuracy": accuracy, **({"top5": top_k(5)} if len(facts["classes"]) > 5 else {})}
        return Objective(_loss(recipe), metrics=metrics)

    def load_for(self, trained: TrainedModel, name: str, split: str, data_dir: Path | None) -> Data:
        height, width, channels = trained.image
        recipe = dataclasses.replace(Recipe.of(trained.config), data=name, data_dir=data_dir, size=f"{height},{width}")
        found = self.load(recipe, split)
        if len(found.classes) != len(trained.classes) or found.image[-1] != channels:
            raise UserError(
                f"{name} has {len(found.classes)} classes and {found.image[-1]} channels; "
                f"the run has {len(trained.classes)} and {channels}"
            )
        return found

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path, invert: bool = False) -> list[Row]:
        """The class of each image file, and the probability of every class.

        Args:
          invert: whether to exchange black and white first.
        """
        height, width, channels = trained.image
        # All files are read first: a damaged one stops the command before any output.
        read = read_middle if trained.config.get("stream") else read_image
        pictures = [read(path, channels, (height, width)) for path in given]
        if invert:
            pictures = [255 - picture for picture in pictures]
        rows: list[Row] = []
        for path, chances in zip(given, trained.probabilities(pictures), strict=True):
            best = int(chances.argmax())
            name, chance = trained.classes[best], float(chances[best])
            rows.append({
                "image": str(path), "class": name, "probability": chance,
                "probabilities": {c: float(v) for c, v in zip(trained.classes, chances, strict=True)},
            })  # fmt: skip
        return rows

    def line(self, row: Row) -> str:
        return f"{printable(row['image'])}  {printable(row['class'])}  {100 * row['probability']:.1f} %"


def _loss(recipe: Recipe) -> Loss:
    """Softmax cross-entropy, with the recipe's label smoothing."""
    if not recipe.label_smoothing:
        return softmax_cross_entropy
    return functools.partial(softmax_cross_entropy, smoothing=recipe.label_smoothing)


def usual_augment(name: str | None) -> str:
    """The meaning of `augment="auto"` for a classification dataset."""
    return DATASETS[str(name)].augment if str(name) in DATASETS else "none"


TASK = Classification()
