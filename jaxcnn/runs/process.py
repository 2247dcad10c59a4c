"""Settings of the process that trains, which do not affect the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.errors import UserError

if TYPE_CHECKING:
    from jaxcnn.devices import DataParallel


@dataclass(frozen=True)
class Process:
    """Settings of the training process: a run may be resumed with others, and config.json does not hold them.

    Each field is an option of `jaxcnn train`.
    """

    devices: int | None = None
    """How many of this machine's devices share each batch; all of them when not given."""
    distributed: bool = False
    """This is one of several processes, as the cluster (Slurm, Kubernetes, Open MPI, TPU) or JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say."""
    coordinator: str | None = None
    """This is one of several processes: host:port of the first one."""
    processes: int | None = None
    """The number of processes."""
    process: int | None = None
    """The number of this process, from 0."""
    workers: int | None = None
    """With --stream: threads that read. As many as there are cores when not given."""
    save_every: float = 600
    """Seconds between checkpoints inside an epoch; there is one after each epoch in any case."""
    keep: int = 2
    """The number of checkpoints that stay."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard, too: pip install 'jaxcnn[tensorboard]'."""
    profile: int = 0
    """Write a profile of this number of steps to RUN/profile."""

    @property
    def several(self) -> bool:
        """Whether it is one of several processes."""
        return self.distributed or self.coordinator is not None

    def join(self) -> None:
        """Joins the other processes, where there are some.

        Raises:
          UserError: if the settings contradict each other.
        """
        from jaxcnn import devices

        if self.several:
            devices.join(self.coordinator, self.processes, self.process)
        elif self.processes is not None or self.process is not None:
            raise UserError("--processes and --process belong to --coordinator HOST:PORT")

    def spread(self, parallel: Literal["jit", "pmap"]) -> DataParallel | None:
        """The devices that share a batch; None for one device."""
        import jax

        from jaxcnn.devices import DataParallel

        if self.several or self.devices is not None or jax.device_count() > 1 or parallel == "pmap":
            return DataParallel(self.devices, parallel)
        return None

    def written(self) -> dict[str, Any]:
        """The settings of the run's folder."""
        return {name: getattr(self, name) for name in ("save_every", "keep", "tensorboard", "profile")}
