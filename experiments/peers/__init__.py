"""The networks of `experiments.speed` in other libraries: one file per library, in the style of its documentation.

Each file has two functions of a `Task`:

* `trainer(task) -> step`: `step()` runs one training step, waits until it is complete, and returns the loss.
* `inference(task) -> run`: `run()` runs a forward pass in evaluation mode and returns the outputs (channels last).

All libraries use the same initial weights, batch, softmax cross-entropy, SGD with momentum, and batch norm, which uses
batch statistics and updates running statistics in a training step. Dropout is left out so that outputs can be compared;
its cost is negligible. A file imports its library and NumPy, but no other library.

Weights are saved as a list of layers in the order of the networks' code. Each file creates its layers in that order; a
wrong number of layers, a wrong shape or a wrong output is an error. The networks in `ZOO` are compared with PyTorch
only, whose networks are torchvision's; they take the weights as a state dict.
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
      model: name of the network.
      shape: shape of the batch, `(N, H, W, C)`.
      classes: number of classes.
      units: units of the hidden dense layers of VGG-16, AlexNet and the FCN; small in tests.
      dtype: dtype of the computation, float32 or bfloat16. Parameters, momentum and running statistics are float32.
      device: cpu or gpu.
      learning_rate: of SGD with momentum.
      folder: the folder of the weights and the batch.
    """

    model: str
    shape: tuple[int, int, int, int]
    classes: int
    units: int = 4096
    dtype: str = "float32"
    device: str = "cpu"
    learning_rate: float = LEARNING_RATE
    folder: str = ""

    @property
    def half(self) -> bool:
        """Whether the computation is in bfloat16."""
        return self.dtype == "bfloat16"

    def save(self, layers: Sequence[Mapping[str, np.ndarray]], images: np.ndarray, labels: np.ndarray) -> None:
        """Saves the task, the weights and the batch in its folder."""
        folder = Path(self.folder)
        (folder / "task.json").write_text(json.dumps(dataclasses.asdict(self)))
        arrays = {f"{i}/{name}": value for i, layer in enumerate(layers) for name, value in layer.items()}
        np.savez(folder / "weights.npz", allow_pickle=False, **arrays)
        np.savez(folder / "batch.npz", allow_pickle=False, images=images, labels=labels)

    @classmethod
    def load(cls, folder: str | Path, **changes: Any) -> Task:
        """Loads the task that was saved in a folder."""
        fields = json.loads((Path(folder) / "task.json").read_text())
        return cls(**{**fields, "shape": tuple(fields["shape"]), "folder": str(folder), **changes})

    def layers(self) -> Iterator[dict[str, np.ndarray]]:
        """Loads the variables of each layer that has any, one layer at a time: `kernel`, `bias`, `scale`."""
        with np.load(Path(self.folder) / "weights.npz") as arrays:
            names: dict[str, list[str]] = {}
            for path in arrays.files:
                names.setdefault(path.split("/")[0], []).append(path)
            for paths in names.values():
                yield {path.split("/")[1]: arrays[path] for path in paths}

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images `(N, H, W, C)` in float32, and labels `(N,)`, per pixel `(N, H, W)`, in int32."""
        with np.load(Path(self.folder) / "batch.npz") as arrays:
            return arrays["images"], arrays["labels"]


# The sizes of the benchmark, and small ones for quick tests. VGG-16 and AlexNet keep their image size: smaller images
# need an adaptive pool that not every library has.
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

ZOO = {
    task.model: task
    for task in (
        Task("mobilenet_v2", (16, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("mobilenet_v3_large", (16, 224, 224, 3), 1000, learning_rate=1e-3),
        Task("mnasnet1_0", (16, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("efficientnet_b0", (8, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("shufflenet_v2_x1_0", (32, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("squeezenet1_0", (16, 224, 224, 3), 1000, learning_rate=1e-3),
        Task("regnet_y_400mf", (16, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("densenet121", (8, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("inception_v3", (4, 299, 299, 3), 1000, learning_rate=1e-8),
        Task("resnext50_32x4d", (4, 224, 224, 3), 1000, learning_rate=1e-6),
        Task("convnext_tiny", (4, 224, 224, 3), 1000, learning_rate=1e-3),
        Task("unet", (1, 160, 160, 3), 11, learning_rate=1e-3),
    )
}
"""Later networks, compared with PyTorch alone.

Their gradients at random weights are large, and a larger step would let rounding grow until losses cannot be compared.
"""

_SIDES = {"unet": 32, "inception_v3": 96}
QUICK |= {
    model: dataclasses.replace(task, shape=(4, side, side, 3), classes=min(task.classes, 11))
    for model, task in ZOO.items()
    for side in (_SIDES.get(model, 64),)
}

PER_PIXEL = ("fcn8s", "unet")
"""The networks that have an output for each pixel."""

ON_GPU = {
    "lenet5": 1024,
    "resnet20": 1024,
    "vgg16": 128,
    "googlenet": 256,
    "alexnet": 512,
    "resnet50": 128,
    "fcn8s": 16,
    **dict.fromkeys(ZOO, 128),
    "unet": 16,
}
"""Batches that keep a GPU busy."""


@dataclass(frozen=True)
class Peer:
    """A library and the settings that it is used with.

    Attributes:
      label: its name in tables and plots.
      module: the module with `trainer` and `inference`.
      options: keyword arguments of both functions.
      packages: required packages.
      compiler: whether a C++ compiler is required.
      dtype: a fixed dtype of its computation; None for the task's.
      mixes: whether it supports bfloat16 with float32 parameters.
      trains: whether it also trains.
      environment: additional environment variables of its process.
    """

    label: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    compiler: bool = False
    dtype: str | None = None
    mixes: bool = True
    trains: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def missing(self, dtype: str = "float32") -> str | None:
        """The missing requirement on this machine or for this dtype, or None."""
        if dtype == "bfloat16" and not self.mixes:
            return "it is not compared in bfloat16 with float32 parameters"
        if absent := [name for name in self.packages if importlib.util.find_spec(name) is None]:
            return f"{' and '.join(absent)} not installed (pip install 'jaxcnn[peers]')"
        if self.compiler and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            return "no C++ compiler"
        return None

    def lacks(self, model: str) -> str | None:
        """Why it does not have this network on this machine, or None."""
        if model not in ZOO or self.module == OURS.module:
            return None
        if self.module not in (f"{_HERE}.pytorch", f"{_HERE}.runtimes"):
            return "only the first seven networks are written for it"
        if model != "unet" and importlib.util.find_spec("torchvision") is None:
            return "its networks are torchvision's, which is not installed (pip install torchvision)"
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
    **{
        name: Peer(label, f"{_HERE}.runtimes", {"runtime": name}, ("torch", *packages), mixes=False, trains=False)
        for name, label, packages in (
            ("onnxruntime", "ONNX Runtime", ("onnx", "onnxruntime")),
            ("openvino", "OpenVINO", ("openvino",)),
        )
    },
}


def channels_first(kernel: np.ndarray, maps: int | None) -> np.ndarray:
    """Reorders a dense kernel after C flattened maps from `(H W C, K)` to `(C H W, K)`, for H = W."""
    if maps is None:
        return kernel
    rows, features = kernel.shape
    side = math.isqrt(rows // maps)
    return kernel.reshape(side, side, maps, features).transpose(2, 0, 1, 3).reshape(rows, features)
