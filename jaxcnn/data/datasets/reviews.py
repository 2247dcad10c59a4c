"""Sentences with a class each: movie reviews, and folders of text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.datasets.registry import (
    PATH,
    Folder,
    Size,
    data_root,
    dataset,
    lookup,
    not_found,
    reader,
)
from jaxcnn.data.text import Corpus, read_lines, tokenize
from jaxcnn.errors import DataError, UserError
from jaxcnn.files import hidden, normal


@dataset(
    "rt-polarity",
    about="10,662 sentences of movie reviews, half of them positive (Pang and Lee 2005)",
    kind="sentences",
    classes=("negative", "positive"),
)
def rt_polarity(split: str, data_dir: Folder = None, size: Size = None) -> Corpus:
    """All sentences, see `movie_reviews`."""
    _no_size(size)
    return movie_reviews(data_dir)


@reader(PATH, about="a folder of CLASS.txt files, a sentence a line, UTF-8", kind="sentences", splits=("train", "test"))
def sentences(name: str, split: str, data_dir: Folder = None, size: Size = None) -> Corpus:
    """All sentences, see `text_folder`."""
    _no_size(size)
    return text_folder(name)


def load_text(name: str, data_dir: Folder = None) -> Corpus:
    """All sentences of a dataset, not divided: `rt-polarity`, or the path of a folder of `CLASS.txt` files.

    Raises:
      DataError: when the dataset is unknown, of another kind, or not there.
    """
    return lookup(name, "sentences").load("train", data_dir, None)


def _no_size(size: Size) -> None:
    if size is not None:
        raise UserError(f"sentences have no size in pixels: leave out {size}")


def movie_reviews(data_dir: str | Path | None = None) -> Corpus:
    """10,662 sentences of movie reviews, half of them negative (class 0), half positive (class 1).

    Args:
      data_dir: the folder with `rt-polarity.neg` and `rt-polarity.pos`, or with a folder `rt-polarity` of them;
        `JAXCNN_DATA_DIR` when not given.

    Raises:
      DataError: when they are not there.

    Source: Pang and Lee, Seeing stars (2005), the "sentence polarity dataset v1.0".
    """
    root = data_root(data_dir)
    for folder in () if root is None else (root / "rt-polarity", root, root / "rt-polaritydata"):
        files = [folder / "rt-polarity.neg", folder / "rt-polarity.pos"]
        if all(file.is_file() for file in files):
            return _corpus(files, ("negative", "positive"), "rt-polarity", "latin-1")
    raise not_found(
        "rt-polarity",
        root,
        "Put rt-polarity.neg and rt-polarity.pos into the data folder, the sentence polarity dataset v1.0, "
        "https://www.cs.cornell.edu/people/pabo/movie-review-data/",
    )


def text_folder(folder: str | Path) -> Corpus:
    """All sentences of a folder of `CLASS.txt` files, UTF-8, a sentence a line; the classes are sorted by name.

    Raises:
      DataError: when there are fewer than two such files, or one is empty or not UTF-8.
    """
    folder = Path(folder).expanduser()
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    files = [file for file in files if not hidden(file.name)]
    if len(files) < 2:
        found = ", ".join(file.name for file in files) or "no such file"
        raise DataError(f"{folder}: expected a text file CLASS.txt for each of two or more classes; found {found}")
    return _corpus(files, tuple(normal(file.stem) for file in files), folder.name, "utf-8")


def _corpus(files: Sequence[Path], classes: tuple[str, ...], name: str, encoding: str) -> Corpus:
    lines = [read_lines(file, encoding) for file in files]
    sentences = tuple(tuple(tokenize(line)) for each in lines for line in each)
    return Corpus(sentences, np.repeat(np.arange(len(files)), [len(each) for each in lines]), classes, name)
