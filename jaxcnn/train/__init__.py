"""Training: the state, the jitted step, the loop over epochs, evaluation, and the folder of a run."""

from jaxcnn.runs.folder import Run
from jaxcnn.runs.trained import Trained
from jaxcnn.train.evaluate import Evaluation, make_evaluate
from jaxcnn.train.fit import FitResult, fit
from jaxcnn.train.max_norm import max_norm
from jaxcnn.train.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from jaxcnn.train.step import TrainState, create_state, make_step

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Evaluation",
    "FitResult",
    "Run",
    "TrainState",
    "Trained",
    "create_state",
    "fit",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "max_norm",
]
