"""Measure DP-EBM on pooled public data: `python benchmarks/dp_ebm.py --out FILE`.

DP-EBM is InterpretML's (Nori et al., "Accuracy, Interpretability, and Differential Privacy via
Explainable Boosting", ICML 2021). It gets all training units in one place, with the split that
`dp-risk frontier` makes for a seed. It needs interpret-core, which dp-risk does not depend on:

    pip install interpret-core==0.7.8 numpy pyarrow PyYAML
    PYTHONPATH=. python benchmarks/dp_ebm.py --out dp_risk/evaluation/dp_ebm.json

Noise and boosting take their bits from the seed, so that the numbers can be made again.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import conf
from dp_risk.data.coding import Coded, Coding, unscale
from dp_risk.data.files import BUILTIN
from dp_risk.data.schema import Categorical, Feature, Numeric, Text
from dp_risk.data.settings import Data
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask, public_key
from dp_risk.evaluation.metrics import auprc, auroc
from dp_risk.evaluation.stored import split_digest

FEATURES = ("scaled", "raw", "ranges")
PACKAGES = ("interpret-core", "numpy", "pyarrow")


def settings_of(name: str) -> Data:
    """Return the settings of a built-in data set: its delta and its holdout fraction."""
    content = yaml.safe_load((Path(conf.__file__).parent / "data" / f"{name}.yaml").read_text())
    del content["_target_"]
    return Data(**content)


def columns(coded: Coded, coding: Coding, features: str) -> NDArray[np.object_]:
    """Return a column for each name of `column_names`.

    Numbers are as they are, or on the public scale; codes are text; a bucket of a text column says
    whether the row has it.
    """
    found: list[NDArray[Any]] = []
    for name, feature in coding.schema.features.items():
        if isinstance(feature, Numeric):
            values = coded.values[:, coding.value_names.index(name)].astype(np.float64)
            found.append(values if features == "scaled" else unscale(values, feature))
        elif isinstance(feature, Categorical):
            found.append(coded.codes[:, coding.slot_names.index(name)].astype(str))
        else:
            codes = coding.feature_codes(name)
            has = np.zeros((len(coded), len(codes)), dtype=bool)
            rows, slots = np.nonzero((coded.codes >= codes.start) & (coded.codes < codes.stop))
            has[rows, coded.codes[rows, slots] - codes.start] = True
            found += list(has.astype(int).astype(str).T)
    out = np.empty((len(coded), len(found)), dtype=object)
    for i, column in enumerate(found):
        out[:, i] = column
    return out


def column_names(coding: Coding) -> dict[str, Feature]:
    """Return the name of each column, with its feature: one a bucket where that is text."""
    names: dict[str, Feature] = {}
    for name, feature in coding.schema.features.items():
        if isinstance(feature, Text):
            names |= {f"{name}#{i}": feature for i in range(feature.buckets)}
        else:
            names[name] = feature
    return names


def bounds(coding: Coding, features: str) -> dict[int, tuple[float, float]] | None:
    """Return the public bounds by column, or None: DP-EBM reads the ranges off the rows, free."""
    if features == "ranges":
        return None
    numeric = {
        i: feature
        for i, feature in enumerate(column_names(coding).values())
        if isinstance(feature, Numeric)
    }
    return {i: (0.0, 1.0) if features == "scaled" else (f.low, f.high) for i, f in numeric.items()}


def scores(
    train: Coded,
    holdout: Coded,
    coding: Coding,
    *,
    features: str,
    epsilon: float,
    delta: float,
    seed: int,
) -> NDArray[np.float64]:
    """Fit DP-EBM with its own defaults; return a score for each held-out row."""
    from interpret.privacy import DPExplainableBoostingClassifier

    model = DPExplainableBoostingClassifier(
        feature_names=list(column_names(coding)),
        feature_types=[
            "continuous" if isinstance(feature, Numeric) else "nominal"
            for feature in column_names(coding).values()
        ],
        epsilon=epsilon,
        delta=delta,
        privacy_bounds=bounds(coding, features),
        random_state=seed,
        n_jobs=1,
    )
    with warnings.catch_warnings():
        # Of the fixed seed, and of the ranges where they are asked for: these rows are public.
        warnings.simplefilter("ignore", UserWarning)
        model.fit(columns(train, coding, features), train.labels.astype(int))
    return np.asarray(model.predict_proba(columns(holdout, coding, features))[:, 1])


def measure(
    name: str, epsilons: list[float], seeds: list[int], features: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the splits of a data set and the rows of its table."""
    data = settings_of(name)
    coding = Coding(schema=data.load_schema())
    coded = coding.encode(read_table(data.file))
    splits, rows = [], []
    for seed in seeds:
        mask = holdout_mask(coded.ids, public_key(seed), data.holdout)
        train, holdout = coded.take(~mask), coded.take(mask)
        digest = split_digest(train.ids, holdout.ids)
        sizes = {"train": len(train), "holdout": len(holdout)}
        splits.append({"dataset": name, "seed": seed, **sizes, "digest": digest})
        for epsilon in epsilons:
            started = time.perf_counter()
            asked = {"epsilon": epsilon, "delta": data.delta, "seed": seed}
            found = scores(train, holdout, coding, features=features, **asked)
            area, precision = (round(f(holdout.labels, found), 6) for f in (auroc, auprc))
            rows.append({"dataset": name, **asked, "auroc": area, "auprc": precision})
            seconds = time.perf_counter() - started
            print(
                f"{name} epsilon {epsilon:g} seed {seed}: AUROC {area:.4f} "
                f"AUPRC {precision:.4f}, {seconds:.1f} s",
                file=sys.stderr,
            )
    return splits, rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return means over seeds, AUROC / AUPRC, a line a data set."""
    epsilons = sorted({row["epsilon"] for row in rows})
    lines = ["| data | " + " | ".join(f"{e:g}" for e in epsilons) + " |"]
    lines.append("|---" * (len(epsilons) + 1) + "|")
    for name in dict.fromkeys(row["dataset"] for row in rows):
        cells = []
        for epsilon in epsilons:
            chosen = [r for r in rows if r["dataset"] == name and r["epsilon"] == epsilon]
            means = [np.mean([row[metric] for row in chosen]) for metric in ("auroc", "auprc")]
            cells.append(" / ".join(f"{mean:.3f}"[1:] for mean in means))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table of means, and write the file where one is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=BUILTIN, default=list(BUILTIN))
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default="scaled",
        help="scaled: numbers on the schema's public scale, what dp-risk's own models see; "
        "raw: in their own unit, with the schema's bounds; ranges: in their own unit, with "
        "ranges that DP-EBM reads off the rows and does not charge",
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    splits, rows = [], []
    for name in options.data:
        found = measure(name, options.epsilons, options.seeds, options.features)
        splits += found[0]
        rows += found[1]
    print(table(rows))
    if options.out:
        stored = {
            "schema_version": 1,
            "command": shlex.join(["python", "benchmarks/dp_ebm.py", *sys.argv[1:]]),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
            },
            "splits": splits,
            "rows": rows,
        }
        options.out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
