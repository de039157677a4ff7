"""What reports say of charges, budgets, losses and checks, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.report.facts.comparing.rows import Row, row
from dp_risk.report.facts.loose import leaf, listing, mapping, mappings, number

Facts = Mapping[str, Any]
_PURPOSES = ("counts", "training", "score_bins", "evaluation", "subgroups")


def charges(reports: Sequence[Facts]) -> list[Row]:
    """Return a row for every split and purpose; several events of one purpose keep their order."""
    found: list[dict[tuple[str, str, int], Any]] = []
    for report in reports:
        mine: dict[tuple[str, str, int], Any] = {}
        for charge in mappings(report["charges"]):
            place, n = (str(charge.get("split")), str(charge.get("purpose"))), 0
            while (*place, n) in mine:
                n += 1
            mine[(*place, n)] = charge
        found.append(mine)
    out = []
    for split, purpose, n in sorted({key for mine in found for key in mine}, key=_order):
        charges = [mapping(mine.get((split, purpose, n))) for mine in found]
        parts = [
            {
                "value": number(charge.get("epsilon")),
                "share": number(charge.get("share")),
                "times": number(charge.get("times")),
                "event": leaf(charge.get("event")),
            }
            for charge in charges
        ]
        one = row(purpose, [part["value"] for part in parts])
        for cell, part in zip(one["cells"], parts, strict=True):
            changed = any(part[name] != parts[0][name] for name in ("event", "times"))
            cell |= part | ({"way": "other"} if changed and cell["way"] == "same" else {})
        one["same"] = all(cell["way"] in ("reference", "same") for cell in one["cells"])
        out.append({**one, "split": split})
    return out


def _order(key: tuple[str, str, int]) -> tuple[Any, ...]:
    split, purpose, n = key
    rank = _PURPOSES.index(purpose) if purpose in _PURPOSES else len(_PURPOSES)
    return split == "holdout", split, rank, purpose, n


def budgets(reports: Sequence[Facts]) -> list[Row]:
    """Return the lifetime budget of the site with least left."""
    found = [mapping(report["summary"].get("budget")) for report in reports]
    if not any(found):
        return []
    return [
        *(
            row(name, [number(one.get(name)) for one in found])
            for name in ("left", "of", "run", "rest")
        ),
        row("site", [leaf(one.get("site")) for one in found]),
    ]


def losses(reports: Sequence[Facts]) -> list[Row]:
    """Return how many rounds, answers and sites were lost; empty where nothing was."""
    settings = [report["settings"] for report in reports]
    losses = [mapping(report["losses"]) for report in reports]
    rows = [
        *(
            row(name, [number(one.get(name)) for one in settings])
            for name in ("rounds_abandoned", "answers_lost")
        ),
        *(
            row(name, [len(listing(one.get(name))) for one in losses])
            for name in ("away", "dropped", "doubts")
        ),
    ]
    return [one for one in rows if any(cell["value"] for cell in one["cells"])]


def checks(reports: Sequence[Facts]) -> list[Row]:
    """Return a row for every check of an audit: passed, failed, or not made."""
    found = [
        {
            str(check.get("name")): "passed" if check.get("passed") is True else "failed"
            for check in mappings(mapping(report["audit"]).get("checks"))
        }
        for report in reports
    ]
    names = dict.fromkeys(name for one in found for name in one)
    return [row(name, [one.get(name, "not made") for one in found]) for name in names]
