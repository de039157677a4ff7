"""Reports of every kind, as facts: what the browser tests look at."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from dp_risk.report import build, build_audit
from dp_risk.report.facts.attach import attach as with_audit
from dp_risk.report.facts.comparison import Compared, build_comparison
from tests.report import test_audit as audits
from tests.report import test_subgroups as by_group

Facts = dict[str, Any]

CONFIG = "data:\n  name: spambase\nprivacy:\n  epsilon: 1.0\n"
LABELS = (
    "年龄段与全年家庭可支配收入水平",
    "مستوى الدخل السنوي للأسرة",
    "👩‍👩‍👧‍👦💳🏦",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "<b>not bold</b> &amp; <script>alert('x')</script>",
    "Страна проживания",
    "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW",
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The small facts of `tests/report`, of which larger reports are made."""

    run: Facts
    frontier: Facts
    shapes: list[Facts]
    rounds: list[Facts]
    estimates: Facts


def plain_run(parts: Parts) -> Facts:
    return build("run", parts.run, None, parts.shapes, CONFIG, parts.rounds)


def frontier(parts: Parts) -> Facts:
    return build("frontier", parts.run, parts.frontier, parts.shapes, CONFIG, parts.rounds)


def held(parts: Parts) -> Facts:
    return audits.facts(audits.audit())


def falsified(parts: Parts) -> Facts:
    found = audits.failing("gate", "sensitivity", "sampler")
    found["results"][0]["epsilon_lower_bound"] = 1.3
    found["evidence"]["sensitivity"] += [
        {"unit": "huge", "purpose": "training", "moved": 4.04, "allowed": 1.01},
        {"unit": "heavy", "purpose": "training", "moved": 1.2, "allowed": 1.01},
    ]
    return audits.facts(found)


def membership(parts: Parts) -> Facts:
    """Return an audit whose attack made fewer references than were wanted, controls in scripts."""
    found = audits.audit()
    seen = found["evidence"]["membership"]
    rates = [10.0 ** (-k / 30) for k in range(90, -1, -1)]
    seen |= {"members": 1900, "others": 1900, "references": 2, "wanted": 3}
    seen["roc"] = {"false_positive": rates, "true_positive": [r**0.98 for r in rates]}
    seen["controls"] = [
        seen["controls"][0]
        | {
            "name": name,
            "others": 1000,
            "roc": {"false_positive": rates, "true_positive": [r ** (0.4 + i / 9) for r in rates]},
        }
        for i, name in enumerate(LABELS[:4])
    ]
    return audits.facts(found)


def membership_left_out(parts: Parts) -> Facts:
    found = audits.audit()
    found["evidence"]["membership"] = {"left_out": f"too few units in {LABELS[3]}"}
    return audits.facts(found)


def attached(parts: Parts) -> Facts:
    """Return a run with an audit attached."""
    return with_audit(plain_run(parts), held(parts))


def distributed(parts: Parts) -> Facts:
    """Twelve sites under a secure sum, of which one was lost for three rounds."""
    sites = []
    for i in range(12):
        balance = {"spent_epsilon": 1.234, "left_epsilon": 8.766, "used": 0.031 * (i + 1)}
        change = {
            "sequence": 7,
            "time": "2026-01-02T03:04:05",
            "kind": "raise",
            "by": "A. Owner",
            "reason": "second year of the contract",
            "lifetime_epsilon": 15.0,
        }
        sites.append(
            parts.run["sites"][0]
            | {
                "site": f"hospital-{i:02d}",
                "units": None,
                "rounds_joined": 57 if i == 4 else 60,
                "epsilon_lifetime_budget": 10.0,
                "lifetime_used": 0.031 * (i + 1),
                "lifetime_used_before": 0.031 * i,
                "accounts": {"train": balance, "holdout": balance},
                "amendments": [change] if i == 2 else [],
            }
        )
    run = parts.run | {
        "trust": "distributed",
        "max_colluding": 2,
        "min_sites": 10,
        "spare_rounds": 12,
        "rounds_abandoned": 3,
        "answers_lost": 4,
        "sites": sites,
    }
    return build("run", run, None, [], CONFIG, parts.rounds)


def charged(parts: Parts) -> Facts:
    """Return a run over private rows, its utility estimated from charged histograms."""
    trials = [
        {"job": 0, "overrides": "train.rounds=60", "outcome": "done", "epsilon": 0.9, "auroc": 0.9},
        {"job": 1, "overrides": "train.rounds=90", "outcome": "refused: gone", "epsilon": None}
        | {"auroc": None},
    ]
    event = parts.run["charges"][0]["event"]
    paid = {"split": "holdout", "purpose": "evaluation", "event": event, "epsilon": 0.1}
    run = parts.run | {
        "estimates": parts.estimates,
        "utility": parts.estimates["metrics"],
        "utility_source": "charged",
        "charges": [*parts.run["charges"], paid],
        "search": {"job": 0, "epsilon": 1.501, "trials": trials},
    }
    return build("run", run, None, parts.shapes, CONFIG, parts.rounds)


def many_features(parts: Parts) -> Facts:
    bins = [f"in [{i}, {i + 1})" for i in range(40)]
    shapes = [
        {
            "feature": f"feature_{i:03d}",
            "kind": "bins",
            "x": bins,
            "y": [i * k / 9e3 for k in range(40)],
        }
        for i in range(200)
    ]
    config = CONFIG + "".join(f"feature_{i:03d}: {'x' * 90}\n" for i in range(200))
    return build("run", parts.run, None, shapes, config, parts.rounds)


def languages(parts: Parts) -> Facts:
    """Return a frontier whose names are of many scripts, very long or look like HTML."""
    facts = copy.deepcopy(parts)
    run, front = facts.run, facts.frontier
    run["sites"] = [run["sites"][0] | {"site": name} for name in LABELS]
    run["assumptions"] = list(LABELS)
    run["versions"] = dict.fromkeys(LABELS, "1.0")
    for point in list(front["points"]):
        front["points"].append(point | {"model": LABELS[0]})
        front["points"].append(point | {"model": LABELS[3]})
    front["baselines"] += [
        {"name": name, "epsilon": None, "seed": 0, "auroc": 0.97, "auprc": 0.96} for name in LABELS
    ]
    shapes: list[Facts] = [
        {"feature": name, "kind": "bins", "x": list(LABELS), "y": [0.1 * i for i in range(7)]}
        for name in LABELS
    ]
    return build("frontier", run, front, shapes, f"data:\n  name: {LABELS[1]}\n", facts.rounds)


def audit_of_languages(parts: Parts) -> Facts:
    found = audits.audit()
    found["evidence"]["subject"]["dataset"] = LABELS[0]
    found["evidence"]["sensitivity"] = [
        {"unit": name, "purpose": LABELS[1], "moved": 0.5, "allowed": 1.01} for name in LABELS
    ]
    found["results"] = [found["results"][0] | {"method": name} for name in LABELS]
    found["checks"] += [{"name": name, "passed": True, "figure": name} for name in LABELS]
    return build_audit(found, CONFIG, {"python": "3.11.2"}, "abc123")


def subgroups(parts: Parts) -> Facts:
    """Return a run whose utility is told by subgroup, one column of them in many scripts."""
    found = [
        by_group.entry(by_group.group("Female", 300, 0.625), by_group.group("Male", 700, 0.375)),
        by_group.entry(
            *(by_group.group(name, 100 + i, 0.4 + i / 20) for i, name in enumerate(LABELS)),
            column=LABELS[0],
        ),
    ]
    return build("run", parts.run | {"subgroups": found}, None, [], CONFIG, [])


def comparison(parts: Parts) -> Facts:
    """Three runs, one of them under a secure sum, with names in other scripts."""
    dear = copy.deepcopy(parts.run) | {"epsilon_target": 4.0, "epsilon_spent": 4.0}
    dear["utility"]["auroc"] = {"value": 0.99, "low": 0.985, "high": 0.995}
    dear["subgroups"] = [
        by_group.entry(by_group.group("Female", 300, 0.625), by_group.group("Male", 700, 0.375))
    ]
    reports = [plain_run(parts), build("run", dear, None, [], CONFIG, []), distributed(parts)]
    return build_comparison(
        [
            Compared(name=name, report=report, digest="0" * 64)
            for name, report in zip(("first", *LABELS[:2]), reports, strict=True)
        ]
    )


SAMPLES = {
    made.__name__: made
    for made in (
        *(plain_run, frontier, held, falsified, distributed, charged, many_features, languages),
        *(audit_of_languages, subgroups, comparison),
        *(membership, membership_left_out, attached),
    )
}
