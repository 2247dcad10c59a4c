"""Architectures, one file each, to be read together with their papers: `cnn.models.NAME(classes=...) -> Layer`.

To add a model, write a file here with `@model(...)` over its builder, add a line below, and run
`python tests/models/figures_table.py NAME`, which keeps its number of parameters for `jaxcnn models`.
"""

# In the order of `jaxcnn models`: classifiers, the simplest first, then the networks of other tasks.
# isort: off
from jaxcnn.models.registry import MODELS, Entry, make, unknown_model
from jaxcnn.models.logistic import logistic as logistic
from jaxcnn.models.mlp import mlp as mlp
from jaxcnn.models.keypoint_net import keypoint_net as keypoint_net
from jaxcnn.models.lenet import lenet5 as lenet5, lenet5_1998 as lenet5_1998
from jaxcnn.models.lecture_cnn import lecture_cnn as lecture_cnn
from jaxcnn.models.convnet import convnet as convnet
from jaxcnn.models.alexnet import alexnet as alexnet, alexnet_2012 as alexnet_2012, alexnet_single as alexnet_single
from jaxcnn.models.vgg import vgg, vgg11 as vgg11, vgg13 as vgg13, vgg16 as vgg16, vgg19 as vgg19
from jaxcnn.models.vgg import vgg11_bn as vgg11_bn, vgg13_bn as vgg13_bn, vgg16_bn as vgg16_bn, vgg19_bn as vgg19_bn
from jaxcnn.models.googlenet import googlenet as googlenet, googlenet_2014 as googlenet_2014
from jaxcnn.models.resnet import resnet, resnet18 as resnet18, resnet34 as resnet34, resnet50 as resnet50
from jaxcnn.models.resnet import resnet101 as resnet101, resnet152 as resnet152
from jaxcnn.models.resnet import resnext50_32x4d as resnext50_32x4d, resnext101_32x8d as resnext101_32x8d
from jaxcnn.models.resnet import resnext101_64x4d as resnext101_64x4d
from jaxcnn.models.resnet import wide_resnet50_2 as wide_resnet50_2, wide_resnet101_2 as wide_resnet101_2
from jaxcnn.models.inception import inception_v3 as inception_v3
from jaxcnn.models.densenet import densenet, densenet121 as densenet121, densenet161 as densenet161
from jaxcnn.models.densenet import densenet169 as densenet169, densenet201 as densenet201
from jaxcnn.models.regnet import regnet, regnet_x_400mf as regnet_x_400mf, regnet_x_800mf as regnet_x_800mf
from jaxcnn.models.regnet import regnet_x_1_6gf as regnet_x_1_6gf, regnet_x_3_2gf as regnet_x_3_2gf
from jaxcnn.models.regnet import regnet_x_8gf as regnet_x_8gf, regnet_x_16gf as regnet_x_16gf
from jaxcnn.models.regnet import regnet_x_32gf as regnet_x_32gf
from jaxcnn.models.regnet import regnet_y_400mf as regnet_y_400mf, regnet_y_800mf as regnet_y_800mf
from jaxcnn.models.regnet import regnet_y_1_6gf as regnet_y_1_6gf, regnet_y_3_2gf as regnet_y_3_2gf
from jaxcnn.models.regnet import regnet_y_8gf as regnet_y_8gf, regnet_y_16gf as regnet_y_16gf
from jaxcnn.models.regnet import regnet_y_32gf as regnet_y_32gf, regnet_y_128gf as regnet_y_128gf
from jaxcnn.models.convnext import convnext, convnext_tiny as convnext_tiny, convnext_small as convnext_small
from jaxcnn.models.convnext import convnext_base as convnext_base, convnext_large as convnext_large
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
from jaxcnn.models.wide_resnet import wide_resnet, wrn28_10 as wrn28_10
from jaxcnn.models.fcn import fcn, fcn8s as fcn8s, fcn16s as fcn16s, fcn32s as fcn32s
from jaxcnn.models.deeplab import deeplabv3, dilated_fcn, fcn_resnet50 as fcn_resnet50, fcn_resnet101 as fcn_resnet101
from jaxcnn.models.deeplab import deeplabv3_resnet50 as deeplabv3_resnet50, deeplabv3_resnet101 as deeplabv3_resnet101
from jaxcnn.models.deeplab import deeplabv3_mobilenet_v3_large as deeplabv3_mobilenet_v3_large
from jaxcnn.models.lraspp import lraspp_mobilenet_v3_large as lraspp_mobilenet_v3_large
from jaxcnn.models.unet import resnet_unet, unet as unet, unet_resnet18 as unet_resnet18
from jaxcnn.models.unet import unet_resnet34 as unet_resnet34, unet_resnet50 as unet_resnet50
from jaxcnn.models.rcnn import rcnn as rcnn
from jaxcnn.models.fast_rcnn import fast_rcnn as fast_rcnn
from jaxcnn.models.hed import hed as hed
from jaxcnn.models.flownet import flownet_c as flownet_c, flownet_s as flownet_s
from jaxcnn.models.text_cnn import text_cnn as text_cnn
from jaxcnn.models.vqa import vqa_cnn as vqa_cnn, vqa_relation as vqa_relation
# isort: on

from jaxcnn.models.features import features
from jaxcnn.transforms.fully_convolutional import fully_convolutional as convolutional

__all__ = [
    "MODELS",
    "Entry",
    "cifar_resnet",
    "convnext",
    "convolutional",
    "deeplabv3",
    "densenet",
    "dilated_fcn",
    "efficientnet",
    "fcn",
    "features",
    "make",
    "mnasnet",
    "mobilenet_v3",
    "regnet",
    "resnet",
    "resnet_unet",
    "shufflenet_v2",
    "squeezenet",
    "unknown_model",
    "vgg",
    "wide_resnet",
    *MODELS,
]
