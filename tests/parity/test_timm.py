"""timm's files of networks that are torchvision's under other names. Skipped where timm is not installed."""

import jax
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm", reason="timm is not installed")


def randomized(model):
    """All its numbers random, running statistics too, and its activations of a bounded size."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.weight.normal_(0, (1.5 / module.weight[0].numel()) ** 0.5, generator=generator)
            elif isinstance(
                getattr(module, "gamma", None), torch.nn.Parameter
            ):  # a block of ConvNeXt: it starts at 1e-6
                module.gamma.uniform_(0.2, 0.6, generator=generator)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.4, 0.8, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
    return model.eval()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenetv2_100", "mobilenet_v2"),
        ("mnasnet_100", "mnasnet1_0"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("efficientnet_b2", "efficientnet_b2"),
        ("densenet121", "densenet121"),
        ("resnext50_32x4d", "resnext50_32x4d"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("inception_v3", "inception_v3"),
        ("regnety_004", "regnet_y_400mf"),
        ("regnetx_008", "regnet_x_800mf"),
        ("convnext_tiny", "convnext_tiny"),
    ],
)
def test_outputs_from_timms_file(theirs, ours, tmp_path):
    model, x = randomized(timm.create_model(theirs, pretrained=False)), normal(1, 2, 80, 80, 3)
    with torch.no_grad():
        expected = model(torch.tensor(np.moveaxis(x, -1, 1))).numpy()
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    net = getattr(cnn.models, ours)()
    params, state = cnn.weights.load(net, tmp_path / "theirs.pth")
    assert expected.std() > 1e-3
    close(jax.jit(net.apply)(params, state, x)[0], expected, 1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("mobilenetv2_100", "mobilenet_v2"), ("regnety_004", "regnet_y_400mf"), ("convnext_tiny", "convnext_tiny")],
)
def test_timm_takes_a_file_of_ours(theirs, ours, tmp_path):
    """Every array has timm's name and shape, and its numbers stay."""
    model, other = (randomized(timm.create_model(theirs, pretrained=False)) for _ in range(2))
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    net = getattr(cnn.models, ours)()
    cnn.weights.save(net, *cnn.weights.load(net, tmp_path / "theirs.pth"), tmp_path / "ours.pth", names="timm")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(tmp_path / "ours.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
