"""Tables of a comparison: a row a fact, a column a run, and a sign where a run is not the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import unescape

from dp_risk.report.page.forms import printed
from dp_risk.report.page.html import How, Markup, Name, Shown, esc, name, show
from dp_risk.report.sections.common import Facts

# How a run's value stands to the reference's: sign, and what a reader without eyes hears.
SIGNS = {
    "more": ("↑", "more than the reference"),
    "less": ("↓", "less than the reference"),
    "other": ("≠", "not as the reference"),
    "absent": ("≠", "not in both"),
    "unclear": ("≈", "cannot tell from the reference"),
}
_FINER = {"up2": "up3", "down2": "down3", "number": "number4", "number2": "number4"}
_FINEST = ("general", "plain")


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a matrix.

    Parameters
    ----------
    name : str or How
        What is compared.
    cells : sequence of object
        What each run has; bound where it can be.
    ways : sequence of str
        How each stands to the first.
    """

    name: Name
    cells: Sequence[object]
    ways: Sequence[str]

    @property
    def same(self) -> bool:
        """Whether no run differs."""
        return all(way in ("reference", "same") for way in self.ways)


def line(
    label: Name, row: Facts, form: str = "text", draw: Callable[[Facts], object] | None = None
) -> Line:
    """Return a row of facts as a line, in a form that shows what differs.

    Parameters
    ----------
    label : str or How
        What is compared.
    row : mapping
        ``{cells: [{value, way}]}``.
    form : str
        In which the values are printed, with more digits where different ones would look equal.
    draw : callable or None
        What a cell shows instead of its value.
    """
    cells = row["cells"]
    form = _telling(cells, form)
    shown = [draw(c) if draw else Shown(value=c["value"], form=form) for c in cells]
    return Line(name=label, cells=shown, ways=[str(cell["way"]) for cell in cells])


def _telling(cells: Sequence[Facts], form: str) -> str:
    """Return a form in which values that differ from the first look different."""
    changed = [cell["value"] for cell in cells if cell["way"] in ("more", "less")]
    first = cells[0]["value"]
    if not changed or any(isinstance(value, str) for value in (first, *changed)):
        return form
    tried = (form, _FINER.get(form, form), *_FINEST)
    for one in tried:
        if all(printed(value, one) != printed(first, one) for value in changed):
            return one
    return tried[-1]


def matrix(caption: str, runs: Sequence[Facts], lines: Sequence[Line]) -> Markup:
    """Return a table with a column a run; on a narrow page each row is a block.

    Parameters
    ----------
    caption : str
        What the table holds.
    runs : sequence of mapping
        ``{letter, name}``, the reference first.
    lines : sequence of Line
        Its rows; one that differs is marked.
    """
    heads = "".join(
        f'<th scope="col">{tag(i, run)} <span class="whose">{show(run["name"], "text")}</span>'
        f"{'<small>reference</small>' if i == 0 else ''}</th>"
        for i, run in enumerate(runs)
    )
    body = "".join(
        f'<tr class="{"even" if one.same else "differs"}"><th scope="row">{name(one.name)}</th>'
        + _cells(one, runs)
        + "</tr>"
        for one in lines
    )
    return Markup(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}">'
        f'<table class="matrix"><caption>{esc(caption)}</caption><thead><tr><td></td>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _cells(one: Line, runs: Sequence[Facts]) -> str:
    """Return a cell a run, or one for all where they say the same."""
    shown = [show(cell) for cell in one.cells]
    if one.same and len(set(map(_words, shown))) == 1:
        return f'<td colspan="{len(runs)}"><span class="said">{shown[0]} <i>all</i></span></td>'
    return "".join(
        f'<td class="{esc(way)}">{tag(i, runs[i])}<span class="said">{sign(way)}{cell}</span></td>'
        for i, (cell, way) in enumerate(zip(shown, one.ways, strict=True))
    )


def _words(cell: str) -> str:
    small = re.sub(r"<small[^>]*>(.*?)</small>", r"(\1)", cell)
    return unescape(re.sub(r"<[^>]*>", "", small))


def plain(name: Name) -> str:
    """Return the name of a row without its link."""
    return name.name if isinstance(name, How) else str(name)


def texts(one: Line) -> list[str]:
    """Return the cells of a row without markup, signs included."""
    found = []
    for cell, way in zip(one.cells, one.ways, strict=True):
        mark = f"{SIGNS[way][0]} " if way in SIGNS else ""
        found.append(mark + _words(show(cell)))
    return found


def tag(index: int, run: Facts) -> Markup:
    """Return a run's letter, in its colour and with its mark of the charts."""
    return Markup(
        f'<b class="tag c{index % 7}"><i class="swatch colour shape{index % 4}"></i>'
        f"{show(run['letter'], 'text')}</b>"
    )


def sign(way: str) -> Markup:
    """Return the sign of what is not as in the reference; empty for the rest."""
    if way not in SIGNS:
        return Markup()
    mark, words = SIGNS[way]
    return Markup(f'<b class="sign" role="img" aria-label="{words}">{mark}</b> ')
