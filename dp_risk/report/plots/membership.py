"""The chart of the membership attack: facts in, SVG out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.report.plots import svg

Facts = Mapping[str, Any]


def membership(attacks: Sequence[Facts], *, width: float, cls: str) -> str:
    """Return true against false positive rates of attacks, on logarithmic axes.

    A log axis has no 0: points of that rate are left out, and curves begin where they rise.

    Parameters
    ----------
    attacks : sequence of mapping
        ``{label, false_positive, true_positive, others}``: rates in [0, 1], rising, and how many
        units the false positives are counted among, which says how far left the axis reaches. The
        first is the attack, later ones are its controls. At least one.
    width : float
        Pixels.
    cls : str
        Class of the SVG element.
    """
    side = min(width, 440.0)
    left, right, top, bottom = 56.0, side - 16, 26.0, side - 44
    units = max([10, *(int(one["others"]) for one in attacks)])
    decades = math.ceil(math.log10(units) - 1e-9)
    low = 10.0**-decades
    x = svg.Scale(low=low, high=1.0, start=left, end=right, log=True)
    y = svg.Scale(low=low, high=1.0, start=bottom, end=top, log=True)
    body = [svg.text(4, 13, "true positives", "axis-title")]
    for power in range(-decades, 1):
        mark, words = 10.0**power, f"{10.0**power:.{max(0, -power)}f}"
        if power > -decades:
            body.append(svg.line(x(mark), top, x(mark), bottom, "grid"))
            body.append(svg.line(left, y(mark), right, y(mark), "grid"))
        body.append(svg.text(left - 7, y(mark) + 4, words, "tick-text", "end"))
        # The narrow chart has room for every second one.
        if side >= 400 or (power + decades) % 2 == 0 or decades < 4:
            anchor = "end" if power == 0 else "middle"
            body.append(svg.text(x(mark), bottom + 19, words, "tick-text", anchor))
    body.append(svg.line(left, top, left, bottom, "axis"))
    body.append(svg.line(left, bottom, right, bottom, "axis"))
    middle = (left + right) / 2
    body.append(svg.text(middle, side - 6, "false positives", "axis-title", "middle"))
    body.append(svg.line(left, bottom, right, top, "reference c6 d0"))
    # The attack is drawn last, above its controls.
    for i, one in reversed(list(enumerate(attacks))):
        pairs = zip(one["false_positive"], one["true_positive"], strict=True)
        points = [(x(a), y(b)) for a, b in pairs if a > 0 and b > 0]
        dashed = " thin dashed" if i else ""
        body.append(svg.path(points, f"curve c{i % 7}{dashed}"))
        if points:
            # Lines differ by more than colour: one shape each, where the curve begins.
            body.append(svg.marker(i, *points[0], f"mark c{i % 7}", str(one["label"])))
    title = f"Membership attack: true against false positives, {len(attacks)} curves"
    return svg.picture(side, side, title, "".join(body), cls)
