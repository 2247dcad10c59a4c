"""The experiments without labels, on a few of the embedded digits, and their losses by other means."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as cnn
from experiments import simclr, vae


def test_the_bound_is_that_of_the_paper() -> None:
    """The divergence by integration over a grid, the likelihood by its definition; float32: 1e-5."""
    mean, log_var = np.array([[0.5, -1.2]]), np.array([[-0.7, 0.4]])
    z = np.linspace(-20, 20, 200_001)
    expected = 0.0
    for m, v in zip(mean[0], np.exp(log_var[0]), strict=True):
        log_q = -((z - m) ** 2) / (2 * v) - np.log(2 * np.pi * v) / 2
        log_p = -(z**2) / 2 - np.log(2 * np.pi) / 2
        expected += float(np.trapezoid(np.exp(log_q) * (log_q - log_p), z))
    rng = np.random.default_rng(0)
    x, logits = rng.integers(0, 2, (1, 4, 4, 1)), 3 * rng.normal(size=(1, 4, 4, 1))
    p = 1 / (1 + np.exp(-logits))
    nats = -np.log(np.where(x == 1, p, 1 - p)).sum()
    outputs = {"image": x, "mean": mean, "log_var": log_var, "logits": logits}
    outputs = {name: jnp.asarray(value, jnp.float32) for name, value in outputs.items()}
    assert float(vae.divergence(outputs, None)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(vae.reconstruction(outputs, None)[0]) == pytest.approx(nats, rel=1e-5)
    assert float(vae.negative_elbo(outputs, None)[0]) == pytest.approx(expected + nats, rel=1e-5)


@pytest.mark.slow
def test_the_autoencoders_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae.vae("digits", examples=64, latents=(2,), width=2, epochs=1, batch_size=32, picture=tmp_path / "vae.png")
    out = capsys.readouterr().out
    assert "-ELBO, test" in out
    assert (tmp_path / "vae.png").stat().st_size > 10_000


def test_labelled_images_are_chosen_evenly() -> None:
    labels = np.random.default_rng(0).integers(0, 10, 200)
    few = simclr.chosen(labels, 25, np.random.default_rng(1))
    assert len(set(few)) == 25
    assert set(np.bincount(labels[few])) == {2, 3}
    assert simclr.chosen(labels, 200, np.random.default_rng(1)).tolist() == list(range(200))


def test_a_partner_is_found_among_the_others() -> None:
    first = jnp.eye(3)
    assert simclr.found_partner((first, 5 * first), None).tolist() == [1, 1, 1]
    assert simclr.found_partner((first, first[jnp.array([0, 2, 1])]), None).tolist() == [1, 0, 0]
    photo = jax.random.randint(jax.random.key(0), (2, 3, 3, 3), 0, 256).astype(jnp.uint8)
    made = simclr.grey(photo, jax.random.key(1))
    assert made.dtype == jnp.uint8
    assert (np.ptp(np.asarray(made), axis=-1) == 0).all()


@pytest.mark.slow
def test_simclr_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller encoder, which compiles in a second; the page's command runs the real one."""
    small = cnn.serial(conv=cnn.conv(4, 4, 4), bn=cnn.batch_norm(), act=cnn.relu, pool=cnn.global_avg_pool)
    monkeypatch.setattr(simclr, "encoder", lambda *_: small)
    simclr.simclr(
        "digits", examples=64, epochs=1, batch_size=32, width=2, units=4, labels=(20,), tuning_steps=1,
        picture=tmp_path / "simclr.png",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert "20 labels | 64 labels" in out
    assert out.count("SimCLR, fine-tuned") >= 1
    assert (tmp_path / "simclr.png").stat().st_size > 10_000
