"""Options as a person writes them, and mistakes in one line, for the commands and for the experiments."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn import cli
from jaxcnn.cli.parse import BadOption, parse
from jaxcnn.errors import UserError

ROOT = Path(__file__).parents[2]


def sums(first: int, rate: float = 0.5, sizes: tuple[int, ...] = (1, 2), name: str | None = None) -> float:
    """Adds.

    Args:
      first: a number to begin with.
      rate: what it is multiplied by.
      sizes: more of them.
      name: what to call it.
    """
    if name == "wrong":
        raise UserError("this name is wrong")
    return first * rate + sum(sizes)


def text_of_help(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_a_function_is_called_with_its_options():
    assert parse(sums, "sums", ["--first", "4"])() == 4 * 0.5 + 3
    assert parse(sums, "sums", ["--first", "4", "--rate", "2", "--sizes", "7", "--name", "a"])() == 15


def test_the_help_says_what_an_option_takes(capsys):
    with pytest.raises(SystemExit) as end:
        parse(sums, "sums", ["--help"])
    assert end.value.code == 0
    text = text_of_help(capsys)
    for part in (
        "--first N a number to begin with. (required)",
        "--rate NUMBER what it is multiplied by. (default: 0.5)",
        "--sizes N ... more of them. (default: 1 2)",
        "--name TEXT what to call it.",
    ):
        assert part in text
    assert "None" not in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_command_shows_the_types_of_python(name, capsys):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    text = text_of_help(capsys)
    assert not re.search(r"\{None\}|\bSTR\b|\bINT\b|\bFLOAT\b|default: None", text)


def test_names_say_more_than_types(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = text_of_help(capsys)
    for part in ("[MODEL]", "--data NAME", "--size HEIGHT,WIDTH", "--epochs N ", "--lr NUMBER", "--run PATH"):
        assert part in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--first", "x"], "--first: expected a whole number, got 'x'"),
        (["--first", "1", "--rate", "fast"], "--rate: expected a number, got 'fast'"),
        (["--first", "1", "--colour", "red"], "Unrecognized options: --colour, red"),
        ([], "Missing from sums: --first N a number to begin with. (required)"),
    ],
)
def test_a_mistake_is_one_line(args, message, capsys):
    with pytest.raises(BadOption) as error:
        parse(sums, "sums", args)
    assert str(error.value) == message
    assert capsys.readouterr() == ("", "")


def test_an_option_may_still_be_none():
    assert parse(sums, "sums", ["--first", "4", "--name", "None"])() == 5


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["--epochs", "x"], 2, "lenet_mnist: --epochs: expected a whole number, got 'x'; "
                               "see python -m experiments.lenet_mnist --help"),
        (["--data", "./nowhere"], 1, "lenet_mnist: .*nowhere.*"),
    ],
)  # fmt: skip
def test_an_experiment_says_what_is_wrong_in_one_line(args, status, message):
    command = [sys.executable, "-m", "experiments.lenet_mnist", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(message, done.stderr.strip())
