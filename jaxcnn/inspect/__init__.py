"""Tables of a network's layers, pictures of its graph, the outputs of its layers and what excites them, plots."""

from jaxcnn.inspect import pictures, plots
from jaxcnn.inspect.activations import activations
from jaxcnn.inspect.features import Ascent, Patches, Strongest, maximize, patches, strongest
from jaxcnn.inspect.gradient import gradient_check
from jaxcnn.inspect.program import Program, layer_outputs, program, split_at
from jaxcnn.inspect.saliency import Occlusion, grad_cam, input_gradient, occlusion, saliency
from jaxcnn.inspect.samples import mistakes, show_batch
from jaxcnn.inspect.summary import Row, Summary, draw_graph, summary
from jaxcnn.inspect.windows import Seen, UnitReport, Window, filters, receptive_window, see_unit

__all__ = [
    "Ascent",
    "Occlusion",
    "Patches",
    "Program",
    "Row",
    "Seen",
    "Strongest",
    "Summary",
    "UnitReport",
    "Window",
    "activations",
    "draw_graph",
    "filters",
    "grad_cam",
    "gradient_check",
    "input_gradient",
    "layer_outputs",
    "maximize",
    "mistakes",
    "occlusion",
    "patches",
    "pictures",
    "plots",
    "program",
    "receptive_window",
    "saliency",
    "see_unit",
    "show_batch",
    "split_at",
    "strongest",
    "summary",
]
