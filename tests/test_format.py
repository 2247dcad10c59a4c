"""Names from outside: what a terminal, a table, JSON, a page and matplotlib's fonts are given of them."""

import io
import json
import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

import jaxcnn as cnn
from jaxcnn import cli, detection, segmentation, train
from jaxcnn.data import Dataset
from jaxcnn.errors import DataError, UserError
from jaxcnn.explore import frozen, head, target
from jaxcnn.explore.network import Network
from jaxcnn.export import predict
from jaxcnn.format import padded, printable, shortened, width
from jaxcnn.inspect import pictures, plots, summary
from jaxcnn.inspect.windows import Window
from jaxcnn.runs import table as runs
from jaxcnn.tasks.files import stems
from jaxcnn.tasks.vqa import task as vqa

ESCAPE, REVERSED, BYTES = "\x1b[2J\x1b]0;title\x07", "exe.\u202egpj", os.fsdecode(b"caf\xe9")
HOSTILE = ("$0_$50", ESCAPE, REVERSED, BYTES, "_hidden", r"\$a\frac{$", "x" * 300, "a\nb", "\u0085\u2028\0")


def harmless(text: str) -> bool:
    """Whether a terminal shows the text and does nothing else, in whatever place it stands in."""
    return all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in "\n\u200c\u200d" for c in text)


# --- the functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text 5 %", "plain text 5 %"),
        (ESCAPE, r"\x1b[2J\x1b]0;title\x07"),
        (REVERSED, r"exe.\u202egpj"),
        (BYTES, r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("a\tb\r\nc\x7f\x9b", r"a\tb\r\nc\x7f\x9b"),
        ("\ufeffa\u2066b\u200fc\u00ad\U000e0041", r"\ufeffa\u2066b\u200fc\xad\U000e0041"),
        ("é हिन्दी 中文 🎉 a\u00a0b\u3000c \u06cc\u200c\u062e", "é हिन्दी 中文 🎉 a\u00a0b\u3000c \u06cc\u200c\u062e"),
        (Path("a/\x1b"), r"a/\x1b"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert harmless(shown)
    shown.encode()


def test_printable_lines_and_columns():
    assert printable("a\nb\rc", lines=True) == "a\nb\\rc"
    for text, columns in (("abc", 3), ("中文", 4), ("हिन्दी", 5), ("e\u0301", 1), ("é", 1)):
        assert (width(text), width(padded(text, 9)), width(padded(text, 9, right=True))) == (columns, 9, 9)
    assert padded("long", 2) == "long"
    assert (shortened("abcdef", 4), shortened("abcd", 4)) == ("abc…", "abcd")


# --- errors, tables, JSON ----------------------------------------------------------------------------------------


def test_errors_send_a_terminal_nothing(tmp_path, capsys):
    for kind in (UserError, DataError):
        assert str(kind(f"{ESCAPE} {BYTES}\nsecond line")) == printable(f"{ESCAPE} {BYTES}") + "\nsecond line"
    file = tmp_path / f"{ESCAPE[:3]}{BYTES}.png"
    file.write_bytes(b"nothing")
    with pytest.raises(DataError) as error:
        cnn.data.read_image(file)
    assert harmless(str(error.value))
    for args in (["train", "lenet5", "--data", f"./{ESCAPE}"], ["predict", ESCAPE, "x"], [ESCAPE], ["runs", REVERSED],
                 ["train", "--[red]", "[/red]"], ["evaluate", "[/red] [lr=0.1]", ESCAPE, "--split"]):  # fmt: skip
        with pytest.raises(SystemExit):
            cli.main(args)
        said = capsys.readouterr().err
        assert harmless(said)
        assert said.count("\n") == 1
        assert "Traceback" not in said


def test_keys_of_a_file_of_weights_send_a_terminal_nothing(tmp_path):
    arrays = {f"{ESCAPE}.weight": np.zeros(3, np.float32)}
    model = cnn.serial(f=cnn.flatten, fc=cnn.dense(2))
    for name in ("a.pth", "a.safetensors"):
        cnn.weights.files.write(tmp_path / name, arrays)
        with pytest.raises(UserError) as error:
            cnn.weights.load(model, tmp_path / name, names={"fc": "x"}, input=(1, 1, 3))
        assert harmless(str(error.value))
        assert r"\x1b[2J" in str(error.value)


def test_the_table_of_runs(tmp_path, capsys):
    for name, model in ((ESCAPE[:5], f"{ESCAPE}\nb"), ("数据", "lenet5")):
        (tmp_path / name).mkdir()
        config = {"model": model, "data": REVERSED, "lr": model, "epochs": 3}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    table = runs.table(runs.find([tmp_path]))
    assert harmless(table)
    lines = table.splitlines()
    assert len(lines) == 3
    place = lines[0].index("state")
    for line in lines[1:]:
        before = line[: line.index("interrupted" if "interrupted" in line else "running?")]
        assert width(before) == place
    cli.main(["runs", str(tmp_path), "--json"])
    out = capsys.readouterr().out
    assert out.isascii()
    assert {row["model"] for row in json.loads(out)} == {f"{ESCAPE}\nb", "lenet5"}  # nothing is lost


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> tuple[Path, Path]:
    """A run whose classes have hostile names, and an image: (folder, file)."""
    top = tmp_path_factory.mktemp("strange")
    names = ("$0_$50", ESCAPE, BYTES, "_hidden\nclass")
    images = np.zeros((24, 6, 6, 1), np.uint8)
    labels = np.arange(24, dtype=np.int32) % 4
    images[np.arange(24), :, labels] = 255
    data = Dataset(images, labels, names, "strange")
    model = top / "net.py"
    model.write_text(
        "import jaxcnn as cnn\n\ndef net(classes):\n    return cnn.serial(f=cnn.flatten, d=cnn.dense(classes))\n"
    )
    config = {"model": f"{model}:net", "data": str(top / REVERSED)}
    train.fit(
        cnn.models.make(config["model"], 4),
        data,
        test=data,
        epochs=1,
        batch_size=8,
        run=train.Run(top / "run", config=config),
        show=False,
    )
    file = top / f"{BYTES}{ESCAPE[:4]}.png"
    Image.fromarray(images[0, ..., 0]).save(file)
    return top / "run", file


def test_training_ends_with_its_pictures_whatever_the_classes_are_called(strange):
    folder, _ = strange
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 50
    assert json.loads((folder / "result.json").read_text())["best_epoch"] == 1
    assert not list(folder.glob("*.part"))


def test_predict_of_a_run_with_hostile_classes(strange, capsys, monkeypatch):
    folder, file = strange
    monkeypatch.chdir(folder.parent)
    cli.main(["predict", str(folder), str(file)])
    out = capsys.readouterr().out
    assert harmless(out)
    assert out.count("\n") == 1
    assert r"caf\xe9" in out
    cli.main(["predict", str(folder), str(file), "--json"])
    out = capsys.readouterr().out
    assert out.isascii()
    (row,) = json.loads(out)
    assert row["image"] == str(file)
    assert list(row["probabilities"]) == ["$0_$50", ESCAPE, BYTES, "_hidden\nclass"]


def test_letters_that_the_terminal_lacks(tmp_path):
    """A terminal of ASCII, as of LANG=C, gets escapes, not a UnicodeEncodeError."""
    (tmp_path / "数据").mkdir()
    (tmp_path / "数据" / "config.json").write_text('{"model": "é"}')
    done = subprocess.run([sys.executable, "-m", "jaxcnn", "runs", str(tmp_path)], capture_output=True, check=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})  # fmt: skip
    assert rb"\u6570\u636e" in done.stdout
    assert rb"\xe9" in done.stdout


def test_the_page_shows_names_escaped():
    names = (ESCAPE, REVERSED, BYTES)
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(3))
    params, state = model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    data = Dataset(np.zeros((3, 4, 4, 1), np.uint8), np.arange(3), names, "</script>" + ESCAPE)
    network = Network(target.of_layer(model, params, state, None, data))
    about = network.target.about()
    assert about["classes"] == list(map(printable, names))
    assert harmless(about["title"] + about["data"])
    assert head.Class(names).names == names
    html = frozen.page(network, name=REVERSED)
    html.encode()
    assert html.count("</script>") == 2  # its own


def test_the_exported_program_prints_names_escaped():
    assert harmless(predict.shown("".join(HOSTILE)))
    assert predict.shown("é中") == "é中"


def test_long_names_of_files_leave_room_for_an_ending():
    long = "红" * 84 + ".png"  # 252 bytes and the ending
    names = stems([long, long, "a.png"])
    assert max(len(os.fsencode(f"{name}-boundaries.png")) for name in names) <= 255
    assert len(set(names)) == 3
    assert names[2] == "a"


# --- matplotlib --------------------------------------------------------------------------------------------------


def _figures():
    """Each function that draws, with hostile names in all places where names go: (function, the names' places)."""
    image, maps = np.zeros((2, 6, 6, 3), np.uint8), np.ones((2, 6, 6))
    history = [{"epoch": e, "loss": 1.0, "validation_loss": 2.0, "accuracy": 0.5} for e in (1, 2)]
    data = Dataset(np.zeros((len(HOSTILE), 6, 6, 1), np.uint8), np.arange(len(HOSTILE)), HOSTILE, "x")
    wrong = np.roll(np.eye(len(HOSTILE)), 1, 0)
    labels = np.arange(36).reshape(1, 6, 6) % len(HOSTILE)
    window = Window(0, 0, 3, 3)
    layers = {f"layer{k}": cnn.conv(2, 3) for k in range(2)}
    return {
        "compare": lambda: plots.compare(dict.fromkeys(HOSTILE, history)),
        "confusion": lambda: plots.confusion(wrong.astype(int), HOSTILE),
        "mistakes": lambda: plots.mistakes(data, wrong),
        "images": lambda: plots.images(image, HOSTILE[:2], HOSTILE[0]),
        "activation_maps": lambda: plots.activation_maps(maps[..., None][0], HOSTILE[0]),
        "explained": lambda: pictures.explained(image, dict.fromkeys(HOSTILE, maps), HOSTILE[:2], HOSTILE[0]),
        "fields": lambda: pictures.fields(image[0], dict.fromkeys(HOSTILE, window), HOSTILE[0]),
        "segmentation": lambda: segmentation.figure({HOSTILE[0]: labels}, HOSTILE),
        "vqa": lambda: vqa.picture(image[0], list(HOSTILE)),
        "graph": lambda: summary(cnn.serial(**{"$0_$50": cnn.serial(**layers), ESCAPE: cnn.relu}), (6, 6, 3)).draw(),
    }


@pytest.mark.parametrize("name", _figures())
def test_figures_take_names_as_they_are(name):
    figure = _figures()[name]()
    with warnings.catch_warnings():
        # A layout that has no room for names of forty letters is matplotlib's affair.
        warnings.filterwarnings("ignore", "constrained_layout not applied")
        figure.savefig(io.BytesIO(), format="png")
        figure.savefig(svg := io.BytesIO(), format="svg")
    svg.getvalue().decode()
    shown = [text._preprocess_math(text.get_text()) for text in figure.findobj(Text) if "$" in text.get_text()]
    assert any("$0_$50" in text for text, _ in shown)
    assert all(not formula for text, formula in shown if "0_" in text)
    assert all(harmless(text.get_text()) for text in figure.findobj(Text))


@pytest.mark.parametrize("name", ["compare", "fields", "segmentation"])
def test_legends_have_names_that_begin_with_an_underscore(name):
    figure = _figures()[name]()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    assert "_hidden" in [text.get_text() for legend in legends for text in legend.get_texts()]


def test_boxes_with_hostile_names():
    image = np.full((40, 40, 3), 255, np.uint8)
    for name in HOSTILE:
        assert (detection.draw_boxes(image, [(5, 5, 30, 30)], [0], [name], [0.5]) != 255).any()


def test_letters_that_no_font_has_are_one_warning():
    figure = plots.images(np.zeros((2, 4, 4, 1)), ["我爱", "北京"])
    with pytest.warns(UserWarning, match="no glyph for 4 of the characters") as told:
        figure.savefig(io.BytesIO(), format="png")
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert plots.plain("a $b$") == r"a \$b\$"


def test_a_picture_that_cannot_be_drawn_loses_no_training(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the font is broken\nhere")

    monkeypatch.setattr(plots, "confusion", broken)
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1)).astype(np.uint8)
    data = Dataset(images, np.arange(12) % 2, ("a", "b"), "noise")
    with pytest.warns(UserWarning, match=r"confusion\.png was not drawn: the font is broken$"):
        train.fit(cnn.serial(f=cnn.flatten, d=cnn.dense(2)), data, test=data, epochs=1, batch_size=4,
                  run=tmp_path / "run", show=False)  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "config.json", "curves.png", "metrics.jsonl", "mistakes.png", "result.json"
    ]  # fmt: skip
