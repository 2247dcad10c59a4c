"""`jaxcnn lr`."""

from __future__ import annotations

import json

from jaxcnn.cli.common import say, shown
from jaxcnn.cli.options import Lr
from jaxcnn.cli.resume import recipe_of
from jaxcnn.errors import UserError

_UNUSED = ("lr", "schedule", "warmup", "epochs")


def run_lr(given: Lr) -> None:
    import numpy as np

    from jaxcnn.inspect.graph import check_suffix, write
    from jaxcnn.train.train import learning_rates

    if found := [name for name in _UNUSED if name in given.given]:
        raise UserError(f"--{found[0]} has no effect on the search for a learning rate: leave it out")
    if given.picture is not None:
        check_suffix(given.picture)
    search = learning_rates(recipe_of(given), low=given.low, high=given.high, steps=given.steps)
    if given.picture is not None:
        write(search.picture(), given.picture)
    if given.json:
        columns = {name: [float(x) for x in getattr(search, name)] for name in ("rates", "losses", "smoothed")}
        say(json.dumps({"suggestion": search.suggestion, **columns}))
        return
    rate = f"{search.suggestion:.2g}"
    say(f"suggested learning rate {rate}, for the start of a schedule that falls: --lr {rate}")
    at = int(np.nanargmin(search.smoothed))
    say(f"the loss is lowest, {search.smoothed[at]:.3g}, at {search.rates[at]:.2g}; {len(search.rates)} rates tried")
    if given.picture is not None:
        say(shown(given.picture.absolute()))
