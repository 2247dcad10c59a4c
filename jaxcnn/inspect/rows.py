"""A row of the table of a network, which its graph draws, too."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One layer, or a network of layers with the sums of what is inside.

    Attributes:
      name: its path, `conv1` or `block1/conv2`.
      layer: the code that makes it.
      output_shape: of its output (the first array of it), with the batch.
      params: the numbers it learns; 0 for a second use of the same layer.
      macs: multiply-accumulates of matrix products and convolutions in one forward pass of the batch.
      activation_bytes: the size of its output; of a network, that of the outputs of all layers inside.
      receptive_field: the pixels of the input that one output value depends on, along each side (one number where the
        sides are equal); None where the input has no spatial axes, or none is left to follow.
      receptive_stride: the pixels between the fields of two neighbouring places; 0 where all have the same field.
      receptive_offset: the pixel where the first value's field begins: 0 is the image's first, padding is negative.
      flops: floating-point operations of the forward pass, two for each multiply-accumulate.
      backward_flops: those of its part of the gradient by all parameters.
      held_bytes: the bytes of the forward pass that its gradient needs and no layer before it holds already.
      shared: whether this is a second use of the same layer.
      children: the layers of a network, in the order of computation; empty for a leaf.
    """

    name: str
    layer: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int
    receptive_field: int | tuple[int, ...] | None
    receptive_stride: float | tuple[float, ...] | None = None
    receptive_offset: int | tuple[int, ...] | None = None
    flops: int = 0
    backward_flops: int = 0
    held_bytes: int = 0
    shared: bool = False
    children: tuple[Row, ...] = field(default=(), repr=False)

    @property
    def depth(self) -> int:
        """1 for the layers of the network itself, 2 for the layers of these, and so on."""
        return self.name.count("/") + 1
