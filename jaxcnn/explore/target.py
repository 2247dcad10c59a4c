"""The target of `explore`: a trained network, its run's history and its data. Nothing is computed here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn import tasks
from jaxcnn.core import Layer
from jaxcnn.data.dataset import Dataset, Examples
from jaxcnn.data.datasets import read as read_set
from jaxcnn.data.images import read_image, read_part
from jaxcnn.data.preprocess import to_float
from jaxcnn.data.stream import center_box
from jaxcnn.errors import DataError, UserError
from jaxcnn.explore import head
from jaxcnn.explore.head import Head
from jaxcnn.format import printable
from jaxcnn.runs import Run
from jaxcnn.runs import table as listed
from jaxcnn.runs.primary import ACCURACY, Primary, primary_in
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel, rebuilt

FIGURES = ("confusion.png", "mistakes.png")
_EXAMPLES = 400

Data = Dataset | Examples


@dataclass(frozen=True, eq=False)
class Target:
    """A trained network, its data and its run.

    Attributes:
      title: of the page.
      trained: the network.
      head: how its output is shown.
      examples: gives some of the test data; raises DataError where they cannot be read.
      folder: the run's folder; None for a network that has none.
      notes: a sentence for each part of the run that is not shown.
      measure: the run's primary metric, "accuracy" or "mean_iou" for instance.
    """

    title: str
    trained: TrainedModel
    head: Head
    examples: Callable[[], Data]
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    measure: Primary = ACCURACY

    def about(self) -> dict[str, Any]:
        """The page's contents before anything is computed; JSON."""
        config, trained = self.trained.config, self.trained
        record: dict[str, Any] = {
            "title": printable(self.title),
            "model": printable(Path(str(config.get("model") or "")).name),
            "data": printable(Path(str(config.get("data") or "")).name),
            "classes": [printable(name) for name in self.head.names],
            "answer": self.head.kind,
            "size": self.head.size,
            "palette": None if self.head.palette is None else self.head.palette.tolist(),
            "image": list(trained.image),
            "measure": self.measure.primary,
            "share": self.measure.is_share,
            "notes": [printable(note) for note in self.notes],
            "history": [],
            "result": {},
            "figures": [],
        }
        if self.folder is not None and (run := listed.read(self.folder)) is not None:
            record |= {"history": run.history, "result": run.result or {}}
            record["notes"] += [printable(each) for each in run.trouble]
            for name in FIGURES:
                try:
                    record["figures"] += [name] if self.figure(name) is not None else []
                except DataError as error:
                    record["notes"].append(str(error))
        return record

    def figure(self, name: str) -> bytes | None:
        """One of the pictures in the run's folder, a PNG file; None where there is none.

        Raises:
          DataError: when it cannot be read.
        """
        if self.folder is None:
            return None
        try:
            content = (self.folder / name).read_bytes() if (self.folder / name).is_file() else None
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror or error}") from None
        if content is not None:
            read_image(content, name=name)
        return content

    def read(self, source: str | Path | bytes, name: str = "the file") -> np.ndarray:
        """An image file in the form of the run's data, `(H, W, C)`, uint8, as `jaxcnn predict` reads it.

        Raises:
          DataError: when it is no image, damaged, or too large.
        """
        height, width, channels = self.trained.image
        where = name if isinstance(source, bytes) else str(source)
        if self.trained.config.get("stream"):
            return read_part(
                source, lambda h, w: center_box(h, w, (height, width)), (height, width), channels, gap=3, name=where
            )
        return read_image(source, channels, (height, width), where)


def of_run(path: str | Path, trust: bool = False) -> Target:
    """The network of a run; `trust` as in `TrainedModel.load`.

    Raises:
      UserError: for a folder that is no run, a run of a task whose networks take something else than one image, or one
        without weights.
    """
    run = Run.open(path)
    config = run.config
    run.check(weights=True)
    task = tasks.find(config.get("task") or tasks.CLASSIFY)
    inputs = config.get("inputs")
    if task.name != tasks.CLASSIFY and (inputs is None or len(inputs) != 1 or len(inputs[0]) != 3):
        raise UserError(
            f"explore looks into networks that are given one image and nothing else; {path} is one of the task "
            f"{task.name}: {task.about}"
        )
    trained = TrainedModel.load(path, trust=trust)
    if len(trained.image) != 3:
        raise UserError(f"explore looks into networks of images (height, width, channels); {path} has none")
    notes: list[str] = []
    model, params, state = trained.model, trained.params, trained.model_state
    if count := config.get("ensemble"):
        # Its layers have the maps of all members; the page shows one network.
        model = rebuilt({**config, "ensemble": 0}, len(trained.classes))
        params, state = jax.tree.map(lambda x: x[0], (params, state))
        notes.append(f"The run is an ensemble of {count} networks; this is the first of them.")
    trained = dataclasses.replace(trained, model=model, params=params, model_state=state)
    title = f"{Path(str(config['model'])).name.split(':')[-1]} on {Path(str(config.get('data'))).name}"
    # Before config.json said what chose, the class of an image was chosen by accuracy.
    measure = primary_in(config, {"validation_accuracy": None}) if task is None else task.primary
    return _target(title, trained, lambda: _test_data(trained), run.path, tuple(notes), measure)


def of_layer(
    model: Layer, params: Any, state: Any, preprocess: Callable[[Any], Any] | None, examples: Data | None
) -> Target:
    """A network in memory.

    Raises:
      UserError: without `params` or data.
    """
    if params is None or examples is None:
        raise UserError(
            "a Layer is explored with its variables and some data: explore(model, params=params, state=state, "
            "data=cnn.data.load('digits', 'test'))"
        )
    name = model.kind or "network"
    if name == "ensemble":
        raise UserError(
            "explore looks into one network: give it a member of the ensemble, with jax.tree.map(lambda x: x[0], ...) "
            "of its params and state"
        )
    config = {"model": name, "data": examples.name}
    shape = getattr(examples.inputs, "shape", ())[1:]
    if len(shape) != 3:
        raise UserError("explore looks into networks that are given one image and nothing else; the data's inputs are "
                        f"{jax.tree.map(lambda x: x.shape[1:], examples.inputs)}")  # fmt: skip
    trained = TrainedModel(model, params, state or {}, preprocess or to_float, shape, examples.classes, config)
    return of_trained(trained, examples)


def of_trained(trained: TrainedModel, examples: Data | None) -> Target:
    """A network with all that is needed to ask it."""
    config = trained.config
    names = [Path(str(config[key])).name.split(":")[-1] for key in ("model", "data") if config.get(key)]
    read = (lambda: _some(examples)) if examples is not None else (lambda: _test_data(trained))
    return _target(" on ".join(names) or "network", trained, read)


def _target(
    title: str,
    trained: TrainedModel,
    examples: Callable[[], Data],
    folder: Path | None = None,
    notes: tuple[str, ...] = (),
    measure: Primary = ACCURACY,
) -> Target:
    """The target, if its images and its network's outputs can be shown."""
    if len(trained.image) != 3 or trained.image[-1] not in (1, 3):
        raise UserError(f"explore shows images of 1 channel or 3; the network's are {trained.image}")
    example = jax.ShapeDtypeStruct((1, *trained.image), np.uint8)
    found = jax.eval_shape(
        lambda x: trained.model.apply(trained.params, trained.model_state, trained.preprocess(x))[0], example
    )
    said = head.of(getattr(found, "shape", None), trained.classes)
    return Target(title, trained, said, examples, folder, notes, measure)


# --- examples ----------------------------------------------------------------------------------------------------


def _test_data(trained: TrainedModel) -> Data:
    """Some of the test data of a run, a few hundred images."""
    config = trained.config
    if "data" not in config:
        raise DataError("the run does not say what its data was")
    height, width, channels = trained.image
    name, where, streamed = config["data"], config.get("data_dir"), config.get("stream")
    task = tasks.find(config.get("task") or tasks.CLASSIFY)
    if task.name != tasks.CLASSIFY:
        recipe = dataclasses.replace(Recipe.of(config), size=f"{height},{width}")
        found = task.load(recipe, "test")
        if found.inputs.shape[1:] != trained.image:
            raise DataError(f"the images of {name} are {found.inputs.shape[1:]}, the run had {trained.image}")
        return _some(found)
    source = read_set(name, "test", where, (height, width), "images", source=bool(streamed))
    if isinstance(source, Dataset):
        return _some(_of_size(source, trained))
    # The records of a prepared set are in random order, files in that of their classes.
    labels = getattr(source, "labels", None)
    index = np.arange(min(_EXAMPLES, len(source))) if labels is None else _spread(labels)
    files = list(source.take(np.sort(index)))
    read = _middle if streamed else read_image
    images = np.stack([read(file, channels, (height, width), where) for file, _, where in files])
    found = Dataset(images, np.array([label for _, label, _ in files], np.int32), tuple(source.classes), name)
    return _some(_of_size(found, trained))


def _middle(file: str | Path | bytes, channels: int, size: tuple[int, int], name: str) -> np.ndarray:
    return read_part(file, lambda h, w: center_box(h, w, size), size, channels, gap=3, name=name)


def _of_size(found: Dataset, trained: TrainedModel) -> Dataset:
    if found.image != trained.image or len(found.classes) != len(trained.classes):
        raise DataError(
            f"the data {found.name} is not what the run had: images {found.image} of {len(found.classes)} classes, the "
            f"run had {trained.image} and {len(trained.classes)}"
        )
    return found


def _spread(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """A few hundred examples' numbers: the first of each class, then the second of each, and so on."""
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    starts = np.searchsorted(sorted_labels, sorted_labels)
    rank = np.arange(len(labels)) - starts
    return order[np.lexsort((sorted_labels, rank))][:_EXAMPLES]


def _some(found: Data) -> Data:
    if found.inputs.dtype != np.uint8:
        raise DataError(f"explore shows uint8 images, {found.name} has {found.inputs.dtype}")
    return found.take(_spread(found.labels) if np.ndim(found.labels) == 1 else slice(_EXAMPLES))
