"""Utility against epsilon."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, How, Name, Shown, details, fill, section, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, note


def frontier(report: Facts) -> str:
    """Draw utility against epsilon, with seeds, references and their table."""
    facts = report["frontier"]
    if not facts:
        return ""
    charts = "".join(
        f"<figure>{plots.both(plots.frontier, facts, metric)}</figure>"
        for metric in ("auroc", "auprc")
        if plots.has_metric(facts, metric)
    )
    many = any(len(point["seeds"]) > 1 for line in facts["series"] for point in line["points"])
    words = (
        "Lines join means over seeds; bands and bars reach from the smallest to the largest seed, "
        "faint dots are the seeds. "
        if many
        else ""
    )
    words += (
        "Dashed lines and level lines are references without the same protection: pooling needs "
        "all data in one place. The vertical axis does not start at 0; an arrow marks a reference "
        "that lies below it."
    )
    rows: list[list[Cell]] = []
    for line in facts["series"]:
        rows += [_row(line["label"], point) for point in line["points"]]
    rows += [_row(line["label"], line) for line in facts["references"]]
    how = "frontier"
    head: tuple[Name, ...] = (
        "Line",
        How(name="epsilon", method="epsilon-target"),
        How(name="seeds", method=how),
        *(How(name=words, method=how) for words in ("AUROC", "95 %", "AUPRC", "95 %")),
        How(name="seconds", method="resources"),
    )
    caption = "Mean over seeds (smallest to largest), and the 95 % t-interval of the mean"
    return section(
        "frontier",
        "The frontier",
        f"{charts}{note(words)}"
        + "".join(note(fill("{}", line)) for line in facts.get("notes", ()))
        + details("Table of all points", table(caption, head, rows)),
    )


def _row(label: str, point: Facts) -> list[Cell]:
    epsilon = point["epsilon"]
    row: list[Cell] = [
        label,
        "∞" if epsilon is None else Shown(value=epsilon, form="general"),
        Shown(value=point["count"], form="plain"),
    ]
    for metric in ("auroc", "auprc"):
        facts = point.get(metric)
        if not facts:
            row += [None, None]
        elif facts["n"] > 1:
            row.append(fill("{} ({}\u2013{})", facts["mean"], facts["min"], facts["max"]))
            row.append(fill("{}\u2013{}", facts["low"], facts["high"]))
        else:
            row += [facts["mean"], None]
    row.append(Shown(value=point.get("seconds"), form="fixed1"))
    return row
