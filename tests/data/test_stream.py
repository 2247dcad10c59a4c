"""Images streamed from files: their order, their crops, damaged files, threads and processes that end."""

import itertools
import json
import multiprocessing
import re
import signal
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from fitting import fit
from PIL import Image
from test_data import FILES, encode, numbers, prepare

import jaxcnn as cnn
from jaxcnn import cli, data, losses, train
from jaxcnn.data.batches import epoch_order
from jaxcnn.data.images import read_image, read_part
from jaxcnn.data.stream import center_box, random_box
from jaxcnn.errors import DataError, Stopped, UserError

SIZE = (16, 16)
COUNTS = {"ant": 14, "bee": 9}


def noise(number: int) -> np.ndarray:
    """A picture of a size of its own; its red is its number, so that it can be told from all others."""
    rng = np.random.default_rng(number)
    picture = rng.integers(0, 256, (*rng.integers(20, 60, 2), 3)).astype(np.uint8)
    picture[..., 0] = number
    return picture


@pytest.fixture
def folder(tmp_path) -> str:
    """train and val, of two classes: pictures 0 to 22, and 100 to 106."""
    of_train, of_val = itertools.count(), itertools.count(100)
    for split, name, count, number in (
        ("train", "ant", COUNTS["ant"], of_train),
        ("train", "bee", COUNTS["bee"], of_train),
        ("val", "ant", 3, of_val),
        ("val", "bee", 4, of_val),
    ):
        (tmp_path / split / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / split / name / f"{i:03}.png").write_bytes(encode(noise(next(number))))
    return str(tmp_path)


def streamed(folder: str, **settings) -> data.Stream:
    return data.stream(folder, **{"size": SIZE, "workers": 2, **settings})


def all_of(batches) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def same(actual, expected) -> None:
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


# --- which examples ----------------------------------------------------------------------------------------------


def test_a_stream_says_what_it_is(folder):
    stream = streamed(folder)
    assert (len(stream), stream.classes, stream.name, stream.image) == (23, ("ant", "bee"), folder, (16, 16, 3))
    assert repr(stream) == f"Stream({folder!r}, 23 images as 16x16x3, 2 classes)"
    images, labels = next(stream.batches(5))
    assert (images.shape, images.dtype) == ((5, 16, 16, 3), np.uint8)
    assert (labels.shape, labels.dtype) == ((5,), np.int32)
    grey = Path(folder) / "grey"
    (grey / "only").mkdir(parents=True)
    for i in range(5):
        (grey / f"only/{i}.png").write_bytes(encode(np.zeros((4, 4), np.uint8)))
    assert streamed(str(grey), split="test").image == (16, 16, 1)  # divided: every fifth is the test's


def test_the_order_is_that_of_the_same_set_in_memory(folder):
    root = f"{folder}/train"  # without splits of its own: it is divided
    seen = set()
    for split, seed, epoch in (("train", 0, 0), ("train", 0, 1), ("train", 7, 1), ("test", 0, 0)):
        stream, whole = streamed(root, split=split), data.load(root, split, size=SIZE)
        size = len(whole) // 3
        images, labels = all_of(stream.batches(size, seed, epoch))
        expected, expected_labels = all_of(data.batches(whole, size, seed, epoch))
        assert numbers(images) == numbers(expected)
        np.testing.assert_array_equal(labels, expected_labels)
        seen.add(tuple(numbers(images)))
    assert len(seen) == 4


def test_the_same_bytes_from_any_number_of_threads_and_processes(folder):
    expected = all_of(streamed(folder, workers=1).batches(4, 3, 2))
    same(all_of(streamed(folder, workers=4).batches(4, 3, 2)), expected)
    same(all_of(streamed(folder, workers=1, processes=2).batches(4, 3, 2)), expected)
    assert (all_of(streamed(folder).batches(4, 3, 1))[0] != expected[0]).any()


@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_an_epoch_can_be_begun_at_any_batch(folder, start):
    stream = streamed(folder)
    whole, rest = list(stream.batches(4, 3, 2)), list(stream.batches(4, 3, 2, start))
    assert len(whole) == 5
    assert len(rest) == max(0, 5 - start)
    for got, expected in zip(rest, whole[start:], strict=True):
        same(got, expected)


@pytest.mark.parametrize("shards", [1, 2, 3, 6])
def test_shards_together_are_the_batch(folder, shards):
    stream = streamed(folder)
    in_memory = data.Dataset(np.arange(23).reshape(23, 1, 1, 1), np.zeros(23, int), ("one",))
    for whole, parts in (
        (stream.batches(6, 1, 0, 1), [stream.batches(6, 1, 0, 1, (i, shards)) for i in range(shards)]),
        (stream.padded_batches(6), [stream.padded_batches(6, (i, shards)) for i in range(shards)]),
        (data.batches(in_memory, 6, 1), [data.batches(in_memory, 6, 1, shard=(i, shards)) for i in range(shards)]),
    ):
        for batch, *pieces in zip(whole, *parts, strict=True):
            assert all(len(piece[0]) == 6 // shards for piece in pieces)
            same([np.concatenate(piece) for piece in zip(*pieces, strict=True)], batch)


def test_padded_batches_give_every_example_once_in_order(folder):
    stream = streamed(folder)
    batches = list(stream.padded_batches(10))
    images, labels, weights = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert [len(batch[0]) for batch in batches] == [10, 10, 10]
    assert weights.tolist() == [1] * 23 + [0] * 7
    assert weights.dtype == np.float32
    assert numbers(images[:23]) == list(range(23))
    assert not images[23:].any()
    assert labels[:23].tolist() == [0] * 14 + [1] * 9
    for i in (0, 14, 22):  # the middle, whatever the training images' crop is
        picture = noise(i)
        middle = read_part(encode(picture), lambda h, w: center_box(h, w, SIZE), SIZE, 3)
        np.testing.assert_array_equal(images[i], middle)


def test_splits_of_a_folder(folder):
    for split in ("val", "test"):  # `test`, where there is none, is the validation set
        images, labels, _ = next(streamed(folder, split=split).padded_batches(7))
        assert numbers(images) == list(range(100, 107))
        assert labels.tolist() == [0] * 3 + [1] * 4
    assert numbers(next(streamed(folder, split="train[-3:]").padded_batches(3))[0]) == [20, 21, 22]
    assert len(streamed(folder, split="train[:50%]")) == 11


def test_a_prepared_set(tmp_path):
    flowers = [(encode(noise(i)), i % 2) for i in range(12)]
    prepare(tmp_path / "tfds", "my_flowers", {"train": flowers, "validation": flowers[:4]}, ["rose", "tulip"])
    by_name = data.stream("my_flowers", data_dir=tmp_path, size=SIZE)
    assert (len(by_name), by_name.classes, by_name.image) == (12, ("rose", "tulip"), (16, 16, 3))
    by_path = streamed(str(tmp_path / "tfds/my_flowers/1.0.0"))
    whole = data.load("my_flowers", "train", tmp_path, SIZE)
    images, labels = all_of(by_name.batches(4, 5, 1))
    same((images, labels), all_of(by_path.batches(4, 5, 1)))
    expected, expected_labels = all_of(data.batches(whole, 4, 5, 1))
    assert numbers(images) == numbers(expected)
    np.testing.assert_array_equal(labels, expected_labels)
    assert len(data.stream("my_flowers", "test", tmp_path)) == 4
    prepare(tmp_path, "only", {"train": flowers}, ["rose", "tulip"])
    images, _, _ = next(data.stream("only", "test", tmp_path, size=SIZE).padded_batches(2))
    assert numbers(images) == numbers(data.load("only", "test", tmp_path, SIZE).images)


def test_cifar10_is_the_same_streamed_and_in_memory(data_dir):
    stream = data.stream("cifar10", "test[:300]", data_dir, size=(28, 28), crop="center")
    whole = data.load("cifar10", "test[:300]", data_dir)
    assert stream.classes == whole.classes
    streamed, in_memory = all_of(stream.batches(100, 1, 2)), all_of(data.batches(whole, 100, 1, 2))
    same((streamed[0], streamed[1]), (in_memory[0][:, 2:30, 2:30], in_memory[1]))  # 7/8 of 32 pixels


# --- which part of a picture -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (64, 64), (32, 160), (320, 256)])
def test_the_center_crop_is_resize_and_cut(height, width):
    """Of sizes for which nothing is rounded: the shorter side to 32, and 28x28 out of the middle."""
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    got = read_part(encode(picture), lambda h, w: center_box(h, w, (28, 28)), (28, 28), 3)
    shorter = min(height, width)
    small = Image.fromarray(picture).resize((32 * width // shorter, 32 * height // shorter), Image.Resampling.BILINEAR)
    left, top = (small.width - 28) // 2, (small.height - 28) // 2
    expected = np.asarray(small.crop((left, top, left + 28, top + 28)))
    # From 6 times the size on, Pillow first takes means of blocks; noise shows it most.
    assert np.abs(got.astype(int) - expected).max() <= (12 if shorter >= 6 * 32 else 1)


def test_the_center_crop_of_a_ramp_by_hand():
    """Under a symmetric filter a ramp stays one: a pixel's value is its place in the picture, 4 times as large."""
    rows, columns = np.mgrid[:96, :128]
    picture = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    got = read_part(encode(picture), lambda h, w: center_box(h, w, (21, 28)), (21, 28), 3)
    y = (96 - 4 * 21) / 2 + 4 * (np.arange(21) + 0.5) - 0.5
    x = (128 - 4 * 28) / 2 + 4 * (np.arange(28) + 0.5) - 0.5
    np.testing.assert_allclose(got[..., 0], np.broadcast_to(y[:, None], (21, 28)), atol=0.51)
    np.testing.assert_allclose(got[..., 1], np.broadcast_to(x, (21, 28)), atol=0.51)


def test_random_crops_have_the_areas_and_ratios_of_szegedy_et_al():
    rng, count, height, width = np.random.default_rng(0), 4000, 400, 500
    boxes = np.array([random_box(height, width, rng) for _ in range(count)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= width).all()
    assert (bottom <= height).all()
    w, h = right - left, bottom - top
    area, ratio = w * h / (height * width), w / h
    assert 0.079 < area.min() < 0.09  # sides are rounded to whole pixels
    assert area.max() > 0.9
    assert 0.74 < ratio.min() < ratio.max() < 1.35
    # Up to half the area every ratio fits in, so that nothing is drawn again and both are as they were drawn.
    small = area < 0.5
    deviations = 5 / np.sqrt(small.sum())  # five standard deviations of the mean, in those of one draw
    assert abs(area[small].mean() - 0.29) < deviations * 0.42 / np.sqrt(12)
    assert abs(np.log(ratio[small]).mean()) < deviations * 2 * np.log(4 / 3) / np.sqrt(12)
    assert abs((left[small] / (width - w[small])).mean() - 0.5) < deviations / np.sqrt(12)
    assert abs((top[small] / (height - h[small])).mean() - 0.5) < deviations / np.sqrt(12)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(10, 1000, (493, 0, 506, 10)), (1000, 10, (0, 493, 10, 506)), (1, 1, (0, 0, 1, 1)), (1, 9, (4, 0, 5, 1))],
)
def test_random_crops_of_pictures_that_hardly_any_fits_in(height, width, box):
    boxes = {random_box(height, width, np.random.default_rng(seed)) for seed in range(50)}
    assert box in boxes
    assert all(r - l <= 13 and b - t <= 13 and min(r - l, b - t) > 0 for l, t, r, b in boxes)  # noqa: E741


def test_random_crops_are_resized_and_half_are_mirrored(tmp_path):
    """A picture whose red is the column and whose green is the row shows where its crop was."""
    rows, columns = np.mgrid[:250, :250]
    (tmp_path / "only").mkdir()
    for i in range(5):
        (tmp_path / f"only/{i}.png").write_bytes(encode(np.stack([columns, rows, 0 * rows], -1).astype(np.uint8)))
    stream = streamed(str(tmp_path))
    images = np.concatenate([all_of(stream.batches(4, 0, epoch))[0] for epoch in range(25)]).astype(float)
    x, y = images[:, 8, 1:-1, 0], images[:, 1:-1, 8, 1]  # at the borders, what is outside counts less
    mirrored = x[:, -1] < x[:, 0]
    assert 25 < mirrored.sum() < 75  # 50, and five standard deviations of 5
    w, h = np.abs(x[:, -1] - x[:, 0]) * 16 / 13, (y[:, -1] - y[:, 0]) * 16 / 13
    area = w * h / 250**2
    assert 0.06 < area.min() < 0.2 < 0.8 < area.max() < 1.03
    assert 0.70 < (w / h).min() < (w / h).max() < 1.43
    assert len(np.unique(np.stack([x[:, 0], y[:, 0], w, h]), axis=1).T) == 100


# --- files of every kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_part_of_an_image_file_is_read_as_the_whole_is(name):
    content = FILES[name][0]
    for channels in (1, 3):
        whole = read_image(content, channels)
        got = read_part(content, lambda h, w: (0, 0, w, h), whole.shape[:2], channels)
        assert np.abs(got.astype(int) - whole).max() <= 1  # made grey before or after: rounded in another order
        part = read_part(content, lambda h, w: (1, 2, w, h), (whole.shape[0] - 2, whole.shape[1] - 1), channels, True)
        assert np.abs(part.astype(int) - whole[2:, 1:][:, ::-1]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpeg_files_are_decoded_small(orientation, monkeypatch):
    """Whatever way the camera was held: the picture is smooth, so that a smaller one shows the same."""
    rows, columns = np.mgrid[:602, :803]
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = np.stack([rows // 3, columns // 4, rows * 0 + 90], -1).astype(np.uint8)
    content = encode(picture, "JPEG", quality=95, subsampling=0, exif=exif)
    decoded = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: decoded.append(self.size) or resize(self, *a, **k))
    box = (120, 200, 520, 500)
    for size, gap, reduced in (((20, 30), 1, 8), ((60, 80), 1, 4), ((60, 80), 3, 1), ((300, 400), 1, 1)):
        got = read_part(content, lambda h, w: box, size, 3, gap=gap)
        assert decoded[-1] in [(-(-803 // reduced), -(-602 // reduced)), (-(-602 // reduced), -(-803 // reduced))]
        upright = Image.fromarray(read_image(content))
        expected = np.asarray(resize(upright, size[::-1], Image.Resampling.BILINEAR, box))
        assert np.abs(got.astype(int) - expected).max() <= 3


def test_odd_metadata_is_no_damage():
    """In a thread Pillow's warning cannot be silenced, as `read_image` does it; the picture is read all the same."""
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(noise(3), "JPEG", exif=exif.tobytes()[:-8])
    with pytest.warns(UserWarning, match="Corrupt EXIF data"):
        got = read_part(content, lambda h, w: (0, 0, w, h), noise(3).shape[:2], 3)
    np.testing.assert_array_equal(got, read_image(content))


# --- damaged files -----------------------------------------------------------------------------------------------


def test_a_damaged_file_stops_with_its_name(folder):
    stream = streamed(folder)
    bad = Path(folder) / "train/bee/004.png"  # number 18
    whole = encode(noise(18))
    for content, says in ((whole[:-40], "the image is damaged"), (b"", "no image that can be read"), (None, "no such")):
        bad.unlink() if content is None else bad.write_bytes(content)
        for batches in (stream.batches(4), stream.padded_batches(4)):
            with pytest.raises(DataError, match=f"bee/004.png.*{says}"):
                list(batches)
    bad.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"bee/004.png.*the image is damaged"):
        streamed(folder)  # of a small set the sample is all of it


def test_a_damaged_file_is_skipped_with_one_warning(folder):
    expected = numbers(all_of(streamed(folder).batches(23))[0])
    bad = Path(folder) / "train/bee/004.png"
    bad.write_bytes(bad.read_bytes()[:100])
    stream = streamed(folder, damaged="skip")
    with pytest.warns(UserWarning, match=r"skipped: .*bee/004.png: the image is damaged") as warned:
        images, labels = all_of(stream.batches(23))
    assert len(warned) == 1
    assert warned[0].filename == __file__
    place = expected.index(18)
    next_one = expected[(place + 1) % 23]
    assert numbers(images) == [next_one if number == 18 else number for number in expected]
    assert labels[place] == (next_one >= 14)
    assert (images[place] != images[(place + 1) % 23]).any()  # cropped in another way
    same(all_of(stream.batches(23)), (images, labels))  # it has been told
    *_, weights = zip(*stream.padded_batches(23), strict=True)
    assert np.flatnonzero(weights[0] == 0).tolist() == [18]


def test_a_set_of_damaged_files_comes_to_an_end(folder):
    for path in Path(folder).rglob("*.png"):
        path.write_bytes(b"")
    stream = streamed(folder, damaged="skip")
    with pytest.raises(DataError, match=r"no image that can be read .*23 examples in a row: is the data still there"):
        next(stream.batches(4))


def test_a_damaged_record_is_named(tmp_path):
    examples = [(encode(noise(i)), 0) for i in range(6)] + [(b"no image", 1)]
    prepare(tmp_path, "bad", {"train": examples, "test": examples}, ["x", "y"])
    with pytest.raises(DataError, match="bad train example 6 is no image"):
        list(data.stream("bad", data_dir=tmp_path, size=SIZE).batches(7))
    stream = data.stream("bad", data_dir=tmp_path, size=SIZE, damaged="skip")
    with pytest.warns(UserWarning, match="skipped: bad train example 6"):
        assert all_of(stream.batches(7))[1].tolist() == [0] * 7
    damaged = tmp_path / "bad/1.0.0/bad-train.array_record-00000-of-00001"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(DataError, match=r"bad .*cannot be read"):
        list(data.stream("bad", data_dir=tmp_path, size=SIZE).batches(7))


def test_a_record_without_a_label_is_named(tmp_path):
    prepare(tmp_path, "secret", {"train": [(encode(noise(0)), 0)], "test": [(encode(noise(0)), -1)]}, ["x", "y"])
    with pytest.raises(DataError, match="secret test example 0: its label is -1, expected 0 to 1"):
        list(data.stream("secret", "test", tmp_path).batches(1))


# --- what cannot be streamed -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": (0, 16)}, r"size=\(0, 16\)\): expected \(height, width\) of 1 pixel or more"),
        ({"size": (16,)}, r"expected \(height, width\)"),
        ({"crop": "middle"}, "crop='middle'.: expected 'random' or 'center'"),
        ({"damaged": "ignore"}, "damaged='ignore'.: expected 'stop' or 'skip'"),
        ({"workers": 0}, "workers=0, processes=0.: expected 1 or more threads"),
        ({"processes": -1}, "0 or more processes"),
        ({"split": "dev"}, "has the splits train and val, not 'dev'"),
        ({"split": "train[9:3]"}, r"the split train\[9:3\] is empty"),
        ({"split": "train[a]"}, "expected a name, or a name with a slice"),
    ],
)
def test_settings_that_make_no_sense(folder, settings, says):
    with pytest.raises(DataError, match=says):
        streamed(folder, **settings)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": 24}, "a batch of 24 is larger than the set of 23 images"),
        ({"size": 0}, "expected a size of 1 or more"),
        ({"size": 4, "start": -1}, "a batch of 0 or more"),
        ({"size": 10, "shard": (0, 3)}, "a batch of 10 cannot be divided among 3 shards"),
        ({"size": 10, "shard": (2, 2)}, r"shard \(2, 2\): expected \(i, n\)"),
        ({"size": 10, "shard": (0, 0)}, r"shard \(0, 0\): expected \(i, n\)"),
    ],
)
def test_batches_that_make_no_sense(folder, arguments, says):
    stream = streamed(folder)
    with pytest.raises(DataError, match=says):
        stream.batches(**arguments)  # at once, and not only when the first is asked for
    if arguments["size"] == 10:
        with pytest.raises(DataError, match=says):
            stream.padded_batches(**arguments)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./gone", "there is no folder gone"),
        ("digits", "fit in memory: jaxcnn.data.load"),
        ("cifar10", "cifar10 was not found under .*pip install tensorflow"),
        ("mnits", "unknown dataset 'mnits': did you mean mnist"),
    ],
)
def test_sets_that_are_not_there(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        data.stream(name, data_dir=tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(DataError, match="has no folders in it; expected one for each class"):
        streamed(str(tmp_path))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/notes.txt").write_text("no image")
    with pytest.raises(DataError, match="holds no images: the dataset is empty"):
        streamed(str(tmp_path))


# --- threads and memory ------------------------------------------------------------------------------------------


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "grain" in thread.name]


def ended(seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while readers() and time.monotonic() < until:
        time.sleep(0.01)
    return not readers()


def test_threads_end_with_the_epoch_or_when_it_is_left(folder):
    stream = streamed(folder)
    assert ended()
    list(stream.batches(4))
    assert ended()
    batches = stream.batches(4)
    next(batches)
    assert readers()
    batches.close()
    assert ended()
    for _ in stream.batches(4):
        break
    assert ended()
    (Path(folder) / "train/ant/003.png").write_bytes(b"")
    with pytest.raises(DataError):
        list(stream.batches(4))
    assert ended()


def test_processes_end_and_say_which_file_is_damaged(folder):
    stream = streamed(folder, workers=1, processes=2)
    (Path(folder) / "train/bee/004.png").write_bytes(b"")  # number 18
    place = np.flatnonzero(epoch_order(23, 1, 0) == 18).item()
    batches = stream.batches(4, seed=1)
    assert place >= 4
    for _ in range(place // 4):
        next(batches)
    with pytest.raises(DataError, match=r"bee/004.png is no image that can be read"):
        next(batches)
    assert not multiprocessing.active_children()


def test_no_more_is_read_ahead_than_a_batch(folder, monkeypatch):
    stream = streamed(folder, workers=2)
    read = []
    get = type(stream.source).__getitem__
    monkeypatch.setattr(type(stream.source), "__getitem__", lambda self, i: read.append(i) or get(self, i))
    batches = stream.batches(6)
    assert not read  # nothing before the first is asked for
    for given in range(1, 3):
        next(batches)
        until = time.monotonic() + 5
        while len(read) < 6 * given + 6 and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)  # for more to come, if it did
        assert len(read) == 6 * given + 6
    batches.close()


def test_prefetch_puts_batches_on_the_device_ahead_of_their_use():
    put = []

    def source():
        try:
            yield from ((np.full(2, i), np.int32(i)) for i in range(6))
        finally:
            put.append("closed")

    def place(batch):
        put.append(int(batch[1]))
        return jax.device_put(batch)

    batches = data.prefetch(source(), 2, place)
    assert not put
    images, label = next(batches)
    assert isinstance(images, jax.Array)
    assert (int(label), put) == (0, [0, 1, 2])
    assert (int(next(batches)[1]), put) == (1, [0, 1, 2, 3])
    assert [int(label) for _, label in batches] == [2, 3, 4, 5]
    assert put[-2:] == [5, "closed"]

    put.clear()
    batches = data.prefetch(source(), 0, place)
    next(batches)
    assert put == [0]
    batches.close()
    assert put == [0, "closed"]
    assert [int(label) for _, label in data.prefetch([(0, 1), (2, 3)])] == [1, 3]
    with pytest.raises(UserError, match=r"depth=-1.: expected 0 or more"):
        data.prefetch([], -1)


# --- to train with -----------------------------------------------------------------------------------------------


def test_a_run_on_a_stream_is_stopped_and_goes_on(folder, tmp_path, monkeypatch):
    """In the middle of an epoch, at the next batch: the others are not read again."""
    model = cnn.serial(pool=cnn.avg_pool(4), flat=cnn.flatten, drop=cnn.dropout(0.1), head=cnn.dense(2))
    learn, test = streamed(folder), streamed(folder, split="test")
    settings = {"validation": test, "test": test, "epochs": 3, "batch_size": 5, "show": False}
    whole = fit(model, learn, **settings)
    with monkeypatch.context() as patch:
        read = data.Stream.batches

        def until(stream, size, seed, epoch, start, shard):
            for number, batch in enumerate(read(stream, size, seed, epoch, start, shard), start):
                if (epoch, number) == (2, 3):
                    signal.raise_signal(signal.SIGTERM)
                yield batch

        patch.setattr(data.Stream, "batches", until)
        with pytest.raises(Stopped):
            fit(model, learn, run=tmp_path / "run", **settings)
    again = fit(model, learn, run=tmp_path / "run", resume=True, **settings)

    def untimed(records):
        return [{k: v for k, v in r.items() if k not in ("seconds", "images_per_second")} for r in records]

    assert untimed([*again.history, again.result]) == untimed([*whole.history, whole.result])
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["image"], config["preprocess"]["mean"]) == ([16, 16, 3], [0.485, 0.456, 0.406])


def test_what_is_measured_leaves_out_the_damaged(folder):
    (Path(folder) / "val/bee/002.png").write_bytes(b"")
    stream = streamed(folder, split="test", damaged="skip")
    model = cnn.serial(flat=cnn.flatten, head=cnn.dense(2))
    params, state = model.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    evaluate = train.make_evaluate(model, losses.softmax_cross_entropy, batch_size=4)
    with pytest.warns(UserWarning, match="skipped: .*bee/002.png"):
        found = evaluate(params, state, stream)
    images, labels, weights = all_of_three(stream.padded_batches(7))
    outputs, _ = model.apply(params, state, data.to_float(images[weights > 0]))
    assert (found.outputs.shape, weights.tolist()) == ((7, 2), [1, 1, 1, 1, 1, 0, 1])
    assert found.metrics["accuracy"] == (outputs.argmax(1) == labels[weights > 0]).mean()


def all_of_three(batches):
    return [np.concatenate(each) for each in zip(*batches, strict=True)]


def test_a_part_can_be_held_out(folder):
    learn, held = streamed(folder).hold_out(0.25)
    assert (len(learn), len(held)) == (17, 6)
    every = {*numbers(all_of(learn.batches(17))[0]), *numbers(all_of(held.batches(6))[0])}
    assert every == set(range(23))
    assert numbers(all_of(streamed(folder).hold_out(0.25)[1].batches(6))[0]) == numbers(all_of(held.batches(6))[0])
    for share in (0, 1, 0.01):
        with pytest.raises(DataError, match="to hold out"):
            streamed(folder).hold_out(share)


def test_the_command_line_streams(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import jaxcnn as cnn\ndef net(classes): return cnn.serial(cnn.avg_pool(16), cnn.flatten, cnn.dense(classes))"
    )
    options = ["--batch-size", "4", "--epochs", "1", "--stream", "--damaged", "skip", "--workers", "2"]
    cli.main(["train", f"{tmp_path}/net.py:net", "--data", folder, *options, "--run", str(tmp_path / "run")])
    assert "21 images to train on, 2 to validate, 7 to test" in capsys.readouterr().out
    result = json.loads((tmp_path / "run/result.json").read_text())
    cli.main(["evaluate", str(tmp_path / "run"), "--json"])
    measured = json.loads(capsys.readouterr().out)
    assert (measured["accuracy"], measured["loss"]) == (result["test_accuracy"], result["test_loss"])
    cli.main(["predict", str(tmp_path / "run"), f"{folder}/val/ant/000.png"])
    assert re.search(r"000.png  (ant|bee)  \d", capsys.readouterr().out)
