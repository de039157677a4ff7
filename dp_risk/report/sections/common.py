"""What several sections share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dp_risk.report.page.html import Markup, Shown, esc, fill
from dp_risk.report.page.methods import METHODS

Facts = Mapping[str, Any]
Section = Callable[[Facts], str]


def whose(report: Facts) -> Markup:
    """Say which run of a frontier a section is about; empty for a report of one run."""
    settings = report["settings"]
    if report["kind"] != "frontier" or settings.get("seed") is None:
        return Markup()
    epsilon = settings.get("epsilon_target")
    words = (
        "Of one run: {}, seed {}." if epsilon is None else "Of one run: with epsilon {}, seed {}."
    )
    which = "without noise" if epsilon is None else Shown(value=epsilon, form="general")
    return note(fill(words, which, Shown(value=settings["seed"], form="plain")), "recorded")


def note(content: str, *methods: str) -> Markup:
    """Return a remark under a figure, with links to how its numbers are computed."""
    links = "".join(
        f' <a class="how" href="#how-{method}">How: {esc(name(method))}.</a>' for method in methods
    )
    cls = "note" if content else "note links"
    return Markup(f'<p class="{cls}">{content}{links}</p>')


def name(method: str) -> str:
    """Return the name of a method as inside a sentence."""
    words = METHODS[method].name
    return words[0].lower() + words[1:]


def legend(entries: Iterable[tuple[str, str]]) -> Markup:
    """Return the key of a chart: classes of the swatches and their words, which are HTML."""
    marks = "".join(f'<span><i class="swatch {cls}"></i>{words}</span>' for cls, words in entries)
    return Markup(f'<p class="legend">{marks}</p>')


def up(value: Any, digits: int = 2) -> Shown:
    """Return a cost, printed not below what it is."""
    return Shown(value=value, form=f"up{digits}")


def down(value: Any, digits: int = 2) -> Shown:
    """Return what is left, or a bound: printed not above what it is."""
    return Shown(value=value, form=f"down{digits}")


def shares(value: Any) -> Shown:
    """Return a share as percent with one decimal."""
    return Shown(value=value, form="percent1")
