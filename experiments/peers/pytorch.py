"""The networks in PyTorch: contiguous or channels last, eager or compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from experiments.peers import (
    FLATTENED,
    INCEPTION,
    MOMENTUM,
    RESNET50,
    VGG16,
    ZOO,
    Task,
    channels_first,
)


class LeNet5(nn.Sequential):
    def __init__(self, channels: int, classes: int):
        super().__init__(
            nn.Conv2d(channels, 6, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, classes),
        )  # fmt: skip


class Unit(nn.Module):
    """A residual block of two convolutions; its shortcut subsamples and pads channels where the shape changes."""

    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.stride, self.more = stride, features - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        y += x
        return F.relu(y, inplace=True)


class ResNet20(nn.Sequential):
    def __init__(self, channels: int, classes: int):
        blocks, width = [], 16
        for stage in range(3):
            for block in range(3):
                blocks.append(Unit(width, 16 * 2**stage, 2 if stage and not block else 1))
                width = 16 * 2**stage
        stem = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def vgg_stages(channels: int) -> list[nn.Sequential]:
    stages = []
    for stage in VGG16:
        layers: list[nn.Module] = []
        for features in stage:
            layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(inplace=True)]
            channels = features
        stages.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
    return stages


class VGG16Net(nn.Sequential):
    def __init__(self, channels: int, classes: int, units: int):
        super().__init__(
            *vgg_stages(channels), nn.AdaptiveAvgPool2d(7), nn.Flatten(),
            nn.Linear(512 * 7 * 7, units), nn.ReLU(inplace=True),
            nn.Linear(units, units), nn.ReLU(inplace=True),
            nn.Linear(units, classes),
        )  # fmt: skip


class ConvNorm(nn.Sequential):
    def __init__(self, channels: int, features: int, size: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False),
            nn.BatchNorm2d(features, eps=1e-3),
            nn.ReLU(inplace=True),
        )


class Inception(nn.Module):
    def __init__(self, channels: int, ones: int, reduce3: int, threes: int, reduce5: int, fives: int, projected: int):
        super().__init__()
        self.branch1 = ConvNorm(channels, ones, 1)
        self.branch2 = nn.Sequential(ConvNorm(channels, reduce3, 1), ConvNorm(reduce3, threes, 3))
        self.branch3 = nn.Sequential(ConvNorm(channels, reduce5, 1), ConvNorm(reduce5, fives, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvNorm(channels, projected, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Sequential):
    def __init__(self, channels: int, classes: int):
        layers: list[nn.Module] = [ConvNorm(channels, 64, 7, 2), nn.MaxPool2d(3, 2, ceil_mode=True)]
        layers += [ConvNorm(64, 64, 1), ConvNorm(64, 192, 3), nn.MaxPool2d(3, 2, ceil_mode=True)]
        width = 192
        for name, (ones, reduce3, threes, reduce5, fives, projected) in INCEPTION.items():
            layers.append(Inception(width, ones, reduce3, threes, reduce5, fives, projected))
            width = ones + threes + fives + projected
            if name == "3b":
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            if name == "4e":
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class AlexNet(nn.Sequential):
    def __init__(self, channels: int, classes: int, units: int):
        super().__init__(
            nn.Conv2d(channels, 64, 11, 4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
            nn.AdaptiveAvgPool2d(6), nn.Flatten(),
            nn.Linear(256 * 6 * 6, units), nn.ReLU(inplace=True),
            nn.Linear(units, units), nn.ReLU(inplace=True),
            nn.Linear(units, classes),
        )  # fmt: skip


class Bottleneck(nn.Module):
    def __init__(self, channels: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3 = nn.Conv2d(features, 4 * features, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * features)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Sequential | None = None
        if channels != 4 * features:
            projection = nn.Conv2d(channels, 4 * features, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(4 * features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return self.relu(y)


class ResNet50(nn.Sequential):
    def __init__(self, channels: int, classes: int):
        stem = [nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        blocks, width = [], 64
        for stage, count in enumerate(RESNET50):
            for block in range(count):
                blocks.append(Bottleneck(width, 64 * 2**stage, 2 if stage and not block else 1))
                width = 256 * 2**stage
        pool = nn.MaxPool2d(3, 2, padding=1)
        super().__init__(*stem, pool, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class FCN8s(nn.Module):
    def __init__(self, channels: int, classes: int, units: int):
        super().__init__()
        self.stages = nn.ModuleList(vgg_stages(channels))
        self.head = nn.Sequential(
            nn.Conv2d(512, units, 7, padding=3), nn.ReLU(inplace=True),
            nn.Conv2d(units, units, 1), nn.ReLU(inplace=True),
            nn.Conv2d(units, classes, 1),
        )  # fmt: skip
        self.up7 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
        self.score4 = nn.Conv2d(512, classes, 1)
        self.up4 = nn.ConvTranspose2d(classes, classes, 4, 2, bias=False)
        self.score3 = nn.Conv2d(256, classes, 1)
        self.up3 = nn.ConvTranspose2d(classes, classes, 16, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image, pools = x, []
        for stage in self.stages:
            x = stage(x)
            pools.append(x)
        x = self.head(x)
        x = cropped(self.up7(x), pools[3]) + self.score4(pools[3])
        x = cropped(self.up4(x), pools[2]) + self.score3(pools[2])
        return cropped(self.up3(x), image)


def cropped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Center crop of the images to the size of `like`."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[2:], like.shape[2:], strict=True))
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]


MODELS: dict[str, Callable[[Task], nn.Module]] = {
    "lenet5": lambda task: LeNet5(task.shape[-1], task.classes),
    "resnet20": lambda task: ResNet20(task.shape[-1], task.classes),
    "vgg16": lambda task: VGG16Net(task.shape[-1], task.classes, task.units),
    "googlenet": lambda task: GoogLeNet(task.shape[-1], task.classes),
    "alexnet": lambda task: AlexNet(task.shape[-1], task.classes, task.units),
    "resnet50": lambda task: ResNet50(task.shape[-1], task.classes),
    "fcn8s": lambda task: FCN8s(task.shape[-1], task.classes, task.units),
}


def _filled(task: Task) -> nn.Module:
    """The network with the task's weights."""
    if task.model in ZOO:
        from experiments.peers import pytorch_zoo

        return pytorch_zoo.network(task)
    model = MODELS[task.model](task)
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)
    maps = FLATTENED.get(task.model)
    for module, weights in zip((m for m in model.modules() if isinstance(m, kinds)), task.layers(), strict=True):
        if isinstance(module, nn.BatchNorm2d):
            weight = weights["scale"]
        elif isinstance(module, nn.Conv2d):
            weight = weights["kernel"].transpose(3, 2, 0, 1)
        elif isinstance(module, nn.ConvTranspose2d):
            weight = weights["kernel"].transpose(2, 3, 0, 1)
        else:
            weight, maps = channels_first(weights["kernel"], maps).T, None
        _set(module.weight, weight)
        if module.bias is not None:
            _set(module.bias, weights["bias"])
    return model


def built(task: Task, channels_last: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The network with the task's weights, its images `(N, C, H, W)`, and its labels."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    model = _filled(task)
    images, labels = task.batch()
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if task.device == "gpu":
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, as its convolutions have it anyway, and JAX
    where = _where(task)
    model, x, y = model.to(where), x.to(where), torch.from_numpy(labels).long().to(where)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    return model, x, y


def _where(task: Task) -> str:
    return "cuda" if task.device == "gpu" else "cpu"


def _waited(task: Task, value: torch.Tensor) -> torch.Tensor:
    if task.device == "gpu":
        torch.cuda.synchronize()
    return value


def _set(parameter: torch.Tensor, value: np.ndarray) -> None:
    if parameter.shape != value.shape:
        raise ValueError(f"{value.shape} for {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def trainer(task: Task, channels_last: bool = False, compiled: bool = False) -> Callable[[], Any]:
    model, images, labels = built(task, channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate, momentum=MOMENTUM, fused=True)
    run = torch.compile(model) if compiled else model
    run.train()

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(_where(task), torch.bfloat16, enabled=task.half):
            loss = F.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        return _waited(task, loss.detach())

    return step


def inference(task: Task, channels_last: bool = False, compiled: bool = False) -> Callable[[], Any]:
    model, images, _ = built(task, channels_last)
    run = torch.compile(model) if compiled else model
    run.eval()

    @torch.inference_mode()
    def outputs() -> torch.Tensor:
        with torch.autocast(_where(task), torch.bfloat16, enabled=task.half):
            y = run(images)
        return _waited(task, y.float().movedim(1, -1))

    return outputs
