"""Images that do not fit in memory: read, decoded and cropped while the network trains.

An epoch over a large set is a pipeline. The order of the examples is known before anything is read: it is a
permutation given by the seed and the epoch (`epoch_order`, the same as for a set in memory). The random numbers that
crop and mirror an example follow from the seed, the epoch and its position in that order. So any thread of any process
can make any example at any time, with the same result to the last bit:

    order[place] -> image file -> decode -> crop, resize, mirror -> uint8 (H, W, C) -> batch -> device

    stream = cnn.data.stream("./imagenet", "train")
    for epoch in range(90):
        for batch in cnn.data.prefetch(stream.batches(256, seed, epoch)):
            state, metrics = step(state, batch)

Grain (https://google-grain.readthedocs.io) runs the middle of it in threads, some examples ahead of the consumer.
Pillow decodes and resizes without Python's global lock, so threads use all cores of a common machine; with many more
than eight cores, the little that needs the lock limits the speed, and `processes` help.

Memory, in images of H * W * C bytes: the last batch, the batch that is being filled, and one batch of examples read
ahead (twice the number of threads, if that is more; with processes, two messages of at most 16 more in each). Each
thread also has one decoded image. This does not grow with the set; about 70 bytes an example do: path, label, and
position in the order.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import multiprocessing.util
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
from jaxcnn.processors import cores

_MOST_TRIES = 100  # as many damaged examples in a row are no accident
_FROM_THREAD, _FROM_PROCESS = 4, 16  # the most images in one message

_running: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


def _close() -> None:
    """Closes running iterators when Python exits: before Grain's processes (1), while its modules still exist."""
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
    """Labelled images that are read from their files batch by batch. Only a sample of fifty files is opened at once.

    Args:
      name: the path of a folder, `folder/CLASS/IMAGE`, or `folder/train/CLASS/IMAGE` beside `test`, `val` or
        `validation`; or an image classification set that tensorflow-datasets prepared as array_record, by name or
        by the path of the folder with its `dataset_info.json`.
      split: `train`, `test` or another one that the set has, also with a slice, `train[:90%]`; as for `load`.
      data_dir: the folder of prepared data; `JAXCNN_DATA_DIR` when not given, then `~/tensorflow_datasets`.
      size: (height, width) of the resulting images.
      crop: `random` crops and mirrors at random for training (`random_box`), `center` crops the centre
        (`center_box`), as `padded_batches` always does.
      workers: the number of reading threads, in each process; that of the cores when not given.
      processes: the number of reading processes; 0 reads in threads of this one. They start again for each epoch, which
        takes some seconds, and each loads the libraries. A script then needs `if __name__ == "__main__":`.
      damaged: what to do about an image that is missing or damaged: `stop` with an error that names it, or `skip` it
        with a warning: the next example in the order that can be read takes its place.

    Raises:
      DataError: when the data is not there (with what to do), has no example, or a setting is not one of the above.
    """
    for setting, value, choices in (("crop", crop, ("random", "center")), ("damaged", damaged, ("stop", "skip"))):
        if value not in choices:
            raise DataError(f"stream({setting}={value!r}): expected {' or '.join(map(repr, choices))}")
    if len(size) != 2 or min(size) < 1:
        raise DataError(f"stream(size={size}): expected (height, width) of 1 pixel or more")
    if processes < 0 or (workers is not None and workers < 1):
        raise DataError(
            f"stream(workers={workers}, processes={processes}): expected 1 or more threads and 0 or more processes"
        )
    source = find(name, split, data_dir)
    workers = workers or max(1, cores() // max(1, processes))
    channels = source.channels(damaged == "skip")
    return Stream(source, (int(size[0]), int(size[1])), channels, crop, workers, processes, damaged)


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled images in files, read in batches of uint8 images of one size. Made by `stream`.

    Attributes:
      source: the image files.
      size: (height, width) of the resulting images.
      channels: 3, or 1 if all images are grey.
      crop, workers, processes, damaged: as for `stream`.
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
        """(H, W, C) of the resulting images."""
        return *self.size, self.channels

    def hold_out(self, share: float, seed: int = 0) -> tuple[Stream, Stream]:
        """All but a random `share` (0 < share < 1) of the images, and that share; the same for the same seed."""
        if not 0 < share < 1:
            raise DataError(f"the share to hold out should be between 0 and 1, got {share}")
        val = np.zeros(len(self), bool)
        val[np.random.default_rng(seed).permutation(len(self))[: round(share * len(self))]] = True
        if val.all() or not val.any():
            raise DataError(f"{self.name}: {len(self)} images are too few to hold out a share of {share}")
        return self.take(~val), self.take(val)

    def take(self, index: np.ndarray) -> Stream:
        """The images at `index` (integers or a mask)."""
        return dataclasses.replace(self, source=self.source.take(index))

    def batches(
        self, size: int, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The shuffled batches of one epoch: images `(size / n, H, W, C)`, uint8, and labels `(size / n,)`, int32.

        They are the examples of `data.batches` on the same set. Order and crops depend on the seed and the epoch only.
        There are `len(self) // size` batches; the examples after the last are left out, others in each epoch.

        Args:
          size: of the batch, over all shards.
          start: the first batch to return; those before it are not read.
          shard: `(i, n)` returns the i-th of n equal parts of each batch, for one of n processes that train together.

        Raises:
          DataError: when the batch is larger than the set, or n does not divide it; and, during iteration, for a
            damaged image.
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
        """Every example once, in order, with a centre crop: `(images, labels, weights)`, all batches of one shape.

        The weights, float32, are 1. The last batch is padded with black images of weight 0, which also replace damaged
        images that are skipped.

        Args:
          size, shard: as for `batches`. All shards have the same number of batches.

        Raises:
          DataError: when n does not divide the size; and, during iteration, for a damaged image.
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
        """Batches of the examples at `places` `(batches, size)`, made in advance by threads or processes."""
        import grain  # slow to import, and needed for streams only
        from absl import flags

        if not len(places):
            return
        size = places.shape[1]
        # Messages between threads, and more so between processes, take time: each holds several images.
        most = _FROM_PROCESS if self.processes else min(_FROM_THREAD, max(1, size // (2 * self.workers)))
        piece = max(n for n in range(1, most + 1) if size % n == 0)
        ahead = max(math.ceil(size / piece / max(1, self.processes)), 2 * self.workers)
        pieces = grain.MapDataset.source(places.reshape(-1, piece)).map(reader)
        pipeline = pieces.to_iter_dataset(grain.ReadOptions(self.workers, ahead))
        if self.processes:
            if not flags.FLAGS.is_parsed():  # Grain reads a flag, which is parsed in absl programs only
                flags.FLAGS.mark_as_parsed()
            # Through pipes: Grain does not free all of its arrays in shared memory at the end.
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
        finally:  # ends the threads, also when the consumer stops early
            made.close()

    def _warn(self, error: str) -> None:
        if error not in self._told:
            self._told.add(error)
            warnings.warn(f"skipped: {error}", stacklevel=3)


@dataclass(frozen=True)
class _Reader:
    """Makes the examples at given positions of an order, in any thread or process.

    Attributes:
      order: the index of the example at each position.
      image: (H, W, C) of the result.
      random: the seed and the epoch of random crops; None for centre crops.
      damaged: stop at a damaged image, take the next one in the order, or replace it by a black one of weight 0.
    """

    source: Files | Records
    order: np.ndarray
    image: tuple[int, int, int]
    random: tuple[int, int] | None
    damaged: Literal["stop", "next", "blank"]

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """The images, labels and weights at `places`, and the errors of skipped images; -1 is padding."""
        images = np.zeros((len(places), *self.image), np.uint8)
        labels, weights = np.zeros(len(places), np.int32), np.zeros(len(places), np.float32)
        errors: list[str] = []
        for i, place in enumerate(places.tolist()):
            if place >= 0 and (example := self._whole(place, errors)):
                images[i], labels[i] = example
                weights[i] = 1
        return images, labels, weights, errors

    def _whole(self, place: int, errors: list[str]) -> tuple[np.ndarray, int] | None:
        """The example at a position, or what replaces it if it is damaged; None for a black image."""
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
        if not 0 <= label < len(self.source.classes):  # a test set with secret labels
            raise DataError(f"{name}: its label is {label}, expected 0 to {len(self.source.classes) - 1}")
        height, width, channels = self.image
        size = height, width
        if self.random is None:
            # Decoding at 3 times the size: the decoder's approximations must not change test results.
            return read_part(file, lambda h, w: center_box(h, w, size), size, channels, gap=3, name=name), label
        rng = np.random.default_rng(np.random.SeedSequence(self.random, spawn_key=(place,)))
        mirror = rng.random() < 0.5
        return read_part(file, lambda h, w: random_box(h, w, rng), size, channels, mirror, name=name), label


# --- crops -------------------------------------------------------------------------------------------------------


def random_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """The random-resized crop: a box of 8 to 100 % of the area, with an aspect ratio from 3/4 to 4/3.

    The area, the logarithm of the ratio width / height, and the position are uniform. A box that does not fit in the
    image is drawn again; after ten that do not fit, it is the largest centred box with a ratio in that range.

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
    """The centre crop with the aspect ratio of `size` (height, width), 7/8 as large as the largest such crop.

    For 224x224 this equals resizing the shorter side to 256 and cropping the central 224x224, as networks for ImageNet
    are evaluated, without intermediate rounding.

    Returns:
      Left, top, right, bottom, in pixels, not rounded.

    Source: Krizhevsky et al., ImageNet classification with deep convolutional neural networks (2012), section 2.
    """
    scale = 7 / 8 * min(height / size[0], width / size[1])
    h, w = scale * size[0], scale * size[1]
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def read_middle(source: str | Path, channels: int, size: tuple[int, int]) -> np.ndarray:
    """The centre crop of an image file, as in `padded_batches`: `(*size, channels)`, uint8.

    Raises:
      DataError: when the file is missing, is no image, or is damaged.
    """
    path = Path(source)
    return read_part(path, lambda h, w: center_box(h, w, size), size, channels, gap=3, name=str(path))


# --- to the device -----------------------------------------------------------------------------------------------


def prefetch(batches: Iterable[Any], depth: int = 2, put: Callable[[Any], Any] = jax.device_put) -> Iterator[Any]:
    """The batches, put on the device `depth` batches before their use.

    `jax.device_put` returns at once, and so does a jitted step: while the device computes with one batch, the next ones
    are copied to it. The device holds up to `depth + 1` batches.

    Args:
      batches: of arrays, or of tuples or dicts of them; a generator is closed at the end, or when this one is.
      depth: the number of batches; 0 puts each batch when it is needed.
      put: the function that puts a batch there, such as `lambda batch: jax.device_put(batch, sharding)`.

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
