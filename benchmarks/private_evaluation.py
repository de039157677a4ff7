"""Measure private evaluation: `python benchmarks/private_evaluation.py --repetitions 100`.

Every repetition draws both rounds' noise anew from the system's randomness and compares the
estimates with the exact metrics of the same holdout.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table
from dp_risk.evaluation.baselines import logistic
from dp_risk.evaluation.bins import CELLS, HIGH, LOW, choose_bins, score_position
from dp_risk.evaluation.metrics import ECE_BINS
from dp_risk.evaluation.private import estimates
from dp_risk.privacy.accounting import gaussian_mu
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Holdout:
    """Scored rows and the share of its unit that each row carries."""

    name: str
    labels: Floats
    logits: Floats
    weights: Floats


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


def noisy(counts: list[Floats], noise_multiplier: float) -> tuple[Floats, float]:
    """Return the sum of one release a site, and the standard deviation of its noise."""
    grid = Grid(clip_norm=1.0, noise_multiplier=noise_multiplier, dimension=len(counts[0]))
    total = sum(grid.release(x, Randomness.system()) for x in counts)
    return np.asarray(total), grid.std * math.sqrt(len(counts))


def repeat(
    holdout: Holdout, *, sites: int, repetitions: int, mu: float, score_share: float
) -> tuple[dict[str, Floats], float]:
    """Return (value, low, high) of each repetition by metric, and the mean number of bins."""
    site = np.random.default_rng(0).integers(sites, size=len(holdout.labels))
    places = np.clip(score_position(holdout.logits), LOW, HIGH)
    found: dict[str, list[tuple[float, float, float]]] = {}
    n_bins = []
    for seed in range(repetitions):
        counts = [
            np.histogram(places[site == s], CELLS, (LOW, HIGH), weights=holdout.weights[site == s])[
                0
            ].astype(float)
            for s in range(sites)
        ]
        bins = choose_bins(*noisy(counts, 1 / (mu * math.sqrt(score_share))))
        n_bins.append(len(bins))
        cells = bins.cells(holdout.logits, holdout.labels)
        counts = [
            np.bincount(cells[site == s], holdout.weights[site == s], 2 * len(bins))
            for s in range(sites)
        ]
        total, std = noisy(counts, 1 / (mu * math.sqrt(1 - score_share)))
        result = estimates(total.reshape(2, -1), bins, noise_std=std, draws=1000, seed=seed)
        for name, e in result.items():
            found.setdefault(name, []).append((e.value, e.low, e.high))
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
    """Return the cases, each with equal weights unless its name says otherwise."""
    rng = np.random.default_rng(2)
    cases = []
    for data in ("adult", "spambase"):
        labels, models = load(data)
        ones = np.ones(len(labels))
        for model, logits in models.items():
            name = f"{data}, {model}"
            cases.append(Holdout(name=name, labels=labels, logits=logits, weights=ones))
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
            weights=adult.weights[keep],
        )
    )
    account = rng.integers(len(negatives) // 4, size=len(negatives))
    weights = 1 / np.bincount(account)[account]
    cases.append(
        Holdout(
            name="adult in accounts of about 4 rows, logistic",
            labels=adult.labels,
            logits=adult.logits,
            weights=weights,
        )
    )
    return cases


def main(arguments: list[str]) -> None:
    """Print RMS error, bias, interval width and coverage by case, sites and metric."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=1.0, help="of both rounds together")
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--score-share", type=float, default=0.15, help="of mu^2, for the bins")
    parser.add_argument("--sites", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--case", default="", help="only cases whose name holds this")
    options = parser.parse_args(arguments)
    mu = gaussian_mu(options.epsilon, options.delta)
    for holdout in holdouts():
        if options.case not in holdout.name:
            continue
        for sites in options.sites:
            found, n_bins = repeat(
                holdout,
                sites=sites,
                repetitions=options.repetitions,
                mu=mu,
                score_share=options.score_share,
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
