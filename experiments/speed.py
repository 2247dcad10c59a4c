"""Compares jaxcnn with other libraries: training step and inference of networks on one device.

Seven networks are written in each library; ONNX Runtime and OpenVINO, which only infer, get PyTorch's. `--models` also
takes later ones, which are compared with PyTorch and these two only, as torchvision has them: mobilenet_v2,
efficientnet_b0, convnext_tiny, unet, ...

Every library has the same weights, batch, loss and optimizer (`experiments/peers`), all cores, and a separate process.
Before timing, its outputs and its losses over three steps must agree with jaxcnn's; otherwise it is left out and the
command exits with an error. Then it takes turns with jaxcnn, so that other load on the machine affects both; a ratio is
one of medians over the same turns. Only one process computes at a time. A pause after each turn lets the other
process's threads go to sleep. The first call of a turn is not counted: many virtual machines give memory that has been
free for two seconds back to their host, so that the first step after a pause takes up to twice as long as one in a
training run (MobileNetV2: 1359 ms, then 514 and 520). Sometimes the second one does, too, so at least three calls are
counted, and a turn's time is their median.

The first call includes tracing, compilation and execution. Memory is the peak of the process, libraries included; on a
GPU (`--device gpu`), it is the peak of the GPU memory of its arrays. On a GPU, batches are larger, and all libraries
multiply float32 as TensorFloat-32, which is JAX's default.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments.common import machine, main, save, table
from experiments.peers import ON_GPU, OURS, OURS_FLOAT32, PEERS, QUICK, TASKS, ZOO, Peer, Task
from jaxcnn.errors import UserError, unknown
from jaxcnn.ops import cpu
from jaxcnn.ops.backend import FORMS

Mode = Literal["train", "infer"]
MODES: dict[Mode, str] = {"train": "training step", "infer": "inference"}
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "equinox", "keras", "torch", "torchvision", "onnxruntime", "openvino")

TURN, CALLS, PAUSE, TURNS = 0.25, 3, 0.02, 4
"""Seconds of calls in a turn, the least number of them, seconds between turns, and the least number of turns."""

# Tolerances for a peer's outputs, relative to the largest, its first loss, relative to itself, and its later losses,
# relative to their change over three steps. Float32 rounding gives 1e-6 to 1e-5 for outputs; an epsilon of 1e-5 in
# place of 1e-3 in batch normalization gives 1e-2. Rounding grows from step to step, as a ReLU may be on in one library
# and off in the other: to several 1e-3 of the loss in networks with batch normalization. A wrong momentum changes the
# third loss by a third of the change. Bfloat16 has three decimal digits, and libraries round in different places.
# TensorFloat-32 has the three decimal digits of float16 and sums in float32.
TOLERANCES = {"float32": (1e-3, 1e-4, 0.1), "tensorfloat32": (3e-2, 5e-3, 0.3), "bfloat16": (0.1, 0.05, 0.5)}


ABLATIONS = {
    **{f"without_{form}": Peer(f"without {form}", OURS.module, environment={"JAXCNN_PLAIN": form}) for form in FORMS},
    "plain": Peer("all of XLA's own", OURS.module, environment={"JAXCNN_PLAIN": "all"}),
    "no_ynn": Peer(
        "plain, XLA's convolutions by Eigen",
        OURS.module,
        environment={
            "JAXCNN_PLAIN": "all",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution",
        },
    ),
    "huge_pages": Peer("with huge pages", OURS.module, environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
}
"""jaxcnn without one of its forms for a CPU, without all of them, and with settings of the process."""


class Mismatch(Exception):
    """A peer's outputs or losses differ from jaxcnn's."""


class Worker:
    """A process that runs one task with one peer; it sleeps between requests.

    Attributes:
      built: results before the first turn: seconds of the first and of a later call; losses or outputs.
    """

    def __init__(self, peer: Peer, mode: str, folder: str, dtype: str, device: str):
        request = {"module": peer.module, "options": dict(peer.options), "mode": mode, "folder": folder,
                   "dtype": peer.dtype or dtype}  # fmt: skip
        self._errors = Path(tempfile.mkdtemp(dir=folder)) / "errors"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "experiments.peers", json.dumps(request)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=_environment(folder, device) | dict(peer.environment),
            )  # fmt: skip
        self.built: dict[str, Any] = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        self.close()
        raise RuntimeError((self._errors.read_text().strip().splitlines() or [f"it ended with {status}"])[-1])

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a process that has ended reports why
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        return self._answer()

    def turn(self) -> float:
        """The median seconds of at least three calls and a quarter of a second, after one call that is not counted."""
        calls = min(100, max(CALLS, round(TURN / self.built["call"])))
        seconds = statistics.median(self._ask(str(calls)))
        time.sleep(PAUSE)
        return seconds

    def peak(self) -> float:
        """Ends the process and returns its peak memory in MiB."""
        return self._ask("")["peak"]

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


def _environment(folder: str, device: str) -> dict[str, str]:
    """The environment of a process: the device, shared GPU memory, and no compilation cache."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return {
        **kept,
        **({"JAX_PLATFORMS": "cpu"} if device == "cpu" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        "JAX_TRACEBACK_FILTERING": "off",
        "TORCHINDUCTOR_CACHE_DIR": tempfile.mkdtemp(dir=folder),
    }


@contextlib.contextmanager
def _working(peer: Peer, mode: str, task: Task) -> Iterator[Worker]:
    worker = Worker(peer, mode, task.folder, task.dtype, task.device)
    try:
        yield worker
    finally:
        worker.close()


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], dtype: str, device: str = "cpu") -> float:
    """The difference of a peer from jaxcnn: outputs relative to the largest, losses relative to their change.

    Raises:
      Mismatch: if the difference exceeds `TOLERANCES`.
    """
    outputs, first, later = TOLERANCES["tensorfloat32" if (dtype, device) == ("float32", "gpu") else dtype]
    if "losses" in ours:
        a, b = np.array(ours["losses"]), np.array(theirs["losses"])
        began = abs(b[0] - a[0]) / abs(a[0])
        # A network may hardly learn in three steps: then all of the change is rounding.
        change = max(np.abs(a - a[0]).max(), 1e-5 * abs(a[0]))
        difference = float(np.abs(b - a).max() / change)
        if not (began <= first and difference <= later):
            raise Mismatch(f"losses {_list(b)} instead of {_list(a)}")
        return difference
    x, y = np.load(ours["outputs"]), np.load(theirs["outputs"])
    if x.shape != y.shape:
        raise Mismatch(f"outputs of shape {y.shape} instead of {x.shape}")
    difference = float(np.abs(x - y).max() / np.abs(x).max())
    if not difference <= outputs:
        raise Mismatch(f"outputs differ by {difference:.1e} of the largest")
    return difference


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{v:.6g}" for v in values)


def take_turns(ours: Worker, theirs: Worker | None, seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds of a call in each turn, for a number of seconds and at least four turns."""
    mine: list[float] = []
    other: list[float] = []
    end = time.perf_counter() + seconds
    while len(mine) < TURNS or time.perf_counter() < end:
        mine.append(1000 * ours.turn())
        if theirs is not None:
            other.append(1000 * theirs.turn())
    return mine, other


def measure(
    task: Task, peers: Mapping[str, Peer], modes: Sequence[Mode], seconds: float
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yields the record of each library and mode, and whether it agrees with jaxcnn. jaxcnn's record is the last."""
    with tempfile.TemporaryDirectory() as folder:
        task = dataclasses.replace(task, folder=folder)
        request = json.dumps({"mode": "prepare", "task": dataclasses.asdict(task)})
        subprocess.run([sys.executable, "-m", "experiments.peers", request], check=True,
                       env=_environment(folder, "cpu"))  # fmt: skip
        for mode in modes:
            having = {name: peer for name, peer in peers.items() if peer.trains or mode == "infer"}
            if peers and not having:
                continue
            with _working(OURS, mode, task) as ours:
                common: dict[str, Any] = {"model": task.model, "batch": task.shape, "mode": mode}
                alone: list[float] = []
                for name, peer in having.items():
                    record: dict[str, Any] = {**common, "peer": name}
                    try:
                        with _working(peer, mode, task) as theirs:
                            difference = compare(ours.built, theirs.built, task.dtype, task.device)
                            mine, other = take_turns(ours, theirs, seconds)
                            record |= _summary(theirs, other) | {"difference": difference}
                    except (Mismatch, RuntimeError) as error:
                        yield {**record, "error": str(error)}, False
                        continue
                    alone += mine
                    median = statistics.median(mine)
                    yield {**record, "jaxcnn_ms": median, "ratio": record["ms"] / median}, True
                if not having:
                    alone, _ = take_turns(ours, None, seconds)
                if alone:
                    yield {**common, "peer": "jaxcnn", **_summary(ours, alone), "ratio": 1.0}, True


def _summary(worker: Worker, times: Sequence[float]) -> dict[str, Any]:
    low, median, high = np.percentile(times, [25, 50, 75]).tolist()
    found = {"ms": median, "quartiles": [low, high], "turns": len(times), "first_call_s": worker.built["first_call"]}
    losses = {"losses": worker.built["losses"]} if "losses" in worker.built else {}
    return {**found, **losses, "peak_mib": worker.peak()}


# --- tables and plots -------------------------------------------------------------------------------------------


def tables(records: Sequence[Mapping[str, Any]], labels: Mapping[str, str], dtype: str) -> str:
    """Markdown tables of times, first calls and memory for each mode; rows are networks, columns are libraries."""
    models = list(dict.fromkeys(r["model"] for r in records))
    names = [name for name in labels if any(r["peer"] == name for r in records)]
    found = {(r["mode"], r["model"], r["peer"]): r for r in records}
    parts = []

    def times(r: Mapping[str, Any]) -> str:
        low, high = r["quartiles"]
        ratio = "" if r["peer"] == "jaxcnn" else f", {r['ratio']:.2f}x"
        return f"{_digits(r['ms'])} ({_digits(low)} to {_digits(high)}){ratio}"

    measures = {
        "ms: median (quartiles), ratio to jaxcnn": times,
        "first call, s": lambda r: f"{r['first_call_s']:.1f}",
        "peak memory, MiB": lambda r: f"{r['peak_mib']:.0f}",
    }
    for mode, title in MODES.items():
        if not any(r["mode"] == mode for r in records):
            continue
        for what, show in measures.items():
            rows = []
            for model in models:
                cells = [found.get((mode, model, name)) for name in names]
                rows.append([_title(records, model), *["" if r is None else _cell(r, show) for r in cells]])
            parts.append(f"{title}, {dtype}, {what}\n\n" + table(["", *[labels[name] for name in names]], rows))
    return "\n\n".join(parts)


def _cell(record: Mapping[str, Any], show: Any) -> str:
    return "failed" if "error" in record else show(record)


def _title(records: Sequence[Mapping[str, Any]], model: str) -> str:
    n, height, width, channels = next(r["batch"] for r in records if r["model"] == model)
    return f"{model}, {n} of {height}x{width}x{channels}"


def _digits(ms: float) -> str:
    """A number with three significant digits."""
    return f"{ms:.{max(0, 2 - int(np.floor(np.log10(max(ms, 1e-3)))))}f}"


def draw(path: Path, records: Sequence[Mapping[str, Any]], labels: Mapping[str, str], what: str) -> None:
    """Draws bars of the time ratios to jaxcnn, the line at 1: libraries above it are slower."""
    records = [r for r in records if "ratio" in r and r["peer"] != "jaxcnn"]
    modes = [mode for mode in MODES if any(r["mode"] == mode for r in records)]
    models = list(dict.fromkeys(r["model"] for r in records))
    names = [name for name in labels if any(r["peer"] == name for r in records)]
    if not records:
        raise UserError("there is nothing to draw: no peer was measured")
    figure = Figure(figsize=(4.5 + 1.3 * len(models), 3.2 * len(modes)), layout="constrained")
    for axes, mode in zip(np.atleast_1d(figure.subplots(len(modes), 1, sharex=True)), modes, strict=True):
        found = {(r["model"], r["peer"]): r["ratio"] for r in records if r["mode"] == mode}
        width = 0.8 / len(names)
        for i, name in enumerate(names):
            heights = [found.get((model, name), np.nan) for model in models]
            places = np.arange(len(models)) + (i - (len(names) - 1) / 2) * width
            axes.bar(places, np.array(heights) - 1, width, bottom=1, label=labels[name], color=f"C{i}")
        axes.axhline(1, color="black", linewidth=1)
        axes.set(yscale="log", ylabel=f"{MODES[mode]}: time / jaxcnn's", xticks=range(len(models)), xticklabels=models)
        axes.set_yticks(*_ticks(list(found.values())))
        axes.minorticks_off()
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(f"The time of other libraries as a multiple of jaxcnn's ({what})", fontsize=10)
    save(figure, path)


def _ticks(ratios: Sequence[float]) -> tuple[list[float], list[str]]:
    """Axis ticks: round numbers in the range of the ratios, and their labels."""
    round_ones = [m * 10.0**e for e in range(-2, 4) for m in (1, 2, 5)]
    low, high = min(1.0, *ratios), max(1.0, *ratios)
    ticks = [t for t in round_ones if low / 2 <= t <= high * 2]
    return ticks, [f"{t:g}" for t in ticks]


# --- the command -------------------------------------------------------------------------------------------------


def speed(
    models: tuple[str, ...] = tuple(TASKS),
    peers: tuple[str, ...] | None = None,
    modes: tuple[Mode, ...] = tuple(MODES),
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: Literal["cpu", "gpu"] = "cpu",
    batch_size: int | None = None,
    seconds: float = 20,
    quick: bool = False,
    ablation: bool = False,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    picture: Path | None = None,
) -> None:
    """Compares jaxcnn with other libraries: times, first calls, memory.

    Args:
      models: the networks to compare; the seven that each library has when not given.
      peers: the other libraries; those that are not installed are skipped with a message. All when not given.
      modes: a training step, an inference pass, or both.
      dtype: the dtype of the computation; bfloat16 uses float32 parameters (autocast in PyTorch) and adds a column for
        jaxcnn in float32.
      device: the CPU, or JAX's first GPU.
      batch_size: number of images; depends on the network and the device when not given.
      seconds: timing per peer, network and mode, in seconds; at least four turns are taken.
      quick: small batches and images and the minimum number of turns, to test the command.
      ablation: compare with jaxcnn without each of its CPU forms, in place of other libraries.
      json_file: file for all results, written after each measurement.
      picture: file for a chart of the ratios.
    """
    for name in models:
        if name not in TASKS | ZOO:
            raise unknown("model", name, TASKS | ZOO)
    known = ABLATIONS if ablation else PEERS
    peers = tuple(known) if peers is None else peers
    for name in peers:
        if name not in known:
            raise unknown("peer", name, known)
    left_out = {name: reason for name in peers if (reason := known[name].missing(dtype))}
    for name, reason in left_out.items():
        print(f"left out: {known[name].label}: {reason}")
    chosen = {name: known[name] for name in peers if name not in left_out}
    if dtype == "bfloat16":
        chosen = {"jaxcnn_float32": OURS_FLOAT32, **chosen}
    labels = {"jaxcnn": OURS.label, **{name: peer.label for name, peer in chosen.items()}}
    for line in _without(models, chosen):
        print(line)

    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected a positive number")
    if device == "gpu":
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process needs no GPU memory
        if jax.default_backend() != "gpu":
            raise UserError(f"--device gpu: JAX has none here, its devices are {jax.devices()}")
    report: dict[str, Any] = {
        "machine": machine(), "versions": _versions(), "dtype": dtype, "seconds": seconds, "left_out": left_out,
        "results": [],
    }  # fmt: skip
    if device == "cpu":
        print(cpu.about())
    wrong = []
    for model in models:
        task = (QUICK if quick else TASKS | ZOO)[model]
        having = {name: peer for name, peer in chosen.items() if not peer.lacks(model)}
        count = batch_size or (ON_GPU[model] if device == "gpu" and not quick else task.shape[0])
        task = dataclasses.replace(task, shape=(count, *task.shape[1:]), dtype=dtype, device=device)
        for record, right in measure(task, having, modes, 0 if quick else seconds):
            report["results"].append(record)
            line = f"{model}, {MODES[record['mode']]}, {labels[record['peer']]}: "
            if right:
                line += f"{_digits(record['ms'])} ms, {record['ratio']:.2f} of jaxcnn's"
            else:
                line += record["error"]
                wrong.append(line)
            print(line, flush=True)
            if json_file is not None:
                json_file.parent.mkdir(parents=True, exist_ok=True)
                json_file.write_text(json.dumps(report, indent=1))
    print(f"\n{tables(report['results'], labels, dtype)}\n\n({report['machine']})")
    if picture is not None:
        draw(picture, report["results"], labels, f"{dtype}, {device.upper()}")
    if wrong:
        raise UserError(f"left out, since they failed: {'; '.join(wrong)}")


def _without(models: Sequence[str], peers: Mapping[str, Peer]) -> Iterator[str]:
    """One line for each reason why peers do not have some of the networks."""
    found: dict[str, tuple[list[str], list[str]]] = {}
    for model in models:
        for peer in peers.values():
            if reason := peer.lacks(model):
                for names, name in zip(found.setdefault(reason, ([], [])), (peer.label, model), strict=True):
                    names.extend([name] if name not in names else [])
    for reason, (labels, lacking) in found.items():
        yield f"left out: {', '.join(labels)} for {', '.join(lacking)}: {reason}"


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    main(speed)
