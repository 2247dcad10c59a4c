"""A trained network, rebuilt from the folder of its run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import models
from jaxcnn.core import Layer
from jaxcnn.data.preprocess import Preprocess, inputs_of, to_float
from jaxcnn.errors import UserError
from jaxcnn.format import plural, printable, shortened
from jaxcnn.runs.folder import Run
from jaxcnn.runs.identity import check_code
from jaxcnn.transforms import ensemble, freeze, mixed_precision, remat


def rebuilt(config: Mapping[str, Any], classes: int) -> Layer:
    """The network that a run's config.json, or the command line's options, describe."""
    model = models.make(config["model"], classes, **config.get("model_options") or {})
    if frozen := [prefix for prefix in (config.get("freeze") or "").split(",") if prefix]:
        model = freeze(model, *frozen)
    return ensemble(model, config["ensemble"]) if config.get("ensemble") else model


def computed(model: Layer, config: Mapping[str, Any]) -> Layer:
    """The network with the config's `precision` and `remat`. Its variables are the same."""
    if config.get("remat"):
        model = remat(model, *[name for name, inner in model.sublayers.items() if inner.sublayers])
    precision = config.get("precision", "float32")
    return model if precision == "float32" else mixed_precision(model, jnp.dtype(precision))


class Predictor:
    """A trained network that computes its outputs, in one compiled program: `TrainedModel` and the result of `fit`.

    Attributes:
      model, params, model_state: the network.
      preprocess: what the training did to its inputs.
    """

    model: Layer
    params: Any
    model_state: Any
    preprocess: Callable[[Any], Any]

    @functools.cached_property
    def _compiled(self) -> Callable[[Any, Any, Any], Any]:
        model, preprocess = self.model, self.preprocess
        return jax.jit(lambda params, state, inputs: model.apply(params, state, *inputs_of(preprocess, inputs))[0])

    def outputs(self, inputs: Any) -> Any:
        """The network's outputs for images `(N, H, W, C)`, or other inputs, as the data had them."""
        if isinstance(self.preprocess, Preprocess):
            self.preprocess.check(inputs)  # inside the program it does not see the values
        return self._compiled(self.params, self.model_state, inputs)

    def probabilities(self, images: Any) -> np.ndarray:
        """The probability of each class, softmax of the outputs: `(N, classes)`."""
        return np.asarray(jax.jit(jax.nn.softmax)(self.outputs(images)))


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel(Predictor):
    """A network with the variables of its best epoch, and all that is needed to apply it.

    Attributes:
      model, params, model_state: the network.
      preprocess: what the run did to its images.
      image: (height, width, channels) of the run's data, before `preprocess`; empty if an input is not one image.
      classes: the names of the classes.
      config: the run's config.json.
    """

    model: Layer
    params: Any
    model_state: Any
    preprocess: Callable[[Any], Any]
    image: tuple[int, ...]
    classes: tuple[str, ...]
    config: dict[str, Any]

    def __repr__(self) -> str:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        name = shortened(" ".join(str(self.config.get("model", "a network")).split()), 60)
        data = shortened(str(self.config.get("data", "its data")), 60)
        shape = f"; images {'x'.join(map(str, self.image))}" if self.image else ""
        classes = f"; {len(self.classes)} {'class' if len(self.classes) == 1 else 'classes'}" if self.classes else ""
        return printable(f"TrainedModel({name} on {data}; {count:,} {plural(count, 'parameter')}{shape}{classes})")

    @staticmethod
    def load(run: str | Path, model: Layer | None = None, trust: bool = False) -> TrainedModel:
        """The network of a run.

        A model `file.py:function` is rebuilt by executing that file. Without `trust`, the file must be below the
        current folder, outside the run's folder, and unchanged since the training.

        Args:
          run: the folder.
          model: the Layer that was trained, for a run of `fit` whose model has no name.
          trust: execute the file without these checks.

        Raises:
          UserError: if the folder is not a run, its checkpoints are missing, damaged or another run's, or the model
            cannot be rebuilt or needs `trust`.
        """
        folder = Run.open(run)
        config = folder.config
        params, model_state = folder.restore_best()
        if model is None:
            check_code(folder.path, config, trust)
        try:
            given = config["preprocess"]
            preprocess = to_float if given is None else Preprocess(**{k: tuple(v) for k, v in given.items()})
            inputs = config.get("inputs")
            image = tuple(config["image"] if inputs is None else inputs[0] if len(inputs) == 1 else ())
            classes = tuple(config["classes"])
            if model is None and "(" in config["model"] and config["model"].partition("(")[0].isidentifier():
                raise UserError(
                    f"{folder.path}: its network was made in a program, which alone can make it again: give it as "
                    "cnn.train.TrainedModel.load(run, model=...). Commands can ask runs of `jaxcnn train "
                    "file.py:function`"
                )
            if model is None:
                model = computed(rebuilt(config, len(classes)), config)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder.path / 'config.json'} does not say {error}: the network cannot be rebuilt from it"
            ) from None
        return TrainedModel(model, params, model_state, preprocess, image, classes, config)

    def probabilities(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """The probability of each class, `(N, classes)`, for uint8 images `(N, *image)`."""
        images = np.asarray(images)
        if images.shape[1:] != self.image:
            raise UserError(f"the run's images are {self.image}, got {images.shape[1:]}")
        return super().probabilities(images)


Trained = TrainedModel
"""The former name of `TrainedModel`."""
