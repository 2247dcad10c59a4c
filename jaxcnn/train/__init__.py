"""Training: the state, the jitted step, the loop over epochs, callbacks and evaluation."""

from jaxcnn.runs.averages import eval_params
from jaxcnn.runs.folder import Run
from jaxcnn.runs.named import NamedRecipe, named_recipe, recipes
from jaxcnn.runs.process import Process
from jaxcnn.runs.recipe import Recipe
from jaxcnn.runs.trained import Trained, TrainedModel
from jaxcnn.tasks.max_norm import max_norm
from jaxcnn.tasks.objective import Objective
from jaxcnn.train.averaging import lookahead
from jaxcnn.train.callbacks import GradientNorm, LearningRate, ReduceOnPlateau, StopAt
from jaxcnn.train.evaluate import Evaluation, evaluate, make_evaluate
from jaxcnn.train.fit import FitResult, fit
from jaxcnn.train.optimizers import DECAYS, OPTIMIZERS, SCHEDULES, make_optimizer
from jaxcnn.train.paths import by_path, mask
from jaxcnn.train.rates import RateSearch, find_learning_rate
from jaxcnn.train.step import TrainState, create_state, make_step
from jaxcnn.train.sweep import SweepResult, sweep
from jaxcnn.train.trackers import MLflow, WeightsAndBiases
from jaxcnn.train.train import train
from jaxcnn.train.training import Callback, Training

__all__ = [
    "DECAYS",
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
    "RateSearch",
    "Recipe",
    "ReduceOnPlateau",
    "Run",
    "StopAt",
    "SweepResult",
    "TrainState",
    "Trained",
    "TrainedModel",
    "Training",
    "WeightsAndBiases",
    "by_path",
    "create_state",
    "eval_params",
    "evaluate",
    "find_learning_rate",
    "fit",
    "lookahead",
    "make_evaluate",
    "make_optimizer",
    "make_step",
    "mask",
    "max_norm",
    "named_recipe",
    "recipes",
    "sweep",
    "train",
]
