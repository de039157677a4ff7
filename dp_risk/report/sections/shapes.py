"""Shape functions of the additive model: its exact explanation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dp_risk.report.page.html import Cell, How, Name, Shown, details, section, show, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, note, whose

SHAPES_DRAWN = 12
SHAPE_ROWS = 64


def shapes(report: Facts) -> str:
    """Draw the features with the widest effects and list all of them."""
    rows = report["shapes"]
    if not rows:
        return ""
    drawn, rest = rows[:SHAPES_DRAWN], rows[SHAPES_DRAWN:]
    values = [v for row in drawn for v in row["y"]]
    low, high = min(0.0, *values), max(0.0, *values)
    pad = 0.05 * max(high - low, 1e-6)
    cells = "".join(_shape(row, low - pad, high + pad) for row in drawn)
    words = (
        "Each panel shows what a feature adds to the log-odds of the positive class; the score is "
        "the sum of all of them. Panels share one vertical scale, widest effect first"
        + (f"; the other {len(rest)} are in the table." if rest else ".")
    )
    how = "effects"
    head: tuple[Name, ...] = ("Feature", *(How(name=words, method=how) for words in (
        "Range", "Lowest at", "Lowest", "Highest at", "Highest"
    )))  # fmt: skip
    listed: list[list[Cell]] = [
        [row["feature"], row["range"], *_extreme(row, min), *_extreme(row, max)] for row in rows
    ]
    points: list[list[Cell]] = [
        [row["feature"], _where(row, i), Shown(value=y, form="signed3")]
        for row in drawn
        for i, y in enumerate(row["y"][:SHAPE_ROWS])
    ]
    cut = any(len(row["y"]) > SHAPE_ROWS for row in drawn)
    caption = "Effect on the log-odds" + (f", the first {SHAPE_ROWS} of each" if cut else "")
    columns = ("Feature", How(name="At", method=how), How(name="Effect", method=how))
    return section(
        "shapes",
        "What the model learned",
        whose(report)
        + note(words, how)
        + f'<div class="grid">{cells}</div>'
        + details(f"Table of all {len(rows)} features", table("Effects in log-odds", head, listed))
        + details("Table of the panels", table(caption, columns, points)),
    )


def _where(row: Facts, i: int) -> Shown:
    x = row["x"][i]
    return Shown(value=x, form="figures4" if isinstance(x, int | float) else "bin")


def _extreme(row: Facts, pick: Callable[[Sequence[float]], float]) -> list[Cell]:
    value = pick(row["y"])
    return [_where(row, row["y"].index(value)), Shown(value=value, form="signed2")]


def _shape(row: Facts, low: float, high: float) -> str:
    least, most = _extreme(row, min), _extreme(row, max)
    return (
        f'<figure class="panel"><figcaption>{show(row["feature"])}</figcaption>'
        f"{plots.shape(row, low, high)}"
        f'<p class="extremes">highest <b>{show(most[1])}</b> at {show(most[0])}'
        f"<br>lowest <b>{show(least[1])}</b> at {show(least[0])}</p></figure>"
    )
