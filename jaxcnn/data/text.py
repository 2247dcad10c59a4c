"""Sentences: from characters to words, from words to integers, and sentences with a class each.

The vocabulary comes from training sentences only, so a `Corpus` holds words until it is split:

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
from jaxcnn.data.folds import folds, k_fold
from jaxcnn.data.splits import check_split
from jaxcnn.errors import DataError, UserError
from jaxcnn.files import read_text
from jaxcnn.format import JOINERS

PADDING, UNKNOWN = 0, 1
"""The integers for padding after a sentence, and for a word that is not in the vocabulary."""

_MARKS = ("<padding>", "<unknown>")

_SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Chinese characters
_LETTER = rf"[^\W_{_SIGNS}]"
_EXTENDED = "\u02d1"  # the sign of length of phonetic scripts stands for any character that extends a letter
_WORD = re.compile(rf"{_LETTER}+?(?=n't\b)|n't\b|'(?:s|ve|re|d|ll|m)\b|[{_SIGNS}]{_EXTENDED}*|{_LETTER}+|[,!?()]")


def tokenize(text: str) -> list[str]:
    """The words of a text in lower case; `, ! ? ( )` are words too, other punctuation is dropped.

    Contractions are split: `it's` is `it 's`, `don't` is `do n't`. Text that is already tokenized, with spaces around
    everything, gives the same words: `tokenize(" ".join(words)) == words`.

    A word consists of letters and digits of any script with their combining marks (the vowel signs of Hindi, the points
    of Hebrew), in Unicode's normal form C, so that an accented letter is the same however it was written. Each Chinese
    character and each kana is a word, as in BERT. Thai, Lao, Khmer and Burmese are also written without spaces: insert
    them first with a program for that language.

    Source: the effect of the cleaning in Kim's program for the movie reviews; for Chinese characters, the program of
    Devlin et al., BERT (2019).
    """
    text = unicodedata.normalize("NFC", text.lower().replace("\u2019", "'").replace("`", "'"))
    if text.isascii():
        return _WORD.findall(text)
    return [text[match.start() : match.end()] for match in _WORD.finditer(_spelled(text))]


def _spelled(text: str) -> str:
    """The text with each combining mark or joiner after a letter replaced by a letter: `\\w` does not match marks."""
    out: list[str] = []
    inside = False  # whether the character before is part of a word
    for c in text:
        extends = inside and (c in JOINERS or unicodedata.category(c)[0] == "M")
        inside = extends or c.isalnum()
        out.append(_EXTENDED if extends else c)
    return "".join(out)


@dataclass(frozen=True)
class Vocabulary:
    """Words and their integers: 0 is padding, 1 any unknown word, then the words by decreasing frequency.

    Attributes:
      words: the word of each integer, `("<padding>", "<unknown>", "the", ",", ...)`.

    Raises:
      DataError: when a word occurs twice, or the words do not begin with the two marks.
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
        """The words that occur at least `at_least` times in tokenized sentences; of these the `most` most frequent.

        Words of the same frequency are sorted by the alphabet, so the order of the sentences does not matter.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        ordered = sorted((word for word in counts if counts[word] >= at_least), key=lambda w: (-counts[w], w))
        return Vocabulary((*_MARKS, *(word for word in ordered if word not in _MARKS))[: most and most + 2])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._index  # type: ignore[attr-defined]

    def encode(self, sentences: Sequence[Sequence[str]], length: int | None = None) -> np.ndarray:
        """Tokenized sentences as integers `(N, L)` int32, each followed by padding.

        Args:
          length: L; longer sentences are truncated. The length of the longest sentence, at least 1, when not given. A
            sentence without words is padding only.

        Raises:
          DataError: when the length is below 1, or a sentence is a string instead of a list of words.
        """
        if any(isinstance(sentence, str) for sentence in sentences):
            raise DataError("a sentence should be a list of words: tokenize(text) makes one")
        length = max([1, *map(len, sentences)]) if length is None else length
        if length < 1:
            raise DataError(f"length={length}: expected at least 1")
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
      DataError: when the numbers of sentences and labels differ, a label is outside the classes, or there is none.
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
            raise DataError(f"{self.name}: the dataset is empty; it has no sentence to train on or to measure")
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
        """All but a random `share` of each class, and that share; the same for the same seed."""
        return stratified(self, share, seed)

    def folds(self, count: int, seed: int = 0) -> Iterator[tuple[Corpus, Corpus]]:
        """The pairs (train, validation) of a `count`-fold cross-validation, stratified; see `k_fold`."""
        return k_fold(self, count, seed)

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
        """The inputs of a network: words as integers `(N, L)`, see `Vocabulary.encode`."""
        return Examples(
            vocabulary.encode(self.sentences, length),
            self.labels,
            self.classes,
            self.name,
            {"vocabulary": list(vocabulary.words)},
        )


def recoded(data: Examples, words: Sequence[str]) -> Examples:
    """Examples re-encoded from their vocabulary to another, `words`, for a network that was trained with it."""
    vocabulary = Vocabulary(tuple(words))
    table = vocabulary.encode([data.extra["vocabulary"]])[0]
    table[PADDING] = PADDING
    return dataclasses.replace(
        data, inputs=table[data.inputs], extra={**data.extra, "vocabulary": list(vocabulary.words)}
    )


def read_lines(path: str | Path, encoding: str = "utf-8") -> list[str]:
    """The lines of a text file that are not blank.

    Only line feeds end a line, with or without a carriage return before: the movie reviews, read as latin-1, contain
    other characters that Unicode counts as line ends.

    Raises:
      DataError: when the file cannot be read, is not text in that encoding, or is empty.
    """
    text = read_text(path, encoding)
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{path} is empty: expected a sentence a line")
    return lines


def by_length(
    data: Examples, batch_size: int, seed: int = 0, epoch: int = 0, chunk: int = 20, multiple: int = 8
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The shuffled batches of an epoch, each of sentences of similar length with little padding.

    The examples are shuffled; every `chunk` batches of them are sorted by length and divided into batches, whose
    padding is cut to the next `multiple` of words. The batches come in random order. A batch of random movie reviews is
    half padding; here it is a tenth. A step is compiled for each length.

    Args:
      data: inputs `(N, L)`, padding (0) after each sentence.
      seed, epoch: as in `batches`; the examples after the last whole batch are left out, others in each epoch.

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
    """The length of each sentence of `(N, L)` up to its last word; 0 for padding only."""
    return ((words != PADDING) * np.arange(1, words.shape[1] + 1)).max(1)


def drop_words(rate: float) -> Callable[[Any, jax.Array], jax.Array]:
    """An augmentation: each word becomes the unknown one with probability `rate`.

    It trains the vector of the unknown word, which does not occur in training sentences otherwise, and makes the
    network rely less on any one word.

    Source: Iyyer et al., Deep unordered composition rivals syntactic methods for text classification (2015), section
    2.3, which removes the words.
    """
    if not 0 <= rate < 1:
        raise UserError(f"rate={rate}: expected a share of words to drop, 0 <= rate < 1")

    def augment(words: Any, key: jax.Array) -> jax.Array:
        dropped = jax.random.bernoulli(key, rate, words.shape) & (words != PADDING)
        return jnp.where(dropped, UNKNOWN, words)

    return augment
