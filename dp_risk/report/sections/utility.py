"""The section on utility: exact on public data, charged estimates on private data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_risk.report.page.html import Cell, How, Markup, Name, Shown, details, fill, section, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, note, whose
from dp_risk.types import Split

METRIC_WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall_at_fpr_1pct": "Recall at 1 % false positives",
    "precision_at_1pct": "Precision in the top 1 %",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error, ECE (lower is better)",
    "threshold": "Score threshold",
    "base_rate": "Positives among held-out units",
}
_COLUMNS = ("Value", "Low", "High")


def utility(report: Facts) -> str:
    """Metrics with intervals, or why there are none."""
    facts, estimates = report["utility"], report.get("estimates")
    if not facts:
        if report["kind"] != "run":
            return ""
        return section(
            "utility",
            "Utility",
            "<p>No utility: the sites' data is not public and no estimate was charged.</p>",
        )
    content: str = whose(report)
    by_account = report["settings"].get("unit") == "account"
    shared = any(
        c["purpose"] == "evaluation" and c["split"] == Split.BOTH for c in report["charges"]
    )
    if report.get("utility_source") == "charged" and estimates:
        content += _estimated(estimates, facts, by_account=by_account, shared=shared)
    else:
        content += table(
            f"Exact, on held-out {'records' if by_account else 'units'}, with 95 % intervals",
            ("Metric", *(How(name=words, method="utility-exact") for words in _COLUMNS)),
            _rows(facts),
        )
        if estimates:
            content += details(
                "What a private holdout would have said: charged estimates",
                _estimated(estimates, estimates["metrics"], by_account=by_account, shared=shared),
            )
    return section("utility", "Utility", content)


def _estimated(estimates: Facts, facts: Facts, *, by_account: bool, shared: bool) -> str:
    paid = "the one budget that training and evaluation share" if shared else "the holdout's budget"
    words = fill(
        "Estimated from noisy histograms of holdout scores at {} sites ({} bins by label), paid "
        "from {}. The 95 % intervals hold the noise as well as the sampling of units. Precision "
        "and threshold are those of a review of the highest {} of scores.",
        estimates["sites"],
        estimates["bins"],
        paid,
        Shown(value=estimates["capacity"], form="percent"),
    )
    if by_account:
        words = Markup(words + " Every account weighs one, shared over its records.")
    how = "utility-charged"
    columns: tuple[Name, ...] = ("Metric", *(How(name=name, method=how) for name in _COLUMNS))
    out = note(words, how) + table("Charged estimates", columns, _rows(facts))
    points = estimates.get("reliability") or []
    if not points:
        return out + "<p>No calibration curve: the counts do not stand out of the noise.</p>"
    rows: list[list[Cell]] = [[p["score"], *estimate_cells(p["rate"])] for p in points]
    how = "calibration"
    head = [How(name=name, method=how) for name in ("Mean score", "Observed rate", "Low", "High")]
    return (
        out
        + f"<figure>{plots.both(plots.reliability, points)}</figure>"
        + details("Table of the calibration curve", table("By group of scores", head, rows))
    )


def _rows(facts: Facts) -> list[list[Cell]]:
    order = [*METRIC_WORDS, *(name for name in facts if name not in METRIC_WORDS)]
    return [
        [METRIC_WORDS.get(name, name), *estimate_cells(facts[name])]
        for name in order
        if name in facts
    ]


def estimate_cells(facts: Any) -> list[Cell]:
    """Return value, low and high for a table; no value where the interval is the whole range."""
    facts = facts if isinstance(facts, Mapping) else {"value": facts}
    value, low, high = (facts.get(name) for name in ("value", "low", "high"))
    if low is not None and high is not None and low <= 0 and high >= 1:
        # The whole range: a value would read like one.
        return ["cannot tell", low, high]
    return [value, low, high]
