"""K-fold cross-validation: exact partitions, stratified where each example has one class, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from jaxcnn import data, tasks
from jaxcnn.errors import UserError
from jaxcnn.train import Recipe
from jaxcnn.train.train import check

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 33, 40]))
IMAGES = np.arange(83, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
DATASET = data.Dataset(IMAGES, LABELS, ("a", "b", "c"))
MASKS = data.Examples(IMAGES, IMAGES[..., 0].astype(np.int32) % 2)
CORPUS = data.Corpus(tuple((str(k),) for k in range(83)), LABELS, ("a", "b", "c"))


def numbers(part) -> list[int]:
    """Which examples they are."""
    if isinstance(part, data.Corpus):
        return [int(sentence[0]) for sentence in part.sentences]
    return np.asarray(part.inputs)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("whole", [DATASET, MASKS, CORPUS], ids=["dataset", "examples", "corpus"])
@pytest.mark.parametrize("count", [2, 5, 10])
def test_each_example_is_in_one_validation_set(whole, count):
    pairs = list(whole.folds(count, seed=3))
    assert len(pairs) == count
    assert sorted(number for _, val in pairs for number in numbers(val)) == list(range(83))
    for train, val in pairs:
        assert sorted(numbers(train) + numbers(val)) == list(range(83))
        assert len(val) in (83 // count, 83 // count + 1)
    again, other = list(whole.folds(count, seed=3)), list(whole.folds(count, seed=4))
    assert [numbers(val) for _, val in again] == [numbers(val) for _, val in pairs]
    assert [numbers(val) for _, val in other] != [numbers(val) for _, val in pairs]
    assert numbers(data.fold(whole, 2, count, seed=3)[1]) == numbers(pairs[1][1])


def test_stratified_parts_have_their_share_of_each_class():
    for k in range(3):
        of_class = [int((val.labels == k).sum()) for _, val in DATASET.folds(7)]
        assert max(of_class) - min(of_class) <= 1
    rare = [int((val.labels == 0).sum()) for _, val in data.k_fold(DATASET, 7, stratified=False)]
    assert max(rare) - min(rare) > 1  # 10 examples in 7 random parts


@pytest.mark.parametrize(
    ("whole", "count", "more", "says"),
    [
        (DATASET, 1, {}, "1 folds: expected 2 to 10, the number of examples of the rarest class"),
        (DATASET, 11, {}, "11 folds: expected 2 to 10"),
        (DATASET, 84, {"stratified": False}, "84 folds: expected 2 to 83, the number of examples"),
        (MASKS, 2, {"stratified": True}, "stratified=True needs one class for each example"),
    ],
)
def test_folds_that_there_cannot_be(whole, count, more, says):
    with pytest.raises(UserError, match=says):
        data.k_fold(whole, count, **more)
    with pytest.raises(UserError, match="fold 6 of 5: expected a number from 1 to 5"):
        data.fold(whole, 6, 5)


def test_a_stream_of_files_is_divided_by_class(tmp_path):
    for label, count in (("a", 4), ("b", 8)):
        for split, number in (("train", count), ("test", 1)):
            (tmp_path / split / label).mkdir(parents=True)
            for k in range(number):
                Image.fromarray(IMAGES[k, ..., 0]).save(tmp_path / split / label / f"{k}.png")
    whole = data.stream(str(tmp_path), "train", size=(2, 2))
    pairs = list(data.k_fold(whole, 4))
    assert sorted(name for _, val in pairs for name in val.source.paths) == sorted(whole.source.paths)
    for train, val in pairs:
        assert np.bincount(val.source.labels).tolist() == [1, 2]
        assert not set(train.source.paths) & set(val.source.paths)
        assert len(train) == 9
    with pytest.raises(UserError, match="expected a Dataset, Examples, a Stream or a Corpus to divide, got list"):
        data.k_fold([1, 2], 2)


def test_a_recipe_of_a_fold_holds_out_that_part():
    recipe = Recipe("mlp", "digits", limit=100, batch_size=10, fold="2/4")
    task = tasks.find("classify")
    whole = data.load("digits", "train[:100]")
    train, val, _ = task.splits(recipe)
    assert len(val) in (25, 26)
    np.testing.assert_array_equal(val.images, data.fold(whole, 2, 4)[1].images)
    np.testing.assert_array_equal(train.images, data.fold(whole, 2, 4)[0].images)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1/1", "2", "2,5", "a/b"])
def test_a_fold_that_is_none(fold):
    with pytest.raises(UserError, match=f"--fold {fold}: expected NUMBER/COUNT, for instance 2/5"):
        check(Recipe("mlp", "digits", batch_size=10, fold=fold))
