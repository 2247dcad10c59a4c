"""Writes the folder of a run during training: config, checkpoints, metrics, TensorBoard, profile, result, pictures.

With several processes, only the first one writes, and reads for all of them. Without a folder, the same methods write
nothing.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data.dataset import Dataset
from jaxcnn.devices import first_process, from_first, same_everywhere
from jaxcnn.errors import TrainingError, first_line
from jaxcnn.metrics import confusion_matrix
from jaxcnn.runs import identity
from jaxcnn.runs.folder import LAST, Run, State, variables
from jaxcnn.runs.monitor import Metrics, Profile
from jaxcnn.runs.primary import Primary
from jaxcnn.runs.record import Record


def look(folder: Run) -> None:
    """Checks that a run can be begun, or resumed, in a folder: the first process does, and all take its path.

    Raises:
      UserError: if it cannot.
    """
    folder.move(from_first(lambda: str(folder.looked_at().path)))


class RunWriter:
    """The folder of a run during training; a context in which this process holds the folder's lock.

    Args:
      run: a `Run`, or the path of a new one; None to write nothing.

    Raises:
      UserError: if no run can be begun, or resumed, in the folder.
    """

    def __init__(self, run: str | Path | Run | None):
        self.folder = None if run is None else run if isinstance(run, Run) else Run(run)
        self.resume = self.folder is not None and self.folder.resume
        self.examples: dict[str, Any] = {}
        self._board, self._profile = Metrics(None, ()), Profile(None, 0)

    def __enter__(self) -> RunWriter:
        if self.folder is not None:
            look(self.folder)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self.folder is not None:
            try:
                self._profile.end()
                self._board.close()
                self.folder.checkpoints.close()
            finally:
                if isinstance(error, (TrainingError, jax.errors.JaxRuntimeError)) and first_process():
                    self.folder.failed(first_line(error))
                self.folder.release()

    @property
    def path(self) -> Path | None:
        """The folder's path."""
        return None if self.folder is None else self.folder.path

    @property
    def asked(self) -> dict[str, Any]:
        """What config.json holds in addition to the settings of `fit`."""
        return {} if self.folder is None else self.folder.asked

    def config(self) -> Record:
        """The run's config.json, in all processes."""
        folder = self.folder
        return {} if folder is None else from_first(lambda: folder.config)

    # --- beginning

    def check(self, **sets: Any) -> None:
        """Hashes the data. For a resumed run, takes the folder and compares the data with those the run began with.

        The hashes are in `examples`: for config.json, and for several processes to compare.

        Raises:
          UserError: if the run cannot be resumed with them.
        """
        folder = self.folder
        if folder is None and jax.process_count() == 1:
            return
        self.examples = {name: identity.of_data(part) for name, part in sets.items()}
        if folder is not None and self.resume:
            from_first(folder.take)
            from_first(folder.check)
            identity.compare(self.config().get("examples"), self.examples)

    def begin(self, config: Mapping[str, Any]) -> None:
        """Makes the folder of a new run and writes config.json."""
        folder = self.folder
        if folder is None or self.resume:
            return

        def begin() -> str:
            folder.begin(config)
            return str(folder.path)

        folder.move(Path(from_first(begin)))

    def restore(self, like: State) -> tuple[State, tuple[Any, Any], dict[str, Any]] | None:
        """State, best variables and progress of the newest checkpoint, in all processes; None if there is none."""
        folder = self.folder
        if folder is None or not self.resume:
            return None
        found: list[Any] = []

        def read() -> dict[str, Any] | None:
            restored = folder.restore(like)
            if restored is None:
                return None
            found.extend(restored[:2])
            return restored[2]

        progress = from_first(read)
        if progress is None:
            return None
        state, best = found or (like, variables(like))
        data = same_everywhere(jax.random.key_data(state.key))
        key = jax.random.wrap_key_data(data, impl=jax.random.key_impl(state.key))
        state, best = same_everywhere((state.replace(key=None), best))
        return state.replace(key=key), best, progress

    # --- during training

    def watch(self, history: list[Record]) -> None:
        """Opens TensorBoard and the profiler if the run asks for them; writes the history of a resumed run."""
        if self.folder is None or not first_process():
            return
        if self.resume:
            self.folder.write_metrics(history)
        self._board = Metrics(self.folder.path if self.folder.tensorboard else None, history)
        self._profile = Profile(self.folder.path, self.folder.profile)

    def step(self, measured: Any) -> None:
        """Called after each step."""
        self._profile.step(measured)
        if self.folder is not None:
            self.folder.touch()

    @property
    def save_every(self) -> float:
        """The seconds between checkpoints inside an epoch."""
        return float("inf") if self.folder is None else self.folder.save_every

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self.folder is not None and self.folder.checkpoints.busy

    def save(self, state: State, progress: Mapping[str, Any], best: tuple[Any, Any] | None) -> None:
        """Writes a checkpoint in the background; `best` is given if the best variables are not the state's."""
        if self.folder is not None and first_process():
            self.folder.save(state, dict(progress), best)

    def epoch(self, record: Record, history: list[Record]) -> None:
        """Called after each epoch: writes metrics.jsonl and TensorBoard's metrics."""
        if self.folder is not None and first_process():
            self.folder.write_metrics(history)
            self._board.add(record)

    def wait(self) -> None:
        """Waits until the checkpoint under way is written."""
        if self.folder is not None:
            self.folder.checkpoints.wait()

    # --- the end

    def end(self, result: Record, draw: Callable[[], Mapping[str, Callable[[], Any]]]) -> None:
        """Writes result.json, then the pictures: `draw()` returns them by file name, the curves last."""
        if self.folder is None or not first_process():
            return
        self._profile.end()
        self._board.close()
        self.folder.write("result.json", result)
        for name, picture in draw().items():
            _picture(self.folder, name, picture)


def pictures(history: list[Record], primary: Primary, test: Any, outputs: Any) -> dict[str, Callable[[], Any]]:
    """The pictures of a run: a function that draws each, by file name. `LAST` is the last one written.

    Args:
      test, outputs: the test set and the network's outputs for it; classified images have a confusion matrix.
    """
    from jaxcnn.inspect import plots

    drawn: dict[str, Callable[[], Any]] = {}
    if isinstance(test, Dataset) and outputs is not None and outputs.ndim == 2 and outputs.shape[1] > 1:
        probabilities = np.asarray(jax.jit(jax.nn.softmax)(outputs))
        matrix = confusion_matrix(probabilities.argmax(1), test.labels, probabilities.shape[1])
        drawn["confusion.png"] = lambda: plots.confusion(matrix, test.classes)
        drawn["mistakes.png"] = lambda: plots.mistakes(test, probabilities)
    drawn[LAST] = lambda: plots.curves(history, primary.primary, primary.higher_is_better)
    return drawn


def _picture(folder: Run, name: str, draw: Callable[[], Any]) -> None:
    """Draws and writes a picture, completely or not at all. A failure is only a warning: the training is not lost."""
    try:
        content = io.BytesIO()
        draw().savefig(content, format="png")
    except Exception as error:  # from Matplotlib, its fonts or its settings
        warnings.warn(f"{folder.path / name} was not drawn: {first_line(error)}", stacklevel=2)
    else:
        folder.put(name, content.getvalue())
