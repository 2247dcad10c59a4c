"""What a kind of network is for: how it is trained, measured and asked. The command line knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.runs.primary import LOSS, Primary
from jaxcnn.runs.trained import Trained

Data = Dataset | Examples
Row = dict[str, Any]


def _nothing(data: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """A kind of question that networks answer about images, or sentences.

    Attributes:
      name: `segment`, `detect`, ...
      about: what is asked, in a few words.
      data: the dataset when none is named.
      load: `(name, split, data_dir, size) -> data`, the split being train, validation or test, and size (height, width)
        or None for the data's own.
      settings: `data -> ` arguments of `fit` that the training data call for: loss, metrics, augment, preprocess.
      options: `data -> ` arguments of the model beside `classes`, a vocabulary's size for instance.
      validation: whether the data has a validation split of its own; else a share of the training split is held out.
      figure: the figure that chooses the best epoch, and that a result begins with.
      better: whether a `high` or a `low` figure is good.
      chooses: whether it is measured after each epoch; where only `evaluate` gives it, the loss chooses.
      evaluate: `(trained, data) -> ` figures that are no means over examples, the mean average precision for instance.
      predict: `(trained, given, out) -> ` a row for each file or sentence given: `text` for a reader, and what a
        program wants to know. Pictures are written to the folder `out`.
      adapt: `(data, trained) -> data` as a network can take other data than its own, with its own vocabulary.
      constrain: `optimizer -> optimizer` for a rule that the parameters keep, a largest norm for instance.
      what: what the data are made of, in the plural.
      batch_size, epochs: of a training where nothing is said.
    """

    name: str
    about: str
    data: str
    load: Callable[[str, str, Path | None, tuple[int, int] | None], Data]
    predict: Callable[[Trained, Sequence[str], Path], list[Row]]
    figure: str
    settings: Callable[[Any], Mapping[str, Any]] = _nothing
    options: Callable[[Any], Mapping[str, Any]] = _nothing
    validation: bool = False
    better: Literal["high", "low"] = "high"
    chooses: bool = True
    evaluate: Callable[[Trained, Any], Mapping[str, float]] | None = None
    adapt: Callable[[Any, Trained], Any] | None = None
    constrain: Callable[[Any], Any] | None = None
    what: str = "images"
    batch_size: int = 16
    epochs: int = 30

    @property
    def primary(self) -> Primary:
        """The figure, and whether it is maximized."""
        return Primary(self.figure, self.better == "high")

    @property
    def choice(self) -> Primary:
        """The figure that chooses the best epoch."""
        return self.primary if self.chooses else LOSS
