"""Datasets by name, image files, batches, preprocessing and augmentation; and what is said of bad data."""

import gzip
import hashlib
import io
import itertools
import json
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxcnn import data
from jaxcnn.data import images as image_files
from jaxcnn.data.datasets import digits
from jaxcnn.data.datasets.camvid import _labels as label_numbers
from jaxcnn.data.datasets.mnist import read_idx
from jaxcnn.data.images import read_part
from jaxcnn.errors import DataError
from jaxcnn.export import predict as export_predict

RAMP = (5 * np.arange(48, dtype=np.uint8)).reshape(6, 8)  # 0 to 235, every value once
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP // 2], -1)
VISIBLE = np.where(np.arange(8) < 4, 0, 255).astype(np.uint8) * np.ones((6, 1), np.uint8)  # the right half


def encode(picture, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(file, kind, **options)
    return file.getvalue()


def made_up(count: int, classes: int = 3, size: tuple[int, ...] = (4, 5, 1)) -> data.Dataset:
    """Each image is its own number, so that an example can be told from all others."""
    images = np.broadcast_to(np.arange(count).reshape(-1, 1, 1, 1), (count, *size)).astype(np.uint8)
    return data.Dataset(images, np.arange(count) % classes, tuple("abcdefghij"[:classes]), "made up")


def numbers(images) -> list[int]:
    return np.asarray(images)[:, 0, 0, 0].tolist()


def multiset(dataset: data.Dataset) -> list[bytes]:
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(dataset.images, dataset.labels, strict=True))


# --- digits ------------------------------------------------------------------------------------------------------


def test_digits_are_1797_examples_in_a_fixed_stratified_division():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    for part in (train, test):
        assert (part.images.shape[1:], part.images.dtype, part.labels.dtype) == ((32, 32, 1), np.uint8, np.int32)
        assert part.classes == tuple("0123456789")
        share = np.bincount(part.labels) / len(part)
        np.testing.assert_allclose(share, 0.1, atol=0.006)  # stratified: each class a tenth, as in the whole
    assert not set(multiset(train)) & set(multiset(test))
    # The very pixels: a figure in the README means these, whatever resized them.
    digest = hashlib.sha256(train.images.tobytes() + test.images.tobytes() + test.labels.tobytes()).hexdigest()
    assert digest[:16] == "9b4c93d356b368b0"


def test_digits_are_read_from_scikit_learn_s_file_and_with_the_package_where_there_is_none(monkeypatch):
    program = "import sys, jaxcnn as cnn; cnn.data.load('digits', 'test'); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
    images, labels = digits._original()
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    np.testing.assert_array_equal(digits._original()[0], images)
    np.testing.assert_array_equal(digits._original()[1], labels)


def test_a_loaded_set_is_its_owner_s():
    data.load("digits", "test").images[:] = 0
    assert data.load("digits", "test").images.any()


@pytest.mark.parametrize(
    ("split", "index"),
    [
        ("train[:10]", slice(0, 10)),
        ("train[-5:]", slice(1437, 1442)),
        ("train[90%:]", slice(1297, 1442)),
        ("train[25%:50%]", slice(360, 721)),
        ("train[:-1440]", slice(0, 2)),
        ("train[:]", slice(0, 1442)),
    ],
)
def test_a_split_can_be_a_slice(split, index):
    got, whole = data.load("digits", split), data.load("digits", "train")
    np.testing.assert_array_equal(got.images, whole.images[index])
    np.testing.assert_array_equal(got.labels, whole.labels[index])


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ("validation", "digits has the splits train and test, not 'validation'"),
        ("train[::2]", "expected a name, or a name with a slice such as"),
        ("train[:10", "expected a name"),
        ("train[a:]", "expected a name"),
        ("train[-:]", "expected a name"),
        ("train[%:]", "expected a name"),
        ("", "expected a name"),
        ("train[5:2]", "the dataset is empty"),
        ("train[100%:]", "the dataset is empty"),
    ],
)
def test_a_split_that_is_not_there(split, says):
    with pytest.raises(DataError, match=says):
        data.load("digits", split)


# --- datasets that were prepared ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "count"), [("test", 10_000), ("train", 60_000)])
def test_mnist_is_the_same_from_idx_files_and_from_tensorflow_datasets(data_dir, split, count):
    idx, tfds = (data.load("mnist", split, data_dir / part) for part in ("mnist-idx", "tfds"))
    for d in (idx, tfds):
        assert (d.images.shape, d.images.dtype, d.classes) == ((count, 28, 28, 1), np.uint8, tuple("0123456789"))
    assert multiset(idx) == multiset(tfds)
    # The folder above both serves too, and so does the environment's variable (which `data_dir` is).
    np.testing.assert_array_equal(data.load("mnist", split).labels, data.load("mnist", split, data_dir).labels)


def test_cifar10_from_tensorflow_datasets(data_dir):
    test = data.load("cifar10", "test", data_dir)
    assert (test.images.shape, test.images.dtype) == ((10_000, 32, 32, 3), np.uint8)
    assert test.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert np.bincount(test.labels).tolist() == [1000] * 10
    # The channels are red, green and blue: by day, a sky is blue and a deer's forest is not.
    red, green, blue = test.images[test.labels == 0].mean((0, 1, 2))
    assert blue > green > red
    red, green, blue = test.images[test.labels == 4].mean((0, 1, 2))
    assert blue < min(red, green)


def prepare(root: Path, name: str, splits: dict[str, list[tuple[bytes, int]]], classes: list[str]) -> None:
    """Writes a dataset as tensorflow-datasets prepares it, without TensorFlow."""
    pytest.importorskip("tensorflow_datasets")
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    pattern = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    records = [
        {"name": split, "numBytes": "1", "shardLengths": [str(len(examples))], "filepathTemplate": pattern}
        for split, examples in splits.items()
    ]
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": records}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    module = "tensorflow_datasets.core.features."
    image = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}, "encodingFormat": "png"}
    features = {
        "image": {"pythonClassName": module + "image_feature.Image", "image": image},
        "label": {
            "pythonClassName": module + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(classes))},
        },
    }
    whole = {"pythonClassName": module + "features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(whole))
    (folder / "label.labels.txt").write_text("\n".join(classes) + "\n")
    for split, examples in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for png, label in examples:
            values = {
                "image": tf_feature_pb2.Feature(bytes_list=tf_feature_pb2.BytesList(value=[png])),
                "label": tf_feature_pb2.Feature(int64_list=tf_feature_pb2.Int64List(value=[label])),
            }
            example = tf_example_pb2.Example(features=tf_feature_pb2.Features(feature=values))
            writer.write(example.SerializeToString())
        writer.close()


def plain(value: int, *size: int) -> bytes:
    return encode(np.full((*size, 3), value, np.uint8))


def test_any_prepared_set_of_labelled_images_can_be_loaded(tmp_path):
    flowers = [(plain(10 * i, 6, 4 + i % 3), i % 2) for i in range(12)]
    prepare(tmp_path / "tfds", "my_flowers", {"train": flowers, "validation": flowers[:4]}, ["rose", "tulip"])
    train = data.load("my_flowers", "train", tmp_path)
    assert (train.images.shape, train.classes, train.name) == ((12, 6, 5, 3), ("rose", "tulip"), "my_flowers")
    assert numbers(train.images) == list(range(0, 120, 10))
    assert train.labels.tolist() == [0, 1] * 6
    assert numbers(data.load("my_flowers", "test", tmp_path).images) == [0, 10, 20, 30]  # its validation
    assert data.load("my_flowers", "train[:2]", tmp_path, (3, 7)).images.shape == (2, 3, 7, 3)
    with pytest.raises(DataError, match="my_flowers has the splits train and validation, not 'dev'"):
        data.load("my_flowers", "dev", tmp_path)

    damaged = tmp_path / "tfds/my_flowers/1.0.0/my_flowers-train.array_record-00000-of-00001"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match=r"my_flowers train example 0 cannot be read"):
        data.load("my_flowers", "train", tmp_path)


def test_a_prepared_set_with_one_split_is_divided_and_a_bad_image_in_it_is_named(tmp_path):
    examples = [(plain(i, 3, 3), i // 10) for i in range(20)]
    prepare(tmp_path, "only", {"train": examples}, ["x", "y"])
    assert numbers(data.load("only", "test", tmp_path).images) == [4, 9, 14, 19]
    assert numbers(data.load("only", "train", tmp_path).images) == [i for i in range(20) if i % 5 != 4]
    prepare(tmp_path, "bad", {"train": [*examples[:6], (b"no image", 1)], "test": examples}, ["x", "y"])
    with pytest.raises(DataError, match="bad train example 6 is no image"):
        data.load("bad", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist", r"mnist was not found under .*pip install tensorflow .*'mnist'.*four IDX files.*--data digits"),
        ("cifar10", r"cifar10 was not found under .*pip install tensorflow .*'cifar10'"),
        ("food101", r"food101 was not found under .*'food101'"),  # known to tensorflow-datasets
        ("mnits", r"unknown dataset 'mnits': did you mean mnist.*a path to a folder needs a slash: ./mnits"),
        ("qqqqqq", r"unknown dataset 'qqqqqq'"),
    ],
)
def test_a_dataset_that_is_not_there_says_what_to_do(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        data.load(name, "train", tmp_path)


def test_the_data_directory_is_named_in_the_message(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXCNN_DATA_DIR", raising=False)
    with pytest.raises(DataError, match=r"no --data-dir was given and JAXCNN_DATA_DIR is not set"):
        data.load("mnist")
    with pytest.raises(DataError, match=r"gone \(--data-dir\) does not exist"):
        data.load("mnist", data_dir=tmp_path / "gone")
    monkeypatch.setenv("JAXCNN_DATA_DIR", str(tmp_path / "lost"))
    with pytest.raises(DataError, match=r"lost \(JAXCNN_DATA_DIR\) does not exist"):
        data.load("cifar10")
    assert len(data.load("digits", "test")) == 355  # needs none


# --- IDX files ---------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
IDX = idx(IMAGES)
PACKED = gzip.compress(IDX, mtime=0)


@pytest.mark.parametrize(("name", "content"), [("a.gz", PACKED), ("a", IDX), ("unpacked-by-name-only", PACKED)])
def test_read_idx(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(read_idx(tmp_path / name), IMAGES)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.gz", PACKED[:-9], "cut short or damaged"),
        ("a.gz", PACKED[:40], "cut short or damaged"),
        ("a.gz", PACKED[:200] + bytes(8) + PACKED[208:], "cut short or damaged"),
        ("a.gz", PACKED[:-8] + bytes(8), "cut short or damaged .*CRC"),
        ("a.gz", IDX, "is not a gzip file, although its name ends in .gz"),
        ("a.gz", b"<html>404 not found</html>", "is not a gzip file, although its name ends in .gz"),
        ("a.gz", gzip.compress(IDX[:-1], mtime=0), "cut short or damaged: 4,719 bytes, 4,720 expected"),
        ("a.gz", gzip.compress(IDX + b"x", mtime=0), "cut short or damaged: 4,721 bytes or more, 4,720 expected"),
        ("a", IDX[:1000], "cut short or damaged: 1,000 bytes at most, 4,720 expected"),
        ("a", IDX + b"x", "4,721 bytes or more, 4,720 expected"),
        ("a", IDX[:9], "cut short: 9 bytes, the header alone has 16"),
        ("a", b"", "not an IDX file of bytes: it begins with nothing"),
        ("a", b"\x89PNG" + IDX, "not an IDX file of bytes: it begins with 89504e47"),
        ("a", b"\0\0\x0d\x03" + IDX[4:], "not an IDX file of bytes: it begins with 00000d03"),  # of floats
        ("a", None, "cannot be read: No such file"),
    ],
)
def test_read_idx_of_a_bad_file_says_what_is_wrong(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        read_idx(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def header(*shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(*[2**32 - 1] * 5), "GiB; the most is"),  # a product of 64 bits would be 0 or below
        (header(2**31, 2**31, 4), "GiB; the most is"),
        (header(60000, 28, 28) + bytes(9), "is cut short or damaged: .* 47,040,016 expected"),
        (header(0, 2**32 - 1, 2**32 - 1), "the dataset is empty"),
        (header(*[1] * 70) + b"x", "its header says 70 axes"),
        (header() + b"x", "its header says 0 axes"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_whose_header_lies(tmp_path, content, says, pack):
    (tmp_path / "idx").write_bytes(pack(content))
    with pytest.raises(DataError, match=says):
        read_idx(tmp_path / "idx")


def test_an_idx_file_is_unpacked_as_far_as_its_header_says(tmp_path):
    """A few kilobytes of gzip may hold gigabytes of zeros."""
    (tmp_path / "idx.gz").write_bytes(gzip.compress(IDX + bytes(100_000_000), 1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="cut short or damaged: 4,721 bytes or more, 4,720 expected"):
            read_idx(tmp_path / "idx.gz")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_mnist_from_four_idx_files(tmp_path):
    labels = np.arange(6)
    for stem, array in {
        "train-images-idx3": IMAGES,
        "train-labels-idx1": labels,
        "t10k-images.idx3": IMAGES[:2],
    }.items():
        (tmp_path / f"{stem}-ubyte").write_bytes(idx(array))
    train = data.load("mnist", "train", tmp_path)
    np.testing.assert_array_equal(train.images[..., 0], IMAGES)
    assert train.labels.tolist() == labels.tolist()
    with pytest.raises(DataError, match=r"has no t10k-labels-idx.*all four IDX files are needed"):
        data.load("mnist", "test", tmp_path)
    with pytest.raises(DataError, match="mnist has the splits train and test, not 'validation'"):
        data.load("mnist", "validation", tmp_path)
    for wrong, says in [
        (labels[:5], r"6 images and labels of shape \(5,\)"),
        (labels + 5, "labels from 5 to 10 for 10"),
    ]:
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(wrong))
        with pytest.raises(DataError, match=says):
            data.load("mnist", "train", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:0]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels[:0]))
    with pytest.raises(DataError, match="the dataset is empty"):
        data.load("mnist", "train", tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(labels))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    with pytest.raises(DataError, match="expected 3 and 1 axes"):
        data.load("mnist", "train", tmp_path)


# --- folders of images -------------------------------------------------------------------------------------------


def write(folder: Path, *pictures: np.ndarray, kind: str = "png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        (folder / f"{i:03}.{kind}").write_bytes(encode(picture, {"jpg": "JPEG"}.get(kind, "PNG")))


def test_a_folder_of_classes_is_divided(tmp_path):
    for label, name in enumerate(["cat", "dog"]):
        write(tmp_path / name, *[np.full((4, 4), 100 * label + i, np.uint8) for i in range(10)])
    (tmp_path / "cat/notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    train, test = data.load(str(tmp_path), "train"), data.load(f"{tmp_path}/", "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert numbers(test.images) == [4, 9, 104, 109]
    assert test.labels.tolist() == [0, 0, 1, 1]
    assert sorted(numbers(train.images) + numbers(test.images)) == [*range(10), *range(100, 110)]
    with pytest.raises(DataError, match="splits train and test, not 'validation'"):
        data.load(str(tmp_path), "validation")


def test_a_folder_with_its_own_splits(tmp_path, monkeypatch):
    write(tmp_path / "train/b", RAMP, RAMP)
    write(tmp_path / "train/a", RAMP + 9)
    write(tmp_path / "test/b", RAMP + 1)
    write(tmp_path / "dev/a", RAMP + 2)
    monkeypatch.chdir(tmp_path.parent)
    train, test, dev = (data.load(f"./{tmp_path.name}", split) for split in ("train", "test", "dev"))
    assert train.classes == test.classes == dev.classes == ("a", "b")  # a class may be missing in the test
    assert (numbers(train.images), train.labels.tolist()) == ([9, 0, 0], [0, 1, 1])
    assert (numbers(test.images), test.labels.tolist()) == ([1], [1])
    assert (numbers(dev.images), dev.labels.tolist()) == ([2], [0])
    assert len(data.load(tmp_path.name, "train")) == 3  # a folder that is there needs no slash
    with pytest.raises(DataError, match="has the splits dev, test and train, not 'validation'"):
        data.load(str(tmp_path), "validation")


def test_the_training_images_say_what_all_are(tmp_path):
    """Grey or colour, and the size: the test images are read as the training images were."""
    write(tmp_path / "train/a", np.zeros((10, 20), np.uint8), np.zeros((12, 20, 3), np.uint8), kind="jpg")
    write(tmp_path / "train/b", np.zeros((50, 30), np.uint8))
    write(tmp_path / "test/b", np.full((300, 300), 7, np.uint8))
    train, test = data.load(str(tmp_path), "train"), data.load(str(tmp_path), "test")
    assert train.images.shape == (3, 12, 20, 3)  # one in colour makes all so; the median size
    assert test.images.shape == (1, 12, 20, 3)
    assert (test.images == 7).all()
    assert data.load(str(tmp_path), "train", size=(5, 6)).images.shape == (3, 5, 6, 3)
    write(tmp_path / "large/a", np.zeros((300, 400), np.uint8))
    assert data.load(str(tmp_path / "large"), "train").images.shape == (1, 256, 256, 1)


@pytest.mark.parametrize(
    ("folders", "split", "says"),
    [
        ([], "train", "has no folders in it; expected one for each class"),
        (["cat"], "train", "holds no images: the dataset is empty"),
        (["train", "test"], "train", "train has no folders in it"),
        (["train/cat=2", "test/cat"], "test", "test holds no images: the dataset is empty"),
        (["train/cat=2", "test/cat=1", "test/dog=1"], "test", "test has classes that .*train lacks: dog"),
        (["cat=3"], "test", "too few images for a test split; every fifth of a class is a test image"),
        (None, "train", "there is no folder"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path, folders, split, says):
    root = tmp_path / "set"
    for entry in folders or []:
        path, _, count = entry.partition("=")
        write(root / path, *[RAMP] * int(count or 0))
    if folders == []:
        root.mkdir()
    with pytest.raises(DataError, match=says):
        data.load(str(root), split)


def test_a_damaged_image_in_a_folder_is_named(tmp_path):
    write(tmp_path / "cat", *[RAMP] * 8)
    (tmp_path / "cat/003.png").write_bytes(encode(RAMP)[:50])
    with pytest.raises(DataError, match=r"cat/003.png: the image is damaged"):
        data.load(str(tmp_path), "train")


# --- Dataset -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (np.zeros((0, 4, 4, 1)), np.zeros(0, int), "the dataset is empty"),
        (np.zeros((2, 4, 4)), [0, 1], r"images should be \(N, H, W, C\), got \(2, 4, 4\)"),
        (np.zeros((2, 4, 4, 1)), [0, 1, 0], r"2 images and labels of shape \(3,\)"),
        (np.zeros((2, 4, 4, 1)), np.eye(2), r"2 images and labels of shape \(2, 2\)"),
        (np.zeros((2, 4, 4, 1)), [0, 2], "labels from 0 to 2 for 2 classes: expected 0 to 1"),
        (np.zeros((2, 4, 4, 1)), [-1, 0], "labels from -1 to 0 for 2 classes"),
        (np.zeros((2, 4, 4, 1)), [0.0, 1.0], "labels should be integers, got float64"),
    ],
)
def test_a_dataset_that_does_not_fit_together(images, labels, says):
    with pytest.raises(DataError, match=says):
        data.Dataset(np.asarray(images, np.uint8), np.asarray(labels), ("a", "b"), "mine")


def test_dataset_shows_what_it_is_and_takes_parts():
    whole = made_up(10)
    assert repr(whole) == "Dataset('made up', 10 images 4x5x1 uint8, 3 classes)"
    assert whole.labels.dtype == np.int32
    for index, expected in (([3, 1], [3, 1]), (slice(8, None), [8, 9]), (np.arange(10) % 4 == 0, [0, 4, 8])):
        part = whole.take(index)
        assert numbers(part.images) == expected
        assert part.labels.tolist() == [n % 3 for n in expected]


def test_hold_out_takes_a_share_of_each_class_and_only_the_seed_decides():
    whole = made_up(100, classes=4)
    rest, held = whole.hold_out(0.2, seed=1)
    assert np.bincount(held.labels).tolist() == [5] * 4
    assert sorted(numbers(rest.images) + numbers(held.images)) == list(range(100))
    assert numbers(held.images) == numbers(whole.hold_out(0.2, seed=1)[1].images)
    assert numbers(held.images) != numbers(whole.hold_out(0.2, seed=2)[1].images)
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(DataError, match="between 0 and 1"):
            whole.hold_out(share)
    with pytest.raises(DataError, match=r"too few to hold out a share of 0.1"):
        made_up(3).hold_out(0.1)


# --- batches -----------------------------------------------------------------------------------------------------


def order(*args, **kwargs) -> list[int]:
    return [n for images, _ in data.batches(*args, **kwargs) for n in numbers(images)]


def test_batches_are_a_function_of_seed_and_epoch():
    whole = made_up(23)
    first = order(whole, 5, seed=3, epoch=2)
    assert first == order(whole, 5, seed=3, epoch=2)
    assert len({tuple(order(whole, 5, seed, epoch)) for seed, epoch in itertools.product(range(3), range(3))}) == 9
    assert len(set(first)) == len(first) == 20  # whole batches, and no example twice in an epoch
    assert first != sorted(first)
    assert set().union(*(order(whole, 5, 3, epoch) for epoch in range(9))) == set(range(23))  # the rest changes
    assert order(whole, 5, seed=3, epoch=2, start=2) == first[10:]
    assert order(whole, 5, seed=3, epoch=2, start=4) == []


def test_batches_keep_images_and_labels_together_and_one_shape():
    for images, labels in data.batches(made_up(23), 5):
        assert (images.shape, images.dtype, labels.dtype) == ((5, 4, 5, 1), np.uint8, np.int32)
        assert [n % 3 for n in numbers(images)] == labels.tolist()
    assert sorted(order(made_up(4), 64)) == [0, 1, 2, 3]  # a set smaller than a batch is one batch


@pytest.mark.parametrize(("count", "size"), [(23, 5), (20, 5), (3, 5), (1, 1)])
def test_padded_batches_give_every_example_once_in_order(count, size):
    seen = []
    for images, labels, weights in data.padded_batches(made_up(count), size):
        assert images.shape == (size, 4, 5, 1)
        assert labels.shape == weights.shape == (size,)
        assert set(weights.tolist()) <= {0.0, 1.0}
        seen += np.asarray(numbers(images))[weights == 1].tolist()
        assert [n % 3 for n in numbers(images)] == labels.tolist()
    assert seen == list(range(count))


# --- preprocessing -----------------------------------------------------------------------------------------------


def test_preprocess_gives_each_channel_zero_mean_and_unit_variance():
    # Channels of their own mean and spread; more images than are counted at once, so that the last ones count too.
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal([60, 120, 200], [10, 30, 5], (5000, 3, 4, 3)), 0, 255).astype(np.uint8)
    images[4096:] //= 2
    prepared = data.Preprocess.of(images)
    x = images.astype(np.float64) / 255
    np.testing.assert_allclose(prepared.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(prepared.std, x.std((0, 1, 2)), rtol=1e-9)  # E x^2 - (E x)^2 loses some digits
    got = np.asarray(prepared(jnp.asarray(images[:500])))
    assert got.dtype == np.float32
    # Float32: a value up to 5 has an error of some 5 * 6e-8 from each of three operations.
    np.testing.assert_allclose(got, (x[:500] - x.mean((0, 1, 2))) / x.std((0, 1, 2)), atol=2e-6)
    whole = np.asarray(prepared(jnp.asarray(images)), np.float64)
    np.testing.assert_allclose(whole.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(whole.std((0, 1, 2)), 1, atol=1e-6)


def test_preprocess_of_a_channel_that_is_constant():
    prepared = data.Preprocess.of(np.full((4, 2, 2, 1), 51, np.uint8))
    assert prepared.std == (1.0,)
    np.testing.assert_allclose(prepared(jnp.full((1, 2, 2, 1), 51, jnp.uint8)), 0, atol=1e-7)


def test_preprocess_pads_small_images_with_black_and_resizes_others():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    prepared = data.Preprocess.of(images, (32, 32))
    got, black = np.asarray(prepared(jnp.asarray(images))), -prepared.mean[0] / prepared.std[0]
    plain = np.asarray(data.Preprocess.of(images)(jnp.asarray(images)))
    expected = np.full((3, 32, 32, 1), black, np.float32)
    expected[:, 2:30, 2:30] = plain
    np.testing.assert_allclose(got, expected, atol=1e-6)
    odd = data.Preprocess((31, 28), (0.0,), (1.0,))(jnp.asarray(images))  # an odd remainder is at the end
    np.testing.assert_allclose(np.asarray(odd)[:, 1:29], images / 255, rtol=1e-6)
    assert not odd[:, 0].any()
    assert not odd[:, 29:].any()

    half = data.Preprocess((14, 14), (0.0,), (1.0,))(jnp.asarray(images))
    assert half.shape == (3, 14, 14, 1)
    assert abs(float(half.mean()) - images.mean() / 255) < 0.01
    assert data.Preprocess((64, 64), (0.0,), (1.0,))(jnp.asarray(images)).shape == (3, 64, 64, 1)
    constant = data.Preprocess((50, 17), (0.5,), (0.25,))(jnp.full((1, 28, 28, 1), 255, jnp.uint8))
    np.testing.assert_allclose(constant, 2.0, rtol=1e-6)


def test_to_float_scales_bytes_only():
    assert data.to_float(jnp.array([0, 51, 255], jnp.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    for other in (jnp.array([0.5, 2.0]), jnp.array([3, 4], jnp.int32)):
        np.testing.assert_array_equal(data.to_float(other), other)


def test_preprocess_of_images_that_are_no_bytes_is_refused():
    with pytest.raises(DataError, match="float32, not uint8: pass your own `preprocess`"):
        data.Preprocess.of(np.zeros((2, 4, 4, 1), np.float32))


# --- augmentation ------------------------------------------------------------------------------------------------

PHOTOS = np.random.default_rng(0).integers(0, 256, (16, 7, 6, 3)).astype(np.uint8)
STILL = {"shift": 0.0, "rotate": 0.0, "scale": 0.0, "shear": 0.0}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_affine_without_movement_is_the_identity(dtype):
    images = jnp.asarray(PHOTOS, dtype)
    moved = data.affine(**STILL)(images, jax.random.key(0))
    assert moved.dtype == images.dtype
    np.testing.assert_array_equal(moved, images)


def moved_by(monkeypatch, u, **settings):
    """PHOTOS under `affine` with the six random numbers `u` (turn, shear, two scales, two shifts) given."""
    values = jnp.asarray(u, jnp.float32)[:, None] * jnp.ones((6, len(PHOTOS)))
    with monkeypatch.context() as patch:
        patch.setattr(jax.random, "uniform", lambda *_, **__: values)
        return np.asarray(data.affine(**{**STILL, **settings})(jnp.asarray(PHOTOS), jax.random.key(0)))


@pytest.mark.parametrize(("dy", "dx"), [(1, 0), (0, -2), (2, 1), (-1, -1), (9, 0)])
def test_affine_shift_by_whole_pixels_moves_the_image_and_fills_with_black(monkeypatch, dy, dx):
    got = moved_by(monkeypatch, [0, 0, 0, 0, dy / 10, dx / 10], shift=10)
    rows, columns = np.arange(7)[:, None] + dy, np.arange(6)[None] + dx
    inside = (rows >= 0) & (rows < 7) & (columns >= 0) & (columns < 6)
    expected = np.roll(PHOTOS, (-dy, -dx), (1, 2)) * inside[None, :, :, None]
    np.testing.assert_array_equal(got, expected)


def test_affine_turns_and_scales_about_the_centre(monkeypatch):
    """A quarter turn and a half turn are known pixel by pixel; the float32 sine of pi is no exact 0, hence 1 of 255."""
    half = moved_by(monkeypatch, [1, 0, 0, 0, 0, 0], rotate=180).astype(int)
    assert np.abs(half - PHOTOS[:, ::-1, ::-1]).max() <= 1
    square = PHOTOS[:, :6]
    monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: jnp.zeros((6, 16)).at[0].set(1.0))
    quarter = np.asarray(data.affine(**{**STILL, "rotate": 90})(jnp.asarray(square), jax.random.key(0))).astype(int)
    turned = [np.rot90(square, k, (1, 2)).astype(int) for k in (1, 3)]
    assert min(np.abs(quarter - t).max() for t in turned) <= 1
    # Twice the size: every second row comes from half-way, and a constant image's inside stays constant.
    monkeypatch.setattr(jax.random, "uniform", lambda *_, **__: jnp.zeros((6, 1)).at[2:4].set(-1.0))
    larger = data.affine(**{**STILL, "scale": float(np.log(2))})(
        jnp.full((1, 9, 9, 1), 200, jnp.uint8), jax.random.key(0)
    )
    np.testing.assert_array_equal(larger, np.full((1, 9, 9, 1), 200))


def test_affine_draws_each_image_its_own_and_stays_within_the_bounds():
    blob = np.zeros((64, 21, 21, 1), np.float32)
    blob[:, 10, 10] = 1
    got = np.asarray(jax.jit(data.affine(shift=2.0, rotate=0, scale=0, shear=0))(jnp.asarray(blob), jax.random.key(1)))
    centre = np.stack([(got[..., 0].sum(2 - axis) * np.arange(21)).sum(1) for axis in (0, 1)], 1) - 10
    assert np.abs(centre).max() <= 2.0001
    assert np.abs(centre).max() > 1.5
    assert len(np.unique(centre.round(4), axis=0)) == 64
    np.testing.assert_allclose(got.sum((1, 2, 3)), 1, rtol=1e-5)  # bilinear: what leaves one pixel is in the next
    same = data.affine()(jnp.asarray(PHOTOS), jax.random.key(2))
    np.testing.assert_array_equal(same, data.affine()(jnp.asarray(PHOTOS), jax.random.key(2)))
    assert (np.asarray(same) != np.asarray(data.affine()(jnp.asarray(PHOTOS), jax.random.key(3)))).any()
    assert same.dtype == jnp.uint8


def test_flip_mirrors_about_half_of_the_images():
    images = np.random.default_rng(0).integers(0, 256, (400, 3, 4, 1)).astype(np.uint8)
    got = np.asarray(jax.jit(data.flip)(jnp.asarray(images), jax.random.key(0)))
    mirrored = (got == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored ^ (got == images).all((1, 2, 3))).all()
    assert 150 < mirrored.sum() < 250  # 200 and five standard deviations of 10


# --- image files -------------------------------------------------------------------------------------------------

GREY, RGB = Image.fromarray(RAMP), Image.fromarray(COLOUR)
ALPHA = Image.fromarray(VISIBLE)
ON_WHITE = np.where(VISIBLE[..., None] == 0, 255, COLOUR)
PALETTE = np.asarray(RGB.quantize(64).convert("RGB"))


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(GREY, exif=exif)


# name: (the file, its pixels, how far they may be off)
FILES = {
    "1": (encode(GREY.point(lambda v: 255 * (v > 100)).convert("1")), 255 * (RAMP > 100), 0),
    "L": (encode(GREY), RAMP, 0),
    "LA": (encode(Image.merge("LA", [GREY, ALPHA])), np.where(VISIBLE == 0, 255, RAMP), 0),
    "L, one value transparent": (encode(GREY, transparency=100), np.where(RAMP == 100, 255, RAMP), 0),
    "P": (encode(RGB.quantize(64)), PALETTE, 0),
    "P, one colour transparent": (
        encode(RGB.quantize(64), transparency=0),
        np.where(np.asarray(RGB.quantize(64))[..., None] == 0, 255, PALETTE), 0,
    ),
    "RGB": (encode(RGB), COLOUR, 0),
    "RGBA": (encode(Image.merge("RGBA", [*RGB.split(), ALPHA])), ON_WHITE, 0),
    "RGBA, half transparent": (
        encode(Image.merge("RGBA", [*RGB.split(), Image.new("L", RGB.size, 128)])), COLOUR * (128 / 255) + 127, 1,
    ),
    "CMYK": (encode(RGB.convert("CMYK"), "TIFF"), COLOUR, 1),
    "CMYK JPEG": (encode(RGB.resize((80, 60), 0).convert("CMYK"), "JPEG", quality=100, subsampling=0),
                  COLOUR.repeat(10, 0).repeat(10, 1), 12),
    "I;16": (encode(257 * RAMP.astype(np.uint16)), RAMP, 0),
    "I;16, dark": (encode(RAMP.astype(np.uint16)), np.round(RAMP / 257), 0),
    "I;16 TIFF": (encode(257 * RAMP.astype(np.uint16), "TIFF"), RAMP, 0),
    "I": (encode(257 * RAMP.astype(np.int32), "TIFF"), RAMP, 0),
    "F from 0 to 1": (encode((RAMP / 255).astype(np.float32), "TIFF"), RAMP, 0),
    "F from 0 to 255": (encode(RAMP.astype(np.float32), "TIFF"), RAMP, 0),
    "JPEG": (encode(GREY.resize((80, 60), 0), "JPEG", quality=100), RAMP.repeat(10, 0).repeat(10, 1), 6),
    "GIF": (encode(RGB.quantize(64), "GIF"), PALETTE, 0),
    "GIF, moving": (
        encode(RGB.quantize(64), "GIF", save_all=True, append_images=[Image.new("P", RGB.size)]), PALETTE, 0,
    ),
    "WebP": (encode(RGB, "WEBP", lossless=True), COLOUR, 0),
    "BMP": (encode(RGB, "BMP"), COLOUR, 0),
    "PPM": (encode(RGB, "PPM"), COLOUR, 0),
    **{
        f"EXIF {number}": (oriented(number), turned, 0)
        for number, turned in enumerate(
            [RAMP, RAMP[:, ::-1], RAMP[::-1, ::-1], RAMP[::-1],
             RAMP.T, np.rot90(RAMP, -1), np.rot90(RAMP, 2).T, np.rot90(RAMP)], 1,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_image_files_of_every_mode(name, tmp_path):
    content, pixels, off = FILES[name]
    expected = np.asarray(pixels, float)
    expected = expected[..., None] if expected.ndim == 2 else expected
    got = data.read_image(content)
    assert (got.dtype, got.shape) == (np.uint8, expected.shape)
    assert np.abs(got - expected).max() <= off
    (tmp_path / "picture").write_bytes(content)  # its ending does not matter
    np.testing.assert_array_equal(data.read_image(tmp_path / "picture"), got)
    grey, colour = data.read_image(content, 1), data.read_image(content, 3)
    weights = [0.299, 0.587, 0.114] if got.shape[-1] == 3 else [1.0]  # ITU-R 601, as everywhere
    assert np.abs(grey[..., 0] - got @ weights).max() <= 1
    np.testing.assert_array_equal(colour, np.broadcast_to(got, (*got.shape[:2], 3)))
    assert data.read_image(content, size=(3, 11)).shape == (3, 11, got.shape[-1])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is no image that can be read"),
        (b"hello world", "is no image that can be read"),
        (b"%PDF-1.4 " + bytes(50), "is no image that can be read"),
        (encode(RGB)[:20], "is damaged"),
        (encode(RGB)[:60], "is damaged"),
        (encode(RGB)[:-25], "is damaged"),
        (encode(RGB)[:50] + bytes(4) + encode(RGB)[54:], "is damaged"),
        (encode(RGB.resize((64, 64)), "JPEG")[:-300], "is damaged"),
        (encode(RGB.quantize(), "GIF")[:-20], "is damaged"),
    ],
)
def test_image_files_that_cannot_be_read_say_which_and_why(content, says, tmp_path):
    with pytest.raises(DataError, match=f"^upload .*{says}|^upload: .*{says}"):
        data.read_image(content, name="upload")
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as error:
        data.read_image(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("reader", ["read_image", "read_middle", "labels", "export"])
def test_all_readers_have_one_limit_of_pixels(tmp_path, reader):
    """170 million pixels: one reader refused them, others took half a gigabyte."""
    big = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 17_000, 10_000, 8, 0, 0, 0, 0))
    file = tmp_path / "big.png"
    file.write_bytes(big + png_chunk(b"IDAT", zlib.compress(bytes(10))))
    read = {
        "read_image": data.read_image,
        "read_middle": lambda path: data.read_middle(path, 1, (8, 8)),
        "labels": lambda path: label_numbers(path, path),
        "export": lambda path: export_predict.read(path, (8, 8, 1)),
    }[reader]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of its own limit
        with pytest.raises(ValueError, match=r"(17,000 x 10,000|more than 89,478,485) pixels"):
            read(file)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


STROKE = np.zeros((6, 8), np.uint8)
STROKE[2:4, 1:7] = 255


@pytest.mark.parametrize("reader", ["read_image", "read_middle", "export"])
@pytest.mark.parametrize(
    ("ink", "expected"),
    [(255, STROKE), (250, np.where(STROKE, 250, 0)), (0, 255 - STROKE), (200, np.where(STROKE, 200, 255))],
)
def test_strokes_on_a_transparent_ground_are_seen(tmp_path, ink, expected, reader):
    """White ones on black, all others on white."""
    picture = np.stack([np.full_like(STROKE, ink)] * 3 + [STROKE], -1)
    Image.fromarray(picture).save(tmp_path / "x.png")
    found = {
        "read_image": lambda path: data.read_image(path, 1),
        "read_middle": lambda path: read_part(path, lambda h, w: (0, 0, w, h), (6, 8), 1),
        "export": lambda path: export_predict.read(path, (6, 8, 1))[0],
    }[reader](tmp_path / "x.png")
    np.testing.assert_array_equal(found[..., 0], expected)


def test_a_transparent_or_a_white_image_stays_white():
    for alpha in (0, 255):
        picture = np.stack([np.full_like(STROKE, 255)] * 3 + [np.full_like(STROKE, alpha)], -1)
        assert (data.read_image(encode(picture)) == 255).all()


def test_image_files_that_are_not_there(tmp_path, monkeypatch):
    for path, says in [
        (tmp_path / "no.png", "there is no such file"),
        (tmp_path, "is a folder; expected an image file"),
    ]:
        with pytest.raises(DataError, match=says):
            data.read_image(path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be read: Not a directory"):
        data.read_image(tmp_path / "file/x.png")
    with pytest.raises(DataError, match="1 channel or 3, not 2"):
        data.read_image(encode(RGB), 2)
    monkeypatch.setattr(image_files, "MOST_PIXELS", RGB.width * RGB.height - 1)
    with pytest.raises(DataError, match=f"{RGB.width} x {RGB.height} pixels, the most is"):
        data.read_image(encode(RGB))


@pytest.mark.parametrize(
    ("images", "labels", "classes", "says"),
    [
        ((4, 3, 8, 8), (4,), ("a",), r"look like \(N, C, H, W\).*images.transpose\(0, 2, 3, 1\)"),
        (
            (4, 8, 8, 3),
            (4, 10),
            ("a",),
            r"labels of shape \(4, 10\), expected \(4,\); for one-hot labels, use labels.argmax",
        ),
        ((4, 8, 8, 3), (4,), 10, r"the names of the classes, for instance .*, got 10"),
        ((4, 8, 8, 3), (4,), "abc", r"the names of the classes, for instance .*, got 'abc'"),
    ],
)
def test_arrays_of_other_libraries(images, labels, classes, says):
    with pytest.raises(DataError, match=says):
        data.Dataset(np.zeros(images, np.uint8), np.zeros(labels, np.int32), classes)


def test_flat_images_of_one_row_are_no_mistake():
    assert data.Dataset(np.zeros((2, 1, 9, 5), np.uint8), np.zeros(2, np.int32), ("a",)).image == (1, 9, 5)
