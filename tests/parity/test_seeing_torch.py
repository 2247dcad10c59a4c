"""Gradients, guided and deconvolved maps, and Grad-CAM against PyTorch with hooks, and against a deconvnet by hand."""

import jax
import numpy as np
import pytest
from helpers import close, normal

import jaxcnn as cnn
from jaxcnn.inspect import grad_cam, input_gradient

torch = pytest.importorskip("torch")
F = torch.nn.functional

X = normal(0, 3, 15, 15, 2)


def relu_in_forward(net, x):
    """Every form of ReLU that there is a module for in the other network."""
    y = net.pool(jax.nn.relu(net.conv1(x)))
    y = cnn.relu(net.conv2(y))
    return net.fc2(jax.nn.relu(net.fc1(net.flat(y))))


MODEL = cnn.network(
    relu_in_forward,
    conv1=cnn.conv(5, 3, padding=1), pool=cnn.max_pool(3, 2), conv2=cnn.conv(6, 3, 2), flat=cnn.flatten,
    fc1=cnn.dense(8), fc2=cnn.dense(4),
)  # fmt: skip


@pytest.fixture(scope="module")
def variables():
    numbers = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X)
    return jax.tree.map(
        lambda a: (numbers.normal(size=a.shape) / np.sqrt(np.prod(a.shape[:-1]))).astype(np.float32), shapes
    )


class Net(torch.nn.Module):
    def __init__(self, params):
        super().__init__()
        self.conv1, self.conv2 = torch.nn.Conv2d(2, 5, 3, padding=1), torch.nn.Conv2d(5, 6, 3, 2)
        self.fc1, self.fc2 = torch.nn.Linear(54, 8), torch.nn.Linear(8, 4)
        self.relu1, self.relu2, self.relu3 = (torch.nn.ReLU() for _ in range(3))
        with torch.no_grad():
            for name, own in params.items():
                kernel = np.asarray(own["kernel"])
                kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
                getattr(self, name).weight.copy_(torch.tensor(kernel))
                getattr(self, name).bias.copy_(torch.tensor(np.asarray(own["bias"])))

    def forward(self, x):
        self.indices = None
        y = self.relu1(self.conv1(x))
        y, self.indices = F.max_pool2d(y, 3, 2, return_indices=True)
        self.maps = self.relu2(self.conv2(y))
        y = self.maps.permute(0, 2, 3, 1).flatten(1)
        return self.fc2(self.relu3(self.fc1(y)))


def images():
    return torch.tensor(X.transpose(0, 3, 1, 2), requires_grad=True)


@pytest.mark.parametrize("rule", ["plain", "guided", "deconvolution"])
@pytest.mark.parametrize("unit", [0, [3, 1, 2]])
def test_gradients_are_those_with_hooks_on_relu(rule, unit, variables):
    params, state = variables
    net, x = Net(params), images()
    for relu in (net.relu1, net.relu2, net.relu3):
        if rule == "guided":
            relu.register_full_backward_hook(lambda module, into, out: (into[0].clamp(min=0),))
        if rule == "deconvolution":
            relu.register_full_backward_hook(lambda module, into, out: (out[0].clamp(min=0),))
    y = net(x)
    y[torch.arange(3), torch.tensor(np.broadcast_to(unit, 3).copy())].sum().backward()
    got = input_gradient(MODEL, params, state, X, unit=unit, rule=rule)
    close(np.asarray(got), x.grad.numpy().transpose(0, 2, 3, 1))
    outputs = jax.jit(lambda params, x: MODEL.apply(params, state, x)[0])(params, X)
    close(np.asarray(outputs), y.detach().numpy())


@pytest.mark.parametrize("place", [(0, 0, 1), (1, 1, 5)])
def test_deconvolution_is_unpooling_by_switches_rectifying_and_filtering_back(place, variables):
    """Zeiler and Fergus's network from a unit of the second convolution down, by their three steps."""
    params, state = variables
    net = Net(params)
    with torch.no_grad():
        net(images())
        y = torch.zeros(3, 6, 3, 3)
        y[:, place[2], place[0], place[1]] = 1
        y = F.conv_transpose2d(F.relu(y), net.conv2.weight, stride=2)
        unpooled = torch.zeros(3, 5, 15 * 15)  # windows overlap: what two of them chose adds up
        unpooled.scatter_add_(2, net.indices.flatten(2), y.flatten(2))
        y = F.conv_transpose2d(F.relu(unpooled.view(3, 5, 15, 15)), net.conv1.weight, padding=1)
    # `conv2` is the sum before its ReLU; the unit's own ReLU passes 1 on.
    got = input_gradient(MODEL, params, state, X, layer="conv2", unit=place, rule="deconvolution")
    close(np.asarray(got), y.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("unit", [None, 2])
def test_grad_cam(unit, variables):
    params, state = variables
    net = Net(params)
    kept = {}

    def keep(module, into, out):
        out.retain_grad()
        kept["maps"] = out

    net.conv2.register_forward_hook(keep)
    logits = net(images())
    score = logits.max(1).values if unit is None else logits[:, unit]
    score.sum().backward()
    maps, gradient = kept["maps"], kept["maps"].grad
    terms = gradient.mean((2, 3), keepdim=True) * maps
    small = F.relu(terms.sum(1))
    large = F.interpolate(small[:, None], (15, 15), mode="bilinear", align_corners=False)[:, 0]
    # The terms have either sign and nearly cancel: their sum is as exact as they are, not as it is large.
    tolerance = 1e-5 * terms.abs().sum(1).max().item()
    for resize, expected in ((False, small), (True, large)):
        got = grad_cam(MODEL, params, state, X, layer="conv2", unit=unit, resize=resize)
        np.testing.assert_allclose(np.asarray(got), expected.detach().numpy(), rtol=0, atol=tolerance)
    assert tolerance < 1e-3 * small.max().item()
