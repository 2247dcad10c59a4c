"""Runs one task with one peer: `python -m experiments.peers REQUEST`, started by `experiments.speed`.

It builds the network, times the first call (tracing, compilation, execution), makes two more calls and prints a line of
JSON. Then it reads a number of calls per line and prints the seconds of each call. An empty line ends the process.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.peers import Task


def peak(device: str = "cpu") -> float:
    """The peak memory of this process in MiB; on a GPU, of its arrays and temporaries.

    Linux reports this process's peak in /proc; `getrusage` also counts the parent's memory at the start.
    """
    if device == "gpu":
        if "torch" in sys.modules:
            return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
        return sys.modules["jax"].devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of a call and its result."""
    began = time.perf_counter()
    value = run()
    return time.perf_counter() - began, value


def main() -> None:
    """Answers requests until an empty line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    request = json.loads(sys.argv[1])
    if request["mode"] == "prepare":
        from experiments.peers import ours

        ours.prepare(Task(**{**request["task"], "shape": tuple(request["task"]["shape"])}))
        return
    module = importlib.import_module(request["module"])
    task = Task.load(request["folder"], dtype=request["dtype"])
    build = module.trainer if request["mode"] == "train" else module.inference
    run = build(task, **request["options"])

    calls = [timed(run) for _ in range(3)]
    seconds = [duration for duration, _ in calls]
    found: dict[str, Any] = {"first_call": seconds[0], "call": min(seconds[1:])}
    if request["mode"] == "train":
        found["losses"] = [float(loss) for _, loss in calls]
    else:
        found["outputs"] = str(Path(request["folder"]) / f"{os.getpid()}.npy")
        outputs = calls[-1][1]
        np.save(found["outputs"], np.asarray(outputs.cpu() if hasattr(outputs, "cpu") else outputs, np.float32))
    del calls
    print(json.dumps(found), file=answers, flush=True)
    for line in iter(sys.stdin.readline, ""):
        if not line.strip():
            break
        run()  # not counted: a virtual machine's host may have taken back memory that was free during the other's turn
        print(json.dumps([timed(run)[0] for _ in range(int(line))]), file=answers, flush=True)
    print(json.dumps({"peak": peak(task.device)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
