"""Keras's files of weights: written here by h5py in Keras's form, and by Keras itself where it is installed."""

import io
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal, same

import jaxcnn as cnn
from jaxcnn.errors import DataError, UserError

h5py = pytest.importorskip("h5py", reason="h5py is not installed")

X = normal(0, 2, 8, 8, 3)
NAMES = {"conv": "conv2d", "bn": "batch_normalization", "fc": "head/dense"}


def net():
    return cnn.serial(conv=cnn.conv(4, 3), bn=cnn.batch_norm(), relu=cnn.relu, flat=cnn.flatten, fc=cnn.dense(2))


def arrays():
    """A layer's arrays in the order of Keras, by the path of its group."""
    size = jax.eval_shape(net().init, jax.random.key(0), X)[0]["fc"]["kernel"].shape
    return {
        "conv2d": [normal(1, 3, 3, 3, 4), normal(2, 4)],
        "batch_normalization": [normal(3, 4), normal(4, 4), normal(5, 4), np.abs(normal(6, 4)) + 0.5],
        "head/dense": [normal(7, *size), normal(8, 2)],
    }


def write(target, above=""):
    """A file of Keras 3, with random generators and an optimizer beside the weights."""
    with h5py.File(target, "w") as file:
        for name, values in arrays().items():
            for i, value in enumerate(values):
                file[f"{above}{name}/vars/{i}"] = value
        file.create_group("relu/vars")
        file["dropout/seed_generator/vars/0"] = np.array([1, 2], np.uint32)
        file["optimizer/vars/0"] = np.float32(3)


def expected():
    values = arrays()
    conv, (gamma, beta, mean, var), dense = values["conv2d"], values["batch_normalization"], values["head/dense"]
    params = {name: dict(zip(("kernel", "bias"), v, strict=True)) for name, v in (("conv", conv), ("fc", dense))}
    return params | {"bn": {"scale": gamma, "bias": beta}}, {"bn": {"mean": mean, "var": var}}


@pytest.mark.parametrize("above", ["", "layers/"])
def test_a_file_of_keras_3(above, tmp_path):
    write(tmp_path / "x.weights.h5", above)
    assert len(cnn.weights.read(tmp_path / "x.weights.h5")) == 8
    params, state = cnn.weights.load(net(), tmp_path / "x.weights.h5", input=(8, 8, 3), names=NAMES)
    same(params, expected()[0])
    same(state["bn"], expected()[1]["bn"])
    one = {
        **{k: v for k, v in NAMES.items() if k != "fc"},
        "fc/kernel": "head/dense/vars/0",
        "fc/bias": "head/dense/vars/1",
    }
    if not above:
        same(cnn.weights.load(net(), tmp_path / "x.weights.h5", input=(8, 8, 3), names=one)[0], params)


def test_frozen_layers_take_the_same_arrays(tmp_path):
    write(tmp_path / "x.weights.h5")
    frozen = cnn.freeze(net(), "conv", "bn")
    whole = cnn.weights.load(net(), tmp_path / "x.weights.h5", input=(8, 8, 3), names=NAMES)
    params, state = cnn.weights.load(frozen, tmp_path / "x.weights.h5", input=(8, 8, 3), names=NAMES)
    assert list(params) == ["fc"]
    same(frozen.apply(params, state, X)[0], net().apply(*whole, X)[0])


def test_an_archive_of_keras(tmp_path):
    inside = io.BytesIO()
    write(inside)
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", inside.getvalue())
    same(cnn.weights.load(net(), tmp_path / "x.keras", input=(8, 8, 3), names=NAMES)[0], expected()[0])


def test_a_file_of_keras_2(tmp_path):
    kinds = {"conv2d": ["kernel", "bias"], "head": ["kernel", "bias"]}
    kinds["batch_normalization"] = ["gamma", "beta", "moving_mean", "moving_variance"]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"conv2d", b"relu", b"batch_normalization", b"head"]
        root.create_group("relu").attrs["weight_names"] = []
        for name, values in arrays().items():
            layer = name.partition("/")[0]
            group = root.create_group(layer)
            inner = name.rpartition("/")[2]
            listed = [f"{inner}/{kind}:0" for kind in kinds[layer]]
            group.attrs["weight_names"] = [each.encode() for each in listed]
            for each, value in zip(listed, values, strict=True):
                group[each] = value
    same(cnn.weights.load(net(), tmp_path / "x.h5", input=(8, 8, 3), names=NAMES)[0], expected()[0])


def test_depthwise_and_transposed_convolutions(tmp_path):
    """The kernel (H, W, C, M) of DepthwiseConv2D, and (H, W, K, C) of Conv2DTranspose."""
    model = cnn.serial(depth=cnn.conv(6, 3, groups=3), up=cnn.conv_transpose(5, 2, 2))
    depth, up = normal(0, 3, 3, 3, 2), normal(1, 2, 2, 5, 6)
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:
        file["depth/vars/0"], file["depth/vars/1"] = depth, normal(2, 6)
        file["up/vars/0"], file["up/vars/1"] = up, normal(3, 5)
    params, _ = cnn.weights.load(model, tmp_path / "x.weights.h5", input=(8, 8, 3), names={})
    for c in range(3):
        for m in range(2):
            np.testing.assert_array_equal(params["depth"]["kernel"][:, :, 0, 2 * c + m], depth[:, :, c, m])
    np.testing.assert_array_equal(params["up"]["kernel"], up.transpose(0, 1, 3, 2))


def test_differences_are_told(tmp_path):
    write(tmp_path / "x.weights.h5")
    with pytest.raises(UserError, match=r"conv2d/vars/0 should be \(5, 5, 3, 4\), is \(3, 3, 3, 4\)"):
        cnn.weights.load(
            cnn.serial(**{**net().sublayers, "conv": cnn.conv(4, 5)}),
            tmp_path / "x.weights.h5",
            input=(10, 10, 3),
            names=NAMES,
        )
    with pytest.raises(UserError, match=r"a file of Keras, whose names for resnet18\(\) are not known: pass names="):
        cnn.weights.load(cnn.models.resnet18(), tmp_path / "x.weights.h5")


def test_without_h5py(tmp_path, monkeypatch):
    write(tmp_path / "x.weights.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r'is a file of Keras, which needs h5py: pip install "jaxcnn\[keras\]"$'):
        cnn.weights.read(tmp_path / "x.weights.h5")


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "x.weights.h5"
    write(tmp_path / "other.weights.h5")
    with h5py.File(path, "w") as file:
        file["conv/vars/0"] = h5py.ExternalLink("other.weights.h5", "conv2d/vars/0")
    with pytest.raises(DataError, match="0 is a link to another place"):
        cnn.weights.read(path)
    with h5py.File(path, "w") as file:
        file["conv/vars/0"] = h5py.SoftLink("/conv")
    with pytest.raises(DataError, match="0 is a link to another place"):
        cnn.weights.read(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("conv/vars/0", (10**12,), np.float32, chunks=(1000,))
    with pytest.raises(DataError, match="conv/vars/0 is no plain array of numbers"):
        cnn.weights.read(path)
    with h5py.File(path, "w") as file:
        file["conv/vars/0"] = "text"
    with pytest.raises(DataError, match="conv/vars/0 is no plain array of numbers"):
        cnn.weights.read(path)
    with h5py.File(path, "w") as file:
        file["other/numbers"] = np.ones(3)
    with pytest.raises(DataError, match="is HDF5 without the weights of a Keras network"):
        cnn.weights.read(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataError, match="cannot be read as a file of Keras"):
        cnn.weights.read(path)
    path.write_bytes(b"\x89HDF\r\n" + bytes(100))
    with pytest.raises(DataError, match="is damaged HDF5"):
        cnn.weights.read(path)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_network_that_keras_wrote(tmp_path, monkeypatch):
    """Outputs of Keras on JAX, in single precision on both sides."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(epsilon=1e-5),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2DTranspose(5, 2, 2),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    theirs.set_weights([np.abs(normal(i, *w.shape)) * 0.5 + 0.1 for i, w in enumerate(theirs.get_weights())])
    theirs.save_weights(tmp_path / "x.weights.h5")
    ours = cnn.serial(
        conv=cnn.conv(4, 3),
        act=cnn.relu,
        bn=cnn.batch_norm(),
        depth=cnn.conv(8, 3, groups=4),
        slope=cnn.prelu(),
        up=cnn.conv_transpose(5, 2, 2),
        flat=cnn.flatten,
        fc=cnn.dense(3),
    )
    names = {"conv": "conv2d", "bn": "batch_normalization", "depth": "depthwise_conv2d", "slope": "p_re_lu"}
    names |= {"up": "conv2d_transpose", "fc": "dense"}
    params, state = cnn.weights.load(ours, tmp_path / "x.weights.h5", input=(8, 8, 3), names=names)
    close(ours.apply(params, state, jnp.asarray(X))[0], np.asarray(theirs(X)), 1e-4)
