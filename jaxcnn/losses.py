"""Losses: `loss(outputs, labels)` is one number per example. A training step minimizes the mean over the batch.

Optax computes the losses that it has. Here they share one convention for shapes: the first axis is the batch; over
further axes (pixels, coordinates), classification losses are averaged and regression losses are summed. Losses of
half-precision outputs are computed and returned in float32.

Decorate your own loss with `@losses.per_example` if the loss of an example does not depend on other examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.declared import of_classes, per_example
from jaxcnn.errors import UserError
from jaxcnn.ops.precision import wide

Array = jax.Array
Loss = Callable[[Any, Any], Array]
"""`(outputs, labels) -> one number per example`."""


@of_classes
def softmax_cross_entropy(outputs: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Categorical negative log-likelihood: -log p_y with p = softmax(outputs). Its gradient with respect to the outputs
    is p - y.

    For one-hot labels it equals the KL divergence from the labels to p; in general they differ by the labels' entropy.

    Args:
      outputs: logits `(N, ..., K)`.
      labels: integer classes `(N, ...)`, 0 to K - 1; or probabilities q `(N, ..., K)`, for -sum over k of q_k log p_k.
      smoothing: the label smoothing s from 0 to 1: q = (1 - s) y + s / K (Szegedy et al. 2016, section 7), for
        probabilities y, as from `mixup`, too. As in `torch.nn.CrossEntropyLoss`, it belongs to the loss wherever that
        is computed; the accuracy is not affected.

    Returns:
      `(N,)`.

    Raises:
      UserError: for labels of another shape or dtype, and, outside `jit`, for labels outside 0 to K - 1 or numbers that
        are not probabilities.
    """
    _check_one(outputs)
    _check_given(labels)
    outputs = wide(outputs)
    if not 0 <= smoothing <= 1:
        raise UserError(f"smoothing={smoothing}: expected a number from 0 to 1")
    if are_probabilities(outputs, labels):
        _check_probabilities(labels)
        return _mean(optax.softmax_cross_entropy(outputs, optax.smooth_labels(wide(labels), smoothing)))
    check_classes(outputs, labels)
    if smoothing:
        classes = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        return _mean(optax.softmax_cross_entropy(outputs, optax.smooth_labels(classes, smoothing)))
    return _mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


@per_example
def sigmoid_cross_entropy(outputs: Array, labels: Array) -> Array:
    """Bernoulli negative log-likelihood: -y log h - (1 - y) log(1 - h) with h = sigmoid(outputs).

    For logistic regression, outputs = x theta, the gradient with respect to theta is -(y - h(x)) x.

    Args:
      outputs: logits `(N,)`, `(N, 1)`, or of the labels' shape.
      labels: 0 or 1 (or a probability).

    Returns:
      `(N,)`.

    Raises:
      UserError: for labels of another shape and, outside `jit`, for labels that are not from 0 to 1.
    """
    outputs = _align(outputs, labels)
    _check_range(labels, 0, 1, "0 or 1, or a probability; convert labels -1 and 1 by (labels + 1) / 2")
    return _mean(optax.sigmoid_binary_cross_entropy(outputs, labels.astype(outputs.dtype)))


@per_example
def hinge(outputs: Array, labels: Array) -> Array:
    """Binary hinge loss: max(0, 1 - t y) with t = -1 or +1. `outputs` is `(N,)` or `(N, 1)`; returns `(N,)`.

    Raises:
      UserError: for labels of another shape and, outside `jit`, for labels that are not -1 or 1.
    """
    outputs = _align(outputs, labels)
    if (known := _concrete(labels)) is not None and not np.isin(known, (-1, 1)).all():
        raise UserError(f"labels {_some(known)}: expected -1 or 1; convert labels 0 and 1 by 2 * labels - 1")
    return _mean(optax.hinge_loss(outputs, labels.astype(outputs.dtype)))


@of_classes
def multiclass_hinge(outputs: Array, labels: Array) -> Array:
    """Multi-class hinge loss: max(0, 1 + max over wrong k of o_k - o_y).

    Args:
      outputs: scores `(N, ..., K)`.
      labels: integer classes `(N, ...)`.

    Source: Crammer and Singer, On the algorithmic implementation of multiclass kernel-based vector machines (2001).
    """
    check_classes(outputs, labels)
    outputs = wide(outputs)
    right = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return _mean(jnp.max(outputs + 1 - right, axis=-1) - jnp.sum(outputs * right, axis=-1))


@per_example
def l1(outputs: Array, labels: Array) -> Array:
    """Sum of absolute errors: sum |y - o|."""
    return _sum(jnp.abs(_align(outputs, labels) - labels))


@per_example
def l2(outputs: Array, labels: Array) -> Array:
    """Sum of squared errors: sum (y - o)^2."""
    return _sum(jnp.square(_align(outputs, labels) - labels))


@per_example
def smooth_l1(outputs: Array, labels: Array) -> Array:
    """Sum of smooth absolute errors: 0.5 d^2 if |d| < 1, else |d| - 0.5, with d = y - o.

    Source: Girshick, Fast R-CNN (2015), equation 3.
    """
    return _sum(optax.huber_loss(_align(outputs, labels), labels, delta=1.0))


@of_classes
def zero_one(outputs: Array, labels: Array) -> Array:
    """1 if the largest output is not at the label, else 0. It is a metric rather than a loss: its gradient is 0."""
    check_classes(outputs, labels)
    return _mean((outputs.argmax(-1) != labels).astype(jnp.float32))


@per_example
def kl_divergence(outputs: Array, targets: Array) -> Array:
    """KL divergence from target probabilities to p = softmax(outputs): sum over k of q_k log(q_k / p_k).

    Args:
      outputs: logits `(N, ..., K)`.
      targets: probabilities of the same shape.

    Raises:
      UserError: for targets of another shape and, outside `jit`, for targets that are not probabilities.
    """
    if outputs.shape != targets.shape:
        raise UserError(f"outputs {outputs.shape} and targets {targets.shape} should have the same shape")
    _check_probabilities(targets)
    return _mean(optax.losses.kl_divergence(jax.nn.log_softmax(wide(outputs)), wide(targets)))


def nt_xent(temperature: float = 0.5) -> Loss:
    """The normalized temperature-scaled cross-entropy of SimCLR, between two views of each image.

    With s_ij = cos(z_i, z_j) / temperature for the 2N embeddings of a batch, the loss of a positive pair (i, j), two
    views of one image, is l(i, j) = -log(exp(s_ij) / sum over k != i of exp(s_ik)). The loss of an image is the mean of
    l(i, j) and l(j, i). It compares all images of the batch, so it is not declared `per_example`, and the number of
    images in a batch matters: with `accumulate` they are those of a part, with `pmap` those of a device. Labels are
    ignored.

    Args:
      temperature: of the softmax; smaller ones weigh the nearest images more.

    Returns:
      A loss `((z1, z2), labels) -> (N,)` of two embeddings `(N, D)`, computed in at least float32.

    Raises:
      UserError: for a temperature that is not above 0; when it is called, for anything but two embeddings of one shape.

    Source: Chen, Kornblith, Norouzi and Hinton, A simple framework for contrastive learning of visual representations
      (2020), equation 1 and algorithm 1.
    """
    if not temperature > 0:
        raise UserError(f"nt_xent(temperature={temperature}): expected a number above 0")

    def loss(outputs: Any, labels: Any) -> Array:
        first, second = _two_views(outputs)
        z = _unit(jnp.concatenate([first, second]))
        n = len(first)
        scores = z @ z.T / temperature
        others = jnp.where(jnp.eye(2 * n, dtype=bool), -jnp.inf, scores)
        partner = jnp.roll(jnp.arange(2 * n), n)
        each = jax.nn.logsumexp(others, axis=1) - scores[jnp.arange(2 * n), partner]
        return (each[:n] + each[n:]) / 2

    return loss


@per_example
def negative_cosine(outputs: Any, labels: Any) -> Array:
    """The loss of BYOL: 2 - 2 cos(p, z), the squared distance of a prediction and a target on the unit sphere.

    The target z is behind a stop-gradient. Labels are ignored. SimSiam, whose target is the embedding of the other view
    by the same network, minimizes -cos(p, z), which has half of the gradient.

    Args:
      outputs: `(p, z)`, a prediction and a target, each `(N, D)`.

    Returns:
      `(N,)`.

    Raises:
      UserError: for anything but two embeddings of one shape.

    Source: Grill et al., Bootstrap your own latent (2020), equation 2; Chen and He, Exploring simple siamese
      representation learning (2021), equation 1.
    """
    prediction, target = _two_views(outputs)
    return 2 - 2 * jnp.sum(_unit(prediction) * _unit(jax.lax.stop_gradient(target)), axis=1)


def _two_views(outputs: Any) -> tuple[Array, Array]:
    """The embeddings of two views in at least float32."""
    shapes = [getattr(x, "shape", None) for x in outputs] if isinstance(outputs, (tuple, list)) else [None]
    if len(shapes) != 2 or shapes[0] != shapes[1] or shapes[0] is None or len(shapes[0]) != 2:
        got = f"{len(shapes)} of the shapes {shapes}" if len(shapes) != 1 else f"an output of {type(outputs).__name__}"
        raise UserError(
            f"this loss compares two embeddings (N, D), the network gave {got}: return (net.f(a), net.f(b)) "
            "for the two views of cnn.data.views(augment)"
        )
    return wide(outputs[0]), wide(outputs[1])


def _unit(x: Array) -> Array:
    """Vectors of length 1. The length is at least 1e-6, so that the gradient of a vector of zeros is finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))


def every_output(loss: Loss, weights: float | Sequence[float] = 1.0) -> Loss:
    """The loss of a network with several outputs: l(o_1, y) + w_2 l(o_2, y) + ...

    GoogLeNet with auxiliary heads uses `every_output(softmax_cross_entropy, 0.3)`; an `ensemble`, with one output per
    member, uses `every_output(softmax_cross_entropy)`. For a single output, as both give in an evaluation, it is
    `loss`.

    Args:
      loss: the loss of one output, `(outputs, labels) -> one number per example`.
      weights: the weights of the second and later outputs, or one weight for all of them.

    Source: Szegedy et al., Going deeper with convolutions (2015), section 5.
    """

    if isinstance(loss, Weighted):
        raise UserError("every_output takes the loss without weights: class_weighted(every_output(loss), weights)")

    def total(outputs: Any, labels: Any) -> Array:
        if not isinstance(outputs, (tuple, list)):
            return loss(outputs, labels)
        others = len(outputs) - 1
        each = [weights] * others if isinstance(weights, (int, float)) else list(weights)
        if len(each) != others:
            raise UserError(f"every_output has {len(each)} weights for {others} outputs after the first")
        return loss(outputs[0], labels) + sum(w * loss(o, labels) for w, o in zip(each, outputs[1:], strict=True))

    return total


@dataclass(frozen=True)
class Weighted:
    """A loss whose examples are weighted by their classes, made by `class_weighted`.

    Called directly, it returns w_n l_n for each example n. `make_step`, `fit` and `make_evaluate` take `each` and
    `weigh` instead and compute sum_n w_n l_n / sum_n w_n over all examples of the batch or of the dataset.

    Attributes:
      loss: the loss of one example, or of one pixel.
      weights: w, one number for each class.
    """

    loss: Loss
    weights: tuple[float, ...]

    def __call__(self, outputs: Any, labels: Any) -> Array:
        return self.each(outputs, labels) * self.weigh(labels)

    def each(self, outputs: Any, labels: Any) -> Array:
        """The loss of each example `(N,)`; of labels of further axes, the mean over these weighted by class."""
        first = outputs[0] if isinstance(outputs, (tuple, list)) else outputs  # of several, for `every_output`
        classes = first.shape[-1] if first.ndim > jnp.ndim(labels) else 1
        if classes not in (1, len(self.weights)):
            raise UserError(f"{len(self.weights)} class weights for {classes} classes: expected one for each class")
        if not self._is_dense(labels):
            return self.loss(outputs, labels)

        @of_classes
        def each(outputs: Any, labels: Any) -> Array:
            if labels.shape not in (first.shape, first.shape[:-1]):
                return self.loss(outputs, labels)  # raises its own error
            flat = (-1,) if labels.shape == first.shape else (-1, first.shape[-1])
            pixels = jax.tree.map(lambda o: o.reshape(flat), outputs)
            of_pixels = self.loss(pixels, labels.reshape(-1)).reshape(labels.shape)
            w = self._of_labels(labels)
            total, weight = _sum(w * of_pixels), _sum(w)
            return total / jnp.where(weight > 0, weight, 1)

        return each(outputs, labels)

    def weigh(self, labels: Any) -> Array:
        """The weight of each example, `(N,)`, float32; of labels of further axes, the mean of the weights."""
        return _mean(self._of_labels(labels))

    def _is_dense(self, labels: Any) -> bool:
        return jnp.issubdtype(jnp.result_type(labels), jnp.integer) and jnp.ndim(labels) > 1

    def _of_labels(self, labels: Any) -> Array:
        """The weight of each label."""
        w, count = jnp.asarray(self.weights, jnp.float32), len(self.weights)
        known = _concrete(labels)
        if jnp.issubdtype(jnp.result_type(labels), jnp.integer):
            if known is not None and known.size and not (known.min() >= -1 and known.max() < count):
                raise UserError(f"labels {_some(known)} for {count} class weights: expected 0 to {count - 1}")
            return jnp.where(labels >= 0, w[jnp.maximum(labels, 0)], 0)
        if jnp.ndim(labels) == 2 and jnp.shape(labels)[-1] == count:
            return jnp.asarray(labels, jnp.float32) @ w
        if jnp.shape(labels)[1:] in ((), (1,)) and count == 2:
            _check_range(labels, 0, 1, "0 or 1, or a probability, for two class weights")
            return w[0] + (w[1] - w[0]) * jnp.asarray(labels, jnp.float32)
        raise UserError(
            f"labels of shape {jnp.shape(labels)} for {count} class weights: expected integer classes, or their "
            f"probabilities (N, {count})"
        )


def class_weighted(loss: Loss, weights: Sequence[float]) -> Weighted:
    """The loss with a weight for each class, for classes of different frequencies: sum_n w_n l_n / sum_n w_n.

    The sums are over the examples of a batch in training and over the dataset in an evaluation, so that the loss is
    that of PyTorch's `CrossEntropyLoss(weight=weights)`. w_n is the weight of the label's class. For labels
    `(N, H, W)` the sums are over the pixels of all examples; a label of -1 has the weight 0, for a loss that takes it.
    For probabilities of classes q, as from `mixup`, w_n = sum_k q_k w_k; PyTorch divides these by N.

    Weights of the examples in the data multiply those of the classes. Metrics are not weighted.

    Args:
      loss: a loss of classes such as `softmax_cross_entropy`; or, with two weights, of labels 0 and 1, such as
        `sigmoid_cross_entropy`.
      weights: one number for each class, 0 or more. `count / (classes * count of the class)` gives each class the same
        influence.

    Returns:
      A loss for `Objective`, `make_step` and `make_evaluate`.

    Raises:
      UserError: for weights that are not finite numbers of 0 or more.
    """
    known = np.asarray(weights, np.float64)
    if known.ndim != 1 or len(known) < 2 or not (np.isfinite(known).all() and (known >= 0).all() and known.any()):
        raise UserError(f"class_weighted: expected a finite weight of 0 or more for each class, got {weights}")
    if isinstance(loss, Weighted):
        raise UserError("class_weighted: the loss has class weights already; multiply the two")
    return Weighted(loss, tuple(float(w) for w in known))


def l2_penalty(params: Mapping[str, Any]) -> Array:
    """The sum of the squared numbers of all kernels (not biases or scales): sum w^2 in C = C_0 + lambda sum w^2."""
    squares = [
        jnp.sum(jnp.square(wide(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if getattr(path[-1], "key", None) == "kernel"
    ]
    return jnp.asarray(sum(squares))


def are_probabilities(outputs: Any, labels: Any) -> bool:
    """Whether labels are probabilities of the classes, as from `mixup`, instead of integers."""
    return jnp.issubdtype(jnp.result_type(labels), jnp.floating) and jnp.shape(labels) == outputs.shape


def _check_one(outputs: Any) -> None:
    if isinstance(outputs, (tuple, list)):
        raise UserError(
            f"the network gives {len(outputs)} outputs in training and this loss takes one: pass "
            "loss=losses.every_output(losses.softmax_cross_entropy, weights)"
        )


def _check_given(labels: Any) -> None:
    if labels is None:
        raise UserError(
            "the data have no labels, and this loss compares the outputs with them: give Examples(inputs, labels), or "
            "a loss without labels, such as losses.nt_xent()"
        )


def _concrete(labels: Any) -> np.ndarray | None:
    """The labels as NumPy values, to check them; None inside `jit`."""
    # np.asarray also works for an array that a jitted function closes over.
    return None if isinstance(labels, jax.core.Tracer) else np.asarray(labels)


def _some(values: np.ndarray) -> str:
    """The values of labels as a short text."""
    found = np.unique(values)
    return ", ".join(f"{v:g}" for v in found) if len(found) <= 3 else f"from {found[0]:g} to {found[-1]:g}"


def _check_range(labels: Any, low: float, high: float, expected: str) -> None:
    known = _concrete(labels)
    if known is not None and known.size and not (known.min() >= low and known.max() <= high):
        raise UserError(f"labels {_some(known)}: expected {expected}")


def _check_probabilities(labels: Any) -> None:
    """Checks that labels, outside `jit`, are probabilities of classes."""
    _check_range(labels, 0, 1, "probabilities of the classes, from 0 to 1")
    if (known := _concrete(labels)) is not None and known.size:
        total = known.sum(-1, dtype=np.float64)
        if np.abs(total - 1).max() > 0.02:  # half precision rounds each probability
            raise UserError(f"the labels' sums over the classes are {_some(total)}: expected probabilities, with sum 1")


def check_classes(outputs: Any, labels: Any) -> None:
    """Checks that labels are integer classes with the shape of these outputs and, outside `jit`, from 0 to K - 1."""
    _check_one(outputs)
    _check_given(labels)
    known = _concrete(labels)
    labels = labels if known is None else known
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(f"labels should be integer classes, got {labels.dtype} of shape {labels.shape}")
    if outputs.shape[:-1] != labels.shape:
        raise UserError(
            f"outputs {outputs.shape} and labels {labels.shape} do not fit together: "
            "outputs need one more axis than labels, the classes"
        )
    if isinstance(labels, np.ndarray) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= outputs.shape[-1]:
            raise UserError(
                f"labels from {low} to {high} for {outputs.shape[-1]} classes: expected 0 to {outputs.shape[-1] - 1}"
            )


def _align(outputs: Array, labels: Array) -> Array:
    """The outputs in at least float32, in the shape of the labels.

    `(N, 1)` outputs with `(N,)` labels lose their last axis; otherwise both would broadcast to `(N, N)`.
    """
    _check_one(outputs)
    _check_given(labels)
    outputs = wide(outputs)
    if outputs.shape == (*labels.shape, 1):
        return outputs[..., 0]
    if outputs.shape != labels.shape:
        raise UserError(f"outputs {outputs.shape} and labels {labels.shape} should have the same shape")
    return outputs


def _mean(values: Array) -> Array:
    return values.mean(tuple(range(1, values.ndim)))


def _sum(values: Array) -> Array:
    return values.sum(tuple(range(1, values.ndim)))
