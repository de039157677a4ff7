"""What was charged: every touch of private rows and its price."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, How, Name, details, fill, section, table
from dp_risk.report.sections.common import Facts, note, shares, up, whose
from dp_risk.report.sections.utility import estimate_cells
from dp_risk.report.words import PURPOSE_WORDS


def charges(report: Facts) -> str:
    """List what was charged, for what, and at which cost."""
    rows = report["charges"]
    if not rows:
        return ""
    repeated = any(row["times"] > 1 for row in rows)
    head: tuple[Name, ...] = (
        "Split",
        "Purpose",
        How(name="epsilon", method="epsilon-charge"),
        How(name="Share", method="share"),
        *([How(name="Times", method="schedule")] if repeated else []),
        How(name="Event", method="noise"),
    )
    body: list[list[Cell]] = [
        [
            row["split"],
            PURPOSE_WORDS.get(row["purpose"], row["purpose"]),
            up(row["epsilon"], 3),
            shares(row["share"]),
            *([row["times"]] if repeated else []),
            row["event"],
        ]
        for row in rows
    ]
    words = (
        "Nothing else read a private row. The epsilon of a row is its cost alone; rows of one "
        "split compose to less than their sum. Shares add up exactly. Train and "
        "holdout are disjoint units with a budget each, so the larger total counts; where the "
        "split is called both, one budget pays for both in sequence."
    )
    return section(
        "charges",
        "Every charge",
        whose(report)
        + table("Everything that was priced, spare rounds included", head, body)
        + note(words),
    )


def search(report: Facts) -> str:
    """Say what a search that this run was part of cost in all."""
    facts = report.get("search")
    if not facts:
        return ""
    rows: list[list[Cell]] = [
        [
            job["overrides"] or None,
            "this one" if job["job"] == facts["job"] else job["job"],
            up(job["epsilon"], 3),
            *estimate_cells(job["auroc"]),
            job["outcome"],
        ]
        for job in facts["trials"]
    ]
    head: tuple[Name, ...] = (
        "Trial",
        "Job",
        How(name="epsilon", method="epsilon-run"),
        *(How(name=words, method="utility-exact") for words in ("AUROC", "Low", "High")),
        "Outcome",
    )
    cost = "nothing" if facts["epsilon"] is None else fill("epsilon {}", up(facts["epsilon"]))
    if not facts.get("protected", True):
        cost = "what no epsilon bounds, because a trial had no noise,"
    words = fill(
        "This run is one of {} trials of a sweep, of which {} finished. Together "
        "they cost {} at a site (PLD over all that was reserved): that is the figure "
        "behind any choice among them, and the epsilon of one trial is not. Runs before or after "
        "the sweep are not in it: the lifetime total has them.",
        report["counts"]["trials"],
        report["counts"]["trials_done"],
        cost,
    )
    return section(
        "search",
        "What the search cost",
        f"<p>{words}</p>"
        + note("", "epsilon-search")
        + details("Table of trials", table("Trials", head, rows), opened=True),
    )
