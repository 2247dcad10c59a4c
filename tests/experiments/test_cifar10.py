"""The recipe of the speed records: its first weights, its whitening and its views of a test image."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from helpers import close

import jaxcnn as cnn
from experiments import cifar10

WIDTHS = (4, 6, 6)


def test_the_patches_are_white() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(64, 9, 9, 3)) @ rng.normal(size=(3, 3))
    pixels = jnp.asarray(pixels + np.roll(pixels, 1, axis=2), jnp.float32)
    model = cifar10.network(10, WIDTHS)
    _, state = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernel = cifar10.whitened(state, pixels)["patches"]["frozen"]["kernel"]
    assert kernel.shape == state["patches"]["frozen"]["kernel"].shape == (2, 2, 3, 24)
    out = jax.lax.conv_general_dilated(pixels, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    rows = np.asarray(out[..., :12], np.float64).reshape(-1, 12)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(pixels, np.float64), (2, 2), axis=(1, 2))
    patches = windows.reshape(-1, 12)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))
    # Float32's eigenvectors of eigenvalues from 0.01 to 20 are exact to some 1e-3.
    close(rows.T @ rows / len(rows), np.diag(values / (values + 5e-4)), 2e-3)
    close(out[..., 12:], -out[..., :12], 1e-6)


def test_the_first_filters_pass_on_their_channels() -> None:
    kernel = cifar10.near_identity(jax.random.key(0), (3, 3, 4, 6))
    x = jax.random.normal(jax.random.key(1), (2, 5, 5, 4))
    out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    close(out[..., :4], x, 1e-6)
    assert abs(kernel[..., 4:]).max() <= 1 / 6


def test_kernels_get_the_norm_of_their_filters_before_an_update() -> None:
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 16))
    update = jax.random.normal(jax.random.key(1), kernel.shape)
    new = kernel + cifar10.unit_filters().update(update, None, kernel)[0]
    close(new, 4 * kernel / jnp.linalg.norm(kernel) + update, 1e-5)


def test_the_six_views_are_weighted() -> None:
    images = jax.random.normal(jax.random.key(0), (4, 5, 5, 2))
    model = cnn.serial(cnn.flatten)  # 50 "classes": the pixels themselves
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [(0.5, np.asarray(images)), (0.25, padded[:, :-2, :-2]), (0.25, padded[:, 2:, 2:])]
    mean = sum(weight * (view + view[:, :, ::-1]) / 2 for weight, view in views)
    labels = jnp.asarray(np.reshape(mean, (4, -1)).argmax(-1)).at[0].set(49)
    plain, six = cifar10.test_accuracies(model, {}, {}, images, labels, 2)
    assert float(six) == 0.75
    assert float(plain) == np.mean(np.reshape(images, (4, -1)).argmax(-1) == labels)


def test_muon_turns_the_filters_and_sgd_the_rest() -> None:
    model = cifar10.network(10, WIDTHS)
    params, _ = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    optimizer = cifar10.optimizers(10, 4, 8, lr=0.1, bias_lr=0.05, head_lr=0.7, weight_decay=0.0)
    slope = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(slope, optimizer.init(params), params)
    # SGD with Nesterov momentum: the first step is rate * (1 + 0.85) * gradient, the rate that of a sum of 8 losses.
    close(updates["head"]["kernel"], -0.7 * 8 * 1.85 * slope["head"]["kernel"], 1e-6)
    close(updates["bias"]["value"], -0.05 * 8 * 1.85 * slope["bias"]["value"], 1e-6)
    kernel = params["stage2"]["conv2"]["kernel"]
    unit = kernel * (np.sqrt(kernel.shape[-1]) / jnp.linalg.norm(kernel))
    turn = np.asarray(kernel + updates["stage2"]["conv2"]["kernel"] - unit).reshape(-1, kernel.shape[-1])
    # The gradient of ones has one singular value; three Newton-Schulz steps bring it to between 0.7 and 1.3.
    singular = np.linalg.svd(turn / 0.1, compute_uv=False)
    assert 0.6 < singular[0] < 1.4
    assert singular[1] < 1e-3
