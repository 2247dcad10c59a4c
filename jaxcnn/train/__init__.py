"""Training: the state, the jitted step, the loop over epochs, callbacks and evaluation."""

from jaxcnn.runs.folder import Run
from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import Trained, TrainedModel
from jaxcnn.tasks.max_norm import max_norm
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.callbacks import GradientNorm, LearningRate, StopAt
from jaxcnn.train.evaluate import Evaluation, evaluate, make_evaluate
from jaxcnn.train.fit import FitResult, fit
from jaxcnn.train.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from jaxcnn.train.step import TrainState, create_state, make_step
from jaxcnn.train.sweep import SweepResult, sweep
from jaxcnn.train.train import train
from jaxcnn.train.training import Callback, Training

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Callback",
    "Evaluation",
    "FitResult",
    "GradientNorm",
    "LearningRate",
    "Objective",
    "Process",
    "Recipe",
    "Run",
    "StopAt",
    "SweepResult",
    "TrainState",
    "Trained",
    "TrainedModel",
    "Training",
    "create_state",
    "evaluate",
    "fit",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "max_norm",
    "sweep",
    "train",
]
