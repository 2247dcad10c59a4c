"""Images that do not fit in memory: read, decoded and cropped while the network trains.

An epoch over a large set is a pipeline. Which example comes when is known before anything is read: the order is a
permutation of the seed and the epoch (`epoch_order`, the same as for a set in memory), and the random numbers that crop
and mirror an example follow from the seed, the epoch and its place in that order. So each example can be made by any
thread of any process at any time, and comes out the same to the last bit:

    order[place] -> image file -> decode -> crop, resize, mirror -> uint8 (H, W, C) -> batch -> device

    stream = cnn.data.stream("./imagenet", "train")
    for epoch in range(90):
        for batch in cnn.data.prefetch(stream.batches(256, seed, epoch)):
            state, metrics = step(state, batch)

Grain (https://google-grain.readthedocs.io) runs the middle of it in threads, some examples ahead of the consumer.
Pillow decodes and resizes outside Python's global lock, so that threads use all cores of a common machine; with many
more than eight, the little that is left under the lock counts, and `processes` help.

What is held in memory, in images of H * W * C bytes: the batch that was given, the one that is being filled, and as
many read ahead as one batch has (twice the threads, if that is more; with processes, two messages of at most 16 more in
each). Each thread has one picture besides, at the size that it was decoded at. None of it grows with the set, of which
some 70 bytes an example are held: where it lies, its label, its place in the order.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import multiprocessing.util
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from jaxcnn.data.batches import batch_places, epoch_order
from jaxcnn.data.images import Box, read_part
from jaxcnn.data.load import find
from jaxcnn.data.sources import Files, Records
from jaxcnn.errors import DataError, UserError

_MOST_TRIES = 100  # so many damaged examples in a row are no accident
_FROM_THREAD, _FROM_PROCESS = 4, 16  # at most so many images are handed over at once

_running: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def _close() -> None:
    """Ends what is still under way when Python ends: before Grain's processes (1), and while its modules are there."""
    for batches in list(_running):
        batches.close()


multiprocessing.util.Finalize(None, _close, exitpriority=2)


def stream(
    name: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    *,
    size: tuple[int, int] = (224, 224),
    crop: Literal["random", "center"] = "random",
    workers: int | None = None,
    processes: int = 0,
    damaged: Literal["stop", "skip"] = "stop",
) -> Stream:
    """Labelled images that are read from their files batch by batch. No file but a sample of fifty is opened yet.

    Args:
      name: the path of a folder, `folder/CLASS/IMAGE`, or `folder/train/CLASS/IMAGE` beside `test`, `val` or
        `validation`; or an image classification set of tensorflow-datasets that was prepared as array_record, by name
        or by the path of the folder with its `dataset_info.json`.
      split: `train`, `test` or another one the set has, also with a slice, `train[:90%]`; as for `load`.
      data_dir: where prepared sets lie; `JAXCNN_DATA_DIR` when not given, then `~/tensorflow_datasets`.
      size: (height, width) of the images that come out.
      crop: `random` crops and mirrors at random for training (`random_box`), `center` cuts out the middle
        (`center_box`). `padded_batches` always does the latter.
      workers: threads that read; as many as there are cores when not given. With processes, in each of them.
      processes: processes that read, in place of this one's threads. They start anew for each epoch, which takes some
        seconds, and each has its own libraries in memory. A script then needs `if __name__ == "__main__":`.
      damaged: what to do about an image that is missing, damaged or no image: `stop` with an error that names it, or
        `skip` it with one warning for each: the next whole example in the order is then given in its place.

    Raises:
      DataError: when the data is not there (with what to do), holds no example, or a setting is none of the above.
    """
    for setting, value, choices in (("crop", crop, ("random", "center")), ("damaged", damaged, ("stop", "skip"))):
        if value not in choices:
            raise DataError(f"stream({setting}={value!r}): expected {' or '.join(map(repr, choices))}")
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"stream(size={size}): expected (height, width) of 1 pixel or more")
    if processes < 0 or (workers is not None and workers < 1):
        raise DataError(
            f"stream(workers={workers}, processes={processes}): expected 1 thread or more, and 0 processes or more"
        )
    source = find(name, split, data_dir)
    workers = workers or max(1, _cores() // max(1, processes))
    channels = source.channels(damaged == "skip")
    return Stream(source, (int(size[0]), int(size[1])), channels, crop, workers, processes, damaged)


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled images in files, given in batches of uint8 images of one size. Made by `stream`.

    Attributes:
      source: where they lie.
      size: (height, width) of the images that come out.
      channels: 3, or 1 where all are grey.
      crop, workers, processes, damaged: as `stream` was told.
    """

    source: Files | Records
    size: tuple[int, int]
    channels: int
    crop: Literal["random", "center"]
    workers: int
    processes: int
    damaged: Literal["stop", "skip"]
    _told: set[str] = field(default_factory=set, init=False)

    def __len__(self) -> int:
        return len(self.source)

    def __repr__(self) -> str:
        h, w, c = self.image
        return f"Stream({self.name!r}, {len(self):,} images as {h}x{w}x{c}, {len(self.classes)} classes)"

    @property
    def name(self) -> str:
        """Where the images come from."""
        return self.source.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        return self.source.classes

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that come out."""
        return *self.size, self.channels

    def hold_out(self, share: float, seed: int = 0) -> tuple[Stream, Stream]:
        """Two parts: all but a random `share` (0 < share < 1), and that share. The same seed gives the same parts."""
        if not 0 < share < 1:
            raise DataError(f"the share to hold out should be between 0 and 1, got {share}")
        held = np.zeros(len(self), bool)
        held[np.random.default_rng(seed).permutation(len(self))[: round(share * len(self))]] = True
        if held.all() or not held.any():
            raise DataError(f"{self.name}: {len(self)} images are too few to hold out a share of {share}")
        learn, rest = (dataclasses.replace(self, source=self.source.take(part)) for part in (~held, held))
        return learn, rest

    def batches(
        self, size: int, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The shuffled batches of one epoch: images `(size / n, H, W, C)`, uint8, and labels `(size / n,)`, int32.

        They are the examples of `data.batches` on the same set. Order and crops are functions of the seed and the epoch
        alone. `len(self) // size` batches are whole; the rest is another one in each epoch.

        Args:
          size: of the batch, over all shards.
          start: the first batch to give; those before are not read.
          shard: `(i, n)` gives the i-th of n equal parts of each batch, for one of n processes that train together.

        Raises:
          DataError: for a batch that is larger than the set or that n does not divide; and, while it is gone through,
            for an image that is damaged.
        """
        if size > len(self):
            raise DataError(f"{self.name}: a batch of {size} is larger than the set of {len(self):,} images")
        places = batch_places(len(self), size, start, shard)
        order = epoch_order(len(self), seed, epoch)
        reader = _Reader(
            self.source, order, self.image, (seed, epoch) if self.crop == "random" else None,
            "next" if self.damaged == "skip" else "stop",
        )  # fmt: skip
        return self._read(places, reader, weighted=False)

    def padded_batches(
        self, size: int, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Every example once, in the set's order, its middle cut out: `(images, labels, weights)`, all of one shape.

        The weights, float32, are 1. The last batch is filled up with black images of weight 0; such a one also stands
        in the place of an image that is damaged and to be skipped.

        Args:
          size, shard: as for `batches`. All shards have the same number of batches.

        Raises:
          DataError: for a size that n does not divide; and, while it is gone through, for an image that is damaged.
        """
        count = len(self)
        places = batch_places(-(-count // max(1, size)) * size, size, 0, shard)
        reader = _Reader(self.source, np.arange(count), self.image, None, "blank" if self.damaged == "skip" else "stop")
        return self._read(np.where(places < count, places, -1), reader, weighted=True)

    def _read(self, places: np.ndarray, reader: _Reader, weighted: bool) -> Iterator[Any]:
        batches = self._batches(places, reader, weighted)
        _running.add(batches)
        return batches

    def _batches(self, places: np.ndarray, reader: _Reader, weighted: bool) -> Generator[Any, None, None]:
        """Batches of the examples at `places` `(batches, size)`, made ahead by threads or processes."""
        import grain  # late: who streams nothing need not wait for it
        from absl import flags

        if not len(places):
            return
        size = places.shape[1]
        # What goes from a thread, and more so from a process, has its price: they hand over several images in one.
        most = _FROM_PROCESS if self.processes else min(_FROM_THREAD, max(1, size // (2 * self.workers)))
        piece = max(n for n in range(1, most + 1) if size % n == 0)
        ahead = max(math.ceil(size / piece / max(1, self.processes)), 2 * self.workers)
        pieces = grain.MapDataset.source(places.reshape(-1, piece)).map(reader)
        pipeline = pieces.to_iter_dataset(grain.ReadOptions(self.workers, ahead))
        if self.processes:
            if not flags.FLAGS.is_parsed():  # Grain reads one of its own, which only an absl program has parsed
                flags.FLAGS.mark_as_parsed()
            # Through pipes: of its arrays in shared memory, Grain leaves some behind at the end.
            pipes = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
            pipeline = grain.experimental.WithOptionsIterDataset(pipeline, pipes)
            pipeline = pipeline.mp_prefetch(grain.MultiprocessingOptions(self.processes, per_worker_buffer_size=2))
        made = iter(pipeline)
        try:
            for _ in range(len(places)):
                images = np.empty((size, *self.image), np.uint8)
                labels, weights = np.empty(size, np.int32), np.empty(size, np.float32)
                for first in range(0, size, piece):
                    part = slice(first, first + piece)
                    images[part], labels[part], weights[part], errors = next(made)
                    for error in errors:
                        self._warn(error)
                yield (images, labels, weights) if weighted else (images, labels)
        finally:  # ends the threads, also where the consumer leaves early
            made.close()

    def _warn(self, error: str) -> None:
        if error not in self._told:
            self._told.add(error)
            warnings.warn(f"skipped: {error}", stacklevel=3)


@dataclass(frozen=True)
class _Reader:
    """Makes the examples at given places of an order, in whatever thread or process.

    Attributes:
      order: the number of the example at each place.
      image: (H, W, C) of the result.
      random: the seed and the epoch of random crops; None for the middle.
      damaged: to stop at a damaged image, to take the next one in the order, or to leave a black one of weight 0.
    """

    source: Files | Records
    order: np.ndarray
    image: tuple[int, int, int]
    random: tuple[int, int] | None
    damaged: Literal["stop", "next", "blank"]

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """The images, labels and weights at `places`, and what was skipped; -1 is a place to fill up."""
        images = np.zeros((len(places), *self.image), np.uint8)
        labels, weights = np.zeros(len(places), np.int32), np.zeros(len(places), np.float32)
        errors: list[str] = []
        for i, place in enumerate(places.tolist()):
            if place >= 0 and (example := self._whole(place, errors)):
                images[i], labels[i] = example
                weights[i] = 1
        return images, labels, weights, errors

    def _whole(self, place: int, errors: list[str]) -> tuple[np.ndarray, int] | None:
        """The example at a place; where it is damaged, what is to be given for it."""
        tries = min(_MOST_TRIES, len(self.order))
        for step in range(tries):
            try:
                return self._example(int(self.order[(place + step) % len(self.order)]), place)
            except DataError as error:
                if self.damaged == "stop":
                    raise
                errors.append(str(error))
                if self.damaged == "blank":
                    return None
        raise DataError(f"{errors[-1]}. That makes {tries} examples in a row: is the data still there?")

    def _example(self, number: int, place: int) -> tuple[np.ndarray, int]:
        file, label, name = self.source[number]
        if not 0 <= label < len(self.source.classes):  # a test set whose labels are kept secret
            raise DataError(f"{name}: its label is {label}, expected 0 to {len(self.source.classes) - 1}")
        height, width, channels = self.image
        size = height, width
        if self.random is None:
            # Test results should not depend on a decoder's short cuts; at 3 times the size they cannot be seen.
            return read_part(file, lambda h, w: center_box(h, w, size), size, channels, gap=3, name=name), label
        rng = np.random.default_rng(np.random.SeedSequence(self.random, spawn_key=(place,)))
        mirror = rng.random() < 0.5
        return read_part(file, lambda h, w: random_box(h, w, rng), size, channels, mirror, name=name), label


# --- which part of a picture -------------------------------------------------------------------------------------


def random_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """The random-resized crop: a part of 8 to 100 % of the area, with an aspect ratio from 3/4 to 4/3.

    The area is uniform, so is the logarithm of the ratio, width / height, and so is the place. Where the part does not
    lie in the picture it is drawn again; where ten did not, it is the largest one in the middle with such a ratio.

    Returns:
      Left, top, right, bottom: whole pixels.

    Source: Szegedy et al., Going deeper with convolutions (2015), section 6.
    """
    for _ in range(10):
        area = height * width * rng.uniform(0.08, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            break
    else:
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def center_box(height: int, width: int, size: tuple[int, int]) -> Box:
    """The part in the middle with the proportions of `size` (height, width), 7/8 as large as the largest there is.

    For 224x224 it is what comes of bringing the shorter side to 256 and cutting 224x224 out of the middle, as networks
    for ImageNet are evaluated, without rounding in between.

    Returns:
      Left, top, right, bottom; no whole pixels.

    Source: Krizhevsky et al., ImageNet classification with deep convolutional neural networks (2012), section 2.
    """
    scale = 7 / 8 * min(height / size[0], width / size[1])
    h, w = scale * size[0], scale * size[1]
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def read_middle(source: str | Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """The middle of an image file as `padded_batches` cuts it out: `(*size, channels)`, uint8.

    Raises:
      DataError: when the file is missing, is no image, or is damaged.
    """
    path = Path(source)
    return read_part(path, lambda h, w: center_box(h, w, size), size, channels, gap=3, name=str(path))


# --- to the device -----------------------------------------------------------------------------------------------


def prefetch(batches: Iterable[Any], depth: int = 2, put: Callable[[Any], Any] = jax.device_put) -> Iterator[Any]:
    """The batches, put on the device `depth` of them ahead of their use.

    `jax.device_put` returns at once, and so does a jitted step: while the device computes with one batch, the next ones
    are copied to it. It holds up to `depth + 1` batches there.

    Args:
      batches: of arrays, or of tuples or dicts of them; an iterator is closed at the end, or when this one is.
      depth: how many; 0 puts each batch when it is asked for.
      put: what puts a batch there, such as `lambda batch: jax.device_put(batch, sharding)`.

    Raises:
      UserError: for a negative depth.
    """
    if depth < 0:
        raise UserError(f"prefetch(depth={depth}): expected 0 or more")
    return _prefetch(iter(batches), depth, put)


def _prefetch(batches: Iterator[Any], depth: int, put: Callable[[Any], Any]) -> Iterator[Any]:
    ahead: collections.deque[Any] = collections.deque()
    try:
        for batch in batches:
            ahead.append(put(batch))
            if len(ahead) > depth:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        if isinstance(batches, Generator):
            batches.close()
