"""One device or eight, one process or four: the same losses, the same run."""

import contextlib
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
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.spread", json.dumps(requests)], cwd=ROOT, text=True,
        env={**os.environ, **own, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_together(count, requests, devices=1):
    """Several processes that know of each other by the environment, as those of a cluster; with requests of their own
    where these are a tuple."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        start(
            requests[i] if isinstance(requests, tuple) else requests,
            devices,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(i),
        )
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


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_examples_that_are_compared_meet_the_same_ones_on_any_devices(processes):
    """Ten examples in batches of 4 and of 5: with their last batch, and where the devices cannot share a batch."""
    requests = [{"do": do, "batch": batch, "form": "jit"} for do in ("across", "views") for batch in (4, 5, 16)]
    alone = answers([start([{**request, "form": None} for request in requests])])[0]
    processes = [start(requests, 4)] if processes == 1 else start_together(2, requests, 2)
    for found in answers(processes):
        close(found, alone)


@pytest.mark.parametrize(("processes", "forms"), [(2, ("pmap",)), pytest.param(4, ("jit",), marks=pytest.mark.slow)])
def test_several_processes_learn_what_one_learns(alone, processes, forms):
    for found in answers(start_together(processes, [{**STEPS, "form": form} for form in forms])):
        for one in found:
            close(one, alone[0])


@pytest.mark.slow
def test_processes_that_are_stopped_go_on_together(tmp_path):
    """A SIGTERM to one of them stops both after the same step, saved; then they end as if it had not been."""
    request = {"do": "fit", "batch": 48, "epochs": 10, "form": "jit"}
    runs = [tmp_path / "whole", tmp_path / "stopped"]
    whole = answers(start_together(2, [{**request, "run": str(runs[0])}] * 2))
    assert all("is there and not empty" in answer[1] for answer in whole)
    # Long enough: JAX looks for a SIGTERM once a second, and then agrees on a step to come.
    processes = start_together(2, [{**request, "run": str(runs[1]), "pause": 0.06}])
    deadline = time.monotonic() + 120
    while not (runs[1] / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    first, second = answers(processes)
    assert first == second
    assert re.fullmatch(r"stopped: stopped after step \d+, which is saved", first[0])
    assert not (runs[1] / "result.json").exists()
    again = answers(start_together(2, [{**request, "run": str(runs[1]), "resume": True}]))
    assert untimed(again[0][0]) == untimed(again[1][0]) == untimed(whole[0][0])


def untimed(answer):
    history, result = answer
    return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in (*history, result)]


@pytest.mark.slow
def test_a_run_goes_on_with_its_devices_and_its_form(tmp_path):
    """With pmap, to the last digit. Another form or, with pmap, another number would give other figures: refused."""
    request = {"do": "fit", "batch": 48, "epochs": 3, "form": "pmap", "count": 2, "augment": True}
    paths = [str(tmp_path / name) for name in ("whole", "stopped", "jit", "one")]
    again = {**request, "run": paths[1], "resume": True}
    other = {"do": "fit", "batch": 48, "epochs": 3, "form": "jit", "count": 2, "stop": 4, "run": paths[2]}
    requests = [
        {**request, "run": paths[0]}, {**request, "run": paths[1], "stop": 4}, {**again, "form": "jit"},
        {**again, "count": 1}, again, other, {**other, "count": 1, "stop": -1, "resume": True},
    ]  # fmt: skip
    process = start(requests, 2)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    whole, stopped, form, count, resumed, first, fewer = json.loads(re.search("^answers (.*)$", out, re.MULTILINE)[1])
    assert stopped == first == "stopped: stopped after step 15, which is saved"
    assert form == f'{paths[1]} was made with parallel="pmap", not "jit"; start another run for that'
    assert re.search("was made with pmap on 2 devices, each with its own random numbers; .* as many, not 1", count)
    assert untimed(resumed) == untimed(whole)
    # With jit, another number of devices changes the order of sums alone, which is said.
    assert fewer[1]["epochs"] == 3
    (warned,) = json.loads(re.search("^warnings (.*)$", out, re.MULTILINE)[1])
    assert "was made on 2 devices (cpu) and goes on with 1 (cpu)" in warned


@pytest.mark.slow
def test_processes_that_were_started_differently_refuse(tmp_path):
    """Each would train something else; together they would train none of it."""
    fit = {"do": "fit", "batch": 48, "epochs": 1, "form": "jit", "run": str(tmp_path / "run")}
    changes = {"seed": (3, 4), "epochs": (1, 2), "batch": (48, 24), "lr": (3e-3, 1e-3), "pixel": (0, 1)}
    changes["augment"] = (True, False)
    requests = tuple([{**fit, name: values[i]} for name, values in changes.items()] for i in range(2))
    found = answers(start_together(2, requests))
    assert found[0] == found[1]
    names = ["seed: 3 and 4", "epochs: 1 and 2", "batch_size: 48 and 24", "the program of a step", "the training data"]
    for said, name in zip(found[0], [*names, "the program of a step"], strict=True):
        assert said.startswith(f"processes 0 and 1 differ in {name}")
        assert said.endswith("all processes of a run need the same command, code and data")
    assert not (tmp_path / "run").exists()


BRIEF = "from jaxcnn import cli, devices; devices._HEARTBEAT = 8; cli.main()"  # instead of 30 seconds


@contextlib.contextmanager
def commands(tmp_path, *more, program=("-m", "jaxcnn")):
    """Two processes of `jaxcnn train`, each with options of its own; gone at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    own = {**os.environ, "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, *program, "train", "mlp", "--epochs", "100000", "--run", str(tmp_path / "run"),
             "--coordinator", address, "--processes", "2", "--process", str(i), *(more[i] if more else ())],
            cwd=ROOT, text=True, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.__exit__(None, None, None)


def ended(process, seconds):
    _, errors = process.communicate(timeout=seconds)
    return process.returncode, [line for line in errors.splitlines() if line.startswith("jaxcnn: ")], errors


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((["--seed", "0"], ["--seed", "1"]), "processes 0 and 1 differ in --seed: 0 and 1; all processes"),
        (([], ["--resume"]), "processes 0 and 1 differ in --resume: false and true; all processes"),
    ],
)
def test_commands_that_differ_refuse(more, says, tmp_path):
    with commands(tmp_path, *more) as processes:
        for process in processes:
            status, lines, errors = ended(process, 120)
            assert (status, len(lines)) == (1, 1), errors
            assert says in lines[0]
    assert not (tmp_path / "run").exists()


def wait_for_an_epoch(run):
    deadline = time.monotonic() + 180
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("gone", "number"),
    [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGSTOP)],
)
@pytest.mark.slow
def test_when_a_process_is_gone_the_other_says_so(gone, number, tmp_path):
    """In one sentence and within a minute, whether it was the first one, which the others meet at, or another.

    A process that is only stopped keeps its connections: the other waits for it inside of a sum.
    """
    with commands(tmp_path, program=("-c", BRIEF)) as processes:
        wait_for_an_epoch(tmp_path / "run")
        processes[gone].send_signal(number)
        status, lines, errors = ended(processes[1 - gone], 60)
    assert status == 1, errors
    assert len(lines) == 1, errors
    assert lines[0].startswith("jaxcnn: another process of this run has ended, or cannot be reached: ")
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_process_that_fails_alone_does_not_keep_the_others(tmp_path, data_dir):
    (tmp_path / "empty").mkdir()
    mnist = ["--data", "mnist", "--data-dir"]
    with commands(tmp_path, [*mnist, str(data_dir)], [*mnist, str(tmp_path / "empty")]) as processes:
        first, second = ended(processes[1], 120), ended(processes[0], 60)
    assert (first[0], second[0]) == (1, 1), second[2]
    assert "the dataset mnist was not found" in first[1][0]
    assert [len(first[1]), len(second[1])] == [1, 1], second[2]
    assert "Traceback" not in second[2]


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
