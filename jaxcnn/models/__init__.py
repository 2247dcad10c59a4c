"""Architectures, one file each, to be read beside their papers: `cnn.models.NAME(classes=...) -> Layer`.

A new model is a file here with `@model(...)` over its builder, and a line below.
"""

# In the order of `jaxcnn models`: classifiers from the simplest on, then the networks of other tasks.
# isort: off
from jaxcnn.models.registry import MODELS, Entry, make, unknown_model
from jaxcnn.models.logistic import logistic as logistic
from jaxcnn.models.mlp import mlp as mlp
from jaxcnn.models.lenet import lenet5 as lenet5, lenet5_1998 as lenet5_1998
from jaxcnn.models.lecture_cnn import lecture_cnn as lecture_cnn
from jaxcnn.models.convnet import convnet as convnet
from jaxcnn.models.alexnet import alexnet as alexnet, alexnet_2012 as alexnet_2012, alexnet_single as alexnet_single
from jaxcnn.models.vgg import vgg, vgg11 as vgg11, vgg13 as vgg13, vgg16 as vgg16, vgg19 as vgg19
from jaxcnn.models.vgg import vgg11_bn as vgg11_bn, vgg13_bn as vgg13_bn, vgg16_bn as vgg16_bn, vgg19_bn as vgg19_bn
from jaxcnn.models.googlenet import googlenet as googlenet, googlenet_2014 as googlenet_2014
from jaxcnn.models.resnet import resnet, resnet18 as resnet18, resnet34 as resnet34, resnet50 as resnet50
from jaxcnn.models.resnet import resnet101 as resnet101, resnet152 as resnet152
from jaxcnn.models.squeezenet import squeezenet, squeezenet1_0 as squeezenet1_0, squeezenet1_1 as squeezenet1_1
from jaxcnn.models.mobilenet_v2 import mobilenet_v2 as mobilenet_v2
from jaxcnn.models.mobilenet_v3 import mobilenet_v3, mobilenet_v3_large as mobilenet_v3_large
from jaxcnn.models.mobilenet_v3 import mobilenet_v3_small as mobilenet_v3_small
from jaxcnn.models.shufflenet_v2 import shufflenet_v2, shufflenet_v2_x0_5 as shufflenet_v2_x0_5
from jaxcnn.models.shufflenet_v2 import shufflenet_v2_x1_0 as shufflenet_v2_x1_0
from jaxcnn.models.shufflenet_v2 import shufflenet_v2_x1_5 as shufflenet_v2_x1_5
from jaxcnn.models.shufflenet_v2 import shufflenet_v2_x2_0 as shufflenet_v2_x2_0
from jaxcnn.models.mnasnet import mnasnet, mnasnet0_5 as mnasnet0_5, mnasnet0_75 as mnasnet0_75
from jaxcnn.models.mnasnet import mnasnet1_0 as mnasnet1_0, mnasnet1_3 as mnasnet1_3
from jaxcnn.models.efficientnet import efficientnet, efficientnet_b0 as efficientnet_b0
from jaxcnn.models.efficientnet import efficientnet_b1 as efficientnet_b1, efficientnet_b2 as efficientnet_b2
from jaxcnn.models.efficientnet import efficientnet_b3 as efficientnet_b3, efficientnet_b4 as efficientnet_b4
from jaxcnn.models.efficientnet import efficientnet_b5 as efficientnet_b5, efficientnet_b6 as efficientnet_b6
from jaxcnn.models.efficientnet import efficientnet_b7 as efficientnet_b7
from jaxcnn.models.efficientnet import efficientnet_v2_s as efficientnet_v2_s, efficientnet_v2_m as efficientnet_v2_m
from jaxcnn.models.efficientnet import efficientnet_v2_l as efficientnet_v2_l, efficientnet_lite0 as efficientnet_lite0
from jaxcnn.models.cifar_resnet import cifar_resnet, resnet20 as resnet20, resnet32 as resnet32, resnet44 as resnet44
from jaxcnn.models.cifar_resnet import resnet56 as resnet56, resnet110 as resnet110, resnet1202 as resnet1202
from jaxcnn.models.cifar_resnet import plain20 as plain20, plain32 as plain32, plain44 as plain44
from jaxcnn.models.cifar_resnet import plain56 as plain56, plain110 as plain110
from jaxcnn.models.fcn import fcn, fcn8s as fcn8s, fcn16s as fcn16s, fcn32s as fcn32s
from jaxcnn.models.rcnn import rcnn as rcnn
from jaxcnn.models.fast_rcnn import fast_rcnn as fast_rcnn
from jaxcnn.models.hed import hed as hed
from jaxcnn.models.flownet import flownet_c as flownet_c, flownet_s as flownet_s
from jaxcnn.models.text_cnn import text_cnn as text_cnn
from jaxcnn.models.vqa import vqa_cnn as vqa_cnn, vqa_relation as vqa_relation
# isort: on

from jaxcnn.transforms.fully_convolutional import fully_convolutional as convolutional

__all__ = ["MODELS", "Entry", "cifar_resnet", "convolutional", "efficientnet", "fcn", "make", "mnasnet", "mobilenet_v3",
           "resnet", "shufflenet_v2", "squeezenet", "unknown_model", "vgg", *MODELS]  # fmt: skip
