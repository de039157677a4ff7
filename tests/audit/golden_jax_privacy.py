"""Figures of jax-privacy's auditing, made once and compared everywhere.

    python tests/audit/golden_jax_privacy.py > tests/audit/golden_jax_privacy.json

It needs `pip install 'dp-risk[peers]'`.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import Any

import numpy as np
from scipy.special import ndtri

DELTA = 1e-5
# Canaries inside and outside, how far their scores are apart, and the threshold.
CASES = [
    (700, 500, 1.5, 1.2),
    (200, 200, 3.0, 1.5),
    (2000, 2000, 0.5, 1.0),
    (400, 600, 6.0, 3.0),
    (300, 300, -2.0, 0.0),
]


def scores(inside: int, outside: int, apart: float) -> tuple[Any, Any]:
    """Return scores, the same on every machine: normal quantiles."""

    def quantiles(count: int) -> Any:
        return ndtri((np.arange(count) + 0.5) / count)

    return quantiles(inside) + apart, quantiles(outside)


def null_scores() -> tuple[Any, Any]:
    """Return scores of canaries that nothing tells apart from absent ones."""
    rng = np.random.default_rng(0)
    return rng.normal(size=300), rng.normal(size=300)


def figures(auditing: Any) -> list[dict[str, Any]]:
    """Return what the peer says of each case."""
    rows = []
    for case in CASES:
        inside, outside = scores(*case[:3])
        auditor, at = auditing.CanaryScoreAuditor(inside, outside), auditing.Explicit(case[-1])
        row: dict[str, Any] = {
            "true_positives": int(np.sum(inside >= case[-1])),
            "false_positives": int(np.sum(outside >= case[-1])),
            "inside": len(inside),
            "outside": len(outside),
        }
        for level in (0.05, 0.001):
            row[f"at {level:g}"] = {
                "one_run": auditor.epsilon_one_run(level, DELTA, threshold_strategy=at),
                "one_run_fdp": auditor.epsilon_one_run_fdp(level, DELTA, threshold_strategy=at),
                "counts": auditor.epsilon_clopper_pearson(level, DELTA, threshold_strategy=at),
                "gdp": auditor.epsilon_from_gdp(level, DELTA),
                "thresholds": len(auditor._fn_counts),
            }
        rows.append(row)
    return rows


def main() -> None:
    """Print the figures."""
    from jax_privacy import auditing

    said = {
        "made_by": f"jax-privacy {importlib.metadata.version('jax-privacy')}",
        "command": "python tests/audit/golden_jax_privacy.py",
        "delta": DELTA,
        "rows": figures(auditing),
        "null_gdp": auditing.CanaryScoreAuditor(*null_scores()).epsilon_from_gdp(0.05, DELTA),
    }
    json.dump(said, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
