"""Convolutional networks in JAX as pure functions: `import jaxcnn as cnn`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxcnn.core import (
    Layer,
    LayerError,
    concat,
    identity,
    layer,
    network,
    parallel,
    residual,
    serial,
)
from jaxcnn.layers import (
    adaptive_avg_pool,
    avg_pool,
    batch_norm,
    channel_shuffle,
    conv,
    conv_transpose,
    dense,
    drop_path,
    dropout,
    elu,
    embed,
    flatten,
    gelu,
    gelu_tanh,
    global_avg_pool,
    global_max_pool,
    group_norm,
    hard_sigmoid,
    hard_swish,
    layer_norm,
    layer_scale,
    leaky_relu,
    local_response_norm,
    max_pool,
    maxout,
    param,
    pixel_shuffle,
    prelu,
    relu,
    relu6,
    separable_conv,
    sigmoid,
    silu,
    softmax,
    squeeze_excite,
    sum_pool,
    tanh,
    upsample,
)
from jaxcnn.transforms import (
    ensemble,
    freeze,
    from_flax,
    mixed_precision,
    remat,
    spectral_norm,
    synchronized,
    weight_standardization,
)

if TYPE_CHECKING:
    from jaxcnn import (
        data,
        devices,
        export,
        inspect,
        losses,
        metrics,
        models,
        ops,
        runs,
        tasks,
        train,
        transforms,
        weights,
    )
    from jaxcnn.tasks.detection import objective as detection  # noqa: F401
    from jaxcnn.tasks.edges import objective as boundaries  # noqa: F401
    from jaxcnn.tasks.flow import objective as flow  # noqa: F401
    from jaxcnn.tasks.segmentation import objective as segmentation  # noqa: F401

__version__ = "0.1.0"

# The last four are former names of the tasks' objectives.
_SUBMODULES = {
    **{
        name: name
        for name in (
            "data", "devices", "export", "inspect", "losses", "metrics", "models", "ops", "runs", "tasks", "train",
            "transforms", "weights",
        )
    },
    "boundaries": "tasks.edges.objective",
    "detection": "tasks.detection.objective",
    "flow": "tasks.flow.objective",
    "segmentation": "tasks.segmentation.objective",
}  # fmt: skip

__all__ = [
    "Layer",
    "LayerError",
    "adaptive_avg_pool",
    "avg_pool",
    "batch_norm",
    "channel_shuffle",
    "concat",
    "conv",
    "conv_transpose",
    "data",
    "dense",
    "devices",
    "drop_path",
    "dropout",
    "elu",
    "embed",
    "ensemble",
    "export",
    "flatten",
    "freeze",
    "from_flax",
    "gelu",
    "gelu_tanh",
    "global_avg_pool",
    "global_max_pool",
    "group_norm",
    "hard_sigmoid",
    "hard_swish",
    "identity",
    "inspect",
    "layer",
    "layer_norm",
    "layer_scale",
    "leaky_relu",
    "local_response_norm",
    "losses",
    "max_pool",
    "maxout",
    "metrics",
    "mixed_precision",
    "models",
    "network",
    "ops",
    "parallel",
    "param",
    "pixel_shuffle",
    "prelu",
    "relu",
    "relu6",
    "remat",
    "residual",
    "runs",
    "separable_conv",
    "serial",
    "sigmoid",
    "silu",
    "softmax",
    "spectral_norm",
    "squeeze_excite",
    "sum_pool",
    "synchronized",
    "tanh",
    "tasks",
    "train",
    "transforms",
    "upsample",
    "weight_standardization",
    "weights",
]


def __getattr__(name: str) -> Any:
    # Submodules are imported on first use, so that `import jaxcnn` is as fast as `import jax`.
    if name in _SUBMODULES:
        return import_module(f"jaxcnn.{_SUBMODULES[name]}")
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES, "__version__"]
