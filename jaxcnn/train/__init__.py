"""Training: the state, the jitted step, the loop over epochs, callbacks and evaluation."""

from jaxcnn.runs.folder import Run
from jaxcnn.runs.named import NamedRecipe, named_recipe, recipes
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
from jaxcnn.train.trackers import MLflow, WeightsAndBiases
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
    "MLflow",
    "NamedRecipe",
    "Objective",
    "Process",
    "Recipe",
    "Run",
    "StopAt",
    "TrainState",
    "Trained",
    "TrainedModel",
    "Training",
    "WeightsAndBiases",
    "create_state",
    "evaluate",
    "fit",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "max_norm",
    "named_recipe",
    "recipes",
    "train",
]
