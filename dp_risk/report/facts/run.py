"""The facts of a report, as JSON: everything that is computed is computed here."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dp_risk.privacy.events import decode
from dp_risk.report import words
from dp_risk.report.facts import derived
from dp_risk.report.facts import frontier as frontier_facts
from dp_risk.report.facts.loose import configuration
from dp_risk.types import ConfigurationError

SCHEMA_VERSION = 2
KINDS = ("run", "frontier")
_SETTINGS = (
    *("run", "finished"),
    *("trust", "unit", "adjacency", "delta", "epsilon_target", "epsilon_spent"),
    *("epsilon_lifetime", "sigma", "q", "steps", "rounds", "rounds_abandoned", "clip_norm"),
    *("positives", "ridge", "learning_rate", "start"),
    *("spare_rounds", "answers_lost", "units", "model", "rule"),
    *(
        "max_records_per_account",
        "max_sites_per_unit",
        "min_sites",
        "max_colluding",
        "randomness",
        "seed",
        "seconds",
        "peak_rss_mb",
    ),
)


def build(
    kind: str,
    run: Mapping[str, Any],
    frontier: Mapping[str, Any] | None,
    shapes: Sequence[Mapping[str, Any]],
    config_yaml: str,
    rounds: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the facts of one report, ready for ``report.json``.

    Parameters
    ----------
    kind : {"run", "frontier"}
        What was done.
    run : mapping
        ``run.json``; for a frontier the facts that all points share.
    frontier : mapping or None
        ``frontier.json``: points and baselines, and where stored baselines come from.
    shapes : sequence of mapping
        Shape functions in log-odds: ``{feature, kind: "bins"|"linear", x, y}``, `x` labels of bins
        or numbers, `y` as long as `x`.
    config_yaml : str
        The resolved configuration.
    rounds : sequence of mapping
        ``{round, epsilon_spent, auprc, seconds}``; `auprc` may be None.

    Returns
    -------
    dict
        JSON-serialisable, strings, numbers, lists and None only; no NaN, no infinity.

    Raises
    ------
    ConfigurationError
        On an unknown kind, a frontier report without a frontier, or a shape whose `x` and `y`
        differ in length.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"report: kind must be one of {', '.join(KINDS)}")
    if kind == "frontier" and frontier is None:
        raise ConfigurationError("report: a frontier report needs frontier.json")
    run = plain(run)
    points = (frontier or {}).get("points") or []
    trusts = sorted({str(p.get("trust")) for p in points if p.get("epsilon") is not None})
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "title": "Utility against epsilon" if kind == "frontier" else "Privacy report of a run",
        "subject": subject(config_yaml) or run.get("dataset"),
        "claim": words.claim(kind, run, trusts),
        "not_private": words.not_private({**run, **({"trust": trusts[0]} if trusts else {})}),
        "settings": _settings(run),
        "frontier": frontier_facts.build(plain(frontier)) if frontier is not None else None,
        "utility": run.get("utility"),
        "utility_source": run.get("utility_source"),
        "estimates": run.get("estimates"),
        "subgroups": run.get("subgroups") or [],
        "subgroups_note": run.get("subgroups_note"),
        "search": run.get("search"),
        "sites": run.get("sites") or [],
        "dropped": run.get("dropped") or [],
        "doubts": run.get("doubts") or [],
        "charges": _charges(run.get("charges") or []),
        "shapes": _shapes(plain(shapes)),
        "rounds": plain(rounds),
        "audit": None,
        "assumptions": run.get("assumptions") or [],
        "audit_assumptions": [],
        "not_audited": [],
        "residual": list(words.RESIDUAL),
        "unprotected": list(words.UNPROTECTED),
        "configuration": config_yaml,
        "versions": run.get("versions") or {},
        "commit": run.get("commit"),
        "review": review(config_yaml, run.get("finished")),
    }
    return derived.complete(report)


def review(config_yaml: str, finished: object) -> dict[str, str | None]:
    """Return who answers for a run, what it is for and when to look again, as configured."""
    asked = _configured(config_yaml).get("report")
    asked = asked if isinstance(asked, Mapping) else {}
    names = ("owner", "contact", "purpose", "review_by")
    found = {name: str(asked[name]) if asked.get(name) is not None else None for name in names}
    return {**found, "finished": None if finished is None else str(finished)[:10]}


def _settings(run: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: run[name] for name in _SETTINGS if run.get(name) is not None}
    search = (run.get("search") or {}).get("epsilon")
    return found if search is None else found | {"epsilon_search": search}


def plain(value: Any) -> Any:
    """Return `value` as plain JSON: NumPy numbers unboxed, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return str(value)


def subject(config_yaml: str) -> str | None:
    """Return the name of the data, where the configuration has one."""
    data = _configured(config_yaml).get("data")
    name = data.get("name") if isinstance(data, dict) else data
    return name if isinstance(name, str) else None


def _configured(config_yaml: str) -> Mapping[str, Any]:
    config = configuration(config_yaml)
    return config if isinstance(config, dict) else {}


def _charges(charges: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Equal charges become one row; a charge without a share gets that of the plain sum."""
    rows: dict[tuple[Any, ...], int] = defaultdict(int)
    totals: dict[str, float] = defaultdict(float)
    for charge in charges:
        split, epsilon = str(charge.get("split")), charge.get("epsilon")
        purpose, event = str(charge.get("purpose")), _event(charge.get("event"))
        rows[split, purpose, event, epsilon, charge.get("share")] += 1
        totals[split] += epsilon or 0.0
    return [
        {
            "split": split,
            "purpose": purpose,
            "event": event,
            "epsilon": epsilon,
            "times": times,
            "share": share or (times * epsilon / totals[split] if epsilon else None),
        }
        for (split, purpose, event, epsilon, share), times in rows.items()
    ]


def _event(event: Any) -> str:
    try:
        return str(decode(event))
    except (ValueError, TypeError, AttributeError):
        return event if isinstance(event, str) else json.dumps(event, sort_keys=True)


def _shapes(shapes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Widest effect first; points without a finite value are left out."""
    out = []
    for shape in shapes:
        feature, x, y = str(shape.get("feature")), shape.get("x") or [], shape.get("y") or []
        if len(x) != len(y):
            raise ConfigurationError(f"report: shape of {feature} has x and y of unequal length")
        pairs = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
        if pairs:
            ys = [b for _, b in pairs]
            out.append(
                {
                    "feature": feature,
                    "kind": "linear" if shape.get("kind") == "linear" else "bins",
                    "x": [a for a, _ in pairs],
                    "y": ys,
                    "range": max(ys) - min(ys) if len(ys) > 1 else abs(ys[0]),
                }
            )
    return sorted(out, key=lambda shape: -float(shape["range"]))
