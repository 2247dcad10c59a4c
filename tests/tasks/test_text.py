"""Words, sentences and the network that classifies them: against counting by hand and loops in NumPy."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal, same, shapes

import jaxcnn as cnn
from jaxcnn.core import LayerError
from jaxcnn.data.datasets.reviews import load_text, movie_reviews, text_folder
from jaxcnn.data.text import (
    Corpus,
    Vocabulary,
    by_length,
    drop_words,
    folds,
    places,
    read_lines,
    recoded,
    tokenize,
)
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.text_cnn import max_over_time, text_cnn
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.text.task import TASK, evidence, predict
from jaxcnn.train import max_norm

# --- words -------------------------------------------------------------------------------------------------------


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a joiner inside a word


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's NOT bad, is it?", "it 's not bad , is it ?"),
        ("I don\u2019t think we'll cry (much)!", "i do n't think we 'll cry ( much ) !"),
        ("a co-writer/director's 'masterpiece' . . .", "a co writer director 's masterpiece"),
        ("Amélie, 101 minutes", "amélie , 101 minutes"),
        ("can't o'brien _x_", "ca n't o brien x"),
        (" \t\n", ""),
        ("हिन्दी में लिखा है।", "हिन्दी में लिखा है"),  # vowel signs and viramas are marks
        ("cafe\u0301, CAFE\u0301", "caf\u00e9 , caf\u00e9"),
        ("שָׁלוֹם עוֹלָם", "שָׁלוֹם עוֹלָם"),
        (PERSIAN, PERSIAN),
        ("தமிழ் (நன்று)!", "தமிழ் ( நன்று ) !"),
        ("我爱 JAX, ありがとう", "我 爱 jax , あ り が と う"),
        ("\u0301 love \u2764\ufe0f you", "love you"),  # marks that extend no letter
        ("... -- \x85 \x97", ""),
    ],
)
def test_tokens(text, words):
    assert tokenize(text) == words.split()
    assert tokenize(words) == words.split(), "words with spaces around them stay as they are"


SENTENCES = [["a", "dull", "film"], ["a", "fine", "film", "a"], [], ["fine"]]


def test_vocabulary_is_by_frequency_then_alphabet():
    words = Vocabulary.of(SENTENCES)
    assert words.words == ("<padding>", "<unknown>", "a", "film", "fine", "dull")
    assert Vocabulary.of(SENTENCES[::-1]) == words
    assert Vocabulary.of(SENTENCES, at_least=2).words[2:] == ("a", "film", "fine")
    assert Vocabulary.of(SENTENCES, most=1).words[2:] == ("a",)
    assert Vocabulary.of([]).words == ("<padding>", "<unknown>")
    assert len(words) == 6
    assert "dull" in words
    assert "odd" not in words


def test_sentences_become_integers():
    words = Vocabulary.of(SENTENCES)
    coded = words.encode(SENTENCES)
    assert coded.dtype == np.int32
    assert coded.tolist() == [[2, 5, 3, 0], [2, 4, 3, 2], [0, 0, 0, 0], [4, 0, 0, 0]]
    assert [words.decode(row) for row in coded] == SENTENCES
    assert words.encode(SENTENCES, 2).tolist() == [[2, 5], [2, 4], [0, 0], [4, 0]], "longer sentences are cut"
    assert words.encode([["never", "seen", "film"]], 5).tolist() == [[1, 1, 3, 0, 0]]
    assert words.encode([[]]).tolist() == [[0]]
    assert words.encode([]).shape == (0, 1)
    assert places(coded).tolist() == [3, 4, 0, 1]


def test_what_is_no_vocabulary_or_sentence():
    with pytest.raises(DataError, match="begins with <padding> <unknown>, got a b"):
        Vocabulary(("a", "b"))
    with pytest.raises(DataError, match="'a' more than once"):
        Vocabulary(("<padding>", "<unknown>", "a", "b", "a"))
    with pytest.raises(DataError, match="list of words"):
        Vocabulary.of(SENTENCES).encode(["a film"])
    with pytest.raises(DataError, match="length=0: expected at least 1"):
        Vocabulary.of(SENTENCES).encode(SENTENCES, 0)


def corpus(count=40, classes=2, seed=0):
    """Sentences of which every word names the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    sentences = [[f"w{label}x{i}" for i in rng.integers(0, 5, rng.integers(1, 9))] for label in labels]
    return Corpus(tuple(map(tuple, sentences)), labels, tuple(f"class{k}" for k in range(classes)))


def test_corpus_parts_and_examples():
    data = corpus()
    train, held = data.hold_out(0.25, seed=1)
    assert (len(train), len(held)) == (30, 10)
    assert np.bincount(held.labels).tolist() == [5, 5]
    assert collections.Counter(train.sentences + held.sentences) == collections.Counter(data.sentences)
    same(data.hold_out(0.25, seed=1)[1].labels, held.labels)
    examples = held.examples(Vocabulary.of(train.sentences), 8)
    assert examples.inputs.shape == (10, 8)
    assert examples.extra["vocabulary"][:2] == ["<padding>", "<unknown>"]
    assert examples.classes == ("class0", "class1")
    assert data.take(data.labels == 1).labels.tolist() == [1] * 20
    for share in (0, 1, 0.001):
        with pytest.raises(DataError, match=r"share to hold out|too few"):
            data.hold_out(share)
    with pytest.raises(DataError, match="no sentence"):
        Corpus((), np.zeros(0, int), ("a", "b"))
    with pytest.raises(DataError, match="integers from 0 to 1"):
        dataclasses.replace(data, labels=data.labels + 1)
    with pytest.raises(DataError, match="40 sentences and labels of shape"):
        dataclasses.replace(data, labels=data.labels[:3])


def test_examples_in_another_vocabulary():
    one, other = Vocabulary.of([["a", "b", "b"]]), Vocabulary.of([["a", "c"], ["c"]])
    data = Corpus((("c", "a", "zebra"), ()), np.array([0, 1]), ("x", "y")).examples(other)
    got = recoded(data, one.words)
    assert [one.decode(row) for row in got.inputs] == [["<unknown>", "a", "<unknown>"], []]
    assert got.extra["vocabulary"] == list(one.words)


# --- files -------------------------------------------------------------------------------------------------------


def test_only_line_feeds_end_a_line(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes(b"one \x85 two\r\n\n  \nthree\x0cfour\n")
    assert read_lines(file, "latin-1") == ["one \x85 two", "three\x0cfour"]
    file.write_bytes("\ufeffé\n".encode())
    assert read_lines(file) == ["é"]


def test_files_that_cannot_be_used(tmp_path):
    file = tmp_path / "good.txt"
    for content in (b"", b" \n\n"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"good.txt is empty"):
            read_lines(file)
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"is not utf-8 text \(byte 3 is 0xe9\)"):
        read_lines(file)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_lines(tmp_path / "absent.txt")
    with pytest.raises(DataError, match=r"CLASS.txt for each of two or more classes; found good.txt"):
        text_folder(tmp_path)
    with pytest.raises(DataError, match="found no such file"):
        text_folder(tmp_path / "absent")


def test_a_folder_of_classes(tmp_path):
    (tmp_path / "ham.txt").write_text("hello you\nhow are you?\n")
    (tmp_path / "spam.txt").write_text("buy now!\n")
    data = load_text(str(tmp_path))
    assert data.classes == ("ham", "spam")
    assert data.sentences == (("hello", "you"), ("how", "are", "you", "?"), ("buy", "now", "!"))
    assert data.labels.tolist() == [0, 0, 1]


def test_reviews_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"the dataset rt-polarity was not found .*Put rt-polarity.neg and"):
        movie_reviews(tmp_path)
    with pytest.raises(UserError, match="unknown dataset 'rt-polarty': did you mean rt-polarity"):
        load_text("rt-polarty")


def test_the_movie_reviews(data_dir):
    data = movie_reviews(data_dir)
    assert len(data) == 10_662
    assert np.bincount(data.labels).tolist() == [5331, 5331]
    assert data.sentences[0] == ("simplistic", ",", "silly", "and", "tedious")
    assert max(map(len, data.sentences)) < 60
    assert 17_000 < len(Vocabulary.of(data.sentences)) < 20_000  # the paper's table 1: 18,765


# --- order -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 7, 10])
def test_folds_are_a_partition_with_each_class_in_all(count):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [10, 33, 40]))
    parts = folds(labels, count, seed=3)
    assert sorted(np.concatenate(parts)) == list(range(83))
    for k in range(3):
        of_class = [int((labels[part] == k).sum()) for part in parts]
        assert max(of_class) - min(of_class) <= 1
    same(parts, folds(labels, count, seed=3))
    assert any((a != b).any() for a, b in zip(parts, folds(labels, count, seed=4), strict=True) if len(a) == len(b))


@pytest.mark.parametrize("count", [0, 1, 11])
def test_folds_that_there_cannot_be(count):
    with pytest.raises(UserError, match="expected 2 to 10, the number of examples"):
        folds(np.repeat([0, 1], [10, 30]), count)


def test_batches_by_length():
    data = corpus(103).examples(Vocabulary.of(corpus(103).sentences), 11)
    got = list(by_length(data, 10, seed=1, epoch=2, chunk=5, multiple=4))
    assert len(got) == 10
    assert {words.shape for words, _ in got} == {(10, 4), (10, 8)}
    rows = collections.Counter(
        (*np.trim_zeros(r, "b"), "class", y) for w, ys in got for r, y in zip(w, ys, strict=True)
    )
    all_rows = collections.Counter(
        (*np.trim_zeros(r, "b"), "class", y) for r, y in zip(data.inputs, data.labels, strict=True)
    )
    assert not rows - all_rows
    assert sum(rows.values()) == 100
    same(got, list(by_length(data, 10, seed=1, epoch=2, chunk=5, multiple=4)))
    assert any((a[1] != b[1]).any() for a, b in zip(got, by_length(data, 10, 1, 3, 5, 4), strict=True))
    assert [w.shape for w, _ in by_length(data.take(slice(0, 3)), 10, multiple=50)] == [(3, 11)], "never beyond L"


def test_dropped_words():
    words = jnp.asarray(np.where(np.arange(2000) % 4 == 0, 0, 7).reshape(2, -1), jnp.int32)
    got = np.asarray(drop_words(0.25)(words, jax.random.key(0)))
    assert set(got[words == 0]) == {0}
    assert set(got[words != 0]) == {1, 7}
    assert 0.2 < (got[words != 0] == 1).mean() < 0.3
    same(np.asarray(drop_words(0.0)(words, jax.random.key(0))), np.asarray(words))
    with pytest.raises(UserError, match=r"0 <= rate < 1"):
        drop_words(1.0)


# --- the network -------------------------------------------------------------------------------------------------

MODEL = text_cnn(classes=3, vocabulary=12, features=4, widths=(2, 3, 5), embedding=6)


@pytest.fixture(scope="module")
def params():
    made = MODEL.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 5), jnp.int32))[0]
    # Biases that are not zero: windows of padding alone would answer with them.
    return jax.tree.map(lambda x: x + 0.3 * normal(x.size, *x.shape), made)


@jax.jit
def outputs(params, words):
    return MODEL.apply(params, {}, words)[0]


def by_hand(params, sentence):
    """Every window that holds a word, one after the other."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    features = []
    for width in (2, 3, 5):
        kernel, bias = p[f"conv{width}"]["kernel"], p[f"conv{width}"]["bias"]
        best = np.zeros(4)
        for start in range(-width + 1, len(sentence)) if len(sentence) else ():
            answer = bias.copy()
            for u in range(width):
                if 0 <= start + u < len(sentence):
                    answer += p["embed"]["kernel"][sentence[start + u]] @ kernel[u]
            best = np.maximum(best, answer)
        features.append(best)
    return np.concatenate(features) @ p["fc"]["kernel"] + p["fc"]["bias"]


@pytest.mark.parametrize("length", [0, 1, 2, 4, 9])
def test_text_cnn_is_the_formula_whatever_padding_follows(params, length):
    sentence = np.random.default_rng(length).integers(1, 12, length)
    expected = by_hand(params, sentence)
    for total in (9, 16):
        words = np.zeros((2, total), np.int32)
        words[0, :length] = sentence
        words[1] = 5
        got = outputs(params, words)
        close(got[0], expected, 1e-5)
    if not length:
        close(got[0], np.asarray(params["fc"]["bias"]))


def test_padding_alone_has_no_gradient(params):
    words = np.array([[3, 4, 0, 0], [0, 0, 0, 0]], np.int32)
    slope = jax.grad(lambda p: jnp.square(outputs(p, words)).sum())(params)
    kernel = np.asarray(slope["embed"]["kernel"])
    assert np.abs(kernel[3]).max() > 0
    assert not kernel[[0, 1, 2, *range(5, 12)]].any()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(slope))


def test_variables_of_the_paper():
    model = text_cnn(vocabulary=18_765)
    got = shapes(jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 20), jnp.int32))[0])
    assert got == {
        "embed/kernel": (18_765, 300), "conv3/kernel": (3, 300, 100), "conv3/bias": (100,),
        "conv4/kernel": (4, 300, 100), "conv4/bias": (100,), "conv5/kernel": (5, 300, 100), "conv5/bias": (100,),
        "fc/kernel": (300, 2), "fc/bias": (2,),
    }  # fmt: skip


def test_what_the_network_cannot_take():
    with pytest.raises(LayerError, match=r"sentences \(N, L\)"):
        MODEL.init(jax.random.key(0), jnp.zeros((3,), jnp.int32))
    with pytest.raises(LayerError, match="embed: expected integers"):
        MODEL.init(jax.random.key(0), jnp.zeros((3, 4)))
    with pytest.raises(LayerError, match="at least one filter width"):
        text_cnn(widths=())


def test_max_over_time():
    x = jnp.asarray(normal(0, 3, 5, 2))
    got = np.asarray(max_over_time(x, jnp.array([5, 2, 0])))
    close(got[:2], np.stack([x[0].max(0), x[1, :2].max(0)]))
    assert (got[2] == -np.inf).all()


# --- the norm ----------------------------------------------------------------------------------------------------


def test_max_norm_is_a_projection_after_the_update():
    params = {
        "conv": {"kernel": normal(0, 3, 2, 5), "bias": 9 * normal(1, 5)},
        "fc": {"kernel": normal(2, 4, 3) * [0.3, 1, 9]},
    }
    change = jax.tree.map(lambda x: 0.5 * normal(x.size + 9, *x.shape), params)
    optimizer = optax.chain(optax.sgd(1.0), max_norm(3.0))
    updates, _ = optimizer.update(change, optimizer.init(params), params)
    got = optax.apply_updates(params, updates)
    for name in ("conv", "fc"):
        new = np.float64(params[name]["kernel"]) - change[name]["kernel"]
        norm = np.sqrt((new**2).sum(tuple(range(new.ndim - 1))))
        assert norm.min() < 3 < norm.max(), "both kinds have to be there"
        close(got[name]["kernel"], new * np.minimum(1, 3 / norm))
    close(got["conv"]["bias"], params["conv"]["bias"] - change["conv"]["bias"])
    only = optax.chain(optax.sgd(1.0), max_norm(3.0, "fc"))
    updates, _ = only.update(change, only.init(params), params)
    one = optax.apply_updates(params, updates)
    close(one["fc"]["kernel"], np.asarray(got["fc"]["kernel"]))
    close(one["conv"]["kernel"], params["conv"]["kernel"] - change["conv"]["kernel"])


def test_a_vector_of_zeros_stays():
    params = {"fc": {"kernel": jnp.zeros((4, 2))}}
    optimizer = max_norm(1.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    same(updates, params)


def test_norms_that_cannot_be():
    for limit in (0, -1.0, float("nan")):
        with pytest.raises(UserError, match="should be above 0"):
            max_norm(limit)
    with pytest.raises(UserError, match="no kernel in 'head'; there are fc/kernel"):
        max_norm(1.0, "head").init({"fc": {"kernel": jnp.zeros((1, 1))}})
    with pytest.raises(UserError, match="needs the parameters"):
        max_norm(1.0).update({}, optax.EmptyState())


# --- the task ----------------------------------------------------------------------------------------------------


def test_evidence_adds_up_to_the_outputs(params):
    for length in (1, 3, 7):
        words = np.random.default_rng(length).integers(1, 12, length).astype(np.int32)
        found = evidence(params, words)
        total = sum(parts for _, _, parts in found) + np.asarray(params["fc"]["bias"])
        close(total, np.asarray(outputs(params, np.pad(words, (0, 9 - length))[None])[0]))
        assert all(width in (2, 3, 5) and -width < place < length for place, width, _ in found)
        spread = [np.ptp(parts) for *_, parts in found]
        assert spread == sorted(spread, reverse=True)
    assert evidence(params, np.zeros(0, np.int32)) == []


@pytest.fixture
def folder(tmp_path):
    data = corpus(60)
    for k in range(2):
        lines = [" ".join(s) for s, y in zip(data.sentences, data.labels, strict=True) if y == k]
        (tmp_path / f"class{k}.txt").write_text("\n".join(lines))
    return tmp_path


def load(name, split, size=None):
    return TASK.load(Recipe(data=name, size=size), split)


def test_task_learns_and_predicts(folder, tmp_path):
    train, test = load(str(folder), "train"), load(str(folder), "test")
    assert (len(train), len(test)) == (54, 6)
    assert train.extra == test.extra
    assert len(load(str(folder), "train[:7]")) == 7
    model = text_cnn(2, **{**TASK.model_options(Recipe(), train), "embedding": 8, "features": 5})
    optimizer = TASK.optimizer(optax.adam(0.02))
    result = cnn.train.fit(
        model,
        train,
        TASK.objective(Recipe(), TASK.facts(Recipe(), train)),
        test=test,
        epochs=12,
        batch_size=18,
        optimizer=optimizer,
        show=False,
    )
    assert result.result["test_accuracy"] == 1
    assert np.linalg.norm(result.params["fc"]["kernel"], axis=0).max() < 3.0001

    class Asked:
        params, classes, config = result.params, train.classes, {"extra": train.extra}
        outputs = staticmethod(result.outputs)

    rows = predict(Asked, ["W1x2 w1x3, zebra", "w0x1"], tmp_path)
    assert [row["class"] for row in rows] == ["class1", "class0"]
    assert rows[0]["unknown"] == [",", "zebra"]
    assert rows[0]["text"].startswith("class1 (")
    assert "w1x" in rows[0]["ngrams"][0]["words"]
    assert rows[0]["probability"] == max(rows[0]["probabilities"].values())
    with pytest.raises(UserError, match=r"'\.\.\.' has no word"):
        predict(Asked, ["..."], tmp_path)


def test_what_the_task_cannot_load(folder):
    with pytest.raises(DataError, match="splits train and test, not 'dev'"):
        load(str(folder), "dev")
    with pytest.raises(UserError, match="no size in pixels"):
        load(str(folder), "train", (3, 3))
