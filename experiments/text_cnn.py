"""Kim's network on movie reviews: ten-fold cross-validation, with word vectors trained from random ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxcnn as cnn
from experiments.common import machine, main, percent, save, table
from jaxcnn.data.datasets.reviews import load_text
from jaxcnn.data.text import Corpus, Vocabulary, by_length, drop_words
from jaxcnn.inspect.plots import Figure, plain
from jaxcnn.models.text_cnn import text_cnn
from jaxcnn.tasks.text.task import evidence
from jaxcnn.train import max_norm

KIM = 0.761  # CNN-rand on MR, table 2


def text(
    data: str = "rt-polarity", data_dir: Path | None = None, examples: int | None = None, parts: int = 10,
    epochs: int = 4, batch_size: int = 50, lr: float = 1e-3, embedding: int = 128, features: int = 100,
    drop: float = 0.5, words_drop: float = 0.1, limit: float = 3.0, seed: int = 0, picture: Path | None = None,
    full: bool = False,
) -> None:  # fmt: skip
    """Cross-validation: each fold is the test set of a network that is trained on the other folds from random weights.

    A tenth of the training sentences of each class is held out for validation. The epoch with the highest validation
    accuracy is tested (the paper's early stopping). The vocabulary comes from the remaining sentences. Folds are random
    and stratified. The optimizer is Adam with cosine decay; a step of the paper's Adadelta takes five times as long.

    Args:
      data: rt-polarity, or a folder of CLASS.txt files.
      data_dir: where the data lies.
      examples: number of sentences, drawn at random; all when not given.
      parts: number of folds.
      epochs: passes over the training sentences.
      batch_size: sentences a step.
      lr: Adam's learning rate.
      embedding: dimension of the word vectors (the paper: 300).
      features: number of filters of each width: 3, 4 and 5.
      drop: dropout rate before the last layer.
      words_drop: fraction of words that are replaced by the unknown word in training.
      limit: maximum norm of the last layer's columns.
      seed: of parts, weights and order.
      picture: file for the accuracies and the filters' strongest n-grams.
      full: word vectors of 300 numbers, as in the paper (needs an accelerator).
    """
    if full:
        embedding = 300
    corpus = load_text(data, data_dir)
    if examples is not None:
        corpus = corpus.take(np.random.default_rng(seed).permutation(len(corpus))[:examples])
    # All folds share one vocabulary size, and so one compiled step; surplus rows are unused.
    size = len(Vocabulary.of(corpus.sentences))
    model = text_cnn(len(corpus.classes), size, features, (3, 4, 5), embedding, drop)
    divided = corpus.folds(parts, seed)
    tenth = len(corpus) * (parts - 1) // parts // 10
    batch_size = min(batch_size, tenth * 9)
    steps = epochs * (tenth * 9 // batch_size)
    optimizer = optax.chain(optax.adam(optax.cosine_decay_schedule(lr, steps)), max_norm(limit, "fc"))
    loss = cnn.losses.softmax_cross_entropy
    step = cnn.train.make_step(
        model, cnn.train.Objective(loss, augment=drop_words(words_drop) if words_drop else None), optimizer
    )
    evaluate = cnn.train.make_evaluate(model, loss)
    longest = max(map(len, corpus.sentences))
    began = time.monotonic()
    rows: list[list[Any]] = []
    accuracies: list[float] = []
    chosen: list[float] = []
    last = None
    for k, (rest, test) in enumerate(divided):
        start = time.monotonic()
        train, val = rest.hold_out(0.1, seed)
        words = Vocabulary.of(train.sentences)
        learned, chosen_by, unseen = (each.examples(words, longest) for each in (train, val, test))
        example = jax.ShapeDtypeStruct((1, longest), jnp.int32)
        state = cnn.train.create_state(model, optimizer, jax.random.key(seed * parts + k), example)
        best: tuple[float, int, Any] = (-1.0, 0, None)
        for epoch in range(1, epochs + 1):
            for batch in by_length(learned, batch_size, seed * parts + k, epoch):
                state, _ = step(state, batch)
            accuracy = evaluate(state.params, state.model_state, chosen_by).metrics["accuracy"]
            if accuracy > best[0]:
                best = accuracy, epoch, jax.tree.map(jnp.copy, state.params)
        tested = evaluate(best[2], {}, unseen).metrics["accuracy"]
        accuracies.append(tested)
        chosen.append(best[0])
        last = best[2], words, test
        rows.append([k + 1, f"{len(words):,}", best[1], percent(best[0]), percent(tested),
                     f"{time.monotonic() - start:.0f}"])  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
    mean, std = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))
    print(f"\n{corpus.name}, {len(corpus):,} sentences, {parts} parts ({machine()})")
    print(table(["part", "vocabulary", "best epoch", "held-out accuracy", "test accuracy", "seconds"], rows))
    print(f"\nmean of {parts} parts {percent(mean)}, standard deviation between them {100 * std:.2f}; ", end="")
    print(f"{time.monotonic() - began:.0f} seconds in all. Kim (2014), CNN-rand: {percent(KIM)}")
    if picture is not None and last is not None:
        draw(picture, accuracies, chosen, looked_for(*last), corpus.classes)


def looked_for(
    params: Mapping[str, Any], words: Vocabulary, test: Corpus, most: int = 12
) -> list[list[tuple[str, float]]]:
    """For each class, the test n-grams with the largest contribution to its output, and that contribution."""
    heard: dict[str, tuple[float, np.ndarray]] = {}
    for sentence in test.sentences:
        for place, width, parts in evidence(params, words.encode([sentence])[0])[:3]:
            said = " ".join(sentence[max(place, 0) : place + width])
            centred = parts - parts.mean()
            if said not in heard or np.ptp(parts) > heard[said][0]:
                heard[said] = float(np.ptp(parts)), centred
    found = []
    for label in range(len(test.classes)):
        ranked = sorted(((said, float(parts[label])) for said, (_, parts) in heard.items()), key=lambda n: -n[1])
        found.append([(said, weight) for said, weight in ranked if weight > 0][:most])
    return found


def draw(
    path: Path, accuracies: Sequence[float], val: Sequence[float], seen: Sequence[Sequence[tuple[str, float]]],
    classes: Sequence[str],
) -> None:  # fmt: skip
    """Draws the accuracy of each fold and the most decisive n-grams."""
    figure = Figure(figsize=(5 + 3.6 * len(seen), 4.2), layout="constrained")
    axes = figure.subplots(1, 1 + len(seen), width_ratios=[1.2, *[1] * len(seen)])
    x = np.arange(1, len(accuracies) + 1)
    axes[0].bar(x, 100 * np.asarray(accuracies), color="#8fb0d9", label="test")
    axes[0].plot(x, 100 * np.asarray(val), "o", color="#d9822b", markersize=4, label="held out")
    axes[0].axhline(100 * np.mean(accuracies), color="#3b6fb6", label=f"mean {100 * np.mean(accuracies):.1f}")
    axes[0].axhline(100 * KIM, color="black", linestyle=":", label=f"Kim (2014) {100 * KIM:.1f}")
    low, high = (100 * edge([*accuracies, *val, KIM]) for edge in (min, max))
    axes[0].set(xlabel="part", ylabel="accuracy (%)", ylim=(low - 2, high + 4), xticks=x)
    axes[0].legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
    for label, (panel, ngrams) in enumerate(zip(axes[1:], seen, strict=True)):
        y = np.arange(len(ngrams))
        panel.barh(y, [weight for _, weight in ngrams], color=("#c98a8a", "#8ab98f")[label % 2])
        panel.set_yticks(y, [plain(said, 34) for said, _ in ngrams], fontsize=8)
        panel.invert_yaxis()
        panel.set(xlabel="added to the output", title=f"what says {plain(classes[label])}")
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


if __name__ == "__main__":
    main(text)
