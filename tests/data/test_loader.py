"""Batches of other libraries in `fit`: what is learned is what is learned from the same batches in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import same

import jaxcnn as cnn
from jaxcnn import train
from jaxcnn.data import Examples, Loader, batches
from jaxcnn.data.loader import as_data
from jaxcnn.errors import DataError, UserError
from jaxcnn.train.fit import _check_order as check_order

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (22, 6, 6, 1), np.uint8)
LABELS = np.arange(22) % 2
MEMORY = Examples(IMAGES, LABELS.astype(np.int32), ("a", "b"), "memory")
OBJECTIVE = train.Objective(preprocess=cnn.data.to_float)


def model() -> cnn.Layer:
    return cnn.serial(flat=cnn.flatten, drop=cnn.dropout(0.2), head=cnn.dense(2))


def fit(data: Any, **settings: Any) -> train.FitResult:
    given: dict[str, Any] = {"optimizer": optax.adam(0.01), "epochs": 3, "show": False, **settings}
    return train.fit(model(), data, given.pop("objective", OBJECTIVE), **given)


def of_epoch(epoch: int) -> Any:
    """The batches of MEMORY in the order of an epoch; in order for an evaluation, with a smaller last one."""
    if epoch:
        return batches(MEMORY, 4, 0, epoch)
    return ((IMAGES[first : first + 4], LABELS[first : first + 4]) for first in range(0, 22, 4))


def figures(fitted: train.FitResult) -> Any:
    other = ("seconds", "images_per_second")
    return [{k: v for k, v in record.items() if k not in other} for record in fitted.history]


def test_a_function_of_the_epoch_gives_the_figures_of_the_same_batches_in_memory() -> None:
    loader = Loader(of_epoch, length=22, classes=("a", "b"))
    assert (len(loader), loader.size, loader.ordered) == (22, 4, True)
    expected = fit(MEMORY, validation=MEMORY, test=MEMORY, batch_size=4)
    found = fit(loader, validation=loader, test=loader)
    same(found.params, expected.params)
    for a, b in zip(figures(found), figures(expected), strict=True):
        assert a == pytest.approx(b, rel=1e-6)  # validation in batches of 4 and of 256: sums in another order
    assert found.result["test_accuracy"] == expected.result["test_accuracy"]
    assert found.test is not None
    assert found.test.outputs.shape == (22, 2)


@pytest.mark.parametrize("size", [3, 4, 8, 30])
def test_an_evaluation_has_every_example_once(size: int) -> None:
    *inputs, there = zip(*Loader(of_epoch, length=22).padded_batches(size), strict=True)
    there = np.concatenate(there) > 0
    assert there.sum() == 22
    assert {len(x) for x in inputs[0]} == {size}
    same(np.concatenate(inputs[0])[there], IMAGES)
    same(np.concatenate(inputs[1])[there], LABELS)


class Killed(Exception):
    pass


class Kills(train.Callback):
    def step(self, training: train.Training) -> None:
        if training.epoch == 2 and training.place.position == 3:
            training._save(wait=True)
            raise Killed


def test_a_run_is_resumed_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    read: list[tuple[int, int]] = []

    class Sliced(list[Any]):
        """A list that notes which batches are taken."""

        def __getitem__(self, which: Any) -> Any:
            read.append((which.start, len(self)) if isinstance(which, slice) else (which, 0))
            return super().__getitem__(which)

    loader = Loader(lambda epoch: Sliced(of_epoch(epoch)))
    whole = fit(loader)
    with pytest.raises(Killed):
        fit(loader, run=tmp_path / "run", callbacks=[Kills()])
    read.clear()
    again = fit(loader, run=train.Run(tmp_path / "run", resume=True))
    assert (3, 5) in read  # a list is not read from the start again
    same(again.params, whole.params)
    with pytest.raises(UserError, match="the train data is not what the run began with"):
        fit(Loader(lambda epoch: [(IMAGES[:4] + 1, LABELS[:4])] * 5), run=train.Run(tmp_path / "run", resume=True))


class Shuffled:
    """A loader with a state of its own, and a length."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Any:
        self.epoch += 1
        return batches(MEMORY, 4, 0, self.epoch)


def test_a_loader_of_unknown_order_is_resumed_with_a_warning(tmp_path: Path) -> None:
    assert isinstance(as_data(Shuffled()), Loader)
    with pytest.raises(Killed):
        fit(Shuffled(), run=tmp_path / "run", callbacks=[Kills()])
    with pytest.warns(UserWarning, match="the order of its batches may not be that of the run before"):
        again = fit(Shuffled(), run=train.Run(tmp_path / "run", resume=True))
    assert [record["step"] for record in again.history] == [5, 10, 15]


def test_several_processes_need_a_known_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="several processes need the batches in the same order: pass a function"):
        check_order(Loader(Shuffled()), resume=False)
    check_order(Loader(of_epoch, length=22), resume=True)


def test_dicts_and_weights_and_several_inputs() -> None:
    rows = {"image": IMAGES[:4], "mask": IMAGES[:4] > 9, "label": LABELS[:4].tolist(), "w": np.ones(4)}
    loader = Loader([rows, rows], keys=(("image", "mask"), "label", "w"))
    (images, masks), labels, weights = next(loader.batches(4))
    same((images, masks, labels), (IMAGES[:4], IMAGES[:4] > 9, LABELS[:4]))
    assert labels.dtype == np.int32
    assert weights.dtype == np.float32
    nested = Loader([{"inputs": {"image": rows["image"], "mask": rows["mask"]}, "label": rows["label"]}],
                    keys=("inputs", "label"))  # fmt: skip

    def forward(net: Any, inputs: Any) -> Any:
        return net.head((inputs["image"] * inputs["mask"]).mean((1, 2)))

    net = cnn.network(forward, head=cnn.dense(2))
    loaded = train.fit(net, nested, epochs=1, show=False, validation=nested)
    memory = Examples({"image": IMAGES[:4], "mask": IMAGES[:4] > 9}, LABELS[:4])
    held = train.fit(net, memory, epochs=1, batch_size=4, show=False)
    assert loaded.history[0]["loss"] == pytest.approx(held.history[0]["loss"], rel=1e-6)
    assert held.outputs(memory.inputs).shape == (4, 2)
    with pytest.raises(DataError, match="have no 'label', they have image, lable: say which"):
        Loader([{"image": IMAGES[:4], "lable": LABELS[:4]}]).size  # noqa: B018


def test_images_with_the_channels_first() -> None:
    first = IMAGES.transpose(0, 3, 1, 2)
    same(Loader([(first, LABELS)], channels_first=True).inputs, IMAGES)
    assert Loader([(first, LABELS)], channels_first=False).inputs.shape == (22, 1, 6, 6)
    with pytest.raises(DataError, match=r"\(22, 1, 6, 6\) look like \(N, C, H, W\).*channels_first=True"):
        Loader([(first, LABELS)]).size  # noqa: B018


ONE = [(IMAGES[:4], LABELS[:4])]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Loader(iter(ONE)), "can be iterated only once.*pass a function"),
        (lambda: as_data(batches(MEMORY, 4)), "generator can be iterated only once"),
        (lambda: Loader(3), "expected an iterable of batches, or a function of the epoch that returns one, got int"),
        (lambda: len(Loader(lambda epoch: iter(ONE))), "does not say how many batches.*length=examples"),
        (lambda: len(Loader(ONE, length=3)), "length=3 is less than the 4 examples of a batch"),
        (lambda: Loader([]).size, "it gave no batch"),
        (lambda: Loader([IMAGES]).size, r"expected batches \(inputs, labels\).*got ndarray"),
        (lambda: Loader([(IMAGES,)]).size, "got 1 parts"),
        (lambda: Loader([(IMAGES, LABELS[:3])]).size, r"have \[3, 22\] examples"),
        (lambda: Loader([(IMAGES, ["a"] * 22)]).size, "a batch holds <U1, expected arrays of numbers"),
        (lambda: Loader([(IMAGES, LABELS + 1)], classes=("a", "b")).size, "labels from 1 to 2 for 2 classes"),
        (lambda: Loader([(IMAGES, LABELS, -np.ones(22))]).size, "weights from -1 to -1"),
        (lambda: Loader([(IMAGES, LABELS, np.ones(3))]).size, r"\[3, 22\] examples"),
        (lambda: Loader(ONE, keys=("image",)), "expected the keys of inputs, labels"),
        (lambda: list(Loader(ONE).batches(3)), "its batches have 4 examples, not 3"),
        (lambda: list(Loader([(IMAGES[:4], LABELS[:4]), (IMAGES[:3], LABELS[:3]), *ONE]).batches(4)),
         "batch 2 of epoch 0 has 3 examples, expected 4: only the last"),
        (lambda: list(Loader([*ONE, (IMAGES[:5], LABELS[:5])]).batches(4)), "batch 2 has 5 examples, expected 4"),
        (lambda: list(Loader([*ONE, (IMAGES[:4, :5], LABELS[:4])]).batches(4)), "batch 2 has examples of"),
        (lambda: list(Loader(lambda epoch: ONE, length=12).batches(4, epoch=2)),
         "it ended after 1 batches of epoch 2, expected 3"),
        (lambda: list(Loader(lambda epoch: ONE, length=12).padded_batches(4)), "it ended 8 examples before the 12"),
    ],
)  # fmt: skip
def test_what_is_no_loader_is_one_error(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_batches_of_jax_and_lists_and_shards() -> None:
    loader = Loader([[jnp.asarray(IMAGES), LABELS.astype(np.float64)]])
    assert isinstance(loader.inputs, jax.Array)
    assert loader.labels.dtype == np.float32
    parts = [next(loader.batches(22, shard=(i, 2))) for i in range(2)]
    same(np.concatenate([part[0] for part in parts]), IMAGES)


def test_grain_s_datasets_train_and_are_resumed(tmp_path: Path) -> None:
    grain = pytest.importorskip("grain", reason="Grain is not installed")
    rows = [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS, strict=True)]

    def shuffled(epoch: int) -> Any:
        return grain.MapDataset.source(rows).seed(epoch).shuffle().batch(4)

    loader = Loader(shuffled)
    assert (len(loader), loader.size) == (22, 4)
    whole = fit(loader, validation=loader)
    assert [record["step"] for record in whole.history] == [5, 10, 15]
    with pytest.raises(Killed):
        fit(loader, validation=loader, run=tmp_path / "run", callbacks=[Kills()])
    again = fit(loader, validation=loader, run=train.Run(tmp_path / "run", resume=True))
    same(again.params, whole.params)
    endless = shuffled(0).repeat()
    with pytest.raises(DataError, match="does not say how many batches"):
        len(Loader(endless))
    assert len(list(Loader(endless, length=22).batches(4))) == 5
    assert sum(float(there.sum()) for _, _, there in Loader(endless, length=22).padded_batches(4)) == 22
    sampler = grain.samplers.IndexSampler(22, shuffle=True, seed=0, num_epochs=1)
    old = grain.DataLoader(data_source=rows, sampler=sampler, operations=[grain.transforms.Batch(4)], worker_count=0)
    assert fit(Loader(old, length=22), epochs=1).history[0]["step"] == 5
