"""Facts that follow from the other facts of a report: the first page, counts, losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.audit.findings import FALSIFIED
from dp_risk.report import words
from dp_risk.report.page.forms import rounded_down

Facts = Mapping[str, Any]

NOT_AUDITED, NO_CLAIM = "not audited", "no claim to audit"
OTHER_CLAIM = "another claim not falsified"
# An interval wider than this says too little for the first page.
_BLIND = 0.5
HEADLINES = (
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("recall_at_fpr_1pct", "Recall at 1 % false positives"),
)


def complete(report: Facts) -> dict[str, Any]:
    """Return a report with the facts that follow from its others, computed anew.

    Parameters
    ----------
    report : mapping
        All facts but ``trusts, counts, losses, accounting, summary``.
    """
    trials = (report.get("search") or {}).get("trials") or []
    frontier = report.get("frontier")
    return {
        **report,
        "trusts": _trusts(report),
        "counts": {
            "sites": len(report["sites"]),
            "trials": len(trials),
            "trials_done": sum(trial.get("outcome") == "done" for trial in trials),
            **_every(report["rounds"]),
        },
        "losses": _losses(report),
        "accounting": _accounting(report),
        "summary": {
            **_verdict(report),
            "utility": _points(frontier) if frontier else _metrics(report.get("utility") or {}),
            "utility_words": _utility_words(report),
            "budget": _budget(report["sites"]) if report["kind"] == "run" else None,
            "budget_words": _budget_words(report),
        },
    }


def _every(rows: Sequence[Facts]) -> dict[str, int]:
    """Return after how many rounds each there is a line, where these are equally many."""
    numbers = [row.get("round") for row in rows]
    first = numbers[0] if numbers else None
    # The last line is that of the last round.
    regular = isinstance(first, int) and numbers[:-1] == [first * n for n in range(1, len(numbers))]
    return {"every": first} if isinstance(first, int) and regular else {}


def _trusts(report: Facts) -> list[str]:
    lines = (report.get("frontier") or {}).get("series") or []
    labels = {str(line.get("label")).partition(", ")[0] for line in lines if not line["baseline"]}
    found = {trust for trust, label in words.SERIES_WORDS.items() if label in labels}
    found |= {str(report["settings"].get("trust")), str(_subject(report).get("trust"))}
    return sorted(found & set(words.TRUST_WORDS))


def _subject(report: Facts) -> Facts:
    return dict((report.get("audit") or {}).get("subject") or {})


def _verdict(report: Facts) -> dict[str, Any]:
    audit = report.get("audit")
    if audit:
        lines = (
            [words.FALSIFIED_BY.format(", ".join(audit["failed"]) or "its verdict")]
            if audit["verdict"] == FALSIFIED
            else [words.NOT_PROVED]
        )
        verdict = audit["verdict"]
        if audit.get("differs"):
            verdict = FALSIFIED if verdict == FALSIFIED else OTHER_CLAIM
            lines = [*audit["differs"], *lines]
        found = {"verdict": verdict, "verdict_words": [*lines, *_strength(audit)]}
        return {**found, "short": _part(audit) is not None}
    if report["not_private"] or report["kind"] == "comparison":
        return {"verdict": NO_CLAIM, "verdict_words": [], "short": False}
    if report["kind"] == "frontier":
        return {"verdict": NOT_AUDITED, "verdict_words": [words.POINTS_NOT_AUDITED], "short": False}
    return {"verdict": NOT_AUDITED, "verdict_words": [_try(report)], "short": False}


def _try(report: Facts) -> str:
    """Say that nobody audited a run, and the command that audits its claim."""
    settings, purposes = report["settings"], [charge["purpose"] for charge in report["charges"]]
    asked = {
        "privacy.epsilon": settings.get("epsilon_target"),
        "privacy.delta": settings.get("delta"),
        "privacy.trust": settings.get("trust"),
        "model": settings.get("model"),
        "federation.sites": len(report["sites"]) or None,
    }
    if settings.get("unit") == "account":
        asked |= {"privacy.unit": "account", "data": "file", "data.path": "FILE"}
        asked |= {"data.schema": "FILE.schema.yaml", "data.public": "true"}
    elif "subgroups" in purposes:
        # The built-in data that has groups.
        asked |= {"data": "adult", "evaluation.subgroups": "[sex]"}
    given = (f"{name}={value}" for name, value in asked.items() if value is not None)
    return words.NOT_AUDITED.format(" ".join(("dp-risk audit", *given)))


def _strength(audit: Facts) -> list[str]:
    """Say what the audit could have seen: how long it looked, and its best bound."""
    part, lines = _part(audit), []
    if part is not None:
        lines.append(f"It was cut short: {part:.1%} of the planned observations were made.")
    chosen = audit.get("chosen") or {}
    bound, claimed = chosen.get("epsilon_lower_bound"), audit.get("claimed_epsilon")
    if bound is not None and claimed is not None:
        least = rounded_down(bound)
        if float(least) > 0:
            lines.append(
                f"It shows a leak of epsilon {least} at least, of the {claimed:g} claimed."
            )
        else:
            weak = "" if part is None else " It was too weak to tell."
            lines.append(f"It found no leak.{weak}")
    return lines


def _part(audit: Facts) -> float | None:
    """Return which part of the planned observations was made; None where all were."""
    made, wanted = (audit["canaries"].get(name) for name in ("inside", "wanted"))
    known = isinstance(made, int) and isinstance(wanted, int)
    return made / wanted if known and 0 <= made < wanted else None


def _metrics(utility: Facts) -> list[dict[str, Any]]:
    out = []
    for key, name in HEADLINES:
        facts = utility.get(key)
        facts = facts if isinstance(facts, Mapping) else {"value": facts}
        value, low, high = (facts.get(part) for part in ("value", "low", "high"))
        blind = low is not None and high is not None and high - low > _BLIND
        if value is not None and not blind:
            out.append({"name": name, "value": value, "low": low, "high": high})
    return out


def _points(frontier: Facts) -> list[dict[str, Any]]:
    """Take the point nearest to epsilon 1 of each line, and the lines without noise."""
    out = []
    for line in frontier["series"]:
        points = [p for p in line["points"] if p.get("auroc") and (p.get("epsilon") or 0) > 0]
        if points and not line["baseline"]:
            near = min(points, key=lambda p: abs(math.log(p["epsilon"])))
            name = f"{line['label']} at epsilon {near['epsilon']:g}: AUROC"
            out.append({"name": name, "value": near["auroc"]["mean"], "low": None, "high": None})
    for line in frontier["references"]:
        if line.get("auroc") and not line["baseline"]:
            name = f"{line['label']}: AUROC"
            out.append({"name": name, "value": line["auroc"]["mean"], "low": None, "high": None})
    return out


def _utility_words(report: Facts) -> list[str]:
    if report["kind"] == "frontier":
        counts = {p["count"] for s in report["frontier"]["series"] for p in s["points"]}
        single = [words.ONE_SEED] if counts == {1} else []
        return ["Means over seeds, on public held-out units.", *single]
    return {
        "exact": ["On public held-out units, with 95 % intervals."],
        "charged": ["Estimated from noisy releases, within the same epsilon; 95 % intervals."],
    }.get(str(report.get("utility_source")), [])


def _budget(sites: Sequence[Facts]) -> dict[str, Any] | None:
    known = [site for site in sites if site.get("epsilon_lifetime_left") is not None]
    if not known:
        return None
    least = min(known, key=lambda site: float(site["epsilon_lifetime_left"]))
    used, before = least.get("lifetime_used"), least.get("lifetime_used_before") or 0.0
    return {
        "site": str(least.get("site")),
        "left": least["epsilon_lifetime_left"],
        "of": least.get("epsilon_lifetime_budget"),
        "run": None if used is None else max(0.0, used - before),
        "rest": None if used is None else max(0.0, 1.0 - used),
    }


def _budget_words(report: Facts) -> list[str]:
    if report["kind"] == "frontier":
        return ["Every point had fresh simulated ledgers on public data: no real one was opened."]
    return []


def _accounting(report: Facts) -> dict[str, str]:
    """Say which sampler, noise, accountant and filter stand behind the figures of a run."""
    settings = report["settings"]
    if report["kind"] not in ("run", "frontier") or report["not_private"]:
        return {}
    found = {"noise": words.NOISE, "sampler": words.SAMPLERS[settings.get("q") == 1]}
    version = report["versions"].get("dp-accounting")
    if version:
        found["accountant"] = words.ACCOUNTANT.format(version)
    accounts = ((site.get("statement") or {}).get("account") or {} for site in report["sites"])
    orders = sorted({account["order"] for account in accounts if account.get("order")})
    if orders:
        found["filter"] = words.FILTER.format(", ".join(map(str, orders)))
    return found


def _losses(report: Facts) -> dict[str, Any] | None:
    settings = report["settings"]
    rounds, said = settings.get("rounds"), words.losses(settings)
    away = [
        {
            "site": str(site.get("site")),
            "rounds_joined": site["rounds_joined"],
            "missed": rounds - site["rounds_joined"],
        }
        for site in report["sites"]
        if rounds is not None and (site.get("rounds_joined") or 0) < rounds
        if site.get("rounds_joined") is not None
    ]
    if report["kind"] != "run" or not (said or away or report["dropped"] or report["doubts"]):
        return None
    return {
        "words": said or "Some sites did not take part in every round.",
        "away": away,
        "dropped": report["dropped"],
        "doubts": report["doubts"],
    }
