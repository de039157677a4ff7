"""The first page: claim, verdict, utility and budget, for whoever must decide and sign."""

from __future__ import annotations

from dp_risk.audit.findings import FALSIFIED, NOT_FALSIFIED
from dp_risk.report.page.html import (
    How,
    Markup,
    Name,
    Shown,
    bullets,
    esc,
    figures,
    fill,
    name,
    prose,
    show,
)
from dp_risk.report.sections import comparison
from dp_risk.report.sections.common import Facts, down, shares, up
from dp_risk.report.words import CHECK_WORDS

_VERDICTS = {FALSIFIED: "falsified", NOT_FALSIFIED: "held"}


def summary(report: Facts) -> str:
    """Title, warnings, the claim in plain words, and four answers on one page."""
    names = [report.get("subject"), report["settings"].get("run")]
    named = " · ".join(show(one) for one in names if one)
    subject = f'<p class="subject">{named}</p>' if named else ""
    return Markup(
        f"<header>{subject}<h1>{show(report['title'])}</h1></header>{_warning(report)}"
        f'<section id="summary" aria-label="Summary">{_headline(report)}'
        f"{_claim(report)}"
        f"{_answers(report)}</section>"
    )


def _answers(report: Facts) -> str:
    if report["kind"] == "comparison":
        return comparison.answers(report)
    return (
        f'<div class="answers">{_verdict(report)}{_utility(report)}{_budget(report)}'
        f"{_review(report)}</div>"
    )


def _claim(report: Facts) -> str:
    """Show the first sentence large, and what belongs to it below."""
    sentences = report["claim"]
    before = "<strong>Claimed, and falsified:</strong> " if _is_falsified(report) else ""
    rest = f'<p class="more">{prose(sentences[1:])}</p>' if sentences[1:] else ""
    return f'<p class="claim">{before}{prose(sentences[:1])}</p>{rest}'


def _headline(report: Facts) -> str:
    """Say the claim as figures, for those who know what they mean."""
    settings = report["settings"]
    audit = report.get("audit") or {}
    epsilon = settings.get("epsilon_spent") if report["kind"] == "run" else None
    epsilon = audit.get("claimed_epsilon") if report["kind"] == "audit" else epsilon
    about = settings if report["kind"] != "audit" else audit["subject"]
    delta = settings.get("delta") if report["kind"] != "audit" else audit["delta"]
    if epsilon is None or delta is None or report["not_private"]:
        return ""
    parts: list[tuple[str, str, object]] = [
        ("epsilon", "epsilon-run", up(epsilon)),
        ("delta", "delta", Shown(value=delta, form="general")),
        ("unit", "scope", about.get("unit")),
        ("adjacency", "scope", about.get("adjacency")),
        ("trust", "scope", about.get("trust")),
    ]
    shown: dict[Name, object] = {
        How(name=words, method=how): value for words, how, value in parts if value is not None
    }
    return f'<div class="headline">{figures(shown)}</div>'


def _warning(report: Facts) -> str:
    if report["kind"] == "comparison":
        return comparison.warning(report)
    if _is_falsified(report):
        return _falsified(report["audit"])
    if not report["not_private"]:
        return ""
    what = "These runs are" if report["kind"] == "frontier" else "This run is"
    return (
        f'<aside class="warning" aria-label="Warning"><strong>{what} not private</strong>'
        f"{bullets(report['not_private'])}</aside>"
    )


def _is_falsified(report: Facts) -> bool:
    return bool(report["kind"] == "run" and report["summary"]["verdict"] == FALSIFIED)


def _falsified(audit: Facts) -> str:
    """Say before the claim that it does not stand, in words that need no name of a check."""
    items = "".join(
        f"<li>{esc(CHECK_WORDS.get(name, 'No description.'))} <small>{show(name)}</small></li>"
        for name in audit["failed"]
    )
    return (
        '<aside class="warning" aria-label="Warning"><strong>An audit falsified this claim'
        f"</strong><p>This should hold, and did not:</p><ul>{items}</ul>"
        '<p><a href="#evidence">What the audit found</a></p></aside>'
    )


def _card(anchor: str, question: str, answer: str, more: str, cls: str = "") -> str:
    return (
        f'<div class="answer {cls}" id="answer-{anchor}"><h2>{esc(question)}</h2>'
        f'<p class="word">{answer}</p>{more}</div>'
    )


def _verdict(report: Facts) -> str:
    facts = report["summary"]
    words = str(facts["verdict"])
    more = "".join(f"<p>{show(line)}</p>" for line in facts["verdict_words"])
    if report.get("audit"):
        more += f"<p>{name(How(name='How a verdict comes about', method='verdict'))}</p>"
    return _card(
        "verdict",
        "Did it stand up to an audit?",
        show(facts["verdict"]),
        more,
        "open" if facts["short"] and words == NOT_FALSIFIED else _VERDICTS.get(words, "open"),
    )


def _utility(report: Facts) -> str:
    rows = report["summary"]["utility"]
    if not rows:
        if report["kind"] == "audit":
            return ""
        return _card(
            "utility",
            "What did it buy?",
            "Not known",
            "<p>The sites' data is not public, and no estimate was charged.</p>",
            "open",
        )
    first, *rest = [_figure(row) for row in rows]
    method = (
        "frontier"
        if report["kind"] == "frontier"
        else "utility-" + str(report["utility_source"] or "exact")
    )
    lines = "".join(f"<p>{line}</p>" for line in rest)
    source = "".join(f"<p>{show(line)}</p>" for line in report["summary"]["utility_words"])
    link = name(How(name="How utility is measured", method=method))
    return _card("utility", "What did it buy?", first, f"{lines}{source}<p>{link}</p>")


def _figure(row: Facts) -> Markup:
    if row.get("low") is None or row.get("high") is None:
        return fill("{} {}", row["name"], row["value"])
    return Markup(
        fill("{} {} ", row["name"], row["value"])
        + '<span class="range">'
        + fill("({} to {})", row["low"], row["high"])
        + "</span>"
    )


def _budget(report: Facts) -> str:
    facts = report["summary"]["budget"]
    if not facts:
        words = report["summary"]["budget_words"]
        if not words:
            return ""
        body = "".join(f"<p>{show(line)}</p>" for line in words)
        return _card("budget", "What is left?", "No real budget was touched", body)
    closed = report["review"]["finished"]
    when = fill(", when the run was closed, {}", closed) if closed else Markup()
    parts = [fill("At the site with least left, {}{}.", facts["site"], when)]
    if facts["run"] is not None:
        parts.append(fill("This run took {}.", shares(facts["run"])))
        of = Shown(value=facts["of"], form="general") if facts["of"] is not None else "all"
        words = "As an epsilon {} of {}: the filter adds a constant once, whatever was spent."
        parts.append(fill(words, down(facts["left"]), of))
    link = name(How(name="How a lifetime is counted", method="lifetime"))
    lines = "".join(f"<p>{line}</p>" for line in parts)
    left = fill("epsilon {}", down(facts["left"]))
    if facts["rest"] is None:
        return _card("budget", "What is left?", left, f"{lines}<p>{link}</p>")
    answer = fill("{} of the lifetime budget", shares(facts["rest"]))
    return _card("budget", "What is left?", answer, f"{lines}<p>{link}</p>")


def _review(report: Facts) -> str:
    facts = report["review"]
    lines = [
        fill("{}: {}.", words, facts[key])
        for key, words in (("finished", "Finished"), ("review_by", "To be reviewed by"))
        if facts.get(key)
    ]
    if facts.get("purpose"):
        lines.append(fill("Meant for: {}", facts["purpose"]))
    body = "".join(f"<p>{line}</p>" for line in lines)
    answer = show(facts["owner"]) if facts.get("owner") else "Nobody is named"
    link = '<p><a href="#review">Sign-off and review</a></p>'
    cls = "" if facts.get("owner") else "open"
    return _card("owner", "Who answers for it?", answer, body + link, cls)
