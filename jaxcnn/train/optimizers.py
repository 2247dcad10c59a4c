"""Optax optimizers and schedules by name."""

from __future__ import annotations

from collections.abc import Callable

import optax

from jaxcnn.errors import UserError, unknown

_Make = Callable[[optax.ScalarOrSchedule, float], optax.GradientTransformation]


def _sgd(momentum: float | None) -> _Make:
    def make(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(decay, _kernels), optax.sgd(lr, momentum))

    return make


def _adam(lr: optax.ScalarOrSchedule, decay: float) -> optax.GradientTransformation:
    return optax.adamw(lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=decay, mask=_kernels)


OPTIMIZERS: dict[str, tuple[float, _Make]] = {
    "sgd": (0.1, _sgd(None)),
    "momentum": (0.05, _sgd(0.9)),
    "adam": (2e-3, _adam),
}
"""Each optimizer's default learning rate, and a function that makes it from a rate and a weight decay."""

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
    weight_decay: float = 0.0,
    warmup: int = 0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """The optimizer called `name`.

    Args:
      name: `sgd`, `momentum` (SGD with momentum 0.9) or `adam` (beta 0.9 and 0.999, epsilon 1e-8).
      lr: the (initial) learning rate; the default in `OPTIMIZERS` when not given. Or an Optax schedule, a function of
        the step; `schedule` then keeps its default.
      schedule: a name in `SCHEDULES`.
      steps: the total number of steps; needed by a warm-up and by every schedule except `constant`.
      weight_decay: lambda: lambda w is added to the gradient, for kernels only. With `adam` it is decoupled from the
        moments (AdamW, Loshchilov and Hutter 2019).
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
