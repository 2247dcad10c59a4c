"""One device or eight, one process or four: the same losses, the same run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn import devices
from jaxcnn.errors import UserError

ROOT = Path(__file__).parents[1]
STEPS = {"do": "steps", "batch": 32, "steps": 20}


def start(requests, devices=1, **environment):
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=true"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.spread", json.dumps(requests)], cwd=ROOT, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_together(count, requests, devices=1):
    """Several processes that know of each other by the environment, as those of a cluster."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(requests, devices, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(count), JAX_PROCESS_ID=str(i))
        for i in range(count)
    ]


def answers(processes):
    found = []
    try:
        for process in processes:
            out, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
            found.append(json.loads(re.search("^answers (.*)$", out, re.MULTILINE)[1]))
    finally:
        for process in processes:
            process.kill()
    return found


@pytest.fixture(scope="module")
def alone():
    return answers([start([STEPS])])[0]


def close(found, expected):
    """Float32 sums in another order: 1e-6 of each loss after 20 steps, and of the parameters' squares."""
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(values, wanted, rtol=2e-5, atol=1e-6)


def test_eight_devices_learn_what_one_learns(alone):
    """With batch normalization and dropout: for 20 steps they go together."""
    used = [("jit", 1), ("jit", 8), ("pmap", 2), ("pmap", 8)]
    spread = [{**STEPS, "form": form, "count": count} for form, count in used]
    wrong = [{**spread[0], "count": 9}, {**spread[-1], "batch": 36}]
    runs = [{"do": "fit", "batch": 96, "epochs": 2, "form": form, "count": 4} for form in (None, "pmap")]
    bare = {**STEPS, "do": "divided", "form": "jit", "count": 4}
    (found,) = answers([start([*spread, *wrong, *runs, bare], 8)])
    for each in found[:4]:
        close(each, alone[0])
    assert found[4:6] == [
        "9 devices were asked for, and there are 8; JAX_NUM_CPU_DEVICES=9 divides a CPU",
        "a batch of 36 cannot be divided by 8 devices: take one of 32 or 40",
    ]
    assert found.pop() == ["data", "data"]  # of images and labels
    (_, one), *several = found[6:]
    for _, result in several:
        assert result["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_examples_that_are_compared_meet_the_same_ones_on_any_devices(processes):
    """Ten examples in batches of 4 and of 5: with their last batch, and where the devices cannot share a batch."""
    requests = [{"do": "across", "batch": batch, "form": "jit"} for batch in (4, 5, 16)]
    alone = answers([start([{**request, "form": None} for request in requests])])[0]
    processes = [start(requests, 4)] if processes == 1 else start_together(2, requests, 2)
    for found in answers(processes):
        close(found, alone)


@pytest.mark.parametrize(("processes", "forms"), [(2, ("pmap",)), (4, ("jit",))])
def test_several_processes_learn_what_one_learns(alone, processes, forms):
    for found in answers(start_together(processes, [{**STEPS, "form": form} for form in forms])):
        for one in found:
            close(one, alone[0])


def test_processes_that_are_stopped_go_on_together(tmp_path):
    """A SIGTERM to one of them stops both after the same step, saved; then they end as if it had not been."""
    # Long enough: JAX looks for a SIGTERM once a second, and then agrees on a step to come.
    request = {"do": "fit", "batch": 48, "epochs": 30, "form": "jit"}
    runs = [tmp_path / "whole", tmp_path / "stopped"]
    whole = answers(start_together(2, [{**request, "run": str(runs[0])}] * 2))
    assert all("is there and not empty" in answer[1] for answer in whole)
    processes = start_together(2, [{**request, "run": str(runs[1])}])
    deadline = time.monotonic() + 120
    while not (runs[1] / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, second = answers(processes)
    assert first == second
    assert re.fullmatch(r"stopped: stopped after step \d+, which is saved", first[0])
    assert not (runs[1] / "result.json").exists()
    again = answers(start_together(2, [{**request, "run": str(runs[1]), "resume": True}]))

    def untimed(answer):
        history, result = answer[0]
        return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in (*history, result)]

    assert untimed(again[0]) == untimed(again[1]) == untimed(whole[0])


def test_batches_that_the_devices_cannot_share(monkeypatch):
    on = devices.DataParallel()
    on.size = 8
    with pytest.raises(UserError, match="a batch of 100 cannot be divided by 8 devices: take one of 96 or 104"):
        on.check(100)
    with pytest.raises(UserError, match="a batch of 5 cannot be divided by 8 devices: take one of 8"):
        on.check(5)
    on.check(96)


@pytest.mark.parametrize(
    ("arguments", "says"), [((0,), "0 devices were asked for"), ((None, "xmap"), "form 'xmap': expected jit or pmap")]
)
def test_devices_that_there_are_not(arguments, says):
    with pytest.raises(UserError, match=says):
        devices.DataParallel(*arguments)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two: expected a number"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "process 2 of 2: expected 0 to 1"),
    ],
)
def test_processes_that_do_not_say_who_they_are(environment, says, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=says):
        devices.join()


def test_one_process_asks_nobody():
    assert devices.first_process()
    assert devices.from_first(lambda: {"a": [1]}) == {"a": [1]}
    tree = {"x": np.arange(3)}
    assert devices.same_everywhere(tree) is tree
    assert jax.process_count() == 1
