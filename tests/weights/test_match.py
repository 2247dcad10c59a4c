"""Arrays that are passed over, names of single variables, checkpoints with several networks, and what fits a file."""

import json
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, same

import jaxcnn as cnn
from jaxcnn.cli import main
from jaxcnn.errors import UserError
from jaxcnn.models.registry import published_weights
from jaxcnn.weights import files, fits, pth
from jaxcnn.weights.names import variables

KEY = jax.random.key(0)
INPUT = (8, 8, 3)


def net():
    return cnn.serial(conv=cnn.conv(4, 3), bn=cnn.batch_norm(), relu=cnn.relu, flat=cnn.flatten, fc=cnn.dense(2))


@pytest.fixture
def saved(tmp_path):
    """A small network, its variables, and the arrays of a file of it."""
    model = net()
    params, state = jax.tree.map(
        lambda x: jnp.asarray(normal(x.size, *x.shape)), model.init(KEY, jnp.zeros((1, *INPUT)))
    )
    cnn.weights.save(model, params, state, tmp_path / "net.pth", names={}, input=INPUT)
    return model, (params, state), cnn.weights.read(tmp_path / "net.pth")


def load(path, **options):
    return cnn.weights.load(net(), path, input=INPUT, **{"names": {}, **options})


# --- ignore ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ignore",
    [("loss", "teacher"), ("loss.weight", "teacher.*"), ["*.weight_of_classes", "loss.weight", "teacher.fc.b??s"]],
)
def test_arrays_of_the_file_are_passed_over(ignore, saved, tmp_path):
    _, expected, arrays = saved
    more = {"loss.weight": np.ones(3, np.float32), "teacher.fc.bias": np.ones(2, np.float32)}
    if isinstance(ignore, list):
        more["loss.weight_of_classes"] = np.ones(2, np.float32)
    files.write(tmp_path / "x.safetensors", arrays | more)
    with pytest.raises(UserError, match=r"(?s)in the file that the model does not have:.*complete without.*ignore="):
        load(tmp_path / "x.safetensors")
    same(load(tmp_path / "x.safetensors", ignore=ignore), expected)
    members = cnn.weights.load(cnn.ensemble(net(), 2), tmp_path / "x.safetensors", input=INPUT, names={}, ignore=ignore)
    same(jax.tree.map(lambda x: x[1], members), expected)


def test_ignored_arrays_that_are_not_there(saved, tmp_path):
    files.write(tmp_path / "x.pth", saved[2])
    with pytest.raises(UserError, match=r"unknown name in .*x.pth for ignore= 'conv.weigth': did you mean conv.weight"):
        load(tmp_path / "x.pth", ignore="conv.weigth")


def test_ignored_arrays_are_missing_where_the_model_needs_them(saved, tmp_path):
    files.write(tmp_path / "x.pth", saved[2])
    with pytest.raises(UserError, match=r"1 that the file does not have:\n *fc/bias \(2,\): no fc.bias"):
        load(tmp_path / "x.pth", ignore="fc.bias")
    params, _ = load(tmp_path / "x.pth", ignore="fc", fresh="fc")
    same(params["conv"], saved[1][0]["conv"])


# --- names of variables ------------------------------------------------------------------------------------------


def test_names_of_single_variables(saved, tmp_path):
    model, expected, arrays = saved
    names = {"conv": "stem.0", "bn/scale": "gamma", "bn/mean": "stem.mean", "fc/bias": "b"}
    theirs = {"conv.weight": "stem.0.weight", "conv.bias": "stem.0.bias", "bn.weight": "gamma"}
    theirs |= {"bn.running_mean": "stem.mean", "fc.bias": "b"}
    renamed = {theirs.get(name, name): array for name, array in arrays.items()}
    files.write(tmp_path / "x.pth", renamed)
    same(load(tmp_path / "x.pth", names=names), expected)
    cnn.weights.save(model, *expected, tmp_path / "y.pth", names=names, input=INPUT)
    assert cnn.weights.read(tmp_path / "y.pth").keys() == renamed.keys()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"bn/gamma": "x"}, "unknown variable in names= 'bn/gamma'"),
        ({"bm/scale": "x"}, "unknown layer in names= 'bm/scale'"),
        ({"bn/scale": 3}, "names= gives 3 for bn/scale: expected the name in the file, a string"),
    ],
)
def test_names_of_variables_that_are_not_there(names, message, saved, tmp_path):
    files.write(tmp_path / "x.pth", saved[2])
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.pth", names=names)


# --- checkpoints -------------------------------------------------------------------------------------------------


def checkpoint(path, entries, tmp_path):
    """Writes a `.pth` with a dict of state dicts, by pasting the pickles of files with one each."""
    body, storages = b"", {}
    for name, arrays in entries.items():
        files.write(tmp_path / "part.pth", arrays)
        with zipfile.ZipFile(tmp_path / "part.pth") as part:
            inner = part.read("archive/data.pkl")[2:-1]
            for key in range(len(arrays)):
                old, new = pth._text(str(key)) + pth._text("cpu"), pth._text(f"{name}{key}") + pth._text("cpu")
                inner = inner.replace(old, new)
                storages[f"{name}{key}"] = part.read(f"archive/data/{key}")
        body += pth._text(name) + inner
    with zipfile.ZipFile(path, "w") as archive:
        whole = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + body + pickle.SETITEMS + pickle.STOP
        archive.writestr("archive/data.pkl", whole)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)


@pytest.mark.parametrize("name", ["state_dict", "model", "model_state_dict", "ema", "student"])
def test_the_entry_of_a_checkpoint(name, saved, tmp_path):
    _, expected, arrays = saved
    checkpoint(tmp_path / "x.pth", {name: {f"module.{n}": a for n, a in arrays.items()}}, tmp_path)
    same(load(tmp_path / "x.pth"), expected)
    assert files.content(tmp_path / "x.pth").wrapping == (name, "module.")


def test_a_checkpoint_of_two_networks(saved, tmp_path):
    _, expected, arrays = saved
    checkpoint(tmp_path / "x.pth", {"generator": arrays, "critic": {"w": np.ones(3, np.float32)}}, tmp_path)
    with pytest.raises(UserError, match="several sets of weights: choose one of entry='generator', entry='critic'"):
        load(tmp_path / "x.pth")
    same(load(tmp_path / "x.pth", entry="generator"), expected)


def test_averaged_weights_are_read_where_there_are_no_others(saved, tmp_path):
    _, expected, arrays = saved
    other = {name: np.zeros_like(array) for name, array in arrays.items()}
    checkpoint(tmp_path / "x.pth", {"ema": other, "model": arrays}, tmp_path)
    same(load(tmp_path / "x.pth"), expected)
    same(load(tmp_path / "x.pth", entry="ema")[0]["fc"]["bias"], jnp.zeros(2))


def test_two_networks_in_one_state_dict(saved, tmp_path):
    """Lightning's `model.` with an average beside it: nothing says which of them is meant."""
    _, expected, arrays = saved
    twice = {f"{prefix}.{name}": array for prefix in ("model", "ema_model") for name, array in arrays.items()}
    files.write(tmp_path / "x.safetensors", twice)
    with pytest.raises(UserError, match=r"of 2 such networks: .* by ignore='ema_model\.\*' or ignore='model\.\*'"):
        load(tmp_path / "x.safetensors")
    same(load(tmp_path / "x.safetensors", ignore="ema_model"), expected)


# --- what fits ---------------------------------------------------------------------------------------------------


def written(path, name, classes, rename=lambda name: name):
    """A file with the names and shapes of a network, all zeros."""
    model = cnn.models.make(name, classes)
    image = jax.ShapeDtypeStruct((1, *cnn.models.MODELS[name].input), jnp.float32)
    found = variables(model, (image,), published_weights(model).torch(model))
    files.write(path, {rename(v.name): np.zeros(v.there, np.float32) for v in found})


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_the_network_that_fits_a_file(name, tmp_path, capsys):
    written(tmp_path / "x.safetensors", name, 7, lambda name: f"model.{name}")
    main(["weights", str(tmp_path / "x.safetensors"), "--json"])
    found = json.loads(capsys.readouterr().out)
    call = f"cnn.models.{name}(classes=7)"
    assert found["fits"] == [{"model": name, "classes": 7, "call": call}]
    assert found["wrapping"] == ["model."]
    assert found["format"] == "torch"
    main(["weights", str(tmp_path / "x.safetensors"), "--model", name])
    assert capsys.readouterr().out.endswith(f"around the network: model.\nfits {call}\n")


def test_a_file_that_fits_nothing(saved, tmp_path, capsys):
    files.write(tmp_path / "x.safetensors", saved[2])
    main(["weights", str(tmp_path / "x.safetensors")])
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines() if line.startswith("conv.weight")] == [
        ["conv.weight", "4x3x3x3", "float32"]
    ]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(saved[1][0]))
    assert f"{len(saved[2])} arrays, {parameters} parameters, written by PyTorch" in out
    assert out.endswith("fits no network of `jaxcnn models` by names and shapes\n")


def test_a_network_that_does_not_fit(tmp_path, capsys):
    written(tmp_path / "x.safetensors", "squeezenet1_1", 7)
    with pytest.raises(SystemExit):
        main(["weights", str(tmp_path / "x.safetensors"), "--model", "squeezenet1_0"])
    assert "does not fit squeezenet1_0(classes=7), which has 52 arrays: " in capsys.readouterr().err
    for name, message in [("unet", "unet has no published weights"), ("squeezenet", "did you mean squeezenet1_1")]:
        with pytest.raises(UserError, match=message):
            fits.fit_of(name, files.content(tmp_path / "x.safetensors"))
