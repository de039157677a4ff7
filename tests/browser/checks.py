"""What is asked of a page in a browser; every check returns its complaints, in words."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.browser.chromium import Tab

SCRIPT = (Path(__file__).parent / "checks.js").read_text(encoding="utf-8")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
WIDE, PHONE = 1100, 380
PAPER = 673  # CSS pixels between the margins of 16 mm of an A4 page


def ask(tab: Tab, name: str) -> list[str]:
    """Return the complaints of one function of `checks.js`."""
    tab.evaluate("window.__checks || " + SCRIPT)
    return list(tab.evaluate(f"__checks.{name}()"))


def plots(tab: Tab) -> list[str]:
    """Every plot is drawn, no text of it is cut, hidden by another, too small or too faint."""
    names = ("drawn", "inside", "apart", "legible", "visible", "tables")
    return [complaint for name in names for complaint in ask(tab, name)]


def quiet(tab: Tab) -> list[str]:
    """Nothing was said, and nothing asked for but the page itself."""
    return tab.said + [f"asked for {address}" for address in tab.asked[1:]]


def axe(tab: Tab, engine: str) -> list[str]:
    """Every violation of `RULES`, by the source text of axe-core."""
    tab.evaluate(f"window.axe || ({{}}, eval)({json.dumps(engine)}), 0")
    found = tab.evaluate(
        f"axe.run({{runOnly: {json.dumps(RULES)}, resultTypes: ['violations']}}).then(r => "
        "r.violations.flatMap(v => v.nodes.map(n => "
        "`${v.id}: ${n.html.slice(0, 160)}: ${n.failureSummary}`)))"
    )
    return list(found)


def keyboard(tab: Tab) -> list[str]:
    """Tab reaches everything that can be used, in order, and shows where it is; Enter unfolds."""
    tab.evaluate("window.__checks || " + SCRIPT)
    # Chromium also stops at what scrolls by itself.
    for _ in range(2 * tab.evaluate("__checks.stops()") + 10):
        tab.press("Tab")
    complaints = list(tab.evaluate("__checks.reached()"))
    for i in range(tab.evaluate("document.querySelectorAll('summary').length")):
        summary = f"document.querySelectorAll('summary')[{i}]"
        before = tab.evaluate(f"{summary}.focus(), {summary}.parentElement.open")
        tab.press("Enter")
        if tab.evaluate(f"{summary}.parentElement.open") == before:
            complaints.append(f"Enter does not unfold summary {i}")
    return complaints


def pages(pdf: bytes) -> int:
    """Return the number of pages of a print-out by Chromium."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))
