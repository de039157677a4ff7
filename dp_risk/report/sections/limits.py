"""What the claim rests on, who answers for it, and what ran."""

from __future__ import annotations

from dp_risk.report.page.html import Cell, Shown, bullets, details, fill, section, show, table
from dp_risk.report.sections.common import Facts, note

_SIGNERS = ("Owner", "Privacy review", "Approval")


def limits(report: Facts) -> str:
    """Assumptions, what was not audited, residual channels, unprotected quantities."""
    blocks = "".join(
        f"<h3>{words}</h3>{bullets(report[name])}"
        for name, words in (
            ("assumptions", "Assumptions"),
            ("audit_assumptions", "Assumptions of the audit"),
            ("not_audited", "Not audited"),
            ("residual", "Residual channels"),
            ("unprotected", "Not protected"),
        )
        if report.get(name)
    )
    if not blocks:
        return ""
    what = "audit" if report["kind"] == "audit" else "claim"
    return section("limits", f"What the {what} rests on", blocks)


def review(report: Facts) -> str:
    """Owner and dates, and lines for those who sign on paper; nobody signs a comparison."""
    if report["kind"] == "comparison":
        return ""
    facts = report["review"]
    known = "".join(
        f"<p>{fill('{}: {}', words, facts[key])}</p>"
        for key, words in (
            ("owner", "Owner"),
            ("contact", "Contact"),
            ("purpose", "Meant for"),
            ("finished", "Finished"),
            ("review_by", "To be reviewed by"),
        )
        if facts.get(key)
    )
    missing = (
        ""
        if facts.get("owner")
        else "<p>No owner is named: set report.owner, report.contact, report.purpose and "
        "report.review_by.</p>"
    )
    head = ("Role", "Name", "Decision", "Date", "Signature")
    rows: list[list[Cell]] = [[role, "", "", "", ""] for role in _SIGNERS]
    words = (
        "Who signs takes the page as read: that the claim and its assumptions fit the purpose. The "
        "numbers are those of report.json, which is signed by machine; dp-risk verify checks that."
    )
    return section(
        "review",
        "Sign-off and review",
        f'{known}{missing}<p class="note">{words}</p>{_seal(report)}<div class="signing">'
        f"{table('To be filled in by hand', head, rows)}</div>",
    )


def _seal(report: Facts) -> str:
    """Show how a sheet of paper is tied to the file that a machine signed."""
    signed = report.get("signature")
    if not signed:
        return ""
    begin = (Shown(value=signed[name], form="short") for name in ("public_key", "signature"))
    words = "The key that signed report.json begins with {}, its signature with {}."
    return note(fill(words, *begin), "signature")


def configuration(report: Facts) -> str:
    """Show the resolved configuration and the versions that ran."""
    if report["kind"] == "comparison":
        return ""
    versions: list[list[Cell]] = [[name, version] for name, version in report["versions"].items()]
    if report.get("commit"):
        versions.append(["commit", report["commit"]])
    listed = table("Versions", ("Package", "Version"), versions) if versions else ""
    text = (
        '<pre tabindex="0" role="region" aria-label="Resolved configuration">'
        f"{show(report['configuration'])}</pre>"
    )
    return section(
        "configuration",
        "Configuration and versions",
        listed + details("Resolved configuration", text),
    )
