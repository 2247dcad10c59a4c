"""Loading and saving weights in the formats of torchvision, timm and Flax's ImageNet example; loading Keras's files,
and the weights of another run.

Nothing is downloaded, PyTorch is not needed, and no code from a file is run. `jaxcnn weights FILE` shows what is in a
file and which network it fits. Fine-tuning:

>>> import jaxcnn as cnn
>>> net = cnn.models.resnet18(classes=3)
>>> model = cnn.freeze(net, "conv1", "bn1", "layer1", "layer2")    # not trained; their statistics stay
>>> params, state = cnn.weights.load(model, "resnet18-f37072fd.pth", fresh="head")
>>> preprocess = cnn.weights.preprocess(net)    # uint8 images of any size to the input of the weights' training
>>> objective = cnn.train.Objective(preprocess=preprocess)
>>> fitted = cnn.train.fit(model, data, objective, variables=(params, state), epochs=5)
>>> cnn.weights.save(model, fitted.params, fitted.model_state, "flowers.safetensors")    # with torchvision's names
"""

from jaxcnn.transforms import adapt
from jaxcnn.weights.files import is_run, read
from jaxcnn.weights.presets import preprocess
from jaxcnn.weights.transfer import load, save

__all__ = ["adapt", "is_run", "load", "preprocess", "read", "save"]
