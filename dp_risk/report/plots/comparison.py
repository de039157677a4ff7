"""The chart of a comparison: a figure of every run on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.report.page.forms import number, rounded_down
from dp_risk.report.plots import svg

Facts = Mapping[str, Any]
_STEP, _HEADING = 27.0, 24.0


def dots(measure: Facts, runs: Sequence[Facts], title: str, *, width: float, cls: str) -> str:
    """Return a dot a run with its interval; the reference's interval is a band behind the others.

    Parameters
    ----------
    measure : mapping
        ``{rows: [{label, cells: [{value, low, high, claimed}]}]}``; a row is a group of dots.
    runs : sequence of mapping
        ``{letter, name}``, as many as a row has cells.
    title : str
        What the horizontal axis shows.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    compact = width < 600
    names = [f"{run['letter']}  {run['name']}" for run in runs]
    room = min(max(map(svg.width, names)), 78.0 if compact else 210.0)
    said = [_figure(c) if compact else _said(c) for c in _all(measure)]
    start, end = room + 18, width - 14 - max(map(svg.width, said))
    low, high = _domain(measure)
    x = svg.Scale(low=low, high=high, start=start, end=end)
    at, body, groups = 6.0, [], []
    for row in measure["rows"]:
        if not _drawn(row["cells"]):
            continue
        if row.get("label"):
            words = svg.shorten(str(row["label"]), 0.9 * width)
            groups.append(svg.text(0, at + 14, words, "group"))
            at += _HEADING
        groups.append(_group(row["cells"], names, room, at, x, compact))
        at += _STEP * _drawn(row["cells"]) + 8
    bottom = at
    marks = svg.ticks(low, high, 4 if compact else 8)
    step = marks[1] - marks[0] if len(marks) > 1 else max(high - low, 1e-6)
    for mark in marks:
        body.append(svg.line(x(mark), 4, x(mark), bottom, "grid"))
        body.append(
            svg.text(x(mark), bottom + 15, svg.tick_label(mark, step), "tick-text", "middle")
        )
    body.append(svg.line(start, bottom, end, bottom, "axis"))
    body.append(svg.text((start + end) / 2, bottom + 34, title, "axis-title", "middle"))
    words = f"{title} of {len(runs)} runs, {len(measure['rows'])} rows"
    return svg.picture(width, bottom + 42, words, "".join(body + groups), cls)


def drawable(measure: Facts) -> bool:
    """Return whether a measure has a figure to draw."""
    return bool(_all(measure))


def _domain(measure: Facts) -> tuple[float, float]:
    ends = ("value", "low", "high", "claimed")
    found = [float(c[end]) for c in _all(measure) for end in ends if c.get(end) is not None]
    low, high = min(found), max(found)
    pad = max(0.06 * (high - low), 1e-3 * max(abs(low), abs(high)), 1e-6)
    return low - pad, high + pad


def _all(measure: Facts) -> list[Facts]:
    cells = (cell for row in measure["rows"] for cell in row["cells"])
    return [cell for cell in cells if cell["value"] is not None]


def _group(
    cells: Sequence[Facts],
    names: Sequence[str],
    room: float,
    top: float,
    x: svg.Scale,
    compact: bool,
) -> str:
    """Return the dots of one row, the reference's interval behind them."""
    out, first = [], cells[0]
    base = top + _STEP * _drawn(cells)
    if first["low"] is not None and first["high"] is not None:
        a, b = x(first["low"]), x(first["high"])
        out.append(
            f'<rect x="{a:.1f}" y="{top:.1f}" width="{max(1.0, b - a):.1f}" '
            f'height="{base - top:.1f}" class="band c0"/>'
        )
    if first["value"] is not None:
        out.append(svg.line(x(first["value"]), top, x(first["value"]), base, "reference c0 d0"))
    shown = [i for i, cell in enumerate(cells) if cell["value"] is not None]
    for rank, i in enumerate(shown):
        cell, words = cells[i], names[i]
        y, colour = top + _STEP * (rank + 0.5), i % 7
        out.append(svg.text(x.start - 10, y + 4, svg.shorten(words, room), "label", "end"))
        if cell.get("claimed") is not None:
            out.append(svg.line(x(cell["claimed"]), y - 9, x(cell["claimed"]), y + 9, "claimed"))
        if cell["low"] is not None and cell["high"] is not None:
            a, b = x(cell["low"]), x(cell["high"])
            out.append(svg.line(a, y, b, y, f"reach c{colour}"))
            out += [svg.line(end, y - 5, end, y + 5, f"reach c{colour}") for end in (a, b)]
        out.append(svg.marker(i, x(cell["value"]), y, f"mark c{colour}", _said(cell)))
        said = _figure(cell) if compact else _said(cell)
        out.append(svg.text(x.end + 10, y + 4, said, "label"))
    return "".join(out)


def _drawn(cells: Sequence[Facts]) -> int:
    return sum(cell["value"] is not None for cell in cells)


def _figure(cell: Facts) -> str:
    """Return a figure as the table has it: a bound is rounded down."""
    if cell.get("claimed") is not None:
        return rounded_down(cell["value"], 3)
    return number(cell["value"])


def _said(cell: Facts) -> str:
    words = _figure(cell)
    if cell["low"] is not None and cell["high"] is not None:
        words += f" ({number(cell['low'])}\u2013{number(cell['high'])})"
    if cell.get("claimed") is not None:
        words += f", claimed {number(cell['claimed'], 2)}"
    return words
