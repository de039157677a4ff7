"""What one DP-SGD step costs beside a plain PyTorch SGD step, and what it costs in other libraries.

Every step reads the same batch and moves the weights: forward, backward, and for the private ones
clipping, summing and the optimizer. Noise is inside where the name of the method says so, sampling
nowhere. Methods take turns, in one thread; figures are medians of processor time, which a busy
machine disturbs less than the clock, and ratios to a plain step. For jax-privacy name a Python
that has it:

    python benchmarks/step.py --quick
    OMP_NUM_THREADS=1 python benchmarks/step.py --adult
    OMP_NUM_THREADS=1 python benchmarks/step.py --jax jaxvenv/bin/python --json figures.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import opacus
import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from clients.shard import TrainingUnits
from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table
from dp_risk.privacy.dpsgd import DPSGD, _engine, _GridOptimizer
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.one_pass import OnePass
from dp_risk.privacy.per_unit import SummedRows
from dp_risk.privacy.perceptron import Perceptron
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.units import Batch

CODES, SLOTS, VALUES, WIDTH, RATE = 187, 14, 57, 64, 1e-4
Step = Callable[[], Any]
JAX = Path(__file__).with_name("step_jax.py")


class Additive(nn.Module):
    """A sum of table rows and a bias: with `SummedRows`, or as others write it."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__()
        self.table = SummedRows(CODES, 1) if summed else nn.Embedding(CODES, 1)
        self.bias = nn.Linear(1, 1, bias=False)
        self.summed = summed

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return a logit a row."""
        total = self.table(codes) if self.summed else self.table(codes).sum(-2)
        one = torch.ones(len(codes), 1, dtype=total.dtype)
        return (total + self.bias(one)).squeeze(-1)

    def perceptron(self) -> Perceptron:
        """Return the layers."""
        return Perceptron(codes=self.table, values=None, bias=self.bias)


class Mlp(nn.Module):
    """57-64-64-1 with tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(VALUES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(),
            nn.Linear(WIDTH, 1),
        )  # fmt: skip

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return a logit a row."""
        return self.layers(values).squeeze(-1)

    def perceptron(self) -> Perceptron:
        """Return the layers."""
        return Perceptron(codes=None, values=self.layers[0], rest=(self.layers[2], self.layers[4]))


def module(model: str, dtype: torch.dtype, *, summed: bool = False) -> nn.Module:
    """Return a model with random weights."""
    torch.manual_seed(0)
    return (Mlp() if model == "mlp" else Additive(summed=summed)).to(dtype)


def rows(model: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random inputs, one code of each slot's own range or values, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, batch).astype(np.float64)
    if model == "mlp":
        return rng.random((batch, VALUES)), labels
    each = (CODES - 1) // SLOTS
    return 1 + np.arange(SLOTS) * each + rng.integers(0, each, (batch, SLOTS)), labels


class Silent:
    """A grid without noise: clipping alone."""

    noise_multiplier = 1.0

    def release(self, total: np.ndarray, _: Randomness) -> np.ndarray:
        """Return the sum as it is."""
        return total


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the sum of logistic losses."""
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


def plain(model: str, x: torch.Tensor, y: torch.Tensor) -> Step:
    """Return a step without privacy."""
    net = module(model, y.dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()

    return step


def ours(
    model: str, x: torch.Tensor, y: torch.Tensor, *, noise: bool = False, graph: bool = False
) -> Step:
    """Return a step of `dp_risk`, by hand or with autograd's graph."""
    net = module(model, y.dtype, summed=True)
    size = sum(p.numel() for p in net.parameters())
    grid: Any = Grid(clip_norm=1.0, noise_multiplier=1.0, dimension=size) if noise else Silent()
    optimizer = _GridOptimizer(
        torch.optim.SGD(net.parameters(), lr=RATE),
        clip_norm=1.0,
        grid=grid,
        randomness=Randomness.seeded(1),
    )
    engine, batch = OnePass(net) if graph else _engine(net), Batch(inputs=(x,), labels=y)
    there = torch.ones(len(y), dtype=torch.bool)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for p in optimizer.params:
            p.summed_grad = torch.zeros(p.shape, dtype=torch.float64)
        optimizer.clip_and_accumulate(engine.backward(batch)[1], there)
        optimizer.add_noise()
        optimizer.original_optimizer.step()

    return step


def opacus_step(model: str, x: torch.Tensor, y: torch.Tensor, mode: str) -> Step:
    """Return a step of Opacus without noise."""
    net, generic = module(model, y.dtype), {"expected_batch_size": len(y), "noise_multiplier": 0.0}
    inner = torch.optim.SGD(net.parameters(), lr=RATE)
    options: dict[str, Any] = {**generic, "max_grad_norm": 1.0, "loss_reduction": "sum"}
    if mode == "ghost":
        wrapped = GradSampleModuleFastGradientClipping(
            net, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum"
        )
        optimizer: Any = DPOptimizerFastGradientClipping(inner, **options)
        criterion = nn.BCEWithLogitsLoss(reduction="sum")
        both = DPLossFastGradientClipping(wrapped, optimizer, criterion, loss_reduction="sum")
    else:
        wrapped = GradSampleModule(
            net, loss_reduction="sum", force_functorch=mode == "functorch", strict=True
        )
        optimizer, both = DPOptimizer(inner, **options), loss

    def step() -> None:
        optimizer.zero_grad()
        both(wrapped(x), y).backward()
        optimizer.step()

    return step


class Jax:
    """jax-privacy in a process of its own, one thread, which takes its turns as the others do."""

    def __init__(self, python: str) -> None:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        self._process = subprocess.Popen(
            [python, str(JAX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        )
        self.versions = self.ask({})["versions"]

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def seconds(step: Step, steps: int) -> float:
    """Return the processor time of a step, mean over so many."""
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def compared(model: str, batch: int, turns: int, jax: Jax | None) -> list[dict[str, Any]]:
    """Return a row a method."""
    inputs, labels = rows(model, batch)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    x32 = x if model == "additive" else x.float()
    steps: dict[str, Step] = {
        "plain float32": plain(model, x32, y.float()),
        "plain float64": plain(model, x, y),
        "dp-risk": ours(model, x, y),
        "dp-risk with noise": ours(model, x, y, noise=True),
        "dp-risk, autograd in float64": ours(model, x, y, graph=True),
        "opacus hooks": opacus_step(model, x32, y.float(), "hooks"),
        "opacus functorch": opacus_step(model, x32, y.float(), "functorch"),
        "opacus ghost": opacus_step(model, x32, y.float(), "ghost"),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    counts = {}
    for name, step in steps.items():
        seconds(step, 2)
        counts[name] = max(1, min(50, int(0.02 / max(seconds(step, 1), 1e-5))))
    if jax:
        found["jax-privacy"] = []
    for _ in range(turns):
        for name, step in steps.items():
            found[name].append(seconds(step, counts[name]))
        if jax:
            found["jax-privacy"].append(jax.ask({"model": model, "batch": batch})["seconds"])
    medians = {name: float(np.median(s)) for name, s in found.items()}
    return [
        {
            "model": model,
            "batch": batch,
            "method": name,
            "ms": round(1e3 * median, 3),
            "ratio float32": round(median / medians["plain float32"], 2),
            "ratio float64": round(median / medians["plain float64"], 2),
        }
        for name, median in medians.items()
    ]


def adult(turns: int) -> list[dict[str, Any]]:
    """Return the time of 300 steps over about 3,900 units of the built-in data, as sites run them.

    One call of the mechanism: sampling, reading, clipping, noise and the steps between.
    """
    path = builtin_path("adult")
    coding = Coding(schema=Schema.from_yaml(path.with_suffix(".yaml")))
    units = TrainingUnits(coding.encode(read_table(path)).take(np.arange(39_000)))
    mechanism = DPSGD(
        clip_norm=1.0, noise_multiplier=1.0, sampling_rate=0.1, steps=300, local_rate=RATE
    )
    found = []
    for model, options in (("additive", {}), ("mlp", {"width": WIDTH, "depth": 2})):
        net, times = models.build(model, options, coding, 0), []
        for _ in range(turns + 1):
            processor, clock = time.process_time(), time.perf_counter()
            mechanism((net, units), Randomness.system())
            times.append((time.process_time() - processor, time.perf_counter() - clock))
        # The first call also probes the machine.
        seconds_of = np.median(times[1:], axis=0).tolist()
        found.append(
            {
                "model": model,
                "data": "adult",
                "first, processor s": round(times[0][0], 2),
                "processor s": round(seconds_of[0], 2),
                "clock s": round(seconds_of[1], 2),
            }
        )
    return found


def main() -> None:
    """Measure and print, or write, all rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="two batch sizes, fewer turns")
    parser.add_argument("--jax", help="a Python that has jax and jax-privacy")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--adult", action="store_true", help="only 300 steps on the built-in data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jax = Jax(arguments.jax) if arguments.jax else None
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "opacus": opacus.__version__,
        **(jax.versions if jax else {"jax-privacy": "not measured: no --jax"}),
    }
    found: list[dict[str, Any]] = []
    sizes: tuple[int, ...] = (256, 1024) if arguments.quick else (256, 1024, 4096, 16384)
    turns = arguments.turns or (5 if arguments.quick else 15)
    if arguments.adult:
        found = adult(turns)
        print(*found, sep="\n")
        sizes = ()
    for model in ("additive", "mlp"):
        for batch in sizes:
            for row in compared(model, batch, turns, jax):
                found.append(row)
                print(*row.values(), sep="\t", flush=True)
    if jax:
        jax.close()
    print(versions)
    if arguments.json:
        out = {"versions": versions, "machine": platform.machine(), "rows": found}
        arguments.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
