"""Training, round by round."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, How, Shown, details, section, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, note, up

ROUND_ROWS = 60


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
    every = max(1, -(-len(rows) // ROUND_ROWS))
    chosen = [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    body: list[list[Cell]] = [
        [
            Shown(value=row.get("round"), form="plain"),
            up(row.get("epsilon_spent"), 3),
            *([row.get("auprc")] if scored else []),
            Shown(value=row.get("seconds"), form="fixed1"),
        ]
        for row in chosen
    ]
    caption = "After each round" + (
        f", every {every}th; all are in rounds.jsonl" if every > 1 else ""
    )
    how = "progress"
    columns = (
        "Round",
        "epsilon spent so far",
        *(["AUPRC"] if scored else []),
        "Seconds since the start",
    )
    head = tuple(How(name=words, method=how) for words in columns)
    words = (
        "The curve of epsilon is that of training alone and ends below the run's, which "
        "counts spare rounds and the other purposes of the split too."
    )
    return section(
        "training",
        "Training",
        f'<div class="pair">{panels}</div>{note(words, how)}'
        + details("Table of rounds", table(caption, head, body)),
    )
