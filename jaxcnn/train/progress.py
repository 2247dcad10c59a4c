"""What training shows: a live bar on a terminal, a plain line an epoch anywhere else."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxcnn.format import duration
from jaxcnn.metrics import name_of
from jaxcnn.runs.primary import ACCURACY, Primary


class Display:
    """Shows epoch, loss, the primary figure, images a second and the time left. `show=False` shows nothing."""

    def __init__(
        self, epochs: int, examples: int, show: bool = True, stream: TextIO | None = None, primary: Primary = ACCURACY
    ):
        self.primary = primary
        self.epochs, self.examples, self.show = epochs, examples, show
        self.stream = stream or sys.stdout
        self.mark = time.monotonic()  # when the last epoch ended
        self._bar: Progress | None = None
        console = Console(file=self.stream)
        # A notebook's kernel sets FORCE_COLOR for the programs that it starts, and they write to a pipe all the same.
        if show and console.is_terminal and self.stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"),
                console=console, transient=True,
            )  # fmt: skip

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=self.examples, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, epoch: int, seen: int, metrics: dict[str, float], rate: float) -> None:
        """In the middle of an epoch: `seen` of its examples, at `rate` images a second."""
        if self._bar:
            left = ((self.epochs - epoch) * self.examples + self.examples - seen) / max(rate, 1e-9)
            text = f"{self._figures(metrics)}  {rate:,.0f} images/s  {duration(left)} left"
            self._bar.update(self._task, completed=seen, description=f"epoch {epoch}/{self.epochs}", text=text)

    def epoch(self, record: dict) -> None:
        """After an epoch, with its record as in metrics.jsonl."""
        now = time.monotonic()
        left, self.mark = (now - self.mark) * (self.epochs - record["epoch"]), now
        if not self.show:
            return
        parts = [f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}", self._figures(record)]
        if "validation_loss" in record:
            parts.append("validation " + self._figures(record, "validation_"))
        parts += [f"{record['images_per_second']:,.0f} images/s", f"{duration(left)} left"]
        self.line("  ".join(parts))

    def line(self, text: str) -> None:
        if not self.show:
            return
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def _figures(self, record: dict, prefix: str = "") -> str:
        text = f"loss {record[prefix + 'loss']:.4f}"
        name = self.primary.primary
        if name != "loss" and prefix + name in record:
            text += f"  {name_of(name)} {self.primary.shown(record[prefix + name])}"
        return text
