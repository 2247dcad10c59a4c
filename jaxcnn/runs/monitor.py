"""What looks on while a network is trained: TensorBoard, and the profiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

_FIRST = 3  # the step of this process before which a profile begins: those before it compile


class Metrics:
    """Metrics for TensorBoard, or nothing."""

    def __init__(self, folder: Path | None, history: Sequence[Mapping[str, Any]]):
        self._board: Any = None
        if folder is not None:
            from jaxcnn.runs.tensorboard import Board

            self._board = Board(folder / "tensorboard")
            for record in history:
                self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        if self._board is not None:
            self._board.scalars(
                record["step"], {k: v for k, v in record.items() if k not in ("epoch", "step", "seconds")}
            )

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


class Profile:
    """A profile of some steps, after those that compile; or nothing."""

    def __init__(self, folder: Path | None, steps: int):
        self._folder = folder if steps else None
        self._left = steps
        self._seen = 0
        self._on = False

    def before(self) -> None:
        if self._folder is None:
            return
        self._seen += 1
        if self._seen == _FIRST:
            jax.profiler.start_trace(str(self._folder / "profile"))
            self._on = True

    def after(self, measured: Any) -> None:
        if self._on:
            self._left -= 1
            if not self._left:
                jax.block_until_ready(measured)
                self.end()

    def end(self) -> None:
        if self._on:
            self._on, self._folder = False, None
            jax.profiler.stop_trace()
