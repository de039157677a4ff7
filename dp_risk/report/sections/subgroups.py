"""The section on utility by subgroup: groups beside each other, with intervals."""

from __future__ import annotations

from dp_risk.report.page.forms import DASH, printed
from dp_risk.report.page.html import Cell, How, Markup, Shown, details, fill, section, show, table
from dp_risk.report.plots import run as plots
from dp_risk.report.plots import svg
from dp_risk.report.sections.common import Facts, note, whose

HOW = {"exact": "subgroups", "charged": "subgroups-charged"}
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "calibration_gap": "Calibration gap",
    "flagged_rate": "Share flagged",
    "true_positive_rate": "True positive rate",
    "false_positive_rate": "False positive rate",
}
REASONS = {
    "exact": {
        "few_units": "fewer than 20 units",
        "one_label": "one label only",
        "few_positives": "fewer than 30 positives",
        "few_negatives": "fewer than 30 negatives",
    },
    "charged": {
        "few_units": "fewer than 20 units, or too few to stand out of the noise",
        "few_positives": "fewer than 30 positives, or too few to stand out of the noise",
        "few_negatives": "fewer than 30 negatives, or too few to stand out of the noise",
        "one_bin": "most of its units are in one bin, where nobody sees their order",
    },
}
NONE_ASKED = "names no column"
_AUPRC = (
    "AUPRC grows with the share of positives, so it is no measure of one group against another. "
)
DRAWN = 24  # groups of a chart
_OPEN = 12  # groups whose table is not folded
_STEP = 22.0


def subgroups(report: Facts) -> str:
    """Show the utility of every group of every column asked for, or say why there is none."""
    entries, why = report["subgroups"], report["subgroups_note"]
    if not entries:
        if not why or report["kind"] != "run" or NONE_ASKED in why:
            return ""
        return section("subgroups", "Utility by subgroup", f"<p>{fill('{}.', why)}</p>")
    first = entries[0]
    # A charged histogram gives each account a weight of one; exact figures count its records.
    by_record = first["source"] == "exact" and report["settings"].get("unit") == "account"
    units = "records" if by_record else "units"
    threshold = Shown(value=first["threshold"], form="figures4")
    capacity = Shown(value=first["capacity"], form="percent")
    if first["source"] == "exact":
        source = fill(
            "Measured on held-out {} of public data, with 95 % intervals. Flagged are those whose "
            "score is at least {}, which the highest {} of all reach",
            units, threshold, capacity,
        )  # fmt: skip
    else:
        source = fill(
            "Estimated from noisy histograms of the held-out {}, charged like everything else, "
            "with 95 % intervals for noise and sampling. Flagged are those whose score is at least "
            "{}, the edge of a bin next to where the highest {} of all begin",
            units, threshold, capacity,
        )  # fmt: skip
    words = fill(
        "{}; the true positive rate is the share of a group's positives that are flagged, the "
        "false positive rate that of its negatives. The calibration gap is the mean score less the "
        "share of positives. {}Each interval stands alone: among twenty, one is expected to miss. "
        "The dashed line is all groups together.",
        source,
        Markup(_AUPRC if first["source"] == "exact" else ""),
    )
    content = whose(report) + note(words, HOW[first["source"]])
    content += "".join(_column(entry) for entry in entries)
    if why:
        content += note(fill("{}.", why))
    return section("subgroups", "Utility by subgroup", content)


def _metrics(entry: Facts) -> Facts:
    """Return the metrics that a column can have, and their names: charged ones have no AUPRC."""
    charged = entry["source"] == "charged"
    return {k: name for k, name in METRICS.items() if not (charged and k == "auprc")}


def _column(entry: Facts) -> str:
    metrics = _metrics(entry)
    drawn = _largest(entry["groups"])
    chart = f"<figure>{plots.both(chart_of, entry, drawn)}</figure>"
    if len(drawn) < len(entry["groups"]):
        chart += note(f"Drawn: the {len(drawn)} groups with most units.")
    head = ("Group", "Units", "Positives", *metrics.values())
    rows: list[list[Cell]] = [
        [
            value,
            group["units"],
            group["positives"],
            *(_cell(metric, group["metrics"][metric]["value"]) for metric in metrics),
        ]
        for value, group in _rows(entry)
    ]
    how = HOW[entry["source"]]
    whole = table(f"Groups by {entry['column']}", _linked(head, how), rows) + _lacking(entry)
    if len(rows) - 1 > _OPEN:
        whole = details(f"Table of all {len(rows) - 1} groups", whole)
    bounds: list[list[Cell]] = [
        [value, name, *(_cell(metric, group["metrics"][metric][end]) for end in _ENDS)]
        for metric, name in metrics.items()
        for value, group in _rows(entry)
        if group["metrics"][metric]["value"] is not None
    ]
    head = ("Group", "Metric", "Value", "Low", "High")
    intervals = details(
        "Table of intervals",
        table(f"95 % intervals by {entry['column']}", _linked(head, how), bounds),
    )
    if entry["source"] == "charged":
        words = (
            "Units and positives are estimates too. The noise in a group's units has a standard "
            "deviation of {}, that in its positives one of 0.71 times as much. A count below three "
            "of its standard deviations does not stand out of the noise."
        )
        chart += note(fill(words, Shown(value=entry["noise_std"], form="whole")), how)
    return f"<h3>{fill('By {}', entry['column'])}</h3>{chart}{whole}{intervals}"


_ENDS = ("value", "low", "high")


def _lacking(entry: Facts) -> Markup:
    """Say of which groups figures are missing, and why."""
    said = Markup()
    for reason, words in REASONS[entry["source"]].items():
        names = [show(value) for value, group in _rows(entry) if group["reason"] == reason]
        if names:
            said = Markup(
                said
                + note(fill("Figures are left out for {}: {}.", Markup(", ".join(names)), words))
            )
    return said


def _rows(entry: Facts) -> list[tuple[str, Facts]]:
    return [("all", entry["overall"]), *((g["value"], g) for g in entry["groups"])]


def _linked(head: tuple[str, ...], how: str) -> list[str | How]:
    plain = ("Group", "Metric")
    return [name if name in plain else How(name=name, method=how) for name in head]


def _cell(metric: str, value: float | None) -> Shown:
    return Shown(value=value, form=form_of(metric))


def form_of(metric: str) -> str:
    """Return the form in which a metric of a group is printed."""
    return "signed3" if metric == "calibration_gap" else "rate3"


def _largest(groups: list[Facts]) -> list[Facts]:
    """Return the groups to draw, in their order."""
    order = sorted(range(len(groups)), key=lambda i: -groups[i]["units"])
    return [groups[i] for i in sorted(order[:DRAWN])]


def chart_of(entry: Facts, groups: list[Facts], *, width: float, cls: str) -> str:
    """Return a panel a metric: a dot and its interval for each group, a line for all units.

    Parameters
    ----------
    entry : mapping
        One of the report's `subgroups`.
    groups : list of mapping
        Those of its groups that are drawn.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    above = width < 600  # the labels have lines of their own
    across, step = (1, 2 * _STEP) if above else (3, _STEP)
    room = min(max(svg.width(g["value"]) for g in groups), width - 32 if above else 150.0)
    left = 8.0 if above else room + 22
    span, tall = (width - left) / across, 58 + step * len(groups)
    body = []
    metrics = _metrics(entry)
    for number, metric in enumerate(metrics):
        row, place = divmod(number, across)
        top, start = row * tall + 26, left + place * span
        body.append(_panel(entry, groups, metric, start, start + span - 16, top, step))
        x, anchor = (left + 4, "start") if above else (left - 8, "end")
        if place == 0:
            body += [
                svg.text(x, top + step * (i + 1) - _STEP * (1.5 if above else 0.5) + 4,
                         svg.shorten(group["value"], room), "label halo", anchor)
                for i, group in enumerate(groups)
            ]  # fmt: skip
    title = f"Utility by {entry['column']}: {len(metrics)} metrics of {len(groups)} groups"
    height = tall * -(-len(metrics) // across)
    return svg.picture(width, height, title, "".join(body), cls)


def _panel(
    entry: Facts,
    groups: list[Facts],
    metric: str,
    start: float,
    end: float,
    top: float,
    step: float,
) -> str:
    overall = entry["overall"]["metrics"][metric]
    facts = [group["metrics"][metric] for group in groups]
    known = [f[name] for f in (*facts, overall) for name in _ENDS if f[name] is not None]
    bottom = top + step * len(groups)
    body = [svg.text(start, top - 10, METRICS[metric], "axis-title")]
    if not known:
        return body[0] + svg.text(
            start, top + step - _STEP / 2 + 4, "unknown in all groups", "tick-text"
        )
    pad = 0.04 * max(max(known) - min(known), 1e-3)
    x = svg.Scale(low=min(known) - pad, high=max(known) + pad, start=start, end=end)
    marks = svg.ticks(x.low, x.high, 4)
    apart = marks[1] - marks[0] if len(marks) > 1 else 0.01
    labels = [svg.tick_label(mark, apart) for mark in marks]
    for i in svg.thin([x(mark) for mark in marks], max(map(svg.width, labels)) + 6):
        body.append(svg.line(x(marks[i]), top, x(marks[i]), bottom, "grid"))
        body.append(svg.text(x(marks[i]), bottom + 16, labels[i], "tick-text", "middle"))
    body.append(svg.line(start, bottom, end, bottom, "axis"))
    if overall["value"] is not None:
        at = x(overall["value"])
        body.append(svg.line(at, top, at, bottom, "reference c6 d1"))
    for i, (group, fact) in enumerate(zip(groups, facts, strict=True)):
        y = top + step * (i + 1) - _STEP / 2
        if fact["value"] is None:
            body.append(svg.text(start + 4, y + 4, DASH, "tick-text"))
            continue
        body.append(svg.line(x(fact["low"]), y, x(fact["high"]), y, "whisker c0"))
        value, low, high = (printed(fact[name], form_of(metric)) for name in _ENDS)
        title = f"{group['value']}, {METRICS[metric]}: {value} ({low} to {high})"
        body.append(svg.marker(0, x(fact["value"]), y, "mark c0", title))
    return "".join(body)
