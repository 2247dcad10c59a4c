"""Sentences: from characters to words, from words to integers, and sentences with a class each.

The words of a vocabulary are counted in training sentences alone, so text stays text (`Corpus`) until it is divided:

    reviews = movie_reviews()
    train, test = reviews.take(index), reviews.take(others)
    words = Vocabulary.of(train.sentences)
    examples = train.examples(words)               # inputs (N, L) int32
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.dataset import Examples, stratified
from jaxcnn.data.splits import check_split
from jaxcnn.errors import DataError, UserError
from jaxcnn.files import read_text
from jaxcnn.format import JOINERS

PADDING, UNKNOWN = 0, 1
"""The integers that stand for no word, behind a sentence, and for a word that is not in the vocabulary."""

_MARKS = ("<padding>", "<unknown>")

_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Chinese characters
_LETTER = rf"[^\W_{_SIGNS}]"
_EXTENDED = "\u02d1"  # the sign of length of phonetic scripts stands for any character that extends a letter
_WORD = re.compile(rf"{_LETTER}+?(?=n't\b)|n't\b|'(?:s|ve|re|d|ll|m)\b|[{_SIGNS}]{_EXTENDED}*|{_LETTER}+|[,!?()]")


def tokenize(text: str) -> list[str]:
    """The words of a text in lower case; `, ! ? ( )` are words too, other punctuation is left out.

    What English writes together is taken apart: `it's` is `it 's`, `don't` is `do n't`. Text that is already tokenized,
    with spaces around everything, gives the same words: `tokenize(" ".join(words)) == words`.

    A word is of letters and digits of any script with their combining marks (the vowel signs of Hindi, the points of
    Hebrew), in Unicode's normal form C, so that an accented letter is the same however it was written. Each Chinese
    character and each kana is a word, as in BERT. Thai, Lao, Khmer and Burmese, which also write without spaces, need
    them put in by a program for that language first.

    Source: the cleaning of Kim's program for the movie reviews, in its effect; for Chinese characters, Devlin et al.,
    BERT (2019), in its program.
    """
    text = unicodedata.normalize("NFC", text.lower().replace("\u2019", "'").replace("`", "'"))
    if text.isascii():
        return _WORD.findall(text)
    return [text[match.start() : match.end()] for match in _WORD.finditer(_spelled(text))]


def _spelled(text: str) -> str:
    """The text with a letter in place of each combining mark or joiner behind a letter: Python's `\\w` has none."""
    out: list[str] = []
    inside = False  # whether the character before is part of a word
    for c in text:
        extends = inside and (c in JOINERS or unicodedata.category(c)[0] == "M")
        inside = extends or c.isalnum()
        out.append(_EXTENDED if extends else c)
    return "".join(out)


@dataclass(frozen=True)
class Vocabulary:
    """Words and their integers: 0 is padding, 1 any word that is not here, then the words by falling frequency.

    Attributes:
      words: the word of each integer, `("<padding>", "<unknown>", "the", ",", ...)`.

    Raises:
      DataError: for a word that is there twice, or without the two marks in front.
    """

    words: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if self.words[:2] != _MARKS:
            raise DataError(f"a vocabulary begins with {' '.join(_MARKS)}, got {' '.join(self.words[:2]) or 'nothing'}")
        object.__setattr__(self, "_index", {word: index for index, word in enumerate(self.words)})
        if len(self._index) != len(self.words):  # type: ignore[attr-defined]
            twice = next(word for word, count in Counter(self.words).items() if count > 1)
            raise DataError(f"the vocabulary has {twice!r} more than once")

    @staticmethod
    def of(sentences: Iterable[Sequence[str]], at_least: int = 1, most: int | None = None) -> Vocabulary:
        """The words of tokenized sentences that occur `at_least` so often, the `most` frequent ones of them.

        Words of the same frequency are in the order of the alphabet, so the order of the sentences does not matter.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        ordered = sorted((word for word in counts if counts[word] >= at_least), key=lambda w: (-counts[w], w))
        return Vocabulary((*_MARKS, *(word for word in ordered if word not in _MARKS))[: most and most + 2])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index  # type: ignore[attr-defined]

    def encode(self, sentences: Sequence[Sequence[str]], length: int | None = None) -> np.ndarray:
        """Tokenized sentences as integers `(N, L)` int32, padding behind each.

        Args:
          length: L; a sentence with more words is cut behind the L-th. The longest sentence's, at least 1, when not
            given. A sentence without words is padding alone.

        Raises:
          DataError: for a length below 1, or one string in place of a list of words.
        """
        if any(isinstance(sentence, str) for sentence in sentences):
            raise DataError("a sentence should be a list of words: tokenize(text) makes one")
        length = max([1, *map(len, sentences)]) if length is None else length
        if length < 1:
            raise DataError(f"length={length}: a sentence needs at least one place")
        index: dict[str, int] = self._index  # type: ignore[attr-defined]
        out = np.full((len(sentences), length), PADDING, np.int32)
        for row, sentence in zip(out, sentences, strict=True):
            known = [index.get(word, UNKNOWN) for word in sentence[:length]]
            row[: len(known)] = known
        return out

    def decode(self, row: np.ndarray | Sequence[int]) -> list[str]:
        """The words of one encoded sentence, without its padding."""
        return [self.words[i] for i in row if i != PADDING]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenized sentences with a class each.

    Attributes:
      sentences: the words of each.
      labels: `(N,)`, int32.
      classes: the names of the classes, in the order of the labels.
      name: where they come from.

    Raises:
      DataError: for as many sentences as there are not labels, labels outside the classes, or no sentence at all.
    """

    sentences: tuple[tuple[str, ...], ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str = "text"

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.shape != (len(self.sentences),):
            raise DataError(f"{self.name}: {len(self.sentences)} sentences and labels of shape {labels.shape}")
        if not len(labels):
            raise DataError(f"{self.name}: there is no sentence; there is nothing to learn or to measure")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(self.classes):
            raise DataError(f"{self.name}: labels should be integers from 0 to {len(self.classes) - 1}")
        object.__setattr__(self, "sentences", tuple(tuple(sentence) for sentence in self.sentences))
        object.__setattr__(self, "labels", labels.astype(np.int32))
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return len(self.sentences)

    def take(self, index: np.ndarray | Sequence[int]) -> Corpus:
        """The sentences at `index` (integers or a mask)."""
        places = np.arange(len(self))[index]
        return dataclasses.replace(self, sentences=tuple(self.sentences[i] for i in places), labels=self.labels[places])

    def hold_out(self, share: float, seed: int = 0) -> tuple[Corpus, Corpus]:
        """Two parts: all but a random `share` of each class, and that share. The same seed gives the same parts."""
        return stratified(self, share, seed)

    def split(self, name: str) -> Examples:
        """The fixed division: `test` is a tenth of each class, `train` the rest, whose words are the vocabulary.

        The order is random with a fixed seed, so that a slice has all classes.

        Raises:
          DataError: for another split.
        """
        check_split(self.name, name, ("train", "test"))
        test = folds(self.labels, min(10, int(np.bincount(self.labels).min())), 0)[0]
        train = self.take(np.setdiff1d(np.arange(len(self)), test))
        chosen = train if name == "train" else self.take(test)
        order = np.random.default_rng(0).permutation(len(chosen))
        return chosen.examples(Vocabulary.of(train.sentences)).take(order)

    def examples(self, vocabulary: Vocabulary, length: int | None = None) -> Examples:
        """What a network is given: words as integers `(N, L)`, see `Vocabulary.encode`."""
        return Examples(
            vocabulary.encode(self.sentences, length),
            self.labels,
            self.classes,
            self.name,
            {"vocabulary": list(vocabulary.words)},
        )


def recoded(data: Examples, words: Sequence[str]) -> Examples:
    """Examples of one vocabulary in the integers of another, `words`: what a network trained with that one is given."""
    vocabulary = Vocabulary(tuple(words))
    table = vocabulary.encode([data.extra["vocabulary"]])[0]
    table[PADDING] = PADDING
    return dataclasses.replace(
        data, inputs=table[data.inputs], extra={**data.extra, "vocabulary": list(vocabulary.words)}
    )


def read_lines(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file that are not blank.

    Only line feeds end a line (and a carriage return in front of one is no part of it): the movie reviews, read as
    latin-1, have bytes in mid-sentence that Unicode counts among the ends of lines.

    Raises:
      DataError: when the file cannot be read, is not text in that encoding, or has no line.
    """
    text = read_text(path, encoding)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty: expected a sentence a line")
    return lines


def folds(labels: np.ndarray, count: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Cross-validation: the indices `(N,)` in `count` random parts, each with its share of every class.

    Each part is the test set once, the others together the training set: `np.setdiff1d(np.arange(N), part)`.

    Raises:
      UserError: for fewer than 2 parts, or more than there are examples of the rarest class.
    """
    labels = np.asarray(labels)
    counts = np.unique(labels, return_counts=True)[1]
    if count < 2 or not len(counts) or count > counts.min():
        fewest = int(counts.min()) if len(counts) else 0
        raise UserError(f"{count} folds: expected 2 or more, and no more than the {fewest} examples of a class")
    rng = np.random.default_rng(seed)
    # Class after class, each shuffled, dealt like cards: no part has two more of a class than another.
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    return [np.sort(order[k::count]) for k in range(count)]


def by_length(
    data: Examples, batch_size: int, seed: int = 0, epoch: int = 0, chunk: int = 20, multiple: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The shuffled batches of an epoch, each of sentences of like length and no longer than it must be.

    The examples are shuffled and taken `chunk` batches at a time; these are sorted by length, cut into batches, their
    padding shortened to the next `multiple` of places, and given in random order. Half of what a batch of random movie
    reviews holds is padding; here it is a tenth. A step is compiled for each length there is.

    Args:
      data: inputs `(N, L)`, padding (0) behind each sentence.
      seed, epoch: as in `batches`; what is left behind the last whole batch is another remainder each epoch.

    Yields:
      `(words, labels)`, `(batch_size, l)` with l a multiple of `multiple`, or L.
    """
    rng = np.random.default_rng([seed, epoch])
    lengths = places(data.inputs)
    order = rng.permutation(len(data))
    size = min(batch_size, len(data))
    order = order[: len(order) // size * size]
    found = []
    for first in range(0, len(order), chunk * size):
        part = order[first : first + chunk * size]
        found += list(part[np.argsort(lengths[part], kind="stable")].reshape(-1, size))
    for k in rng.permutation(len(found)):
        index = found[k]
        most = -(-max(1, int(lengths[index].max())) // multiple) * multiple
        yield data.inputs[index, :most], data.labels[index]


def places(words: np.ndarray) -> np.ndarray:
    """How many places each sentence of `(N, L)` takes: up to its last word, 0 for one of padding alone."""
    return ((words != PADDING) * np.arange(1, words.shape[1] + 1)).max(1)


def drop_words(rate: float) -> Callable[[Any, jax.Array], jax.Array]:
    """An augmentation: each word becomes the unknown one with probability `rate`.

    The vector of the unknown word, which no training sentence has otherwise, is learned by it, and a sentence has to be
    understood without any one of its words.

    Source: Iyyer et al., Deep unordered composition rivals syntactic methods for text classification (2015), section
    2.3, where the words are left out.
    """
    if not 0 <= rate < 1:
        raise UserError(f"rate={rate}: expected the share of words to drop, 0 <= rate < 1")

    def augment(words: Any, key: jax.Array) -> jax.Array:
        dropped = jax.random.bernoulli(key, rate, words.shape) & (words != PADDING)
        return jnp.where(dropped, UNKNOWN, words)

    return augment
