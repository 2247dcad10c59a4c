"""Serving: the exported function is the network's for every batch size, made of portable operations alone.

Tolerance 1e-5 of the largest output in float32: the export computes with XLA's operations what this machine may compute
with oneDNN's, in another order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import close, normal
from PIL import Image
from safetensors.numpy import load_file

import jaxcnn as cnn
from jaxcnn import cli, data, export, models, train
from jaxcnn.errors import UserError
from jaxcnn.ops.backend import general_form

# How a served network is used: this process cannot import jaxcnn.
ALONE = """
import sys
sys.modules["jaxcnn"] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
model, images = predict.load(), np.load(sys.argv[2])
np.savez(sys.argv[3], *(model(images[:n]) for n in (1, 3, 7)))
"""


def pictures(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)


def variables(model: cnn.Layer, *shape: int) -> Any:
    """As `init` makes them, but with running statistics that are not 0 and 1."""
    params, state = model.init(jax.random.key(1), jnp.zeros((1, *shape)))
    return params, jax.tree.map(lambda v: v + 0.1 * jnp.abs(normal(0, *v.shape)), state)


def small() -> cnn.Layer:
    """All that has a form of its own on a CPU: convolution, ReLU, pools, a residual sum, a large dense layer."""
    unit = cnn.network(
        lambda net, x: cnn.relu(x + net.bn(net.conv(x))), conv=cnn.conv(8, 3, padding=1), bn=cnn.batch_norm()
    )
    return cnn.serial(
        conv=cnn.conv(8, 5, 2, padding=2, floor=True), relu=cnn.relu, pool=cnn.max_pool(3, 2, ceil=True), unit=unit,
        mean=cnn.adaptive_avg_pool(5), up=cnn.conv_transpose(4, 2, 2), drop=cnn.dropout(0.5), flat=cnn.flatten,
        fc1=cnn.dense(2700), act=cnn.relu, head=cnn.dense(5),
    )  # fmt: skip


NETWORKS = {
    "small": (small, (16, 14, 3)),
    "ensemble": (lambda: cnn.ensemble(small(), 3), (16, 14, 3)),
    "hard votes": (lambda: cnn.ensemble(small(), 3, "hard"), (16, 14, 3)),
    "frozen": (lambda: cnn.freeze(small(), "conv", "unit"), (16, 14, 3)),
    "norms": (
        lambda: cnn.serial(cnn.conv(8, 3), cnn.group_norm(2), cnn.layer_norm(), cnn.local_response_norm(),
                           cnn.global_max_pool, cnn.maxout(3)), (8, 8, 1),
    ),
    "several outputs in training": (
        lambda: cnn.network(lambda net, x: (net.head(x), net.aux(x)) if net.train else net.head(x), head=small(),
                            aux=small()), (16, 14, 3),
    ),
    "lenet5_1998": (lambda: models.lenet5_1998(10), (32, 32, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_an_export_is_the_network_for_any_number_of_images(name: str) -> None:
    make, image = NETWORKS[name]
    model = make()
    params, state = variables(model, *image)
    apply = jax.jit(lambda x: model.apply(params, state, data.to_float(x))[0])
    expected = {n: apply(pictures(n, *image)) for n in (1, 3)}  # compiled first: its forms are not to be found again
    limit = jax.config.jax_traceback_in_locations_limit
    written = export.program(model, params, state, image).serialize()
    assert jax.config.jax_traceback_in_locations_limit == limit
    assert b"/jaxcnn/" not in written  # no paths of the machine that wrote it
    served = jax.export.deserialize(bytearray(written))
    assert served.platforms == ("cpu", "cuda", "tpu")
    # JAX's check of N is the one custom call, and JAX's own rules are all that differs between platforms.
    assert set(re.findall(r"custom_call @?(\S+?)\(", served.mlir_module())) <= {"shape_assertion"}
    assert "@jaxcnn" not in served.mlir_module()
    call = jax.jit(served.call)
    for n, y in expected.items():
        close(call(pictures(n, *image)), y)


def test_the_general_form_holds_for_what_was_compiled_before() -> None:
    """JAX keeps what `jax.jit` and `jax.checkpoint` have traced; one form of it is not taken for the other."""
    x = jnp.ones((1, 4, 4, 1))
    for wrap in (jax.jit, jax.checkpoint):
        function = wrap(cnn.relu)
        assert "jaxcnn_stored" in str(jax.make_jaxpr(function)(x))
        with general_form():
            assert "jaxcnn_stored" not in str(jax.make_jaxpr(function)(x))
        assert "jaxcnn_stored" in str(jax.make_jaxpr(function)(x))


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "vgg11_bn", "googlenet", "resnet18", "resnet20", "convnet"])
def test_the_zoo_can_be_exported(name: str) -> None:
    """Traced only, with weights of 0. The images are resized."""
    entry = models.MODELS[name]
    model, image = models.make(name, 10), entry.input if name in ("lenet5", "alexnet", "vgg11_bn") else (64, 64, 3)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image), jnp.float32))
    params, state = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), shapes)
    preprocess = data.Preprocess(image[:2], (0.5,) * image[2], (0.25,) * image[2])
    served = export.program(model, params, state, (40, 50, image[2]), preprocess=preprocess)
    (output,) = served.out_avals
    assert (str(output.shape), output.dtype) == ("(n, 10)", jnp.float32)
    assert set(re.findall(r"custom_call @?(\S+?)\(", served.mlir_module())) <= {"shape_assertion"}


@pytest.mark.parametrize("resize", [(), (20, "bicubic")])
def test_the_preprocessing_is_inside(resize: Any) -> None:
    preprocess = data.Preprocess((16, 14), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), resize)
    model, images = small(), pictures(3, 23, 30, 3)
    params, state = variables(model, 16, 14, 3)
    served = export.program(model, params, state, (23, 30, 3), preprocess=preprocess)
    close(jax.jit(served.call)(images), model.apply(params, state, preprocess(images))[0])


# --- a run -------------------------------------------------------------------------------------------------------


NET = """
import jaxcnn as cnn

def net(classes):
    return cnn.serial(
        conv=cnn.conv(8, 5, 2, floor=True), bn=cnn.batch_norm(), relu=cnn.relu, pool=cnn.max_pool(2), flat=cnn.flatten,
        head=cnn.dense(classes))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two epochs of a network of one's own on some of the digits."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "mine.py").write_text(NET)
    digits, test = (data.load("digits", split).take(slice(0, 192)) for split in ("train", "test"))
    name = f"{folder}/mine.py:net"
    train.fit(
        models.make(name),
        digits,
        test=test,
        epochs=2,
        batch_size=32,
        run=train.Run(folder / "run", config={"model": name, "data": "digits"}),
        show=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # code is executed where it lies below the current folder
        yield folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    cli.main(["export", str(run)])
    return run / "export"


def test_a_run_is_served_where_jaxcnn_cannot_be_imported(run: Path, exported: Path, tmp_path: Path) -> None:
    images = data.load("digits", "test").images[:7]
    np.save(tmp_path / "images.npy", images)
    args = [exported, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-W", "error", "-c", ALONE, *args], check=True)
    expected = train.Trained.load(run).probabilities(images)
    found = np.load(tmp_path / "found.npz")
    for n, name in zip((1, 3, 7), found.files, strict=True):
        close(found[name].astype(np.float32), expected[:n])


def test_predict_py_names_pictures_as_the_command_does(
    run: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    digits = data.load("digits", "test").images[:4, ..., 0]
    changes = {
        "grey.png": lambda p: p,
        "large.png": lambda p: p.resize((90, 70)),
        "colour.png": lambda p: p.convert("RGB"),
        "ink.png": lambda p: Image.merge("LA", [Image.new("L", p.size, 0), p]),
    }
    for (name, change), digit in zip(changes.items(), digits, strict=True):
        change(Image.fromarray(digit)).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in changes]
    capsys.readouterr()
    cli.main(["predict", str(run), *paths])
    served = subprocess.run([sys.executable, exported / "predict.py", *paths], capture_output=True, text=True)
    assert (served.returncode, served.stderr) == (0, "")
    assert served.stdout == capsys.readouterr().out
    (tmp_path / "notes.png").write_text("none")
    deep = Image.fromarray(np.full((32, 32), 40_000, np.uint16))
    deep.save(tmp_path / "deep.png")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 5, 5, 1), np.uint8))
    for args, says in (
        ([], "usage: python predict.py IMAGE"),
        (["gone.png"], "gone.png cannot be read: .*No such file"),
        (["notes.png"], "notes.png cannot be read: cannot identify"),
        (["deep.png"], "deep.png cannot be read: its pixels have more than 8 bits"),
        (["wrong.npy"], r"wrong.npy cannot be read: expected uint8 images of \(32, 32, 1\), got uint8 of \(5, 5, 1\)"),
    ):
        process = subprocess.run([sys.executable, exported / "predict.py", *args], capture_output=True, text=True,
                                 cwd=tmp_path)  # fmt: skip
        assert (process.returncode, process.stdout) == (1, "")
        assert re.match(says, process.stderr)
        assert process.stderr.count("\n") == 1


def test_the_weights_are_the_run_s(run: Path, exported: Path) -> None:
    trained, found = train.Trained.load(run), load_file(exported / "weights.safetensors")
    assert sorted(found) == [
        "params/bn/bias", "params/bn/scale", "params/conv/bias", "params/conv/kernel", "params/head/bias",
        "params/head/kernel", "state/bn/mean", "state/bn/var",
    ]  # fmt: skip
    for name, array in found.items():
        kind, layer, variable = name.split("/")
        expected = {"params": trained.params, "state": trained.model_state}[kind][layer][variable]
        np.testing.assert_array_equal(array, expected)


def test_export_json_says_what_it_is(run: Path, exported: Path, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert {path.name for path in exported.iterdir()} - {"__pycache__"} == set(export.FILES)  # predict.py was run
    found = json.loads((exported / "export.json").read_text())
    assert found["classes"] == list("0123456789")
    assert found["input"]["dtype"] == "uint8"
    assert found["input"]["shape"] == ["N", 32, 32, 1]
    assert found["output"] == {"dtype": "float32", "shape": ["N", 10], "values": "logits"}
    assert (found["model"], found["data"], found["jax"]) == ("mine.py:net", "digits", jax.__version__)
    assert found["platforms"] == ["cpu", "cuda", "tpu"]
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    cli.main(["export", str(run), "--out", str(tmp_path / "empty"), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {"folder": str(tmp_path / "empty"), **found}
    assert (tmp_path / "empty/model.jax").read_bytes() == (exported / "model.jax").read_bytes()
    cli.main(["export", str(run), "--out", str(tmp_path / "other")])
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*other: model.jax \([\d.]+ kB\), weights.safetensors \([\d.]+ kB\), export.json .*", first)
    assert second.startswith("uint8 images (N, 32, 32, 1) to logits (N, 10), on cpu, cuda or tpu; try: python ")


# --- what cannot be exported -------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture, *args: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(["export", *map(str, args)])
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (1, "", 1)
    return err


def test_a_bad_run_or_folder_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    for where in ("full", "full/notes.txt"):
        assert "exists and is not empty; choose another" in fails(capsys, run, "--out", tmp_path / where)
    assert "cannot be written: Not a directory" in fails(capsys, run, "--out", tmp_path / "full/notes.txt/export")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    assert "gone is not there" in fails(capsys, tmp_path / "gone")
    assert "full is no run of jaxcnn" in fails(capsys, tmp_path / "full")


def test_a_damaged_run_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(run, tmp_path / "damaged", ignore=shutil.ignore_patterns("export"))
    for path in (tmp_path / "damaged/checkpoints").rglob("*"):
        if path.is_file():
            os.truncate(path, min(10, path.stat().st_size))
    assert re.search("damaged", fails(capsys, tmp_path / "damaged"))
    assert not (tmp_path / "damaged/export").exists()
    (tmp_path / "damaged/config.json").write_text("{")
    assert "config.json cannot be read" in fails(capsys, tmp_path / "damaged")


def test_networks_that_cannot_be_exported() -> None:
    def reject(model: cnn.Layer | Any, says: str) -> None:
        model = cnn.serial(cnn.flatten, cnn.dense(3), model)
        params, state = variables(model, 4, 4, 1)
        with pytest.raises(UserError, match=says):
            export.program(model, params, state, (4, 4, 1))

    reject(lambda x: (x, x), "one array .*it is")
    reject(lambda x: x.sum(), "one array .*it is")
    reject(lambda x: x.reshape(len(x), 3), r"for one image, but not for any number of images.*x.shape\[0\]")

    def own(x: jax.Array) -> jax.Array:
        return jax.ffi.ffi_call("of_this_machine", jax.ShapeDtypeStruct(x.shape, x.dtype))(x)

    reject(own, "the network calls of_this_machine, which not every machine has")
    model = cnn.dense(3)
    params, state = variables(model, 4)
    for image in ((), (4, 0, 1), (4.0, 4, 1), (None, 4, 1)):
        with pytest.raises(UserError, match="expected the shape of one image"):
            export.program(model, params, state, image)
    with pytest.raises(cnn.LayerError, match="made for 4 inputs, got 5"):
        export.program(model, params, state, (5,))


def test_names_that_are_not_as_many_as_outputs(tmp_path: Path) -> None:
    model = cnn.serial(cnn.flatten, cnn.dense(3))
    params, state = variables(model, 4, 4, 1)
    with pytest.raises(UserError, match="3 outputs, but classes= has 2 names"):
        export.save(model, params, state, (4, 4, 1), tmp_path / "out", classes=("cat", "dog"))
    assert not list(tmp_path.iterdir())
