"""What was measured in runs that are compared: figures with intervals, run by run."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.report.facts.comparing.rows import Row, row, way
from dp_risk.report.facts.loose import leaf, mapping, mappings, number

Facts = Mapping[str, Any]
_POINTS = ("auroc", "auprc")
_ENDS = ("value", "low", "high")
_BY_GROUP = ("auroc", "flagged_rate", "true_positive_rate", "false_positive_rate")
NOT_EVALUATED = "not evaluated"
_GUESSES = re.compile(r", [\d,]+ guesses$")


def measures(kind: str, reports: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return ``[{key, rows: [{label, cells: [{value, low, high, way}], same}], unclear}]``.

    Parameters
    ----------
    kind : {"run", "frontier", "audit"}
        A run has one row a metric, a frontier one a point, an audit one a method.
    reports : sequence of mapping
        One a run, the reference first. `way` is ``reference, same, more, less`` where intervals
        do not overlap, ``unclear`` where they do or where there is none, ``absent`` where there
        is no figure. `unclear` are the pairs of runs of the first row that are so.
    """
    if kind == "audit":
        return _bounds(reports)
    found: dict[str, list[dict[str | None, Facts]]] = {}
    for i, report in enumerate(reports):
        for key, label, estimate in _points(report) if kind == "frontier" else _metrics(report):
            found.setdefault(key, [{} for _ in reports])[i][label] = estimate
    out = []
    for key, runs in found.items():
        labels = dict.fromkeys(label for one in runs for label in one)
        rows = [_row(label, [one.get(label, {}) for one in runs]) for label in labels]
        out.append({"key": key, "rows": rows, "unclear": _pairs(rows[0])})
    return out


def _metrics(report: Facts) -> list[tuple[str, str | None, Facts]]:
    return [
        (str(key), None, value if isinstance(value, Mapping) else {"value": value})
        for key, value in mapping(report["utility"]).items()
    ]


def by_group(reports: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return ``[{column, sources, rows}]``: a row a group and metric, as those of `measures`.

    Parameters
    ----------
    reports : sequence of mapping
        One a run, the reference first. `sources` says of each whether its figures are exact or
        charged; None where it was not evaluated by that column, and its cells say so.
    """
    found = [{str(e.get("column")): e for e in mappings(r["subgroups"])} for r in reports]
    out = []
    for column in dict.fromkeys(column for one in found for column in one):
        groups = [_groups(one[column]) if column in one else None for one in found]
        labels = dict.fromkeys(label for one in groups for label in one or {})
        rows = [
            _grouped(
                label,
                metric,
                [None if g is None else mapping(g.get(label, {}).get(metric)) for g in groups],
            )
            for label in labels
            for metric in _BY_GROUP
        ]
        sources = [leaf(mapping(one.get(column)).get("source")) for one in found]
        out.append({"column": column, "sources": sources, "rows": rows})
    return out


def _groups(entry: Facts) -> dict[str, Facts]:
    named = {str(group.get("value")): group for group in mappings(entry.get("groups"))}
    found = {"all": mapping(entry.get("overall")), **named}
    return {label: mapping(group.get("metrics")) for label, group in found.items()}


def _grouped(label: str, metric: str, estimates: Sequence[Facts | None]) -> dict[str, Any]:
    """Return the row of a group's metric; None stands for a run without the column."""
    found = _row(label, [e or {} for e in estimates])
    for cell, e in zip(found["cells"], estimates, strict=True):
        if e is None:
            cell["value"] = NOT_EVALUATED
        if (e is None) != (estimates[0] is None):
            cell["way"] = "absent"
    return {
        "key": metric,
        **found,
        "same": all(cell["way"] in ("reference", "same") for cell in found["cells"]),
    }


def _points(report: Facts) -> list[tuple[str, str | None, Facts]]:
    frontier = mapping(report["frontier"])
    lines = [
        (f"{line.get('label')}, {_at(point)}", point)
        for line in mappings(frontier.get("series"))
        for point in mappings(line.get("points"))
    ]
    lines += [(str(line.get("label")), line) for line in mappings(frontier.get("references"))]
    return [
        (metric, label, {**mapping(point[metric]), "value": mapping(point[metric]).get("mean")})
        for label, point in lines
        for metric in _POINTS
        if point.get(metric)
    ]


def near_one(reports: Sequence[Facts]) -> list[str]:
    """Return the labels of a frontier's points next to epsilon 1, and of its lines without noise.

    Baselines apart: they were not trained here.
    """
    out = []
    for frontier in (mapping(report["frontier"]) for report in reports):
        for line in mappings(frontier.get("series")):
            points = mappings(line.get("points"))
            points = [point for point in points if (number(point.get("epsilon")) or 0) > 0]
            if points and not line.get("baseline"):
                near = min(points, key=lambda p: abs(math.log(p["epsilon"])))
                out.append(f"{line.get('label')}, {_at(near)}")
        lines = mappings(frontier.get("references"))
        out += [str(line.get("label")) for line in lines if not line.get("baseline")]
    return out


def _at(point: Facts) -> str:
    epsilon = number(point.get("epsilon"))
    return "no epsilon" if epsilon is None else f"epsilon {epsilon:g}"


def _row(label: str | None, estimates: Sequence[Facts]) -> Row:
    cells = [{name: number(e.get(name)) for name in _ENDS} for e in estimates]
    ways = ["reference", *(_stands(cells[0], cell) for cell in cells[1:])]
    return {
        "label": label,
        "cells": [cell | {"way": w} for cell, w in zip(cells, ways, strict=True)],
        "same": all(w in ("reference", "same") for w in ways),
    }


def _stands(first: Facts, cell: Facts) -> str:
    """Return how an estimate stands to the reference's."""
    if first["value"] is None or cell["value"] is None:
        return "same" if first["value"] == cell["value"] else "absent"
    if all(first[name] == cell[name] for name in _ENDS):
        return "same"
    if None in (first["low"], first["high"], cell["low"], cell["high"]):
        return "unclear"
    if cell["low"] <= first["high"] and first["low"] <= cell["high"]:
        return "unclear"
    return way(first["value"], cell["value"])


def _pairs(one: Row) -> list[list[int]]:
    cells = one["cells"]
    return [
        [i, j]
        for i, j in itertools.combinations(range(len(cells)), 2)
        if _stands(cells[i], cells[j]) == "unclear"
    ]


def _bounds(reports: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return lower bounds on epsilon by method, each beside its claim."""
    audits = [mapping(report["audit"]) for report in reports]
    found = [_methods(audit) for audit in audits]
    labels = dict.fromkeys(label for one in found for label in one)
    rows = []
    for label in labels:
        cells = [
            {
                "value": number(one.get(label, {}).get("epsilon_lower_bound")),
                "low": None,
                "high": None,
                "claimed": number(audit.get("claimed_epsilon")),
                "ceiling": number(one.get(label, {}).get("ceiling")),
            }
            for one, audit in zip(found, audits, strict=True)
        ]
        compared = row(label, [cell["value"] for cell in cells])
        cells = [a | b for a, b in zip(cells, compared["cells"], strict=True)]
        rows.append({"label": label, "cells": cells, "same": compared["same"]})
    return [{"key": "lower_bound", "rows": rows, "unclear": []}] if rows else []


def _methods(audit: Facts) -> dict[str, Facts]:
    """Return the results of an audit by method, the gate's last."""
    # How many guesses an audit made is its own; the method is the same.
    found: dict[str, Facts] = {
        _GUESSES.sub("", str(result.get("method"))): result
        for result in reversed(mappings(audit.get("results")))
    }
    found = dict(reversed(found.items()))
    gate = mapping(audit.get("gate"))
    return found if gate.get("epsilon_lower_bound") is None else {**found, "the gate": gate}
