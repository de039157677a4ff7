"""The claim in full: every setting that the guarantee depends on."""

from __future__ import annotations

from dp_risk.report.page.html import How, Name, Shown, figures, fill, section
from dp_risk.report.sections.common import Facts, whose

# (heading, ((name in settings, words, method, form), ...))
GROUPS: tuple[tuple[str, tuple[tuple[str, str, str, str], ...]], ...] = (
    (
        "The guarantee",
        (
            ("epsilon_spent", "epsilon of this run (PLD)", "epsilon-run", "up2"),
            ("epsilon_target", "epsilon asked for", "epsilon-target", "up2"),
            ("epsilon_search", "epsilon of the sweep it is part of", "epsilon-search", "up2"),
            ("delta", "delta", "delta", "figures4"),
            ("unit", "unit", "scope", "text"),
            ("adjacency", "adjacency", "scope", "text"),
            ("max_records_per_account", "records of an account, at most", "scope", "count"),
            ("max_sites_per_unit", "sites at which one unit may be, at most", "scope", "count"),
            ("trust", "trust", "scope", "text"),
            ("min_sites", "sites needed", "scope", "count"),
            ("max_colluding", "colluding sites tolerated", "scope", "count"),
            ("randomness", "randomness", "scope", "text"),
            ("epsilon_lifetime", "lifetime total, all runs (filter)", "lifetime", "up2"),
        ),
    ),
    (
        "The mechanism",
        (
            ("sigma", "noise multiplier (sigma)", "noise", "figures4"),
            ("clip_norm", "clip norm (C)", "noise", "figures4"),
            ("q", "sampling rate (q)", "sampling", "figures4"),
            ("steps", "steps (T)", "schedule", "count"),
            ("rounds", "rounds", "schedule", "count"),
            ("spare_rounds", "spare rounds", "schedule", "count"),
            ("rounds_abandoned", "rounds abandoned", "lost", "count"),
            ("answers_lost", "training answers lost", "lost", "count"),
            ("units", "training units, all sites", "units", "count"),
            ("positives", "positives of training units (released)", "start-values", "figures4"),
            ("ridge", "ridge of the preconditioner", "start-values", "figures4"),
            ("learning_rate", "learning rate (plain steps)", "start-values", "figures4"),
        ),
    ),
    (
        "The run",
        (
            ("model", "model", "recorded", "text"),
            ("rule", "rule of aggregation", "recorded", "text"),
            ("start", "weights it started from", "recorded", "text"),
            ("run", "run", "recorded", "text"),
            ("finished", "finished", "recorded", "time"),
            ("seconds", "seconds", "resources", "whole"),
            ("peak_rss_mb", "peak memory, MB", "resources", "whole"),
        ),
    ),
)
_ACCOUNTING = (
    ("sampler", "sampler that ran", "sampling"),
    ("noise", "noise", "noise"),
    ("accountant", "accountant of a run", "epsilon-run"),
    ("filter", "filter of a lifetime", "lifetime"),
)
_DISTRIBUTED = {"max_colluding", "spare_rounds"}


def claim(report: Facts) -> str:
    """Show every setting that the claim depends on, in groups."""
    settings = report["settings"]
    hidden: set[str] = set()
    if settings.get("unit") != "account":
        hidden.add("max_records_per_account")
    if "distributed" not in report["trusts"]:
        hidden |= _DISTRIBUTED
    content = ""
    for heading, names in GROUPS:
        shown: dict[Name, object] = {
            How(name=words, method=method): _value(report, name, form)
            for name, words, method, form in names
            if settings.get(name) is not None and name not in hidden
        }
        if shown:
            content += f"<h3>{heading}</h3>{figures(shown)}"
    shown = {
        How(name=words, method=method): report["accounting"][name]
        for name, words, method in _ACCOUNTING
        if name in report["accounting"]
    }
    if shown:
        content += f"<h3>The accounting</h3>{figures(shown)}"
    return section("claim", "The claim in full", whose(report) + content) if content else ""


def _value(report: Facts, name: str, form: str) -> object:
    shown = Shown(value=report["settings"][name], form=form)
    of = report["counts"].get("sites")
    if name == "min_sites" and of:
        alone = ": none may stay away" if of == report["settings"][name] else ""
        return fill("{} of {}{}", shown, of, alone)
    return shown
