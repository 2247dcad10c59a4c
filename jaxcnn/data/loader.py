"""Batches that other code makes: a PyTorch or Grain loader, or any iterable of batches."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxcnn.data.batches import padding
from jaxcnn.data.dataset import check_weights
from jaxcnn.errors import DataError, first_line

Batch = tuple[Any, Any, Any]
"""`(inputs, labels, weights)`; the weights are None if the examples have none."""
_ENDLESS = 1 << 40  # a length that is no length: Grain gives it to a repeated dataset


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches from an iterable, as data for `fit`: `(inputs, labels)` or `(inputs, labels, weights)`, or dicts of them.

    >>> train = cnn.data.Loader(torch.utils.data.DataLoader(dataset, 64, shuffle=True), channels_first=True)
    >>> train = cnn.data.Loader(lambda epoch: grain.MapDataset.source(source).seed(epoch).shuffle().batch(64))
    >>> cnn.train.fit(model, train)

    The arrays are NumPy's, JAX's, or PyTorch's tensors on the CPU; PyTorch is not imported. 64-bit numbers become
    32-bit ones. The loader decides the batch size: that of its first batch. All batches have this shape. A smaller one
    may be the last: a training leaves it out, an evaluation pads it.

    A training that is resumed needs the same batches in the same order. They are the same if `source` is a function of
    the epoch, whose iterable is then read from the position of the checkpoint, and if it is a list or comes from Grain.
    The function must return the same batches, augmented in the same way, whenever it is called for an epoch.
    Any other iterable may be shuffled by a state that no checkpoint holds: a resumed training warns that its figures
    are not those of an uninterrupted one. Several processes need such a source: each reads all batches, and takes its
    part of them.

    Attributes:
      source: an iterable of batches that can be iterated once an epoch; or a function `epoch -> iterable`, in which
        epochs count from 1, and 0 is for an evaluation and for a look at the first batch.
      length: the number of examples in an epoch. When None, that of the source: of the sampler of a PyTorch loader, or
        `len(source)` batches. If the last batch cannot be looked at, it counts as a full one, so that a schedule
        over the whole training may be longer by one step an epoch.
      keys: for batches that are dicts, the keys of the inputs, the labels and, if there are three, the weights. A tuple
        of keys gives several inputs: `(("image", "mask"), "label")`.
      classes: the names of the classes, in the order of the labels.
      name: where the batches come from.
      channels_first: whether inputs of four axes are `(N, C, H, W)`, as in PyTorch, and are transposed to
        `(N, H, W, C)`. When None they are taken as they are, and an error says so if they look like `(N, C, H, W)`.

    Raises:
      DataError: if the source can be iterated only once or its length is unknown; and, when the batches are read, for
        one that is of another form than described here.
    """

    source: Any
    length: int | None = None
    keys: tuple[Any, ...] = ("image", "label")
    classes: tuple[str, ...] = ()
    name: str = "loader"
    channels_first: bool | None = None

    def __post_init__(self) -> None:
        if not self._is_function:
            if not hasattr(self.source, "__iter__"):
                raise DataError(
                    f"{self.name}: expected an iterable of batches, or a function of the epoch that returns one, got "
                    f"{type(self.source).__name__}"
                )
            if hasattr(self.source, "__next__"):
                raise DataError(
                    f"{self.name}: {type(self.source).__name__} can be iterated only once, and each epoch needs all "
                    "batches: pass a function that makes it, Loader(lambda epoch: batches(epoch), length=examples)"
                )
        if len(self.keys) not in (2, 3):
            raise DataError(f"{self.name}: keys={self.keys!r}: expected the keys of inputs, labels and perhaps weights")
        object.__setattr__(self, "classes", tuple(self.classes))

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Loader({self.name!r}, {len(self):,} examples in batches of {self.size})"

    @property
    def size(self) -> int:
        """The number of examples in a batch."""
        return _length(self.first)

    @property
    def inputs(self) -> Any:
        """The inputs of the first batch: they show the shapes and dtypes of all."""
        return self.first[0]

    @property
    def labels(self) -> Any:
        """The labels of the first batch."""
        return self.first[1]

    @property
    def weights(self) -> Any:
        """The weights of the first batch; None if there are none."""
        return self.first[2]

    @property
    def extra(self) -> dict[str, Any]:
        """Nothing; see `Examples`."""
        return {}

    @property
    def ordered(self) -> bool:
        """Whether the order is known to be a function of the epoch, so that a training can be resumed exactly."""
        return self._is_function or _sliced(self.source) or type(self.source).__module__.split(".")[0] == "grain"

    @functools.cached_property
    def first(self) -> Batch:
        """The first batch."""
        for batch in self._made(0):
            return self._batch(batch)
        raise DataError(f"{self.name}: it gave no batch; expected an iterable that gives its batches in each epoch")

    def batches(
        self, size: int, seed: int = 0, epoch: int = 0, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Any, ...]]:
        """The full batches of an epoch: `(inputs, labels)`, or `(inputs, labels, weights)`.

        Args:
          size: the loader's batch size.
          seed: is not used: the loader has its own order.
          epoch: the number of the epoch.
          start: the first batch to return.
          shard: `(i, n)` returns the i-th of n equal parts of each batch.

        Raises:
          DataError: for another size, for batches of other shapes, and for an epoch that is too short.
        """
        if size != self.size:
            raise DataError(f"{self.name}: its batches have {self.size} examples, not {size}")
        expected = len(self) // size - start
        given = short = 0
        for batch in itertools.islice(self._made(epoch, start), expected):
            if short:
                raise DataError(
                    f"{self.name}: batch {start + given + 1} of epoch {epoch} has {short} examples, expected {size}: "
                    "only the last batch may be smaller"
                )
            found = self._alike(self._batch(batch), start + given + 1)
            if _length(found) < size:
                short = _length(found)
                continue
            given += 1
            yield _without_none(_part(found, shard))
        if given + bool(short) < expected:
            raise DataError(
                f"{self.name}: it ended after {start + given} batches of epoch {epoch}, expected {start + expected}: "
                "each epoch needs all batches. Correct the length, or pass a function of the epoch that makes them"
            )

    def padded_batches(self, size: int) -> Iterator[tuple[Any, ...]]:
        """Every example once, in batches of `size`: `(inputs, labels, there)`, and the weights if there are any.

        The last batch is padded with copies of its first example, for which `there`, float32, is 0 and not 1.
        """
        left, held, parts = len(self), 0, list[Any]()
        for number, batch in enumerate(self._made(0), 1):
            found = jax.tree.map(np.asarray, self._alike(self._batch(batch), number))
            found = jax.tree.map(lambda x, left=left: x[:left], found)
            left, held = left - _length(found), held + _length(found)
            parts.append(found)
            while held >= size:
                whole = _joined(parts)
                yield _padded(jax.tree.map(lambda x: x[:size], whole), size)
                parts, held = [jax.tree.map(lambda x: x[size:], whole)], held - size
            if not left:
                break
        if left >= self.size:
            raise DataError(f"{self.name}: it ended {left} examples before the {len(self)} that it was said to have")
        if held:
            yield _padded(_joined(parts), size)

    # --- reading

    @property
    def _is_function(self) -> bool:
        return callable(self.source) and not hasattr(self.source, "__iter__")

    @functools.cached_property
    def _count(self) -> int:
        """The number of examples of an epoch."""
        if self.length is not None:
            if self.length < self.size:
                raise DataError(f"{self.name}: length={self.length} is less than the {self.size} examples of a batch")
            return self.length
        made: Any = self._iterable(0)
        if getattr(made, "batch_size", None) and hasattr(getattr(made, "sampler", None), "__len__"):  # PyTorch's
            return len(made.sampler)
        try:
            count = len(made)
        except TypeError:
            count = _ENDLESS
        if count >= _ENDLESS:
            raise DataError(
                f"{self.name}: {type(made).__name__} does not say how many batches an epoch has: pass the number of "
                "examples, Loader(..., length=examples)"
            )
        last = _length(self._batch(made[count - 1])) if _sliced(made) else self.size
        return (count - 1) * self.size + last

    def _iterable(self, epoch: int) -> Iterable[Any]:
        return self.source(epoch) if self._is_function else self.source

    def _made(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch from `start` on, as the source gives them."""
        made = self._iterable(epoch)
        if start and _sliced(made):
            return iter(made[start:])  # type: ignore[index]
        return itertools.islice(made, start, None)

    def _batch(self, batch: Any) -> Batch:
        """A batch as arrays.

        Raises:
          DataError: if it is of another form.
        """
        parts = self._of_dict(batch) if isinstance(batch, Mapping) else batch
        if not isinstance(parts, (tuple, list)) or len(parts) not in (2, 3):
            got = f"{len(parts)} parts" if isinstance(parts, (tuple, list)) else type(parts).__name__
            raise DataError(f"{self.name}: expected batches (inputs, labels) or (inputs, labels, weights), got {got}")
        inputs, labels, weights = (self._arrays(part) for part in (*parts, None)[:3])
        inputs = jax.tree.map(self._channels_last, inputs)
        counts = {len(x) for x in jax.tree.leaves((inputs, labels, weights))}
        if len(counts) != 1 or not min(counts):
            raise DataError(f"{self.name}: the arrays of a batch have {sorted(counts)} examples, expected one number")
        weights = check_weights(weights, counts.pop(), self.name)
        if self.classes and getattr(labels, "dtype", np.dtype(bool)).kind in "iu":
            low, high = int(labels.min()), int(labels.max())
            if low < -1 or high >= len(self.classes):
                raise DataError(
                    f"{self.name}: labels from {low} to {high} for {len(self.classes)} classes: "
                    f"expected 0 to {len(self.classes) - 1}"
                )
        return inputs, labels, weights

    def _of_dict(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        wanted = [key for part in self.keys for key in (part if isinstance(part, tuple) else (part,))]
        if missing := [key for key in wanted if key not in batch]:
            raise DataError(
                f"{self.name}: the batches have no {missing[0]!r}, they have {', '.join(map(str, batch))}: say which "
                "are inputs and labels, Loader(..., keys=('image', 'label'))"
            )
        return tuple(
            tuple(batch[key] for key in part) if isinstance(part, tuple) else batch[part] for part in self.keys
        )

    def _arrays(self, part: Any) -> Any:
        """The arrays of inputs or labels; a list of arrays, as PyTorch collates tuples, becomes a tuple."""
        if part is None:
            return None
        if isinstance(part, Mapping):
            return {name: self._arrays(value) for name, value in part.items()}
        if isinstance(part, (tuple, list)) and part and not isinstance(part[0], (int, float, str, np.generic)):
            return tuple(map(self._arrays, part))
        if isinstance(part, jax.Array):
            return part
        try:
            array = np.asarray(part)
        except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a GPU, or one with a gradient
            raise DataError(
                f"{self.name}: a {type(part).__name__} cannot be read as a NumPy array: {first_line(error)}"
            ) from None
        if array.ndim == 0 or array.dtype.kind not in "biufV":
            form = "one number" if array.ndim == 0 else str(array.dtype)
            raise DataError(f"{self.name}: a batch holds {form}, expected arrays of numbers, one row for each example")
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)

    def _channels_last(self, x: Any) -> Any:
        if x.ndim != 4 or self.channels_first is False:
            return x
        if self.channels_first:
            return x.transpose(0, 2, 3, 1)
        if x.shape[1] in (1, 3) and min(x.shape[2:]) > 4:
            raise DataError(
                f"{self.name}: inputs of shape {x.shape} look like (N, C, H, W); expected (N, H, W, C): pass "
                "Loader(..., channels_first=True), or False if they are right"
            )
        return x

    def _alike(self, batch: Batch, number: int) -> Batch:
        """The batch, if its examples have the shapes and dtypes of the first one's, and it is no larger."""

        def form(batch: Batch) -> Any:
            return jax.tree.map(lambda x: f"{x.dtype} {tuple(x.shape[1:])}", batch)

        if (expected := form(self.first)) != (found := form(batch)):
            raise DataError(f"{self.name}: batch {number} has examples of {found}, expected {expected} as in the first")
        if _length(batch) > self.size:
            raise DataError(f"{self.name}: batch {number} has {_length(batch)} examples, expected {self.size}")
        return batch


def as_data(given: Any, name: str = "data") -> Any:
    """`given`, or a `Loader` of it if it is an iterable of batches with a length, such as a PyTorch loader.

    Raises:
      DataError: for an iterable without a length, and for one that can be iterated only once.
    """
    own = hasattr(given, "batches") or hasattr(given, "labels")
    if own or not hasattr(given, "__iter__") or isinstance(given, (tuple, list, dict, str, np.ndarray, jax.Array)):
        return given
    return Loader(given, name=name)


def _sliced(made: Any) -> bool:
    """Whether the batches can be taken by their number: a list, or Grain's `MapDataset`."""
    return isinstance(made, Sequence) or hasattr(made, "to_iter_dataset")


def _length(batch: Any) -> int:
    return len(jax.tree.leaves(batch)[0])


def _part(batch: Any, shard: tuple[int, int]) -> Any:
    index, count = shard
    if _length(batch) % count:
        raise DataError(f"a batch of {_length(batch)} cannot be divided among {count} shards")
    own = slice(index * _length(batch) // count, (index + 1) * _length(batch) // count)
    return batch if count == 1 else jax.tree.map(lambda x: x[own], batch)


def _without_none(batch: Batch) -> tuple[Any, ...]:
    return batch[:2] if batch[2] is None else batch


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _padded(batch: Batch, size: int) -> tuple[Any, ...]:
    places, there = padding(_length(batch), size)
    inputs, labels, weights = jax.tree.map(lambda x: x[places], batch)
    return (inputs, labels, there) if weights is None else (inputs, labels, there, weights)
