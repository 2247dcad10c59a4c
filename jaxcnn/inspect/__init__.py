"""Looking into a network: tables of its layers, pictures of its graph, activations by name, a gradient check, plots."""

from jaxcnn.inspect import plots
from jaxcnn.inspect.activations import activations
from jaxcnn.inspect.gradient import gradient_check
from jaxcnn.inspect.summary import Row, Summary, draw_graph, summary

__all__ = ["Row", "Summary", "activations", "draw_graph", "gradient_check", "plots", "summary"]
