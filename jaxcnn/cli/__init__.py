"""The command `jaxcnn`. Each subcommand is a dataclass in a separate file; its fields are the options."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from jaxcnn import __version__
from jaxcnn.cli.common import fail
from jaxcnn.cli.evaluate import Evaluate, run_evaluate
from jaxcnn.cli.explore import Explore, run_explore
from jaxcnn.cli.export import Export, run_export
from jaxcnn.cli.lists import Datasets, Models, Recipes, run_datasets, run_models, run_recipes
from jaxcnn.cli.lr import run_lr
from jaxcnn.cli.options import Given, Lr, Train
from jaxcnn.cli.parse import BadOption, parse
from jaxcnn.cli.predict import Predict, run_predict
from jaxcnn.cli.runs import Runs, run_runs
from jaxcnn.cli.summary import Summary, run_summary
from jaxcnn.cli.sweep import Sweep, run_sweep
from jaxcnn.cli.train import run_train
from jaxcnn.cli.weights import Weights, run_weights
from jaxcnn.errors import UserError, unknown
from jaxcnn.signals import status_of, stopped_by_sigterm

COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "train": (Train, run_train),
    "lr": (Lr, run_lr),
    "sweep": (Sweep, run_sweep),
    "evaluate": (Evaluate, run_evaluate),
    "predict": (Predict, run_predict),
    "runs": (Runs, run_runs),
    "explore": (Explore, run_explore),
    "export": (Export, run_export),
    "summary": (Summary, run_summary),
    "weights": (Weights, run_weights),
    "models": (Models, run_models),
    "recipes": (Recipes, run_recipes),
    "datasets": (Datasets, run_datasets),
}
"""Each command's options, and the function that runs it; it may return an exit status."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command line. Exit status 0; 1 with one line on stderr for an error; 2 for a bad option."""
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the terminal's encoding lacks
            stream.reconfigure(errors="backslashreplace")
    if args in (["--version"], ["-V"]):
        from jaxcnn.ops import cpu

        print(f"jaxcnn {__version__}\n{cpu.about()}")
        return
    with stopped_by_sigterm():
        if status := _run(args):
            if "jaxcnn.devices" in sys.modules and sys.modules["jaxcnn.devices"].joined():
                sys.modules["jaxcnn.devices"].leave(status)
            sys.exit(status)


def _run(args: list[str]) -> int:
    """Runs a command line and returns the exit status."""
    shows, warnings.showwarning = warnings.showwarning, _warned
    try:
        command = _parse(args)
        return next(do for options, do in COMMANDS.values() if type(command) is options)(command) or 0
    except UserError as error:
        return fail(str(error))
    except KeyboardInterrupt as stop:
        return fail(str(stop) or "interrupted", status_of(stop))
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as `| head`, has closed the pipe
    except Exception as error:
        if (lost := _lost(error)) is None:
            raise
        return fail(lost)
    finally:
        warnings.showwarning = shows
    return 0


def _lost(error: Exception) -> str | None:
    """The message for a JAX error that means another process has ended; None for other errors."""
    from jaxcnn import devices

    found = devices.lost(error)
    return None if found is None else str(found)


def _warned(message: Any, *_: Any, **__: Any) -> None:
    """Prints a warning as one line."""
    fail(f"warning: {message}")


def _parse(args: list[str]) -> Any:
    """The command with its options."""
    union: Any = Annotated[_union(), tyro.conf.FlagCreatePairsOff]
    args = args or ["--help"]
    first = args[0]
    if not first.startswith("-") and first not in COMMANDS:
        sys.exit(fail(str(unknown("command", first, COMMANDS)), 2))
    try:
        command = parse(union, "jaxcnn", args, _ABOUT)
    except BadOption as wrong:
        message = str(wrong)
        named = f"jaxcnn {first} --help" if first in COMMANDS else "jaxcnn --help"
        if first in COMMANDS and message.startswith("Unrecognized"):
            fields = [
                f for f in dataclasses.fields(COMMANDS[first][0]) if not re.search("Positional|Suppress", str(f.type))
            ]
            known = ["--help", *("--" + f.name.replace("_", "-") for f in fields)]
            given = [arg.split("=")[0].replace("_", "-") for arg in args if arg.startswith("--")]
            message = next((str(unknown("option", name, known)) for name in given if name not in known), message)
        sys.exit(fail(f"{message}; see {named}", 2))
    # --resume and --config have to know which options were given, even those given with their default value.
    if isinstance(command, Given):
        options = {re.sub("^no_", "", arg[2:].split("=")[0].replace("-", "_")) for arg in args if arg.startswith("--")}
        positional = {"model"} if command.model in args[1:] else set()
        command = dataclasses.replace(command, given=frozenset(options | positional))
    return command


_ABOUT = "Convolutional networks in JAX. `jaxcnn train` trains LeNet-5 on handwritten digits."


def _union() -> Any:
    result: Any = None
    for name, (command, _) in COMMANDS.items():
        one: Any = Annotated[command, tyro.conf.subcommand(name, description=command.__doc__)]
        result = one if result is None else result | one
    return result
