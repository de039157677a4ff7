"""Reports of older versions, read as ones of this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_risk.report.facts import derived
from dp_risk.report.facts.audit import with_counts
from dp_risk.report.facts.run import SCHEMA_VERSION, review


def upgrade(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the facts of a report as those of this version; a current one as it is.

    Parameters
    ----------
    report : mapping
        ``report.json`` of this version or an older one. What an older version did not record is
        empty.
    """
    if report["schema_version"] == SCHEMA_VERSION:
        return report
    audit, frontier = report.get("audit"), report.get("frontier")
    if frontier:
        frontier = {
            **frontier,
            "series": [
                {**line, "points": [_counted(point) for point in line["points"]]}
                for line in frontier["series"]
            ],
            "references": [_counted(line) for line in frontier["references"]],
        }
    empty: dict[str, list[Any] | None] = {
        "subgroups": [],
        "subgroups_note": None,
        "dropped": [],
        "doubts": [],
        "not_audited": [],
        "audit_assumptions": [],
        "residual": [],
        "unprotected": [],
    }
    return derived.complete(
        {
            **empty,
            **report,
            "schema_version": SCHEMA_VERSION,
            "frontier": frontier,
            "audit": with_counts(audit) if audit else None,
            "review": review(report["configuration"], report["settings"].get("finished")),
        }
    )


def _counted(point: Mapping[str, Any]) -> dict[str, Any]:
    return {**point, "count": len(point.get("seeds") or [])}
