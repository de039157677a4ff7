"""The charts of a report: facts in, SVG out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dp_risk.report.page.forms import bin_label, number, rounded_down, rounded_up, signed
from dp_risk.report.page.html import esc
from dp_risk.report.plots import svg

WIDE, NARROW = 920.0, 350.0
SITES_SHOWN = 40
_INTERVAL = re.compile(r"^in [\[(]")

Facts = Mapping[str, Any]


def both(draw: Callable[..., str], *args: Any) -> str:
    """Return a chart drawn twice, for a wide and a narrow page; CSS shows one of them."""
    return draw(*args, width=WIDE, cls="wide") + draw(*args, width=NARROW, cls="narrow")


def has_metric(frontier: Facts, metric: str) -> bool:
    """Return whether any line of a frontier has a figure of this metric."""
    return any(p.get(metric) for s in frontier["series"] for p in s["points"])


def frontier(facts: Facts, metric: str, *, width: float, cls: str) -> str:
    """Return utility against epsilon (logarithmic), with references labelled at the right.

    Parameters
    ----------
    facts : mapping
        `frontier` of the report: ``series`` and ``references``.
    metric : {"auroc", "auprc"}
        What the vertical axis shows.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    compact = width < 600
    series = [(s, [p for p in s["points"] if p.get(metric)]) for s in facts["series"]]
    series = [(s, points) for s, points in series if points]
    references = [r for r in facts["references"] if r.get(metric)]
    low, high = _domain(series, references, metric)
    names = [
        *(str(s["label"]) for s, _ in series),
        *(str(r["label"]) for r in references),
    ]
    room = min(max(map(svg.width, names), default=0.0), 126.0 if compact else 236.0)
    right = room + 16 + (0.0 if compact else svg.width(" 0.000 ↓"))
    height = max(340.0 if compact else 400.0, 80 + svg.LINE * len(names))
    left, top, bottom = (40.0 if compact else 56.0), 26.0, height - 44
    epsilons = sorted({float(p["epsilon"]) for _, points in series for p in points})
    inner = 14.0
    x = svg.Scale(
        low=epsilons[0],
        high=epsilons[-1],
        start=left + inner,
        end=width - right - inner,
        log=True,
    )
    y = svg.Scale(low=low, high=high, start=bottom, end=top)
    edge = width - right
    body = [axes_y(y, left, edge), svg.text(left, 13, metric.upper(), "axis-title")]
    places = [x(e) for e in epsilons]
    for i in svg.thin(places, 26):
        body.append(svg.line(places[i], bottom, places[i], bottom + 5, "tick"))
        body.append(svg.text(places[i], bottom + 19, f"{epsilons[i]:g}", "tick-text", "middle"))
    label = "epsilon (log scale)" if compact else "epsilon of one run (log scale)"
    body.append(svg.text((left + edge) / 2, height - 6, label, "axis-title", "middle"))

    labels: list[tuple[float, str, int]] = []  # wanted y, words, colour
    for k, reference in enumerate(references, start=len(series)):
        mean = reference[metric]["mean"]
        colour = k % 7
        below = mean < low
        if not below:
            body.append(svg.line(left, y(mean), edge, y(mean), f"reference c{colour} d{k % 4}"))
        labels.append((y(mean), _label(reference, mean, room, compact, below), colour))
    for k, (line, points) in enumerate(series):
        body.append(_series(line, points, metric, k, x, y))
        last = points[-1][metric]["mean"]
        labels.append((y(last), _label(line, last, room, compact, False), k % 7))
    ends = {k: x(float(points[-1]["epsilon"])) for k, (_, points) in enumerate(series)}
    places = svg.spread([at for at, _, _ in labels], svg.LINE, top + 4, bottom - 4)
    for i, ((wanted, words, colour), at) in enumerate(zip(labels, places, strict=True)):
        start = edge
        k = i - len(references)
        if k in ends:
            start = ends[k] + 6
        bend = [(start, wanted), (edge, wanted), (edge + 10, at), (edge + 13, at)]
        body.append(svg.path(bend, f"leader c{colour}"))
        body.append(svg.text(edge + 16, at + 4, words, "label"))
    title = f"{metric.upper()} against epsilon, {len(series)} lines, {len(references)} references"
    return svg.picture(width, height, title, "".join(body), cls)


def _domain(
    series: Sequence[tuple[Facts, Sequence[Facts]]], references: Sequence[Facts], metric: str
) -> tuple[float, float]:
    # A far lower reference is labelled below the axis: it must not flatten the lines.
    values = [p[metric][end] for _, points in series for p in points for end in ("min", "max")]
    low, high = min(values), max(values)
    tops = [r[metric]["mean"] for r in references]
    high = max([high, *tops])
    span = max(high - low, 0.004)
    low = min([low, *(t for t in tops if t >= low - 0.6 * span)])
    pad = 0.06 * max(high - low, 0.004)
    return low - pad, high + pad


def _label(facts: Facts, mean: float, room: float, compact: bool, below: bool) -> str:
    arrow = " ↓" if below else ""
    words = svg.shorten(str(facts["label"]), room - svg.width(arrow) if compact else room)
    return words + arrow if compact else f"{words} {number(mean)}{arrow}"


def _series(
    line: Facts, points: Sequence[Facts], metric: str, k: int, x: svg.Scale, y: svg.Scale
) -> str:
    colour, dash = k % 7, "dashed" if line["baseline"] else ""
    at = [(x(float(p["epsilon"])), p[metric]) for p in points]
    upper = [(px, y(m["max"])) for px, m in at]
    lower = [(px, y(m["min"])) for px, m in reversed(at)]
    out = [svg.path(upper + lower, f"band c{colour}", close=True)] if len(at) > 1 else []
    out.append(svg.path([(px, y(m["mean"])) for px, m in at], f"curve c{colour} {dash}"))
    for (px, m), point in zip(at, points, strict=True):
        if m["n"] > 1:
            out.append(svg.line(px, y(m["min"]), px, y(m["max"]), f"whisker c{colour}"))
            for seed in point["seeds"]:
                if seed.get(metric) is not None:
                    out.append(
                        f'<circle cx="{px:.1f}" cy="{y(seed[metric]):.1f}" r="2.6" '
                        f'class="seed c{colour}"/>'
                    )
        words = f"{line['label']}, epsilon {point['epsilon']:g}: {m['mean']:.4f}"
        out.append(svg.marker(k, px, y(m["mean"]), f"mark c{colour}", words))
    return "".join(out)


def axes_y(y: svg.Scale, left: float, right: float, count: int = 5) -> str:
    """Return a vertical axis: about `count` level lines with their numbers, and the base line."""
    marks = svg.ticks(y.low, y.high, count)
    step = marks[1] - marks[0] if len(marks) > 1 else 0.01
    out = []
    for mark in marks:
        at = y(mark)
        out.append(svg.line(left, at, right, at, "grid"))
        out.append(svg.text(left - 7, at + 4, svg.tick_label(mark, step), "tick-text", "end"))
    out.append(svg.line(left, y.start, right, y.start, "axis"))
    return "".join(out)


def _budget(site: Facts, cost: float | None) -> tuple[float, float, float, str]:
    """Return a site's budget: spent before, by this run, left, and the last two in words.

    As parts of the filter's capacity where they are known, else as epsilons.
    """
    used = site.get("lifetime_used")
    if used is not None:
        before = float(site.get("lifetime_used_before") or 0.0)
        run, left_over = max(0.0, used - before), max(0.0, 1.0 - used)
        return before, run, left_over, f"{100 * run:.1f} % this run, {100 * left_over:.1f} % left"
    run = site.get("epsilon_lifetime")
    run = run if run is not None else cost
    run = float(run if run is not None else site.get("epsilon_spent") or 0.0)
    left_over = max(0.0, float(site.get("epsilon_lifetime_left") or 0.0))
    budget = site.get("epsilon_lifetime_budget")
    before = max(0.0, float(budget) - run - left_over) if budget is not None else 0.0
    known = site.get("epsilon_lifetime_left") is not None
    words = f"{rounded_down(left_over)} left" if known else "left unknown"
    return before, run, left_over, f"{rounded_up(run)} this run, {words}"


def sites(rows: Sequence[Facts], cost: float | None, *, width: float, cls: str) -> str:
    """Return each site's lifetime budget: spent before, spent by this run, left.

    Parameters
    ----------
    rows : sequence of mapping
        `sites` of the report; those with least left come first when not all fit.
    cost : float or None
        What this run cost the lifetime filter; None: its epsilon stands in.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    compact = width < 600
    shown = list(rows)
    if len(shown) > SITES_SHOWN:
        shown = sorted(shown, key=lambda s: s.get("epsilon_lifetime_left") or 0.0)[:SITES_SHOWN]
    bars = [(str(site.get("site")), *_budget(site, cost)) for site in shown]
    if compact:
        bars = [(*bar[:-1], bar[-1].rpartition(", ")[2]) for bar in bars]
    room = min(max((svg.width(b[0]) for b in bars), default=0.0), 80.0 if compact else 180.0)
    start = room + 12
    end = width - 10 - max((svg.width(b[4]) for b in bars), default=0.0)
    x = svg.Scale(
        low=0,
        high=max((b[1] + b[2] + b[3] for b in bars), default=1.0) or 1.0,
        start=start,
        end=end,
    )
    step, body = 25.0, []
    for i, (name, before, run, left_over, words) in enumerate(bars):
        top = 6 + i * step
        body.append(svg.text(start - 8, top + 13, svg.shorten(name, room), "label", "end"))
        at = 0.0
        for size, kind in ((before, "before"), (run, "spent"), (left_over, "left")):
            a, b = x(at), x(at + size)
            if b - a > 0.05:
                body.append(
                    f'<rect x="{a:.1f}" y="{top:.1f}" width="{max(0.8, b - a - 1.5):.1f}" '
                    f'height="17" class="bar {kind}"/>'
                )
            at += size
        body.append(svg.text(end + 8, top + 13, words, "label"))
    height = 10 + step * len(bars)
    title = f"Lifetime budgets of {len(bars)} sites: spent and left"
    return svg.picture(width, height, title, "".join(body), cls)


def shape(facts: Facts, low: float, high: float) -> str:
    """Return one shape function: steps over intervals, bars over values, or a line.

    Parameters
    ----------
    facts : mapping
        One of the report's `shapes`.
    low, high : float
        Range of the vertical axis, in log-odds, shared by all shapes.
    """
    width, height, left, top = 290.0, 138.0, 38.0, 8.0
    bottom, right = height - 24, width - 6
    y = svg.Scale(low=min(low, 0.0), high=max(high, 0.0), start=bottom, end=top)
    xs, ys = facts["x"], [float(v) for v in facts["y"]]
    body = [axes_y(y, left, right, 3), svg.line(left, y(0.0), right, y(0.0), "zero")]
    span = right - left
    if facts["kind"] == "linear":
        count = max(1, len(ys) - 1)
        points = [(left + span * i / count, y(v)) for i, v in enumerate(ys)]
        body.append(svg.path(points, "curve c0"))
        ends = [(left, xs[0], "start"), (right, xs[-1], "end")]
        if len(xs) > 2:
            ends.append((points[len(xs) // 2][0], xs[len(xs) // 2], "middle"))
        for at, value, anchor in ends:
            words = f"{value:.4g}" if isinstance(value, int | float) else svg.shorten(value, 75)
            body.append(svg.text(at, height - 7, words, "tick-text", anchor))
    else:
        cell = span / len(ys)
        intervals = [bool(_INTERVAL.match(str(label))) for label in xs]
        steps: list[tuple[float, float]] = []
        for i, value in enumerate(ys):
            a, b = left + i * cell, left + (i + 1) * cell
            if intervals[i]:
                steps += [(a, y(value)), (b, y(value))]
                base, words = y(0.0), bin_label(xs[i])
                body.append(_bar(a, b, y(value), base, "area c0", f"{words}: {signed(value)}"))
            else:
                gap = min(2.0, 0.15 * cell)
                words = f"{bin_label(xs[i])}: {signed(value)}"
                body.append(_bar(a + gap, b - gap, y(value), y(0.0), "column c0", words))
        body.append(svg.path(steps, "curve c0"))
        first, last = _ends(xs, intervals)
        body.append(svg.text(left, height - 7, svg.shorten(first, 118), "tick-text"))
        if len(xs) > 1:
            body.append(svg.text(right, height - 7, svg.shorten(last, 118), "tick-text", "end"))
    return svg.picture(
        width, height, f"Effect of {facts['feature']} on the log-odds", "".join(body), "cell"
    )


def _ends(xs: Sequence[Any], intervals: Sequence[bool]) -> tuple[str, str]:
    labels = [bin_label(label) for label in xs]
    inside = [label for label, interval in zip(labels, intervals, strict=True) if interval]
    if not inside:
        return labels[0], labels[-1]
    last = inside[-1].split(",")[-1].strip(" ])")
    if len(inside) < len(labels):
        last += f" | {labels[-1]}"
    return inside[0].split(",")[0].strip("[("), last


def _bar(a: float, b: float, value: float, base: float, cls: str, title: str) -> str:
    top, height = min(value, base), max(0.6, abs(value - base))
    return (
        f'<rect x="{a:.1f}" y="{top:.1f}" width="{max(0.5, b - a):.1f}" height="{height:.1f}" '
        f'class="{cls}"><title>{esc(title)}</title></rect>'
    )


def reliability(points: Sequence[Facts], *, width: float, cls: str) -> str:
    """Return a calibration curve: observed rate with its interval against the mean score."""
    side = min(width, 420.0)
    left, top, bottom = 48.0, 26.0, side - 44
    x = svg.Scale(low=0.0, high=1.0, start=left, end=side - 16)
    y = svg.Scale(low=0.0, high=1.0, start=bottom, end=top)
    body = [axes_y(y, left, side - 16), svg.text(left, 13, "observed rate", "axis-title")]
    for at in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(svg.line(x(at), bottom, x(at), bottom + 5, "tick"))
        body.append(svg.text(x(at), bottom + 19, f"{at:g}", "tick-text", "middle"))
    middle = (left + side - 16) / 2
    body.append(svg.text(middle, side - 6, "mean score", "axis-title", "middle"))
    body.append(svg.line(x(0.0), y(0.0), x(1.0), y(1.0), "reference c6 d1"))
    for point in points:
        rate = point["rate"]
        if rate.get("value") is None:
            continue
        at = x(float(point["score"]))
        if rate.get("low") is not None and rate.get("high") is not None:
            body.append(
                svg.line(at, y(float(rate["low"])), at, y(float(rate["high"])), "whisker c0")
            )
        title = f"score {point['score']:.3f}: rate {rate['value']:.3f}"
        body.append(svg.marker(0, at, y(float(rate["value"])), "mark c0", title))
    words = f"Calibration: observed rate against mean score, {len(points)} groups"
    return svg.picture(side, side, words, "".join(body), cls)


def progress(points: Sequence[tuple[float, float]], name: str, colour: int) -> str:
    """Return a figure by round.

    Parameters
    ----------
    points : sequence of (round, value)
        In order.
    name : str
        What the vertical axis shows.
    colour : int
        Of the palette.
    """
    width, height, left, top = 440.0, 250.0, 62.0, 26.0
    bottom, right = height - 42, width - 14
    values = [v for _, v in points]
    low, high = min(values), max(values)
    low = 0.0 if name.startswith("epsilon") else low
    pad = max(0.06 * (high - low), 0.01 * abs(high)) or 0.01  # a constant has no range
    y = svg.Scale(low=max(0.0, low - pad), high=high + pad, start=bottom, end=top)
    x = svg.Scale(low=points[0][0], high=points[-1][0], start=left + 6, end=right - 6)
    body = [axes_y(y, left, right, 4), svg.text(left, 13, name, "axis-title")]
    marks = [t for t in svg.ticks(x.low, x.high, 6) if t == int(t)] or [points[0][0]]
    for mark in marks:
        body.append(svg.line(x(mark), bottom, x(mark), bottom + 5, "tick"))
        body.append(svg.text(x(mark), bottom + 19, f"{mark:g}", "tick-text", "middle"))
    body.append(svg.text((left + right) / 2, height - 5, "round", "axis-title", "middle"))
    body.append(svg.path([(x(r), y(v)) for r, v in points], f"curve c{colour}"))
    end = points[-1]
    words = f"round {end[0]:g}: {end[1]:.4g}"
    body.append(svg.marker(colour, x(end[0]), y(end[1]), f"mark c{colour}", words))
    return svg.picture(width, height, f"{name} by round", "".join(body), "half")
