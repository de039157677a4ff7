"""Scales, ticks and label placement for inline SVG."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from dp_risk.report.page.html import esc

FONT = 12.5
LINE = 16.0
_NARROW, _BROAD = frozenset("fijlrtI.,:;'|!()[]{}/- "), frozenset("mwMW@%&<>…—→↓")
_CORNERS: dict[int, list[tuple[float, float]]] = {
    1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    2: [(0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
    3: [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A linear or logarithmic map from data to pixels.

    Parameters
    ----------
    low, high : float
        Data range; positive if `log`. An empty range is widened.
    start, end : float
        Pixels of `low` and `high`.
    log : bool
        Logarithmic.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, x: float) -> float:
        """Return the pixel of `x`, held inside the range."""
        low, high = self.low, self.high
        if self.log:
            x, low, high = math.log(x), math.log(low), math.log(high)
        if high - low <= 0:
            return (self.start + self.end) / 2
        share = min(1.0, max(0.0, (x - low) / (high - low)))
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers inside [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(m * power / raw))) * power
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_label(x: float, step: float) -> str:
    """Return a tick's text with the decimals that its step needs."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    if abs(step * 10**digits - round(step * 10**digits)) > 1e-6:
        digits += 1
    return f"{x:.{digits}f}".replace("-", "−") if abs(x) > 1e-12 else "0"  # noqa: RUF001


def thin(positions: Sequence[float], gap: float) -> list[int]:
    """Return the indices of positions, in rising order, that keep `gap` px between them."""
    kept: list[int] = []
    for i, position in enumerate(positions):
        if not kept or position - positions[kept[-1]] >= gap:
            kept.append(i)
    return kept


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as needed so that neighbours keep `gap` and all fit [low, high].

    Neighbours that collide form a block around their mean; blocks merge until none collide.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gap = min(gap, (high - low) / max(1, len(positions) - 1))
    blocks: list[tuple[float, list[int]]] = []  # (top, members)
    for i in order:
        members = [i]
        top = _top(members, positions, gap, low, high)
        while blocks and blocks[-1][0] + len(blocks[-1][1]) * gap > top + 1e-9:
            members = blocks.pop()[1] + members
            top = _top(members, positions, gap, low, high)
        blocks.append((top, members))
    out = [0.0] * len(positions)
    for top, members in blocks:
        for rank, i in enumerate(members):
            out[i] = top + rank * gap
    return out


def _top(
    members: Sequence[int], positions: Sequence[float], gap: float, low: float, high: float
) -> float:
    centre = sum(positions[i] for i in members) / len(members)
    height = (len(members) - 1) * gap
    return min(max(centre - height / 2, low), max(low, high - height))


def text(x: float, y: float, content: object, cls: str = "", anchor: str = "start") -> str:
    """Return escaped text at a point; `anchor` is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{esc(content)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    """Return a straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def path(points: Sequence[tuple[float, float]], cls: str, *, close: bool = False) -> str:
    """Return a polyline or, closed, a polygon."""
    if not points:
        return ""
    steps = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path d="M{steps}{"Z" if close else ""}" class="{cls}"/>'


def marker(index: int, x: float, y: float, cls: str, title: str) -> str:
    """Return one of four marker shapes, so that lines differ by more than colour."""
    r = 4.2
    shape = index % 4
    inside = f"<title>{esc(title)}</title>"
    if shape == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" class="{cls}">{inside}</circle>'
    steps = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in _CORNERS[shape])
    return f'<polygon points="{steps}" class="{cls}">{inside}</polygon>'


def picture(width: float, height: float, title: str, body: str, cls: str = "") -> str:
    """Return an SVG element with its accessible name."""
    return (
        f'<svg class="{cls}" role="img" aria-label="{esc(title)}" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">'
        f"{body}</svg>"
    )


def width(words: str) -> float:
    """Return how wide words are at `FONT`, in px: an upper estimate, for a wide sans-serif face."""
    return FONT * sum(map(_ems, words))


def _ems(character: str) -> float:
    kind = unicodedata.category(character)
    if kind in ("Mn", "Me", "Cf"):  # drawn over its neighbour, or not at all
        return 0.0
    if kind == "So":  # emoji
        return 1.4
    if character in _BROAD or unicodedata.east_asian_width(character) in "WF":
        return 1.03
    if character in _NARROW:
        return 0.42
    return 0.8 if character.isupper() else 0.66


def shorten(label: str, room: float) -> str:
    """Cut a label to a width in px, ending in an ellipsis.

    What is written from right to left is isolated, so that words beside it keep their order.
    """
    if width(label) > room:
        kept, left = "", room - width("…")
        for character in label:
            left -= width(character)
            if kept and left < 0:
                break
            kept += character
        # What joined the last character to one that is cut off.
        while len(kept) > 1 and unicodedata.category(kept[-1]) in ("Cf", "Zs"):
            kept = kept[:-1]
        label = kept + "…"
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in label):
        return f"\u2068{label}\u2069"
    return label
