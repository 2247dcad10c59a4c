"""Sort-of-CLEVR: pictures of six objects, and questions about one of them or its relation to the others.

Everything follows from a seed. A scene has six objects, one of each colour, squares or circles, that do not touch; a
question names one by its colour. Plain questions ask for the shape or the position of that object; relational ones for
the shape of the object nearest to it or furthest from it, or for the number of objects with its shape.

Source: Santoro et al., A simple neural network module for relational reasoning (2017), section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.registry import Folder, Size, dataset
from jaxcnn.data.text import UNKNOWN, Vocabulary, tokenize
from jaxcnn.errors import DataError, UserError

SIZE, RADIUS = 75, 5
"""The side of a picture, and the radius of an object, in pixels: squares and circles are 11 pixels wide."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
    "orange": (255, 140, 0),
    "gray": (127, 127, 127),
    "yellow": (245, 220, 30),
}
"""The colour of each object of a scene, in order."""

ANSWERS = ("square", "circle", "left", "right", "top", "bottom", "1", "2", "3", "4", "5", "6")

PLAIN = ("shape", "side", "height")
RELATIONAL = ("nearest", "furthest", "count")

PHRASES: dict[str, tuple[str, ...]] = {
    "shape": (
        "what shape is the {} object?",
        "what is the shape of the {} object?",
        "is the {} object a square or a circle?",
    ),
    "side": (
        "is the {} object on the left or on the right?",
        "is the {} object left or right?",
        "on which side is the {} object, left or right?",
    ),
    "height": (
        "is the {} object at the top or at the bottom?",
        "is the {} object top or bottom?",
        "in which half is the {} object, top or bottom?",
    ),
    "nearest": (
        "what shape is nearest to the {} object?",
        "what is the shape of the object nearest to the {} object?",
        "which shape is closest to the {} object?",
    ),
    "furthest": (
        "what shape is furthest from the {} object?",
        "what is the shape of the object furthest from the {} object?",
        "which shape is farthest from the {} object?",
    ),
    "count": (
        "how many objects have the shape of the {} object?",
        "how many objects have the same shape as the {} object?",
        "how many objects are there with the shape of the {} object?",
    ),
}
"""The wordings of each kind of question. The count includes the object of the question."""

LENGTH = 16
"""The largest number of words of a question."""


SPLITS = {"train": (0, 10_000), "validation": (1, 500), "test": (2, 1_000)}
"""The seed of each split's scenes, and their number. Each scene has 20 questions."""


@dataset(
    "sort-of-clevr",
    about="generated scenes with questions about them, 75x75 (Santoro et al. 2017)",
    kind="questions",
    splits=tuple(SPLITS),
    classes=ANSWERS,
)
def generated(split: str, data_dir: Folder = None, size: Size = None) -> Examples:
    """The scenes of a split, drawn anew each time, which takes a few seconds for 10,000; see `sort_of_clevr`.

    Raises:
      UserError: for a size other than 75x75.
    """
    if size is not None and tuple(size) != (SIZE, SIZE):
        raise UserError(f"the pictures of sort-of-clevr are {SIZE}x{SIZE}, they cannot be {size}")
    seed, count = SPLITS[split]
    return sort_of_clevr(count, seed, name="sort-of-clevr")


def vocabulary() -> Vocabulary:
    """The words of all questions."""
    return Vocabulary.of(tokenize(phrase.format(c)) for each in PHRASES.values() for phrase in each for c in COLOURS)


def scenes(count: int, seed: int | Sequence[int] = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random objects: their centres `(count, 6, 2)` int32, (x, y) in pixels, and whether they are circles `(count, 6)`.

    Objects do not touch, none is at the middle of the width or the height, between left and right or top and bottom,
    and no answer depends on two objects of different shape with the same distance.

    Raises:
      UserError: when count is below 1.
    """
    if count < 1:
        raise UserError(f"{count} scenes: expected at least 1")
    rng = np.random.default_rng(seed)
    middle = SIZE // 2
    found: list[tuple[np.ndarray, np.ndarray]] = []
    missing = count
    while missing > 0:
        tries = 4 * missing + 64
        centres = rng.integers(RADIUS, SIZE - RADIUS, (tries, len(COLOURS), 2), dtype=np.int32)
        circles = rng.random((tries, len(COLOURS))) < 0.5
        gap = np.abs(centres[:, :, None] - centres[:, None]).max(-1)
        gap[:, np.arange(6), np.arange(6)] = SIZE
        good = (gap.min((1, 2)) > 2 * RADIUS + 1) & (centres != middle).all((1, 2)) & ~_ties(centres, circles)
        found.append((centres[good][:missing], circles[good][:missing]))
        missing -= len(found[-1][0])
    return np.concatenate([c for c, _ in found]), np.concatenate([s for _, s in found])


def answer(centres: np.ndarray, circles: np.ndarray, kind: str, colour: np.ndarray | int) -> np.ndarray:
    """The answers, indices into `ANSWERS`, to one kind of question about the object of a colour in each scene.

    Args:
      centres, circles: `(N, 6, 2)` and `(N, 6)`.
      kind: one of `PLAIN` or `RELATIONAL`.
      colour: the index of the object, `(N,)` or one for all.
    """
    row = np.arange(len(centres))
    circle, place = circles[row, colour], centres[row, colour]
    middle = SIZE // 2
    if kind == "shape":
        return circle.astype(np.int32)
    if kind == "side":
        return 2 + (place[:, 0] > middle).astype(np.int32)
    if kind == "height":
        return 4 + (place[:, 1] > middle).astype(np.int32)
    if kind == "count":
        return 5 + (circles == circle[:, None]).sum(1, dtype=np.int32)
    if kind not in RELATIONAL:
        raise UserError(f"kind={kind!r}: expected one of {', '.join(PLAIN + RELATIONAL)}")
    distance = ((centres - place[:, None]).astype(np.int64) ** 2).sum(-1)
    distance[row, colour] = 4 * SIZE**2 if kind == "nearest" else -1  # never the object itself
    other = distance.argmin(1) if kind == "nearest" else distance.argmax(1)
    return circles[row, other].astype(np.int32)


def draw(centres: np.ndarray, circles: np.ndarray) -> np.ndarray:
    """Pictures of scenes, uint8 `(N, 75, 75, 3)`: filled squares and circles on white."""
    images = np.full((len(centres), SIZE, SIZE, 3), 255, np.uint8)
    span = np.arange(-RADIUS, RADIUS + 1)
    disc = span[:, None] ** 2 + span**2 <= (RADIUS + 0.3) ** 2  # slightly larger looks rounder
    row = np.arange(len(centres))[:, None, None]
    for k, colour in enumerate(COLOURS.values()):
        ys, xs = centres[:, k, 1, None] + span, centres[:, k, 0, None] + span
        inside = disc | ~circles[:, k, None, None]
        at = row, ys[:, :, None], xs[:, None, :]
        images[at] = np.where(inside[..., None], np.asarray(colour, np.uint8), images[at])
    return images


def sort_of_clevr(count: int = 10_000, seed: int | Sequence[int] = 0, each: int = 10, name: str = "") -> Examples:
    """Scenes with `2 * each` questions, the plain ones first.

    Args:
      count: how many scenes.
      seed: determines everything.
      each: the number of plain and of relational questions for a scene, at most 18 each; none is asked twice.

    Returns:
      Examples of inputs `(images, questions)`, uint8 `(count, 75, 75, 3)` and int32 `(count, 2 each, LENGTH)`, labels
      `(count, 2 each)` with the classes `ANSWERS`, and in `extra` the vocabulary.

    Raises:
      UserError: when there is no scene, no question, or more than 18.
    """
    if not 1 <= each <= len(COLOURS) * len(PLAIN):
        raise UserError(f"each={each}: expected 1 to {len(COLOURS) * len(PLAIN)} questions of each sort")
    centres, circles = scenes(count, seed)
    rng = np.random.default_rng([1, *np.atleast_1d(seed)])
    words, rows = vocabulary(), np.arange(count)
    texts = [[[p.format(c) for p in PHRASES[kind]] for c in COLOURS] for kind in PLAIN + RELATIONAL]
    coded = np.stack([[encode_questions(phrases, words) for phrases in of_kind] for of_kind in texts])
    truth = np.stack(
        [[answer(centres, circles, kind, c) for c in range(len(COLOURS))] for kind in PLAIN + RELATIONAL]
    )  # kinds, colours, scenes
    asked = []
    for first in (0, len(PLAIN)):  # the kinds of each sort, times colours, in random order
        order = rng.permuted(np.tile(np.arange(len(PLAIN) * len(COLOURS)), (count, 1)), axis=1)[:, :each]
        asked.append((first + order // len(COLOURS), order % len(COLOURS)))
    kind, colour = (np.concatenate(parts, 1) for parts in zip(*asked, strict=True))
    phrase = rng.integers(0, coded.shape[2], kind.shape)
    return Examples(
        (draw(centres, circles), coded[kind, colour, phrase]),
        truth[kind, colour, rows[:, None]].astype(np.int32),
        ANSWERS,
        name or f"sort-of-clevr, {count:,} scenes",
        {"vocabulary": list(words.words)},
    )


def kinds_of(questions: np.ndarray, words: Vocabulary) -> np.ndarray:
    """Which kind each question `(..., LENGTH)` is of, an index into `PLAIN + RELATIONAL`; -1 for one put otherwise."""
    known = {
        tuple(row): k
        for k, kind in enumerate(PLAIN + RELATIONAL)
        for row in encode_questions([phrase.format(c) for phrase in PHRASES[kind] for c in COLOURS], words)
    }
    rows = questions.reshape(-1, questions.shape[-1])
    return np.array([known.get(tuple(row), -1) for row in rows]).reshape(questions.shape[:-1])


def encode_questions(texts: Sequence[str], words: Vocabulary) -> np.ndarray:
    """Questions as integers `(N, LENGTH)` int32.

    Raises:
      UserError: when a question is empty or too long, has an unknown word, or does not name exactly one colour.
    """
    sentences = [tokenize(text) for text in texts]
    coded = words.encode(sentences, LENGTH)
    for text, sentence, row in zip(texts, sentences, coded, strict=True):
        _check_question(text, sentence, row, words)
    return coded


def _check_question(text: str, sentence: Sequence[str], row: np.ndarray, words: Vocabulary) -> None:
    example = f'for instance "{PHRASES["nearest"][0].format("red")}"'
    if not any(word.isalpha() for word in sentence):
        raise UserError(f"the question is empty: ask something, {example}")
    if len(sentence) > LENGTH:
        raise UserError(f"{text!r} has {len(sentence)} words and marks; the limit is {LENGTH}, {example}")
    if UNKNOWN in row:
        strange = ", ".join(dict.fromkeys(word for word in sentence if word not in words))
        known = " ".join(sorted(word for word in words.words[2:] if word.isalpha()))
        raise UserError(f"{text!r}: no question has the word {strange}; the words are: {known}")
    named = [word for word in sentence if word in COLOURS]
    if len(named) != 1:
        raise UserError(
            f"{text!r} names {' and '.join(named) or 'no colour'}: a question is about one of the objects, "
            f"{', '.join(COLOURS)}, {example}"
        )


def _ties(centres: np.ndarray, circles: np.ndarray) -> np.ndarray:
    """Scenes with an object to which two others of different shape are both the nearest, or both the furthest."""
    distance = ((centres[:, :, None] - centres[:, None]).astype(np.int64) ** 2).sum(-1)
    itself = np.eye(len(COLOURS), dtype=bool)
    tied = np.zeros(len(centres), bool)
    for sign in (1, -1):
        d = np.where(itself, 4 * SIZE**2, sign * distance)
        first = d == d.min(2, keepdims=True)
        tied |= ((first & circles[:, None]).any(2) & (first & ~circles[:, None]).any(2)).any(1)
    return tied


def check_scene(image: np.ndarray) -> np.ndarray:
    """Checks that a picture is uint8 `(75, 75, 3)`, and returns it.

    Raises:
      DataError: when it has another size.
    """
    if image.shape != (SIZE, SIZE, 3):
        raise DataError(f"expected a picture of {SIZE}x{SIZE} pixels in colour, got {image.shape}")
    return image
