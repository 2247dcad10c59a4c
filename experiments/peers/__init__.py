"""The networks of `experiments.speed` in other libraries, one file a library, each written as its documentation would.

A file gives two functions of a `Task`:

* `trainer(task) -> step`: `step()` does one training step and waits for all of it; it returns the loss.
* `inference(task) -> run`: `run()` does a forward pass in evaluation mode and waits; it returns the outputs, channels
  last.

What is the same everywhere: the weights at the start, the batch, softmax cross-entropy, SGD with momentum, batch
normalization by the batch in a training step with its running statistics updated. Dropout is left out, so that the
outputs can be compared; it takes next to no time. Files here import their library and NumPy, not each other's.

Weights travel as a list of layers in the order of the networks' code: each file makes its layers in that order, and a
number of layers, a shape or an output that does not fit is an error.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE, MOMENTUM = 0.01, 0.9

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""The filters of VGG-16's convolutions, stage by stage."""

RESNET50 = (3, 4, 6, 3)
"""The number of blocks in each stage."""

FLATTENED = {"lenet5": 16, "vgg16": 512, "alexnet": 256}
"""How many maps are flattened before the first dense layer; in the other networks there is one pixel of each."""

INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""GoogLeNet's modules: the filters of 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection."""


@dataclass(frozen=True)
class Task:
    """A network and its batch.

    Attributes:
      model: the network's name.
      shape: of the batch, `(N, H, W, C)`.
      classes: of the outputs.
      units: of VGG-16's, AlexNet's and the FCN's hidden dense layers; fewer make a test short.
      dtype: what is computed in, float32 or bfloat16. Parameters, momentum and running statistics are float32 always.
      device: where, cpu or gpu.
      folder: where the weights and the batch lie.
    """

    model: str
    shape: tuple[int, int, int, int]
    classes: int
    units: int = 4096
    dtype: str = "float32"
    device: str = "cpu"
    folder: str = ""

    @property
    def half(self) -> bool:
        """Whether it is computed in bfloat16."""
        return self.dtype == "bfloat16"

    def save(self, layers: Sequence[Mapping[str, np.ndarray]], images: np.ndarray, labels: np.ndarray) -> None:
        """Writes the task, the weights and the batch into its folder."""
        folder = Path(self.folder)
        (folder / "task.json").write_text(json.dumps(dataclasses.asdict(self)))
        arrays = {f"{i}/{name}": value for i, layer in enumerate(layers) for name, value in layer.items()}
        np.savez(folder / "weights.npz", allow_pickle=False, **arrays)
        np.savez(folder / "batch.npz", allow_pickle=False, images=images, labels=labels)

    @classmethod
    def load(cls, folder: str | Path, **changes: Any) -> Task:
        """The task that was saved there."""
        fields = json.loads((Path(folder) / "task.json").read_text())
        return cls(**{**fields, "shape": tuple(fields["shape"]), "folder": str(folder), **changes})

    def layers(self) -> Iterator[dict[str, np.ndarray]]:
        """The variables of each layer that has any, read one layer at a time: `kernel`, `bias`, `scale`."""
        with np.load(Path(self.folder) / "weights.npz") as arrays:
            names: dict[str, list[str]] = {}
            for path in arrays.files:
                names.setdefault(path.split("/")[0], []).append(path)
            for paths in names.values():
                yield {path.split("/")[1]: arrays[path] for path in paths}

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images `(N, H, W, C)` in float32, and labels `(N,)`, for the FCN `(N, H, W)`, in int32."""
        with np.load(Path(self.folder) / "batch.npz") as arrays:
            return arrays["images"], arrays["labels"]


# The sizes that are measured, and small ones with which everything can be tried out quickly. VGG-16 and AlexNet keep
# their image size: for smaller ones they have a pool that not every library has.
TASKS = {
    task.model: task
    for task in (
        Task("lenet5", (128, 32, 32, 1), 10),
        Task("resnet20", (128, 32, 32, 3), 10),
        Task("vgg16", (4, 224, 224, 3), 1000),
        Task("googlenet", (8, 224, 224, 3), 1000),
        Task("alexnet", (16, 224, 224, 3), 1000),
        Task("resnet50", (8, 224, 224, 3), 1000),
        Task("fcn8s", (1, 240, 320, 3), 11),
    )
}
QUICK = {
    task.model: task
    for task in (
        Task("lenet5", (8, 32, 32, 1), 10),
        Task("resnet20", (8, 32, 32, 3), 10),
        Task("vgg16", (1, 224, 224, 3), 10, units=32),
        Task("googlenet", (4, 64, 64, 3), 10),
        Task("alexnet", (2, 224, 224, 3), 10, units=32),
        Task("resnet50", (4, 64, 64, 3), 10),
        Task("fcn8s", (1, 48, 64, 3), 11, units=32),
    )
}

ON_GPU = {
    "lenet5": 1024,
    "resnet20": 1024,
    "vgg16": 128,
    "googlenet": 256,
    "alexnet": 512,
    "resnet50": 128,
    "fcn8s": 16,
}
"""Batches that keep a GPU busy."""


@dataclass(frozen=True)
class Peer:
    """A library, and how it is used.

    Attributes:
      label: its name in tables and pictures.
      module: the file that has `trainer` and `inference`.
      options: their keyword arguments.
      packages: what has to be installed for it.
      compiler: whether a C++ compiler is needed, too.
      dtype: what it computes in whatever was asked for; None, what was asked for.
      mixes: whether it computes in bfloat16 with float32 parameters.
      environment: variables of its process beside those that all have.
    """

    label: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    compiler: bool = False
    dtype: str | None = None
    mixes: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self, dtype: str = "float32") -> str | None:
        """What it lacks on this machine or for this dtype; None for nothing."""
        if dtype == "bfloat16" and not self.mixes:
            return "its batch normalization does not work in bfloat16 with float32 statistics"
        if absent := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            return f"{' and '.join(absent)} not installed (pip install 'jaxcnn[peers]')"
        if self.compiler and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "no C++ compiler"
        return None


_HERE = "experiments.peers"
OURS = Peer("jaxcnn", f"{_HERE}.ours")
OURS_FLOAT32 = Peer("jaxcnn, float32", f"{_HERE}.ours", dtype="float32")
PEERS = {
    "flax_linen": Peer("Flax linen", f"{_HERE}.flax_linen"),
    "flax_nnx": Peer("Flax NNX", f"{_HERE}.flax_nnx"),
    "equinox": Peer("Equinox", f"{_HERE}.equinox_", packages=("equinox",), mixes=False),
    "keras": Peer("Keras on JAX", f"{_HERE}.keras_", packages=("keras",)),
    "torch": Peer("PyTorch", f"{_HERE}.pytorch", packages=("torch",)),
    "torch_channels_last": Peer(
        "PyTorch, channels last", f"{_HERE}.pytorch", {"channels_last": True}, packages=("torch",)
    ),
    "torch_compile": Peer(
        "torch.compile", f"{_HERE}.pytorch", {"channels_last": True, "compiled": True}, ("torch",), compiler=True
    ),
}


def channels_first(kernel: np.ndarray, maps: int | None) -> np.ndarray:
    """The kernel of a dense layer `(H W C, K)` behind C flattened maps as one of `(C H W, K)`; H is W here."""
    if maps is None:
        return kernel
    rows, features = kernel.shape
    side = math.isqrt(rows // maps)
    return kernel.reshape(side, side, maps, features).transpose(2, 0, 1, 3).reshape(rows, features)
