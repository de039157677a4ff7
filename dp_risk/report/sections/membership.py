"""The membership attack: a heuristic beside the bounds, and called so."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, How, Name, Shown, details, esc, fill, section, table
from dp_risk.report.plots.membership import membership as chart
from dp_risk.report.plots.run import both
from dp_risk.report.sections.common import Facts, legend, note

_ROWS = 20
_TITLE = "Membership attack (heuristic)"


def membership(report: Facts) -> str:
    """Draw true against false positives of the attack and of its controls."""
    facts = (report.get("audit") or {}).get("membership")
    if not facts:
        return ""
    if facts.get("left_out"):
        # No figure, so that nothing here can be taken for an attack that found nothing.
        return section("membership", _TITLE, note(fill("Left out: {}.", facts["left_out"])))
    attacks = facts["attacks"]
    key = legend((f"colour c{i % 7}", esc(one["label"])) for i, one in enumerate(attacks))
    how = "membership"
    words = fill(
        "An attacker with {} reference models of its own guesses which units were trained on "
        "({}). Log scales: what counts is how many members are found at few false alarms, left. "
        "The straight line is guessing. This is a heuristic and no part of the verdict: natural "
        "units rarely show, so little found here means little.",
        facts["references"],
        facts["method"],
    )
    wanted, made = facts.get("wanted"), facts["references"]
    if wanted and made and made < wanted:
        words = fill("{} {} references were wanted; time was over first.", words, wanted)
    areas: list[list[Cell]] = [
        [
            one["label"],
            one["members"],
            one["others"],
            fill("{} ({}\u2013{})", *(one[name] for name in ("auc", "auc_low", "auc_high"))),
            one["expected"],
        ]
        for one in attacks
    ]
    named = (How(name=name, method=how) for name in ("Members", "Others", "Area (95 %)"))
    rates: list[list[Cell]] = [
        [
            one["label"],
            Shown(value=at.get("rate"), form="percent"),
            fill(
                "{} ({}\u2013{})",
                *(Shown(value=at[x], form="percent1") for x in ("true_positive", "low", "high")),
            ),
        ]
        for one in attacks
        for at in one["at"]
    ]
    found = ("False positives", "True positives (95 %)")
    points: list[list[Cell]] = [
        [one["label"], Shown(value=a, form="number4"), Shown(value=b, form="number4")]
        for one in attacks
        for a, b in _thinned(one)
    ]
    columns: tuple[Name, ...] = (
        "Whom",
        How(name="False positives", method=how),
        How(name="True positives", method=how),
    )
    return section(
        "membership",
        _TITLE,
        note(words, how)
        + f"<figure>{key}{both(chart, attacks)}</figure>"
        + table("Area under the curve: one half by guessing", ("Whom", *named, "Expected"), areas)
        + table(
            "Members found at few false alarms",
            ("Whom", *(How(name=name, method=how) for name in found)),
            rates,
        )
        + details(
            "Table of the curves of the attack", table("Points of the curves", columns, points)
        ),
    )


def _thinned(attack: Facts) -> list[tuple[float, float]]:
    """Return about so many points of a curve, its ends among them."""
    points = list(zip(attack["false_positive"], attack["true_positive"], strict=True))
    kept = points[:: max(1, len(points) // _ROWS)]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]
