"""Variational autoencoders of MNIST's digits: a bound on their log-likelihood in nats, and what their latents mean.

Each image is drawn anew in black and white in every epoch, a pixel white with a probability that is its grey, so that
the Bernoulli likelihood is one of the data (Salakhutdinov and Murray 2008). No labels are used; the picture colours the
latents by them.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import images, machine, main, save, table
from jaxcnn.errors import UserError
from jaxcnn.format import plural
from jaxcnn.inspect.plots import Figure


def autoencoder(latents: int, image: tuple[int, ...], width: int = 32, hidden: int = 128) -> cnn.Layer:
    """Images `(N, H, W, C)` of 0 and 1 and noise `(N, latents)` -> the image, mean and log variance of q, and logits.

    Encoder and decoder mirror each other: two convolutions with stride 2, or transposed ones, and a dense layer.

    Source: Kingma and Welling, Auto-encoding variational Bayes (2014), section 3 and appendix C.
    """
    height, width_, channels = image
    small = height // 4, width_ // 4, 2 * width

    def forward(net: Any, x: jax.Array, noise: jax.Array) -> dict[str, jax.Array]:
        mean, log_var = jnp.split(net.encoder(x), 2, axis=-1)
        logits = net.decoder(mean + jnp.exp(log_var / 2) * noise)
        return {"image": x, "mean": mean, "log_var": log_var, "logits": logits}

    encoder = cnn.serial(
        conv1=cnn.conv(width, 4, 2, padding=1), act1=cnn.relu,
        conv2=cnn.conv(2 * width, 4, 2, padding=1), act2=cnn.relu,
        flat=cnn.flatten, fc1=cnn.dense(hidden), act3=cnn.relu, fc2=cnn.dense(2 * latents),
    )  # fmt: skip
    decoder = cnn.serial(
        fc1=cnn.dense(hidden), act1=cnn.relu, fc2=cnn.dense(int(np.prod(small))), act2=cnn.relu,
        map=lambda h: h.reshape(-1, *small),
        conv1=cnn.conv_transpose(width, 4, 2, padding=1), act3=cnn.relu,
        conv2=cnn.conv_transpose(channels, 4, 2, padding=1),
    )  # fmt: skip
    return cnn.network(forward, encoder=encoder, decoder=decoder)


@cnn.losses.per_example
def reconstruction(outputs: dict[str, jax.Array], labels: Any) -> jax.Array:
    """-log p(x | z), a Bernoulli for each pixel, in nats: `(N,)`."""
    x, logits = outputs["image"], outputs["logits"]
    return jnp.sum(jax.nn.softplus(logits) - x * logits, axis=(1, 2, 3))


@cnn.losses.per_example
def divergence(outputs: dict[str, jax.Array], labels: Any) -> jax.Array:
    """KL(q(z | x) || N(0, 1)) = 1/2 sum(mean^2 + var - 1 - log var), in nats: `(N,)`."""
    mean, log_var = outputs["mean"], outputs["log_var"]
    return jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=1) / 2


@cnn.losses.per_example
def negative_elbo(outputs: dict[str, jax.Array], labels: Any) -> jax.Array:
    """-ELBO >= -log p(x), in nats: `(N,)`. Equation 10 of Kingma and Welling with one sample."""
    return reconstruction(outputs, labels) + divergence(outputs, labels)


def black_and_white(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each pixel 1 with a probability that is its grey, else 0; float32."""
    return jax.random.bernoulli(key, images.astype(jnp.float32) / 255).astype(jnp.float32)


def vae(
    data: str = "mnist", data_dir: Path | None = None, examples: int | None = None, latents: tuple[int, ...] = (2, 16),
    width: int = 32, epochs: int = 10, batch_size: int = 128, lr: float = 2e-3, validation: float = 0.05,
    seeds: int = 1, picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains an autoencoder for each number of latents and prints the bound on the test set.

    Args:
      data: mnist, or digits for scikit-learn's.
      data_dir: the folder of prepared datasets.
      examples: number of training images; all when not given.
      latents: numbers of latents; the picture has the plane of 2 of them, and samples of the largest.
      width: filters of the first convolution.
      epochs: passes over the images.
      batch_size: images per step.
      lr: Adam's initial learning rate, with cosine decay to 0.
      validation: share of the training images that chooses the best epoch.
      seeds: number of runs of each.
      picture: file for samples, reconstructions and the plane of latents.
      full: 2, 8, 32 and 64 latents, 64 filters, 200 epochs (needs an accelerator).
    """
    if full:
        latents, width, epochs = (2, 8, 32, 64), 64, 200
    if latents and min(latents) < 1:
        raise UserError(f"--latents {latents}: expected numbers of at least 1")
    labelled, test = images(data, data_dir, examples)
    train, val = cnn.data.Examples(labelled.images, name=data).hold_out(validation)
    rows: list[list[Any]] = []
    fitted: dict[int, cnn.train.FitResult] = {}
    for size in latents:
        objective = cnn.train.Objective(
            negative_elbo,
            metrics={"reconstruction": reconstruction, "divergence": divergence},
            views=cnn.data.compose(black_and_white, cnn.data.noise(size)),
            preprocess=cnn.data.to_float,
        )
        steps = epochs * (len(train) // min(batch_size, len(train)))
        results = []
        for seed in range(seeds):
            run = cnn.train.fit(
                autoencoder(size, labelled.image, width),
                train,
                objective,
                validation=val,
                test=cnn.data.Examples(test.images),
                epochs=epochs,
                batch_size=batch_size,
                optimizer=cnn.train.make_optimizer("adam", lr, "cosine", steps),
                seed=seed,
                show=False,
            )
            results.append(run.result)
            fitted.setdefault(size, run)
        figures = [
            f"{statistics.mean(r[f'test_{name}'] for r in results):.1f}"
            for name in ("loss", "reconstruction", "divergence")
        ]
        rows.append([size, *figures, f"{results[0]['train_loss']:.1f}", f"{results[0]['params']:,}",
                     f"{statistics.mean(r['seconds'] for r in results):.0f}"])  # fmt: skip
        print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\nnats per image of {data}, {len(train):,} images, {epochs} {plural(epochs, 'epoch')}, "
          f"{seeds} {plural(seeds, 'seed')} ({machine()})")  # fmt: skip
    header = ["latents", "-ELBO, test", "reconstruction", "divergence", "-ELBO, training", "parameters", "seconds"]
    print(table(header, rows))
    if picture is not None:
        draw(picture, fitted, test)


def decoded(run: cnn.train.FitResult, z: np.ndarray) -> np.ndarray:
    """The probability of white of each pixel, `(N, H, W)`, for latents `(N, latents)`."""
    decoder = run.model.sublayers["decoder"]
    logits, _ = decoder.apply(run.params["decoder"], run.model_state.get("decoder", {}), jnp.asarray(z, jnp.float32))
    return np.asarray(jax.nn.sigmoid(logits))[..., 0]


def tiles(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Pictures `(N, H, W)` as one, in rows of `columns`."""
    count, height, width = pictures.shape
    rows = pictures.reshape(count // columns, columns, height, width)
    return rows.swapaxes(1, 2).reshape(count // columns * height, columns * width)


def draw(path: Path, fitted: dict[int, cnn.train.FitResult], test: cnn.data.Dataset, side: int = 12) -> None:
    """Draws samples and reconstructions of the largest network, and the plane of the one with two latents."""
    most = max(fitted)
    best, plane = fitted[most], fitted.get(2)
    rng = np.random.default_rng(0)
    samples = tiles(decoded(best, rng.normal(size=(side * side, most))), side)
    assert best.test is not None
    shown = np.concatenate([np.flatnonzero(test.labels == label)[:2] for label in range(10)])[: 2 * side]
    outputs = {name: np.asarray(value)[shown] for name, value in best.test.outputs.items()}
    pairs = np.stack([outputs["image"][..., 0], decoded(best, outputs["mean"])], 1).reshape(-1, *test.image[:2])
    # Numbers of the rows and columns at equal steps of the normal distribution, as in figure 4 of the paper.
    even = statistics.NormalDist()
    at = [even.inv_cdf(float(p)) for p in np.linspace(0.02, 0.98, side + 4)]
    panels = [(f"samples, {most} latents", samples), (f"images and reconstructions, {most} latents", tiles(pairs, 8))]
    if plane is not None:
        z = np.array([(x, y) for y in at[::-1] for x in at])
        panels.append(("the plane of 2 latents", tiles(decoded(plane, z), side + 4)))
    count = len(panels) + (plane is not None)
    figure = Figure(figsize=(4.2 * count, 4.9), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, count))
    for one, (title, picture) in zip(axes, panels, strict=False):
        one.imshow(1 - picture, cmap="gray", vmin=0, vmax=1)
        one.set_axis_off()
        one.set_title(title, fontsize=10)
    if plane is not None:
        assert plane.test is not None
        means = np.asarray(plane.test.outputs["mean"])[:5000]
        for label in range(10):
            points = means[test.labels[: len(means)] == label]
            axes[-1].scatter(*points.T, color=f"C{label}", s=2, label=str(label))
        axes[-1].set_title("test images in it, by class", fontsize=10)
        axes[-1].set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
        axes[-1].legend(frameon=False, fontsize=7, markerscale=3, loc="upper right", handletextpad=0.1)
    save(figure, path)


if __name__ == "__main__":
    main(vae)
