"""Parses command lines: the help shows what each option takes, and an error is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

_TYPES: dict[Any, str] = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}
_NAMES = {
    "data": "NAME", "recipe": "NAME", "task": "NAME", "optimizer": "NAME", "schedule": "NAME", "layer": "NAME",
    "sort": "NAME", "models": "NAME", "peers": "NAME", "libraries": "NAME",
    "options": "NAME=VALUE,...", "augment": "NAME,...", "fresh": "LAYER,...", "freeze": "LAYER,...",
    "size": "HEIGHT,WIDTH", "input": "HEIGHT,WIDTH,CHANNELS", "coordinator": "HOST:PORT",
    "fold": "NUMBER/COUNT", "over": "NAME=VALUE,...",
}  # fmt: skip
"""What the help shows for an option's value, where the option's name says more than its type."""


class BadOption(Exception):
    """A command line is wrong; the message is one line."""


def parse(what: Any, prog: str, args: Sequence[str], description: str | None = None) -> Any:
    """Parses a command line into a dataclass, or into one of a union of dataclasses (subcommands).

    For a function, the arguments are the options, and the result is a function that calls it with them.

    Raises:
      BadOption: the command line is wrong. (tyro itself would print a box.)
      SystemExit: with 0, after `--help`.
    """
    errors = io.StringIO()
    if isinstance(what, types.FunctionType):
        what = _postponed(what)
    what = Annotated[what, tyro.conf.PositionalMetavarFromFieldName]
    try:
        with contextlib.redirect_stderr(errors), _described():
            return tyro.cli(what, prog=prog, args=list(args), description=description)
    except SystemExit as end:
        if not end.code:
            raise
        raise BadOption(_message(errors.getvalue())) from None


def _message(box: str) -> str:
    """The message in tyro's box: the lines after the title, up to the next rule."""
    lines = [line.strip("│ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).strip().splitlines()][1:]
    # Without UTF-8 there is also a rule below the title, made of hyphens.
    told = itertools.takewhile(lambda line: not _is_rule(line), itertools.dropwhile(_is_rule, lines))
    text = " ".join(" ".join(told).split()) or "the options cannot be read"
    if found := re.match(
        r"Error parsing (\S+): (?:no type matching \S*?(INT|FLOAT)\S*|.*?\b(int|float)\b).*?('.*?')", text
    ):
        kind = "a whole number" if (found[2] or found[3]).lower() == "int" else "a number"
        return f"{found[1]}: expected {kind}, got {found[4]}"
    return text.removesuffix(".")


def _is_rule(line: str) -> bool:
    return set(line) <= set("─-")


def _postponed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Delays the call: tyro calls the function it is given, and would report its errors as parsing errors."""

    @functools.wraps(function)
    def later(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    hints = typing.get_type_hints(function, include_extras=True)
    defaults = {name: each.default for name, each in inspect.signature(function).parameters.items()}
    told = {name: _told(name, hint, defaults[name]) for name, hint in hints.items() if name in defaults}
    parameters = inspect.signature(function).parameters.values()
    del later.__dict__["__wrapped__"]  # otherwise tyro reads the annotations of the function itself
    later.__annotations__ = told
    later.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(annotation=told.get(each.name, each.annotation)) for each in parameters]
    )
    return later


@contextlib.contextmanager
def _described() -> Iterator[None]:
    """A context in which the help describes the fields of dataclasses by `_told`."""
    registry = ConstructorRegistry()
    inner = False

    @registry.struct_rule
    def describe(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inner
        if inner or not dataclasses.is_dataclass(info.type):
            return None
        inner = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inner = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = [dataclasses.replace(each, type=_told(each.name, each.type, each.default)) for each in spec.fields]
        return dataclasses.replace(spec, fields=tuple(fields))

    with registry:
        yield


def _told(name: str, hint: Any, default: Any) -> Any:
    """An option's type with its help: `--lr NUMBER`, and no default if that is None."""
    bare, extras = hint, list[Any]()
    if typing.get_origin(hint) is Annotated:
        bare, *extras = typing.get_args(hint)
    optional = type(None) in typing.get_args(bare)
    options = [each for each in typing.get_args(bare) if each is not type(None)] if optional else [bare]
    only = options[0] if len(options) == 1 else bare
    takes, shown = None, "" if default is None else None
    if any("Positional" in str(extra) for extra in extras):  # tyro shows the field's name
        if typing.get_origin(bare) is tuple:
            given = isinstance(default, tuple)
            takes, shown = f"[{name.upper()} ...]" if given else f"{name.upper()} ...", None if given else "(required)"
    elif only in _TYPES:
        takes = (_NAMES.get(name) if only is str else None) or _TYPES[only]
    elif typing.get_origin(only) is tuple:
        kinds = [_kind(each) for each in typing.get_args(only) if each is not ...]
        if any("Append" in str(extra) for extra in extras):  # a value each time that the option is given
            takes = _NAMES.get(name, kinds[0])
        elif ... in typing.get_args(only):
            takes = f"{_NAMES.get(name, kinds[0])} ..."
        else:
            takes = _NAMES.get(name, "").replace(",", " ") or " ".join(kinds)
    if takes is None and shown is None:
        return hint
    return Annotated[hint, tyro.conf.arg(metavar=takes, help_behavior_hint=shown)]


def _kind(hint: Any) -> str:
    """What the help shows for one value of a tuple."""
    if typing.get_origin(hint) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(hint))) + "}"
    return _TYPES.get(hint, "VALUE")
