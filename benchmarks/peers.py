"""Other programs on the test beds, each with all training rows in one place.

    pip install interpret-core==0.7.8 diffprivlib==0.6.6 "scikit-learn<1.7" pyarrow PyYAML
    PYTHONPATH=. python benchmarks/peers.py --json FILE --data FOLDER

DP-EBM (Nori et al., ICML 2021) runs with its own defaults, on numbers on the public scale and on
numbers as they are with ranges that it reads off the rows, free of charge. diffprivlib's logistic
regression (Chaudhuri et al., JMLR 2011; delta 0) reads the numbers and the codes, one-hot. Its C is
the best of eleven **on the test rows**, for each split, and so is the bound on the norm of a row
where rows differ in it. Boosting and logistic regression without privacy are those of
`dp-risk frontier`. Splits are those of a run of dp-risk with the same seed.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import dp_ebm
import numpy as np
from beds import BEDS, METRICS, Bed, bed, metrics, train_mask
from numpy.typing import NDArray

from dp_risk.data.coding import Coded, Coding
from dp_risk.data.schema import Text
from dp_risk.evaluation import baselines
from dp_risk.evaluation.stored import split_digest

PACKAGES = ("interpret-core", "diffprivlib", "scikit-learn", "numpy", "pyarrow")
INVERSE_PENALTIES = tuple(10 ** (power / 2) for power in range(-8, 3))


def ebm(features: str) -> Callable[..., dict[str, Any]]:
    """Return DP-EBM on numbers in one of the forms of `dp_ebm.columns`."""

    def fit(
        train: Coded, test: Coded, coding: Coding, *, epsilon: float, delta: float, seed: int
    ) -> dict[str, Any]:
        asked = {"epsilon": epsilon, "delta": delta, "seed": seed}
        scores = dp_ebm.scores(train, test, coding, features=features, **asked)
        return metrics(test.labels, scores)

    return fit


def matrix(rows: Coded, coding: Coding) -> NDArray[np.float64]:
    """Return numbers and one-hot codes, shape (n, n_values + n_codes - 1)."""
    hot = np.zeros((len(rows), coding.n_codes))
    np.put_along_axis(hot, rows.codes.astype(np.int64), 1.0, axis=1)
    return np.hstack([rows.values, hot[:, 1:]])


def diffprivlib(
    train: Coded, test: Coded, coding: Coding, *, epsilon: float, seed: int, **_: float
) -> dict[str, Any]:
    """Return diffprivlib's logistic regression at its best C on the test rows."""
    from diffprivlib.models import LogisticRegression

    # Every row has about this norm, unless it is text or has no codes.
    norm = (coding.slots + 1) ** 0.5
    uneven = not coding.slots or any(isinstance(f, Text) for f in coding.schema.features.values())
    norms = [norm * share for share in ((2, 1, 0.5, 0.25) if uneven else (1,))]
    found = []
    for bound, inverse in product(norms, INVERSE_PENALTIES):
        model = LogisticRegression(
            epsilon=epsilon,
            data_norm=bound,
            C=inverse,
            max_iter=200,
            random_state=seed,
        ).fit(matrix(train, coding), train.labels)
        scores = model.predict_proba(matrix(test, coding))[:, 1]
        found.append(
            {**metrics(test.labels, scores), "C": round(inverse, 6), "norm": round(bound, 3)}
        )
    return max(found, key=lambda line: line["auroc"])


def baseline(function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a baseline without privacy as a method."""

    def fit(train: Coded, test: Coded, coding: Coding, *, seed: int, **_: Any) -> dict[str, Any]:
        return metrics(test.labels, function(train, test, coding, seed))

    return fit


# By name: the module that it needs, whether it has an epsilon, and what runs it.
METHODS: dict[str, tuple[str, bool, Callable[..., dict[str, Any]]]] = {
    "dp_ebm scaled": ("interpret", True, ebm("scaled")),
    "dp_ebm ranges": ("interpret", True, ebm("ranges")),
    "boosting": ("sklearn", False, baseline(baselines.gradient_boosting)),
    "logistic": ("sklearn", False, baseline(baselines.logistic)),
    "diffprivlib": ("diffprivlib", True, diffprivlib),
}


def installed() -> list[str]:
    """Return the methods whose package is there."""
    return [name for name, (module, _, _) in METHODS.items() if find_spec(module)]


def split(coded: Coded, seed: int) -> tuple[Coded, Coded, str]:
    """Return the training rows, the test rows and the digest of who is where."""
    mask = train_mask(coded.ids, seed)
    train, test = coded.take(mask), coded.take(~mask)
    return train, test, split_digest(train.ids, test.ids)


def measure(
    one: Bed, method: str, epsilons: Sequence[float], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each epsilon and seed: ``bed, method, epsilon, seed`` and the metrics.

    Parameters
    ----------
    one : Bed
        The rows.
    method : str
        One of `METHODS`; without privacy its rows have epsilon None.
    epsilons : sequence of float
        Of the methods with privacy.
    seeds : sequence of int
        Of the split and of the method.
    """
    _, private, function = METHODS[method]
    coding, coded = one.coded()
    rows = []
    for seed in seeds:
        train, test, digest = split(coded, seed)
        for epsilon in epsilons if private else (None,):
            with warnings.catch_warnings():
                # Of solvers that stop early, and of one seed for noise and boosting.
                warnings.simplefilter("ignore")
                found = function(train, test, coding, epsilon=epsilon, delta=one.delta, seed=seed)
            asked = {"bed": one.name, "method": method, "epsilon": epsilon, "seed": seed}
            rows.append({**asked, **found, "split": digest[:16]})
    return rows


def as_json(packages: Sequence[str] = PACKAGES, **tables: list[dict[str, Any]]) -> str:
    """Return tables, the command that made them and versions as JSON, a row a line."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    parts = {"command": json.dumps(command), "versions": json.dumps(versions)}
    for name, rows in tables.items():
        parts[name] = "[\n  " + ",\n  ".join(json.dumps(row) for row in rows) + "\n ]"
    return "{" + ",\n ".join(f'"{name}": {text}' for name, text in parts.items()) + "}\n"


def main() -> None:
    """Measure every bed and method; write the rows after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beds", nargs="+", choices=BEDS, default=list(BEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=installed())
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--data", type=Path, help="folder of the public files")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.beds:
        one = bed(name, options.data)
        numbers = one.coded()[0].n_values
        for method in options.methods:
            if method == "dp_ebm ranges" and not numbers:
                continue
            started = time.perf_counter()
            found = measure(one, method, options.epsilons, options.seeds)
            rows += found
            print(f"{name}, {method}: {time.perf_counter() - started:.0f} s", flush=True)
            for epsilon in dict.fromkeys(row["epsilon"] for row in found):
                chosen = [row for row in found if row["epsilon"] == epsilon]
                print(
                    f"  epsilon {epsilon}:",
                    *(f"{key} {np.mean([row[key] for row in chosen]):.4f}" for key in METRICS),
                    flush=True,
                )
            if options.json:
                options.json.write_text(as_json(rows=rows))


if __name__ == "__main__":
    main()
