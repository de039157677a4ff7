"""The part of `step.py` that runs where jax-privacy is: it answers lines on its standard input."""

from __future__ import annotations

import itertools
import json
import sys
import time
from importlib.metadata import version

import jax
import jax.numpy as jnp
import jax_privacy
import numpy as np

CODES, SLOTS, VALUES, WIDTH, RATE = 187, 14, 57, 64, 1e-4


def logits(model, weights, x):
    """Return a logit a row."""
    if model == "additive":
        return weights[0][x].sum(-1) + weights[1]
    for w, b in weights[:-1]:
        x = jnp.tanh(x @ w + b)
    return (x @ weights[-1][0] + weights[-1][1]).squeeze(-1)


def made(model, batch):
    """Return a compiled step and its arguments: float32, microbatches of 64 units."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.integers(0, 2, batch), jnp.float32)
    if model == "mlp":
        sizes = (VALUES, WIDTH, WIDTH, 1)
        weights = [
            (jnp.asarray(rng.normal(size=(i, o)) * i**-0.5, jnp.float32), jnp.zeros(o))
            for i, o in itertools.pairwise(sizes)
        ]
        x = jnp.asarray(rng.random((batch, VALUES)), jnp.float32)
    else:
        weights = [jnp.zeros(CODES), jnp.zeros(())]
        each = (CODES - 1) // SLOTS
        x = jnp.asarray(1 + np.arange(SLOTS) * each + rng.integers(0, each, (batch, SLOTS)))

    def loss(weights, x, y):
        z = logits(model, weights, x)
        return jnp.sum(jnp.logaddexp(0.0, z) - y * z)

    clipped = jax_privacy.clipping.clipped_grad(
        loss, l2_clip_norm=1.0, batch_argnums=(1, 2), microbatch_size=64
    )

    @jax.jit
    def step(weights):
        return jax.tree.map(lambda w, g: w - RATE * g, weights, clipped(weights, x, y))

    return step, weights


def main() -> None:
    """Answer every line with the processor time of a step."""
    known = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if not asked:
            names = ("jax", "jax-privacy")
            print(json.dumps({"versions": {n: version(n) for n in names}}), flush=True)
            continue
        key = asked["model"], asked["batch"]
        if key not in known:
            known[key] = made(*key)
            jax.block_until_ready(known[key][0](known[key][1]))
        step, weights = known[key]
        start, count = time.process_time(), 0
        while count == 0 or time.process_time() - start < 0.02:
            weights = jax.block_until_ready(step(weights))
            count += 1
        print(json.dumps({"seconds": (time.process_time() - start) / count}), flush=True)


if __name__ == "__main__":
    main()
