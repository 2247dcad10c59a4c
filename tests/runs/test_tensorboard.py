"""What is written for TensorBoard, read back from its file: records of a length, a checksum, an event, a checksum."""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path

import pytest

from jaxcnn.errors import TrainingError, UserError
from jaxcnn.runs.tensorboard import Board


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) of each curve."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.glob("events.out.tfevents.*")
    content, curves = file.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    return curves


def test_scalars_are_there_at_once_and_a_new_board_begins_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    board = Board(tmp_path / "run/tensorboard")
    board.scalars(10, {"loss": 0.5, "validation_accuracy": 1})
    assert events(tmp_path / "run/tensorboard") == {"loss": [(10, 0.5)], "validation_accuracy": [(10, 1.0)]}
    board.scalars(20, {"loss": 0.25, "images/s": float("inf")})
    board.close()
    expected = {"loss": [(10, 0.5), (20, 0.25)], "validation_accuracy": [(10, 1.0)], "images/s": [(20, float("inf"))]}
    assert events(tmp_path / "run/tensorboard") == expected
    (tmp_path / "run/tensorboard/notes.txt").write_text("mine")
    again = Board(str(tmp_path / "run/tensorboard"))
    again.scalars(10, {"loss": 0.5})
    again.close()
    assert events(tmp_path / "run/tensorboard") == {"loss": [(10, 0.5)]}
    assert (tmp_path / "run/tensorboard/notes.txt").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file/board cannot be written: Not a directory"):
        Board(tmp_path / "file/board")


def test_without_tensorboardx_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    with pytest.raises(UserError, match=r"tensorboardX, which is not installed: pip install 'tensorboardX>=2.6'"):
        Board(tmp_path / "board")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    board = Board(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(board._writer, "flush", full)
        with pytest.raises(TrainingError, match=r"cannot be written: No space left on device"):
            board.scalars(1, {"loss": 1})
    board.close()
