"""Optimizers and schedules by name, as Optax has them."""

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
"""Each optimizer's learning rate where none is given, and how it is made of a rate and a weight decay."""

SCHEDULES: dict[str, Callable[[float, int], optax.ScalarOrSchedule]] = {
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, max(steps, 1)),
    "constant": lambda lr, steps: lr,
}


def make_optimizer(
    name: str,
    lr: float | optax.Schedule | None = None,
    schedule: str = "constant",
    steps: int = 1,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """The optimizer called `name`.

    Args:
      name: `sgd`, `momentum` (SGD with momentum 0.9) or `adam` (beta 0.9 and 0.999, epsilon 1e-8).
      lr: the learning rate, or the first one; the optimizer's own in `OPTIMIZERS` when not given. Or an Optax schedule,
        a function of the step, and then `schedule` stays as it is.
      schedule: `constant`, or `cosine`: half a cosine from `lr` to 0 over all steps.
      steps: of the whole training.
      weight_decay: lambda: the update has lambda w beside the gradient, for kernels only. With `adam` it is decoupled
        from the moments (AdamW, Loshchilov and Hutter 2019).

    Raises:
      UserError: for an unknown name, a learning rate that is not positive, or a negative weight decay.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    default, make = OPTIMIZERS[name]
    lr = default if lr is None else lr
    if not weight_decay >= 0:
        raise UserError(f"the weight decay should be 0 or more, got {weight_decay}")
    if callable(lr):
        if schedule != "constant":
            raise UserError(f"lr is a schedule already: it cannot be one of schedule={schedule!r} too")
        return make(lr, weight_decay)
    if not lr > 0:
        raise UserError(f"the learning rate should be above 0, got {lr}")
    return make(SCHEDULES[schedule](lr, steps), weight_decay)


def _kernels(params: dict) -> dict:
    return {k: _kernels(v) if isinstance(v, dict) else k == "kernel" for k, v in params.items()}
