"""Inference of the PyTorch networks by the runtimes that people use on a CPU: ONNX Runtime and OpenVINO.

They compile the network once, with constant weights, and only run it forward. Both use float32 and all cores; OpenVINO
would otherwise compute in bfloat16 where the processor can.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from experiments.peers import Task, pytorch


def inference(task: Task, runtime: Literal["onnxruntime", "openvino"]) -> Callable[[], Any]:
    model, images, _ = pytorch.built(task, channels_last=False)
    model.eval()
    compiled = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    run = functools.cache(lambda: compiled(model, images))  # in the first call, as in other libraries
    return lambda: np.moveaxis(run()(), 1, -1)


def _onnxruntime(model: nn.Module, images: torch.Tensor) -> Callable[[], np.ndarray]:
    import onnxruntime

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no other package is called deprecated
        torch.onnx.export(model, (images,), file, input_names=["images"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    x = images.numpy()
    return lambda: session.run(None, {"images": x})[0]


def _openvino(model: nn.Module, images: torch.Tensor) -> Callable[[], np.ndarray]:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }  # fmt: skip
    found = openvino.convert_model(model, example_input=images)
    found.reshape(list(images.shape))  # a fixed batch is faster than any
    compiled = openvino.compile_model(found, "CPU", settings)
    request, x = compiled.create_infer_request(), images.numpy()
    return lambda: request.infer({0: x}, share_inputs=True)[compiled.output(0)]
