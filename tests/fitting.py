"""`fit` with all its settings in one dict, as tests vary them."""

import dataclasses
from typing import Any

from jaxcnn import train

_OBJECTIVE = frozenset(field.name for field in dataclasses.fields(train.Objective))
_RUN = ("resume", "save_every", "keep", "tensorboard", "profile", "config")


def fit(model: Any, data: Any, **settings: Any) -> train.FitResult:
    """`train.fit` with the fields of its `Objective` and of its `Run` among the keywords."""
    objective = {name: settings.pop(name) for name in list(settings) if name in _OBJECTIVE}
    run = {name: settings.pop(name) for name in _RUN if name in settings}
    if run and settings.get("run") is not None:
        settings["run"] = train.Run(settings["run"], **run)
    return train.fit(model, data, train.Objective(**objective), **settings)
