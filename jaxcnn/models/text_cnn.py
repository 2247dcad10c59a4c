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
    """The largest of the first `length` places of each feature: `(N, T, F), (N,) -> (N, F)`; -inf where there are none.

    Source: Collobert et al., Natural language processing (almost) from scratch (2011), section 3.3.2.
    """
    there = jnp.arange(x.shape[1])[None] < length[:, None]
    # The gradient is shared among equals, whose number is a sum.
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
    """Filters over every 3, 4 and 5 words in a row, and of each the largest answer: `(N, L)` words to `(N, classes)`.

    A word is an integer, 0 being padding behind a sentence (`jaxcnn.data.text.Vocabulary` makes them). Each becomes
    a vector, x_t; a filter w of width h gives c_t = relu(w . [x_t, ..., x_(t+h-1)] + b) at every place t where its
    window holds at least one word of the sentence, what lies outside being zeros; max over t of c_t is its feature. So
    a sentence may be shorter than a filter is wide, and the answer does not depend on the padding behind it: a window
    of nothing but padding never counts. A sentence without a word has all features 0.

    Args:
      classes: the number of classes.
      vocabulary: how many integers there are, padding and the unknown word included.
      features: filters of each width.
      widths: the words that a filter sees.
      embedding: the length of a word's vector. It begins at random (the paper's CNN-rand) and is learned.
      drop: dropout in front of the dense layer.

    Against the paper: the authors' program pads all sentences to the longest one and takes the windows of padding into
    the maximum. The norm of the dense layer's columns is the optimizer's business: `jaxcnn.train.max_norm`.

    Source: section 2 and 3.1.
    """
    if not widths:
        raise core.LayerError("text_cnn needs at least one width of its filters")
    branches = {
        f"conv{width}": conv(features, width, padding=((width - 1, width - 1),), kernel_init=_uniform(0.05))
        for width in widths
    }

    def forward(net: core.Net, words: jax.Array) -> jax.Array:
        if words.ndim != 2:
            raise core.LayerError(f"expected sentences (N, L) of words as integers, got {words.shape}")
        x = jnp.where((words != 0)[..., None], net.embed(words), 0)
        length = jnp.max(jnp.where(words != 0, jnp.arange(1, words.shape[1] + 1)[None], 0), axis=1)
        # A filter of width h has length + h - 1 windows with a word in them; without a word there is none at all.
        windows = [jnp.where(length > 0, length + width - 1, 0) for width in widths]
        # max relu(c) = relu(max c): one place a filter to look at instead of all.
        pooled = [relu(max_over_time(net[name](x), count)) for name, count in zip(branches, windows, strict=True)]
        return net.fc(net.drop(core.concat(*pooled)))

    return core.network(
        forward,
        embed=embed(vocabulary, embedding, kernel_init=_uniform(0.25)),
        **branches,
        drop=dropout(drop),
        fc=dense(classes, kernel_init=initializers.normal(0.01)),
    )
