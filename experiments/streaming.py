"""Throughput and memory of streaming: images are read, decoded, cropped to 224x224 and flipped.

Compares `cnn.data.stream` with PyTorch's DataLoader (a Dataset written with Pillow, one worker per core) and with only
decoding whole files in a thread pool, the maximum that Pillow reaches on the machine. They take turns of one epoch each
over the same files, without prefetching before an epoch starts. Each has one warmup epoch, so that the files are in the
page cache and the DataLoader's processes have started.

    python -m experiments.imagenet_sample --out sample --per-class 200
    python -m experiments.streaming --data ./sample
    python -m experiments.streaming --data ./sample --memory 200
"""

from __future__ import annotations

import importlib.util
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

import jaxcnn as cnn
from experiments.common import machine, main, table
from experiments.peers.__main__ import peak
from jaxcnn.data.load import find
from jaxcnn.data.sources import Files
from jaxcnn.errors import UserError
from jaxcnn.processors import cores


def streaming(
    data: str, split: str = "train", size: int = 224, batch_size: int = 64, workers: int | None = None,
    processes: int = 0, turns: int = 5, epochs: int = 5, memory: int | None = None,
) -> None:  # fmt: skip
    """Measures images per second for a folder of images, or with --memory the memory that streaming needs.

    Args:
      data: a folder of images by class, with a slash in its path: ./sample.
      split: the split to read.
      size: height and width of the output images.
      batch_size: examples a batch.
      workers: number of threads, or of processes of the DataLoader; one per core when not given.
      processes: also measure jaxcnn with this number of processes.
      turns: number of timed epochs of each.
      epochs: with --memory, number of passes over the dataset.
      memory: limit in MiB. The decoded images must be larger, and streaming must stay below it.
    """
    files = find(data, split)
    if not isinstance(files, Files):
        raise UserError(f"--data {data}: expected a folder of image files")
    if len(files) < batch_size:
        raise UserError(f"--batch-size {batch_size}: {data} has {len(files)} images")
    loader = Loaders(files, data, split, (size, size), batch_size, workers or cores())
    if memory is not None:
        use_of_memory(loader, epochs, memory)
        return
    readers = {f"jaxcnn, {loader.workers} threads": loader.jaxcnn()}
    if processes:
        readers[f"jaxcnn, {processes} processes"] = loader.jaxcnn(processes)
    if importlib.util.find_spec("torch"):
        readers[f"torch {version('torch')} DataLoader, {loader.workers} processes"] = loader.torch()
    readers[f"decoding alone, {loader.workers} threads"] = loader.decoding()
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(turns + 1):
        for name, read in readers.items():
            began = time.perf_counter()
            count = read(turn)
            seconds[name].append((time.perf_counter() - began) / count)
    speeds = {name: sorted(1 / each for each in times[1:]) for name, times in seconds.items()}
    ours = statistics.median(speeds[next(iter(readers))])
    print(f"{loader.about()}; batches of {batch_size}, {turns} turns ({machine()}, Pillow {version('pillow')})")
    print(
        table(
            ["", "images/s, median", "range", "jaxcnn is"],
            [
                [name, f"{(median := statistics.median(each)):.0f}", f"{each[0]:.0f} to {each[-1]:.0f}",
                 f"{ours / median:.2f} x"]
                for name, each in speeds.items()
            ],
        )
    )  # fmt: skip


def use_of_memory(loader: Loaders, epochs: int, limit: int) -> None:
    """Streams a dataset larger than `limit` MiB several times and prints the memory that this needs."""
    decoded = len(loader.files) * math.prod((*loader.size, 3)) / 2**20
    if decoded <= limit:
        raise UserError(
            f"--memory {limit}: {len(loader.files):,} images take {decoded:.0f} MiB decoded; use more of them"
        )
    read = loader.jaxcnn()
    before, rows = peak(), []
    for epoch in range(epochs):
        count = read(epoch)
        rows.append([str(epoch + 1), f"{count * math.prod((*loader.size, 3)) / 2**20:.0f}", f"{peak() - before:.0f}"])
    print(f"{loader.about()}, {decoded:.0f} MiB decoded; batches of {loader.batch_size} ({machine()})")
    print(f"the process had {before:.0f} MiB before the first batch; the table lists the largest increase since then")
    print(table(["epoch", "MiB of images given", "MiB of memory"], rows))
    if peak() - before >= limit:
        raise UserError(f"streaming took {peak() - before:.0f} MiB, more than --memory {limit}")


class Loaders:
    """The readers by name, each a function from the epoch's number to the number of images read."""

    def __init__(
        self, files: Files, data: str, split: str, size: tuple[int, int], batch_size: int, workers: int
    ) -> None:
        self.files, self.data, self.split = files, data, split
        self.size, self.batch_size, self.workers = size, batch_size, workers

    def about(self) -> str:
        """A description of the dataset in one line."""
        total = sum((self.files.top / os.fsdecode(path)).stat().st_size for path in self.files.paths)
        return f"{self.data}: {len(self.files):,} files, {total / 2**20:.0f} MiB, as {self.size[0]}x{self.size[1]}"

    def jaxcnn(self, processes: int = 0) -> Callable[[int], int]:
        workers = None if processes else self.workers
        stream = cnn.data.stream(self.data, self.split, size=self.size, workers=workers, processes=processes)

        def read(epoch: int) -> int:
            return sum(len(labels) for _, labels in stream.batches(self.batch_size, 0, epoch))

        return read

    def torch(self) -> Callable[[int], int]:
        import torch

        loader: Any = torch.utils.data.DataLoader(
            Augmented(self.files, self.size), self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers,
            persistent_workers=True, multiprocessing_context="spawn",
        )  # fmt: skip
        return lambda epoch: sum(len(labels) for _, labels in loader)

    def decoding(self) -> Callable[[int], int]:
        def decode(index: int) -> None:
            with Image.open(self.files.top / os.fsdecode(self.files.paths[index])) as picture:
                picture.convert("RGB")

        def read(epoch: int) -> int:
            with ThreadPoolExecutor(self.workers) as pool:
                return len(list(pool.map(decode, range(len(self.files)))))

        return read


class Augmented:
    """A dataset for PyTorch: random resized crop and horizontal flip with Pillow, as in torchvision."""

    def __init__(self, files: Files, size: tuple[int, int]) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        with Image.open(self.files.top / os.fsdecode(self.files.paths[index])) as opened:
            picture = opened.convert("RGB")
        left, top, width, height = self._crop(*picture.size)
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(picture), int(self.files.labels[index])

    @staticmethod
    def _crop(width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * random.uniform(0.08, 1)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, width - w), random.randint(0, height - h), w, h
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        return (width - w) // 2, (height - h) // 2, w, h


if __name__ == "__main__":
    main(streaming)
