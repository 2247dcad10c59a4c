"""Answers to questions about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.datasets.clevr import SIZE, draw, encode_questions, scenes
from jaxcnn.data.images import read_image
from jaxcnn.data.text import Vocabulary
from jaxcnn.declared import per_example
from jaxcnn.errors import UserError
from jaxcnn.format import printable
from jaxcnn.inspect.plots import Figure, plain
from jaxcnn.runs.primary import ACCURACY
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import TrainedModel
from jaxcnn.tasks.files import stems, write_figure
from jaxcnn.tasks.objective import Objective
from jaxcnn.tasks.task import Data, Facts, Row, Task


def right(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where a question is answered correctly: `(N, Q, classes), (N, Q) -> (N, Q)`."""
    return (outputs.argmax(-1) == labels).astype(jnp.float32)


METRICS = {
    "accuracy": per_example(lambda outputs, labels: right(outputs, labels).mean(1)),
    "plain": per_example(lambda outputs, labels: right(outputs, labels)[:, : labels.shape[1] // 2].mean(1)),
    "relational": per_example(lambda outputs, labels: right(outputs, labels)[:, labels.shape[1] // 2 :].mean(1)),
}
"""The share of correct answers: to all, plain and relational questions (`sort_of_clevr` has the plain ones first)."""


def picture(image: np.ndarray, lines: Sequence[str]) -> Figure:
    """A scene with lines of text below it."""
    figure = Figure(figsize=(4.2, 4.1 + 0.24 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(plain("\n".join(lines)), fontsize=9)
    return figure


def predict(trained: TrainedModel, given: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """The answer to each question: `IMAGE QUESTION [QUESTION ...] [IMAGE QUESTION ...]`.

    `scene:7` instead of a file is the scene of seed 7. A file of another size is resized to 75x75.
    """
    words = Vocabulary(tuple(trained.config["extra"]["vocabulary"]))
    asked: list[tuple[str, np.ndarray, list[str]]] = []
    for each in given:
        if each.startswith("scene:") or Path(each).suffix or Path(each).is_file():
            asked.append((each, _image(each), []))
        elif not asked:
            raise UserError(
                f'expected an image, then questions: scene.png "what shape is the red object?"; got {each!r}'
            )
        else:
            asked[-1][2].append(each)
    rows: list[dict[str, Any]] = []
    for number, (name, image, questions) in enumerate(asked, 1):
        if not questions:
            raise UserError(f'{name}: a question has to follow, for instance "what shape is the red object?"')
        coded = encode_questions(questions, words)
        chances = np.asarray(jax.jit(jax.nn.softmax)(trained.outputs((image[None], coded[None]))[0]))
        lines = []
        stem = f"scene{name.removeprefix('scene:')}" if name.startswith("scene:") else stems([name])[0]
        file = out / f"{stem}{f'-{number}' if len(asked) > 1 else ''}.png"
        for question, chance in zip(questions, chances, strict=True):
            best = int(chance.argmax())
            line = f"{printable(question)} {printable(trained.classes[best])} ({100 * chance[best]:.0f} %)"
            lines.append(line)
            rows.append({
                "text": f"{printable(name)}: {line}", "image": name, "question": question,
                "answer": trained.classes[best], "probability": float(chance[best]), "picture": str(file),
            })  # fmt: skip
        write_figure(file, picture(image, lines))
    return rows


def _image(name: str) -> np.ndarray:
    if not name.startswith("scene:"):
        return read_image(name, 3, (SIZE, SIZE))
    seed = name.removeprefix("scene:")
    if not (seed.isdecimal() and len(seed) < 20):
        raise UserError(f"{name}: expected scene: and a number, the seed of a scene, scene:7")
    return draw(*scenes(1, [3, int(seed)]))[0]


class QuestionAnswering(Task):
    """The answer to a question about a picture."""

    name = "vqa"
    about = "the answer to a question about a picture"
    kind = "questions"
    transfers = False
    unit = "pictures"
    defaults = Recipe(data="sort-of-clevr", batch_size=8, epochs=30)
    metric = ACCURACY

    def model_options(self, recipe: Recipe, train: Data) -> dict[str, Any]:
        return {"vocabulary": len(train.extra["vocabulary"])}

    def objective(self, recipe: Recipe, facts: Facts) -> Objective:
        return self.chosen(recipe, Objective(metrics=METRICS))

    def predict(self, trained: TrainedModel, given: Sequence[str], out: Path) -> list[Row]:
        return predict(trained, given, out)


TASK = QuestionAnswering()
