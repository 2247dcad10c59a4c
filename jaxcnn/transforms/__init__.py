"""Transformations, `Layer -> Layer`: the same network, trained or computed in another way.

`freeze`, `mixed_precision`, `remat`, `synchronized`, `ensemble`, `spectral_norm` and `weight_standardization` can be
combined in any order. Layers keep their names and paths, so `weights.load`, `inspect.summary` and further
transformations work on the result. `from_flax` makes a Layer of a module of Flax; `constant` is for a single call of a
sublayer inside a network's function.
"""

from jaxcnn.core import constant
from jaxcnn.transforms.ensemble import ensemble, member, members
from jaxcnn.transforms.freeze import adapt, freeze, is_frozen, split
from jaxcnn.transforms.from_flax import from_flax
from jaxcnn.transforms.fully_convolutional import fully_convolutional
from jaxcnn.transforms.precision import mixed_precision
from jaxcnn.transforms.remat import remat
from jaxcnn.transforms.reparametrize import spectral_norm, weight_standardization
from jaxcnn.transforms.synchronized import synchronized

__all__ = [
    "adapt",
    "constant",
    "ensemble",
    "freeze",
    "from_flax",
    "fully_convolutional",
    "is_frozen",
    "member",
    "members",
    "mixed_precision",
    "remat",
    "spectral_norm",
    "split",
    "synchronized",
    "weight_standardization",
]
