"""The facts of a membership attack, safe to draw whatever an audit wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dp_risk.report.facts.loose import count, finite, listing, mapping, mappings

Facts = Mapping[str, Any]


def membership(evidence: Any) -> dict[str, Any] | None:
    """Return the attack and its controls, or why it was left out.

    None where there was none, or nothing of it is whole.

    Parameters
    ----------
    evidence : mapping
        ``evidence.membership`` of ``audit.json``.
    """
    facts = mapping(evidence)
    if facts.get("left_out"):
        return {"left_out": str(facts["left_out"]), "attacks": []}
    attacks = [_attack(facts, "the attack", None)]
    for control in mappings(facts.get("controls")):
        attacks.append(_attack(control, str(control.get("name")), control.get("expected")))
    whole = [attack for attack in attacks if attack is not None]
    if attacks[0] is None:
        return None
    return {
        "method": str(facts.get("method")),
        "references": count(facts.get("references")),
        "wanted": count(facts.get("wanted")),
        "population": count(facts.get("population")),
        "confidence": finite(facts.get("confidence")),
        "attacks": whole,
    }


def _attack(facts: Facts, label: str, expected: Any) -> dict[str, Any] | None:
    roc = mapping(facts.get("roc"))
    rates = [
        [_rate(x) for x in listing(roc.get(name))] for name in ("false_positive", "true_positive")
    ]
    others = count(facts.get("others"))
    if len(rates[0]) != len(rates[1]) or not rates[0] or None in rates[0] + rates[1] or not others:
        return None
    return {
        "label": label,
        "expected": None if expected is None else str(expected),
        "members": count(facts.get("members")),
        "others": max(1, others),
        **{name: finite(facts.get(name)) for name in ("auc", "auc_low", "auc_high")},
        "at": [
            {name: finite(at.get(name)) for name in ("rate", "true_positive", "low", "high")}
            for at in mappings(facts.get("tpr_at_fpr"))
        ],
        "false_positive": rates[0],
        "true_positive": rates[1],
    }


def _rate(value: Any) -> float | None:
    number = finite(value)
    return None if number is None or not 0 <= number <= 1 else number
