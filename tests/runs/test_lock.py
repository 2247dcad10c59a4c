"""A run's folder belongs to one process at a time: taken once, given back, taken over from a process that is gone."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxcnn.errors import UserError
from jaxcnn.runs import lock
from jaxcnn.train import Run


@pytest.fixture(params=["flock", "no flock", "neither flock nor links"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """On a file system that knows `flock`, and on such that do not."""

    def unsupported(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if request.param != "flock":
        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    if request.param == "neither flock nor links":
        monkeypatch.setattr(os, "link", unsupported)
    return request.param


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """Another process, which lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def left(path: Path, **changes: Any) -> Path:
    """A lock as a process leaves it that is killed."""
    owner = dataclasses.replace(lock.Owner.me(flock=False), **changes)
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    return path


@pytest.mark.usefixtures("kind")
def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    mine = lock.acquire(path)
    state, owner = lock.look(path)
    assert (state, owner and owner.process) == ("held", os.getpid())
    says = rf"the run {tmp_path} is being trained by process {os.getpid()} on {socket.gethostname()}$"
    with pytest.raises(UserError, match=says):
        lock.acquire(path)
    mine.release()
    assert list(tmp_path.iterdir()) == []
    assert lock.look(path) == ("free", None)
    lock.acquire(path).release()


@pytest.mark.usefixtures("kind")
def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Also where they all find the lock of a process that is gone."""
    path = left(tmp_path / "lock", process=2**22 + 1)
    for _ in range(5):
        got, refused, start = [], [], threading.Barrier(8)

        def take(got: list = got, refused: list = refused, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                got.append(lock.acquire(path))
            except UserError:
                refused.append(1)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (1, 7)
        got[0].release()
        left(path, started="another time")
    path.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize(
    "changes",
    [{"process": 2**22 + 1}, {"process": 1, "started": "a time before"}, {"boot": "an earlier one"}],
    ids=["gone", "another process of its number", "before the machine started anew"],
)
def test_a_stale_lock_is_recognized(changes: dict[str, Any], tmp_path: Path) -> None:
    path = left(tmp_path / "lock", **changes)
    assert lock.look(path)[0] == "stale"
    lock.acquire(path).release()
    assert not path.exists()


def test_a_living_process_keeps_its_lock(kind: str, other: subprocess.Popen, tmp_path: Path) -> None:
    path = left(tmp_path / "lock", process=other.pid, started=lock._started(other.pid))
    assert lock.look(path)[0] == "held"
    with pytest.raises(UserError, match=f"is being trained by process {other.pid} on "):
        lock.acquire(path)
    assert path.exists()
    other.kill()
    other.communicate()
    lock.acquire(path).release()


@pytest.mark.usefixtures("kind")
@pytest.mark.parametrize("changes", [{"host": "node7", "boot": "of node7"}, {"space": "pid:[1] of a container"}])
def test_of_another_machine_nothing_is_known(changes: dict[str, Any], tmp_path: Path) -> None:
    """To be on the safe side it is taken for a living one; the message says what to do when it is not."""
    path = left(tmp_path / "lock", **changes)
    assert lock.look(path)[0] == "unknown"
    with pytest.raises(UserError, match=rf"by process {os.getpid()} on .*; if that process is gone, remove {path}"):
        lock.acquire(path)
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]", "7", '{"process": "x", "host": 1}', "[" * 20000, "\x00\xff"])
def test_a_damaged_lock_is_nobodys(content: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(content)
    os.utime(path, (0, 0))
    assert lock.look(path) == ("stale", None)
    lock.acquire(path).release()


HOLDER = r"""
import os, sys, time
from pathlib import Path
from jaxcnn.runs import lock
mine = lock.acquire(Path(sys.argv[1]))
if sys.argv[2] == "forked" and os.fork() == 0:
    os.write(1, b"%d\n" % os.getpid())
    time.sleep(60)
os.write(1, b"taken\n")
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "forked"])
def test_a_killed_process_has_it_no_longer(how: str, tmp_path: Path) -> None:
    """Not even where a child of it lives on."""
    path = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(2 if how == "forked" else 1)]
    with pytest.raises(UserError, match=f"is being trained by process {process.pid} on"):
        lock.acquire(path)
    process.kill()
    process.wait()
    process.stdout.close()
    try:
        assert lock.look(path)[0] == "stale"
        lock.acquire(path).release()
    finally:
        for child in said:
            if child != "taken":
                os.kill(int(child), signal.SIGKILL)


def test_a_lock_that_was_taken_away_is_not_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    mine = lock.acquire(path)
    path.unlink()
    lock_of_another = left(path, host="node7").read_text()
    mine.release()
    assert path.read_text() == lock_of_another


def test_numbered_folders_are_taken_once(tmp_path: Path) -> None:
    (tmp_path / "net-2").mkdir()
    made: list[Run] = []
    start = threading.Barrier(6)

    def make() -> None:
        run = Run.numbered(tmp_path / "net")
        start.wait()
        run.make()
        made.append(run)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.path.name for run in made) == [f"net-{n}" for n in (1, 3, 4, 5, 6, 7)]
    for run in made:
        assert run.checkpoints.path == run.path / "checkpoints"
        run.release()


def test_one_folder_is_not_begun_twice(tmp_path: Path) -> None:
    first, second = Run.new(tmp_path / "run"), Run.new(tmp_path / "run")
    first.begin({})
    with pytest.raises(UserError, match="is being trained by process"):
        second.make()
    first.release()
    with pytest.raises(UserError, match="is there and not empty"):
        second.make()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
