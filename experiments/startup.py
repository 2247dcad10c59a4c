"""Startup time of residual networks in jaxcnn and Flax: initialization and the first compiled step.

Each measurement runs in a new process with an empty compilation cache. The two libraries take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import jaxcnn as cnn
from experiments.common import machine, main, table
from experiments.peers.flax_linen import ResNet

BLOCKS = {"resnet14": (1, 1, 1, 1), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}


def measure(library: str, model: str, batch_size: int) -> dict[str, Any]:
    """Seconds of initialization and of the first step in this process, and the number of parameters."""
    images = jnp.zeros((batch_size, 224, 224, 3), jnp.float32)
    labels = jnp.zeros((batch_size,), jnp.int32)
    key = jax.block_until_ready(jax.random.key(0))
    optimizer = optax.sgd(0.1, 0.9)
    began = time.perf_counter()
    if library == "jaxcnn":
        network = cnn.models.resnet(BLOCKS[model], bottleneck=True)
        state: Any = cnn.train.create_state(network, optimizer, key, images)
        params = state.params
        train_step = cnn.train.make_step(
            network, cnn.train.Objective(cnn.losses.softmax_cross_entropy, metrics={}), optimizer
        )
    else:
        module = ResNet(1000, BLOCKS[model])
        # Inside jit, as in Flax's examples; otherwise the whole network would run layer by layer.
        variables = jax.jit(partial(module.init, train=False))(key, images)
        params = variables["params"]
        state = (params, variables["batch_stats"], optimizer.init(params))

        def objective(params: Any, statistics: Any, images: Any, labels: Any) -> Any:
            both = {"params": params, "batch_stats": statistics}
            logits, new = module.apply(both, images, train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new["batch_stats"]

        @partial(jax.jit, donate_argnums=0)
        def train_step(state: Any, batch: Any) -> Any:
            params, statistics, opt_state = state
            (loss, statistics), gradient = jax.value_and_grad(objective, has_aux=True)(params, statistics, *batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), statistics, opt_state), {"loss": loss}

    jax.block_until_ready(state)
    middle = time.perf_counter()
    count = sum(x.size for x in jax.tree.leaves(params))
    jax.block_until_ready(train_step(state, (images, labels)))
    return {"init": middle - began, "step": time.perf_counter() - middle, "params": count}


def startup(
    models: tuple[Literal["resnet14", "resnet50", "resnet101", "resnet152"], ...] = ("resnet50", "resnet152"),
    batch_size: int = 2,
    repeats: int = 3,
) -> None:
    """Prints median seconds of `init` and of the first training step (tracing, compilation and execution).

    Args:
      models: the networks.
      batch_size: images of 224x224 per step; a small number, so that compilation dominates the time.
      repeats: number of processes of each library.
    """
    rows = []
    for model in models:
        found: dict[str, list[dict[str, Any]]] = {"jaxcnn": [], "flax": []}
        for _ in range(repeats):
            for library, runs in found.items():
                call = f"measure({library!r}, {model!r}, {batch_size})"
                code = f"import json; from experiments.startup import measure; print(json.dumps({call}))"
                done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout.splitlines()[-1]))
        if found["jaxcnn"][0]["params"] != found["flax"][0]["params"]:
            raise RuntimeError(f"{model} is not the same network in both: {found}")
        medians = {
            library: [statistics.median(run[part] for run in runs) for part in ("init", "step")]
            for library, runs in found.items()
        }
        for library, (init, step) in medians.items():
            ratio = (init + step) / sum(medians["jaxcnn"])
            rows.append([model, library, f"{init:.1f}", f"{step:.1f}", f"{init + step:.1f}", f"{ratio:.2f}"])
            print("  ".join(map(str, rows[-1])), flush=True)
    print(f"\nbatch {batch_size}, {repeats} processes each, medians ({machine()})")
    print(table(["network", "library", "init (s)", "first step (s)", "together (s)", "to jaxcnn"], rows))


if __name__ == "__main__":
    main(startup)
