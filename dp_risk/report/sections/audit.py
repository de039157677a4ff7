"""The sections of an audit; each is empty where a report has no audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dp_risk.audit.findings import FALSIFIED, HEURISTIC
from dp_risk.report.page.html import (
    Cell,
    How,
    Name,
    Shown,
    bullets,
    details,
    esc,
    figures,
    fill,
    section,
    show,
    table,
)
from dp_risk.report.plots import audit as audit_plots
from dp_risk.report.plots.run import both
from dp_risk.report.sections.common import Facts, down, legend, note
from dp_risk.report.words import AUDITED_WORDS, CHECK_WORDS, GUARANTEE_WORDS, PURPOSE_WORDS

_PASSED, _FAILED = "✓\u00a0passed", "✗\u00a0failed"


def evidence(report: Facts) -> str:
    """Say which checks failed, or that none did and what that is worth."""
    facts = report["audit"]
    chosen, gate = facts["chosen"] or {}, facts["gate"]
    shown: dict[Name, object] = {
        How(name="claimed epsilon", method="epsilon-target"): facts["claimed_epsilon"],
        How(name="lower bound", method="bound"): _at(
            chosen.get("epsilon_lower_bound"), chosen.get("confidence")
        ),
        How(name="the gate's lower bound", method="verdict"): _at(
            gate["epsilon_lower_bound"], gate["confidence"]
        ),
        How(name="checks passed", method="check"): fill("{} of {}", facts["passed"], facts["made"]),
    }
    remark = ""
    bound, claimed = chosen.get("epsilon_lower_bound"), facts["claimed_epsilon"]
    if "gate" not in facts["failed"] and None not in (bound, claimed) and bound > claimed:
        remark = note(
            "The bound lies above the claim, the gate's does not. At its confidence that happens "
            "to honest trainers too; the gate decides."
        )
    box = _falsified(facts) if facts["verdict"] == FALSIFIED else _not_falsified(facts)
    source = "".join(note(fill("{}", line)) for line in facts.get("source") or [])
    link = note("", "check", "observations")
    return section(
        "evidence", "What the audit found", source + box + link + figures(shown) + remark
    )


def _at(bound: float | None, confidence: float | None) -> object:
    if confidence is None:
        return down(bound, 3)
    return fill("{} at {}", down(bound, 3), Shown(value=confidence, form="percent"))


def _falsified(facts: Facts) -> str:
    failed = [check for check in facts["checks"] if not check["passed"]]
    items = "".join(
        f"<li><b>{show(check['name'])}</b> {show(check['figure'])}"
        f'<span class="expected">Must hold: {esc(_looks_at(check["name"]))}</span></li>'
        for check in failed
    )
    count = fill("{} of {} checks failed", facts["failures"], facts["made"])
    return (
        f'<div class="warning"><strong>{count if failed else "Falsified"}</strong>'
        f"{f'<ul>{items}</ul>' if items else ''}</div>"
    )


def _not_falsified(facts: Facts) -> str:
    made, wanted = (facts["canaries"].get(name) for name in ("inside", "wanted"))
    held = fill("All {} checks held.", facts["made"]) if facts["made"] else "No check was made."
    weak = ""
    if isinstance(made, int) and isinstance(wanted, int) and made < wanted:
        weak = fill(
            " Time was over after {} of {} observations with a canary inside, so that the bounds "
            "are weaker than planned.",
            made,
            wanted,
        )
    return (
        f'<div class="calm"><strong>{held}</strong><p>This is no proof of the claim: '
        "an audit can show a claim false, never true. A weak attack and a true claim look the "
        f"same.{weak}</p></div>"
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
    head: tuple[Name, ...] = (
        "Method",
        How(name="Lower bound", method="bound"),
        How(name="Ceiling", method="ceiling"),
        How(name="Confidence", method="bound"),
        How(name="Canaries", method="observations"),
        How(name="Observations", method="observations"),
        "Guarantee",
    )
    body: list[list[Cell]] = [
        [
            result["method"],
            down(result["epsilon_lower_bound"], 3),
            Shown(value=result["ceiling"], form="ceiling"),
            Shown(value=result["confidence"], form="percent"),
            result["canaries"],
            result["observations"],
            GUARANTEE_WORDS.get(result["guarantee"], result["guarantee"]),
        ]
        for result in facts["results"]
    ]
    assumed = [
        fill("{}: " + " ".join(["{}"] * len(lines)), result["method"], *lines)
        for result in facts["results"]
        if (lines := result["assumptions"])
    ]
    over = [
        i
        for i, result in enumerate(facts["results"])
        if claimed is not None and (result["epsilon_lower_bound"] or 0.0) > claimed
    ]
    words = (
        "A bar is the epsilon that the audit can prove the trainer to have at least, at its "
        "confidence; a bar past the claim is red. The thin line ends at the ceiling: what a "
        "perfect attack with as many observations would show. An arrow: its ceiling is further "
        "right. Where the ceiling is below the claim, the method could not have falsified it."
    )
    return section(
        "bounds",
        "Claimed epsilon against every bound",
        f"<figure>{both(audit_plots.bounds, rows, claimed)}</figure>"
        + note(words, "bound", "ceiling")
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
    head = ("Check", How(name="Result", method="check"), "Found", "What must hold")
    return section("checks", "Checks", table(caption, head, body, marked))


def scores(report: Facts) -> str:
    """Draw what was observed with a canary in the batch and without."""
    facts = report["audit"]["observations"]
    if not facts or not facts["cells"]:
        return ""
    key = legend(
        (f"colour c{colour}", fill(words + ", mean {}", facts[f"{name}_mean"]))
        for name, words, colour in audit_plots.GROUPS
    )
    spread = facts["std"]
    words = fill(
        "Each observation is a released sum in the direction of one canary. The further the two "
        "distributions lie apart, the more a release tells{} Triangles mark the means.",
        fill("; their spread is {}, and a canary moves them by 1.",
             Shown(value=spread, form="figures4"))
        if spread
        else ".",
    )  # fmt: skip
    body: list[list[Cell]] = [
        [
            fill("{} to {}", *(Shown(value=cell[end], form="figures4") for end in ("from", "to"))),
            Shown(value=cell["inside"], form="count"),
            Shown(value=cell["outside"], form="count"),
        ]
        for cell in facts["cells"]
    ]
    how = "observations"
    head = [How(name=words, method=how) for words in ("Observation", "Inside", "Outside")]
    return section(
        "scores",
        "What the canaries show",
        f"<figure>{key}{both(audit_plots.scores, facts)}</figure>"
        + note(words, how)
        + details("Table of observations", table("Observations by group", head, body)),
    )


def tradeoff(report: Facts) -> str:
    """Draw the claimed trade-off of a test's errors against the measured one."""
    points = report["audit"]["tradeoff"]
    if not points:
        return ""
    key = legend(
        (
            ("colour c1", "claimed"),
            ("colour c0", "measured"),
            ("colour c6", "guessing"),
            ("colour falsifies", "would falsify"),
        )
    )
    words = (
        "A test that tells from the releases whether a unit took part makes two kinds of errors. "
        "The claim says that none gets below the claimed curve. The dashed line is the upper "
        "95 % limit of the measured curve, point by point: where only the measured line is below "
        "the claimed one, that may be chance."
    )
    names = ("false_positive", "claimed", "measured", "high")
    how = "tradeoff"
    columns = ("False positives", "Claimed", "Measured", "Measured, at most (95 %)")
    head = [How(name=column, method=how) for column in columns]
    body: list[list[Cell]] = [[point[name] for name in names] for point in points]
    return section(
        "tradeoff",
        "Claimed trade-off against the measured one",
        f"<figure>{key}{both(audit_plots.tradeoff, points)}</figure>"
        + note(words, how)
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
        key = legend(
            (f"colour shape{k % 4} c{k % 7}", esc(PURPOSE_WORDS.get(purpose, purpose)))
            for k, purpose in enumerate(audit_plots.purposes(drawn))
        )
        chart = f"<figure>{key}{both(audit_plots.sensitivity, drawn)}</figure>"
    body: list[list[Cell]] = [
        [
            row["unit"],
            "✗\u00a0too far" if row["over"] else "✓\u00a0within",
            PURPOSE_WORDS.get(row["purpose"], row["purpose"]),
            Shown(value=row["moved"], form="number4"),
            Shown(value=row["allowed"], form="number4"),
        ]
        for row in rows
    ]
    over = [i for i, row in enumerate(rows) if row["over"]]
    how = "sensitivity"
    head: tuple[Name, ...] = (
        *("Unit", "Result", "Purpose"),
        How(name="Moved", method=how),
        How(name="Allowed", method=how),
    )
    listed = table("One unit more or less", head, body, over)
    words = "Each unit was added to one site's rows, with the same noise before and after."
    return section(
        "sensitivity",
        "How far one unit moves a sum",
        chart + note(words, how) + details("Table of the pairs", listed, opened=bool(over)),
    )


def controls(report: Facts) -> str:
    """List what the same attack finds where the answer is known."""
    rows = report["audit"]["controls"]
    if not rows:
        return ""
    body: list[list[Cell]] = [
        [row["name"], row["expected"], down(row["epsilon_lower_bound"], 3)] for row in rows
    ]
    head = ("Control", "Expected", How(name="Lower bound", method="controls"))
    words = "<p>The same attack, where the answer is known: can it find what is there?</p>"
    return section("controls", "Controls", words + table("Controls of the attack", head, body))


def audited(report: Facts) -> str:
    """Show what was audited: the trainer, its plan and the canaries."""
    facts = report["audit"]
    blocks = ""
    for part, words in (("subject", "The trainer"), ("plan", "Its plan"), ("canaries", "Canaries")):
        how = "observations" if part == "canaries" else "recorded"
        shown: dict[Name, object] = {
            How(name=AUDITED_WORDS.get(key, key.replace("_", " ")), method=how): Shown(
                value=value, form="figures4" if isinstance(value, int | float) else "text"
            )
            for key, value in facts[part].items()
            if value is not None and not isinstance(value, list | dict)
        }
        if part == "canaries" and facts["seconds"] is not None:
            shown[How(name="seconds of the audit", method="resources")] = Shown(
                value=facts["seconds"], form="whole"
            )
        if shown:
            blocks += f"<h3>{words}</h3>{figures(shown)}"
    return section("audited", "What was audited", blocks) if blocks else ""


def _looks_at(name: str) -> str:
    return CHECK_WORDS.get(name, "No description.")


def _only_audits(draw: Callable[[Facts], str]) -> Callable[[Facts], str]:
    return lambda report: draw(report) if report.get("audit") else ""


_IN_ORDER: Sequence[tuple[str, Callable[[Facts], str]]] = (
    ("evidence", evidence),
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
