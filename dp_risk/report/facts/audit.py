"""The facts of an audit's report, as JSON: `audit.json` made safe to draw."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from dp_risk.audit.findings import FALSIFIED, NOT_FALSIFIED
from dp_risk.report import words
from dp_risk.report.facts import derived
from dp_risk.report.facts.loose import count, finite, listing, mapping, mappings
from dp_risk.report.facts.membership import membership
from dp_risk.report.facts.run import SCHEMA_VERSION, plain, review, subject

Facts = Mapping[str, Any]


def build_audit(
    audit: Facts, config_yaml: str, versions: Facts, commit: str | None
) -> dict[str, Any]:
    """Return the facts of an audit's report, ready for ``report.json``.

    Parameters
    ----------
    audit : mapping
        ``audit.json``. What is missing or malformed is left out. A check that does not say that it
        passed counts as failed, and one failed check makes the verdict ``falsified``.
    config_yaml : str
        The resolved configuration.
    versions : mapping
        Package to version.
    commit : str or None
        Of the program.

    Returns
    -------
    dict
        JSON-serialisable, strings, numbers, lists and None only; no NaN, no infinity. The parts
        that an audit does not have are empty.
    """
    audit = mapping(plain(audit))
    evidence = mapping(audit.get("evidence"))
    about = mapping(evidence.get("subject"))
    results, checks = _results(audit.get("results")), _checks(audit.get("checks"))
    failed = [check["name"] for check in checks if not check["passed"]]
    falsified = bool(failed) or audit.get("verdict") != NOT_FALSIFIED
    claimed, delta = finite(audit.get("claimed_epsilon")), finite(audit.get("delta"))
    gate = mapping(audit.get("gate"))
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": "audit",
        "title": words.VERDICT_WORDS[falsified],
        "subject": about.get("dataset") or subject(config_yaml),
        "claim": words.audit_claim(claimed, delta, about),
        "not_private": [],
        "settings": {},
        "audit": with_counts(
            {
                "verdict": FALSIFIED if falsified else NOT_FALSIFIED,
                "failed": failed,
                "claimed_epsilon": claimed,
                "delta": delta,
                "chosen": results[0] if results else None,
                "gate": {
                    "level": finite(gate.get("level")),
                    "epsilon_lower_bound": finite(gate.get("epsilon_lower_bound")),
                },
                "results": results,
                "checks": sorted(checks, key=lambda check: bool(check["passed"])),
                "subject": about,
                "plan": mapping(evidence.get("plan")),
                "canaries": mapping(evidence.get("canaries")),
                "seconds": finite(evidence.get("seconds")),
                "observations": _observations(mapping(evidence.get("observations"))),
                "tradeoff": _tradeoff(mapping(evidence.get("tradeoff"))),
                "sensitivity": _sensitivity(evidence.get("sensitivity")),
                "controls": [
                    {
                        "name": str(control.get("name")),
                        "expected": control.get("expected"),
                        "epsilon_lower_bound": finite(control.get("epsilon_lower_bound")),
                    }
                    for control in mappings(evidence.get("controls"))
                ],
                "membership": membership(evidence.get("membership")),
                "source": [],
            }
        ),
        "frontier": None,
        "utility": None,
        "utility_source": None,
        "estimates": None,
        "subgroups": [],
        "subgroups_note": None,
        "search": None,
        "sites": [],
        "dropped": [],
        "doubts": [],
        "charges": [],
        "shapes": [],
        "rounds": [],
        "assumptions": listing(evidence.get("assumptions")),
        "audit_assumptions": [],
        "not_audited": listing(evidence.get("not_audited")),
        "residual": [],
        "unprotected": [],
        "configuration": config_yaml,
        "versions": mapping(plain(versions)),
        "commit": commit,
        "review": review(config_yaml, None),
    }
    return derived.complete(report)


def with_counts(audit: Facts) -> dict[str, Any]:
    """Return an audit's facts with how many checks were made, passed and failed."""
    checks, level = audit["checks"], audit["gate"]["level"]
    passed = sum(bool(check["passed"]) for check in checks)
    return {
        "source": [],
        "differs": [],
        "membership": None,
        **audit,
        "gate": {**audit["gate"], "confidence": None if level is None else 1 - level},
        "made": len(checks),
        "passed": passed,
        "failures": len(checks) - passed,
    }


def _order(value: float | None) -> float:
    return -math.inf if value is None else value


def _results(rows: Any) -> list[dict[str, Any]]:
    return [
        {
            "method": str(row.get("method")),
            "canaries": count(row.get("canaries")),
            "observations": count(row.get("observations")),
            "confidence": finite(row.get("confidence")),
            "epsilon_lower_bound": finite(row.get("epsilon_lower_bound")),
            "ceiling": finite(row.get("ceiling")),
            "guarantee": str(row.get("guarantee")),
            "assumptions": [str(item) for item in listing(row.get("assumptions"))],
        }
        for row in mappings(rows)
    ]


def _checks(rows: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": str(row.get("name")),
            "passed": row.get("passed") is True,
            "figure": str(row.get("figure") or ""),
        }
        for row in mappings(rows)
    ]


def _observations(facts: Facts) -> dict[str, Any] | None:
    """Histograms as densities per group: equal areas, whatever the widths and sizes."""
    edges = [finite(edge) for edge in listing(facts.get("edges"))]
    groups = {name: [finite(n) for n in listing(facts.get(name))] for name in ("inside", "outside")}
    if len(edges) < 2 or any(len(counts) != len(edges) - 1 for counts in groups.values()):
        return None
    totals = {name: sum(n or 0.0 for n in counts) for name, counts in groups.items()}
    cells = []
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        if a is None or b is None or not b - a > 0:
            continue
        cell: dict[str, float] = {"from": a, "to": b}
        for name, counts in groups.items():
            share = max(0.0, counts[i] or 0.0) / totals[name] if totals[name] > 0 else 0.0
            cell |= {name: counts[i] or 0.0, f"{name}_density": share / (b - a)}
        if all(map(math.isfinite, cell.values())):
            cells.append(cell)
    return {
        "cells": cells,
        **{name: finite(facts.get(name)) for name in ("inside_mean", "outside_mean", "std")},
    }


def _tradeoff(facts: Facts) -> list[dict[str, float | None]]:
    """Points in order of the false positive rate; every curve as long as that of the rates."""
    rates = listing(facts.get("false_positive"))
    curves = {name: listing(facts.get(name)) for name in ("claimed", "measured", "high")}
    points = [
        {
            "false_positive": finite(rate),
            **{
                name: finite(curve[i]) if len(curve) == len(rates) else None
                for name, curve in curves.items()
            },
        }
        for i, rate in enumerate(rates)
        if finite(rate) is not None
    ]
    return sorted(points, key=lambda point: _order(point["false_positive"]))


def _sensitivity(rows: Any) -> list[dict[str, Any]]:
    out = []
    for row in mappings(rows):
        moved, allowed = finite(row.get("moved")), finite(row.get("allowed"))
        share = finite(moved / allowed) if moved is not None and allowed else None
        over = moved is None or allowed is None or moved > allowed
        out.append(
            {
                "unit": str(row.get("unit")),
                "purpose": str(row.get("purpose")),
                "moved": moved,
                "allowed": allowed,
                "share": share,
                "over": over,
            }
        )
    return out
