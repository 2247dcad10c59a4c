"""Weights to and from PyTorch, whose own networks have to compute the same with them.

The networks are written out here under torchvision's names. All their numbers are random, running statistics too, and
go through files that `torch.save` writes, in its two formats, or safetensors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, same

import jaxcnn as cnn
from jaxcnn.losses import softmax_cross_entropy
from jaxcnn.models.googlenet import TABLE_1

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

TOLERANCE = 1e-4  # relative to the largest value; measured are some 1e-6

# Deep networks take long to compile, and they run once.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# --- PyTorch's side ----------------------------------------------------------------------------------------------


class Chained(nn.Module):
    """AlexNet and VGG: `features`, an average pool to `size`, `classifier`."""

    def __init__(self, features, size, classifier):
        super().__init__()
        self.features, self.classifier = nn.Sequential(*features), nn.Sequential(*classifier)
        self.avgpool = nn.AdaptiveAvgPool2d(size)

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(classes=1000, drop=0.5):
    layers, channels = [], 3
    for features, size, stride, padding in [
        (64, 11, 4, 2),
        (192, 5, 1, 2),
        (384, 3, 1, 1),
        (256, 3, 1, 1),
        (256, 3, 1, 1),
    ]:
        layers += [nn.Conv2d(channels, features, size, stride, padding), nn.ReLU()]
        if features != 384 and len(layers) != 10:
            layers.append(nn.MaxPool2d(3, 2))
        channels = features
    dense = [nn.Dropout(drop), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(drop), nn.Linear(4096, 4096), nn.ReLU()]
    return Chained(layers, 6, [*dense, nn.Linear(4096, classes)])


def vgg(columns, classes=1000, norm=False, width=64, units=4096):
    layers, channels = [], 3
    for stage, count in enumerate(columns):
        for _ in range(count):
            features = width * min(2**stage, 8)
            layers += [
                nn.Conv2d(channels, features, 3, padding=1),
                *([nn.BatchNorm2d(features)] if norm else []),
                nn.ReLU(),
            ]
            channels = features
        layers.append(nn.MaxPool2d(2))
    dense = [
        nn.Linear(49 * channels, units),
        nn.ReLU(),
        nn.Dropout(0),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Dropout(0),
    ]
    return Chained(layers, 7, [*dense, nn.Linear(units, classes)])


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1, and the shortcut around them."""

    def __init__(self, channels, features, stride, expansion):
        super().__init__()
        out = features * expansion
        shapes = [(channels, features, 3, stride), (features, features, 3, 1)]
        if expansion > 1:
            shapes = [(channels, features, 1, 1), (features, features, 3, stride), (features, out, 1, 1)]
        self.depth = len(shapes)
        for i, (c, k, size, s) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(c, k, size, s, size // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(k))
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, blocks, expansion=1, classes=1000, width=64):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width)
        channels, self.stages = width, len(blocks)
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                layers.append(Block(channels, width * 2**stage, 2 if i == 0 and stage else 1, expansion))
                channels = width * 2**stage * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Unit(nn.Module):
    def __init__(self, channels, features, size, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, features, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(features, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self, channels, ones, reduce3, threes, reduce5, fives, projected):
        super().__init__()
        self.branch1 = Unit(channels, ones, 1)
        self.branch2 = nn.Sequential(Unit(channels, reduce3, 1), Unit(reduce3, threes, 3))
        self.branch3 = nn.Sequential(Unit(channels, reduce5, 1), Unit(reduce5, fives, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), Unit(channels, projected, 1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class Head(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv, self.fc1, self.fc2 = Unit(channels, 128, 1), nn.Linear(2048, 1024), nn.Linear(1024, classes)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(torch.flatten(self.conv(F.adaptive_avg_pool2d(x, 4)), 1))))


class GoogLeNet(nn.Module):
    def __init__(self, classes=1000, aux=True):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Unit(3, 64, 7, 2), Unit(64, 64, 1), Unit(64, 192, 3)
        channels = 192
        for name, row in TABLE_1.items():
            setattr(self, f"inception{name}", Inception(channels, *row))
            channels = row[0] + row[2] + row[4] + row[5]
        self.aux1, self.aux2 = (Head(512, classes), Head(528, classes)) if aux else (None, None)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        pool = functools.partial(F.max_pool2d, kernel_size=3, stride=2, ceil_mode=True)
        x = pool(self.conv3(self.conv2(pool(self.conv1(x)))))
        x = a = self.inception4a(pool(self.inception3b(self.inception3a(x))))
        x = d = self.inception4d(self.inception4c(self.inception4b(x)))
        x = F.max_pool2d(self.inception4e(x), 2, 2, ceil_mode=True)
        y = self.fc(self.inception5b(self.inception5a(x)).mean((2, 3)))
        return (y, self.aux1(a), self.aux2(d)) if self.training and self.aux1 is not None else y


def randomized(model, seed=0):
    """Random numbers everywhere, such that activations stay about as large as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.4, 0.8, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
    return model


def written(state_dict, path, form):
    """The state dict in a file of this form."""
    if form == "safetensors":
        from safetensors.torch import save_file

        save_file(state_dict, path / "weights.safetensors")
        return path / "weights.safetensors"
    torch.save(state_dict, path / "weights.pth", _use_new_zipfile_serialization=form == "zip")
    return path / "weights.pth"


def images(count, height, width):
    """The same images for both sides."""
    x = normal(3, count, height, width, 3)
    return x, torch.tensor(np.moveaxis(x, -1, 1))


def relative(actual, expected):
    """The largest error relative to the largest value."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    assert 1e-3 < np.abs(expected).max() < 1e4
    return np.abs(actual - expected).max() / np.abs(expected).max()


# --- outputs -----------------------------------------------------------------------------------------------------

NETWORKS = {
    "alexnet": (alexnet, cnn.models.alexnet, 224, "zip"),
    "vgg16": (lambda: vgg((2, 2, 3, 3, 3), units=512), lambda: cnn.models.vgg16(units=512), 96, "zip"),
    "vgg16_bn": (
        lambda: vgg((2, 2, 3, 3, 3), norm=True, units=512), lambda: cnn.models.vgg16_bn(units=512), 96, "legacy"
    ),
    "googlenet": (GoogLeNet, lambda: cnn.models.googlenet(aux=True), 96, "legacy"),
    "resnet18": (lambda: ResNet((2, 2, 2, 2)), cnn.models.resnet18, 96, "safetensors"),
    "resnet50": (lambda: ResNet((3, 4, 6, 3), 4), cnn.models.resnet50, 96, "legacy"),
    "resnet152": (lambda: ResNet((3, 8, 36, 3), 4), cnn.models.resnet152, 64, "zip"),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs(name, tmp_path):
    theirs, ours, side, form = NETWORKS[name]
    model, x = randomized(theirs()).eval(), images(2, side, side + 32)
    with torch.no_grad():
        expected = model(x[1]).numpy()
    path = written(model.state_dict(), tmp_path, form)
    del model
    net = ours()
    params, state = cnn.weights.load(net, path)
    actual, _ = compiled(net.apply)(params, state, x[0])
    assert relative(actual, expected) < TOLERANCE


# --- gradients and running statistics ----------------------------------------------------------------------------

TRAINED = {
    "alexnet": (lambda: alexnet(5, 0), lambda: cnn.models.alexnet(5, drop=0), 96),
    "vgg11_bn": (
        lambda: vgg((1, 1, 2, 2, 2), 5, True, 8, 32), lambda: cnn.models.vgg11_bn(5, width=8, units=32, drop=0), 64
    ),
    "googlenet": (lambda: GoogLeNet(5), lambda: cnn.models.googlenet(5, aux=True, drop=0, drop_aux=0), 64),
    "resnet18": (lambda: ResNet((2, 2, 2, 2), 1, 5, 16), lambda: cnn.models.resnet18(5, width=16), 64),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_and_running_statistics(name, tmp_path):
    """One training pass: a batch of 4, mean cross-entropy, the heads' at 0.3 as in the paper.

    Where there is batch normalization, in double precision: in a batch of a few pixels, one ReLU that rounding turns
    on or off is seen in every gradient, and PyTorch's float32 is as far from its double precision as from ours.
    """
    theirs, ours, side = TRAINED[name]
    double = name != "alexnet"
    model, x, labels = randomized(theirs()).train(), images(4, side, side), np.array([0, 3, 1, 4])
    original = {k: v.clone() for k, v in model.state_dict().items()}
    model = model.double() if double else model
    shares = (1, 0.3, 0.3)
    outputs = model(x[1].double() if double else x[1])
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = sum(w * F.cross_entropy(y, torch.tensor(labels)) for w, y in zip(shares, outputs, strict=False))
    wanted.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}

    with jax.enable_x64(double):
        net, dtype = ours(), jnp.float64 if double else jnp.float32
        params, state = cnn.weights.load(net, written(original, tmp_path, "zip"), dtype=dtype)
        # Gradients have the names and axes of the weights, and so they come by the same way.
        path = written({**model.state_dict(), **gradients}, tmp_path, "zip")
        expected, statistics = cnn.weights.load(net, path, dtype=dtype)

        def loss(params):
            outputs, new = net.apply(params, state, x[0].astype(dtype), train=True, key=jax.random.key(0))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            losses = [w * softmax_cross_entropy(y, labels).mean() for w, y in zip(shares, outputs, strict=False)]
            return sum(losses), new

        (value, new), actual = compiled(jax.value_and_grad(loss, has_aux=True))(params)
        assert float(value) == pytest.approx(float(wanted.detach()), rel=1e-5)
        for tree, other in ((actual, expected), (new, statistics)):
            assert jax.tree.structure(tree) == jax.tree.structure(other)
            largest = max((float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(other)), default=0)
            for (where, a), e in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
                # The gradient of a bias in front of batch normalization is zero but for rounding.
                scale = max(float(jnp.abs(e).max()), 1e-6 * largest)
                assert float(jnp.abs(a - e).max()) < TOLERANCE * scale, jax.tree_util.keystr(where)
        changed = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state, new)), strict=True)]
        assert all(changed)
        assert len(changed) == sum(name.endswith(("running_mean", "running_var")) for name in original)


# --- back to PyTorch ---------------------------------------------------------------------------------------------

SAVED = {
    "vgg11_bn": (
        lambda: vgg((1, 1, 2, 2, 2), 7, True, 8, 32), lambda: cnn.models.vgg11_bn(7, width=8, units=32), "pth"
    ),
    "googlenet": (lambda: GoogLeNet(7), lambda: cnn.models.googlenet(7, aux=True), "pth"),
    "resnet50": (lambda: ResNet((3, 4, 6, 3), 4, 7, 8), lambda: cnn.models.resnet50(7, width=8), "safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_pytorch_reads_what_save_writes(name, tmp_path):
    from safetensors.torch import load_file

    theirs, ours, form = SAVED[name]
    model, net = randomized(theirs(), 1), ours()
    original = model.state_dict()
    params, state = cnn.weights.load(net, written(original, tmp_path, "zip"))
    path = tmp_path / f"ours.{form}"
    cnn.weights.save(net, params, state, path)
    found = load_file(path) if form == "safetensors" else torch.load(path, weights_only=True, mmap=True)
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {k: (v.shape, v.dtype) for k, v in original.items()}
    assert all(torch.equal(found[k], original[k]) for k in original)
    theirs().load_state_dict(found, strict=True)
    same(cnn.weights.load(net, path), (params, state))


# --- other forms that PyTorch's files have -----------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """A small ResNet of PyTorch's, its state dict, and ours with the same numbers."""
    model = randomized(ResNet((1, 1), 1, 3, 8), 2).eval()
    net = cnn.models.resnet((1, 1), 3, width=8)
    return model, net, cnn.weights.load(net, written(model.state_dict(), tmp_path, "zip"), input=(64, 64, 3))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_checkpoints_of_a_training(form, small, tmp_path):
    """Optimizer, arguments and figures lie beside the weights; wrappers put their name before each."""
    import argparse
    import collections

    model, net, expected = small
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    state = {f"module._orig_mod.{k}": v for k, v in randomized(model, 2).state_dict().items()}
    average = {k: 2 * v for k, v in state.items()}
    checkpoint = {
        "epoch": 3, "arch": "resnet", "optimizer": optimizer.state_dict(), "args": argparse.Namespace(f=[1, "a"]),
        "best": np.float64(0.5), "seen": {1, 2}, "counts": collections.Counter("aab"), "metric": None, "big": 1 << 70,
        "state_dict_ema": average, "state_dict": state, "device": torch.device("cpu"), "dtype": torch.float16,
        "by_class": collections.defaultdict(list, {1: [2]}), "text": "é", "size": torch.Size([1, 2]),
    }  # fmt: skip
    path = written(checkpoint, tmp_path, form)
    same(cnn.weights.load(net, path), expected)
    doubled, _ = cnn.weights.load(net, path, entry="state_dict_ema")
    same(doubled["fc"], jax.tree.map(lambda a: 2 * a, expected[0]["fc"]))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_averaged_models_and_modules_around_a_network(form, small, tmp_path):
    """PyTorch's AveragedModel counts beside the weights; Lightning's module calls the network `model`."""
    model, net, expected = small
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    checkpoint = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "ema": {"module": averaged.state_dict(), "decay": np.float64(0.99)},
        "best": {"accuracy": np.float32(0.5), "curve": np.arange(3), np.int64(1): None},
        "pytorch-lightning_version": "2.4.0", "numpy": np.random.RandomState(0).get_state(),
    }  # fmt: skip
    path = written(checkpoint, tmp_path, form)
    same(cnn.weights.load(net, path), expected)
    same(cnn.weights.load(net, path, entry="ema"), expected)
    same(cnn.weights.load(net, written(averaged.state_dict(), tmp_path, form)), expected)
    assert "conv1.weight" in cnn.weights.read(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_parameters_views_and_shared_storages(form, small, tmp_path):
    model, net, expected = small
    state = dict(model.state_dict())
    flat = torch.cat([v.flatten() for v in state.values() if v.dtype == torch.float32])
    shared, first = {}, 0
    for name, value in state.items():
        if value.dtype == torch.float32:
            shared[name] = flat[first : first + value.numel()].view(value.shape)
            first += value.numel()
    shared["fc.weight"] = torch.nn.Parameter(state["fc.weight"].T.contiguous()).T
    shared["conv1.weight"] = torch.nn.Parameter(state["conv1.weight"].to(memory_format=torch.channels_last))
    shared["bn1.weight"] = torch.nn.Parameter(state["bn1.weight"].clone(), requires_grad=False)
    same(cnn.weights.load(net, written(shared, tmp_path, form)), expected)


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_precisions(dtype, form, small, tmp_path):
    model, net, (params, state) = small
    half = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    path = written(half, tmp_path, form)
    for wanted in (jnp.float32, None, jnp.bfloat16):
        new = cnn.weights.load(net, path, dtype=wanted)
        kept = jnp.dtype("float32" if dtype == "float64" else dtype) if wanted is None else jnp.dtype(wanted)
        assert {a.dtype for a in jax.tree.leaves(new[0])} == {kept}
        assert {a.dtype for a in jax.tree.leaves(new[1])} == {jnp.dtype("float32")}
        rough = {"float64": 1e-7, "float16": 1e-3, "bfloat16": 1e-2}[dtype] if wanted != jnp.bfloat16 else 1e-2
        for a, b in zip(*map(jax.tree.leaves, (new, (params, state))), strict=True):
            np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=rough, atol=1e-6)


def test_dtypes_and_shapes_of_single_tensors(tmp_path):
    tensors = {
        str(dtype): torch.arange(12).reshape(3, 4).to(dtype)
        for dtype in (
            torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
            torch.uint8, torch.bool,
        )
    }  # fmt: skip
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3), "row": torch.arange(12).reshape(3, 4)[:, 1]}
    tensors["expanded"] = torch.tensor([7.0]).expand(3)
    for form in ("zip", "legacy"):
        found = cnn.weights.read(written(tensors, tmp_path, form))
        assert list(found) == list(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
            assert found[name].shape == tensor.shape
            np.testing.assert_array_equal(found[name].astype(np.float64), tensor.double().numpy())


def test_a_file_without_checksums(small, tmp_path):
    model, net, expected = small
    torch.serialization.set_crc32_options(False)
    try:
        path = written(model.state_dict(), tmp_path, "zip")
    finally:
        torch.serialization.set_crc32_options(True)
    same(cnn.weights.load(net, path), expected)


def test_whole_models_and_torchscript_are_refused(small, tmp_path):
    model, net, _ = small
    for form in ("zip", "legacy"):
        torch.save(model, tmp_path / "model.pth", _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(cnn.errors.DataError, match=r"holds code \(.*ResNet\).*nothing of it was run.*torch.save"):
            cnn.weights.load(net, tmp_path / "model.pth")


def test_timm_vgg(tmp_path):
    """timm keeps the hidden dense layers as convolutions over the whole map."""
    model = randomized(vgg((1, 1, 2, 2, 2), 7, True, 8, 32)).eval()
    renamed = {}
    for name, value in model.state_dict().items():
        for old, new, shape in (("classifier.0", "pre_logits.fc1", (32, 64, 7, 7)),
                                ("classifier.3", "pre_logits.fc2", (32, 32, 1, 1)),
                                ("classifier.6", "head.fc", (7, 32))):  # fmt: skip
            if name == f"{old}.weight":
                value = value.reshape(shape)
            name = name.replace(old, new)
        renamed[name] = value
    net, x = cnn.models.vgg11_bn(7, width=8, units=32), images(2, 224, 224)
    params, state = cnn.weights.load(net, written(renamed, tmp_path, "safetensors"))
    with torch.no_grad():
        assert relative(compiled(net.apply)(params, state, x[0])[0], model(x[1])) < TOLERANCE


# --- networks of one's own ---------------------------------------------------------------------------------------


def test_names_of_ones_own(tmp_path):
    """Convolution, its transpose, depthwise and 1-D ones, PReLU, group norm, two dense layers behind one map."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GroupNorm(4, 8),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(6 * 5 * 4, 240), nn.ReLU(), nn.Linear(240, 3),
    )  # fmt: skip
    randomized(model).eval()

    def forward(net, x):
        x = net.norm(net.deep(net.act(net.conv(x))))
        x = net.pool(cnn.relu(net.bn(net.up(x))))
        x = x.reshape(len(x), -1)  # by no layer
        return net.out(cnn.relu(net.hidden(net.drop(x))))

    net = cnn.network(
        forward, conv=cnn.conv(8, 3, padding=1), act=cnn.prelu(), deep=cnn.conv(8, 3, padding=1, groups=8),
        norm=cnn.group_norm(4), up=cnn.conv_transpose(6, 4, 2, 1), bn=cnn.batch_norm(), pool=cnn.max_pool(2),
        drop=cnn.dropout(0.5), hidden=cnn.dense(240), out=cnn.dense(3),
    )  # fmt: skip
    names = {"conv": "0", "act": "1", "deep": "2", "norm": "3", "up": "4", "bn": "5", "hidden": "9", "out": "11"}
    path, x = written(model.state_dict(), tmp_path, "zip"), images(2, 5, 4)
    params, state = cnn.weights.load(net, path, input=(5, 4, 3), names=names)
    with torch.no_grad():
        assert relative(net.apply(params, state, x[0])[0], model(x[1])) < TOLERANCE
    cnn.weights.save(net, params, state, tmp_path / "own.pth", input=(5, 4, 3), names=names.get)
    found = torch.load(tmp_path / "own.pth", weights_only=True)
    assert all(torch.equal(found[k], v) for k, v in model.state_dict().items())
    model.load_state_dict(found, strict=True)
