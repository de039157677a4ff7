"""What would make a comparison mislead: one sentence each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dp_risk.audit.findings import FALSIFIED
from dp_risk.report.facts.comparing.rows import way
from dp_risk.report.facts.loose import leaf, listing, mapping, mappings

Facts = Mapping[str, Any]
_PAIRS_NAMED = 6
# (setting, what follows where it differs)
_SCOPE = (
    ("unit", "They protect different units: {}. An epsilon for one does not compare with one for "
     "the other."),
    ("adjacency", "Adjacency differs: {}. Changing a unit is up to twice adding or removing one."),
    ("delta", "Delta differs: {}. Epsilons compare at one delta only."),
    ("trust", "Trust differs: {}. The same epsilon holds against different observers."),
    ("max_colluding", "They hold against different numbers of colluding sites: {}."),
    ("max_sites_per_unit", "A unit may be at different numbers of sites: {}."),
    ("max_records_per_account", "An account may have different numbers of records: {}."),
    ("profile", "The audits' profiles differ: {}. A shorter audit finds less where there is as "
     "much to find."),
)  # fmt: skip


def cautions(
    kind: str, letters: str, reports: Sequence[Facts], measured: Sequence[Facts]
) -> list[dict[str, str]]:
    """Return ``[{about, words}]``, the gravest first; empty where nothing was found.

    Parameters
    ----------
    kind : {"run", "frontier", "audit"}
        Of all reports.
    letters : str
        One a report.
    reports : sequence of mapping
        The reference first, each with every part.
    measured : sequence of mapping
        What `measures` returned.
    """
    out = [
        *_identity(letters, reports),
        *_claims(kind, letters, reports),
        *_scope(kind, letters, reports),
        *_data(letters, reports),
        *(_utility(letters, reports) + _subgroups(letters, reports) if kind == "run" else []),
        *_intervals(kind, letters, measured),
        *_ledgers(letters, reports),
    ]
    return [{"about": about, "words": words} for about, words in out]


def _identity(letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    """Say which folders hold one and the same run."""
    ids = _groups(letters, [leaf(report["settings"].get("run")) for report in reports])
    return [
        ("run", f"{_all(who)} are copies of one run.")
        for value, who in ids.items()
        if value is not None and len(who) > 1
    ]


def _claims(kind: str, letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    out = []
    for letter, report in zip(letters, reports, strict=True):
        reasons = " ".join(map(str, listing(report["not_private"])))
        if reasons:
            about = "seeded" if report["settings"].get("randomness") == "seeded" else "not private"
            out.append((about, f"{letter} is not private and claims no epsilon. {reasons}"))
        elif kind == "run" and report["settings"].get("epsilon_spent") is None:
            out.append(("not private", f"{letter} has no epsilon on record, so it claims none."))
        if mapping(report["audit"]).get("verdict") == FALSIFIED:
            out.append(("verdict", f"{letter}: an audit falsified the claim. Do not rely on it."))
    return out


def _scope(kind: str, letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    found: list[Facts] = [report["settings"] for report in reports]
    if kind == "audit":
        found = [
            {
                **mapping(mapping(r["audit"]).get("subject")),
                "delta": mapping(r["audit"]).get("delta"),
            }
            for r in reports
        ]
    if kind == "frontier":
        found = [
            {**one, "trust": ", ".join(map(str, listing(report.get("trusts"))))}
            for one, report in zip(found, reports, strict=True)
        ]
    out = []
    for name, words in _SCOPE:
        values = [leaf(one.get(name)) for one in found]
        colluding = name == "max_colluding" and None in values
        if any(way(values[0], value) != "same" for value in values) and not colluding:
            out.append((name, words.format(_values(letters, values))))
    return out


def _data(letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    subjects = [report["subject"] for report in reports]
    if len(set(subjects)) > 1:
        words = "The data sets differ: {}. What was measured on one says nothing about the other."
        return [("dataset", words.format(_values(letters, subjects)))]
    return []


def _utility(letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    sources = [leaf(report["utility_source"]) if report["utility"] else None for report in reports]
    groups = _groups(letters, sources)
    missing = groups.pop(None, [])
    out = []
    if len(groups) > 1:
        words = {"exact": "computed exactly", "charged": "estimated from noisy releases"}
        said = ", ".join(f"{words.get(str(v), v)} for {_all(who)}" for v, who in groups.items())
        out.append(("utility", f"Utility is {said}: the intervals do not mean the same."))
    if missing and groups:
        out.append(("utility", f"{_all(missing)} {_have(missing)} no utility to compare."))
    return out


def _subgroups(letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    """Say where runs spent unlike parts of the evaluation's budget on subgroups."""
    columns = [
        ", ".join(
            str(entry.get("column"))
            for entry in mappings(report["subgroups"])
            if entry.get("source") == "charged"
        )
        or "none"
        for report in reports
    ]
    if len(set(columns)) == 1:
        return []
    words = (
        f"Subgroups by which utility was charged differ: {_values(letters, columns)}. They are "
        "paid out of the evaluation's budget, so that the intervals of the other estimates widen."
    )
    return [("subgroups", words)]


def _intervals(kind: str, letters: str, measured: Sequence[Facts]) -> list[tuple[str, str]]:
    """Say which runs the intervals of AUROC and AUPRC cannot tell apart."""
    found: dict[str, list[str]] = {}
    for one in measured:
        if one["key"] not in ("auroc", "auprc"):
            continue
        cells = [cell for row in one["rows"] for cell in row["cells"][1:]]
        unclear = sum(cell["way"] == "unclear" for cell in cells)
        if kind == "frontier" and unclear:
            words = (
                f"at {unclear} of {len(cells)} points the intervals over seeds overlap that of A, "
                "or there is one seed only"
            )
            found.setdefault(words, []).append(one["key"].upper())
        elif kind == "run" and one["unclear"]:
            words = _pairs(letters, one["unclear"])
            found.setdefault(words, []).append(one["key"].upper())
    return [
        ("intervals", f"{_all(names)}: {words}. Cannot tell which is better.")
        for words, names in found.items()
    ]


def _pairs(letters: str, unclear: Sequence[Sequence[int]]) -> str:
    of = len(letters) * (len(letters) - 1) // 2
    if len(unclear) == of:
        return f"the intervals of {_all(letters)} overlap"
    if len(unclear) > _PAIRS_NAMED:
        return f"the intervals of {len(unclear)} of {of} pairs overlap"
    pairs = [f"{letters[i]} with {letters[j]}" for i, j in unclear]
    return f"intervals overlap, {', '.join(pairs)}"


def _ledgers(letters: str, reports: Sequence[Facts]) -> list[tuple[str, str]]:
    """Say where a choice among runs costs what all of them cost."""
    keys = [
        {str(site["key"]) for site in mappings(report["sites"]) if site.get("key")}
        for report in reports
    ]
    who = [
        letter
        for i, letter in enumerate(letters)
        if any(keys[i] & other for j, other in enumerate(keys) if j != i)
    ]
    if not who:
        return []
    words = (
        f"{_all(who)} charged ledgers of the same sites. Whoever chooses among them has spent all "
        "of them: the lifetime budgets count that, the epsilon of one run does not."
    )
    return [("ledgers", words)]


def _groups(letters: str, values: Sequence[Any]) -> dict[Any, list[str]]:
    out: dict[Any, list[str]] = {}
    for letter, value in zip(letters, values, strict=True):
        out.setdefault(value, []).append(letter)
    return out


def _values(letters: str, values: Sequence[Any]) -> str:
    text: Callable[[Any], str] = lambda v: f"{v:g}" if isinstance(v, float) else str(v)  # noqa: E731
    named = ["not recorded" if value is None else text(value) for value in values]
    return ", ".join(f"{_all(who)} {value}" for value, who in _groups(letters, named).items())


def _all(who: Sequence[str]) -> str:
    return who[0] if len(who) == 1 else f"{', '.join(who[:-1])} and {who[-1]}"


def _have(who: Sequence[str]) -> str:
    return "has" if len(who) == 1 else "have"
