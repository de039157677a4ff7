"""How each figure is computed, and what the words mean."""

from __future__ import annotations

from dp_risk.report.page.html import Markup, esc, section
from dp_risk.report.page.methods import GLOSSARY, METHODS
from dp_risk.report.sections.common import Facts


def methods(report: Facts) -> str:
    """Explain every kind of figure; tables and tiles lead here."""
    del report
    entries = "".join(
        f'<div id="how-{key}"><dt>{esc(method.name)}</dt><dd>{esc(method.words)} '
        f'<span class="source">{esc(method.source)}</span></dd></div>'
        for key, method in METHODS.items()
    )
    words = (
        "Every figure on this page is in report.json, which is signed; the page's own source names "
        "its place (data-fact). Figures that bound a cost are rounded up, budgets left and lower "
        "bounds down."
    )
    return section(
        "methods",
        "How each figure is computed",
        Markup(f'<p class="note">{words}</p><dl class="methods">{entries}</dl>'),
    )


def glossary(report: Facts) -> str:
    """Say what the words of a report mean."""
    del report
    entries = "".join(
        f"<div><dt>{esc(word)}</dt><dd>{esc(meaning)}</dd></div>"
        for word, meaning in sorted(GLOSSARY.items(), key=lambda item: item[0].lower())
    )
    return section("glossary", "Glossary", Markup(f'<dl class="methods">{entries}</dl>'))
