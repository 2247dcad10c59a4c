"""The later networks in PyTorch: torchvision's own under its names, and U-Net."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from experiments.peers import Task

NO_DROPOUT: dict[str, dict[str, Any]] = {
    "mobilenet_v2": {"dropout": 0.0},
    "mobilenet_v3_large": {"dropout": 0.0},
    "mnasnet1_0": {"dropout": 0.0},
    "squeezenet1_0": {"dropout": 0.0},
    "efficientnet_b0": {"dropout": 0.0, "stochastic_depth_prob": 0.0},
    "convnext_tiny": {"stochastic_depth_prob": 0.0},
    "inception_v3": {"dropout": 0.0, "aux_logits": False, "init_weights": False},
}
"""Options of torchvision's builders without which outputs would be random, and Inception's second output."""


def zoo() -> ModuleType:
    """`torchvision.models`, also where torchvision's compiled operations do not load.

    They do not beside a PyTorch of another index, such as its build for CPUs alone. Importing torchvision then fails at
    two operations of detectors, which none of these networks needs: they are declared, and the import repeated.
    """
    with contextlib.suppress(RuntimeError):  # operator torchvision::nms does not exist
        from torchvision import models

        return models
    library = torch.library.Library("torchvision", "DEF")
    for operation in ("nms", "qnms"):
        library.define(f"{operation}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    from torchvision import models

    return models


_DECLARED: list[torch.library.Library] = []  # a declaration ends with its library's last reference


def twice(channels: int, features: int) -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(channels, features, 3, padding=1))
    model.add_module("relu1", nn.ReLU(inplace=True))
    model.add_module("conv2", nn.Conv2d(features, features, 3, padding=1))
    model.add_module("relu2", nn.ReLU(inplace=True))
    return model


class UNet(nn.Module):
    def __init__(self, channels: int, classes: int, width: int = 64, depth: int = 4):
        super().__init__()
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.pool = nn.MaxPool2d(2)
        for stage, (before, features) in enumerate(pairwise([channels, *widths]), 1):
            self.add_module(f"down{stage}", twice(before, features))
        for stage, (features, below) in enumerate(pairwise(widths), 1):
            self.add_module(f"up{stage}", nn.ConvTranspose2d(below, features, 2, 2))
            self.add_module(f"join{stage}", twice(2 * features, features))
        self.score = nn.Conv2d(width, classes, 1)
        self.depth = depth

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = []
        for stage in range(1, self.depth + 1):
            x = self.get_submodule(f"down{stage}")(x)
            left.append(x)
            x = self.pool(x)
        x = self.get_submodule(f"down{self.depth + 1}")(x)
        for stage in range(self.depth, 0, -1):
            x = torch.cat([left.pop(), self.get_submodule(f"up{stage}")(x)], 1)
            x = self.get_submodule(f"join{stage}")(x)
        return self.score(x)


def network(task: Task) -> nn.Module:
    """The network of the task with its weights.

    Raises:
      ValueError: if it does not have as many parameters as jaxcnn's network.
    """
    if task.model == "unet":
        model: nn.Module = UNet(task.shape[-1], task.classes)
    else:
        model = zoo().get_model(task.model, weights=None, num_classes=task.classes, **NO_DROPOUT.get(task.model, {}))
    ours = sum(value.size for layer in task.layers() for value in layer.values())
    theirs = sum(parameter.numel() for parameter in model.parameters())
    if ours != theirs:
        raise ValueError(f"{task.model} has {theirs:,} parameters in PyTorch and {ours:,} in jaxcnn")
    weights = OrderedDict(torch.load(Path(task.folder) / "weights.pth", weights_only=True))
    weights._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]  # MNASNet asks for a version
    model.load_state_dict(weights)
    return model
