"""A convolutional network for sentences (Kim, Convolutional neural networks for sentence classification, 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import core
from jaxcnn.layers import conv, dense, dropout, embed, relu
from jaxcnn.models.registry import model
from jaxcnn.ops.precision import rounded, wide


def _uniform(scale: float) -> Any:
    def make(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return make


def max_over_time(x: jax.Array, length: jax.Array) -> jax.Array:
    """The maximum of each feature over the first `length` positions: `(N, T, F), (N,) -> (N, F)`; -inf for length 0.

    Source: Collobert et al., Natural language processing (almost) from scratch (2011), section 3.3.2.
    """
    there = jnp.arange(x.shape[1])[None] < length[:, None]
    # The gradient is divided among equals, and counting them is a sum.
    return rounded(jnp.where(there[..., None], wide(x), -jnp.inf).max(1), x.dtype)


@model("the class of a sentence, words 3, 4, 5 at a time (Kim 2014)", input=(56,), task="text", classes=2)
def text_cnn(
    classes: int = 2,
    vocabulary: int = 20_000,
    features: int = 100,
    widths: Sequence[int] = (3, 4, 5),
    embedding: int = 300,
    drop: float = 0.5,
) -> core.Layer:
    """Filters over 3, 4 and 5 consecutive words, and the maximum of each over the sentence: `(N, L) -> (N, classes)`.

    Words are integers (from `jaxcnn.data.text.Vocabulary`); 0 is padding at the end of a sentence. Each word becomes a
    vector x_t, which is 0 outside the sentence. A filter w of width h gives c_t = relu(w . [x_t, ..., x_(t+h-1)] + b)
    at every position t where its window has at least one word of the sentence. Its feature is the max over t of c_t. So
    a sentence may be shorter than a filter, and the output does not depend on the padding, because windows of padding
    alone are left out. A sentence without words has features 0.

    Args:
      classes: the number of classes.
      vocabulary: the number of integers, including padding and the unknown word.
      features: the number of filters of each width.
      widths: the widths of the filters, in words.
      embedding: the length of a word's vector. Vectors start at random (the paper's CNN-rand) and are learned.
      drop: dropout before the dense layer.

    Against the paper: the authors' program pads all sentences to the longest one, and windows of padding count for the
    maximum. The optimizer limits the norm of the dense layer's columns: `jaxcnn.train.max_norm`.

    Source: section 2 and 3.1.
    """
    if not widths:
        raise core.LayerError("text_cnn needs at least one filter width")
    branches = {
        f"conv{width}": conv(features, width, padding=((width - 1, width - 1),), kernel_init=_uniform(0.05))
        for width in widths
    }

    def forward(net: core.Net, words: jax.Array) -> jax.Array:
        if words.ndim != 2:
            raise core.LayerError(f"expected sentences (N, L) of words as integers, got {words.shape}")
        x = jnp.where((words != 0)[..., None], net.embed(words), 0)
        length = jnp.max(jnp.where(words != 0, jnp.arange(1, words.shape[1] + 1)[None], 0), axis=1)
        # A filter of width h has length + h - 1 windows with a word in them, and none if there are no words.
        windows = [jnp.where(length > 0, length + width - 1, 0) for width in widths]
        # max relu(c) = relu(max c), so ReLU is computed once per filter.
        pooled = [relu(max_over_time(net[name](x), count)) for name, count in zip(branches, windows, strict=True)]
        return net.fc(net.drop(core.concat(*pooled)))

    return core.network(
        forward,
        embed=embed(vocabulary, embedding, kernel_init=_uniform(0.25)),
        **branches,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=initializers.normal(0.01)),
    )
