"""Time to accuracy: LeNet-5 from the start of the process to 99 % test accuracy on MNIST.

The time includes imports, compilation, training and testing. jaxcnn, Flax and PyTorch take turns, each in a new
process, with the same digits in the same order. Their initializations differ, so the number of epochs may differ.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, table
from experiments.peers.accuracy import LIBRARIES
from jaxcnn.errors import unknown


def to_accuracy(
    data: str = "mnist", data_dir: Path | None = None, libraries: tuple[str, ...] = tuple(LIBRARIES),
    target: float = 0.99, lr: float = 6e-3, batch_size: int = 256, epochs: int = 4, seeds: int = 3,
) -> None:  # fmt: skip
    """Measures the seconds that a whole process takes until LeNet-5 reaches 99 % test accuracy.

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      libraries: jaxcnn, flax, torch; libraries that are not installed are skipped with a message.
      target: the test accuracy to reach, measured after each epoch.
      lr: Adam's initial learning rate, with cosine decay to 0.
      batch_size: examples a step.
      epochs: maximum number of epochs, and the length of the schedule.
      seeds: number of runs of each library.
    """
    for name in libraries:
        if name not in LIBRARIES:
            raise unknown("library", name, LIBRARIES)
    present = [name for name in libraries if importlib.util.find_spec(name) is not None]
    for name in set(libraries) - set(present):
        print(f"left out: {name} is not installed")
    train, test = (cnn.data.load(data, split, data_dir) for split in ("train", "test"))
    pad = (32 - train.images.shape[1]) // 2
    around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    found: dict[str, list[tuple[float, int, float]]] = {name: [] for name in present}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(
            path, allow_pickle=False, images=np.pad(train.images, around), labels=train.labels.astype(np.int64),
            test_images=np.pad(test.images, around), test_labels=test.labels.astype(np.int64),
            mean=train.images.mean() / 255, std=train.images.std() / 255,
        )  # fmt: skip
        for seed in range(seeds):
            for name in present:
                request = {"library": name, "data": str(path), "target": target, "lr": lr,
                           "batch_size": batch_size, "epochs": epochs, "seed": seed}  # fmt: skip
                began = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-m", "experiments.peers.accuracy", json.dumps(request)],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                seconds = time.perf_counter() - began
                answer = json.loads(done.stdout.splitlines()[-1])
                found[name].append((seconds, answer["epochs"], answer["accuracy"]))
                print(f"seed {seed}, {name}: {answer['accuracy']:.2%} after {answer['epochs']} epochs, {seconds:.1f} s",
                      flush=True)  # fmt: skip
    rows = [
        [name, f"{statistics.median(s for s, _, _ in runs):.1f}", " ".join(f"{s:.1f}" for s, _, _ in runs),
         " ".join(str(e) for _, e, _ in runs), " ".join(f"{a:.2%}" for _, _, a in runs)]
        for name, runs in found.items()
    ]  # fmt: skip
    print(
        f"\nLeNet-5 to {target:.0%} of {data}, batch {batch_size}, Adam {lr}, cosine over {epochs} epochs ({machine()})"
    )
    print(table(["", "seconds, median", "each", "epochs", "test accuracy"], rows))


if __name__ == "__main__":
    main(to_accuracy)
