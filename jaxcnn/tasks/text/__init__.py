"""The class of a sentence."""

from jaxcnn.tasks.text.task import TASK, evidence

__all__ = ["TASK", "evidence"]
