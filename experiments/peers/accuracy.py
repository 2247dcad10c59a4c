"""Trains LeNet-5 until it reaches a test accuracy: `python -m experiments.peers.accuracy REQUEST`.

`experiments.to_accuracy` starts it and times the whole process. All libraries use the same digits in the same order,
batch size, and Adam with cosine decay; each has its default initialization and code in the style of its documentation.
The process prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def batches(data: Arrays, size: int, seed: int, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One pass over the training images in a new order; an incomplete last batch is dropped."""
    order = np.random.default_rng((seed, epoch)).permutation(len(data["labels"]))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield data["images"][chosen], data["labels"][chosen]


def train(
    step: Callable[[np.ndarray, np.ndarray], Any], right: Callable[[np.ndarray, np.ndarray], Any], data: Arrays,
    target: float, batch_size: int, epochs: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Trains until the test accuracy, measured after each epoch, reaches the target."""
    size = 500
    accuracy = 0.0
    for epoch in range(epochs):
        for images, labels in batches(data, batch_size, seed, epoch):
            step(images, labels)
        tests = range(0, len(data["test_labels"]), size)
        answers = [right(data["test_images"][i : i + size], data["test_labels"][i : i + size]) for i in tests]
        accuracy = sum(int(a) for a in answers) / len(data["test_labels"])
        if accuracy >= target:
            break
    return {"accuracy": accuracy, "epochs": epoch + 1}


def jaxcnn_(data: Arrays, lr: float, steps: int, seed: int) -> tuple[Any, Any]:
    import jax
    import optax

    import jaxcnn as cnn

    model, optimizer = cnn.models.lenet5(), optax.adam(optax.cosine_decay_schedule(lr, steps))
    mean, std = (float(data[name]) for name in ("mean", "std"))

    def preprocess(x: Any) -> Any:
        return (x / 255.0 - mean) / std

    state = cnn.train.create_state(model, optimizer, jax.random.key(seed), data["images"][:1], preprocess)
    one_step = cnn.train.make_step(
        model, cnn.train.Objective(cnn.losses.softmax_cross_entropy, metrics={}, preprocess=preprocess), optimizer
    )

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        nonlocal state
        state, _ = one_step(state, (images, labels))

    @jax.jit
    def count(params: Any, model_state: Any, images: Any, labels: Any) -> Any:
        return (model.apply(params, model_state, preprocess(images))[0].argmax(-1) == labels).sum()

    return step, lambda images, labels: count(state.params, state.model_state, images, labels)


def flax(data: Arrays, lr: float, steps: int, seed: int) -> tuple[Any, Any]:
    import jax
    import optax

    from experiments.peers.flax_linen import LeNet5

    model, optimizer = LeNet5(10), optax.adam(optax.cosine_decay_schedule(lr, steps))
    mean, std = (float(data[name]) for name in ("mean", "std"))

    def outputs(params: Any, images: Any) -> Any:
        return model.apply(params, (images / 255.0 - mean) / std, train=False)

    params = model.init(jax.random.key(seed), data["images"][:1] / 255.0, train=False)
    opt_state = optimizer.init(params)

    @jax.jit
    def one_step(params: Any, opt_state: Any, images: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(outputs(params, images), labels).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        nonlocal params, opt_state
        params, opt_state = one_step(params, opt_state, images, labels)

    count = jax.jit(lambda params, images, labels: (outputs(params, images).argmax(-1) == labels).sum())
    return step, lambda images, labels: count(params, images, labels)


def torch(data: Arrays, lr: float, steps: int, seed: int) -> tuple[Any, Any]:
    import torch as pytorch
    import torch.nn.functional as F

    from experiments.peers.pytorch import LeNet5

    pytorch.manual_seed(seed)
    model = LeNet5(1, 10)
    optimizer = pytorch.optim.Adam(model.parameters(), lr=lr, fused=True)
    schedule = pytorch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mean, std = (float(data[name]) for name in ("mean", "std"))

    def outputs(images: np.ndarray) -> Any:
        return model((pytorch.from_numpy(images).permute(0, 3, 1, 2) / 255.0 - mean) / std)

    def step(images: np.ndarray, labels: np.ndarray) -> None:
        optimizer.zero_grad()
        F.cross_entropy(outputs(images), pytorch.from_numpy(labels)).backward()
        optimizer.step()
        schedule.step()

    def right(images: np.ndarray, labels: np.ndarray) -> Any:
        with pytorch.inference_mode():
            return (outputs(images).argmax(-1) == pytorch.from_numpy(labels)).sum()

    return step, right


LIBRARIES = {"jaxcnn": jaxcnn_, "flax": flax, "torch": torch}


def main() -> None:
    """Answers the request in the first argument."""
    request = json.loads(sys.argv[1])
    with np.load(request["data"]) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    steps = len(data["labels"]) // request["batch_size"] * request["epochs"]
    step, right = LIBRARIES[request["library"]](data, request["lr"], steps, request["seed"])
    found = train(step, right, data, request["target"], request["batch_size"], request["epochs"], request["seed"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
