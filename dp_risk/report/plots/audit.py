"""The charts of an audit: facts in, SVG out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.report.page.forms import number, percent, printed, rounded_down
from dp_risk.report.plots import svg
from dp_risk.report.plots.run import axes_y

Facts = Mapping[str, Any]

GROUPS = (("inside", "canary in the batch", 1), ("outside", "no canary", 0))
_BEYOND = 3.0  # claims or best bounds; ceilings further out are an arrow


def bounds(rows: Sequence[Facts], claimed: float | None, *, width: float, cls: str) -> str:
    """Return every lower bound as a bar, its ceiling as a thin line, the claim across all.

    Parameters
    ----------
    rows : sequence of mapping
        ``{label, epsilon_lower_bound, ceiling, counts}``; a bar that does not count is faint.
    claimed : float or None
        The claimed epsilon.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    left, right, top, step = 8.0, width - 34, 34.0, 46.0
    found = [max(0.0, row.get("epsilon_lower_bound") or 0.0) for row in rows]
    inner = max([1e-9, claimed or 0.0, *found])
    ceilings = [row["ceiling"] for row in rows if row.get("ceiling") is not None]
    high = 1.08 * max([inner, min(_BEYOND * inner, max(ceilings, default=0.0))])
    x = svg.Scale(low=0.0, high=high, start=left, end=right)
    bottom = top + step * len(rows)
    body, labels = [], []
    marks = svg.ticks(0.0, high, 4 if width < 600 else 8)
    for mark in marks:
        words = svg.tick_label(mark, marks[1] - marks[0] if len(marks) > 1 else high)
        body.append(svg.line(x(mark), top, x(mark), bottom, "grid"))
        body.append(svg.text(x(mark), bottom + 16, words, "tick-text", "middle"))
    for i, (row, bound) in enumerate(zip(rows, found, strict=True)):
        at, ceiling = top + i * step, row.get("ceiling")
        if ceiling is not None and ceiling > bound:
            end = x(ceiling)
            body.append(svg.line(x(bound), at + 31, end, at + 31, "ceiling"))
            if ceiling > high:
                tip = [(end, at + 26), (end + 9, at + 31), (end, at + 36)]
                body.append(svg.path(tip, "arrow", close=True))
            else:
                body.append(svg.line(end, at + 25, end, at + 37, "ceiling"))
        over = claimed is not None and bound > claimed
        kind = "over" if over else "c0"
        faint = "" if row.get("counts", True) else " faint"
        body.append(
            f'<rect x="{left:.1f}" y="{at + 24:.1f}" width="{max(2.0, x(bound) - left):.1f}" '
            f'height="14" class="bound {kind}{faint}"/>'
        )
        words = f": {_down(row.get('epsilon_lower_bound'))}"
        if ceiling is not None:
            words += f", ceiling {printed(ceiling, 'ceiling')}"
        words = svg.shorten(str(row["label"]), right - left - svg.width(words)) + words
        labels.append(svg.text(left + 4, at + 14, words, "label halo"))
    if claimed is not None:
        # A piece for each bar, so that the line does not run through the words between them.
        body.append(svg.line(x(claimed), top - 10, x(claimed), top - 1, "claimed"))
        for at in (top + i * step for i in range(len(rows))):
            body.append(svg.line(x(claimed), at + 22, x(claimed), at + 40, "claimed"))
        near_end = x(claimed) > (left + right) / 2
        anchor, shift = ("end", 4) if near_end else ("start", -4)
        words = f"claimed {number(claimed, 2)}"
        body.append(svg.text(x(claimed) + shift, top - 13, words, "claimed-text", anchor))
    body.append(svg.line(left, top, left, bottom, "axis"))
    body.append(svg.text((left + right) / 2, bottom + 34, "epsilon", "axis-title", "middle"))
    title = f"Claimed epsilon against {len(rows)} lower bounds"
    return svg.picture(width, bottom + 40, title, "".join(body + labels), cls)


def scores(facts: Facts, *, width: float, cls: str) -> str:
    """Return the distributions of the canaries' observations, inside and outside, overlaid.

    Parameters
    ----------
    facts : mapping
        ``{cells: [{from, to, inside, outside, inside_density, outside_density}], inside_mean,
        outside_mean}``; at least one cell.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    cells = facts["cells"]
    height = 290.0 if width < 600 else 340.0
    left, right, top, bottom = 58.0, width - 14, 26.0, height - 44
    x = svg.Scale(low=cells[0]["from"], high=cells[-1]["to"], start=left, end=right)
    most = max(cell[f"{name}_density"] for cell in cells for name, _, _ in GROUPS)
    y = svg.Scale(low=0.0, high=1.06 * most or 1.0, start=bottom, end=top)
    body = [axes_y(y, left, right, 4), svg.text(8, 13, "density", "axis-title")]
    marks = svg.ticks(x.low, x.high, 4 if width < 600 else 8)
    for mark in marks:
        words = svg.tick_label(mark, marks[1] - marks[0] if len(marks) > 1 else 1.0)
        body.append(svg.line(x(mark), bottom, x(mark), bottom + 5, "tick"))
        body.append(svg.text(x(mark), bottom + 19, words, "tick-text", "middle"))
    for name, _, colour in GROUPS:
        outline = [(x(cells[0]["from"]), bottom)]
        for cell in cells:
            at = y(cell[f"{name}_density"])
            outline += [(x(cell["from"]), at), (x(cell["to"]), at)]
        outline.append((x(cells[-1]["to"]), bottom))
        body.append(svg.path(outline, f"area c{colour}", close=True))
        dashed = " dashed" if name == "outside" else ""
        body.append(svg.path(outline, f"curve thin c{colour}{dashed}"))
        mean = facts.get(f"{name}_mean")
        if mean is not None and x.low <= mean <= x.high:
            body.append(svg.marker(2, x(mean), bottom - 6, f"mark c{colour}", f"mean {mean:.3g}"))
    label = "observation / (C x share)" if width < 600 else "observation, in units of C x share"
    body.append(svg.text((left + right) / 2, height - 6, label, "axis-title", "middle"))
    title = "Observations with and without a canary, as densities"
    return svg.picture(width, height, title, "".join(body), cls)


def tradeoff(points: Sequence[Facts], *, width: float, cls: str) -> str:
    """Return errors of the best test: the claimed curve against what was measured.

    Parameters
    ----------
    points : sequence of mapping
        ``{false_positive, claimed, measured, low}``, rates in [0, 1], in order of the first.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    side = min(width, 440.0)
    left, right, top, bottom = 48.0, side - 16, 26.0, side - 44
    x = svg.Scale(low=0.0, high=1.0, start=left, end=right)
    y = svg.Scale(low=0.0, high=1.0, start=bottom, end=top)
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in ("claimed", "measured", "high"):
        line = [(p["false_positive"], p[name]) for p in points if p.get(name) is not None]
        if line and name != "high":
            # Tests that never or always say "inside" reach the two corners whatever the trainer.
            line = [(0.0, 1.0), *line, (1.0, 0.0)]
        lines[name] = [(x(a), y(b)) for a, b in line]
    body = [axes_y(y, left, right), svg.text(4, 13, "false negatives", "axis-title")]
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(svg.line(x(at), bottom, x(at), bottom + 5, "tick"))
        body.append(svg.text(x(at), bottom + 19, f"{at:g}", "tick-text", "middle"))
    middle = (left + right) / 2
    body.append(svg.text(middle, side - 6, "false positives", "axis-title", "middle"))
    body.append(svg.line(x(0.0), y(1.0), x(1.0), y(0.0), "reference c6 d0"))
    if lines["claimed"]:
        region = [(x(0.0), y(0.0)), *lines["claimed"]]
        body.append(svg.path(region, "falsifies", close=True))
        body.append(svg.path(lines["claimed"], "curve c1"))
    body.append(svg.path(lines["high"], "curve thin dashed c0"))
    body.append(svg.path(lines["measured"], "curve c0"))
    return svg.picture(
        side, side, "Trade-off of a test's errors: claimed against measured", "".join(body), cls
    )


def sensitivity(rows: Sequence[Facts], *, width: float, cls: str) -> str:
    """Return how far units moved a sum, as parts of what is allowed; one line per kind of unit.

    Parameters
    ----------
    rows : sequence of mapping
        ``{unit, purpose, share, over}``; a `share` above 1 is too far.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    rows = [row for row in rows if row.get("share") is not None]
    units, named = list(dict.fromkeys(row["unit"] for row in rows)), purposes(rows)
    room = min(max(map(svg.width, units), default=0.0), 112.0 if width < 600 else 210.0)
    left, right, top, step = room + 16, width - 16, 30.0, 34.0
    most = max([1.0, *(min(row["share"], _BEYOND) for row in rows)])
    x = svg.Scale(low=0.0, high=1.1 * most, start=left, end=right)
    bottom = top + step * len(units)
    body = []
    for mark in svg.ticks(0.0, x.high, 4):
        body.append(svg.line(x(mark), top, x(mark), bottom, "grid"))
        body.append(svg.text(x(mark), bottom + 16, f"{mark:g}", "tick-text", "middle"))
    body.append(svg.line(x(1.0), top - 8, x(1.0), bottom, "claimed"))
    anchor = "end" if most <= 1.5 else "middle"
    body.append(svg.text(x(1.0), top - 13, "allowed", "claimed-text", anchor))
    for i, unit in enumerate(units):
        at = top + (i + 0.5) * step
        body.append(svg.text(left - 8, at + 4, svg.shorten(unit, room), "label", "end"))
        body.append(svg.line(left, at, right, at, "grid"))
        for row in rows:
            if row["unit"] == unit:
                k = named.index(row["purpose"])
                shift = 7.0 * (k - (len(named) - 1) / 2) if len(named) <= 4 else 0.0
                words = f"{unit}, {row['purpose']}: {row['share']:.4g} of what is allowed"
                place, height = x(row["share"]), at + shift
                colour = "mark over" if row["over"] else f"mark c{k % 7}"
                body.append(svg.marker(k, place, height, colour, words))
                if row["over"]:
                    size = number(row["share"], 2)
                    body.append(svg.text(place - 9, height + 4, size, "over-text halo", "end"))
    label = "moved / allowed" if width < 600 else "moved, as a part of what is allowed"
    body.append(svg.text((left + right) / 2, bottom + 34, label, "axis-title", "middle"))
    title = f"How far {len(units)} kinds of units moved a sum"
    return svg.picture(width, bottom + 40, title, "".join(body), cls)


def purposes(rows: Sequence[Facts]) -> list[str]:
    """Return the purposes in the order in which markers are given to them."""
    return list(dict.fromkeys(str(row["purpose"]) for row in rows))


def gate_label(level: float | None) -> str:
    """Return the gate's name on a chart."""
    return "the gate" if level is None else f"the gate ({percent(1 - level)})"


def _down(value: float | None) -> str:
    return number(None) if value is None else rounded_down(value, 3)
