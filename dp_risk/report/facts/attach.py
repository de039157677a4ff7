"""Puts what an audit found into the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_risk.report.facts import derived
from dp_risk.report.page.forms import rounded_up
from dp_risk.report.words import PURPOSE_WORDS
from dp_risk.types import ConfigurationError

Facts = Mapping[str, Any]

# An audit of another of these says nothing about the run.
_SAME = ("trust", "unit", "adjacency", "model")
# Parts of a plan, by their names in an audit, in words.
_PLAN = (
    ("noise_multiplier", "noise multiplier"),
    ("sampling_rate", "sampling rate"),
    ("clip_norm", "clip norm"),
    ("rounds", "number of rounds"),
)
_RUN_NAMES = {"noise_multiplier": "sigma", "sampling_rate": "q"}


def attach(report: Facts, audit: Facts) -> dict[str, Any]:
    """Return the report of a run with the evidence of an audit.

    Parameters
    ----------
    report : mapping
        ``report.json`` of a run, of this version.
    audit : mapping
        ``report.json`` of an audit, of this version.

    Raises
    ------
    ConfigurationError
        If `report` is none of a run that claims something, `audit` none of an audit, or the audit
        is of another trust, unit, adjacency or model.
    """
    if report["kind"] != "run" or report["not_private"]:
        raise ConfigurationError("--audit: only the report of a private run takes an audit")
    if audit["kind"] != "audit":
        raise ConfigurationError("--audit: not the folder of an audit")
    settings, subject = report["settings"], audit["audit"]["subject"]
    for name in _SAME:
        ours, theirs = settings.get(name), subject.get(name)
        if ours is not None and ours != theirs:
            raise ConfigurationError(
                f"--audit: the run has {name} {ours}, the audit looked at {theirs}: it says "
                "nothing about this run"
            )
    evidence = {
        **audit["audit"],
        "source": _source(report, audit),
        "differs": _differs(report, audit["audit"]),
    }
    return derived.complete(
        {
            **{name: value for name, value in report.items() if name != "signature"},
            "audit": evidence,
            "not_audited": audit["not_audited"],
            "audit_assumptions": audit["assumptions"],
        }
    )


def _source(report: Facts, audit: Facts) -> list[str]:
    """Say what was audited, and how it differs from the run."""
    settings, facts = report["settings"], audit["audit"]
    lines = [
        "The audit ran the same trainer apart from the run, on scratch sites with public data "
        f"({audit['subject'] or 'not named'}). It looks at the program and its settings, not at "
        "this run's rows."
    ]
    lines += _differs(report, facts)
    for name, words in _PLAN:
        ours, theirs = settings.get(_RUN_NAMES.get(name, name)), facts["plan"].get(name)
        if ours is not None and theirs is not None and ours != theirs:
            lines.append(f"Its {words} was {theirs:.4g}; this run's is {ours:.4g}.")
    sites = facts["subject"].get("sites")
    if sites is not None and report["sites"] and sites != len(report["sites"]):
        lines.append(f"It had {sites} sites; this run has {len(report['sites'])}.")
    for what, ours, theirs in (
        ("commit", report["commit"], audit["commit"]),
        ("version", *(one["versions"].get("dp-risk") for one in (report, audit))),
    ):
        if ours != theirs:
            lines.append(f"The program's {what} was {theirs}; this run's is {ours}.")
    return lines


def _untried(report: Facts, facts: Facts) -> list[str]:
    """Say what the run released that the audit never looked at."""
    tried = {change["purpose"] for change in facts.get("sensitivity") or ()}
    paid = dict.fromkeys(charge["purpose"] for charge in report["charges"])
    missed = [PURPOSE_WORDS.get(name, str(name)) for name in paid if name not in tried]
    return [f"The audit released none of: {'; '.join(missed)}; this run did."] if missed else []


def _differs(report: Facts, facts: Facts) -> list[str]:
    """Say where the audit was of another claim than the run's, or of less than the run did."""
    settings, lines = report["settings"], []
    epsilon, claimed = settings.get("epsilon_target"), facts["claimed_epsilon"]
    if epsilon is not None and claimed is not None and epsilon != claimed:
        lines.append(
            f"The audit was of epsilon {rounded_up(claimed)}; "
            f"this run claims {rounded_up(epsilon)}."
        )
    if settings.get("delta") is not None and settings.get("delta") != facts["delta"]:
        lines.append(f"The audit's delta was {facts['delta']}; this run's is {settings['delta']}.")
    return [*lines, *_untried(report, facts)]
