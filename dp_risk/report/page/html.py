"""Escaping, bound figures, tables and blocks for HTML."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dp_risk.report.page.bound import pointer_of
from dp_risk.report.page.forms import printed


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A fact and the form in which it is printed.

    Parameters
    ----------
    value : object
        A leaf of the report; what knows its place is printed with it.
    form : str
        One of `dp_risk.report.page.forms.FORMS`.
    """

    value: object
    form: str = "number"

    def __str__(self) -> str:
        return printed(self.value, self.form)


@dataclass(frozen=True, kw_only=True)
class How:
    """A name of a figure that leads to how it is computed.

    Parameters
    ----------
    name : str
        What a reader sees.
    method : str
        A key of `dp_risk.report.page.methods.METHODS`.
    """

    name: str
    method: str


_NUMERIC = re.compile(r"[-+−–∞<\d][-+−–∞\d.,e%()\s]*")  # noqa: RUF001
Cell = str | int | float | Shown | None
Name = str | How


def esc(value: object) -> str:
    """Return any value as text that is safe in HTML content and in quoted attributes."""
    return escape(str(value), quote=True)


def show(value: object, form: str | None = None) -> Markup:
    """Return a value as HTML, bound to its place in ``report.json`` if it knows one."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, Shown):
        return show(value.value, value.form)
    form = form or ("text" if isinstance(value, str) else "number")
    text, pointer = _whole_numbers(esc(printed(value, form))), pointer_of(value)
    if pointer is None:
        return Markup(text)
    place = f'data-fact="{esc(pointer)}"'
    if form == "text":
        return Markup(f"<span {place}>{text}</span>")
    return Markup(f'<data value="{esc(value)}" {place} data-form="{form}">{text}</data>')


def fill(template: str, *parts: object) -> Markup:
    """Return a sentence as HTML; each ``{}`` takes the next part, bound where it can be."""
    words = [Markup(_whole_numbers(esc(piece))) for piece in template.split("{}")]
    out = words[0]
    for part, piece in zip(parts, words[1:], strict=True):
        out = Markup(out + show(part) + piece)
    return out


def prose(sentences: Sequence[object]) -> Markup:
    """Return sentences as HTML, each bound to its place."""
    return Markup(" ".join(show(sentence, "text") for sentence in sentences))


def _whole_numbers(text: str) -> str:
    """Keep a line from breaking inside a number like 1e-05."""
    return re.sub(r"\d+e-\d+", r'<span class="together">\g<0></span>', text)


def name(value: Name) -> Markup:
    """Return the name of a figure, with its link."""
    if isinstance(value, How):
        return Markup(f'<a class="how" href="#how-{esc(value.method)}">{esc(value.name)}</a>')
    return show(value)


def figures(shown: Mapping[Name, object]) -> Markup:
    """Return names and values as a grid."""
    cells = "".join(
        f"<div><dt>{name(key)}</dt><dd>{show(value)}</dd></div>" for key, value in shown.items()
    )
    return Markup(f'<dl class="figures">{cells}</dl>')


def table(
    caption: str,
    head: Sequence[Name],
    rows: Sequence[Sequence[Cell]],
    marked: Collection[int] = (),
) -> Markup:
    """Return a table that scrolls sideways on a narrow screen.

    Numbers and texts that look like numbers are aligned right; the first column is a row heading.
    Every cell is escaped. Rows whose index is in `marked` stand out.
    """
    numeric = [
        all(_is_number(row[i]) for row in rows) and any(row[i] is not None for row in rows)
        for i in range(len(head))
    ]
    cls = ["num" if right else "txt" for right in numeric]
    heads = "".join(
        f'<th scope="col" class="{c}">{name(h)}</th>' for h, c in zip(head, cls, strict=True)
    )
    body = "".join(
        ('<tr class="marked">' if n in marked else "<tr>")
        + "".join(
            f'<th scope="row" class="{c}">{show(cell)}</th>'
            if i == 0
            else f'<td class="{c}">{show(cell)}</td>'
            for i, (cell, c) in enumerate(zip(row, cls, strict=True))
        )
        + "</tr>"
        for n, row in enumerate(rows)
    )
    return Markup(
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table>'
        f"<caption>{esc(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def section(anchor: str, heading: str, content: str) -> Markup:
    """Return a section of the report; `content` is HTML."""
    return Markup(
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">'
        f'<h2 id="{anchor}-title">{esc(heading)}</h2>{content}</section>'
    )


def details(summary: object, content: str, *, opened: bool = False) -> Markup:
    """Return a folded block; `content` is HTML."""
    flag = " open" if opened else ""
    return Markup(f"<details{flag}><summary>{show(summary)}</summary>{content}</details>")


def bullets(items: Sequence[object]) -> Markup:
    """Return a list of items, each bound to its place."""
    return Markup("<ul>" + "".join(f"<li>{show(item)}</li>" for item in items) + "</ul>")


def _is_number(cell: Cell) -> bool:
    if cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)):
        return True
    text = re.sub(r"<[^>]*>", "", cell) if isinstance(cell, Markup) else str(cell)
    return _NUMERIC.fullmatch(text) is not None
