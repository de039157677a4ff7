"""Training, round by round."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, How, Shown, details, fill, section, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, note, up
from dp_risk.types import Split


def training(report: Facts) -> str:
    """AUPRC and epsilon by round."""
    rows = report["rounds"]
    if not rows:
        return ""
    panels = ""
    for name, words, colour in (("auprc", "AUPRC", 0), ("epsilon_spent", "epsilon spent", 1)):
        points = [
            (float(row["round"]), float(row[name])) for row in rows if row.get(name) is not None
        ]
        if points:
            panels += f"<figure>{plots.progress(points, words, colour)}</figure>"
    scored = any(row.get("auprc") is not None for row in rows)
    body: list[list[Cell]] = [
        [
            Shown(value=row.get("round"), form="plain"),
            up(row.get("epsilon_spent"), 3),
            *([row.get("auprc")] if scored else []),
            Shown(value=row.get("seconds"), form="fixed1"),
        ]
        for row in rows
    ]
    how = "progress"
    columns = (
        "Round",
        "epsilon spent so far",
        *(["AUPRC"] if scored else []),
        "Seconds since the start",
    )
    head = tuple(How(name=words, method=how) for words in columns)
    every = report["counts"].get("every")
    left_out = (
        note(fill("A line every {} rounds, and one for the last; all are in rounds.jsonl.", every))
        if every is not None and every > 1
        else ""
    )
    spent = any(row.get("epsilon_spent") is not None for row in rows)
    words = _curve(report) if spent else ""
    return section(
        "training",
        "Training",
        f'<div class="pair">{panels}</div>{note(words, how)}'
        + details("Table of rounds", table("Round by round", head, body) + left_out),
    )


def _curve(report: Facts) -> str:
    """Say what the curve of epsilon holds, and where it ends beside the run's epsilon."""
    counted = any(charge["purpose"] == "counts" for charge in report["charges"])
    holds = (
        "The curve of epsilon is what counts and rounds had cost so far."
        if counted
        else "The curve of epsilon is what the rounds had cost so far."
    )
    beside = []
    if report["settings"].get("spare_rounds"):
        beside.append("all spare rounds")
    after = ("score_bins", "evaluation", "subgroups")
    if any(c["split"] == Split.BOTH and c["purpose"] in after for c in report["charges"]):
        beside.append("the evaluation")
    if beside:
        return f"{holds} The run's epsilon holds {' and '.join(beside)} too."
    return (
        f"{holds} It ends at the train split's epsilon, which is the run's where the holdout's is "
        "not larger."
    )
