"""Noise, sampling, plans and the reading of ten million rows, each against its named peers.

Every ratio is a peer's time over ours, measured in turns in one process and one thread: medians of
processor time, which other work on the machine disturbs least. OpenDP and diffprivlib are measured
where they can be imported.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --json figures.json
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.accountants.utils import get_noise_multiplier
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from synthetic_shard import SCHEMA, make

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.privacy import accounting
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.noise import discrete_gaussian
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import poisson_sample
from dp_risk.types import Split

Row = dict[str, Any]
BITS = 20


def in_turns(methods: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Return median seconds of the processor; methods take turns, the first turn is dropped."""
    samples: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repetitions + 1):
        for name, method in methods.items():
            start = time.process_time()
            method()
            samples[name].append(time.process_time() - start)
    return {name: float(np.median(seconds[1:])) for name, seconds in samples.items()}


def rows_of(
    what: str, seconds: Mapping[str, float], unit: str, value: Callable[[float], float]
) -> list[Row]:
    """Return a row a method; `ratio` is its time over that of the first one, ours."""
    ours = next(iter(seconds.values()))
    return [
        {
            "what": what, "method": name, "value": float(f"{value(found):.4g}"), "unit": unit,
            "ratio": float(f"{found / ours:.4g}"),
        }
        for name, found in seconds.items()
    ]  # fmt: skip


def opendp_gaussian(size: int) -> Callable[[], object]:
    """Return a draw of OpenDP's discrete Gaussian."""
    dp = importlib.import_module("opendp.prelude")
    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="f64")
    mechanism, zeros = dp.m.make_gaussian(*space, scale=2.0**BITS), [0] * size
    return lambda: mechanism(zeros)


def diffprivlib_gaussian(size: int) -> Callable[[], object]:
    """Return a draw of diffprivlib's discrete Gaussian, at a scale of its own choice."""
    mechanisms = importlib.import_module("diffprivlib.mechanisms")
    mechanism = mechanisms.GaussianDiscrete(epsilon=1e-5, delta=1e-6)
    return lambda: [mechanism.randomise(0) for _ in range(size)]


def noise(*, quick: bool) -> list[Row]:
    """Compare draws a second: many at once, and few."""
    randomness, generator = Randomness.system(), np.random.default_rng()
    found = []
    for size, repetitions in ((10**6, 3 if quick else 15), (200, 200), (1, 200)):
        methods: dict[str, Callable[[], object]] = {
            "dp-risk": lambda n=size: discrete_gaussian(BITS, n, randomness),
            "numpy Generator.normal": lambda n=size: generator.normal(size=n),
            "torch.normal (Opacus)": lambda n=size: torch.normal(0.0, 1.0, (n,)),
        }
        seconds = in_turns(methods, repetitions)
        found += rows_of(f"noise, {size} at once", seconds, "draws/s", lambda s, n=size: n / s)
    size = 1000
    methods = {"dp-risk": lambda: discrete_gaussian(BITS, size, randomness)}
    for name, peer in (("OpenDP", opendp_gaussian), ("diffprivlib", diffprivlib_gaussian)):
        with contextlib.suppress(ImportError):
            methods[f"{name} discrete Gaussian"] = peer(size)
    if len(methods) > 1:
        seconds = in_turns(methods, 3)
        found += rows_of(f"noise, {size} at once", seconds, "draws/s", lambda s: size / s)
    return found


def sampling(*, quick: bool) -> list[Row]:
    """Compare the time of one Poisson batch."""
    randomness, generator = Randomness.system(), np.random.default_rng()
    settings = [(1000, 0.1), (100_000, 0.04), (100_000, 0.5), (10_000_000, 0.0004)]
    found = []
    for units, rate in settings[:3] if quick else settings:

        def opacus(units: int = units, rate: float = rate) -> object:
            return next(iter(UniformWithReplacementSampler(num_samples=units, sample_rate=rate)))

        methods: dict[str, Callable[[], object]] = {
            "dp-risk": lambda n=units, q=rate: poisson_sample(n, q, randomness),
            "numpy mask": lambda n=units, q=rate: np.flatnonzero(generator.random(n) < q),
            "Opacus UniformWithReplacementSampler": opacus,
        }
        seconds = in_turns(methods, 7 if units > 10**6 else 101)
        found += rows_of(f"sampling, {units} units at {rate}", seconds, "us", lambda s: s * 1e6)
    return found


def plans(*, quick: bool) -> list[Row]:
    """Compare calibrations: one noise multiplier from epsilon, delta, rate and steps."""
    found = []
    for target in (1.0,) if quick else (0.5, 1.0, 8.0):

        def ours(*, cold: bool, target: float = target) -> float:
            accounting.calibrate.cache_clear()
            accounting._epsilon.cache_clear()
            if cold:
                os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])
            return accounting.calibrate(target, 1e-6, sampling_rate=0.1, count=331)

        def opacus(accountant: str, target: float = target) -> float:
            sigma: float = get_noise_multiplier(
                target_epsilon=target, target_delta=1e-6, sample_rate=0.1, steps=331,
                accountant=accountant, epsilon_tolerance=1e-5 * target,
            )  # fmt: skip
            return sigma

        methods: dict[str, Callable[[], object]] = {
            "dp-risk": lambda run=ours: run(cold=True),
            "dp-risk, kept on disk": lambda run=ours: run(cold=False),
            "Opacus get_noise_multiplier, PRV": lambda run=opacus: run("prv"),
            "Opacus get_noise_multiplier, RDP": lambda run=opacus: run("rdp"),
        }
        what = f"sigma for epsilon {target:g}, delta 1e-6, q .1, 331 steps"
        seconds = in_turns(methods, 1 if quick else 3)
        rows = rows_of(what, seconds, "ms", lambda s: s * 1e3)
        for row, method in zip(rows, methods.values(), strict=True):
            row["sigma"] = method()
        found += rows
    return found


def steps(*, quick: bool, batch: int = 4000) -> list[Row]:
    """Compare DP-SGD steps of one expected batch on shards of many sizes, memory-mapped."""
    randomness, folder = Randomness.system(), Path(os.environ["BENCHMARK_FOLDER"])
    sizes = (100_000, 10_000_000)
    units = {n: make(folder / str(n), n).units(Split.TRAIN, None) for n in sizes}
    found = []

    def read(n: int) -> object:
        index = poisson_sample(n, batch / n, randomness)
        return [units[n].batch(index[i : i + 1024]) for i in range(0, len(index), 1024)]

    names = {f"{n} rows": n for n in sizes}
    reading = {name: lambda n=n: read(n) for name, n in names.items()}
    what = f"sampling and reading {batch} rows"
    found += rows_of(what, in_turns(reading, 50 if quick else 300), "ms", lambda s: s * 1e3)
    for model in ("additive",) if quick else ("additive", "mlp"):
        module = models.build(model, {}, Coding(schema=SCHEMA), 0)

        def step(n: int, module: torch.nn.Module = module) -> object:
            mechanism = DPSGD(
                clip_norm=1.0, noise_multiplier=2.0, sampling_rate=batch / n, steps=10,
                local_rate=1e-3,
            )  # fmt: skip
            return mechanism((module, units[n]), randomness)

        training = {name: lambda n=n, run=step: run(n) for name, n in names.items()}
        seconds = in_turns(training, 3 if quick else 9)
        found += rows_of(f"step of {batch} rows, {model}", seconds, "ms", lambda s: s * 100)
        for row, n in zip(found[-len(sizes) :], sizes, strict=True):
            row["rows/s"] = round(10 * batch / seconds[f"{n} rows"])
    return found


PARTS: dict[str, Callable[..., list[Row]]] = {
    "noise": noise, "sampling": sampling, "plans": plans, "steps": steps,
}  # fmt: skip


def main() -> None:
    """Measure and print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and sizes")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ("numpy", "torch", "opacus", "dp-accounting", "cryptography", "opendp", "diffprivlib")
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BENCHMARK_FOLDER"] = folder
        for part in options.only:
            for row in PARTS[part](quick=options.quick):
                found.append(row)
                print(*row.values(), sep=" | ", flush=True)
    if options.json is not None:
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        figures = {"versions": versions, "machine": machine, "rows": found}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
