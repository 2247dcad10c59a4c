"""A process of trainings on several devices: `python -m tests.spread REQUESTS`; it prints its answers as JSON.

The devices of a CPU are as many as JAX_NUM_CPU_DEVICES says, the other processes those of JAX_COORDINATOR_ADDRESS.
"""

import json
import os
import signal
import sys
import time
import warnings

import jax
import numpy as np
import optax

import jaxcnn as cnn
from jaxcnn import data, devices, train
from jaxcnn.errors import Stopped, UserError
from jaxcnn.train import training


def network():
    """With all that a device has to know of the others: batch statistics and dropout; and what oneDNN computes."""
    return cnn.serial(
        conv1=cnn.conv(16, 3, padding=1, bias=False), bn1=cnn.batch_norm(), act1=cnn.relu, pool1=cnn.max_pool(2),
        conv2=cnn.conv(16, 3, 2, padding=1), drop2=cnn.dropout(0.3), act2=cnn.relu, flat=cnn.flatten,
        head=cnn.dense(10),
    )  # fmt: skip


def examples():
    images = data.load("digits").take(slice(480))
    return data.Dataset(images.images[:, ::2, ::2], images.labels, images.classes, "digits")


def steps(request, on):
    """The losses of some steps, and the norm of the parameters after them."""
    found, model, optimizer = examples(), network(), optax.sgd(0.05, 0.9)
    state = train.create_state(model, optimizer, jax.random.key(0), found.images[:1])
    step = train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer, devices=on)
    state = on.replicate(state)
    losses = []
    for epoch in range(100):
        for batch in data.batches(found, request["batch"], 0, epoch, 0, on.shard):
            state, measured = step(state, on.batch(batch))
            losses.append(float(measured["loss"]))
            if len(losses) == request["steps"]:
                one = on.single(state)
                return losses, [float(np.square(leaf).sum()) for leaf in jax.tree.leaves((one.params, one.model_state))]


def divided(request, on):
    """How a batch that was not given to `batch` lies on the devices."""
    found, model, optimizer = examples(), cnn.serial(cnn.flatten, cnn.dense(10)), optax.sgd(0.1)
    state = on.replicate(train.create_state(model, optimizer, jax.random.key(0), found.images[:1]))
    step = train.make_step(model, cnn.losses.softmax_cross_entropy, optimizer, devices=on)
    program = step.lower(state, next(data.batches(found, request["batch"]))).compile()
    return [sharding.spec[0] for sharding in program.input_shardings[0][1]]


def fitted(request, on):
    """A run, or the rest of one."""
    found = examples()
    found.images[request.get("pixel", 0), 0, 0] = 255
    whole, end = data.batches, request.get("stop", -1)

    def until(*given):
        """The batches up to one of the second epoch, at which a SIGTERM comes."""
        for number, batch in enumerate(whole(*given), given[4]):
            if (given[3], number) == (2, end):
                signal.raise_signal(signal.SIGTERM)
            time.sleep(request.get("pause", 0))
            yield batch

    training.batches = until
    kept = train.fit(
        network(),
        found,
        train.Objective(augment=data.affine() if request.get("augment") else None),
        validation=found.take(slice(100)),
        test=found.take(slice(90)),
        epochs=request["epochs"],
        batch_size=request["batch"],
        seed=request.get("seed", 3),
        devices=on,
        show=False,
        run=train.Run(request["run"], resume=request.get("resume", False)) if "run" in request else None,
        optimizer=optax.adam(request.get("lr", 3e-3)),
    )
    return kept.history, kept.result


def across(request, on):
    """A loss that compares the examples of a batch, of ten examples."""
    model, found = cnn.serial(embed=cnn.dense(3)), np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    params, state = model.init(jax.random.key(0), found)

    def loss(outputs, labels):
        apart = jax.numpy.square(outputs[:, None] - outputs[None]).sum(-1)
        return jax.numpy.where(labels[:, None] == labels[None], apart, jax.numpy.maximum(0, 1 - apart)).mean(1)

    measure = train.make_evaluate(model, loss, batch_size=request["batch"], devices=on)
    examples = data.Examples(found, np.arange(10, dtype=np.int32) % 3)
    whole = params if request.get("form") is None else on.whole(params)
    return measure(whole, state, examples).metrics["loss"]


def views(request, on):
    """The same for two views of each of ten examples, without labels."""
    model = cnn.network(lambda net, a, b: (net.embed(a), net.embed(b)), embed=cnn.dense(3))
    found = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    params, state = model.init(jax.random.key(0), found, found)
    made = data.views(lambda points, key: points + 0.1 * jax.random.normal(key, points.shape))
    objective = train.Objective(cnn.losses.nt_xent(), views=made)
    measure = train.make_evaluate(model, objective, batch_size=request["batch"], devices=on)
    whole = params if request.get("form") is None else on.whole(params)
    return measure(whole, state, data.Examples(found)).metrics["loss"]


def answer(request):
    form = request.get("form")
    try:
        on = devices.DataParallel(request.get("count"), form) if form else devices.OneDevice()
        return {"steps": steps, "fit": fitted, "divided": divided, "across": across, "views": views}[request["do"]](
            request, on
        )
    except UserError as error:
        return str(error)
    except Stopped as stop:
        return f"stopped: {stop}"


def main():
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        devices.join()
    found = []
    with warnings.catch_warnings(record=True) as warned:
        for request in json.loads(sys.argv[1]):
            found.append(answer(request))
    print("warnings", json.dumps([str(one.message) for one in warned]))
    print("answers", json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
