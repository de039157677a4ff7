"""Measure private evaluation: `python benchmarks/private_evaluation.py --repetitions 100`.

Every repetition asks the sites' mechanisms for all rounds anew, with noise from the system, and
compares the server's estimates with the exact metrics of the same holdout.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table
from dp_risk.evaluation.baselines import logistic
from dp_risk.evaluation.bins import CELLS, HIGH, LOW, score_cells, score_position
from dp_risk.evaluation.metrics import ECE_BINS
from dp_risk.privacy.gaussian import GaussianHistogram, GaussianQuantiles
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.planning import Allocation, Privacy, choose_noise
from dp_risk.privacy.randomness import Randomness
from server.aggregation import total
from server.evaluation import evaluate
from server.summing import Sum

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """Scored rows and the unit of each."""

    name: str
    labels: Floats
    logits: Floats
    units: NDArray[np.int64]

    @property
    def weights(self) -> Floats:
        """Each row's share of its unit."""
        return np.asarray(1 / np.bincount(self.units)[self.units])


def exact(holdout: Holdout) -> dict[str, float]:
    """Return the exact metrics of weighted rows, as `metrics.evaluate` defines them."""
    order = np.argsort(-holdout.logits, kind="stable")
    y, w = holdout.labels[order], holdout.weights[order]
    p = 1 / (1 + np.exp(-holdout.logits[order]))
    ends = np.append(np.flatnonzero(np.diff(p)), len(p) - 1)
    hits, seen = (np.append(0.0, np.cumsum(x)[ends]) for x in (w * y, w))
    false = seen - hits
    top = math.ceil(seen[-1] / 100 - 1e-9)
    bins = np.minimum((p * ECE_BINS).astype(int), ECE_BINS - 1)
    return {
        "auroc": float(np.diff(false) @ (hits[1:] + hits[:-1]) / 2 / hits[-1] / false[-1]),
        "auprc": float(np.diff(hits) @ (hits[1:] / seen[1:]) / hits[-1]),
        "recall_at_fpr_1pct": float(hits[false <= 0.01 * false[-1] + 1e-9][-1] / hits[-1]),
        "precision_at_1pct": float(np.interp(top, seen, hits) / top),
        "brier": float(w @ (p - y) ** 2 / seen[-1]),
        "ece": float(np.abs(np.bincount(bins, w * (p - y))).sum() / seen[-1]),
        "threshold": float(p[np.searchsorted(np.cumsum(w), top)]),
        "base_rate": float(hits[-1] / seen[-1]),
    }


def plan(asked: Privacy, subgroups: tuple[str, ...] = ()) -> Plan:
    """Return a plan whose evaluation costs what a run would allot to it."""
    noise = choose_noise(
        asked,
        units=1000,
        rounds=1,
        steps_per_round=1,
        stable_ids=True,
        holdout=True,
        subgroups=len(subgroups),
    )
    return Plan(
        run="benchmark", dataset="-", schema="-", model="additive", model_options={}, dimension=1,
        trust=asked.trust, unit=asked.unit, randomness=asked.randomness, delta=asked.delta,
        epsilon=asked.epsilon, clip_norm=1.0, noise_multiplier=noise.noise_multiplier,
        sampling_rate=1.0, rounds=1, steps_per_round=1, spares=0, local_rate=0.0, counts_noise=0.0,
        score_bins_noise=noise.score_bins_noise, evaluation_noise=noise.evaluation_noise,
        stable_ids=True, max_records_per_account=1, max_sites_per_unit=1, min_sites=1,
        max_colluding=None, participants={}, seed=0, subgroups=subgroups,
        subgroups_noise=noise.subgroups_noise,
    )  # fmt: skip


def summed(releases: list[Arrays], noise_multiplier: float) -> Sum:
    """Return what a server makes of the sites' histograms."""
    arrays = total(releases)
    grid = Grid(
        clip_norm=1.0, noise_multiplier=noise_multiplier, dimension=len(arrays["histogram"])
    )
    std = grid.std * math.sqrt(len(releases))
    names = tuple(f"site-{number}" for number in range(len(releases)))
    return Sum(arrays=arrays, each={}, sites=names, std=std)


def repeat(
    holdout: Holdout, asked: Plan, *, sites: int, repetitions: int
) -> tuple[dict[str, Floats], float]:
    """Return (value, low, high) of each repetition by metric, and the mean number of bins."""
    # All rows of a unit are at one site.
    site = np.random.default_rng(0).integers(sites, size=holdout.units.max() + 1)[holdout.units]
    at = [np.flatnonzero(site == s) for s in range(sites)]
    positions = score_position(holdout.logits)

    def ask(_: str, _cells: int, edges: list[float] | None = None) -> Sum:
        if edges is None:
            where = GaussianQuantiles(
                low=LOW, high=HIGH, cells=CELLS, noise_multiplier=asked.score_bins_noise
            )
            found = [where((holdout.units[i], positions[i]), Randomness.system()) for i in at]
            return summed(found, asked.score_bins_noise)
        cells = score_cells(edges, holdout.logits, holdout.labels)
        histogram = GaussianHistogram(
            cells=2 * (len(edges) + 1), noise_multiplier=asked.evaluation_noise
        )
        found = [histogram((holdout.units[i], cells[i]), Randomness.system()) for i in at]
        return summed(found, asked.evaluation_noise)

    found: dict[str, list[list[float]]] = {}
    n_bins = []
    for seed in range(repetitions):
        result, _ = evaluate(replace(asked, seed=seed), ask, capacity=0.01)
        n_bins.append(result["bins"])
        for name, e in result["metrics"].items():
            row = [math.nan if e[end] is None else e[end] for end in ("value", "low", "high")]
            found.setdefault(name, []).append(row)
    return {name: np.array(rows) for name, rows in found.items()}, float(np.mean(n_bins))


def load(name: str) -> tuple[Floats, dict[str, Floats], Floats, Floats]:
    """Return holdout labels and logits by model, of a fifth of built-in rows, and its rows."""
    path = builtin_path(name)
    schema = Schema.from_yaml(path.with_suffix(".yaml"))
    coding = Coding(schema=schema)
    rows = coding.encode(read_table(path))
    out = np.random.default_rng(1).random(len(rows)) < 0.2
    train, test = rows.take(np.flatnonzero(~out)), rows.take(np.flatnonzero(out))
    p = np.clip(logistic(train, test, coding, 0), 1e-9, 1 - 1e-9)
    logits = np.log(p / (1 - p))
    few = train.take(np.arange(0, len(train), len(train) // 200))
    p = np.clip(logistic(few, test, coding, 0), 1e-9, 1 - 1e-9)
    poor = np.log(p / (1 - p))
    models = {"logistic": logits, "weak": 0.1 * poor, "overconfident": 3 * logits}
    return np.asarray(test.labels, dtype=float), models


def holdouts() -> list[Holdout]:
    """Return the cases; every row is a unit unless its name says otherwise."""
    rng = np.random.default_rng(2)
    cases = []
    for data in ("adult", "spambase"):
        labels, models = load(data)
        rows = np.arange(len(labels))
        for model, logits in models.items():
            name = f"{data}, {model}"
            cases.append(Holdout(name=name, labels=labels, logits=logits, units=rows))
    adult = cases[0]
    negatives = adult.labels == 0
    keep = negatives | (
        rng.random(len(negatives)) < 0.03 / 0.97 * negatives.sum() / (~negatives).sum()
    )
    cases.append(
        Holdout(
            name="adult with 3 % positives, logistic",
            labels=adult.labels[keep],
            logits=adult.logits[keep] - math.log(10),
            units=np.arange(keep.sum()),
        )
    )
    account = rng.integers(len(negatives) // 4, size=len(negatives))
    cases.append(
        Holdout(
            name="adult in accounts of about 4 rows, logistic",
            labels=adult.labels,
            logits=adult.logits,
            units=account,
        )
    )
    return cases


def main(arguments: list[str]) -> None:
    """Print RMS error, bias, interval width and coverage by case, sites and metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=1.0, help="of both rounds together")
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    options = parser.parse_args(arguments)
    asked = Privacy(
        epsilon=options.epsilon, delta=options.delta, unit="record", max_records_per_account=1,
        max_sites_per_unit=1, allocation=Allocation(counts=0.05, evaluation=0.2), trust="local",
        max_colluding=1, clip_norm=1.0, sampling_rate=1.0, randomness="system",
    )  # fmt: skip
    for holdout in holdouts():
        if options.case not in holdout.name:
            continue
        for sites in options.sites:
            found, n_bins = repeat(
                holdout, plan(asked), sites=sites, repetitions=options.repetitions
            )
            rows = f"{len(holdout.labels)} rows, {sites} site(s), {n_bins:.1f} bins"
            print(f"\n{holdout.name}; {rows}")
            show(exact(holdout), found)


def show(truth: dict[str, float], found: dict[str, Floats]) -> None:
    """Print one line a metric; an interval that is withheld (NaN) counts as a miss.

    ``below`` is the share of intervals that lie wholly below the exact value.
    """
    print(f"{'metric':20}{'exact':>8}{'rms':>8}{'bias':>8}{'width':>8}{'covered':>9}{'below':>7}")
    for name, rows in found.items():
        value, low, high = rows.T
        error = value - truth[name]
        # An exact 1 of a saturated sigmoid may differ from 1 in the last bits.
        covered = (low <= truth[name] + 1e-9) & (truth[name] - 1e-9 <= high)
        print(
            f"{name:20}{truth[name]:8.4f}{math.sqrt(np.nanmean(error**2)):8.4f}"
            f"{np.nanmean(error):8.4f}{np.nanmean(high - low):8.4f}{covered.mean():9.3f}"
            f"{np.mean(high < truth[name] - 1e-9):7.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
