"""Data parallelism on simulated devices: equal losses on one and on several devices, and the overhead on one.

JAX divides a CPU into several devices, or several processes work together as hosts do (gloo), with `jit` over a
mesh and with `pmap`. The network is a small residual network with batch normalization and dropout. Finally, the step of
`DataParallel(1)` and the ordinary step are timed in turn, in one process with one device.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro

import jaxcnn as cnn
from experiments.common import machine, main, table
from experiments.survive import network
from jaxcnn.devices import DataParallel, OneDevice, join
from jaxcnn.errors import UserError

DEVICES, PROCESSES = (1, 2, 4, 8), (2, 4)


def trainer(data: cnn.data.Dataset, on: OneDevice) -> tuple[Any, Any]:
    """A training step and its initial state on these devices."""
    model, optimizer = network(), optax.sgd(0.02, 0.9)
    state = cnn.train.create_state(model, optimizer, jax.random.key(0), data.images[:1])
    step = cnn.train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer, devices=on)
    return step, on.replicate(state)


def losses(data: cnn.data.Dataset, on: OneDevice, steps: int, batch: int) -> list[float]:
    step, state = trainer(data, on)
    found: list[float] = []
    for epoch in range(steps):
        for pair in cnn.data.batches(data, batch, 0, epoch, shard=on.shard):
            state, measured = step(state, on.batch(pair))
            found.append(float(measured["loss"]))
            if len(found) == steps:
                return found
    return found


def overhead(data: cnn.data.Dataset, batch: int, turns: int) -> dict[str, float]:
    """The step time of each form on one device, relative to the ordinary step (median ratios)."""
    kinds: dict[str, OneDevice] = {"alone": OneDevice(), "jit": DataParallel(1), "pmap": DataParallel(1, "pmap")}
    made = {name: trainer(data, on) for name, on in kinds.items()}
    pair = data.images[:batch], data.labels[:batch]
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(turns + 1):
        for name, on in kinds.items():
            step, state = made[name]
            began = time.perf_counter()
            for _ in range(3):
                state, measured = step(state, on.batch(pair))
                jax.block_until_ready(measured)
            made[name] = step, state
            if turn:  # the first turn compiles
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    return {name: medians[name] / medians["alone"] for name in ("jit", "pmap")}


def asked(request: dict[str, Any], count: int, processes: int, **variables: str) -> list[float]:
    """The losses with a number of processes and a number of devices in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count), **variables}
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.devices", "--worker", json.dumps(request)], stdout=subprocess.PIPE,
            text=True, env={**environment, "JAX_PROCESS_ID": str(i)},
        )
        for i in range(processes)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise UserError(f"{processes} processes of {count} devices: one of them failed")
    found = [json.loads(text.strip().splitlines()[-1]) for text in said]
    if any(other != found[0] for other in found):
        raise UserError(f"{processes} processes of {count} devices do not agree: {[each[-1] for each in found]}")
    return found[0]


def devices(
    data: str = "cifar10", data_dir: Path | None = None, steps: int = 50, batch: int = 64, examples: int = 1024,
    turns: int = 30, most: int = 8, worker: Annotated[str | None, tyro.conf.arg(help_behavior_hint="")] = None,
) -> None:  # fmt: skip
    """Trains the same network on 1, 2, 4 and 8 devices, and in 1, 2 and 4 processes.

    Args:
      data: cifar10, or digits.
      data_dir: where prepared datasets lie.
      steps: number of training steps.
      batch: examples per step, summed over all devices.
      examples: how many images it learns.
      turns: number of timed turns of each step on one device.
      most: maximum number of devices and processes.
      worker: for internal use: the request that this process computes.
    """
    request: dict[str, Any] = {
        "data": data,
        "data_dir": str(data_dir) if data_dir else None,
        "steps": steps,
        "batch": batch,
        "examples": examples,
    }
    if worker is not None:
        request = json.loads(worker)
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            join()
    found = cnn.data.load(request["data"], "train", request["data_dir"]).take(slice(request["examples"]))
    if worker is not None:
        on = DataParallel(None, request["form"]) if request["form"] else OneDevice()
        print(json.dumps(losses(found, on, request["steps"], request["batch"])))
        return

    alone = asked({**request, "form": None}, 1, 1)
    rows = [["1 device, without it", f"{alone[-1]:.6f}", ""]]

    def add(name: str, each: list[float]) -> None:
        away = float(np.max(np.abs(np.subtract(each, alone)) / np.abs(alone)))
        rows.append([name, f"{each[-1]:.6f}", f"{away:.1e}"])
        print(f"{name}: {each[-1]:.6f}", flush=True)

    # With several devices, a CPU uses XLA's convolutions, so one device is also measured with XLA's rounding.
    add("1 device, convolutions by XLA", asked({**request, "form": None}, 1, 1, JAXCNN_PLAIN="all"))
    for form in ("jit", "pmap"):
        where = [(n, 1) for n in DEVICES if n <= most] + [(1, n) for n in PROCESSES if n <= most]
        for count, processes in where:
            name = f"{processes} processes" if processes > 1 else f"{count} device{'s' * (count > 1)}"
            add(f"{name}, {form}", asked({**request, "form": form}, count, processes))
    print(f"\n{table(['', f'loss of step {steps}', 'largest difference so far, relative'], rows)}")
    ratios = overhead(found, batch, turns)
    print(f"\nA step on one device, against the ordinary one: {', '.join(f'{k} {v:.3f}' for k, v in ratios.items())} "
          f"(medians of {turns} turns; {machine()})")  # fmt: skip


if __name__ == "__main__":
    main(devices)
