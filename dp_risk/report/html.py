"""Escaping, numbers and tables for HTML."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from html import escape

Cell = str | int | float | None


def esc(value: object) -> str:
    """Return any value as text that is safe in HTML content and in quoted attributes."""
    return escape(str(value), quote=True)


def number(value: object, digits: int = 3) -> str:
    """Return a number for reading; a dash where there is none; anything else as text."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def signed(value: float, digits: int = 2) -> str:
    """Return an effect with its sign; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")  # noqa: RUF001


def prose(sentences: Sequence[object]) -> str:
    """Return sentences as escaped HTML in which a line never breaks inside a number like 1e-05."""
    text = " ".join(esc(sentence) for sentence in sentences)
    return re.sub(r"\d+e-\d+", r'<span class="together">\g<0></span>', text)


def percent(share: float | None) -> str:
    """Return a share in [0, 1] as percent with the decimals that it needs, up to four."""
    return number(None) if share is None else f"{round(100 * share, 4):g}\u00a0%"


def figures(shown: Mapping[str, object]) -> str:
    """Return names and values as a grid; both are escaped."""
    cells = "".join(
        f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in shown.items()
    )
    return f'<dl class="figures">{cells}</dl>'


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    marked: Collection[int] = (),
) -> str:
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
        f'<th scope="col" class="{c}">{esc(h)}</th>' for h, c in zip(head, cls, strict=True)
    )
    body = "".join(
        ('<tr class="marked">' if n in marked else "<tr>")
        + "".join(
            f'<th scope="row" class="{c}">{esc(number(cell))}</th>'
            if i == 0
            else f'<td class="{c}">{esc(number(cell))}</td>'
            for i, (cell, c) in enumerate(zip(row, cls, strict=True))
        )
        + "</tr>"
        for n, row in enumerate(rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{esc(caption)}"><table>'
        f"<caption>{esc(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def section(name: str, heading: str, content: str) -> str:
    """Return a section of the report; `content` is HTML."""
    return f'<section id="{name}"><h2>{esc(heading)}</h2>{content}</section>'


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """Return a folded block; `content` is HTML."""
    flag = " open" if opened else ""
    return f"<details{flag}><summary>{esc(summary)}</summary>{content}</details>"


def bullets(items: Sequence[object]) -> str:
    """Return a list of escaped items."""
    return "<ul>" + "".join(f"<li>{esc(item)}</li>" for item in items) + "</ul>"


def _is_number(cell: Cell) -> bool:
    if cell is None or isinstance(cell, int | float):
        return True
    return bool(cell) and (cell[0].isdigit() or cell[0] in "-+−–∞")  # noqa: RUF001
