"""The progress of training: a live bar on a terminal or in a notebook, one line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from jaxcnn.format import duration
from jaxcnn.metrics import name_of
from jaxcnn.runs.primary import ACCURACY, Primary
from jaxcnn.train.notebook import Page, in_notebook


class Display:
    """Shows epoch, loss, the primary metric, examples per second and the time left. `show=False` shows nothing.

    On a terminal, a bar shows the progress inside an epoch. In a notebook that is one output with a curve; see
    `jaxcnn.train.notebook`.

    The time left does not include compilation. In and after the first epoch shown, it is the remaining number of images
    divided by the rate of that epoch, without its first step, which compiles; later it is the duration of the last
    complete epoch, with its validation, times the number of remaining epochs.
    """

    def __init__(
        self,
        epochs: int,
        examples: int,
        show: bool = True,
        stream: TextIO | None = None,
        primary: Primary = ACCURACY,
        unit: str = "images",
    ):
        self.primary = primary
        self.epochs, self.examples, self.show, self.unit = epochs, examples, show, unit
        self._page = Page(epochs, primary) if show and stream is None and in_notebook() else None
        self.stream = stream or sys.stdout
        self.mark: float | None = None  # when the last epoch ended; None before the first one has
        self._bar: Progress | None = None
        console = Console(file=self.stream)
        # A notebook's kernel sets FORCE_COLOR for its child processes, although they write to a pipe.
        if show and self._page is None and console.is_terminal and self.stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"),
                console=console, transient=True,
            )  # fmt: skip

    def __enter__(self) -> Display:
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task("compiling", total=self.examples, text="")
        if self._page:
            self._page.update(0.0, "compiling")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._page:
            self._page.end(finished=kind is None)

    def update(self, epoch: int, seen: int, metrics: dict[str, float], rate: float) -> None:
        """Shows the progress inside an epoch: `seen` examples so far, at `rate` images per second."""
        left = self._at(rate, (self.epochs - epoch) * self.examples + self.examples - seen)
        text = "  ".join([self._figures(metrics), *self._pace(rate, left)])
        if self._bar:
            self._bar.update(self._task, completed=seen, description=f"epoch {epoch}/{self.epochs}", text=text)
        if self._page:
            self._page.update(seen / self.examples, f"epoch {epoch}/{self.epochs}  {text}")

    def epoch(self, record: dict) -> None:
        """Shows an epoch's record, as in metrics.jsonl."""
        now = time.monotonic()
        remaining, rate = self.epochs - record["epoch"], record.get("images_per_second", 0.0)
        left = self._at(rate, remaining * self.examples) if self.mark is None else (now - self.mark) * remaining
        self.mark = now
        if not self.show:
            return
        parts = [f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}", self._figures(record)]
        if "validation_loss" in record:
            parts.append("validation " + self._figures(record, "validation_"))
        pace = self._pace(rate, left if remaining else None)
        if self._page:
            self._page.epoch(record, "  ".join(parts), "  ".join(pace))
        else:
            self.line("  ".join([*parts, *pace]))

    def _at(self, rate: float, examples: int) -> float | None:
        """The seconds that the examples take at a rate; None for a rate of 0 (not measured)."""
        return examples / rate if rate > 0 else None

    def _pace(self, rate: float, left: float | None) -> list[str]:
        """Images per second and the time left, as far as they are known."""
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return [f"{shown} {self.unit}/s"] * (rate > 0) + ([] if left is None else [f"{duration(left)} left"])

    def line(self, text: str) -> None:
        if not self.show:
            return
        if self._page:
            self._page.note(text)
        elif self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self.stream, flush=True)

    def _figures(self, record: dict, prefix: str = "") -> str:
        text = f"loss {record[prefix + 'loss']:.4f}"
        name = self.primary.primary
        if name != "loss" and prefix + name in record:
            text += f"  {name_of(name)} {self.primary.shown(record[prefix + name])}"
        return text
