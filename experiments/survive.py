"""Tests resuming: a run is killed at random moments, or its checkpoints are damaged, and it is resumed each time.

A small residual network with batch normalization, dropout and augmentation is trained on CIFAR-10 without interruption.
Then the same run is killed repeatedly (SIGKILL, which a process cannot handle) at a random time and resumed with
`resume=True`; every third time it is killed while it writes a file: its result, a plot or a checkpoint. In other
trials, a file of a checkpoint is truncated, removed, or has one bit flipped. Each run must end with exactly the metrics
of the uninterrupted run (except times), with complete plots and no extra file. A damaged checkpoint may also be
rejected with one clear error. Any other outcome counts as lost, and the command exits with an error.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

import jaxcnn as cnn
from experiments.common import machine, main
from jaxcnn.errors import UserError

TIMES = ("seconds", "images_per_second")
FILES = {"config.json", "metrics.jsonl", "result.json", "confusion.png", "mistakes.png", "curves.png"}
WRITTEN = (*sorted(FILES), "progress.json", "manifest.json")
KILL_AT = "JAXCNN_SURVIVE_KILL_AT"  # the file's name, and before or after its final rename


def network() -> cnn.Layer:
    """A residual network of one block with batch normalization and dropout."""

    def block(features: int) -> cnn.Layer:
        return cnn.serial(
            cnn.conv(features, 3, padding=1, bias=False), cnn.batch_norm(), cnn.relu,
            cnn.conv(features, 3, padding=1, bias=False), cnn.batch_norm(),
        )  # fmt: skip

    return cnn.serial(
        conv1=cnn.conv(16, 3, 2, padding=1, floor=True), bn1=cnn.batch_norm(), act1=cnn.relu,
        block=cnn.residual(block(16)), act2=cnn.relu, pool=cnn.global_avg_pool, drop=cnn.dropout(0.2),
        head=cnn.dense(10),
    )  # fmt: skip


def train(folder: Path) -> None:
    """Starts the run in the folder, or resumes it (in one process)."""
    if wanted := os.environ.get(KILL_AT):
        kill_at(*wanted.split())
    with np.load(folder.parent / "data.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    found = cnn.data.Dataset(images, labels, tuple(map(str, range(10))), "cifar10")
    train, val = found.hold_out(0.25)
    cnn.train.fit(
        network(),
        train,
        cnn.train.Objective(augment=cnn.data.compose(cnn.data.flip, cnn.data.crop(padding=4))),
        validation=val,
        test=val,
        epochs=6,
        batch_size=64,
        run=cnn.train.Run(folder, resume=(folder / "config.json").exists(), save_every=0.5),
        show=False,
        ema=0.99,
    )


def kill_at(name: str, when: str) -> None:
    """Kills this process when it writes a file of this name, before or after the final rename."""
    replace = os.replace

    def killing(part: Any, path: Any) -> None:
        own = Path(path).name == name
        if own and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        replace(part, path)
        if own:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = killing  # type: ignore[assignment]


def start(folder: Path, at: str = "") -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.survive", "--worker", str(folder)]
    environment = {**os.environ, KILL_AT: at}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def whole(folder: Path) -> bool:
    """Whether a run has all its files and no others, and its plots can be read."""
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
    return {path.name for path in folder.iterdir()} == FILES | {"checkpoints"}


def figures(folder: Path) -> Any:
    """The metrics of a run, without times."""

    def untimed(record: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in record.items() if name not in TIMES}

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [untimed(json.loads(line)) for line in [*lines, (folder / "result.json").read_text()]]


def finish(folder: Path) -> tuple[int, str]:
    """Resumes the run until it ends; returns the exit status and the last line of output."""
    process = start(folder)
    said = process.communicate()[1].strip().splitlines()
    return process.returncode, said[-1] if said else ""


def damage(folder: Path, rng: random.Random) -> str:
    """Truncates, changes or removes a file of a checkpoint; returns a description."""
    steps = cnn.train.Run(folder).checkpoints.steps()[::-1]
    step = steps[0] if rng.random() < 0.8 else rng.choice(steps)
    files = sorted(p for p in (folder / "checkpoints" / str(step)).rglob("*") if p.is_file())
    path, how = rng.choice(files), rng.choice(["cut", "bit", "removed"])
    content = bytearray(path.read_bytes())
    if how == "removed":
        path.unlink()
    elif how == "cut":
        os.truncate(path, rng.randrange(max(len(content), 1)))
    elif content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    return f"{path.relative_to(folder / 'checkpoints')}: {how}"


def survive(
    data: str = "cifar10", data_dir: Path | None = None, kills: int = 30, damages: int = 50, examples: int = 2048,
    seed: int = 0, worker: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None,
) -> None:  # fmt: skip
    """Kills a run at random moments and damages its checkpoints; the results must not change.

    Args:
      data: cifar10, or digits.
      data_dir: where prepared datasets lie.
      kills: number of times that the run is killed.
      damages: number of times that a file is damaged.
      examples: number of images for training and validation.
      seed: of the moments and the damages.
      worker: for internal use: the run of this process.
    """
    if worker is not None:
        train(worker)
        return
    rng = random.Random(seed)
    found = cnn.data.load(data, "train", data_dir).take(slice(examples))
    lost = []
    with tempfile.TemporaryDirectory() as top:
        np.savez(Path(top) / "data.npz", allow_pickle=False, images=found.images, labels=found.labels)
        undisturbed = Path(top) / "whole"
        began = time.monotonic()
        status, said = finish(undisturbed)
        seconds = time.monotonic() - began
        if status:
            raise UserError(f"the run does not end well even undisturbed: {said}")
        expected = figures(undisturbed)
        print(f"undisturbed: {expected[-1]['steps']} steps in {seconds:.1f} s, "
              f"test accuracy {expected[-1]['test_accuracy']:.2%}", flush=True)  # fmt: skip

        for k in range(kills):
            folder, after = Path(top) / f"killed-{k}", rng.uniform(0, seconds)
            at = f"{WRITTEN[k // 3 % len(WRITTEN)]} {rng.choice(['before', 'after'])}" if k % 3 == 2 else ""
            process = start(folder, at)
            if not at:
                time.sleep(after)
                process.kill()
            process.communicate()
            there = [p.name for p in (folder / "checkpoints").glob("[0-9]*")]
            ended = (folder / "result.json").exists()
            status, said = finish(folder)
            same = status == 0 and figures(folder) == expected and whole(folder)
            moment = f"{at.replace(' ', ', ')} its name" if at else f"after {after:5.2f} s"
            print(f"killed at {moment}, {'at its end' if ended else f'checkpoints of steps {there}'}: "
                  f"{'the same figures' if same else f'LOST ({said})'}", flush=True)  # fmt: skip
            lost += [] if same else [f"kill {k}"]
            shutil.rmtree(folder)

        stopped = Path(top) / "stopped"
        process = start(stopped)
        while len(list((stopped / "checkpoints").glob("[0-9]*"))) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        outcomes = {"the same figures": 0, "one clear error": 0}
        for k in range(damages):
            folder = Path(top) / f"damaged-{k}"
            shutil.copytree(stopped, folder)
            what = damage(folder, rng)
            status, said = finish(folder)
            if status == 0 and figures(folder) == expected:
                outcome = "the same figures"
            elif status == 1 and "survive.py: " in said:
                outcome = "one clear error"
            else:
                outcome = f"LOST ({said})"
                lost.append(f"damage {k}")
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            print(f"{what}: {outcome}", flush=True)
            shutil.rmtree(folder)
    print(f"\n{kills - sum(name.startswith('kill') for name in lost)} of {kills} kills ended with the same figures; "
          f"{damages} damages: {', '.join(f'{n} {what}' for what, n in outcomes.items())} ({machine()})")  # fmt: skip
    if lost:
        raise UserError(f"lost: {', '.join(lost)}")


if __name__ == "__main__":
    main(survive)
