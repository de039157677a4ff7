"""Sites: budgets, ledger statements, amendments, and what was lost with a site."""

from __future__ import annotations

from collections.abc import Sequence

from dp_risk.report.page.html import Cell, How, Name, Shown, bullets, details, fill, section, table
from dp_risk.report.plots import run as plots
from dp_risk.report.sections.common import Facts, down, legend, note, shares, up, whose
from dp_risk.report.words import PURPOSE_WORDS
from dp_risk.types import Trust

_UNITS = "Units: training units, declared or released with noise"
_SUMMED_UNITS = "Units: only their sum over all sites was released, with noise"


def sites(report: Facts) -> str:
    """Each site's spent and remaining budget."""
    rows = report["sites"]
    if not rows:
        if report["kind"] != "frontier":
            return ""
        words = (
            "Every point opened a fresh simulated ledger at every site; no real ledger was used."
        )
        return section("sites", "Sites and budgets", f"<p>{words}</p>")
    cost = report["settings"].get("epsilon_lifetime")
    earlier = any(site.get("epsilon_lifetime_budget") is not None for site in rows)
    kinds = (
        ("before", "earlier runs", earlier),
        ("spent", "this run", True),
        ("left", "left", True),
    )
    words = (
        "Bars are parts of the lifetime filter's capacity, which runs use up evenly. Turning a "
        "filter's total into an epsilon adds a constant once, so in epsilons the first run seems "
        "dear and later ones cheap; the epsilon of the run itself is the PLD figure in the table."
    )
    if len(rows) > plots.SITES_SHOWN:
        words += f" Drawn: the {plots.SITES_SHOWN} sites with least left."
    head: tuple[Name, ...] = (
        "Site",
        How(name="Units", method="units"),
        How(name="epsilon, this run", method="epsilon-run"),
        How(name="Lifetime left", method="lifetime"),
        How(name="Filter used", method="lifetime"),
        How(name="Rounds joined", method="lost"),
        How(name="Ledger head", method="ledger-head"),
    )
    body: list[list[Cell]] = [
        [
            site.get("site"),
            site.get("units"),
            up(site.get("epsilon_spent")),
            down(site.get("epsilon_lifetime_left")),
            shares(site.get("lifetime_used")),
            site.get("rounds_joined"),
            Shown(value=site.get("ledger_head"), form="short"),
        ]
        for site in rows
    ]
    summed = report["settings"].get("trust") == Trust.DISTRIBUTED and all(
        site.get("units") is None for site in rows
    )
    total = report["settings"].get("units")
    found = fill(" Their sum: {}.", total) if summed and total is not None else ""
    return section(
        "sites",
        "Sites and budgets",
        whose(report)
        + "<figure>"
        + legend((kind, words) for kind, words, shown in kinds if shown)
        + f"{plots.both(plots.sites, rows, cost)}</figure>"
        + note(words, "lifetime")
        + details(
            "Table of sites",
            table(_SUMMED_UNITS if summed else _UNITS, head, body)
            + (note(found, "units") if found else ""),
        )
        + _accounts(rows)
        + _statements(rows)
        + _amendments(rows),
    )


def _accounts(rows: Sequence[Facts]) -> str:
    """Show each split's own account."""
    how = "lifetime"
    head: tuple[Name, ...] = ("Site", "Split", *(
        How(name=words, method=how) for words in ("Lifetime budget", "Spent", "Left", "Filter used")
    ))  # fmt: skip
    body: list[list[Cell]] = [
        [
            site.get("site"),
            split,
            down(site.get("epsilon_lifetime_budget")),
            up(balance.get("spent_epsilon")),
            down(balance.get("left_epsilon")),
            shares(balance.get("used")),
        ]
        for site in rows
        for split, balance in (site.get("accounts") or {}).items()
    ]
    if not body:
        return ""
    return details(
        "Table of budgets", table("Lifetime (filter): spent rounded up, left down", head, body)
    )


def _statements(rows: Sequence[Facts]) -> str:
    """Show what each site states to have charged, purpose by purpose, under its signature."""
    how = "statement"
    head: tuple[Name, ...] = ("Site", "Split", "Purpose", "Event", *(
        How(name=words, method=how) for words in ("Rounds reserved", "Rounds paid")
    ))  # fmt: skip
    body: list[list[Cell]] = []
    silent: list[str] = []
    for site in rows:
        statement = site.get("statement")
        if not statement:
            silent.append(site.get("site", ""))
            continue
        body += [
            [
                site.get("site"),
                charge.get("split"),
                PURPOSE_WORDS.get(str(charge.get("purpose")), charge.get("purpose")),
                charge.get("event"),
                charge.get("rounds_reserved"),
                charge.get("rounds_paid"),
            ]
            for charge in statement.get("charges") or []
        ]
    if not body:
        return ""
    missing = (
        f"<p>No statement: {', '.join(str(fill('{}', one)) for one in silent)}.</p>"
        if silent
        else ""
    )
    return details(
        "Ledger statements of the sites",
        table("What each site signed to have charged for this run", head, body) + missing,
    )


def _amendments(rows: Sequence[Facts]) -> str:
    """Show every change of a lifetime budget since its ledger was opened."""
    head = ("Site", "What", How(name="Lifetime epsilon", method="lifetime"), "By", "Reason", "When")
    body: list[list[Cell]] = [
        [
            site.get("site"),
            *(change.get(name) for name in ("kind", "lifetime_epsilon", "by", "reason", "time")),
        ]
        for site in rows
        for change in site.get("amendments") or []
    ]
    return table("Budgets that were raised or retired", head, body) if body else ""


def losses(report: Facts) -> str:
    """Say which sites were away, and which rounds were lost with them."""
    facts = report["losses"]
    if not facts:
        return ""
    content = f"<p>{fill('{}', facts['words'])}</p>"
    shown = report["settings"].get("rounds_abandoned"), report["settings"].get("answers_lost")
    if None not in shown:
        content += note(
            fill(
                "Rounds abandoned: {}. Training answers lost: {}. Planned: {} rounds, {} spare.",
                *shown,
                *(report["settings"].get(name) for name in ("rounds", "spare_rounds")),
            ),
            "lost",
        )
    away: list[list[Cell]] = [
        [row["site"], row["rounds_joined"], row["missed"]] for row in facts["away"]
    ]
    head: tuple[Name, ...] = (
        "Site",
        *(How(name=w, method="lost") for w in ("Rounds joined", "Rounds missed")),
    )
    if away:
        content += table("Sites that missed rounds", head, away)
    dropped: list[list[Cell]] = [
        [row["site"], row["purpose"], row["reason"], row["answers"]] for row in facts["dropped"]
    ]
    if dropped:
        head = ("Site", "Purpose", "Reason", How(name="Answers", method="lost"))
        content += table("Answers that were not believed", head, dropped)
    if facts["doubts"]:
        content += "<h3>What did not hold</h3>" + bullets(facts["doubts"])
    return section("losses", "Lost sites and abandoned rounds", whose(report) + content)
