"""Looking into a network: a table of its layers, activations by name, a gradient check, pictures."""

from jaxcnn.inspect import plots
from jaxcnn.inspect.activations import activations
from jaxcnn.inspect.gradient import gradient_check
from jaxcnn.inspect.summary import Row, Summary, summary

__all__ = ["Row", "Summary", "activations", "gradient_check", "plots", "summary"]
