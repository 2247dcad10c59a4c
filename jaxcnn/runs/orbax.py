"""Reading the checkpoints that jaxcnn wrote with Orbax, before it wrote safetensors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.runs.arrays import is_key

PyTree = Any


def orbax() -> Any:
    """The package, which takes a second to import.

    Raises:
      UserError: when it is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise UserError(
            "this checkpoint was written by Orbax, which is not installed: pip install orbax-checkpoint"
        ) from error
    return ocp


def read_like(folder: Path, like: PyTree) -> PyTree:
    """The arrays of a checkpoint, of the shapes and dtypes of `like`, on this process's first device."""
    ocp = orbax()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what is wrong is said once, by us
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own}, barrier_sync_key_prefix="own")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def wanted(x: Any) -> Any:
        x = jax.random.key_data(x) if is_key(x) else x  # random keys were stored as their data
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        found = reader.restore(folder, args=ocp.args.StandardRestore(jax.tree.map(wanted, like)))
    return jax.tree.map(
        lambda x, data: jax.random.wrap_key_data(data, impl=jax.random.key_impl(x)) if is_key(x) else data, like, found
    )


def read_some(folder: Path, names: tuple[str, ...]) -> dict[str, PyTree]:
    """Those arrays of a checkpoint whose first name is one of these, as NumPy has them."""
    ocp = orbax()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        metadata = reader.metadata(folder)
        tree = getattr(metadata, "item_metadata", metadata)
        tree = {name: value for name, value in getattr(tree, "tree", tree).items() if name in names}
        wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(item=tree, restore_args=wanted, partial_restore=True))
