"""Networks that answer questions about an image (Santoro et al., A simple neural network module for relational
reasoning, 2017; joining two encoders follows Antol et al., VQA, 2015)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxcnn import core, ops
from jaxcnn.layers import conv, dense, dropout, embed, flatten, relu, softmax
from jaxcnn.models.blocks import conv_norm_act
from jaxcnn.models.registry import model
from jaxcnn.models.text_cnn import max_over_time


@core.layer
def picture_encoder(features: int = 24) -> core.Layer:
    """Four 3x3 convolutions at stride 2 with batch normalization: `(N, 75, 75, 3) -> (N, 5, 5, features)`.

    Source: Santoro et al., supplementary material A (the network for sort-of-CLEVR).
    """
    layers: dict[str, core.Layer | Callable] = {}
    for i in range(1, 5):
        layers |= conv_norm_act(features, 3, 2, at=f"{i}", padding="SAME", kernel_init=initializers.lecun_normal())
    return core.serial(**layers)


@core.layer
def question_encoder(vocabulary: int, embedding: int = 64, features: int = 32, width: int = 3) -> core.Layer:
    """Encodes the words of a question and their neighbourhoods: words `(..., L)` to `(..., embedding + features)`.

    The output is the sum of the words' vectors divided by the square root of their number, concatenated with the
    maximum of each of `features` filters over `width` consecutive words, as in `text_cnn`. 0 is padding and ignored.
    """

    def forward(net: core.Net, words: jax.Array) -> jax.Array:
        rows = words.reshape(-1, words.shape[-1])
        x = jnp.where((rows != 0)[..., None], net.embed(rows), 0)
        length = jnp.max(jnp.where(rows != 0, jnp.arange(1, rows.shape[1] + 1)[None], 0), axis=1)
        said = ops.rounded(ops.wide(x).sum(1) / jnp.sqrt(jnp.maximum(length, 1))[:, None], x.dtype)
        together = relu(max_over_time(net.conv(x), jnp.where(length > 0, length + width - 1, 0)))
        return core.concat(said, together).reshape(*words.shape[:-1], -1)

    return core.network(
        forward,
        embed=embed(vocabulary, embedding),
        conv=conv(features, width, padding=((width - 1, width - 1),)),
    )


@model(
    "questions about a picture: CNN and MLP (2017)",
    input=(75, 75, 3),
    fixed_size=True,
    task="vqa",
    classes=12,
    more=(((16,), "int32"),),
)
def vqa_cnn(
    classes: int = 12, vocabulary: int = 45, features: int = 24, units: int = 256, drop: float = 0.0
) -> core.Layer:
    """A multilayer perceptron on the encoded image and the encoded question.

    Args:
      classes: the number of answers; the default is that of sort-of-CLEVR.
      vocabulary: the number of words, including padding and the unknown word; the default is that of sort-of-CLEVR.
      features: the filters of the image's convolutions.
      units: the units of the two hidden dense layers.
      drop: dropout before the last dense layer.

    Returns:
      A Layer of images `(N, 75, 75, 3)` and words `(N, L)`, to logits `(N, classes)`; or of words `(N, Q, L)`, Q
      questions about each image, to `(N, Q, classes)`. The image is encoded once for all its questions: the first dense
      layer, linear in [image, question], is the sum of a layer of each.

    Source: the baseline of Santoro et al., section 5.2 and supplementary material A.
    """

    def forward(net: core.Net, images: jax.Array, words: jax.Array) -> jax.Array:
        seen = net.fc1_picture(flatten(net.picture(images)))
        asked = net.fc1_question(net.question(words))
        x = relu(seen[:, None] + asked)
        return net.head(net.drop(relu(net.fc2(x))))

    return core.network(
        _one_or_many(forward),
        picture=picture_encoder(features),
        question=question_encoder(vocabulary),
        fc1_picture=dense(units),
        fc1_question=dense(units, bias=False),
        fc2=dense(units),
        drop=dropout(drop),
        head=dense(classes),
    )


@model(
    "relation network (Santoro et al. 2017)",
    input=(75, 75, 3),
    fixed_size=True,
    task="vqa",
    classes=12,
    more=(((16,), "int32"),),
)
def vqa_relation(
    classes: int = 12,
    vocabulary: int = 45,
    features: int = 24,
    width: int = 64,
    depth: int = 3,
    units: int = 128,
    drop: float = 0.0,
    attend: bool = True,
) -> core.Layer:
    """A relation network: it combines pairs of positions in the image with the question, and sums over the pairs.

    The objects o_1 ... o_25 are the cells of the image's last feature map, each with its coordinates and colour; q is
    the encoded question. The paper's network uses every pair,

        answer = f( sum over i, j of g(o_i, o_j, q) ),   g and f multilayer perceptrons.

    These are 625 pairs per question, and most are irrelevant, because a question is about one object. With `attend`,
    the question selects this object by soft attention, and its relations to all others are summed:

        answer = f( sum over j of g(s, o_j, q) ),   s = sum over i of a_i o_i,   a = softmax of (K o_i) . (D q + d).

    This needs 1/25 of the pairs, and far fewer questions until it distinguishes the colours. In both forms, the first
    layer of g, relu(A o_i + B o_j + C q + b), is linear before the ReLU, so it needs no matrix product per pair.

    Args:
      classes, vocabulary, features, drop: as in `vqa_cnn`.
      width: units of g's layers.
      depth: the number of g's layers.
      units: the units of the two hidden layers of f.
      attend: see above; False gives the paper's form (with `width=256, depth=4, units=256`).

    Returns:
      A Layer of images and words to logits, as `vqa_cnn`.

    Against the paper: `attend`; the colour of each cell; questions are words encoded by `question_encoder`, where the
    paper's sort-of-CLEVR has a binary code of 11 bits; a sum is divided by the square root of the number of its terms,
    which keeps the inputs of f in a normal range at the start.

    Source: section 2 (equation 1) and 5.2; attention to positions by a question, Yang et al., Stacked attention
    networks (2016), section 3.3.
    """

    def forward(net: core.Net, images: jax.Array, words: jax.Array) -> jax.Array:
        cells = objects(net.picture(images), images)
        asked = net.question(words)
        one, other = net.g1_one(cells), net.g1_other(cells)  # A o_i + b, B o_j: (N, 25, width)
        rest = _sums(other[:, None], net.g1_question(asked)[:, :, None])  # B o_j + C q: (N, Q, 25, width)
        if attend:
            scores = net.attend_query(asked) @ jnp.swapaxes(net.attend_key(cells), 1, 2)  # (N, Q, 25)
            chosen = softmax(scores / width**0.5) @ one  # A s + b: (N, Q, width)
            x = relu(_sums(chosen[:, :, None], rest))
        else:
            x = relu(_sums(one[:, None, :, None], rest[:, :, None]))  # (N, Q, 25, 25, width)
        for i in range(2, depth + 1):
            x = relu(net[f"g{i}"](x))
        pairs = x.reshape(*x.shape[:2], -1, x.shape[-1])
        x = relu(net.f1(ops.rounded(ops.wide(pairs).sum(2) / pairs.shape[2] ** 0.5, pairs.dtype)))
        return net.head(net.drop(relu(net.f2(x))))

    attention = {"attend_key": dense(width, bias=False), "attend_query": dense(width)} if attend else {}
    return core.network(
        _one_or_many(forward),
        picture=picture_encoder(features),
        question=question_encoder(vocabulary),
        **attention,
        g1_one=dense(width),
        g1_other=dense(width, bias=False),
        g1_question=dense(width, bias=False),
        **{f"g{i}": dense(width) for i in range(2, depth + 1)},
        f1=dense(units),
        f2=dense(units),
        drop=dropout(drop),
        head=dense(classes),
    )


def objects(x: jax.Array, images: jax.Array) -> jax.Array:
    """The cells of a feature map, each with its position and the mean colour of its part of the image.

    Questions name objects by their colour; learning it from the features alone took far more steps.

    Args:
      x: `(N, H, W, C)`.
      images: `(N, height, width, B)`.

    Returns:
      `(N, H W, C + 2 + B)`: the features; x and y from -1 to 1; 4 times the cell's mean colour minus the image's.
    """
    n, height, width, _ = x.shape
    colour = ops.adaptive_avg_pool(images, (height, width)).astype(x.dtype)
    colour = 4 * (colour - colour.mean((1, 2), keepdims=True))
    y_place, x_place = jnp.meshgrid(jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width), indexing="ij")
    places = jnp.broadcast_to(jnp.stack([x_place, y_place], -1).astype(x.dtype), (n, height, width, 2))
    return jnp.concatenate([x, places, colour], -1).reshape(n, height * width, -1)


def _sums(a: jax.Array, b: jax.Array) -> jax.Array:
    """a + b with broadcasting of both; the gradients are summed in at least float32."""
    return ops.rounded(ops.wide(a) + ops.wide(b), jnp.result_type(a, b))


def _one_or_many(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass for words `(N, Q, L)`, extended to words `(N, L)`, one question about each image."""

    def either(net: core.Net, images: jax.Array, words: jax.Array) -> jax.Array:
        if words.ndim not in (2, 3) or words.shape[0] != images.shape[0]:
            raise core.LayerError(
                f"expected images (N, H, W, 3) and words (N, L), or (N, Q, L) for Q questions about each image; "
                f"got {images.shape} and {words.shape}"
            )
        return forward(net, images, words) if words.ndim == 3 else forward(net, images, words[:, None])[:, 0]

    return either
