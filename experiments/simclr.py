"""SimCLR on CIFAR-10: what a network learns without labels, beside random features and training on the few labels.

Two views of each image, cropped and coloured at random, should have like embeddings, and unlike those of all other
images in the batch (Chen et al. 2020). Then a linear classifier is trained on the features of the frozen encoder (the
linear probe), and the whole network is trained on from them (fine-tuning).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import images, machine, main, save, table
from jaxcnn.errors import UserError
from jaxcnn.inspect.plots import Figure

ROWS = ("random, probe", "SimCLR, probe", "from the labels alone", "SimCLR, fine-tuned")


def encoder(depth: int, width: int, stride: int) -> cnn.Layer:
    """The residual network of He et al. for CIFAR without its classifier: `(N, 32, 32, C) -> (N, 4 width)`."""
    parts = dict(cnn.models.cifar_resnet(depth, width=width).sublayers)
    del parts["fc"]
    if stride > 1:
        parts["conv1"] = cnn.conv(width, 2 + stride, stride, padding=1, bias=False)
    return cnn.serial(**parts)


def siamese(trunk: cnn.Layer, units: int) -> cnn.Layer:
    """Two views -> the projections of their features, which the loss compares. Section 2.1 of the paper."""

    def forward(net: Any, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Together, so that batch normalization sees both views.
        both = net.projection(net.encoder(jnp.concatenate([a, b])))
        first, second = jnp.split(both, 2)
        return first, second

    projection = cnn.serial(fc1=cnn.dense(units), act=cnn.relu, fc2=cnn.dense(units))
    return cnn.network(forward, encoder=trunk, projection=projection)


def grey(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image without its colour."""
    mean = images.astype(jnp.float32).mean(-1, keepdims=True)
    return jnp.broadcast_to(mean, images.shape).astype(images.dtype)


def found_partner(outputs: tuple[jax.Array, jax.Array], labels: Any) -> jax.Array:
    """1 for an image whose first view is more like its second than any other image's of the batch, else 0: `(N,)`."""
    first, second = (z / jnp.linalg.norm(z, axis=1, keepdims=True) for z in outputs)
    return (jnp.argmax(first @ second.T, axis=1) == jnp.arange(len(first))).astype(jnp.float32)


def simclr(
    data: str = "cifar10", data_dir: Path | None = None, examples: int | None = None, epochs: int = 7,
    batch_size: int = 256, lr: float = 2e-3, temperature: float = 0.5, depth: int = 8, width: int = 32, stride: int = 2,
    units: int = 128, labels: tuple[int, ...] = (500, 5_000), tuning_steps: int = 400, seed: int = 0,
    picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains an encoder without labels and compares what it gives with few labels.

    Args:
      data: cifar10, mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images; all when not given.
      epochs: passes over the images without their labels.
      batch_size: images per step, two views of each.
      lr: Adam's peak learning rate, after a linear warmup over a tenth of the steps; then cosine decay to 0.
      temperature: of the loss.
      depth, width: layers, of the form 6n + 2, and filters of the first stage of the encoder.
      stride: of the first convolution; 2 halves the height and width of all maps.
      units: of the projection's two layers.
      labels: numbers of labelled images; a probe of all images is trained in any case.
      tuning_steps: steps of a training of the whole network on labelled images, 64 in a step.
      seed: of weights, order, views, and the choice of labelled images.
      picture: file for the accuracies and the nearest neighbours of some test images.
      full: 20 layers, 64 filters, images at full size, batches of 512, 1000 epochs (needs an accelerator).
    """
    if full:
        depth, width, stride, batch_size, epochs, tuning_steps = 20, 64, 1, 512, 1000, 10_000
    train, test = images(data, data_dir, examples)
    if labels and not len(train.classes) <= min(labels) <= max(labels) <= len(train):
        raise UserError(f"--labels {labels}: expected numbers from {len(train.classes)} to {len(train)}")
    trunk = encoder(depth, width, stride)
    preprocess = cnn.data.Preprocess.of(train.images)
    began = time.monotonic()
    learned = pretrained(trunk, train, preprocess, epochs, batch_size, lr, temperature, units, seed)
    params, state = learned.params["encoder"], learned.model_state["encoder"]
    seconds = time.monotonic() - began
    last = learned.history[-1]
    print(f"SimCLR: loss {last['loss']:.3f}, {100 * last['partner']:.1f} % of the views find their partner among "
          f"{batch_size} images, {seconds:.0f} s", flush=True)  # fmt: skip

    start = trunk.init(jax.random.key(seed + 1), preprocess(train.images[:1]))
    features = {
        name: [features_of(trunk, variables, preprocess, part.images) for part in (train, test)]
        for name, variables in (("random", start), ("SimCLR", (params, state)))
    }
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ROWS}
    for count in (*labels, len(train)):
        few = chosen(train.labels, count, rng)
        for name in ("random", "SimCLR"):
            known, unseen = features[name]
            found[f"{name}, probe"].append(probe(known[few], unseen, train.labels[few], test.labels, seed))
        if count == len(train):
            break
        for row, variables in (("from the labels alone", None), ("SimCLR, fine-tuned", (params, state))):
            found[row].append(tuned(trunk, variables, train.take(few), test, preprocess, tuning_steps, seed))
        print(count, {name: round(100 * values[-1], 1) for name, values in found.items()}, flush=True)
    header = ["test accuracy (%)", *(f"{count:,} labels" for count in (*labels, len(train)))]
    rows = [[name, *(f"{100 * v:.1f}" for v in values), *[""] * (len(labels) + 1 - len(values))]
            for name, values in found.items()]  # fmt: skip
    whole = time.monotonic() - began
    print(f"\n{data}, {len(train):,} images, {epochs} epochs without labels, batches of {batch_size}, {depth} layers "
          f"of width {width}; {whole:.0f} s, {seconds:.0f} of them for SimCLR ({machine()})")  # fmt: skip
    print(table(header, rows))
    if picture is not None:
        draw(picture, found, (*labels, len(train)), features, train, test)


def pretrained(
    trunk: cnn.Layer, train: cnn.data.Dataset, preprocess: Any, epochs: int, batch_size: int, lr: float,
    temperature: float, units: int, seed: int,
) -> cnn.train.FitResult:  # fmt: skip
    """Trains the encoder and its projection on pairs of views."""
    changes = [cnn.data.resized_crop((0.2, 1.0)), cnn.data.sometimes(cnn.data.colour(0.4, 0.4, 0.4, 0.1), 0.8)]
    if train.image[-1] == 3:
        changes += [cnn.data.flip, cnn.data.sometimes(grey, 0.2)]
    objective = cnn.train.Objective(
        cnn.losses.nt_xent(temperature),
        metrics={"partner": found_partner},
        views=cnn.data.views(cnn.data.compose(*changes)),
        preprocess=preprocess,
    )
    steps = epochs * (len(train) // min(batch_size, len(train)))
    return cnn.train.fit(
        siamese(trunk, units),
        cnn.data.Examples(train.images),
        objective,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps, 1e-4, warmup=steps // 10),
        seed=seed,
        show=False,
    )


def features_of(trunk: cnn.Layer, variables: Any, preprocess: Any, pictures: np.ndarray) -> np.ndarray:
    """The encoder's features of images, `(N, 4 width)`."""
    compute = jax.jit(lambda x: trunk.apply(*variables, preprocess(x))[0])
    parts = cnn.data.padded_batches(cnn.data.Examples(pictures), min(500, len(pictures)))
    return np.concatenate([np.asarray(compute(x))[weights > 0] for x, _, weights in parts])


def chosen(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The places of `count` images, of each class as many as of the others or one more; all for all."""
    if count == len(labels):
        return np.arange(count)
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # the how-manieth of its class
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    return order[np.argsort(rank[order], kind="stable")][:count]


def probe(train: np.ndarray, test: np.ndarray, labels: np.ndarray, test_labels: np.ndarray, seed: int) -> float:
    """The test accuracy of a linear classifier of features, scaled to mean 0 and variance 1; 500 steps or 10 epochs."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    known = cnn.data.Examples((train - mean) / std, labels)
    batch_size = min(256, len(known))
    epochs = max(10, 500 // (len(known) // batch_size))
    steps = epochs * (len(known) // batch_size)
    fitted = cnn.train.fit(
        cnn.serial(head=cnn.dense(int(labels.max()) + 1)),
        known,
        test=cnn.data.Examples((test - mean) / std, test_labels),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cnn.train.make_optimizer("adam", 3e-3, "cosine", steps, 1e-2),
        seed=seed,
        show=False,
    )
    return float(fitted.result["test_accuracy"])


def tuned(
    trunk: cnn.Layer,
    variables: Any,
    few: cnn.data.Dataset,
    test: cnn.data.Dataset,
    preprocess: Any,
    steps: int,
    seed: int,
) -> float:
    """The test accuracy of the whole network, trained on labelled images from the encoder's variables or new ones."""
    model = cnn.serial(encoder=trunk, head=cnn.dense(len(few.classes)))
    first = None
    if variables is not None:
        new, state = model.init(jax.random.key(seed), preprocess(few.images[:1]))
        first = {**new, "encoder": variables[0]}, {**state, "encoder": variables[1]}
    moved = cnn.data.crop(padding=max(1, few.image[0] // 8))
    batch_size = min(64, len(few))
    epochs = max(1, steps // (len(few) // batch_size))
    fitted = cnn.train.fit(
        model,
        few,
        cnn.train.Objective(
            augment=cnn.data.compose(cnn.data.flip, moved) if few.image[-1] == 3 else moved, preprocess=preprocess
        ),
        test=test,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=cnn.train.make_optimizer("adam", 1e-3, "cosine", epochs * (len(few) // batch_size), 1e-3),
        seed=seed,
        variables=first,
        show=False,
    )
    return float(fitted.result["test_accuracy"])


def draw(
    path: Path, found: dict[str, list[float]], counts: tuple[int, ...], features: dict[str, list[np.ndarray]],
    train: cnn.data.Dataset, test: cnn.data.Dataset, near: int = 6,
) -> None:  # fmt: skip
    """Draws bars of the accuracies, and for some test images the training images with the nearest features."""
    queries = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)][:8]
    figure = Figure(figsize=(13, 0.62 * len(queries) + 0.8), layout="constrained")
    left, *columns = np.ravel(np.asarray(figure.subfigures(1, 3, width_ratios=[1.15, 1, 1]), object))
    axes = left.subplots()
    for index, (name, values) in enumerate(found.items()):
        places = np.arange(len(values)) + (index - 1.5) * 0.2
        drawn = axes.bar(places, [100 * v for v in values], 0.19, label=name)
        axes.bar_label(drawn, fmt="%.0f", fontsize=7)
    axes.set_xticks(range(len(counts)), [f"{count:,} labels" for count in counts])
    axes.set_ylabel("test accuracy (%)")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_ylim(0, 1.35 * 100 * max(max(values) for values in found.values() if values))
    axes.spines[["top", "right"]].set_visible(False)
    for column, name in zip(columns, ("SimCLR", "random"), strict=True):
        column.suptitle(f"nearest training images by {name} features", fontsize=10)
        known, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in features[name])
        rows = []
        for query in queries:
            nearest = np.argsort(known @ asked[query])[::-1][:near]
            shown = [framed(train.images[i], train.labels[i] == test.labels[query]) for i in nearest]
            rows.append(np.concatenate([framed(test.images[query], None), *shown], axis=1))
        grid = column.subplots()
        grid.imshow(np.concatenate(rows))
        grid.set_axis_off()
    save(figure, path)


def framed(image: np.ndarray, right: bool | None) -> np.ndarray:
    """An image `(H, W, C)` in a frame of two pixels: green if right, red if wrong, black for None."""
    height, width, _ = image.shape
    framed = np.full((height + 8, width + 8, 3), 255, np.uint8)
    framed[2:-2, 2:-2] = (0, 0, 0) if right is None else (26, 127, 55) if right else (198, 40, 40)
    framed[4:-4, 4:-4] = image
    return framed


if __name__ == "__main__":
    main(simclr)
