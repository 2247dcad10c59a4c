"""LeNet-5 (LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import core, ops
from jaxcnn.layers import avg_pool, conv, dense, flatten, tanh
from jaxcnn.layers.common import images, stateless
from jaxcnn.models.blocks import activation_of
from jaxcnn.models.registry import model


@model("LeNet-5, the modern form (LeCun et al. 1998)", input=(32, 32, 1), fixed_size=True)
def lenet5(classes: int = 10, activation: Callable[[jax.Array], jax.Array] | str = tanh) -> core.Layer:
    """LeNet-5 as it is taught: `(N, 32, 32, C) -> (N, classes)` logits; 61,706 parameters for 10 classes of 32x32x1.

    Against the paper: every map of C3 sees all maps of S2; subsampling is an average without weights; C5 is a dense
    layer; the output is linear, for softmax cross-entropy. As in the paper, MNIST's 28x28 digits are padded to 32x32.

    Args:
      activation: of the hidden layers, a function or its name: `"relu"`, as `--options activation=relu` gives it.
    """
    activation = activation_of(activation)
    return core.serial(
        conv1=conv(6, 5),
        act1=activation,
        pool1=avg_pool(2),
        conv2=conv(16, 5),
        act2=activation,
        pool2=avg_pool(2),
        flat=flatten,
        fc1=dense(120),
        act3=activation,
        fc2=dense(84),
        act4=activation,
        head=dense(classes),
    )


# --- the paper's LeNet-5 -----------------------------------------------------------------------------------------

# Table I: the maps of S2 (rows) that each of the 16 maps of C3 (columns) sees.
TABLE_I = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)

# The target of each class in F6: 7x12 pixels. The paper has glyphs of the whole printable ASCII set (figure 3); these
# ten were drawn for this file.
DIGITS = """
..###.. ...#... ..###.. .#####. ....##. ####### ..####. ####### ..###.. ..###..
.#...#. ..##... .#...#. #.....# ....##. #...... .#..... ......# .#...#. .#...#.
#.....# .#.#... #.....# ......# ...#.#. #...... #...... ......# #.....# #.....#
#.....# ...#... ......# ......# ...#.#. #...... #...... .....#. #.....# #.....#
#.....# ...#... ......# .....#. ..#..#. #####.. #...... .....#. .#...#. #.....#
#.....# ...#... .....#. ..###.. ..#..#. .....#. #.###.. ....#.. ..###.. .#....#
#.....# ...#... ....#.. .....#. .#...#. ......# ##...#. ....#.. .#...#. ..#####
#.....# ...#... ...#... ......# ####### ......# #.....# ...#... #.....# ......#
#.....# ...#... ..#.... ......# .....#. ......# #.....# ...#... #.....# ......#
#.....# ...#... .#..... ......# .....#. #.....# #.....# ..#.... #.....# ......#
.#...#. ...#... #...... #.....# .....#. .#...#. .#...#. ..#.... .#...#. .....#.
..###.. .#####. ####### .#####. .....#. ..###.. ..###.. ..#.... ..###.. ..###..
"""


@model("LeNet-5, the paper's: trainable pooling, RBF output (1998)", input=(32, 32, 1), fixed_size=True)
def lenet5_1998(classes: int = 10) -> core.Layer:
    """The paper's LeNet-5: `(N, 32, 32, 1) -> (N, classes)`; 60,000 parameters.

    | layer | output   | what it is                                                      | parameters |
    | ----- | -------- | --------------------------------------------------------------- | ---------- |
    | C1    | 28x28x6  | 5x5 convolution                                                 |        156 |
    | S2    | 14x14x6  | sums of 2x2 pixels, a coefficient and a bias per map            |         12 |
    | C3    | 10x10x16 | 5x5 convolution in which a map sees some maps of S2             |      1,516 |
    | S4    | 5x5x16   | as S2                                                           |         32 |
    | C5    | 1x1x120  | 5x5 convolution, which on 5x5 pixels is fully connected         |     48,120 |
    | F6    | 84       | fully connected                                                 |     10,164 |
    | RBF   | classes  | squared distance of F6 to each class's picture in +1 and -1     |    0 (fixed) |

    Each layer up to F6 ends with the squashing function 1.7159 tanh(2/3 a).

    The output is the negative distance, where the paper has the distance. So the largest output is the class, as in the
    other networks, and softmax cross-entropy is the paper's equation 9 (the distance of the correct class plus the
    logarithm of the sum of exp(-distance)) without the constant for images that are not digits.

    Initial weights are uniform in +-2.4 / fan-in, biases 0. The paper scales pixels so that white is -0.1 and black is
    1.175; mean 0 and variance 1 is nearly the same. For a number of classes other than ten, the pictures are random
    codes of +1 and -1, an alternative that the paper discusses.

    Source: section II.B with figure 2; squashing function and first weights, appendix A; loss, section II.C.
    """
    return core.serial(
        c1=conv(6, 5, kernel_init=_uniform),
        act1=squash,
        s2=subsample(),
        act2=squash,
        c3=connected(5),
        act3=squash,
        s4=subsample(),
        act4=squash,
        c5=conv(120, 5, kernel_init=_uniform),
        act5=squash,
        flat=flatten,
        f6=dense(84, kernel_init=_uniform),
        act6=squash,
        output=rbf(classes),
    )


def squash(a: jax.Array) -> jax.Array:
    """1.7159 tanh(2/3 a): an odd function through (1, 1) and (-1, -1), where its curvature is largest."""
    return 1.7159 * jnp.tanh(2 / 3 * a)


def _uniform(key: jax.Array, shape: Sequence[int], dtype: Any = float) -> jax.Array:
    bound = 2.4 / math.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


@core.layer
def subsample() -> core.Layer:
    """Layers S2 and S4: `(N, H, W, C) -> (N, H / 2, W / 2, C)`, y = scale * (sum of 2x2 pixels) + bias.

    Variables: params `scale`, `bias`, `(C,)`.
    """

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        shape = (x.shape[-1],)
        return {"scale": jax.random.uniform(key, shape, float, -2.4 / 4, 2.4 / 4), "bias": jnp.zeros(shape)}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        images(x, 2)
        if min(x.shape[1:3]) < 2:
            raise core.LayerError(f"cannot sum 2x2 pixels on {x.shape[1]}x{x.shape[2]}; use a larger image")
        total = ops.sum_pool(ops.wide(x), 2)
        y = total * ops.spread(params["scale"], total) + ops.spread(params["bias"], total)
        return ops.rounded(y, x.dtype)

    return stateless(init, apply)


@core.layer
def connected(size: int) -> core.Layer:
    """Layer C3: a convolution, `(N, H, W, 6) -> (N, *out, 16)`, whose maps see the inputs marked in `TABLE_I`.

    Variables: params `kernel` `(size, size, connections)`, one filter per mark, row by row; `bias`, one per output map.
    The filters are put into one kernel with zeros between them, since one convolution is faster than many small ones.
    """
    marks = np.array([[mark == "X" for mark in row] for row in TABLE_I])
    source, target = np.nonzero(marks)

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        bound = 2.4 / (size * size * marks.sum(0))[target]
        kernel = jax.random.uniform(key, (size, size, len(target)), float, -bound, bound)
        return {"kernel": kernel, "bias": jnp.zeros(marks.shape[1])}

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        images(x, 2)
        if x.shape[-1] != len(marks):
            raise core.LayerError(f"the table connects {len(marks)} maps, got {x.shape[-1]} in {x.shape}")
        if min(x.shape[1:3]) < size:
            raise core.LayerError(f"{size}x{size} filter on {x.shape[1]}x{x.shape[2]}; use a larger image")
        kernel = jnp.zeros((size, size, *marks.shape), params["kernel"].dtype)
        y = ops.conv(x, kernel.at[:, :, source, target].set(params["kernel"]))
        return y + ops.spread(params["bias"], y)

    return stateless(init, apply)


def codes(classes: int) -> np.ndarray:
    """The fixed pictures of the classes, `(classes, 84)`: +1 for ink, -1 elsewhere."""
    if classes != 10:
        return np.random.default_rng(0).choice([-1.0, 1.0], (classes, 84))
    rows = np.array([[list(glyph) for glyph in line.split()] for line in DIGITS.split("\n")[1:-1]])
    return np.where(rows == "#", 1.0, -1.0).swapaxes(0, 1).reshape(10, 84)


@core.layer
def rbf(classes: int) -> core.Layer:
    """Radial basis functions: `(N, 84) -> (N, classes)`, the negative squared distance to the `codes` of each class."""
    centres = codes(classes)

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        if x.shape[-1:] != (84,):
            raise core.LayerError(f"expected (N, 84), got {x.shape}")
        values = ops.wide(x)
        return ops.rounded(-jnp.square(values[:, None, :] - jnp.asarray(centres, values.dtype)[None]).sum(-1), x.dtype)

    return stateless(lambda key, x: {}, apply)
