"""The facts of a frontier: means over seeds, their intervals, references."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from dp_risk.report import words

METRICS = ("auroc", "auprc")


def build(frontier: Mapping[str, Any]) -> dict[str, Any]:
    """Return lines, references and notes of a frontier.

    Parameters
    ----------
    frontier : mapping
        ``frontier.json``.
    """
    points = frontier.get("points") or []
    models = {point.get("model") for point in points}
    rows: dict[tuple[str, str, bool], list[Mapping[str, Any]]] = defaultdict(list)
    for point in points:
        private = point.get("epsilon") is not None
        trust = str(point.get("trust")) if private else "none"
        label = words.SERIES_WORDS.get(trust, trust)
        if len(models) > 1:
            label = f"{label}, {point.get('model')}"
        rows[label, trust, private].append(point)
    for point in frontier.get("baselines") or []:
        label = words.baseline_words(point.get("name"))
        rows[label, "baseline", point.get("epsilon") is not None].append(point)
    series: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for (label, trust, private), group in rows.items():
        by_epsilon = defaultdict(list)
        for point in group:
            by_epsilon[point.get("epsilon")].append(point)
        means = [_mean(by_epsilon[e]) | {"epsilon": e} for e in sorted(by_epsilon, key=_order)]
        if private:
            series.append({"label": label, "baseline": trust == "baseline", "points": means})
        else:
            references.append({"label": label, "baseline": trust == "baseline", **means[0]})
    series.sort(key=lambda line: bool(line["baseline"]))
    notes = [words.stored(baseline) for baseline in frontier.get("stored") or []]
    return {"series": series, "references": references, "notes": notes}


def _order(epsilon: float | None) -> float:
    return math.inf if epsilon is None else epsilon


def _mean(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [p["seconds"] for p in points if p.get("seconds") is not None]
    return {
        "count": len(points),
        "seeds": [{name: p.get(name) for name in ("seed", *METRICS)} for p in points],
        "seconds": float(np.mean(seconds)) if seconds else None,
        **{
            name: _summary([p[name] for p in points if p.get(name) is not None]) for name in METRICS
        },
    }


def _summary(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, extremes and the 95 % t-interval of the mean over seeds, cut to [0, 1]."""
    if not values:
        return None
    mean, n = float(np.mean(values)), len(values)
    out = {"mean": mean, "min": float(min(values)), "max": float(max(values)), "n": n}
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
        out |= {"low": max(0.0, mean - half), "high": min(1.0, mean + half)}
    return out
