"""Scenes, questions and the networks that answer: against a slow reader of pictures and the formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import close, normal, same
from PIL import Image

import jaxcnn as cnn
from jaxcnn.core import LayerError
from jaxcnn.data.datasets import clevr
from jaxcnn.data.datasets.clevr import (
    ANSWERS,
    COLOURS,
    LENGTH,
    PHRASES,
    PLAIN,
    RELATIONAL,
    encode_questions,
    sort_of_clevr,
)
from jaxcnn.data.text import Vocabulary
from jaxcnn.errors import DataError, UserError
from jaxcnn.models.vqa import objects, question_encoder, vqa_cnn, vqa_relation
from jaxcnn.tasks import Recipe
from jaxcnn.tasks.vqa.task import METRICS, TASK, predict

WORDS = clevr.vocabulary()
DATA = sort_of_clevr(60, seed=5, each=18)

# --- scenes ------------------------------------------------------------------------------------------------------


def seen(image):
    """What is in a picture, from its pixels alone: `{colour: (x, y, is a circle)}`."""
    found = {}
    for name, colour in COLOURS.items():
        ys, xs = np.nonzero((image == colour).all(-1))
        assert len(xs), f"no {name} object"
        assert (np.ptp(xs), np.ptp(ys)) == (10, 10), f"the {name} object is hidden"
        x, y = (xs.min() + xs.max()) // 2, (ys.min() + ys.max()) // 2
        corner = (image[ys.min(), xs.min()] == colour).all()
        assert len(xs) == (121 if corner else 89), f"the {name} object is hidden"
        found[name] = int(x), int(y), not corner
    return found


def answered(question, scene):
    """The answer, from the words of a question and what is in the picture."""
    (name,) = (c for c in COLOURS if f" {c} " in f" {question} ")
    x, y, circle = scene[name]

    def shape(is_circle):
        return "circle" if is_circle else "square"

    if question.startswith("how many"):
        return str(sum(other[2] == circle for other in scene.values()))
    by = sorted((float(np.hypot(ox - x, oy - y)), c) for c, (ox, oy, _) in scene.items() if c != name)
    if "nearest" in question or "closest" in question:
        return shape(scene[by[0][1]][2])
    if "furthest" in question or "farthest" in question:
        return shape(scene[by[-1][1]][2])
    if "left" in question:
        return "left" if x < 37 else "right"
    if "top" in question:
        return "top" if y < 37 else "bottom"
    assert "shape" in question or "square" in question
    return shape(circle)


def test_every_answer_is_what_the_picture_and_the_words_say():
    images, questions = DATA.inputs
    kinds = set()
    for image, rows, labels in zip(images, questions, DATA.labels, strict=True):
        scene = seen(image)
        for row, label in zip(rows, labels, strict=True):
            question = " ".join(WORDS.decode(row))
            assert ANSWERS[label] == answered(question, scene), (question, scene)
            kinds.add((question, ANSWERS[label]))
    assert len({q for q, _ in kinds}) > 100, "of 108 different questions"
    assert {a for _, a in kinds} == set(ANSWERS)


def test_objects_lie_apart_and_inside_and_not_in_the_middle():
    centres, circles = clevr.scenes(500, seed=1)
    assert centres.shape == (500, 6, 2)
    assert 0.45 < circles.mean() < 0.55
    assert centres.min() >= 5
    assert centres.max() <= 69
    assert not (centres == 37).any()
    for scene in centres:
        for i in range(6):
            for j in range(i):
                assert max(abs(scene[i] - scene[j])) >= 12, "a pixel of white between them"
    close(centres.mean((0, 1)), np.array([37.0, 37.0]), 0.05)


def test_no_answer_is_a_toss_up():
    centres, circles = clevr.scenes(500, seed=2)
    for scene, shapes in zip(centres, circles, strict=True):
        for i in range(6):
            d = {j: int(((scene[i] - scene[j]) ** 2).sum()) for j in range(6) if j != i}
            for best in (min(d.values()), max(d.values())):
                assert len({bool(shapes[j]) for j in d if d[j] == best}) == 1


def test_everything_follows_from_the_seed():
    same((DATA.inputs, DATA.labels), (sort_of_clevr(60, 5, 18).inputs, sort_of_clevr(60, 5, 18).labels))
    other = sort_of_clevr(60, seed=6, each=18)
    assert (DATA.inputs[0] != other.inputs[0]).any()
    assert (DATA.labels != other.labels).any()


def test_questions_of_a_scene():
    data = sort_of_clevr(30, seed=0, each=4)
    assert data.inputs[0].shape == (30, 75, 75, 3)
    assert data.inputs[0].dtype == np.uint8
    assert data.inputs[1].shape == (30, 8, LENGTH)
    assert data.labels.shape == (30, 8)
    assert data.classes == ANSWERS
    words = Vocabulary(tuple(data.extra["vocabulary"]))
    relational = ("nearest", "closest", "furthest", "farthest", "many")
    for rows in data.inputs[1]:
        asked = [" ".join(words.decode(row)) for row in rows]
        assert [any(w in q for w in relational) for q in asked] == [False] * 4 + [True] * 4
    # All 18 of either sort, each once: 6 colours times 3 kinds.
    plain = [" ".join(WORDS.decode(row)) for row in DATA.inputs[1][0][:18]]
    assert (
        len({(next(c for c in COLOURS if c in q.split()), answered(q, seen(DATA.inputs[0][0]))) for q in plain}) == 18
    )
    for each in (0, 19):
        with pytest.raises(UserError, match="1 to 18 questions"):
            sort_of_clevr(3, each=each)
    with pytest.raises(UserError, match="at least 1"):
        sort_of_clevr(0)
    with pytest.raises(UserError, match=r"kind='size': expected one of shape, side"):
        clevr.answer(*clevr.scenes(1), "size", 0)


def test_all_phrases_fit():
    for kind in (*PLAIN, *RELATIONAL):
        coded = encode_questions([p.format(c) for p in PHRASES[kind] for c in COLOURS], WORDS)
        assert coded.shape == (18, LENGTH)
        assert len({tuple(row) for row in coded}) == 18


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("", "the question is empty"),
        (" ?! ", "the question is empty"),
        ("what shape is the purple object?", "no question has the word purple; the words are: .* yellow"),
        ("is the red elephant left of the hat?", "the word elephant, of, hat|the word elephant, hat"),
        ("what shape is the object?", "names no colour: a question is about one of the objects, red, green"),
        ("is the red object left or the blue object right?", "names red and blue"),
        ("what shape is the red object " * 4, "24 words and marks; the limit is 16"),
    ],
)
def test_questions_that_cannot_be_understood(question, says):
    with pytest.raises(UserError, match=says):
        encode_questions([question], WORDS)


def test_kinds_of_questions():
    kinds = clevr.kinds_of(DATA.inputs[1][:4], WORDS)
    assert kinds.shape == (4, 36)
    for rows, of in zip(DATA.inputs[1], kinds, strict=False):
        for row, kind in zip(rows, of, strict=True):
            question, name = " ".join(WORDS.decode(row)), (*PLAIN, *RELATIONAL)[kind]
            assert any(question.startswith(p.split(" {}")[0]) for p in PHRASES[name])
        assert np.bincount(of).tolist() == [6] * 6
    assert clevr.kinds_of(np.zeros((2, LENGTH), np.int32), WORDS).tolist() == [-1, -1]


def test_typed_questions():
    coded = encode_questions(["What shape is NEAREST to the red object?"], WORDS)
    assert " ".join(WORDS.decode(coded[0])) == "what shape is nearest to the red object ?"


# --- networks ----------------------------------------------------------------------------------------------------


def test_objects_know_their_place():
    x = normal(0, 2, 3, 4, 5)
    picture = normal(1, 2, 6, 12, 3)
    got = objects(jnp.asarray(x), jnp.asarray(picture))
    assert got.shape == (2, 12, 10)
    for i in range(3):
        for j in range(4):
            close(got[:, 4 * i + j, :5], x[:, i, j])
            close(got[1, 4 * i + j, 5:7], np.array([-1 + 2 * j / 3, -1 + i]))
            part = picture[:, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((1, 2))
            close(got[:, 4 * i + j, 7:], 4 * (part - picture.mean((1, 2))))


def small(make, **options):
    return make(classes=12, vocabulary=len(WORDS), features=4, units=8, **options)


EXAMPLE = (
    jax.ShapeDtypeStruct((2, 75, 75, 3), jnp.float32),
    jax.ShapeDtypeStruct((2, 3, LENGTH), jnp.int32),
)
MODELS = {
    "cnn": small(vqa_cnn),
    "relation": small(vqa_relation, width=6, depth=3),
    "paper": small(vqa_relation, width=6, depth=3, attend=False),
}
IMAGES, ASKED = DATA.inputs[0][:2].astype(np.float32) / 255, DATA.inputs[1][:2, ::7]


@pytest.fixture(scope="module")
def variables():
    return {name: model.init(jax.random.key(1), *EXAMPLE) for name, model in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_many_questions_are_each_alone(name, variables):
    apply = jax.jit(lambda images, words: MODELS[name].apply(*variables[name], images, words)[0])
    together = apply(IMAGES, ASKED)
    assert together.shape == (2, ASKED.shape[1], 12)
    assert np.ptp(np.asarray(together), axis=1).max() > 1e-3, "the question matters"
    close(together[:, 1], apply(IMAGES, ASKED[:, 1]))


def test_relation_networks_are_their_formulas(variables):
    """g of [o_i, o_j, q] side by side for each pair, or of the chosen object with each other one, and f of the sum."""
    images, words = jnp.asarray(IMAGES), jnp.asarray(ASKED)
    for name, attend in (("relation", True), ("paper", False)):
        model, (params, state) = MODELS[name], variables[name]
        cells = np.asarray(
            objects(model.sublayers["picture"].apply(params["picture"], state["picture"], images)[0], images)
        )
        q = np.asarray(model.sublayers["question"].apply(params["question"], {}, words)[0])
        p = jax.tree.map(np.float64, {k: v for k, v in params.items() if k not in ("picture", "question")})

        def layer(x, name, p=p):
            return np.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0)

        kernel = np.concatenate([p[k]["kernel"] for k in ("g1_one", "g1_other", "g1_question")])
        one = np.broadcast_to(cells[:, None], (2, q.shape[1], *cells.shape[1:]))
        if attend:
            keys, query = cells @ p["attend_key"]["kernel"], q @ p["attend_query"]["kernel"]
            a = np.exp(np.einsum("nif,nqf->nqi", keys, query + p["attend_query"]["bias"]) / 6**0.5)
            one = np.einsum("nqi,nif->nqf", a / a.sum(2, keepdims=True), cells)[:, :, None]
        pairs = np.zeros((2, q.shape[1], one.shape[2], 25, len(kernel)))
        pairs[..., :9] = one[:, :, :, None]
        pairs[..., 9:18] = cells[:, None, None]
        pairs[..., 18:] = q[:, :, None, None]
        g = layer(layer(np.maximum(pairs @ kernel + p["g1_one"]["bias"], 0), "g2"), "g3")
        x = g.sum((2, 3)) / (5 if attend else 25)
        expected = layer(layer(x, "f1"), "f2") @ p["head"]["kernel"] + p["head"]["bias"]
        close(model.apply(params, state, images, words)[0], expected)


def test_question_encoder_knows_order_and_not_padding():
    model = question_encoder(20, 5, 7)
    params, _ = model.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 6), jnp.int32))
    apply = jax.jit(lambda words: model.apply(params, {}, words)[0])
    a, b = np.array([[3, 4, 5, 6, 0, 0]]), np.array([[6, 5, 4, 3, 0, 0]])
    assert np.abs(np.asarray(apply(a) - apply(b))).max() > 1e-3
    close(apply(a), model.apply(params, {}, a[:, :4])[0])
    assert not np.asarray(apply(np.zeros((1, 6), np.int32))).any()
    with pytest.raises(LayerError, match=r"expected images .* and words \(N, L\)"):
        MODELS["cnn"].init(jax.random.key(0), EXAMPLE[0], jnp.zeros((3, 4), jnp.int32))


# --- the task ----------------------------------------------------------------------------------------------------


def test_measures():
    labels = jnp.array([[0, 1, 2, 3], [3, 3, 3, 3]])
    outputs = jax.nn.one_hot(jnp.array([[0, 1, 0, 3], [3, 0, 0, 0]]), 4)
    got = {name: np.asarray(metric(outputs, labels)).tolist() for name, metric in METRICS.items()}
    assert got == {"accuracy": [0.75, 0.25], "plain": [1, 0.5], "relational": [0.5, 0]}


@pytest.fixture(scope="module")
def trained():
    """A network that has seen a few scenes: what it answers is not the point."""
    train = sort_of_clevr(16, seed=0, each=3)
    model = MODELS["cnn"]
    result = cnn.train.fit(
        model,
        train,
        TASK.objective(Recipe(), {}),
        test=train,
        epochs=1,
        batch_size=8,
        show=False,
        optimizer=optax.adam(1e-3),
    )
    assert {"test_plain", "test_relational", "test_accuracy"} <= result.result.keys()

    class Asked:
        classes, config = train.classes, {"extra": train.extra}
        outputs = staticmethod(result.outputs)

    return Asked


def test_task_predicts_and_draws(trained, tmp_path):
    Image.fromarray(DATA.inputs[0][3]).resize((150, 150), Image.Resampling.NEAREST).save(tmp_path / "my.png")
    first, second = "What shape is the red object?", "how many objects have the shape of the blue object?"
    rows = predict(trained, [str(tmp_path / "my.png"), first, second, "scene:7", first], tmp_path / "out")
    assert [row["question"] for row in rows] == [first, second, first]
    assert rows[0]["picture"] == rows[1]["picture"] == str(tmp_path / "out" / "my-1.png")
    assert rows[2]["picture"] == str(tmp_path / "out" / "scene7-2.png")
    for row in rows:
        assert row["answer"] in ANSWERS
        assert f"{row['answer']} ({100 * row['probability']:.0f} %)" in row["text"]
        with Image.open(row["picture"]) as picture:
            assert min(picture.size) > 300
    alone = predict(trained, ["scene:7", first], tmp_path)[0]
    assert alone["picture"] == str(tmp_path / "scene7.png")
    assert alone["probability"] == pytest.approx(rows[2]["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["what shape is the red object?"], "expected an image, then questions"),
        (["scene:1"], "scene:1: a question has to follow"),
        (["scene:x", "what shape is the red object?"], "the seed of a scene"),
        (["scene:1", "who is there?"], "no question has the word who"),
        (["absent.png", "what shape is the red object?"], "absent.png"),
    ],
)
def test_what_cannot_be_answered(trained, tmp_path, given, says):
    with pytest.raises(UserError, match=says):
        predict(trained, given, tmp_path)


def load(name, split, size=None):
    return TASK.load(Recipe(data=name, size=size), split)


def test_loading(monkeypatch):
    monkeypatch.setattr("jaxcnn.data.datasets.clevr.SPLITS", {"train": (0, 30), "test": (2, 4)})
    train, test = load("sort-of-clevr", "train"), load("sort-of-clevr", "test")
    assert (len(train), len(test)) == (30, 4)
    assert TASK.model_options(Recipe(), train) == {"vocabulary": len(WORDS)}
    same(load("sort-of-clevr", "train[:5]").inputs, (train.inputs[0][:5], train.inputs[1][:5]))
    with pytest.raises(DataError, match="splits train, validation and test, not 'dev'"):
        load("sort-of-clevr", "dev")
    with pytest.raises(UserError, match="did you mean sort-of-clevr"):
        load("sort-of-clever", "train")
    with pytest.raises(UserError, match="cannot be"):
        load("sort-of-clevr", "train", (32, 32))
