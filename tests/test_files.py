"""What file systems hold beside data: pipes, links, a system's own files, names in other normal forms and encodings."""

import os
import signal
import socket
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn import cli, data, flow, weights
from jaxcnn.data.datasets.mnist import read_idx
from jaxcnn.data.datasets.reviews import load_text
from jaxcnn.data.text import read_lines
from jaxcnn.errors import DataError, UserError
from jaxcnn.export import predict
from jaxcnn.files import located, read_text, regular
from jaxcnn.runs import table as runs
from jaxcnn.weights import preprocess, pth


@pytest.fixture
def no_waiting():
    """An error in place of a test that waits forever."""

    def late(*_):
        raise TimeoutError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write(path: Path, value: int = 0, ending: str = ".png", kind: str | None = None) -> Path:
    """A grey picture of 5x4 pixels of one value."""
    path = path.with_name(path.name + ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((5, 4), value, np.uint8)).save(path, kind)
    return path


def of_classes(root: Path, *names: str, each: int = 2) -> Path:
    for k, name in enumerate(names):
        for i in range(each):
            write(root / name / f"{i}", 10 * k + i)
    return root


# --- what is no regular file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        data.read_image,
        lambda path: data.read_middle(path, 1, (4, 4)),
        read_idx,
        read_lines,
        read_text,
        flow.read_flo,
        weights.read,
        pth.read,
        preprocess,
    ],
)
def test_a_pipe_is_refused_before_it_is_opened(tmp_path, no_waiting, read):
    os.mkfifo(path := tmp_path / "pipe.json")
    with pytest.raises(UserError, match=r"pipe\.json cannot be read: .*it is a pipe; expected a regular file"):
        read(path)


def test_other_kinds_of_files_are_named(tmp_path, no_waiting):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for path, says in ((tmp_path / "s", "it is a socket"), ("/dev/zero", "it is a device"), (tmp_path, "a folder")):
            with pytest.raises(OSError, match=says):
                regular(path)
    with pytest.raises(FileNotFoundError):
        regular(tmp_path / "none")
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert regular(tmp_path / "link").read_text() == "text"


def test_pipes_in_data_folders_and_runs(tmp_path, no_waiting):
    root = of_classes(tmp_path / "set", "a", "b", each=5)
    os.mkfifo(root / "a" / "pipe.png")
    assert len(data.load(str(root), "train")) == 8
    reviews = tmp_path / "text"
    reviews.mkdir()
    (reviews / "good.txt").write_text("good\n")
    os.mkfifo(reviews / "bad.txt")
    with pytest.raises(DataError, match=r"bad\.txt cannot be read: it is a pipe"):
        load_text(str(reviews))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model": "lenet5"}')
    os.mkfifo(run / "metrics.jsonl")
    assert "it is a pipe" in runs.read(run).trouble[0]
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        predict.read(tmp_path / "pipe.png", (4, 4, 1))


# --- folders of images -------------------------------------------------------------------------------------------


def test_what_systems_and_tools_leave_in_a_folder_is_no_data(tmp_path):
    root = of_classes(tmp_path / "set", "a", "b", each=5)
    plain = data.load(str(root), "train")
    (root / "a" / "._0.png").write_bytes(b"\0\5\x16\7 a resource fork of macOS")
    for name in ("__MACOSX/a/._0.png", "a/.ipynb_checkpoints/0-checkpoint.png", ".git/x.png", "b/__MACOSX/1.png",
                 "b/@eaDir/0.png", "a/Thumbs.db", "desktop.ini", "b/desktop.ini"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((root / "a/0.png").read_bytes())
    again = data.load(str(root), "train")
    assert again.classes == plain.classes == ("a", "b")
    np.testing.assert_array_equal(again.images, plain.images)
    assert len(data.stream(str(root), "train", size=(4, 4))) == 8


@pytest.mark.parametrize(
    ("ending", "kind"),
    [(".jfif", "JPEG"), (".JPG", "JPEG"), (".jpe", "JPEG"), (".pbm", "PPM"), (".TIF", "TIFF"), (".jp2", "JPEG2000"),
     (".tga", "TGA"), (".dib", "DIB"), (".pcx", "PCX")],
)  # fmt: skip
def test_images_by_all_their_endings(tmp_path, ending, kind):
    for name in ("a", "b"):
        write(tmp_path / name / "0", 255, ending, kind)
    found = data.load(str(tmp_path), "train")
    assert found.images.shape == (2, 5, 4, 1)
    assert found.images.min() > 250


def test_a_program_for_printers_is_no_image(tmp_path):
    """Pillow would run Ghostscript on EPS, whatever the file is called."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="no image that can be read"):
        data.read_image(tmp_path / "x.png")


def test_links_in_a_folder(tmp_path):
    root = of_classes(tmp_path / "set", "a", "b", each=5)
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "c0", 99)
    (root / "c").symlink_to(tmp_path / "elsewhere")  # a class that lies elsewhere
    (root / "a" / "z.png").symlink_to(tmp_path / "elsewhere" / "c0.png")  # an image that does
    found = data.load(str(root), "train")
    assert found.classes == ("a", "b", "c")
    assert np.bincount(found.labels).tolist() == [5, 4, 1]  # of six, the fifth is the test's
    (root / "b" / "gone.png").symlink_to("nowhere.png")
    (root / "b" / "itself.png").symlink_to("itself.png")
    (root / "b" / "up").symlink_to("..")
    with pytest.warns(UserWarning, match=r"3 broken links and links to folders .*: b/gone.png, b/itself.png, b/up"):
        again = data.load(str(root), "train")
    np.testing.assert_array_equal(again.images, found.images)
    for link in (root / "b").glob("*"):
        if link.is_symlink():
            link.unlink()
    (root / "all").symlink_to(".")  # a class of all images
    with pytest.warns(UserWarning, match="all links to a folder above it and is left out"):
        assert data.load(str(root), "train").classes == found.classes
    (root / "all").unlink()
    (root / "d").symlink_to("a")
    with pytest.raises(DataError, match="the classes a and d are the same folder by a link"):
        data.load(str(root), "train")


def test_two_splits_may_be_one_folder(tmp_path):
    of_classes(tmp_path / "train", "a", "b")
    of_classes(tmp_path / "val", "a", "b")
    (tmp_path / "test").symlink_to("val")
    assert len(data.load(str(tmp_path), "test")) == len(data.load(str(tmp_path), "val")) == 4


def test_a_class_without_images_is_said(tmp_path):
    root = of_classes(tmp_path, "a", "b")
    (root / "empty").mkdir()
    (root / "heic").mkdir()
    (root / "heic" / "0.heic").touch()
    with pytest.warns(UserWarning, match=r"has no image in 2 of its 4 folders: empty, heic\. .*\.png"):
        assert data.load(str(root), "train").classes == ("a", "b", "empty", "heic")


def test_class_names_in_two_normal_forms_are_one(tmp_path):
    composed, apart = "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")
    of_classes(tmp_path / "train", composed, "tea")
    of_classes(tmp_path / "test", apart, "tea")
    train, test = (data.load(str(tmp_path), split) for split in ("train", "test"))
    assert train.classes == test.classes == (composed, "tea")
    assert test.images[:2, 0, 0, 0].tolist() == [0, 1]
    of_classes(tmp_path / "train", apart)
    with pytest.raises(DataError, match="have the same name in two Unicode forms"):
        data.load(str(tmp_path), "train")
    assert located(tmp_path / "test" / composed) == tmp_path / "test" / apart


def test_names_that_are_no_utf8_and_names_with_brackets(tmp_path):
    strange = os.fsdecode(b"caf\xe9 [lr=0.1] *")
    root = of_classes(tmp_path / strange, strange, "b", each=5)
    found = data.load(str(root), "train")
    assert set(found.classes) == {strange, "b"}
    assert len(data.stream(str(root), "test", size=(4, 4))) == 2
    (root / strange / "0.png").write_bytes(b"nothing")
    with pytest.raises(DataError) as error:
        data.load(str(root), "train")
    assert r"caf\xe9 [lr=0.1] *" in str(error.value)
    str(error.value).encode("utf-8")


def test_the_name_of_a_dataset_is_no_pattern(tmp_path):
    (tmp_path / "mnist" / "3.0").mkdir(parents=True)
    (tmp_path / "mnist" / "3.0" / "dataset_info.json").write_text("{}")
    for name in ("mn[i]st", "m*", "**"):
        with pytest.raises(DataError, match="unknown dataset"):
            data.load(name, "train", tmp_path)


# --- text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_text(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("Straße\nनमस्ते\n", encoding)
    assert read_lines(tmp_path / "a.txt") == ["Straße", "नमस्ते"]


def test_text_that_is_none(tmp_path):
    for content, says in ((b"a\0b\0", "has bytes 0"), (b"caf\xe9", "byte 3 is 0xe9"), (b"\xff\xfea", "not utf-16")):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(DataError, match=says):
            read_lines(tmp_path / "a.txt")


def test_files_of_macos_among_texts_and_labels(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in ("good.txt", "caf\u0065\u0301.txt"):
        (texts / name).write_text("a film\n")
        (texts / f"._{name}").write_bytes(b"\0\5\x16\7\xff")
    assert load_text(str(texts)).classes == ("caf\u00e9", "good")
    folder = tmp_path / "pixels"
    (folder / "train").mkdir(parents=True)
    (folder / "classes.txt").write_bytes("\ufeffsky\ncafe\u0301\n".encode())
    write(folder / "train" / "x")
    write(folder / "train" / "x_label", 1)
    (folder / "train" / "._x.png").write_bytes(b"\0\5\x16\7")
    found = data.load_segmentation(str(folder), "train")
    assert found.classes == ("sky", "caf\u00e9")
    assert len(found) == 1
    (folder / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"classes\.txt is not utf-8 text"):
        data.load_segmentation(str(folder), "train")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_pixels_turn_with_their_image(tmp_path, orientation):
    """A camera's turn is said beside the pixels of the image, and nothing is said in the label image."""
    (tmp_path / "train").mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    labels = np.zeros((5, 4), np.uint8)
    labels[1:3, 2:] = 1
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(100 * labels).save(tmp_path / "train" / "x.png", exif=exif)
    Image.fromarray(labels).save(tmp_path / "train" / "x_label.png")
    found = data.load_segmentation(str(tmp_path), "train")
    np.testing.assert_array_equal(found.inputs[0, ..., 0], 100 * found.labels[0])


def test_a_label_image_that_lies_upright_already(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    pixels = np.zeros((5, 4), np.uint8)
    pixels[0, 0] = 100
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "train" / "x.png", exif=exif)
    turned = np.rot90(pixels, -1)  # clockwise
    Image.fromarray(np.ascontiguousarray(turned // 100)).save(tmp_path / "train" / "x_label.png")
    found = data.load_segmentation(str(tmp_path), "train")
    np.testing.assert_array_equal(found.inputs[0, ..., 0], turned)
    np.testing.assert_array_equal(found.labels[0], turned // 100)


def test_numbers_in_other_digits(tmp_path, capsys):
    """`"²".isdigit()` holds, and `int("²")` raises."""
    for name in ("2²3", "10"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model": "lenet5"}')
    cli.main(["runs", str(tmp_path)])
    assert "2²3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["train", "lenet5", "--size", "²,3"])
    assert "expected height,width" in capsys.readouterr().err


def test_reading_is_silent(tmp_path):
    root = of_classes(tmp_path, "a", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load(str(root), "train")
