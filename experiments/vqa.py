"""Visual question answering: a relation network, a plain network, and networks without the image or the question."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, save, table
from jaxcnn.data.dataset import Examples
from jaxcnn.data.datasets.clevr import ANSWERS, PLAIN, RELATIONAL, kinds_of, sort_of_clevr
from jaxcnn.data.preprocess import to_float
from jaxcnn.data.text import Vocabulary
from jaxcnn.inspect.plots import Figure
from jaxcnn.models.vqa import vqa_cnn, vqa_relation
from jaxcnn.tasks.vqa.task import METRICS


def vqa(
    scenes: int = 10_000, test_scenes: int = 1_000, epochs: int = 30, blank_epochs: int = 2, batch_size: int = 8,
    lr: float = 2e-3, width: int = 64, depth: int = 3, units: int = 128, seed: int = 0, picture: Path | None = None,
    full: bool = False,
) -> None:  # fmt: skip
    """Trains four networks on the same scenes, 20 questions each, and evaluates them on scenes of another seed.

    The relation network is `vqa_relation`; CNN + MLP is `vqa_cnn`; the other two are CNN + MLP with blank
    images or blank questions. The optimizer is Adam with warmup and cosine decay. Test scenes choose nothing.

    Args:
      scenes: number of training scenes, with 20 questions each.
      test_scenes: number of test scenes.
      epochs: epochs of the relation network and of CNN + MLP.
      blank_epochs: epochs of the two networks with blank inputs.
      batch_size: scenes a step.
      lr: Adam's peak learning rate.
      width, depth: units and layers of the relation network's g.
      units: units of the last hidden layers of all networks.
      seed: of scenes, weights and order.
      picture: file for four scenes with questions and answers.
      full: the paper's relation network, 4 layers of 256 units for every pair, and 60 epochs (needs an accelerator).
    """
    if full:
        epochs, blank_epochs, width, depth, units, batch_size = 60, 5, 256, 4, 256, 64
    train, test = sort_of_clevr(scenes, [seed, 0]), sort_of_clevr(test_scenes, [seed, 2])
    words = Vocabulary(tuple(train.extra["vocabulary"]))
    sizes = {"classes": len(ANSWERS), "vocabulary": len(words), "units": units}
    plain = vqa_cnn(**sizes)
    networks: dict[str, tuple[cnn.Layer, int, Callable[[Any], Any]]] = {
        "relation network": (vqa_relation(**sizes, width=width, depth=depth, attend=not full), epochs, to_float),
        "CNN + MLP": (plain, epochs, to_float),
        "question only": (plain, blank_epochs, _blank(0)),
        "picture only": (plain, blank_epochs, _blank(1)),
    }
    kinds = kinds_of(test.inputs[1], words)
    rows, answers = [], {}
    for name, (model, passes, preprocess) in networks.items():
        steps = passes * (scenes // min(batch_size, scenes))
        optimizer = cnn.train.make_optimizer("adam", lr, "cosine", steps, warmup=steps // 20, clip=5.0)
        began, used = time.monotonic(), time.process_time()
        run = cnn.train.fit(
            model,
            train,
            cnn.train.Objective(metrics=METRICS, preprocess=preprocess),
            test=test,
            epochs=passes,
            batch_size=batch_size,
            optimizer=optimizer,
            seed=seed,
        )
        assert run.test is not None
        answers[name] = run.test.outputs.argmax(-1)
        right = answers[name] == test.labels
        of_kind = [f"{100 * right[kinds == k].mean():.1f}" for k in range(len(PLAIN + RELATIONAL))]
        both = [f"{100 * run.result[f'test_{sort}']:.1f}" for sort in ("plain", "relational")]
        seconds = f"{time.monotonic() - began:.0f} ({time.process_time() - used:.0f})"
        rows.append([name, *both, *of_kind, f"{run.result['params']:,}", passes, seconds])
        print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\ncorrect answers (%), {scenes:,} training scenes, {test_scenes:,} test scenes ({machine()})")
    header = ["network", "plain", "relational", *PLAIN, *RELATIONAL, "parameters", "epochs", "seconds (processor)"]
    print(table(header, rows))
    if picture is not None:
        shown = {name: answers[name] for name in ("relation network", "CNN + MLP")}
        draw(picture, test, words, kinds, shown)


def _blank(index: int) -> Callable[[Any], Any]:
    """Preprocessing that blanks the images (0) or the questions (1)."""

    def preprocess(inputs: Any) -> Any:
        return to_float(tuple(jnp.zeros_like(x) if i == index else x for i, x in enumerate(inputs)))

    return preprocess


def draw(
    path: Path, test: Examples, words: Vocabulary, kinds: np.ndarray, answers: Mapping[str, np.ndarray],
    scenes: Sequence[int] = (0, 1, 2, 3),
) -> None:  # fmt: skip
    """Draws scenes with a question of each kind and the networks' answers: green is right, red is wrong."""
    images, questions = test.inputs
    scenes = [i for i in scenes if i < len(images)]
    figure = Figure(figsize=(4.3 * len(scenes), 7.4))
    for column, i in enumerate(scenes):
        left, width = (column + 0.04) / len(scenes), 0.92 / len(scenes)
        axes = figure.add_axes((left, 0.455, width, 0.53))
        axes.imshow(images[i])
        axes.set(xticks=[], yticks=[])
        y = 0.42
        for kind in range(len(PLAIN + RELATIONAL)):
            of_kind = np.flatnonzero(kinds[i] == kind)
            if not len(of_kind):
                continue
            q = of_kind[0]
            text = " ".join(words.decode(questions[i, q])).replace(" ?", "?").replace(" ,", ",")
            figure.text(left, y, text, fontsize=8.5)
            figure.text(left, y - 0.024, f"truth: {ANSWERS[test.labels[i, q]]}", fontsize=8, color="0.35")
            for k, (name, given) in enumerate(answers.items()):
                right = given[i, q] == test.labels[i, q]
                mark = f"{name}: {ANSWERS[given[i, q]]} {'✓' if right else '✗'}"
                figure.text(left + (0.24 + 0.43 * k) * width, y - 0.024, mark, fontsize=8,
                            color="#1a7f37" if right else "#c62828")  # fmt: skip
            y -= 0.064 + 0.02 * (kind == len(PLAIN) - 1)
    save(figure, path, 100)


if __name__ == "__main__":
    main(vqa)
