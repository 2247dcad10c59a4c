"""Optax optimizers and schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError, unknown

_Make = Callable[[optax.ScalarOrSchedule, float], optax.GradientTransformation]


def _sgd(momentum: float | None, nesterov: bool = False) -> _Make:
    def make(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(decay, _kernels), optax.sgd(lr, momentum, nesterov))

    return make


def _adam(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    return optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay, mask=_kernels)


def _lion(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    return optax.lion(lr, b1=0.9, b2=0.99, weight_decay=decay, mask=_kernels)


def _muon(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    """Muon for kernels, Adam for all other parameters. `optax.contrib.muon` would take dense layers' kernels only, and
    its factors depend on Optax's version."""

    def names(params: Any) -> Any:
        def name(path: Any, x: jax.Array) -> str:
            return "muon" if path[-1].key == "kernel" and x.ndim > 1 else "adam"

        return jax.tree_util.tree_map_with_path(name, params)

    muon = optax.chain(
        optax.trace(0.95, nesterov=True),
        optax.stateless_with_tree_map(
            lambda u, _: 0.2 * max(u.size // u.shape[-1], u.shape[-1]) ** 0.5 * orthogonal(u)
        ),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(lr),
    )
    return optax.partition({"muon": muon, "adam": _adam(lr, decay)}, names)


def orthogonal(update: jax.Array, steps: int = 5) -> jax.Array:
    """The update `(..., out)`, as a matrix of `out` columns, with all its singular values near 1.

    Steps X' = a X + (b A + c A^2) X with A = X X^T, from X / |X|; five of them take singular values from 0.01 to 1 to
    about 0.7 to 1.2.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024).
    """
    x = update.reshape(-1, update.shape[-1])
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).reshape(update.shape)


OPTIMIZERS: dict[str, tuple[float, _Make]] = {
    "sgd": (0.1, _sgd(None)),
    "momentum": (0.05, _sgd(0.9)),
    "nesterov": (0.05, _sgd(0.9, nesterov=True)),
    "adam": (2e-3, _adam),
    "adamw": (2e-3, _adam),
    "lion": (5e-4, _lion),
    "muon": (1e-2, _muon),
}
"""Each optimizer's default learning rate, and a function that makes it from a rate and a weight decay."""

DECAYS: dict[str, float] = {"adamw": 0.01}
"""The default weight decay of optimizers that have one; 0 for all others."""

SCHEDULES: dict[str, Callable[[float, int], optax.ScalarOrSchedule]] = {
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, max(steps, 1)),
    "constant": lambda lr, steps: lr,
    "steps": lambda lr, steps: optax.piecewise_constant_schedule(lr, {steps // 2: 0.1, steps * 3 // 4: 0.1}),
    "onecycle": lambda lr, steps: optax.cosine_onecycle_schedule(max(steps, 4), lr),
}
"""Schedules, made from a rate and the total number of steps: `cosine`, half a cosine from the rate to 0; `constant`;
`steps`, a tenth of the rate from one half on and a hundredth from three quarters on (He et al. 2015, section 4.2, on
CIFAR-10); `onecycle`, up to the rate in the first 30 % and then down to nearly 0 (Smith and Topin 2018)."""


def make_optimizer(
    name: str,
    lr: float | optax.Schedule | None = None,
    schedule: str = "constant",
    steps: int | None = None,
    weight_decay: float | None = None,
    warmup: int = 0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """The optimizer called `name`, for the gradient g and the weights w:

    - `sgd`: w' = w - lr g.
    - `momentum`: w' = w - lr v', v' = 0.9 v + g (Polyak 1964).
    - `nesterov`: w' = w - lr (g + 0.9 v'), v' = 0.9 v + g (Nesterov 1983; in this form Sutskever et al. 2013).
    - `adam`: beta 0.9 and 0.999, epsilon 1e-8 (Kingma and Ba 2015, algorithm 1).
    - `adamw`: Adam with a default weight decay of 0.01 (Loshchilov and Hutter 2019, algorithm 2).
    - `lion`: w' = w - lr sign(0.9 m + 0.1 g), m' = 0.99 m + 0.01 g (Chen et al. 2023, algorithm 2).
    - `muon`: w' = w - lr 0.2 sqrt(max(n, k)) O for kernels, each as a matrix `(n, k)` = `(kh kw in, out)`. O is the
      momentum (beta 0.95, Nesterov's form) with all its singular values made about 1, by five steps of Newton and
      Schulz's iteration (Jordan et al. 2024). The factor gives O the size of Adam's updates, so that one rate serves
      both (Liu et al. 2025, section 2.2): all other parameters are trained by `adam`. A network's last layer and
      embeddings are trained better by `adam`, too: `by_path` says so. The kernels of an `ensemble` are no matrices.

    Args:
      name: one of these.
      lr: the (initial) learning rate; the default in `OPTIMIZERS` when not given. Or an Optax schedule, a function of
        the step; `schedule` then keeps its default.
      schedule: a name in `SCHEDULES`.
      steps: the total number of steps; needed by a warm-up and by every schedule except `constant`.
      weight_decay: lambda: lambda w is added to the gradient, for kernels only; to the update before it is multiplied
        by the rate with `adam`, `adamw`, `lion` and `muon` (decoupled, Loshchilov and Hutter 2019). The default in
        `DECAYS`, or 0, when not given.
      warmup: the number of first steps, in which the rate grows linearly from 0; the schedule has the remaining ones
        (Goyal et al. 2017, section 2.2).
      clip: the largest global norm of the gradient; a larger gradient is scaled down to it (Pascanu et al. 2013).

    Raises:
      UserError: for an unknown name, a schedule without `steps`, a learning rate that is not positive, a negative
        weight decay, a warm-up that leaves no steps, or a norm that is not positive.
    """
    if not isinstance(name, str):
        raise UserError(f"expected the name of an optimizer first ({', '.join(OPTIMIZERS)}), got {name!r}")
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if steps is None and not callable(lr) and (schedule != "constant" or warmup):
        asked = "a warm-up" if schedule == "constant" else f"the schedule {schedule!r}"
        raise UserError(
            f"{asked} needs steps=, how many steps the whole training has: epochs * (len(data) // batch_size)"
        )
    steps = 1 if steps is None else steps
    default, make = OPTIMIZERS[name]
    lr = default if lr is None else lr
    weight_decay = DECAYS.get(name, 0.0) if weight_decay is None else weight_decay
    if not weight_decay >= 0:
        raise UserError(f"the weight decay should be 0 or more, got {weight_decay}")
    if clip is not None and not clip > 0:
        raise UserError(f"the gradient's largest norm should be above 0, got {clip}")
    if callable(lr):
        if schedule != "constant" or warmup:
            raise UserError(f"lr is a schedule already: it cannot be one of {schedule=} and {warmup=} too")
        rate: optax.ScalarOrSchedule = lr
    elif not lr > 0:
        raise UserError(f"the learning rate should be above 0, got {lr}")
    elif not warmup:
        rate = SCHEDULES[schedule](lr, steps)
    elif schedule == "onecycle" or not 0 < warmup < steps:
        raise UserError(
            "onecycle has a warm-up of its own"
            if schedule == "onecycle"
            else f"a warm-up of {warmup} steps should be from 1 to less than the {steps} of the training"
        )
    else:
        after = SCHEDULES[schedule](lr, steps - warmup)
        after = after if callable(after) else optax.constant_schedule(after)
        rate = optax.join_schedules([optax.linear_schedule(0, lr, warmup), after], [warmup])
    made = make(rate, weight_decay)
    return made if clip is None else optax.chain(optax.clip_by_global_norm(clip), made)


def _kernels(params: dict) -> dict:
    return {k: _kernels(v) if isinstance(v, dict) else k == "kernel" for k, v in params.items()}
