"""TensorBoard and profiler hooks of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

_COMPILING = 2  # steps of this process that are not profiled: they compile


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
        board, self._board = self._board, None
        if board is not None:
            board.close()


class Profile:
    """A profile of some steps, after those that compile; or nothing."""

    def __init__(self, folder: Path | None, steps: int):
        self._folder = folder if steps else None
        self._left = steps
        self._seen = 0
        self._on = False

    def step(self, measured: Any) -> None:
        """After a step: begins after the first ones, and ends when enough steps were profiled."""
        if self._folder is None:
            return
        self._seen += 1
        if self._on:
            self._left -= 1
            if not self._left:
                jax.block_until_ready(measured)
                self.end()
        elif self._seen == _COMPILING:
            jax.profiler.start_trace(str(self._folder / "profile"))
            self._on = True

    def end(self) -> None:
        """Writes what was profiled so far."""
        if self._on:
            self._on, self._folder = False, None
            jax.profiler.stop_trace()
