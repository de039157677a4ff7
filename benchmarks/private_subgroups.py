"""Measure charged utility by subgroup: `python benchmarks/private_subgroups.py --repetitions 100`.

Every repetition asks the mechanisms of all sites, which hold a fifth of Adult, for all rounds anew,
with noise from the system, and compares the server's estimates of every group with the exact
metrics of the same units.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from private_evaluation import plan, summed
from scipy.special import expit, logit

from clients.cells import Cells
from dp_risk.data.coding import Coded, Coding
from dp_risk.data.groups import group_names, group_of
from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path, read_table
from dp_risk.evaluation.baselines import logistic
from dp_risk.evaluation.bins import CELLS, HIGH, LOW, score_position
from dp_risk.evaluation.subgroups import GROUP_METRICS, evaluate_group
from dp_risk.privacy.gaussian import GaussianHistogram, GaussianQuantiles
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.planning import Allocation, Privacy
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.schedule import SCORE_BINS
from server import subgroups
from server.combining import Sum
from server.evaluation import evaluate

Floats = NDArray[np.float64]


class Sites:
    """Sites that answer without a ledger; every row is a unit."""

    def __init__(self, asked: Plan, coding: Coding, rows: Coded, logits: Floats, sites: int):
        self._plan, self._coding, self._rows, self._logits = asked, coding, rows, logits
        site = np.random.default_rng(0).integers(sites, size=len(rows))
        self._at = [np.flatnonzero(site == number) for number in range(sites)]

    def __call__(
        self, purpose: str, _cells: int, *, edges: object = None, column: object = None
    ) -> Sum:
        """Return the noisy sum that a server would see."""
        noise = self._plan.sums[purpose].noise_multiplier
        where = Cells.asked(self._plan, purpose, edges, column, self._coding)
        found = []
        for at in self._at:
            rows, logits = self._rows.take(at), self._logits[at]
            if where is None:
                assert purpose == SCORE_BINS
                positions = GaussianQuantiles(
                    low=LOW, high=HIGH, cells=CELLS, noise_multiplier=noise
                )
                made = positions((np.arange(len(at)), score_position(logits)), Randomness.system())
            else:
                histogram = GaussianHistogram(cells=len(where), noise_multiplier=noise)
                cells = where.of(logits, rows, self._coding)
                made = histogram((np.arange(len(at)), cells), Randomness.system())
            found.append(made)
        return summed(found, noise)


def main(arguments: list[str]) -> None:
    """Print, by group and metric, how often it is known, its error, width and coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--epsilon", type=float, default=1.0, help="of the holdout's whole account")
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--columns", nargs="+", default=["sex", "race"])
    parser.add_argument("--capacity", type=float, default=0.05)
    parser.add_argument(
        "--off", type=float, default=0.0, help="added to the logits of --group, as by a bad model"
    )
    parser.add_argument("--group", default="Black", help="a value of the last column")
    options = parser.parse_args(arguments)
    path = builtin_path("adult")
    coding = Coding(schema=Schema.from_yaml(path.with_suffix(".yaml")))
    rows = coding.encode(read_table(path))
    out = np.random.default_rng(1).random(len(rows)) < 0.2
    train, test = rows.take(np.flatnonzero(~out)), rows.take(np.flatnonzero(out))
    p = np.clip(logistic(train, test, coding, 0), 1e-9, 1 - 1e-9)
    last = options.columns[-1]
    off = group_of(coding, last, test) == group_names(coding, last).index(options.group)
    p = np.where(off, expit(logit(p) + options.off), p)
    asked = Privacy(
        epsilon=options.epsilon, delta=options.delta, unit="record", max_records_per_account=1,
        max_sites_per_unit=1, allocation=Allocation(counts=0.05, evaluation=0.2), trust="local",
        max_colluding=1, clip_norm=1.0, sampling_rate=1.0, randomness="system",
    )  # fmt: skip
    fixed = plan(asked, tuple(options.columns))
    sites = Sites(fixed, coding, test, logit(p), options.sites)
    seen: dict[tuple[str, str, str], list[tuple[float, ...]]] = defaultdict(list)
    for seed in range(options.repetitions):
        plan_of = replace(fixed, seed=seed)
        _, first = evaluate(plan_of, sites, capacity=options.capacity)
        for entry in subgroups.evaluate(plan_of, sites, first, coding, capacity=options.capacity):
            column = entry["column"]
            names, index = group_names(coding, column), group_of(coding, column, test)
            for group in entry["groups"]:
                chosen = index == names.index(group["value"])
                exact = evaluate_group(
                    test.labels[chosen], p[chosen], threshold=entry["threshold"], bootstrap=1
                )
                for name in GROUP_METRICS:
                    truth, said = exact.metrics[name].value, group["metrics"][name]
                    ends = [math.nan if x is None else x for x in said.values()]
                    seen[column, group["value"], name].append((truth, *ends))
    print(f"{'group':30}{'metric':22}{'exact':>8}{'known':>7}{'rms':>8}{'width':>8}{'covered':>9}")
    for (_, group, name), lines in seen.items():
        truth, value, low, high = np.array(lines).T
        known = np.isfinite(value) & np.isfinite(truth)
        line = f"{group:30}{name:22}{truth[0]:8.3f}{known.mean():7.2f}"
        if known.any():
            error = (value - truth)[known]
            covered = ((low <= truth + 1e-9) & (truth - 1e-9 <= high))[known]
            line += f"{math.sqrt(np.mean(error**2)):8.3f}{np.mean((high - low)[known]):8.3f}"
            line += f"{covered.mean():9.3f}"
        print(line)


if __name__ == "__main__":
    main(sys.argv[1:])
