"""Other people's weights without their libraries: files, names, mistakes, frozen layers, preprocessing.

That the networks then compute what PyTorch's do is tested in `parity/test_weights_torch.py`.
"""

import argparse
import collections
import contextlib
import datetime
import functools
import io
import json
import pathlib
import pickle
import struct
import types
import zipfile

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from helpers import close, normal, same, shapes
from PIL import Image

import jaxcnn as cnn
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.registry import published_weights
from jaxcnn.weights import files, pth

KEY = jax.random.key(0)
SMALL = (32, 32, 3)


def small(classes=3, **options):
    """A ResNet of two blocks: every kind of name, few numbers."""
    return cnn.models.resnet((1, 1), classes, width=4, **options)


def randomized(tree, seed=0):
    """The tree with random numbers, no variance below 0.5."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten(
        [jnp.asarray(np.abs(normal(seed + i, *leaf.shape)) + 0.5) for i, leaf in enumerate(leaves)]
    )


def made(model, shape=SMALL):
    return randomized(jax.eval_shape(model.init, KEY, jnp.zeros((1, *shape))))


@pytest.fixture
def saved(tmp_path):
    """The small ResNet, its variables, and a file of them."""
    model = small()
    params, state = made(model)
    cnn.weights.save(model, params, state, tmp_path / "small.pth")
    return model, (params, state), tmp_path / "small.pth"


# --- round trips -------------------------------------------------------------------------------------------------

MODELS = {
    "vgg11": lambda: cnn.models.vgg11(3, width=4, units=8),
    "vgg13_bn": lambda: cnn.models.vgg13_bn(3, width=4, units=8),
    "resnet18": lambda: cnn.models.resnet18(3, width=4),
    "resnet50": lambda: cnn.models.resnet50(3, width=4, stem="cifar"),
    "resnet": small,
}


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".pt", ".bin"])
def test_what_save_writes_load_reads_to_the_last_bit(ending, saved, tmp_path):
    model, variables, _ = saved
    cnn.weights.save(model, *variables, tmp_path / f"x{ending}")
    same(cnn.weights.load(model, tmp_path / f"x{ending}"), variables)
    assert {p.name for p in tmp_path.iterdir()} == {"small.pth", f"x{ending}"}


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    model = MODELS[name]()
    variables = jax.tree.map(
        lambda s: jnp.asarray(normal(s.size, *s.shape)), jax.eval_shape(model.init, KEY, jnp.zeros((1, 224, 224, 3)))
    )
    cnn.weights.save(model, *variables, tmp_path / "x.safetensors")
    same(cnn.weights.load(model, tmp_path / "x.safetensors"), variables)


def test_names_and_axes_are_torchvisions():
    model = cnn.models.resnet50(width=8)
    found = names_of(model)
    assert found["layer2/block3/conv2/kernel"] == ("layer2.2.conv2.weight", (16, 16, 3, 3))
    assert found["layer1/block1/shortcut/conv/kernel"] == ("layer1.0.downsample.0.weight", (32, 8, 1, 1))
    assert found["layer1/block1/shortcut/bn/var"] == ("layer1.0.downsample.1.running_var", (32,))
    assert found["bn1/scale"] == ("bn1.weight", (8,))
    assert found["fc/kernel"] == ("fc.weight", (1000, 256))
    found = names_of(cnn.models.googlenet(aux=True))
    assert found["conv1/conv/kernel"] == ("conv1.conv.weight", (64, 3, 7, 7))
    assert found["inception3a/branch1/bn/mean"] == ("inception3a.branch1.bn.running_mean", (64,))
    assert found["inception4e/branch2/reduce/conv/kernel"] == ("inception4e.branch2.0.conv.weight", (160, 528, 1, 1))
    assert found["inception4e/branch3/conv/bn/bias"] == ("inception4e.branch3.1.bn.bias", (128,))
    assert found["inception5b/branch4/project/conv/kernel"] == ("inception5b.branch4.1.conv.weight", (128, 832, 1, 1))
    assert found["aux2/conv/conv/kernel"] == ("aux2.conv.conv.weight", (128, 528, 1, 1))
    assert found["aux1/fc2/bias"] == ("aux1.fc2.bias", (1000,))
    found = names_of(cnn.models.alexnet())
    kernels = {v[0] for k, v in found.items() if k.endswith("kernel")}
    assert kernels == {f"{n}.weight" for n in ("features.0", "features.3", "features.6", "features.8", "features.10",
                                               "classifier.1", "classifier.4", "classifier.6")}  # fmt: skip
    assert found["fc6/kernel"][1] == (4096, 9216)
    found = names_of(cnn.models.vgg16_bn())
    assert found["conv5_3/kernel"] == ("features.40.weight", (512, 512, 3, 3))
    assert found["bn5_3/var"] == ("features.41.running_var", (512,))
    assert found["fc8/bias"] == ("classifier.6.bias", (1000,))


def names_of(model):
    from jaxcnn.weights.names import variables

    inputs = (jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32),)
    return {
        "/".join(v.path): (v.name, v.there) for v in variables(model, inputs, published_weights(model).torch(model))
    }


def test_dense_layers_behind_a_map_take_the_channels_first(tmp_path):
    model = cnn.serial(flat=cnn.flatten, act=cnn.relu, drop=cnn.dropout(0.5), one=cnn.dense(60), two=cnn.dense(2))
    params, state = made(model, (3, 4, 5))
    cnn.weights.save(model, params, state, tmp_path / "x.pth", input=(3, 4, 5), names={})
    found = cnn.weights.read(tmp_path / "x.pth")
    kernel = np.asarray(params["one"]["kernel"])
    expected = kernel.reshape(3, 4, 5, 60).transpose(3, 2, 0, 1).reshape(60, 60)
    np.testing.assert_array_equal(found["one.weight"], expected)
    # As many inputs as the map has numbers, and no map.
    np.testing.assert_array_equal(found["two.weight"], np.asarray(params["two"]["kernel"]).T)


def test_variables_by_themselves_have_the_name_of_their_layer(tmp_path):
    """A layer scale of torchvision's ConvNeXt is `(C, 1, 1)`, one of timm's `(C,)`."""
    layers = {"scaled": cnn.serial(gamma=cnn.layer_scale()), "factor": cnn.param((4, 1))}
    net = cnn.network(lambda net, x: net.scaled(x) * net.factor(), **layers)
    params, state = made(net, (4, 4, 3))
    cnn.weights.save(net, params, state, tmp_path / "a.safetensors", input=(4, 4, 3), names={})
    arrays = cnn.weights.read(tmp_path / "a.safetensors")
    assert {name: array.shape for name, array in arrays.items()} == {"scaled.gamma": (3, 1, 1), "factor": (4, 1)}
    same(cnn.weights.load(net, tmp_path / "a.safetensors", input=(4, 4, 3), names={}), (params, state))
    arrays["scaled.gamma"] = arrays["scaled.gamma"].reshape(3)
    files.write(tmp_path / "b.safetensors", arrays)
    same(cnn.weights.load(net, tmp_path / "b.safetensors", input=(4, 4, 3), names={}), (params, state))


def test_precision(saved):
    model, (_, state), path = saved
    half, kept = cnn.weights.load(model, path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}
    same(kept, state)
    cnn.weights.save(model, half, kept, path)
    same(cnn.weights.load(model, path, dtype=None), (half, state))
    same(cnn.weights.load(model, path)[0], jax.tree.map(lambda a: a.astype(jnp.float32), half))


# --- what does not fit -------------------------------------------------------------------------------------------


def test_another_number_of_classes_is_told_with_both_names(saved):
    with pytest.raises(UserError) as error:
        cnn.weights.load(small(5), saved[2])
    assert str(error.value) == (
        f"{saved[2]} does not fit resnet((1, 1), 5, width=4), which has 32 arrays:\n"
        "  2 of another shape or kind:\n"
        "    fc/kernel (8, 5): fc.weight should be (5, 8), is (3, 8)\n"
        "    fc/bias (5,): fc.bias should be (5,), is (3,)\n"
        'For other classes than the file\'s: fresh="head" starts the last layer anew.'
    )


def test_another_network_is_told_with_both_sides(saved):
    with pytest.raises(UserError) as error:
        cnn.weights.load(cnn.models.resnet18(3, width=4), saved[2])
    lines = str(error.value).splitlines()
    missing = set(names_of(cnn.models.resnet18(3, width=4)).values()) - set(names_of(small()).values())
    missing = len(missing) - 1  # fc/kernel is there, of another shape
    assert f"  {missing} that the file does not have:" in lines
    assert "    layer1/block2/conv1/kernel (3, 3, 4, 4): no layer1.1.conv1.weight (4, 4, 3, 3)" in lines
    assert f"    and {missing - 10} more" in lines
    with pytest.raises(UserError, match=r"in the file that the model does not have:\n    layer2.0.conv1.weight \(8, 4"):
        cnn.weights.load(cnn.models.resnet((1,), 3, width=4), saved[2])
    assert sum("no layer" in line for line in lines) == 10
    with pytest.raises(UserError, match=r"weights of another network, or under other names: names="):
        cnn.weights.load(cnn.models.vgg11(3, width=4, units=8), saved[2])


def test_integers_are_no_weights(saved, tmp_path):
    arrays = {name: np.array(array) for name, array in cnn.weights.read(saved[2]).items()}
    files.write(tmp_path / "x.safetensors", arrays | {"fc.weight": arrays["fc.weight"].astype(np.int8)})
    with pytest.raises(UserError, match=r"fc.weight should be \(3, 8\), is \(3, 8\) of int8"):
        cnn.weights.load(saved[0], tmp_path / "x.safetensors")


def test_auxiliary_heads(tmp_path):
    with_heads, without = cnn.models.googlenet(3, aux=True), cnn.models.googlenet(3)
    structs = jax.eval_shape(with_heads.init, KEY, jnp.zeros((1, 224, 224, 3)))
    params, state = jax.tree.map(lambda s: jnp.asarray(normal(s.size, *s.shape)), structs)
    cnn.weights.save(with_heads, params, state, tmp_path / "aux.pth")
    same(cnn.weights.load(with_heads, tmp_path / "aux.pth"), (params, state))
    plain = cnn.weights.load(without, tmp_path / "aux.pth")
    expected = tuple({k: v for k, v in tree.items() if not k.startswith("aux")} for tree in (params, state))
    same(plain, expected)
    cnn.weights.save(without, *plain, tmp_path / "plain.pth")
    with pytest.raises(UserError, match=r'no auxiliary heads: fresh=\("aux1", "aux2"\)'):
        cnn.weights.load(with_heads, tmp_path / "plain.pth")
    some = cnn.weights.load(with_heads, tmp_path / "plain.pth", fresh=("aux1", "aux2"))
    assert jax.tree.structure(some) == jax.tree.structure((params, state))
    anew = cnn.weights.load(with_heads, tmp_path / "aux.pth", fresh="head")[0]
    changed = {path for path in shapes(anew) if not np.array_equal(at(anew, path), at(params, path))}
    assert changed == {f"{layer}/{n}" for layer in ("fc", "aux1/fc2", "aux2/fc2") for n in ("kernel", "bias")}


def at(tree, path):
    return functools.reduce(lambda t, name: t[name], path.split("/"), tree)


def test_fresh_layers(saved):
    model, (params, state), path = saved
    five = small(5)
    key = jax.random.key(7)
    initial, first = five.init(key, jnp.zeros((1, *SMALL)))
    for fresh in ("head", ["fc"]):
        loaded, kept = cnn.weights.load(five, path, fresh=fresh, key=key)
        close(loaded.pop("fc"), initial["fc"], 1e-6)
        same((loaded, kept), ({k: v for k, v in params.items() if k != "fc"}, state))
    loaded, kept = cnn.weights.load(model, path, fresh=("layer2", "layer1/block1/bn1"))
    close((kept["layer2"], kept["layer1"]["block1"]["bn1"]), (first["layer2"], first["layer1"]["block1"]["bn1"]), 0)
    same((loaded["fc"], kept["layer1"]["block1"]["bn2"]), (params["fc"], state["layer1"]["block1"]["bn2"]))
    # Without a key it is a fixed one.
    close(cnn.weights.load(five, path, fresh="fc")[0]["fc"], five.init(KEY, jnp.zeros((1, *SMALL)))[0]["fc"], 1e-6)


@pytest.mark.parametrize(
    ("fresh", "message"),
    [
        ("fcc", "unknown layer in fresh= 'fcc': did you mean fc"),
        ("layer1/blok1", "did you mean layer1/block1"),
        ("layr2", "did you mean layer2 or layer1"),
        (("fc", "relu1"), "unknown layer in fresh= 'relu1'"),  # it has no variables
    ],
)
def test_fresh_layers_that_are_not_there(fresh, message, saved):
    with pytest.raises(UserError, match=message):
        cnn.weights.load(saved[0], saved[2], fresh=fresh)


def test_models_of_no_known_family(saved, tmp_path):
    lenet = cnn.models.lenet5()
    with pytest.raises(
        UserError, match=r"^lenet5\(\) is of no family .*\(alexnet, vgg, googlenet, resnet, .*\): pass names="
    ):
        cnn.weights.load(lenet, saved[2])
    with pytest.raises(UserError, match="pass names="):
        cnn.weights.save(cnn.models.alexnet_2012(), {}, {}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"pass input=\(height, width, channels\)"):
        cnn.weights.load(lenet, saved[2], names={})
    with pytest.raises(UserError, match="unknown layer in names= 'conv9': did you mean conv"):
        cnn.weights.load(lenet, saved[2], names={"conv9": "x"}, input=(32, 32, 1))
    with pytest.raises(UserError, match="expected a model, a Layer, first; got str"):
        cnn.weights.load("resnet18", saved[2])
    params, state = lenet.init(KEY, jnp.zeros((1, 32, 32, 1)))
    cnn.weights.save(lenet, params, state, tmp_path / "lenet.pth", names=str.upper, input=(32, 32, 1))
    assert all(name.partition(".")[0].isupper() for name in cnn.weights.read(tmp_path / "lenet.pth"))
    same(cnn.weights.load(lenet, tmp_path / "lenet.pth", names=str.upper, input=(32, 32, 1)), (params, state))


def test_variables_of_another_model_are_not_saved(saved, tmp_path):
    model, (params, state), _ = saved
    with pytest.raises(UserError, match=r"fc/kernel has the shape \(8, 3\); in .* it has \(8, 9\)"):
        cnn.weights.save(small(9), params, state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="params has no bn1/scale"):
        cnn.weights.save(model, {k: v for k, v in params.items() if k != "bn1"}, state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="expected the ending"):
        cnn.weights.save(model, params, state, tmp_path / "x.npz")
    with pytest.raises(UserError, match="cannot be written"):
        cnn.weights.save(model, params, state, tmp_path / "nowhere" / "x.pth")
    assert [p.name for p in tmp_path.iterdir()] == ["small.pth"]


def test_the_input_decides_about_dense_layers_behind_a_map(tmp_path):
    model = cnn.serial(conv=cnn.conv(2, 3), flat=cnn.flatten, out=cnn.dense(3))
    params, state = made(model, (5, 6, 1))
    cnn.weights.save(model, params, state, tmp_path / "x.pth", names={}, input=(5, 6, 1))
    example = jax.ShapeDtypeStruct((7, 5, 6, 1), jnp.float32)
    same(cnn.weights.load(model, tmp_path / "x.pth", names={}, input=example), (params, state))
    with pytest.raises(UserError, match=r"out/kernel \(12, 3\): out.weight should be \(3, 12\), is \(3, 24\)"):
        cnn.weights.load(model, tmp_path / "x.pth", names={}, input=(5, 4, 1))


# --- files with code ---------------------------------------------------------------------------------------------


class Call:
    """Pickled, it is a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def in_zip(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
    return out.getvalue()


def in_stream(data):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    return b"".join([*(pickle.dumps(v, 2) for v in (pth._MAGIC, 1001, system)), data, pickle.dumps([], 2)])


def calls(command):
    """Pickles that run a command of the shell when Python loads them, one for each way there is."""
    text = pickle.BINUNICODE + struct.pack("<I", len(command)) + command
    head, end = pickle.PROTO + b"\x04", pickle.STOP
    system, run = pickle.GLOBAL + b"os\nsystem\n", text + pickle.TUPLE1 + pickle.REDUCE
    short = [pickle.SHORT_BINUNICODE + bytes([len(s)]) + s for s in (b"os", b"system", b"builtins", b"getattr")]
    import os

    return {
        "reduce": head + system + run + end,
        "stack global": head + short[0] + short[1] + pickle.STACK_GLOBAL + run + end,
        "reduce protocol 0": b"cos\nsystem\n(V" + command + b"\ntR.",
        "inst": b"(V" + command + b"\nios\nsystem\n.",
        "obj": head + pickle.MARK + system + text + pickle.OBJ + end,
        "newobj": head + system + text + pickle.TUPLE1 + pickle.NEWOBJ + end,
        "newobj ex": head + system + text + pickle.TUPLE1 + pickle.EMPTY_DICT + pickle.NEWOBJ_EX + end,
        "build": head
        + pickle.GLOBAL
        + b"subprocess\nPopen\n"
        + pickle.EMPTY_TUPLE
        + pickle.NEWOBJ
        + text
        + pickle.BUILD
        + end,
        "eval": pickle.dumps(Call(eval, "__import__('os').system('" + command.decode() + "')")),
        "getattr": head + short[2] + short[3] + pickle.STACK_GLOBAL + end,
        "hidden": pickle.dumps({"state_dict": {}, "args": [{"deep": Call(os.system, command.decode())}]}, 2),
        "dotted": head + pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2.__globals__\n" + end,
        "extension": head + pickle.EXT1 + b"\x01" + end,
        "relative": head + pickle.GLOBAL + b"collections\nOrderedDict.fromkeys\n" + end,
    }


@pytest.mark.parametrize("form", [in_zip, in_stream])
@pytest.mark.parametrize("way", calls(b""))
def test_code_in_a_file_is_refused_and_not_run(way, form, tmp_path):
    sentinel = tmp_path / "it-ran"
    data = calls(f"touch {sentinel}".encode())[way]
    path = tmp_path / "weights.pth"
    path.write_bytes(form(data))
    with pytest.raises(DataError, match=r"weights.pth holds code \(.*\), .*nothing of it was run") as error:
        cnn.weights.load(small(), path)
    assert not sentinel.exists()
    if way in ("reduce", "stack global", "hidden", "inst"):
        assert "(os.system)" in str(error.value) or "(posix.system)" in str(error.value)


def test_the_pickles_of_this_test_do_run(tmp_path):
    """By Python's own machine: the test above would be worth nothing if they did not."""
    for i, way in enumerate(("reduce", "stack global", "reduce protocol 0", "inst", "obj", "newobj", "eval", "hidden")):
        data = calls(f"touch {tmp_path / str(i)}".encode())[way]
        try:
            pickle.loads(data)
        except pickle.UnpicklingError:  # a function is no class to make an object of
            assert way == "newobj"
            continue
        assert (tmp_path / str(i)).exists(), way


def tensor(storage=b"", offset=0, shape=(2,), strides=(1,), count=4):
    """A pickle of {"x": tensor}, of a storage of `count` float32."""
    integers = lambda values: pickle.MARK + b"".join(map(pth._integer, values)) + pickle.TUPLE  # noqa: E731
    return b"".join(
        [
            pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pth._text("x"),
            pth._named("torch._utils", "_rebuild_tensor_v2") + pickle.MARK,
            pickle.MARK
            + pth._text("storage")
            + pth._named("torch", "FloatStorage")
            + pth._text("0")
            + pth._text("cpu"),
            pth._integer(count) + pickle.TUPLE + pickle.BINPERSID,
            pth._integer(offset) + integers(shape) + integers(strides),
            pickle.NEWFALSE + pickle.NONE + pickle.TUPLE + pickle.REDUCE + pickle.SETITEM + pickle.STOP,
        ]
    )


def zip_of(data, storage=bytes(16)):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", storage)
    return out.getvalue()


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (tensor(shape=(5,)), r"a tensor of shape \(5,\) goes beyond its storage of 4 numbers"),
        (tensor(offset=3), "goes beyond"),
        (tensor(strides=(4,)), "goes beyond"),
        (tensor(shape=(1 << 40, 1 << 40), strides=(0, 0)), "impossible shape"),
        (tensor(shape=(1 << 70,)), "impossible shape"),
        (tensor(shape=(2, 2)), "impossible shape"),
        (tensor(shape=(1,) * 64, strides=(1,) * 64), "impossible shape"),
        (tensor(count=1 << 40), "storage 0 has 16 bytes for 1099511627776 numbers"),
        (tensor(count=3), "storage 0 has 16 bytes"),
        (tensor()[:-1], "damaged"),
        (tensor()[:60], "damaged"),
        (b"", "damaged"),
        (pickle.PROTO + b"\x02" + pickle.MARK * 3 + pickle.STOP, "damaged"),
        (pickle.NONE + pickle.POP + pickle.POP + pickle.STOP, "takes more than there is"),
        (pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.NONE + pickle.SETITEM + pickle.STOP, "key that is a tuple"),
        (pickle.NONE + pickle.BINPERSID + pickle.STOP, "not a storage"),
        (pickle.GET + b"7\n" + pickle.STOP, "damaged"),
        (pickle.LONG4 + b"\xff\xff\xff\x7f" + b"x" + pickle.STOP, "damaged"),
        (pickle.BINBYTES8 + b"\xff" * 7 + b"\x0f" + pickle.STOP, "damaged"),
        (pickle.NONE + pickle.STOP, "holds no state dict; it has NoneType"),
        (pickle.EMPTY_DICT + pickle.STOP, "holds no state dict; it has nothing"),
        (pickle.dumps({"epoch": 3}, 2), "holds no state dict; it has epoch"),
    ],
)
def test_damaged_pickles(pickled, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(zip_of(pickled))
    with pytest.raises(DataError, match=message):
        cnn.weights.read(tmp_path / "x.pth")


def test_deep_nesting_is_no_danger(tmp_path):
    deep = pickle.EMPTY_LIST + pickle.TUPLE1 * 200_000
    for data in (deep + pickle.STOP, pickle.EMPTY_DICT + deep + pickle.NONE + pickle.SETITEM + pickle.STOP):
        (tmp_path / "x.pth").write_bytes(zip_of(data))
        with pytest.raises(DataError):
            cnn.weights.read(tmp_path / "x.pth")


def test_a_small_pickle_is_read(tmp_path):
    """That the ones above are refused for what is wrong with them."""
    numbers = np.arange(4, dtype=np.float32)
    (tmp_path / "x.pth").write_bytes(zip_of(tensor(offset=1, shape=(2, 2), strides=(1, 1)), numbers.tobytes()))
    np.testing.assert_array_equal(cnn.weights.read(tmp_path / "x.pth")["x"], [[1, 2], [2, 3]])
    stream = in_stream(tensor())[: -len(pickle.dumps([], 2))] + pickle.dumps(["0"], 2)
    (tmp_path / "x.pth").write_bytes(stream + struct.pack("<q", 4) + numbers.tobytes())
    np.testing.assert_array_equal(cnn.weights.read(tmp_path / "x.pth")["x"], [0, 1])
    (tmp_path / "x.pth").write_bytes(stream + struct.pack("<q", 4) + numbers.tobytes()[:-1])
    with pytest.raises(DataError, match="storage 0 has 15 bytes for 4 numbers"):
        cnn.weights.read(tmp_path / "x.pth")


def as_stream(path):
    """The file of `pth.write` in the older format."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read("archive/data.pkl")
        keys = sorted((n.rpartition("/")[2] for n in archive.namelist() if "/data/" in n), key=int)
        storages = [archive.read(f"archive/data/{key}") for key in keys]
    counts = [array.size for array in cnn.weights.read(path).values()]
    body = in_stream(data)[: -len(pickle.dumps([], 2))] + pickle.dumps(keys, 2)
    return body + b"".join(struct.pack("<q", n) + storage for n, storage in zip(counts, storages, strict=True))


def test_the_older_format(saved, tmp_path):
    model, variables, path = saved
    (tmp_path / "old.pth").write_bytes(as_stream(path))
    same(cnn.weights.load(model, tmp_path / "old.pth"), variables)


@pytest.mark.parametrize("form", ["zip", "stream", "safetensors", "msgpack"])
def test_damage_anywhere_is_one_error_or_none(form, saved, tmp_path):
    """Cut short and bytes changed in many places: the right shapes, or a DataError, and never anything else."""
    model, variables, path = saved
    if form == "safetensors":
        cnn.weights.save(model, *variables, tmp_path / "x.safetensors")
        data = (tmp_path / "x.safetensors").read_bytes()
    elif form == "msgpack":
        data = flax.serialization.to_bytes({"params": variables[0], "batch_stats": variables[1]})
    else:
        data = path.read_bytes() if form == "zip" else as_stream(path)
    rng = np.random.default_rng(0)
    broken, read = tmp_path / "broken", 0
    regions = [(0, len(data)), (0, 3000), (len(data) - 5000, len(data))]  # names and sizes are in front or behind
    for trial in range(150):
        damaged = bytearray(data)
        if trial % 5 == 0:
            damaged = damaged[: rng.integers(len(data))]
        for position in rng.integers(*regions[trial % 3], 1 + trial % 4) if trial % 5 else ():
            damaged[position] = rng.integers(256)
        broken.write_bytes(damaged)
        try:
            found = cnn.weights.read(broken)
        except DataError:
            continue
        read += 1
        assert all(array.copy().shape == array.shape for array in found.values())
        if read % 8 == 1:
            with contextlib.suppress(UserError):
                same(shapes(cnn.weights.load(model, broken)[0]), shapes(variables[0]))
    assert 10 < read < 140


def test_a_wrong_checksum(saved):
    _, _, path = saved
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        data[archive.getinfo("archive/data/0").header_offset + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"small.pth is damaged: the checksum of data/\d+ is wrong"):
        cnn.weights.load(small(), path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1",
            "is a git-lfs pointer to a file that was not fetched",
        ),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"hello, this is some text", "is not a known file of weights"),
        (pickle.dumps([1, 2]), "is a pickle that PyTorch did not write"),
        (b"\x08" + bytes(7) + b"{notjson", "cannot be read as safetensors"),
        (b"\x81\xa1", "cannot be read as a checkpoint of Flax"),
        (flax.serialization.msgpack_serialize({"a": np.ones(3)}), "holds no `params`"),
    ],
)
def test_files_that_are_something_else(data, message, tmp_path):
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=message):
        cnn.weights.read(tmp_path / "x")


def test_archives_and_folders_that_are_something_else(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    with pytest.raises(DataError, match=r"TorchScript, or NumPy's .npz"):
        cnn.weights.read(tmp_path / "x.npz")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(DataError, match="that PyTorch did not write"):
        cnn.weights.read(tmp_path / "x.zip")
    with pytest.raises(DataError, match="there is no such file"):
        cnn.weights.read(tmp_path / "missing.pth")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="is a folder without"):
        cnn.weights.read(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", tensor())
    with pytest.raises(DataError, match="compressed or encrypted"):
        cnn.weights.read(tmp_path / "packed.pth")


def test_entries_that_are_not_there(saved, tmp_path):
    model, variables, _ = saved
    cnn.weights.save(model, *variables, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"x.safetensors holds one set of weights; entry='ema' is for"):
        cnn.weights.load(model, tmp_path / "x.safetensors", entry="ema")
    with pytest.raises(UserError, match="has no entry 'ema' that holds weights; it has none"):
        cnn.weights.read(saved[2], entry="ema")


@pytest.mark.parametrize(
    ("renamed", "more"),
    [
        (lambda n: f"module.{n}", {"n_averaged": np.int64(7)}),  # AveragedModel
        (lambda n: f"module.module.{n}", {"n_averaged": np.int64(7)}),  # of a network in DataParallel
        (lambda n: f"_orig_mod.module.{n}", {}),  # compiled
        (lambda n: n.replace("layer1.", "layer1._orig_mod."), {}),  # a part of it compiled
        (lambda n: f"_fsdp_wrapped_module.{n}".replace("layer2.", "layer2._fsdp_wrapped_module."), {}),
        (lambda n: f"model.{n}", {}),  # Lightning
        (lambda n: f"model.backbone._orig_mod.{n}", {}),
        (lambda n: f"net.module.{n}", {}),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_names_that_wrappers_made_longer(renamed, more, ending, saved, tmp_path):
    model, variables, path = saved
    longer = {renamed(name): array for name, array in cnn.weights.read(path).items()}
    files.write(tmp_path / f"x{ending}", longer | {name: np.asarray(value) for name, value in more.items()})
    same(cnn.weights.load(model, tmp_path / f"x{ending}"), variables)


def test_names_that_only_look_longer(saved, tmp_path):
    """A prefix is taken off for a model that is found without it; what not all names have stays, and is told."""
    model, variables, path = saved
    arrays = cnn.weights.read(path)
    files.write(tmp_path / "x.pth", {f"model.{name}": array for name, array in arrays.items()})
    assert all(name.startswith("model.") for name in cnn.weights.read(tmp_path / "x.pth"))
    longer = cnn.serial(model=model)
    same(cnn.weights.load(longer, tmp_path / "x.pth", names=_torch_names, input=SMALL)[0]["model"], variables[0])
    files.write(tmp_path / "y.pth", {f"model.{n}": a for n, a in arrays.items()} | {"criterion.weight": np.ones(3)})
    with pytest.raises(
        UserError, match=r"1 in the file that the model does not have:\n *criterion\.weight.*\n.*ignore="
    ):
        cnn.weights.load(model, tmp_path / "y.pth")
    same(cnn.weights.load(model, tmp_path / "y.pth", ignore="criterion"), variables)
    files.write(tmp_path / "z.pth", {"n_averaged": np.ones(3, np.float32), "x.weight": np.ones(2, np.float32)})
    assert list(cnn.weights.read(tmp_path / "z.pth")) == ["n_averaged", "x.weight"]


def _torch_names(path):
    from jaxcnn.models.registry import families

    return "model." + families()["resnet"].torch(small())(tuple(path.split("/")[1:]))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_beside_the_weights_are_no_code(protocol, tmp_path):
    """What a training writes beside its weights: NumPy's numbers and arrays, paths, times, arguments."""
    values = [
        np.float64(0.5), np.float32(0.5), np.int64(3), np.bool_(True), np.str_("x"), np.complex64(1), np.arange(3.0),
        np.array(2.0), np.array(["ab", "c"]), np.dtype("float32"), np.float16, np.random.RandomState(0).get_state(),
        {np.int64(3): 1, (1, 2): 3}, pathlib.PurePosixPath("/data"), datetime.timedelta(1), 1j, {1}, frozenset([2]),
        range(3), collections.deque([1, 2]), collections.Counter("ab"), argparse.Namespace(lr=np.float64(0.1)),
        types.SimpleNamespace(a=1), bytearray(b"x"),
    ]  # fmt: skip
    for value in values:
        (tmp_path / "x.pth").write_bytes(in_zip(pickle.dumps({"value": value, "epoch": 3}, protocol)))
        found = pth.read(tmp_path / "x.pth")
        assert list(found) == ["value", "epoch"], value
        assert found["epoch"] == 3


def test_a_folder_with_weights_in_it(saved, tmp_path):
    model, variables, path = saved
    (tmp_path / "model").mkdir()
    path.rename(tmp_path / "model" / "pytorch_model.bin")
    same(cnn.weights.load(model, tmp_path / "model"), variables)


# --- Flax's ------------------------------------------------------------------------------------------------------


class FlaxBlock(nn.Module):
    """A block of the ResNet of Flax's ImageNet example: windows of stride 2 are padded as "SAME" says."""

    features: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=True, epsilon=1e-5)
        strides, y = (self.stride, self.stride), x
        steps = [(self.features, (3, 3), strides), (self.features, (3, 3), (1, 1))]
        if self.bottleneck:
            steps = [
                (self.features, (1, 1), (1, 1)), (self.features, (3, 3), strides), (4 * self.features, (1, 1), (1, 1))
            ]  # fmt: skip
        for i, (features, size, step) in enumerate(steps):
            y = norm()(conv(features, size, step)(y))
            y = nn.relu(y) if i + 1 < len(steps) else y
        if x.shape != y.shape:
            x = norm(name="norm_proj")(conv(y.shape[-1], (1, 1), strides, name="conv_proj")(x))
        return nn.relu(x + y)


class FlaxResNet(nn.Module):
    """The ResNet of Flax's ImageNet example."""

    blocks: tuple[int, ...]
    bottleneck: bool = False
    classes: int = 5
    width: int = 8

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        kind, index = "BottleneckResNetBlock" if self.bottleneck else "ResNetBlock", 0
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                x = FlaxBlock(self.width * 2**stage, stride, self.bottleneck, name=f"{kind}_{index}")(x)
                index += 1
        return nn.Dense(self.classes, name="Dense_0")(x.mean((1, 2)))


@pytest.fixture(params=[False, True], ids=["basic", "bottleneck"])
def flax_net(request):
    """Flax's network, its variables, and images with its outputs."""
    net = FlaxResNet((2, 1, 2), request.param)
    x = normal(0, 2, 64, 66, 3)
    structs = jax.eval_shape(net.init, KEY, x)
    leaves, structure = jax.tree.flatten(structs)
    # Wide enough that the outputs depend on everything, narrow enough that they stay finite.
    variables = structure.unflatten(
        [
            normal(i, *s.shape) * (2 / max(1, s.size // s.shape[-1])) ** 0.5
            if len(s.shape) > 1
            else 0.5 + normal(i, *s.shape) ** 2 / 4
            for i, s in enumerate(leaves)
        ]
    )
    return request.param, variables, x, np.asarray(jax.jit(net.apply)(variables, x))


def flax_files(variables, folder):
    """The variables in the forms that Flax and Orbax write them."""
    state = {"step": np.int32(3), **variables, "opt_state": {"0": {"trace": variables["params"]}}}
    (folder / "plain.msgpack").write_bytes(flax.serialization.to_bytes(variables))
    (folder / "checkpoint_3").write_bytes(flax.serialization.to_bytes(state))
    (folder / "nested").write_bytes(flax.serialization.to_bytes({"state": {"step": 1, "params": variables}}))
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "standard", state)
    ocp.PyTreeCheckpointer().save(folder / "pytree", state)
    with ocp.CheckpointManager(folder / "managed") as manager:
        for step in (2, 10):
            scaled = state if step == 10 else jax.tree.map(np.zeros_like, state)
            manager.save(step, args=ocp.args.StandardSave(scaled))
    return ["plain.msgpack", "checkpoint_3", "nested", "standard", "pytree", "managed", "managed/10"]


def test_checkpoints_of_flax(flax_net, tmp_path):
    bottleneck, variables, x, expected = flax_net
    model = cnn.models.resnet((2, 1, 2), 5, width=8, bottleneck=bottleneck, padding="same")
    first = None
    for name in flax_files(variables, tmp_path):
        loaded = cnn.weights.load(model, tmp_path / name)
        first = first or loaded
        same(loaded, first)
    actual, _ = jax.jit(model.apply)(*first, x)
    assert 0.01 < np.abs(expected).max() < 1e3
    close(actual, expected, 1e-5)
    # Symmetric padding would be another function of the image.
    other, _ = jax.jit(cnn.models.resnet((2, 1, 2), 5, width=8, bottleneck=bottleneck).apply)(*first, x)
    assert np.abs(other - expected).max() > 1e-2 * np.abs(expected).max()
    # A head of other classes, frozen below.
    frozen = cnn.freeze(cnn.models.resnet((2, 1, 2), 3, width=8, bottleneck=bottleneck, padding="same"), "layer1")
    params, _ = cnn.weights.load(frozen, tmp_path / "standard", fresh="head")
    assert params["fc"]["kernel"].shape[1] == 3


def test_padding_has_to_be_that_of_the_file(saved, tmp_path):
    model, variables, path = saved
    padded = small(padding="same")
    (tmp_path / "x.msgpack").write_bytes(flax.serialization.to_bytes({"params": {}, "batch_stats": {}}))
    with pytest.raises(UserError, match=r'whose ResNet pads differently from .*: make the model with padding="same"'):
        cnn.weights.load(model, tmp_path / "x.msgpack")
    with pytest.raises(
        UserError, match=r"PyTorch's names, and .* pads differently .*: make the model without padding='same'"
    ):
        cnn.weights.load(padded, path)
    with pytest.raises(UserError, match="pads differently"):
        cnn.weights.save(padded, *variables, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"whose names are known for ResNets only; .* is not a ResNet: pass names="):
        cnn.weights.load(cnn.models.vgg11(), tmp_path / "x.msgpack")
    with pytest.raises(UserError, match="padding='SAME': expected 'symmetric' or 'same'"):
        small(padding="SAME")
    with pytest.raises(UserError, match=r"no params/Dense_0/kernel \(8, 3\)"):
        cnn.weights.load(padded, tmp_path / "x.msgpack", fresh=("conv1", "bn1", "layer1", "layer2"))


class FlaxInner(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.GroupNorm(2, epsilon=1e-5)(x))


class FlaxNet(nn.Module):
    """Of each kind of layer one, the blocks nested."""

    @nn.compact
    def __call__(self, x):
        x = nn.PReLU()(nn.Conv(6, (3, 3), feature_group_count=2)(x))
        x = nn.ConvTranspose(4, (3, 2), (2, 1), padding="VALID")(x)
        x = nn.BatchNorm(use_running_average=True)(nn.LayerNorm(epsilon=1e-5)(x))
        x = FlaxInner(name="inner")(x)
        words = nn.Embed(7, 3)(jnp.arange(2))
        return nn.Dense(4, name="head")(jnp.concatenate([x.reshape(len(x), -1), words], 1))


def test_names_of_somebodys_flax_network(tmp_path):
    inner = cnn.serial(norm=cnn.group_norm(2), dense=cnn.dense(5))

    def forward(net, x):
        x = net.bn(net.norm(net.up(net.act(net.conv(x)))))
        return net.head(cnn.concat(cnn.flatten(net.inner(x)), net.words(jnp.arange(2))))

    model = cnn.network(
        forward, conv=cnn.conv(6, 3, padding=1, groups=2), act=cnn.prelu(shared=True),
        up=cnn.conv_transpose(4, (3, 2), (2, 1)), norm=cnn.layer_norm(), bn=cnn.batch_norm(), inner=inner,
        words=cnn.embed(7, 3), head=cnn.dense(4),
    )  # fmt: skip
    x = normal(0, 2, 5, 6, 4)
    structs = jax.eval_shape(FlaxNet().init, KEY, x)
    leaves, structure = jax.tree.flatten(structs)
    values = structure.unflatten([normal(i, *s.shape) ** 2 + 0.1 for i, s in enumerate(leaves)])
    path = tmp_path / "net.msgpack"
    path.write_bytes(flax.serialization.to_bytes(values))
    names = {"conv": "Conv_0", "act": "PReLU_0", "up": "ConvTranspose_0", "norm": "LayerNorm_0", "bn": "BatchNorm_0",
             "inner/norm": "inner/GroupNorm_0", "inner/dense": "inner/Dense_0", "words": "Embed_0"}  # fmt: skip
    for given in (names, lambda path: names.get(path, path)):
        params, state = cnn.weights.load(model, path, input=x, names=given)
        close(model.apply(params, state, x)[0], FlaxNet().apply(values, x), 1e-5)
    with pytest.raises(UserError, match=r"inner/dense/kernel .* no params/inner/Dense_1/kernel"):
        cnn.weights.load(model, path, input=x, names=names | {"inner/dense": "inner/Dense_1"})


def test_damaged_checkpoints_of_orbax(tmp_path):
    variables = {"params": {"a": np.ones((3, 4), np.float32)}}
    for name in ("_METADATA", "manifest.ocdbt"):
        with ocp.StandardCheckpointer() as writer:
            writer.save(tmp_path / name, variables)
        same(cnn.weights.read(tmp_path / name), {"params/a": variables["params"]["a"]})
        (tmp_path / name / name).write_text("{")
        with pytest.raises(DataError, match=f"{name} cannot be read as a checkpoint of Orbax: "):
            cnn.weights.read(tmp_path / name)


# --- frozen layers -----------------------------------------------------------------------------------------------


def net_with_everything():
    return cnn.serial(
        conv=cnn.conv(4, 3, padding=1),
        block=cnn.residual(cnn.serial(bn=cnn.batch_norm(), act=cnn.relu, drop=cnn.dropout(0.5), conv=cnn.conv(4, 1))),
        flat=cnn.flatten,
        head=cnn.dense(3),
    )


X = normal(0, 8, 6, 6, 2)


def test_frozen_parameters_are_state():
    model = net_with_everything()
    params, state = model.init(KEY, X)
    frozen = cnn.freeze(model, "conv", "block/body/bn")
    new_params, new_state = frozen.init(KEY, X)
    assert set(shapes(new_params)) == {"block/body/conv/kernel", "block/body/conv/bias", "head/kernel", "head/bias"}
    assert set(shapes(new_state)) == {
        "conv/frozen/kernel", "conv/frozen/bias", "block/body/bn/frozen/scale", "block/body/bn/frozen/bias",
        "block/body/bn/mean", "block/body/bn/var",
    }  # fmt: skip
    # The same first weights, and by `adapt` to and fro.
    same(cnn.weights.adapt(frozen, params, state), (new_params, new_state))
    same(cnn.weights.adapt(model, new_params, new_state), (params, state))
    same(cnn.weights.adapt(frozen, new_params, new_state), (new_params, new_state))
    everything = cnn.freeze(model)
    assert cnn.weights.adapt(everything, new_params, new_state)[0] == {}
    assert everything.init(KEY, X)[0] == {}
    same(frozen.apply(new_params, new_state, X), (model.apply(params, state, X)[0], new_state))
    same(everything.apply({}, everything.init(KEY, X)[1], X)[0], model.apply(params, state, X)[0])
    with pytest.raises(UserError, match="there are variables for extra, which the model does not have"):
        cnn.weights.adapt(model, {**params, "extra": {}}, state)


def test_frozen_layers_do_not_learn_and_do_not_change():
    """Not by gradients, not by momentum or weight decay, not by the batch's statistics."""
    model = cnn.freeze(net_with_everything(), "conv", "block")
    labels = jnp.arange(8) % 3
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    step = cnn.train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer)
    state = cnn.train.create_state(model, optimizer, KEY, X)
    before = jax.tree.map(np.array, (state.params, state.model_state))
    assert set(shapes(state.params)) == {"head/kernel", "head/bias"}
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
        == 2 * sum(a.size for a in jax.tree.leaves(before[0])) + 1
    )
    for _ in range(3):
        state, _ = step(state, (X, labels))
    same(state.model_state, before[1])
    assert not any(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (state.params, before[0])), strict=True))
    # Dropout is off without a key, and batch normalization is that of evaluation.
    y, _ = model.apply(state.params, state.model_state, X, train=True)
    same(y, model.apply(state.params, state.model_state, X)[0])


def test_what_is_not_frozen_trains_as_before():
    """With only the first layer frozen, the gradients of the others and the new statistics are the whole model's."""
    model = net_with_everything()
    frozen = cnn.freeze(model, "conv")
    params, state = made(model, X.shape[1:])
    kept, rest = cnn.weights.adapt(frozen, params, state)

    def loss(model, params, state):
        y, new = model.apply(params, state, X, train=True, key=KEY)
        return jnp.sum(y**2), new

    expected, new = jax.grad(functools.partial(loss, model), has_aux=True)(params, state)
    actual, other = jax.grad(functools.partial(loss, frozen), has_aux=True)(kept, rest)
    close(actual, {k: v for k, v in expected.items() if k != "conv"})
    close(other["block"], new["block"])


def test_freezing_step_by_step_and_twice():
    model = net_with_everything()
    params, state = model.init(KEY, X)
    once = cnn.freeze(model, "conv", "block/body/bn")
    for other in (
        cnn.freeze(cnn.freeze(model, "conv"), "block/body/bn"),
        cnn.freeze(once, "conv"),
        cnn.freeze(once, "conv", "conv"),
    ):
        same(cnn.weights.adapt(other, params, state), cnn.weights.adapt(once, params, state))
        same(other.init(KEY, X), once.init(KEY, X))
    assert cnn.freeze(once).init(KEY, X)[0] == {}
    leaf = cnn.freeze(cnn.dense(3))
    assert shapes(leaf.init(KEY, X)[1]) == {"frozen/kernel": (2, 3), "frozen/bias": (3,)}
    same(leaf.apply(*leaf.init(KEY, X), X)[0], cnn.dense(3).apply(*cnn.dense(3).init(KEY, X), X)[0])


def test_frozen_layers_print_as_the_call():
    model = cnn.models.resnet18(3)
    assert repr(cnn.freeze(model, "conv1", "layer1/block1")) == "freeze(resnet18(3), 'conv1', 'layer1/block1')"
    assert repr(cnn.freeze(model)) == "freeze(resnet18(3))"
    assert repr(cnn.freeze(cnn.dense(3))) == "freeze(dense(3))"
    inner = cnn.freeze(net_with_everything(), "conv", "block/body/bn").sublayers
    assert repr(inner["conv"]) == "freeze(conv(4, 3, padding=1))"
    assert repr(inner["block"].sublayers["body"].sublayers["bn"]) == "freeze(batch_norm())"
    assert repr(inner["head"]) == "dense(3)"
    assert repr(
        eval(repr(cnn.freeze(cnn.models.vgg11(), "conv1_1")), {"freeze": cnn.freeze, "vgg11": cnn.models.vgg11})
    )


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("con", "unknown layer 'con': did you mean conv"),
        ("block/boddy", "unknown layer 'block/boddy': did you mean block/body"),
        ("block/body/zzz", "did you mean block/body/bn or block/body/act"),
        ("conv/kernel", "unknown layer 'conv/kernel': conv has no layers inside"),
        ("", "unknown layer ''"),
        (3, "freeze takes paths of layers after the model, got 3"),
    ],
)
def test_layers_that_are_not_there_cannot_be_frozen(prefix, message):
    with pytest.raises(UserError, match=message):
        cnn.freeze(net_with_everything(), prefix)


def test_mistakes_with_frozen_layers():
    model = net_with_everything()
    params, state = model.init(KEY, X)
    with pytest.raises(
        cnn.LayerError, match=r"^conv: the layer is frozen, so its bias, kernel should be in `state`: cnn.w"
    ):
        cnn.freeze(model, "conv").apply(params, state, X)
    with pytest.raises(cnn.LayerError, match="freeze takes a Layer first, got 'conv'"):
        cnn.freeze("conv")


def test_a_frozen_network_with_heads_is_evaluated_whole():
    model = cnn.freeze(cnn.models.googlenet(3, aux=True))
    params, state = jax.eval_shape(model.init, KEY, jnp.zeros((1, 64, 64, 3)))
    assert params == {}
    assert "aux1" in state
    logits, _ = jax.eval_shape(functools.partial(model.apply, train=True), params, state, jnp.zeros((1, 64, 64, 3)))
    assert logits.shape == (1, 3)


def test_weights_of_frozen_models(saved, tmp_path):
    model, (params, state), path = saved
    frozen = cnn.freeze(model, "conv1", "bn1", "layer1")
    loaded = cnn.weights.load(frozen, path)
    same(loaded, cnn.weights.adapt(frozen, params, state))
    cnn.weights.save(frozen, *loaded, tmp_path / "x.safetensors")
    same(cnn.weights.load(model, tmp_path / "x.safetensors"), (params, state))
    half, kept = cnn.weights.load(frozen, path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((half, kept["conv1"]))} == {jnp.dtype(jnp.bfloat16)}
    assert kept["bn1"]["mean"].dtype == jnp.float32
    five = cnn.freeze(small(5), "conv1", "bn1", "layer1")
    anew, _ = cnn.weights.load(five, path, fresh="fc")
    assert anew["fc"]["kernel"].shape == (8, 5)
    with pytest.raises(UserError, match=r"state has no conv1/frozen/kernel: .*weights.adapt"):
        cnn.weights.save(frozen, params, state, tmp_path / "x.pth")


# --- preprocessing -----------------------------------------------------------------------------------------------


def test_preprocessing_is_torchvisions():
    """Against Pillow's own resizing, as torchvision does it: shorter side, middle, mean and deviation."""
    preprocess = cnn.weights.preprocess(cnn.models.resnet18(3))
    # Smooth, as pictures are: Pillow rounds to whole numbers in between.
    v, u = np.mgrid[:300, :421] / 40
    image = np.stack([127 + 120 * np.sin(u + v), 127 + 100 * np.cos(u), 255 * (v > u)], -1).astype(np.uint8)
    resized = Image.fromarray(image).resize((int(256 * 421 / 300), 256), Image.Resampling.BILINEAR)
    left = round((resized.width - 224) / 2)
    expected = np.asarray(resized.crop((left, 16, left + 224, 240)), np.float32) / 255
    expected = (expected - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    actual = jax.jit(preprocess)(image[None])
    assert actual.shape == (1, 224, 224, 3)
    assert actual.dtype == jnp.float32
    assert np.abs(actual[0] - expected).max() < 1.5 / 255 / 0.22
    tall = preprocess(np.swapaxes(image, 0, 1)[None])
    close(tall[0], np.swapaxes(np.asarray(actual[0]), 0, 1), 1e-3)


def test_preprocessing_of_each_family():
    frozen = cnn.freeze(cnn.models.vgg16(3), "conv1_1")
    assert cnn.weights.preprocess(frozen) == cnn.weights.preprocess(cnn.models.alexnet())
    google = cnn.weights.preprocess(cnn.models.googlenet())
    assert (google.mean, google.std, google.resize) == ((0.5,) * 3, (0.5,) * 3, (256, "bilinear"))
    close(google(np.full((1, 300, 300, 3), 255, np.uint8)), np.ones((1, 224, 224, 3), np.float32), 1e-6)
    with pytest.raises(UserError, match="lenet5 is of no family with published weights"):
        cnn.weights.preprocess(cnn.models.lenet5())


CONFIG = {
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "crop_pct": 0.95, "input_size": [3, 288, 288],
    "interpolation": "bicubic", "num_classes": 1000,
}  # fmt: skip


@pytest.mark.parametrize("nested", [True, False])
def test_preprocessing_from_timms_config(nested, saved, tmp_path):
    config = {"architecture": "resnet18", "pretrained_cfg": CONFIG} if nested else CONFIG
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = cnn.data.Preprocess((288, 288), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (303, "bicubic"))
    for path in (saved[2], tmp_path, tmp_path / "config.json", str(tmp_path / "model.safetensors")):
        assert cnn.weights.preprocess(path) == expected
    image = np.random.default_rng(0).integers(0, 2, (1, 350, 400, 3), np.uint8) * 255
    y = expected(image) * np.float32(expected.std) + np.float32(expected.mean)
    assert y.shape == (1, 288, 288, 3)
    assert -1e-5 <= y.min() < y.max() <= 1 + 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "does not describe the preprocessing of images"),
        ({"mean": [0.5]}, "do not fit together"),
        ({"interpolation": "random"}, "the interpolation 'random' is neither"),
        ({"crop_pct": 3}, "do not fit together"),
        ({"input_size": "large"}, "does not describe"),
    ],
)
def test_configs_that_cannot_be_used(change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    with pytest.raises(DataError, match=message):
        cnn.weights.preprocess(tmp_path)


def test_configs_that_are_missing_or_no_json(tmp_path):
    with pytest.raises(
        DataError, match=r"config.json: there is no such file; preprocess\(model\) is for torchvision's"
    ):
        cnn.weights.preprocess(tmp_path / "x.pth")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json cannot be read"):
        cnn.weights.preprocess(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="does not describe the preprocessing"):
        cnn.weights.preprocess(tmp_path)


def test_preprocessing_in_a_runs_config():
    """As JSON and back, the way a run keeps it."""
    import dataclasses

    for preprocess in (cnn.weights.preprocess(cnn.models.vgg11()), cnn.data.Preprocess((3, 4), (0.5,), (1.0,))):
        kept = json.loads(json.dumps(dataclasses.asdict(preprocess)))
        assert cnn.data.Preprocess(**{k: tuple(v) for k, v in kept.items()}) == preprocess
    with pytest.raises(UserError, match=r"resize=\(100, 'bilinear'\): expected .* 224x224"):
        cnn.data.Preprocess((224, 224), (0.5,), (1.0,), (100, "bilinear"))


# --- from one end to the other -----------------------------------------------------------------------------------


def test_fine_tuning(saved, tmp_path):
    """The example of the docstring: a frozen trunk, a new head, training, the same file format again."""
    net = small(2)
    model = cnn.freeze(net, "conv1", "bn1", "layer1")
    variables = cnn.weights.load(model, saved[2], fresh="head")
    before = jax.tree.map(np.array, variables)
    images = np.random.default_rng(0).integers(0, 255, (16, 40, 40, 3), np.uint8)
    images[8:, :20] //= 4
    data = cnn.data.Dataset(images, np.arange(16) // 8, ("light", "dark"), "halves")
    preprocess = cnn.data.Preprocess((32, 32), (0.5,) * 3, (0.25,) * 3, (36, "bilinear"))
    fitted = cnn.train.fit(
        model, data, cnn.train.Objective(preprocess=preprocess), variables=variables, epochs=2, batch_size=8, show=False
    )
    same(fitted.model_state["layer1"], before[1]["layer1"])
    assert not np.array_equal(fitted.params["fc"]["kernel"], before[0]["fc"]["kernel"])
    cnn.weights.save(model, fitted.params, fitted.model_state, tmp_path / "tuned.safetensors")
    tuned = cnn.weights.load(net, tmp_path / "tuned.safetensors")
    x = preprocess(images)
    close(net.apply(*tuned, x)[0], model.apply(fitted.params, fitted.model_state, x)[0])


def test_names_of_the_mobile_networks_in_timms_files():
    """`conv_pw` is the first convolution of a block that expands, and the last of one that does not."""
    found = {}
    for name in ("mobilenet_v2", "mnasnet0_5", "efficientnet_b0"):
        model = getattr(cnn.models, name)()
        namer = published_weights(model).timm(model)
        found[name] = {"/".join(path): namer(path) for path, _ in cnn.core.leaves(model)}
    mobile, mnas, efficient = found.values()
    assert mobile["stem/conv"] == mnas["stem/conv"] == "conv_stem"
    assert efficient["last/bn"] == "bn2"
    assert mobile["fc"] == "classifier"
    assert mobile["block1/project/conv"] == mnas["separable/project/conv"] == "blocks.0.0.conv_pw"
    assert mobile["block3/expand/bn"] == mnas["stage1/block2/expand/bn"] == "blocks.1.1.bn1"
    assert mobile["block17/project/bn"] == mnas["stage6/block1/project/bn"] == "blocks.6.0.bn3"
    assert efficient["stage6/block4/squeeze/fc2"] == "blocks.5.3.se.conv_expand"
    assert efficient["stage6/block4/depthwise/conv"] == "blocks.5.3.conv_dw"


@pytest.mark.parametrize(
    ("model", "some"),
    [
        (
            cnn.models.regnet(3, 8, 8.0, 2.0, 8, 5, squeeze=0.25),
            {"stem.bn.running_var", "s1.b1.downsample.conv.weight", "s1.b1.se.fc2.bias", "s3.b1.conv3.bn.weight"},
        ),
        (
            cnn.models.convnext((1, 2), 8, 5),
            {"stem.0.bias", "stages.1.downsample.1.weight", "stages.1.blocks.1.gamma", "head.norm.bias"},
        ),
    ],
    ids=["regnet", "convnext"],
)
def test_timms_names_both_ways(model, some, tmp_path):
    """A file under timm's names is recognized, in another module too; without `names` torchvision's are written."""
    variables = made(model, (32, 32, 3))
    for names in ("timm", None):
        path = tmp_path / f"{names}.safetensors"
        cnn.weights.save(model, *variables, path, input=(32, 32, 3), names=names)
        arrays = cnn.weights.read(path)
        assert some & arrays.keys() == (some if names else set())
        factors = {array.ndim for name, array in arrays.items() if name.endswith((".gamma", ".layer_scale"))}
        assert factors <= {1 if names else 3}
        same(cnn.weights.load(model, path, input=(32, 32, 3)), variables)
        files.write(path, {f"model.{name}": array for name, array in arrays.items()})
        same(cnn.weights.load(model, path, input=(32, 32, 3)), variables)


def test_timms_names_where_they_are_not_known(tmp_path):
    model = cnn.serial(fc=cnn.dense(2))
    variables = made(model, (4,))
    with pytest.raises(UserError, match=r'names="timm" is for the families .*regnet.*serial.* is of none of them'):
        cnn.weights.save(model, *variables, tmp_path / "a.pth", input=np.zeros((1, 4), np.float32), names="timm")
    with pytest.raises(UserError, match="names='keras': expected \"timm\", or a dict"):
        cnn.weights.save(model, *variables, tmp_path / "a.pth", input=np.zeros((1, 4), np.float32), names="keras")
