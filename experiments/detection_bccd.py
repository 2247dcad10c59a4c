"""Fast R-CNN and R-CNN on blood cells: average precision with the same regions, and detection time per image."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax

import jaxcnn as cnn
from experiments.common import machine, main, percent, save, table
from jaxcnn import detection
from jaxcnn.data.proposals import cache_folder, selective_search, with_regions
from jaxcnn.inspect.plots import Figure
from jaxcnn.models.fast_rcnn import fast_rcnn, small_backbone
from jaxcnn.models.rcnn import rcnn

Which = Literal["both", "fast_rcnn", "rcnn"]


def _data(data_dir: Path | None, split: str, scale: float, regions: int, examples: int | None) -> tuple[Any, float]:
    """The images of a split with their regions, and the seconds per image of selective search (0 from the cache)."""
    data = cnn.data.load("bccd", split, data_dir, (round(480 * scale), round(640 * scale)))
    data = data if examples is None else data.take(slice(examples))
    began = time.perf_counter()
    found = selective_search(data.inputs, most=regions, cache=cache_folder())
    return with_regions(data, found), (time.perf_counter() - began) / len(data)


def _augment(count: int) -> cnn.data.augment.Augment:
    """Flips in both directions, as cells have no orientation, and background samples with any IoU below 0.5."""
    regions = detection.sample_regions(count, positive=0.4, background=(0.0, 0.5))
    return cnn.data.compose(detection.flip_boxes(), detection.flip_boxes(vertical=True), regions)


def _milliseconds(run: Callable[[int], Any], count: int) -> float:
    """The median time of a call in milliseconds."""
    run(0)
    times = []
    for i in range(count):
        began = time.perf_counter()
        jax.block_until_ready(run(i))
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def detection_bccd(
    data_dir: Path | None = None, network: Which = "both", examples: int | None = None, scale: float = 0.5,
    regions: int = 800, width: int = 24, units: int = 128, epochs: int = 14, rcnn_epochs: int = 4,
    batch_size: int = 2, lr: float = 1e-3, timed: int = 8, seed: int = 0, picture: Path | None = None,
    full: bool = False,
) -> None:  # fmt: skip
    """Trains both networks from random weights on the same regions of BCCD's trainval split (selective search).

    The networks have the same convolutions and dense layers. R-CNN runs all of them for each region, warped to 56x56.
    Fast R-CNN runs the convolutions once per image. The test split is used once, at the end.

    Args:
      data_dir: the folder that contains `bccd`.
      network: which network to train, or both.
      examples: number of images of each split; all when not given.
      scale: factor by which the images of 640x480 pixels are resized.
      regions: maximum number of regions per image.
      width: filters of the first convolution.
      units: units of the dense layer.
      epochs: epochs of Fast R-CNN, with 64 regions per image.
      rcnn_epochs: epochs of R-CNN, with 32 regions per image.
      batch_size: images per step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      timed: number of images over which the median detection time is taken.
      picture: file for four test images with predicted and true boxes.
      full: 64 filters, 1024 units, 120 and 60 epochs (needs an accelerator).
    """
    if full:
        width, units, epochs, rcnn_epochs = 64, 1024, 120, 60
    train, took = _data(data_dir, "trainval", scale, regions, examples)
    test, test_took = _data(data_dir, "test", scale, regions, examples)
    classes = train.classes
    recall = detection.recall_of(test.inputs[1], test.labels, classes)
    count = (test.inputs[1][..., 2] > 0).sum(1).mean()
    print(
        f"{len(train)} and {len(test)} images; regions of a test image: {count:.0f}, "
        f"recall at 0.5: {', '.join(f'{name} {percent(share)}' for name, share in recall.items())}; "
        f"computing them took {took:.2f} and {test_took:.2f} s an image (about 0: from the cache)",
        flush=True,
    )
    size = train.inputs[0].shape[1:3]
    makers: dict[str, tuple[Any, int, int]] = {
        "fast_rcnn": (functools.partial(fast_rcnn, pool=7), epochs, 64),
        "rcnn": (functools.partial(rcnn, size=56), rcnn_epochs, 32),
    }
    found, rows, times = {}, [], {}
    for name, (make, count, sampled) in makers.items():
        if network not in ("both", name):
            continue
        model = make(classes=len(classes), backbone=small_backbone(width), units=units)
        steps = count * (len(train) // min(batch_size, len(train)))
        run = cnn.train.fit(
            model,
            train,
            cnn.train.Objective(
                detection.multi_task(), metrics={}, augment=_augment(sampled), preprocess=cnn.data.to_float
            ),
            epochs=count,
            batch_size=batch_size,
            optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps, weight_decay=1e-4, clip=10.0),
            seed=seed,
            show=False,
        )
        losses = " ".join(f"{record['loss']:.3f}" for record in run.history)
        print(f"{name}: loss by epoch {losses}", flush=True)
        detect = detection.make_detect(model, batch_size=1)
        found[name] = detect(run.params, run.model_state, test)
        figures = detection.mean_average_precision(found[name], test.labels, classes)
        ones = [test.take(slice(i, i + 1)) for i in range(min(timed, len(test)))]

        def one(i: int, detect: Any = detect, run: Any = run, ones: Any = ones) -> Any:
            return detect(run.params, run.model_state, ones[i % len(ones)])

        times[name] = _milliseconds(one, len(ones))
        rows.append([
            name, percent(figures["map"]), percent(figures["map_07"]),
            *(percent(figures.get(f"ap {c}", float("nan"))) for c in classes), f"{run.result['params']:,}",
            f"{run.result['seconds']:.0f}", f"{times[name]:.0f}",
        ])  # fmt: skip
        print("  ".join(rows[-1]), flush=True)
    pixels = test.inputs[0]
    search = _milliseconds(
        lambda i: selective_search(pixels[i : i + 1], most=regions, workers=1), min(timed, len(test))
    )
    print(f"\nBCCD, images of {size[1]}x{size[0]}, {len(train)} for training, {len(test)} for testing ({machine()})")
    header = ["network", "mAP@0.5", "mAP, 11 points", *(f"AP {c}" for c in classes), "parameters", "seconds",
              "ms an image"]  # fmt: skip
    print(table(header, rows))
    print(f"selective search: {search:.0f} ms per image on one core")
    if len(times) == 2:
        alone = times["rcnn"] / times["fast_rcnn"]
        together = (times["rcnn"] + search) / (times["fast_rcnn"] + search)
        print(
            f"Fast R-CNN detects {alone:.1f} times as fast as R-CNN, {together:.1f} times with the search for regions"
        )
    if picture is not None:
        _draw(picture, test, found)


def _draw(path: Path, test: Any, found: dict[str, detection.Detections], least: float = 0.5) -> None:
    """Draws the first four images with the true boxes and each network's boxes of score 0.5 or more."""
    images, classes = test.inputs[0], test.classes
    count = min(4, len(images))
    titles = {"fast_rcnn": "Fast R-CNN", "rcnn": "R-CNN"}
    figure = Figure(figsize=(5.2 * (1 + len(found)), 4.0 * count), layout="constrained")
    for i, line in enumerate(figure.subplots(count, 1 + len(found), squeeze=False)):
        truth = test.labels["boxes"][i], test.labels["classes"][i]
        line[0].imshow(detection.draw_boxes(images[i], *truth, classes))
        for axes, each in zip(line[1:], found.values(), strict=True):
            sure = each.scores[i] >= least
            boxes, scores, own = (array[i][sure] for array in each)
            axes.imshow(detection.draw_boxes(images[i], boxes, own, classes, scores))
        for axes, title in zip(line, ["what is there", *(titles[name] for name in found)], strict=True):
            axes.axis("off")
            if i == 0:
                axes.set_title(title, fontsize=14)
    save(figure, path, 75)


if __name__ == "__main__":
    main(detection_bccd)
