"""Convolution, separable convolution and transposed convolution as layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxcnn import ops
from jaxcnn.core import Layer, LayerError, layer
from jaxcnn.layers.common import Initializer, by, count, images, stateless
from jaxcnn.ops.geometry import Padding, Size, extent, pads, per_dim


@layer
def conv(
    features: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    *,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    floor: bool = False,
    dtype: Any = None,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Convolution with K filters of size F, stride S and padding P (cross-correlation, as in every network library).

    y[n, i, j, k] = bias[k] + sum over u, v, c of x[n, S i + D u - P, S j + D v - P, c] kernel[u, v, c, k]

    Args:
      features: K, the number of filters.
      kernel_size: F, an integer or one per dimension. With an integer, the filter has as many dimensions as the input:
        `(N, W, C)`, `(N, H, W, C)` or `(N, D, H, W, C)`.
      stride: S, an integer or one per dimension.
      padding: P zeros on every side; or one integer per dimension; or pairs ((top, bottom), (left, right)); or
        `"VALID"` for none; or `"SAME"` for an output of ceil(W / S). At stride 2, `"SAME"` pads only the far side by
        one pixel, where PyTorch's `padding=1` pads both sides (3x3 filter, even W).
      dilation: D, the distance between the filter's taps.
      groups: the number of groups that channels and filters are divided into. Each group of filters sees only its
        group of channels. As many groups as channels make a depthwise convolution.
      bias: whether to add a bias.
      floor: whether the last windows may leave pixels unseen at the edge. If False, this is an error.
      dtype: the dtype of the arithmetic and of the output; by default the wider of the image's and the kernel's. The
        parameters are float32 in any case. `mixed_precision` sets it for all layers of a network.
      kernel_init, bias_init: as in `jax.nn.initializers`.

    Variables: params `kernel` `(*size, C / groups, K)`, `bias` `(K,)`: F F C K / groups + K numbers.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *out, K)`, out = (W - F + 2P) / S + 1, in `dtype`.

    Raises:
      LayerError: when the filter is larger than the padded input; when the filter does not fit, i.e. more pixels of the
        image are left after the last window than lie between two windows; for a wrong number of channels or dimensions;
        for an integer image.

    Source: LeCun et al., Gradient-based learning applied to document recognition (1998), section II.
    """
    features, groups = count(features, "features"), count(groups, "groups")
    if features % groups:
        raise LayerError(f"features={features} cannot be divided into groups={groups}")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        images(x, len(kernel_size) if isinstance(kernel_size, Sequence) else None)
        size = _checked(per_dim, kernel_size, len(x.shape) - 2, "kernel_size")
        channels = x.shape[-1]
        if channels % groups:
            raise LayerError(f"{channels} input channels cannot be divided into groups={groups}")
        kernel_key, bias_key = jax.random.split(key)
        params = {"kernel": kernel_init(kernel_key, (*size, channels // groups, features))}
        if bias:
            params["bias"] = bias_init(bias_key, (features,))
        return params

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        kernel = params["kernel"]
        ndim = kernel.ndim - 2
        images(x, ndim)
        if x.shape[-1] != kernel.shape[-2] * groups:
            raise LayerError(f"made for {kernel.shape[-2] * groups} channels, got {x.shape[-1]} in {x.shape}")
        _fits(x.shape[1:-1], kernel.shape[:ndim], stride, padding, dilation, floor)
        y = ops.conv(x, kernel, stride, padding, dilation, groups, dtype)
        return y + ops.spread(params["bias"], y) if bias else y

    return stateless(init, apply)


@layer
def separable_conv(
    features: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Padding = 0,
    *,
    dilation: Size = 1,
    multiplier: int = 1,
    bias: bool = True,
    floor: bool = False,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Depthwise separable convolution: each channel filtered by itself, then all channels mixed pixel by pixel.

    z[n, i, j, c M + m] = sum over u, v of x[n, S i + D u - P, S j + D v - P, c] depthwise[u, v, 0, c M + m]
    y[n, i, j, k] = bias[k] + sum over c of z[n, i, j, c] pointwise[0, 0, c, k]

    For F F C M + C M K weights instead of F F C K. Where something stands between the two (MobileNet has a
    normalization and an activation there), they are `conv(C, F, groups=C)` and `conv(K, 1)`.

    Args:
      features: K, the number of filters of the second convolution.
      multiplier: M, the number of filters for each channel of the input.
      kernel_size, stride, padding, dilation, floor: of the first one, as in `conv`.
      bias, kernel_init, bias_init: as in `conv`; the initializer sees each kernel with its own shape.

    Variables: params `depthwise` `(*size, 1, C M)`, `pointwise` `(1, ..., 1, C M, K)`, `bias` `(K,)`.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *out, K)`, out as in `conv`.

    Raises:
      LayerError: as `conv`.

    Source: Sifre, Rigid-motion scattering for image classification (2014), section 6.2; Chollet, Xception (2017),
      whose modules have the two in the other order. Keras' `SeparableConv2D` is this one.
    """
    features, multiplier = count(features, "features"), count(multiplier, "multiplier")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        images(x, len(kernel_size) if isinstance(kernel_size, Sequence) else None)
        size = _checked(per_dim, kernel_size, len(x.shape) - 2, "kernel_size")
        depthwise_key, pointwise_key, bias_key = jax.random.split(key, 3)
        between = x.shape[-1] * multiplier
        params = {
            "depthwise": kernel_init(depthwise_key, (*size, 1, between)),
            "pointwise": kernel_init(pointwise_key, (*(1,) * len(size), between, features)),
        }
        if bias:
            params["bias"] = bias_init(bias_key, (features,))
        return params

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        depthwise = params["depthwise"]
        ndim = depthwise.ndim - 2
        images(x, ndim)
        channels = depthwise.shape[-1] // multiplier
        if x.shape[-1] != channels:
            raise LayerError(f"made for {channels} channels, got {x.shape[-1]} in {x.shape}")
        _fits(x.shape[1:-1], depthwise.shape[:ndim], stride, padding, dilation, floor)
        z = ops.conv(x, depthwise, stride, padding, dilation, channels)
        y = ops.conv(z, params["pointwise"])
        return y + ops.spread(params["bias"], y) if bias else y

    return stateless(init, apply)


@layer
def conv_transpose(
    features: int,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    *,
    dilation: Size = 1,
    output_padding: Size = 0,
    bias: bool = True,
    kernel_init: Initializer = initializers.lecun_normal(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Transposed convolution ("deconvolution"): each input pixel adds a multiple of the kernel to the output.

    Args:
      features: K, the output channels.
      kernel_size, stride, padding, dilation: those of the convolution that is transposed; see `conv`.
      output_padding: extra pixels at the end of each dimension. The convolution maps several sizes to the input's size;
        this chooses one of them. It must be smaller than the stride or the dilation.
      bias, kernel_init, bias_init: as in `conv`.

    Variables: params `kernel` `(*size, C, K)`, `bias` `(K,)`.

    Returns:
      A Layer `(N, *spatial, C) -> (N, *out, K)`, out = S (W - 1) - 2P + D (F - 1) + 1 + output_padding.

    Raises:
      LayerError: when output_padding is too large, or the output would be empty; for a wrong number of channels or
        dimensions; for an integer image.

    Source: Long, Shelhamer and Darrell, Fully convolutional networks (2015), section 3.3.
    """
    features = count(features, "features")

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        images(x, len(kernel_size) if isinstance(kernel_size, Sequence) else None)
        size = _checked(per_dim, kernel_size, len(x.shape) - 2, "kernel_size")
        kernel_key, bias_key = jax.random.split(key)
        params = {"kernel": kernel_init(kernel_key, (*size, x.shape[-1], features))}
        if bias:
            params["bias"] = bias_init(bias_key, (features,))
        return params

    def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        kernel = params["kernel"]
        images(x, kernel.ndim - 2)
        if x.shape[-1] != kernel.shape[-2]:
            raise LayerError(f"made for {kernel.shape[-2]} channels, got {x.shape[-1]} in {x.shape}")
        y = _checked(ops.conv_transpose, x, kernel, stride, padding, dilation, output_padding)
        if 0 in y.shape[1:-1]:
            raise LayerError(f"on {by(x.shape[1:-1])} the output would be {by(y.shape[1:-1])}: use less padding")
        return y + ops.spread(params["bias"], y) if bias else y

    return stateless(init, apply)


def _checked(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ValueError as error:
        raise LayerError(str(error)) from None


def _fits(
    sizes: tuple[int, ...], window: tuple[int, ...], stride: Size, padding: Padding, dilation: Size, floor: bool
) -> None:
    """Checks that the filter is not larger than its input, and that its windows cover the image."""
    ndim = len(sizes)
    strides = _checked(per_dim, stride, ndim, "stride")
    dilations = _checked(per_dim, dilation, ndim, "dilation")
    edges = _checked(pads, padding, sizes, window, strides, dilations)
    for w, f, s, d, (lo, hi) in zip(sizes, window, strides, dilations, edges, strict=True):
        e = extent(f, d)
        span = w + lo + hi - e
        pad = "" if not lo + hi else f"+2*{lo}" if lo == hi else f"+{lo}+{hi}"
        what = f"{by(window)} filter{f' dilated by {d}' if d > 1 else ''}, stride {s} on {by(sizes)}"
        if span < 0:
            raise LayerError(
                f"{what}: the filter covers {e} pixels and there are {w}{pad}; use a larger input or more padding"
            )
        # Padding may be left over. So may as many pixels as lie between two windows, which no window sees either.
        left_over = span % s - hi
        if not floor and left_over > max(0, s - e):
            raise LayerError(
                f"{what}: ({w}-{e}{pad})/{s}+1 = {span / s + 1:.2f} is no whole number; choose another stride or "
                f'padding, "SAME", or floor=True to leave the last {left_over} unseen'
            )
