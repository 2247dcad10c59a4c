"""What torchvision's convolutional networks are made of, as `torchvision.json.xz` has it; not run by the tests.

The file was made with torchvision 0.28.0 and PyTorch 2.13.0, in an environment that has them, by

    python tests/models/torchvision_fixture.py

It holds, for each classifier and each network for segmentation, by torchvision's name:

    state        the name of each array of its state dict and its shape, in order, without `num_batches_tracked`
    parameters   how many it has by the metadata of its published weights; auxiliary heads only where those have them
    gmacs        10^9 multiply-accumulates of one image, from the same place, where they are called GFLOPS
    size         the height and width of that image
    resize       how long its shorter side is before the crop, and by which interpolation
    mean, std    what images from 0 to 1 are normalized by
    norms        pairs (eps, momentum) of its batch normalizations, each once; PyTorch's momentum
    dropout      the rates of its dropout layers, in order
    top1         the ImageNet top-1 accuracy of its published weights in percent, for classifiers
    drop_path    the probabilities of its stochastic depth in order, of blocks with a shortcut, and without zeros

Nothing is downloaded: the networks are built without numbers, and metadata is part of the package. The auxiliary heads
of GoogLeNet, Inception and the segmentation networks are there.
"""

import json
import lzma
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("torchvision.json.xz")
# Classifiers that the file has with auxiliary heads, or with images of another size than here.
HEADS_AND_SIZES = ("efficientnet_b2", "googlenet", "inception_v3")


def load() -> dict[str, dict[str, Any]]:
    """The file's content."""
    return json.loads(lzma.decompress(FILE.read_bytes()))


def names() -> list[str]:
    """Classifiers but for the transformers, then the networks for segmentation."""
    import torchvision.models as zoo

    classifiers = [n for n in zoo.list_models(zoo) if not n.startswith(("vit", "swin", "maxvit"))]
    return [*classifiers, *zoo.list_models(zoo.segmentation)]


def options(name: str) -> dict[str, Any]:
    """What the builder is given so that every part of the published weights is there, and nothing is computed."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": True, "init_weights": False}
    if name.startswith(("fcn", "deeplabv3", "lraspp")):
        return {"weights_backbone": None} | ({} if name.startswith("lraspp") else {"aux_loss": True})
    return {}


def described(name: str) -> dict[str, Any]:
    """One network's entry of the file."""
    import torch
    import torchvision
    from torch import nn
    from torch.overrides import TorchFunctionMode

    class WithoutNumbers(TorchFunctionMode):
        """Parameters and statistics of shapes alone. RegNet computes its widths with other functions of PyTorch."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = {"device": "meta"} if function in (torch.empty, torch.zeros, torch.ones) else {}
            return function(*args, **{**(kwargs or {}), **made})

    with WithoutNumbers():
        model = torchvision.models.get_model(name, weights=None, **options(name))
    weights = next(iter(torchvision.models.get_model_weights(name)))
    preset = weights.transforms()
    side = getattr(preset, "crop_size", None) or preset.resize_size
    modules = list(model.modules())
    blocks = [m for m in modules if hasattr(m, "stochastic_depth") and getattr(m, "use_res_connect", True)]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    accuracy = weights.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1")
    return {
        "state": {k: list(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")},
        "parameters": weights.meta["num_params"],
        "gmacs": weights.meta["_ops"],
        "size": [side[0], side[0]],
        "resize": [preset.resize_size[0], preset.interpolation.value],
        "mean": preset.mean,
        "std": preset.std,
        "norms": sorted({(norm.eps, norm.momentum) for norm in norms}),
        "dropout": [m.p for m in modules if isinstance(m, nn.Dropout)],
        "drop_path": [m.stochastic_depth.p for m in blocks if m.stochastic_depth.p],
        **({"top1": accuracy} if accuracy else {}),
    }


if __name__ == "__main__":
    text = json.dumps({name: described(name) for name in names()}, separators=(",", ":"))
    FILE.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{FILE}: {len(text) / 1024:.0f} KiB of JSON, {FILE.stat().st_size / 1024:.0f} KiB compressed")
