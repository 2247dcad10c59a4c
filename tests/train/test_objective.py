"""Which epoch is best, said once: by what, in which direction, and what of a value that is not finite."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import fit
from matplotlib.axes import Axes

import jaxcnn as cnn
from jaxcnn import cli, losses, metrics, tasks, train
from jaxcnn.data import Examples
from jaxcnn.errors import UserError
from jaxcnn.inspect import plots
from jaxcnn.runs import table as runs
from jaxcnn.runs.primary import LOSS, Primary, primary_in, primary_of

NAN, INF = float("nan"), float("inf")
RNG = np.random.default_rng(0)
POINTS = Examples(RNG.normal(size=(24, 4)).astype(np.float32), np.arange(24, dtype=np.int32) % 3, ("a", "b", "c"))


def history(*values: float, name: str = "loss", **more: list[float]) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "step": i, f"validation_{name}": value, **{f"validation_{k}": v[i - 1] for k, v in more.items()}}
        for i, value in enumerate(values, 1)
    ]


# --- the choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("primary", "records", "best"),
    [
        (LOSS, history(0.5, 0.2, 0.3), 2),
        (LOSS, history(NAN, NAN, 0.9, 0.8, NAN), 4),
        (LOSS, history(INF, 0.9, -INF), 2),
        (LOSS, history(NAN, NAN), 2),
        (LOSS, history(0.5, 0.5), 2),
        (LOSS, [{"epoch": 1, "step": 1}, {"epoch": 2, "step": 2}], 2),
        (Primary("f", True), history(NAN, 0.1, 0.7, 0.6, name="f"), 3),
        (Primary("f", False), history(NAN, 0.1, 0.7, 0.6, name="f"), 2),
        (Primary("f", True), history(0.5, 0.5, 0.4, name="f", loss=[0.1, 0.2, 0.0]), 1),
        (Primary("f", True), history(0.5, INF, 0.4, name="f"), 1),
    ],
)
def test_the_best_epoch(primary: Primary, records: list[dict[str, Any]], best: int) -> None:
    assert primary.best(records)["epoch"] == best


def test_patience_counts_from_the_first_finite_value() -> None:
    values = [NAN] * 11 + [0.9, 0.8, 0.85, NAN, 0.9]
    stops = [n for n in range(1, len(values) + 1) if LOSS.stalled(history(*values[:n]), 2)]
    assert stops == [15, 16]
    assert not LOSS.stalled(history(NAN, NAN, NAN, NAN), 2)


def test_without_a_name_it_is_the_accuracy_or_else_the_loss() -> None:
    assert primary_of(["loss", "accuracy", "f"]) == Primary("accuracy", True)
    assert primary_of(["loss", "f", "mean_iou", "map"]) == LOSS
    assert primary_of(["loss", "f"], "f", False) == Primary("f", False)
    assert primary_of(["loss", "accuracy"], "loss") == LOSS
    for arguments, says in [
        (("g",), "unknown figure in primary= 'g': there are f, loss"),
        (("f",), "primary='f': say whether the higher or the lower is better"),
        (("loss", True), "is minimized"),
        ((None, True), "is said of no figure"),
    ]:
        with pytest.raises(UserError, match=says):
            primary_of(["loss", "f"], *arguments)


def test_a_run_from_before_is_read_as_it_chose() -> None:
    assert primary_in({}, {"validation_loss": 1, "validation_f": 0.5, "f": 0.1}) == Primary("f", True)
    assert primary_in({}, {"validation_loss": 1}, {"test_map": 0.5}) == Primary("map", True)
    assert primary_in({}, {"validation_loss": 1}) == LOSS
    assert primary_in({"primary": "loss", "higher_is_better": False}, {"validation_accuracy": 1}) == LOSS
    assert primary_in({"primary": "f", "higher_is_better": False}, {"validation_f": 1}) == Primary("f", False)


def test_every_task_says_what_chooses() -> None:
    chosen = {
        name: (task.primary.primary, task.primary.higher_is_better)
        for name, task in ((name, tasks.find(name)) for name in tasks.NAMES)
    }
    assert chosen == {
        "classification": ("accuracy", True), "segmentation": ("mean_iou", True), "detection": ("loss", False),
        "edges": ("f", True), "keypoints": ("distance", False),
        "flow": ("end_point_error", False), "text": ("accuracy", True), "vqa": ("accuracy", True),
    }  # fmt: skip


# --- fit -----------------------------------------------------------------------------------------------------------


def scores() -> cnn.Layer:
    return cnn.serial(head=cnn.dense(3))


def turning(steps: int) -> optax.GradientTransformation:
    """Gradient descent that becomes ascent, so that a middle epoch is the best."""
    return optax.sgd(lambda count: jnp.where(count < steps, 0.5, -0.5))


def fitted(**settings: Any) -> train.FitResult:
    given = {"validation": POINTS, "epochs": 5, "batch_size": 12, "optimizer": turning(6), "show": False, **settings}
    return fit(given.pop("model", scores()), given.pop("data", POINTS), **given)


def test_a_validation_that_is_not_finite_at_first_stops_nothing() -> None:
    """The number learned goes from 0 to 1; held-out examples have a loss from 0.95 on only."""

    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        each = jnp.square(outputs[:, 0] - 1)
        return jnp.where((labels > 0) & (outputs[:, 0] < 0.95), jnp.nan, each)

    ones = np.ones((8, 1), np.float32)
    data, held = Examples(ones, np.zeros(8, np.float32)), Examples(ones, np.ones(8, np.float32))
    found = fit(
        cnn.serial(one=cnn.dense(1, bias=False, kernel_init=jax.nn.initializers.zeros)), data, validation=held,
        loss=loss, epochs=20, batch_size=8, patience=2, optimizer=optax.sgd(0.1), show=False,
    )  # fmt: skip
    values = [record["validation_loss"] for record in found.history]
    assert all(map(math.isnan, values[:13]))
    assert len(values) == 20
    assert found.result["best_epoch"] == 20
    assert found.result["validation_loss"] == min(v for v in values if math.isfinite(v))


def test_a_metric_is_not_maximized_for_its_name() -> None:
    """`f` is a cross-entropy here: by default the loss chooses, and by `f` the lowest is best."""
    entropy = {"f": losses.softmax_cross_entropy, "f1": lambda o, y: metrics.accuracy(o, y)}
    by_loss = fitted(metrics=entropy)
    values = [record["validation_f"] for record in by_loss.history]
    assert values[0] > values[2] < values[4]
    assert by_loss.result["best_epoch"] == 1 + int(np.argmin(values))
    by_f = fitted(metrics=entropy, primary="f", higher_is_better=False)
    assert by_f.result["best_epoch"] == 1 + int(np.argmin(values))
    by_f1 = fitted(metrics=entropy, primary="f1", higher_is_better=True)
    best = max(by_f1.history, key=lambda r: (r["validation_f1"], -r["validation_loss"]))
    assert by_f1.result["best_epoch"] == best["epoch"]
    with pytest.raises(UserError, match="unknown figure in primary= 'accuracy'"):
        fitted(metrics=entropy, primary="accuracy")


def spread_out(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """A loss of an embedding: the distance from a place on a circle."""
    angle = 2 * jnp.pi * labels / 3
    return jnp.square(outputs[:, :2] - jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)).sum(-1)


def through_a_classifier(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    return losses.softmax_cross_entropy(outputs @ jnp.eye(3)[:, ::-1], labels)


@pytest.mark.parametrize("loss", [spread_out, through_a_classifier])
def test_an_embedding_has_no_accuracy(loss: Any) -> None:
    """Three numbers and three classes are no scores: only what the loss takes for such is measured."""
    found = fitted(loss=loss)
    assert not any("accuracy" in name for name in found.history[0])
    best = min(found.history, key=lambda record: record["validation_loss"])
    assert found.result["best_epoch"] == best["epoch"]


@pytest.mark.parametrize(
    "loss",
    [
        losses.softmax_cross_entropy, losses.multiclass_hinge, optax.softmax_cross_entropy_with_integer_labels,
        lambda outputs, labels: losses.softmax_cross_entropy(outputs, labels, smoothing=0.1),
        losses.every_output(losses.softmax_cross_entropy),
    ],
)  # fmt: skip
def test_scores_of_classes_have_an_accuracy(loss: Any) -> None:
    found = fitted(loss=loss, epochs=1)
    outputs = np.asarray(found.outputs(POINTS.inputs))
    assert found.result["validation_accuracy"] == (outputs.argmax(1) == POINTS.labels).mean()


def test_fewer_outputs_than_classes_are_refused_by_losses_of_classes_alone() -> None:
    two = cnn.serial(head=cnn.dense(2))
    assert fitted(model=two, loss=spread_out, epochs=1).history
    with pytest.raises(UserError, match="the model has 2 outputs and the labels of data go to 2"):
        fitted(model=two)


# --- the folder, the table and the curves --------------------------------------------------------------------------


def test_a_run_says_what_chose_and_goes_on_by_it(tmp_path: Path) -> None:
    by_f = {"metrics": {"f": losses.softmax_cross_entropy}, "primary": "f", "higher_is_better": False}
    run = tmp_path / "run"
    first = fitted(run=run, **by_f)
    config = json.loads((run / "config.json").read_text())
    assert (config["primary"], config["higher_is_better"]) == ("f", False)
    again = fitted(run=run, resume=True, metrics=by_f["metrics"])  # what is not said is as it was
    assert again.result["best_epoch"] == first.result["best_epoch"]
    with pytest.raises(UserError, match=r"the run chooses its best epoch by .*'f'.*start another run"):
        fitted(run=run, resume=True, metrics=by_f["metrics"], primary="loss")
    with pytest.raises(UserError, match="unknown figure in primary= 'f'"):
        fitted(run=run, resume=True)
    row = runs.find([run])[0].row()
    assert (row["best_epoch"], row["measure"]) == (first.result["best_epoch"], "f")
    assert row["validation"] == first.result["validation_f"]


def write(folder: Path, values: list[float], result: float, **config: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model": "flownet_s", "data": "x", "epochs": 3, **config}))
    records = [{"epoch": i, "step": i, "loss": 1.0, "validation_loss": 1.0, "validation_end_point_error": v}
               for i, v in enumerate(values, 1)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "result.json").write_text(json.dumps({"test_end_point_error": result, "test_loss": 1.0}))


def test_the_table_sorts_a_figure_that_is_better_low(tmp_path: Path, capsys: Any) -> None:
    error = {"primary": "end_point_error", "higher_is_better": False}
    write(tmp_path / "a", [3.0, 2.5, 2.75], 2.6, **error)
    write(tmp_path / "b", [2.0, NAN, 1.5], 1.75, **error)
    write(tmp_path / "c", [NAN, 9.0, 8.0], 8.5, **error)
    found = runs.ordered(runs.find([tmp_path]), "validation")
    assert [run.path.name for run in found] == ["b", "a", "c"]
    assert [run.row()["best_epoch"] for run in found] == [3, 2, 3]
    assert [run.path.name for run in runs.ordered(found, "test")] == ["b", "a", "c"]
    cli.main(["runs", str(tmp_path)])
    assert " 2.5000 " in capsys.readouterr().out


def labels(axes: list[Axes]) -> list[str]:
    return [one.get_ylabel() for one in axes]


def test_curves_draw_the_figure_that_decides() -> None:
    records = [{"epoch": 1, "loss": 0.5, "f": 0.76}, {"epoch": 2, "loss": 0.4, "f": 0.3}]
    assert labels(plots.curves(records).axes) == ["loss"]
    assert labels(plots.curves(records, "f").axes) == ["loss", "F (%)"]
    assert labels(plots.curves(records, "f", higher_is_better=False).axes) == ["loss", "F"]
    assert labels(plots.curves([{**records[0], "log_likelihood": -3.0}], "log_likelihood").axes)[1] == "log likelihood"
    assert labels(plots.curves([{**records[0], "accuracy": 0.5}]).axes) == ["loss", "error (%)"]
    below = plots.curves([{"epoch": 1, "loss": 0.5, "gain": -3.0}, {"epoch": 2, "loss": NAN, "gain": NAN}], "gain")
    assert below.axes[1].get_ylim()[0] < -3


def test_a_live_line_shows_the_figure_that_decides(capsys: Any) -> None:
    fitted(metrics={"f": losses.softmax_cross_entropy}, primary="f", higher_is_better=False, epochs=1, show=True)
    assert "%" not in capsys.readouterr().out
    fitted(epochs=1, show=True)
    assert "%" in capsys.readouterr().out
