"""Visualizes a trained network's units and decisions, and tests how far saliency maps can be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, table
from jaxcnn.errors import UserError
from jaxcnn.inspect import features, grad_cam, input_gradient, layer_outputs, occlusion, pictures, plots, windows
from jaxcnn.inspect.rules import Rule


def network(classes: int, width: int) -> cnn.Layer:
    """Five convolutions with batch normalization in three stages, global average pooling and one dense layer."""
    layers: dict[str, cnn.Layer | Callable] = {}
    for i, (features_, size) in enumerate(((1, 5), (2, 3), (2, 3), (3, 3), (3, 3)), 1):
        layers[f"conv{i}"] = cnn.conv(width * features_, size, padding=size // 2, bias=False)
        layers |= {f"bn{i}": cnn.batch_norm(), f"relu{i}": cnn.relu}
        if i in (1, 3):
            layers[f"pool{i}"] = cnn.max_pool(2)
    return cnn.serial(**layers, avgpool=cnn.global_avg_pool, fc=cnn.dense(classes))


def seeing_inside(
    run: Path | None = None, data: str = "cifar10", data_dir: Path | None = None, out: Path | None = None,
    examples: int = 50_000, epochs: int = 4, width: int = 16, batch_size: int = 100, lr: float = 2e-3,
    images: int = 300, search: int = 5_000, seed: int = 0,
) -> None:  # fmt: skip
    """Inspects a small network that it trains, or a network trained by `jaxcnn train`.

    It runs three tests of the maps, each of which can fail:

    - The hottest fifth of the pixels (of a map averaged over 5x5 pixels) is covered with grey. The class should lose
      more probability than with another image's mask, which on average has the same shape and position.
    - Occlusion and Grad-CAM, two independent methods, should rank the pixels alike.
    - The last layer's weights, then all weights, are replaced by random ones (Adebayo et al., Sanity checks for
      saliency maps, 2018). A map that does not change does not show what the network learned.

    Args:
      run: the folder of an image classification run to inspect; a network is trained when not given.
      data: dataset to train on: cifar10, mnist, or digits for scikit-learn's. A run uses its own dataset.
      data_dir: the folder of prepared datasets.
      out: folder for the plots.
      examples: number of training images.
      epochs: passes over the images.
      width: filters of the first layer; later layers have two and three times this number.
      batch_size: examples per step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      images: number of test images in the tests of the maps.
      search: number of test images that are searched for the strongest patches.
      seed: for the network and the random weights.
    """
    if run is not None:
        trained = cnn.train.Trained.load(run)
        if (task := cnn.tasks.find(trained.config.get("task") or cnn.tasks.CLASSIFY).name) != cnn.tasks.CLASSIFY:
            raise UserError(f"{run}: a run of {task}; expected one that classifies images")
        data = trained.config["data"]
        test = cnn.data.load(data, "test", data_dir)
        model, params, state, preprocess = trained.model, trained.params, trained.model_state, trained.preprocess
        print(f"{run}: {trained.config['model']} on {data}")
    else:
        train = cnn.data.load(data, f"train[:{examples}]", data_dir)
        test = cnn.data.load(data, "test", data_dir)
        model, preprocess = network(len(train.classes), width), cnn.data.Preprocess.of(train.images)
        steps = epochs * (len(train) // batch_size)
        began = time.perf_counter()
        fitted = cnn.train.fit(
            model,
            train,
            cnn.train.Objective(preprocess=preprocess),
            test=test,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            show=False,
            optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps),
        )
        params, state = fitted.state.params, fitted.state.model_state
        print(f"trained on {data}, {len(train):,} images, {epochs} epochs, {time.perf_counter() - began:.0f} s: "
              f"test accuracy {100 * fitted.result['test_accuracy']:.1f} %", flush=True)  # fmt: skip
    shown, x = test.images[:images], preprocess(test.images[:images])
    if x.ndim != 4:
        raise UserError(f"expected a network of images (N, H, W, C), got {x.shape}")
    look = _Look(model, params, state, x)
    rows = [*check_masks(look), *check_agreement(look), *check_randomized(look, seed)]
    print(f"\n{data}, {len(x)} test images ({machine()})")
    print(table(["check", "map", "measured", "control", "holds"], rows))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in draw(look, shown, test, preprocess, search, seed).items():
            figure.savefig(out / f"{name}.png", dpi=110)
            print(f"drawn: {out / f'{name}.png'}", flush=True)


class _Look:
    """A network, images, and the maps of the predicted classes."""

    def __init__(self, model: cnn.Layer, params: Any, state: Any, x: Any):
        self.model, self.params, self.state, self.x = model, params, state, x
        self.apply = jax.jit(lambda params, state, x: model.apply(params, state, x)[0])
        self.classes = np.asarray(self.logits(x)).argmax(1)
        outputs = layer_outputs(model, params, state, x[:1])
        maps = [n for n, s in outputs.items() if getattr(s, "ndim", 0) == 4 and s.shape[1] > 1 and "pool" not in n]
        self.layers = maps
        self.square = max(2, x.shape[1] // 4)

    def logits(self, x: Any) -> Any:
        return jnp.concatenate([self.apply(self.params, self.state, x[i : i + 100]) for i in range(0, len(x), 100)])

    def probability(self, x: Any) -> np.ndarray:
        """The probability of each image's class."""
        return np.asarray(jax.nn.softmax(self.logits(x)))[np.arange(len(x)), self.classes]

    def maps(self, names: tuple[str, ...], params: Any = None, state: Any = None) -> dict[str, np.ndarray]:
        """Heat maps `(N, H, W)` by name, computed with other variables when given."""
        params, state = (self.params, self.state) if params is None else (params, state)
        result = {}
        for name in names:
            parts: list[Any] = []
            for i in range(0, len(self.x), 100):
                x, unit = self.x[i : i + 100], self.classes[i : i + 100].astype(np.int32)
                if name == "Grad-CAM":
                    parts.append(grad_cam(self.model, params, state, x, unit=unit))
                elif name == "occlusion":
                    settings = {"size": self.square, "stride": max(1, self.square // 4)}
                    parts.append(occlusion(self.model, params, state, x, unit=unit, **settings).drop())
                else:
                    each = input_gradient(self.model, params, state, x, unit=unit, rule=RULES[name])
                    parts.append(np.abs(each).max(-1))
            result[name] = np.concatenate([np.asarray(p) for p in parts])
        return result


RULES: dict[str, Rule] = {"gradient": "plain", "deconvolution": "deconvolution", "guided": "guided"}
ALL = ("gradient", "deconvolution", "guided", "Grad-CAM", "occlusion")


def _another(maps: np.ndarray) -> np.ndarray:
    """Gives each image another image's map."""
    return np.roll(maps, 1, axis=0)


def _averaged(maps: np.ndarray) -> np.ndarray:
    """Maps `(N, H, W)` averaged over 5x5 pixels."""
    return np.asarray(cnn.ops.avg_pool(jnp.asarray(maps, jnp.float32)[..., None], 5, 1, 2))[..., 0]


def check_masks(look: _Look) -> list[list[str]]:
    """The class's probability lost when the hottest fifth is covered, by the image's own map and by another image's."""
    whole = look.probability(look.x)
    rows = []
    for name, maps in look.maps(ALL).items():
        flat = _averaged(maps).reshape(len(maps), -1)
        hottest = np.argsort(-flat, 1, kind="stable")[:, : max(1, flat.shape[1] // 5)]
        mask = np.zeros(flat.shape, bool)
        np.put_along_axis(mask, hottest, True, 1)
        mask = mask.reshape(*maps.shape, 1)
        own, other = (whole - look.probability(jnp.where(m, 0, look.x)) for m in (mask, _another(mask)))
        rows.append(["probability lost, hottest fifth covered", name, *_compared(own, other)])
        print("  ".join(rows[-1]), flush=True)
    return rows


def check_agreement(look: _Look) -> list[list[str]]:
    """Spearman's rank correlation of Grad-CAM and occlusion, for the same image and for another image."""
    maps = look.maps(("Grad-CAM", "occlusion"))
    own, other = (correlation(maps["Grad-CAM"], o) for o in (maps["occlusion"], _another(maps["occlusion"])))
    return [["rank correlation with occlusion", "Grad-CAM", *_compared(own, other)]]


def _compared(own: np.ndarray, other: np.ndarray) -> list[str]:
    """Two means, and whether the first is larger by more than two standard errors of the difference."""
    difference = own - other
    error = difference.std() / np.sqrt(max(1, len(difference) - 1))
    holds = bool(difference.mean() > 2 * error)
    return [f"{own.mean():.3f}", f"{other.mean():.3f}", f"{'yes' if holds else 'NO'} (+-{error:.3f})"]


def check_randomized(look: _Look, seed: int) -> list[list[str]]:
    """Rank correlation with the maps of the same network with random weights in its last layer, and in all layers."""
    params, state = look.model.init(jax.random.key(seed + 1), look.x[:1])
    ends = list(look.model.sublayers)
    last = next(name for name in reversed(ends) if name in look.params)
    names = tuple(name for name in ALL if name != "occlusion")
    maps = look.maps(names)
    head = look.maps(names, {**look.params, last: params[last]}, look.state)
    every = look.maps(names, params, state)
    rows = []
    for name in names:
        one, all_ = (float(np.mean(correlation(maps[name], other[name]))) for other in (head, every))
        rows.append(
            [f"random weights: {last}; all", name, f"{one:.2f}; {all_:.2f}", "1", "yes" if all_ < 0.5 else "NO"]
        )
    return rows


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each pair of maps `(N, H, W)`; equal values share their mean rank."""

    def ranks(maps: np.ndarray) -> np.ndarray:
        result = np.empty((len(maps), maps[0].size))
        for row, values in zip(result, maps.reshape(len(maps), -1), strict=True):
            _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
            row[:] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
        return result - result.mean(1, keepdims=True)

    a, b = ranks(a), ranks(b)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return (a * b).sum(1) / np.maximum(size, 1e-12)


def draw(look: _Look, shown: np.ndarray, test: Any, preprocess: Any, search: int, seed: int) -> dict[str, Any]:
    """The plots by name."""
    model, params, state, x = look.model, look.params, look.state, look.x
    figures: dict[str, Any] = {}
    first = next((name for name in look.layers if _has_filters(model, params, state, name)), None)
    if first is not None:
        figures["filters"] = plots.filters(windows.filters(model, params, state, first))
        shape = layer_outputs(model, params, state, x[:1])[first].shape
        middle = (shape[1] // 2, shape[2] // 2, 0)
        seen = windows.see_unit(model, params, state, x[:1], layer=first, place=middle)
        figures["unit"] = pictures.unit(seen, shown[0])

    few = [int(np.flatnonzero(look.classes == c)[0]) for c in np.unique(look.classes)][:6]
    own = _Look(model, params, state, x[np.asarray(few)])
    probability = own.probability(own.x)
    titles = [f"{test.classes[c]} {100 * p:.0f} %" for c, p in zip(own.classes, probability, strict=True)]
    signed = {
        name: input_gradient(model, params, state, own.x, unit=own.classes.astype(np.int32), rule=rule)
        for name, rule in RULES.items()
    }
    figures["explained"] = pictures.explained(
        shown[few], {**signed, **own.maps(("Grad-CAM", "occlusion"))}, titles, "what speaks for the class"
    )

    chosen = [look.layers[round(share * (len(look.layers) - 1))] for share in (1 / 5, 3 / 5, 1)]
    found: dict[str, Any] = {}
    fields = {}
    for name in dict.fromkeys(chosen):
        top = features.strongest(model, params, state, test.images[:search], layer=name, count=9, preprocess=preprocess)
        for channel in np.argsort(-top.values[:, 0])[:2]:
            found[f"{name} {channel}"] = features.patches(
                model, params, state, test.images[:search], top, int(channel), preprocess=preprocess
            )
        place = tuple(n // 2 for n in layer_outputs(model, params, state, x[:1])[name].shape[1:3])
        fields[name] = windows.receptive_window(model, x[:1], layer=name, place=place)
    figures["patches"] = pictures.top_patches(found, "the strongest patches of a channel, and their deconvolutions")
    figures["fields"] = pictures.fields(shown[0], fields, "receptive fields of units in the middle")

    classes = len(test.classes)
    made, scores = features.maximize(
        model, params, state, (classes, *x.shape[1:]), unit=np.arange(classes, dtype=np.int32), seed=seed
    )
    titles = [f"{name} {float(s):.0f}" for name, s in zip(test.classes, scores[-1], strict=True)]
    figures["maximized"] = plots.images(pictures.visible(made), titles, "made to excite a class, and its logit")
    return figures


def _has_filters(model: cnn.Layer, params: Any, state: Any, layer: str) -> bool:
    try:
        return bool(windows.filters(model, params, state, layer).size)
    except UserError:
        return False


if __name__ == "__main__":
    main(seeing_inside)
