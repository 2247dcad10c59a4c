"""Several devices, on one machine or on several hosts: the one place that knows of them.

Training is data-parallel: every device has all parameters and a part of each batch. There are two forms of it:

- `jit` over a mesh, the usual one: the step is the program for one device, XLA spreads it and adds what has to be added
  up. Batch statistics, dropout and augmentation are those of the whole batch without further ado.
- `pmap`, for those who know it: the step runs on each device with its part of the batch, and says itself where means
  over the devices are taken.

Several hosts run the same command, and are told of each other by the cluster (Slurm, Kubernetes, Open MPI, Cloud TPU)
or by the environment; see `join`. Each reads its part of every batch; the first alone writes.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jaxcnn.errors import UserError, first_line

PyTree = Any
Form = Literal["jit", "pmap"]
AXIS = "data"


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins this process to the others of the run; before anything is computed.

    Args:
      coordinator: `host:port` of the first process; JAX_COORDINATOR_ADDRESS when not given.
      processes: how many there are; JAX_NUM_PROCESSES when not given.
      process: which of them this one is, from 0; JAX_PROCESS_ID when not given. What is given nowhere JAX asks the
        cluster for.

    Raises:
      UserError: when only a part of it is known, or the others do not come.
    """

    def known(value: int | None, name: str) -> int | None:
        text = os.environ.get(name)
        if value is not None or not text:
            return value
        if not text.isdecimal():
            raise UserError(f"{name}={text}: expected a number")
        return int(text)

    processes, process = known(processes, "JAX_NUM_PROCESSES"), known(process, "JAX_PROCESS_ID")
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if processes is not None and process is not None and not 0 <= process < processes:
        raise UserError(f"process {process} of {processes}: expected 0 to {processes - 1}")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        first = first_line(error)
        raise UserError(
            f"the processes cannot be joined ({first}): say who they are by --coordinator HOST:PORT --processes N "
            "--process I, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start them by Slurm, "
            "Kubernetes or Open MPI"
        ) from error


def first_process() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def from_first(value: Callable[[], Any]) -> Any:
    """What `value()` is in the first process, JSON, in all of them; where it raises there, all raise."""
    if jax.process_count() == 1:
        return value()
    try:
        found = {"value": value()} if first_process() else {}
    except UserError as error:
        found = {"error": str(error)}
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    padded = np.zeros(size, np.uint8)
    padded[: min(size, len(text))] = text[:size]
    answer = json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))))
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def same_everywhere(tree: PyTree) -> PyTree:
    """The first process's arrays, in all processes."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(jnp.asarray, multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree)))


class OneDevice:
    """A step on one device: what `DataParallel` does, without anything to be done.

    Attributes:
      size, shard, axis_name: as in `DataParallel`.
    """

    size = 1
    shard = 0, 1
    axis_name: str | None = None

    def check(self, batch_size: int) -> None:
        """Any batch will do."""

    def replicate(self, state: PyTree) -> PyTree:
        """The state as it is."""
        return state

    single = whole = replicate

    def batch(self, batch: PyTree) -> PyTree:
        """The batch, on the device; on a CPU it is there."""
        return batch if jax.default_backend() == "cpu" else jax.device_put(batch)

    split = batch

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step, compiled."""
        return jax.jit(step, donate_argnums=0)

    def results(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled."""
        return jax.jit(function)


class DataParallel(OneDevice):
    """A step on several devices, each with its part of the batch.

    Args:
      count: how many devices; all of them when not given. With several processes all are taken.
      form: see above.

    Attributes:
      size: how many there are.
      shard: (which part of each batch this process reads, of how many).
      axis_name: of the mapped axis, in the `pmap` form; None in the other.

    Raises:
      UserError: for more devices than there are.
    """

    def __init__(self, count: int | None = None, form: Form = "jit"):
        there = jax.devices()
        if form not in ("jit", "pmap"):
            raise UserError(f"parallel form {form!r}: expected jit or pmap")
        if count is not None and not 1 <= count <= len(there):
            divided = f"; JAX_NUM_CPU_DEVICES={count} divides a CPU" if jax.default_backend() == "cpu" else ""
            raise UserError(f"{count} devices were asked for, and there are {len(there)}{divided}")
        if count is not None and jax.process_count() > 1 and count != len(there):
            raise UserError(f"with several processes all their {len(there)} devices are used, not {count}")
        chosen = there[:count]
        self.form = form
        self.size = len(chosen)
        self.shard = jax.process_index(), jax.process_count()
        self.axis_name = AXIS if form == "pmap" else None
        self.mesh = Mesh(np.array(chosen), (AXIS,), axis_types=(AxisType.Auto,))
        self._own = [device for device in chosen if device.process_index == jax.process_index()]
        self._whole: Sharding = NamedSharding(self.mesh, PartitionSpec())
        self._split: Sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.size == 1:  # nothing is to be spread, and JAX is quicker to see it so
            self._whole = self._split = SingleDeviceSharding(chosen[0])

    def check(self, batch_size: int) -> None:
        """Raises UserError for a batch that the devices cannot share equally."""
        if batch_size % self.size:
            low = batch_size - batch_size % self.size
            near = " or ".join(str(size) for size in (low, low + self.size) if size)
            raise UserError(f"a batch of {batch_size} cannot be divided by {self.size} devices: take one of {near}")

    def replicate(self, state: PyTree) -> PyTree:
        """A state of one device, on all of them. It is copied: a step may use up the result."""
        if self.form == "pmap":
            spread = functools.partial(jnp.stack, axis=0)
            stacked = jax.tree.map(lambda x: spread([x] * len(self._own)), state)
            return jax.pmap(lambda x: x, AXIS, devices=self._all())(stacked)
        return self._put(jax.tree.map(jnp.copy, state), self._whole)

    def single(self, state: PyTree) -> PyTree:
        """The state as one device has it, all of it in this process."""
        if self.form == "pmap":
            return jax.tree.map(lambda x: x.addressable_data(0)[0], state)
        return jax.tree.map(lambda x: x.addressable_data(0), state)

    def batch(self, batch: PyTree) -> PyTree:
        """This process's part of a batch, on its devices.

        Raises:
          UserError: when they cannot share it equally.
        """
        self.check(len(jax.tree.leaves(batch)[0]) * self.shard[1])
        if self.form == "pmap":
            own = len(self._own)
            return jax.tree.map(lambda x: x.reshape(own, len(x) // own, *x.shape[1:]), batch)
        return self.split(batch) if self.size > 1 else super().batch(batch)

    def split(self, batch: PyTree) -> PyTree:
        """This process's part of a batch as one array over all devices."""
        return self._put(batch, self._split)

    def whole(self, tree: PyTree) -> PyTree:
        """Arrays of one device, the same in all processes, as arrays that all devices of a `jit` have."""
        return self._put(tree, self._whole)

    def compile(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """The step `(state, batch) -> (state, metrics)`, for what `replicate` and `batch` return."""
        if self.form == "pmap":
            mapped = jax.pmap(step, AXIS, donate_argnums=0, devices=self._all())

            def run(state: PyTree, batch: PyTree) -> tuple[PyTree, dict[str, jax.Array]]:
                state, measured = mapped(state, batch)
                return state, {name: value.addressable_data(0)[0] for name, value in measured.items()}

            return run
        if self.size == 1:
            return jax.jit(step, donate_argnums=0)
        # A batch that nobody has divided would be copied to all devices, and computed by each of them.
        return jax.jit(step, donate_argnums=0, in_shardings=(None, self._split), out_shardings=self._whole)

    def results(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled for split arrays; what it returns is whole in every process."""
        return jax.jit(function, out_shardings=self._whole if self.size > 1 else None)

    def _all(self) -> list[Any] | None:
        # pmap takes the global list only where it is not the usual one.
        return None if jax.process_count() > 1 or self.size == len(jax.devices()) else list(self.mesh.devices.flat)

    def _put(self, tree: PyTree, sharding: Sharding) -> PyTree:
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)

        def one(x: Any) -> Any:
            if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
                data = jax.make_array_from_process_local_data(sharding, np.asarray(jax.random.key_data(x)))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
            return jax.make_array_from_process_local_data(sharding, np.asarray(x))

        return jax.tree.map(one, tree)


def stop_together(step: int) -> bool:
    """Whether all processes are to stop after this step, since one of them got a SIGTERM."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
