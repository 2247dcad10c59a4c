"""Metrics for TensorBoard, written by tensorboardX: `tensorboard --logdir runs` draws those of all runs below runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxcnn.errors import TrainingError, UserError


class Board:
    """The curves in a folder, begun anew: event files of an earlier board there are removed.

    Args:
      folder: is made where it is not there.

    Raises:
      UserError: when tensorboardX is not installed.
      TrainingError: when the folder cannot be written; `scalars` and `close` as well.
    """

    def __init__(self, folder: str | Path):
        try:
            # Not its SummaryWriter, whose thread dies unheard when the disk is full: `add_scalar` then waits for ever.
            from tensorboardX.event_file_writer import EventsWriter
        except ImportError as error:
            raise UserError(
                "TensorBoard's files are written by the package tensorboardX, which is not installed: "
                "pip install 'tensorboardX>=2.6'"
            ) from error
        self._folder = Path(folder).expanduser()
        with self._disk():
            self._folder.mkdir(parents=True, exist_ok=True)
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = EventsWriter(str(self._folder / "events"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each curve: `{"loss": 0.3, "validation_loss": 0.4}`. When this returns, they are on the disk."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        with self._disk():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))
            self._writer.flush()

    def close(self) -> None:
        """Closes the file, which has everything already."""
        with self._disk():
            self._writer.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(f"{self._folder} cannot be written: {error.strerror or error}") from None
