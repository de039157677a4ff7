"""The sections of an audit's report; each is empty for any other report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dp_risk.audit.findings import FALSIFIED, HEURISTIC
from dp_risk.report import audit_plots
from dp_risk.report.html import (
    Cell,
    bullets,
    details,
    esc,
    figures,
    number,
    percent,
    prose,
    section,
    table,
)
from dp_risk.report.plots import both
from dp_risk.report.words import (
    AUDITED_WORDS,
    CHECK_WORDS,
    GUARANTEE_WORDS,
    PURPOSE_WORDS,
    rounded_down,
)

Facts = Mapping[str, Any]

_PASSED, _FAILED = "✓\u00a0passed", "✗\u00a0failed"


def verdict(report: Facts) -> str:
    """Say whether the claim was falsified, by which checks, and what the claim is."""
    facts = report["audit"]
    subject = f'<p class="subject">Audit of {esc(report["subject"])}</p>'
    box = _falsified(facts) if facts["verdict"] == FALSIFIED else _not_falsified(facts)
    chosen, gate, claimed = facts["chosen"] or {}, facts["gate"], facts["claimed_epsilon"]
    confidence = chosen.get("confidence")
    at = f", at {percent(confidence)}" if confidence is not None else ""
    level = f", at {percent(1 - gate['level'])}" if gate["level"] is not None else ""
    passed = sum(bool(check["passed"]) for check in facts["checks"])
    shown = {
        "claimed epsilon": number(claimed),
        f"lower bound{at}": _down(chosen.get("epsilon_lower_bound")),
        f"the gate's lower bound{level}": _down(gate["epsilon_lower_bound"]),
        "checks passed": f"{passed} of {len(facts['checks'])}",
    }
    note = ""
    bound = chosen.get("epsilon_lower_bound")
    if "gate" not in facts["failed"] and None not in (bound, claimed) and bound > claimed:
        note = (
            '<p class="note">The bound lies above the claim, the gate\'s does not. At its '
            "confidence that happens to honest trainers too; the gate decides.</p>"
        )
    heading = f"<h1>{esc(report['title'])}</h1>"
    return (
        f"<header>{subject if report.get('subject') else ''}{heading}</header>{box}"
        f'<section id="claim"><h2>The claim</h2><p class="claim">{prose(report["claim"])}</p>'
        f"{figures(shown)}{note}</section>"
    )


def _falsified(facts: Facts) -> str:
    failed = [check for check in facts["checks"] if not check["passed"]]
    items = "".join(
        f"<li><b>{esc(check['name'])}</b> {esc(check['figure'])}"
        f'<span class="expected">Must hold: {esc(_looks_at(check["name"]))}</span></li>'
        for check in failed
    )
    count = f"{len(failed)} of {len(facts['checks'])} checks failed"
    return (
        f'<aside class="warning" role="note"><strong>{count if failed else "Falsified"}</strong>'
        f"{f'<ul>{items}</ul>' if items else ''}</aside>"
    )


def _not_falsified(facts: Facts) -> str:
    count = len(facts["checks"])
    held = f"All {count} checks held." if count else "No check was made."
    made, wanted = (facts["canaries"].get(name) for name in ("inside", "wanted"))
    weak = ""
    if isinstance(made, int) and isinstance(wanted, int) and made < wanted:
        weak = (
            f" Time was over after {made:,} of {wanted:,} observations of canaries, so that the "
            "bounds are weaker than planned."
        )
    return (
        f'<aside class="calm" role="note"><strong>{held}</strong><p>This is no proof of the claim: '
        "an audit can show a claim false, never true. A weak attack and a true claim look the "
        f"same.{weak}</p></aside>"
    )


def bounds(report: Facts) -> str:
    """Draw and list every lower bound against the claim."""
    facts = report["audit"]
    gate, claimed = facts["gate"], facts["claimed_epsilon"]
    rows: list[Facts] = [
        {**result, "label": result["method"], "counts": result["guarantee"] != HEURISTIC}
        for result in facts["results"]
    ]
    if gate["epsilon_lower_bound"] is not None:
        rows.append({"label": audit_plots.gate_label(gate["level"]), **gate})
    if not rows:
        return ""
    head = (
        *("Method", "Lower bound", "Ceiling", "Confidence", "Canaries", "Observations"),
        "Guarantee",
    )
    body: list[list[Cell]] = [
        [
            result["method"],
            _down(result["epsilon_lower_bound"]),
            number(result["ceiling"]),
            percent(result["confidence"]),
            result["canaries"],
            result["observations"],
            GUARANTEE_WORDS.get(result["guarantee"], result["guarantee"]),
        ]
        for result in facts["results"]
    ]
    assumed = [
        f"{result['method']}: {' '.join(result['assumptions'])}"
        for result in facts["results"]
        if result["assumptions"]
    ]
    over = [
        i
        for i, result in enumerate(facts["results"])
        if claimed is not None and (result["epsilon_lower_bound"] or 0.0) > claimed
    ]
    note = (
        "A bar is the epsilon that the audit can prove the trainer to have at least, at its "
        "confidence; a bar past the claim is red. The thin line ends at the ceiling: what a "
        "perfect attack with as many observations would show. Where the ceiling is below the "
        "claim, the method could not have falsified it."
    )
    return section(
        "bounds",
        "Claimed epsilon against every bound",
        f"<figure>{both(audit_plots.bounds, rows, claimed)}</figure>"
        f'<p class="note">{note}</p>'
        + (table("Lower bounds, rounded down", head, body, over) if body else "")
        + (f"<h3>What each assumes</h3>{bullets(assumed)}" if assumed else ""),
    )


def checks(report: Facts) -> str:
    """List every check, the failed ones first."""
    rows = report["audit"]["checks"]
    if not rows:
        return ""
    body: list[list[Cell]] = [
        [
            check["name"],
            _PASSED if check["passed"] else _FAILED,
            check["figure"] or None,
            _looks_at(check["name"]),
        ]
        for check in rows
    ]
    marked = [i for i, check in enumerate(rows) if not check["passed"]]
    caption = "Failed checks first" if marked else "All held"
    head = ("Check", "Result", "Found", "What must hold")
    return section("checks", "Checks", table(caption, head, body, marked))


def scores(report: Facts) -> str:
    """Draw what was observed with a canary in the batch and without."""
    facts = report["audit"]["observations"]
    if not facts or not facts["cells"]:
        return ""
    legend = _legend(
        (f"c{colour}", f"{words}, mean {number(facts[f'{name}_mean'])}")
        for name, words, colour in audit_plots.GROUPS
    )
    spread = facts["std"]
    note = (
        "Each observation is a released sum in the direction of one canary. The further the two "
        "distributions lie apart, the more a release tells"
        + (f"; their spread is {spread:.4g}, and a canary moves them by 1." if spread else ".")
        + " Triangles mark the means."
    )
    body: list[list[Cell]] = [
        [f"{cell['from']:.4g} to {cell['to']:.4g}", int(cell["inside"]), int(cell["outside"])]
        for cell in facts["cells"]
    ]
    return section(
        "scores",
        "What the canaries show",
        f"<figure>{legend}{both(audit_plots.scores, facts)}</figure>"
        f'<p class="note">{note}</p>'
        + details(
            "Table of observations",
            table("Observations by group", ("Observation", "Inside", "Outside"), body),
        ),
    )


def tradeoff(report: Facts) -> str:
    """Draw the claimed trade-off of a test's errors against the measured one."""
    points = report["audit"]["tradeoff"]
    if not points:
        return ""
    legend = _legend(
        (("c1", "claimed"), ("c0", "measured"), ("c6", "guessing"), ("falsifies", "would falsify"))
    )
    note = (
        "A test that tells from the releases whether a unit took part makes two kinds of errors. "
        "The claim says that none gets below the claimed curve. The dashed line is the upper "
        "95 % limit of the measured curve, point by point."
    )
    names = ("false_positive", "claimed", "measured", "high")
    head = ("False positives", "Claimed", "Measured", "Measured, at most (95 %)")
    body: list[list[Cell]] = [[point[name] for name in names] for point in points]
    return section(
        "tradeoff",
        "Claimed trade-off against the measured one",
        f"<figure>{legend}{both(audit_plots.tradeoff, points)}</figure>"
        f'<p class="note">{note}</p>'
        + details("Table of the curves", table("Rates of false negatives", head, body)),
    )


def sensitivity(report: Facts) -> str:
    """Draw how far one unit moved a sum, by kind of unit and purpose."""
    rows = report["audit"]["sensitivity"]
    if not rows:
        return ""
    drawn = [row for row in rows if row["share"] is not None]
    chart = ""
    if drawn:
        legend = _legend(
            (f"shape{k % 4} c{k % 7}", PURPOSE_WORDS.get(purpose, purpose))
            for k, purpose in enumerate(audit_plots.purposes(drawn))
        )
        chart = f"<figure>{legend}{both(audit_plots.sensitivity, drawn)}</figure>"
    body: list[list[Cell]] = [
        [
            row["unit"],
            "✗\u00a0too far" if row["over"] else "✓\u00a0within",
            PURPOSE_WORDS.get(row["purpose"], row["purpose"]),
            number(row["moved"], 4),
            number(row["allowed"], 4),
        ]
        for row in rows
    ]
    over = [i for i, row in enumerate(rows) if row["over"]]
    head = ("Unit", "Result", "Purpose", "Moved", "Allowed")
    listed = table("One unit more or less", head, body, over)
    note = "Each unit was added to one site's rows, with the same noise before and after."
    return section(
        "sensitivity",
        "How far one unit moves a sum",
        f'{chart}<p class="note">{note}</p>'
        + details("Table of the pairs", listed, opened=bool(over)),
    )


def controls(report: Facts) -> str:
    """List what the same attack finds where the answer is known."""
    rows = report["audit"]["controls"]
    if not rows:
        return ""
    body: list[list[Cell]] = [
        [row["name"], number(row["expected"]), _down(row["epsilon_lower_bound"])] for row in rows
    ]
    head = ("Control", "Expected", "Lower bound")
    note = "<p>The same attack, where the answer is known: can it find what is there?</p>"
    return section("controls", "Controls", note + table("Controls of the attack", head, body))


def audited(report: Facts) -> str:
    """Show what was audited: the trainer, its plan and the canaries."""
    facts = report["audit"]
    blocks = ""
    for name, words in (("subject", "The trainer"), ("plan", "Its plan"), ("canaries", "Canaries")):
        shown = {
            AUDITED_WORDS.get(key, key.replace("_", " ")): _plain(value)
            for key, value in facts[name].items()
            if key != "dataset" and value is not None
        }
        if name == "canaries" and facts["seconds"] is not None:
            shown["seconds of the audit"] = f"{facts['seconds']:,.0f}"
        if shown:
            blocks += f"<h3>{words}</h3>{figures(shown)}"
    return section("audited", "What was audited", blocks) if blocks else ""


def _looks_at(name: str) -> str:
    return CHECK_WORDS.get(name, "No description.")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return number(value)


def _down(value: float | None) -> str:
    return number(None) if value is None else rounded_down(value, 3)


def _legend(entries: Any) -> str:
    marks = "".join(
        f'<span><i class="swatch colour {cls}"></i>{esc(words)}</span>' for cls, words in entries
    )
    return f'<p class="legend">{marks}</p>'


def _only_audits(draw: Callable[[Facts], str]) -> Callable[[Facts], str]:
    return lambda report: draw(report) if report["kind"] == "audit" else ""


_IN_ORDER: Sequence[tuple[str, Callable[[Facts], str]]] = (
    ("verdict", verdict),
    ("bounds", bounds),
    ("checks", checks),
    ("scores", scores),
    ("tradeoff", tradeoff),
    ("sensitivity", sensitivity),
    ("controls", controls),
    ("audited", audited),
)
AUDIT_SECTIONS: dict[str, Callable[[Facts], str]] = {
    name: _only_audits(draw) for name, draw in _IN_ORDER
}
