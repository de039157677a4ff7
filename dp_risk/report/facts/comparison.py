"""The facts of a comparison, as JSON: reports side by side, the first of them the reference."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dp_risk.report.facts import derived
from dp_risk.report.facts.comparing import parts
from dp_risk.report.facts.comparing.cautions import cautions
from dp_risk.report.facts.comparing.measures import by_group, measures, near_one
from dp_risk.report.facts.comparing.rows import Row, apart, differing, row
from dp_risk.report.facts.loose import configuration, leaf, listing, mapping, mappings, number
from dp_risk.report.facts.run import SCHEMA_VERSION
from dp_risk.report.facts.upgrade import upgrade
from dp_risk.types import ConfigurationError

FEWEST, MOST = 2, 8
KIND = "comparison"
KINDS = {"run": "runs", "frontier": "frontiers", "audit": "audits"}
LETTERS = "ABCDEFGH"
# Of any two runs these differ, and nothing follows.
_INCIDENTAL = ("run", "finished", "seconds", "peak_rss_mb")
_PLACES = ("run.dir",)
# A frontier's settings are those of one of its points.
_OF_ONE_POINT = {
    *("epsilon_spent", "epsilon_target", "epsilon_lifetime", "epsilon_search", "sigma", "units"),
    *("rounds_abandoned", "answers_lost", "positives", "ridge", "trust", "seed"),
}
_SENTENCES = (
    *("claim", "assumptions", "audit_assumptions", "not_audited", "residual", "unprotected"),
)
_GLANCE = {
    "run": ("epsilon_spent", "delta", "unit", "adjacency", "trust", "max_colluding"),
    "frontier": ("trusts", "delta", "unit", "adjacency", "max_colluding"),
    "audit": ("claimed_epsilon", "delta", "unit", "adjacency", "trust", "profile"),
}


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run folder of a comparison.

    Parameters
    ----------
    name : str
        What it is called, unlike the others.
    report : mapping
        Its ``report.json``, of this version or an older one.
    digest : str
        SHA-256 of that file, in hexadecimal.
    signer : str or None
        The public key that its manifest is signed with.
    """

    name: str
    report: Mapping[str, Any]
    digest: str
    signer: str | None = None


def build_comparison(runs: Sequence[Compared]) -> dict[str, Any]:
    """Return the facts of a comparison, ready for ``report.json``.

    Parameters
    ----------
    runs : sequence of Compared
        Two to eight of one kind, in the order of reading; the first is the reference.

    Returns
    -------
    dict
        JSON-serialisable, with every part that another report has (empty) and ``comparison``.

    Raises
    ------
    ConfigurationError
        On too few or too many, on kinds that do not compare, and on what is no report.
    """
    if not FEWEST <= len(runs) <= MOST:
        raise ConfigurationError(
            f"--compare: takes {FEWEST} to {MOST} run folders, not {len(runs)}"
        )
    reports = [_current(run) for run in runs]
    kind = str(reports[0]["kind"])
    for run, report in zip(runs, reports, strict=True):
        if report["kind"] not in KINDS:
            raise ConfigurationError(f"--compare: {run.name} holds no run, frontier or audit")
        if report["kind"] != kind:
            raise ConfigurationError(
                f"--compare: kinds differ: {runs[0].name} ({kind}), {run.name} ({report['kind']}); "
                "only folders of one kind compare"
            )
    return derived.complete(
        {
            **_EMPTY,
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "title": f"{len(runs)} {KINDS[kind]} side by side",
            "subject": ", ".join(dict.fromkeys(str(r["subject"]) for r in reports if r["subject"]))
            or None,
            **_compared(kind, runs, reports),
        }
    )


_EMPTY: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("frontier", "utility", "utility_source", "subgroups_note", "estimates", "search"),
            *("audit", "commit"),
        )
    ),
    **{
        name: []
        for name in (
            *(
                "not_private",
                "subgroups",
                "sites",
                "dropped",
                "doubts",
                "charges",
                "shapes",
                "rounds",
            ),
            *("assumptions", "audit_assumptions", "not_audited", "residual", "unprotected"),
        )
    },
    "settings": {},
    "versions": {},
    "configuration": "",
    "review": dict.fromkeys(("owner", "contact", "purpose", "review_by", "finished")),
}


def _current(run: Compared) -> dict[str, Any]:
    """Return a report of this version that has every part, be it empty."""
    try:
        report = upgrade(run.report)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ConfigurationError(f"{run.name}: its report.json is no report of dp-risk") from None
    out = {**_EMPTY, "kind": None, "subject": None, "claim": [], "summary": {}, "losses": None}
    out |= {name: value for name, value in report.items() if value is not None}
    out |= {name: mapping(out[name]) for name in ("settings", "versions", "summary")}
    return out | {"kind": str(out["kind"]), "subject": leaf(out["subject"])}


def _compared(
    kind: str, runs: Sequence[Compared], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    settings = _settings(kind, reports)
    configuration, equal_keys = differing(
        [_flat(report["configuration"]) for report in reports], but=_PLACES
    )
    versions, equal_versions = differing(
        [{**r["versions"], **({"commit": r["commit"]} if r["commit"] else {})} for r in reports]
    )
    measured = measures(kind, reports)
    checks = parts.checks(reports) if kind == "audit" else []
    letters = LETTERS[: len(runs)]
    unequal = [one for one in settings if not one["same"]]
    facts = {
        "of": kind,
        "runs": [
            {
                "letter": letter,
                "name": run.name,
                "subject": report["subject"],
                "digest": run.digest,
                "signer": run.signer,
                "utility_source": leaf(report["utility_source"]) if report["utility"] else None,
                **{name: leaf(report["settings"].get(name)) for name in _INCIDENTAL},
            }
            for letter, run, report in zip(letters, runs, reports, strict=True)
        ],
        "cautions": cautions(kind, letters, reports, measured),
        "glance": _glance(kind, reports, settings, measured),
        "settings": settings,
        "measures": measured,
        "subgroups": by_group(reports) if kind == "run" else [],
        "charges": parts.charges(reports),
        "budgets": parts.budgets(reports),
        "losses": parts.losses(reports) if kind == "run" else [],
        "sentences": {
            name: apart([[str(s) for s in listing(r[name])] for r in reports])
            for name in _SENTENCES
        },
        "sites": apart([[str(s.get("site")) for s in mappings(r["sites"])] for r in reports]),
        "checks": checks,
        "configuration": configuration,
        "versions": versions,
        "counts": {
            "runs": len(runs),
            "settings": len(settings),
            "settings_differ": len(unequal),
            "settings_same": len(settings) - len(unequal),
            "checks_same": sum(bool(one["same"]) for one in checks),
            "keys": len(configuration) + equal_keys,
            "keys_differ": len(configuration),
            "versions_same": equal_versions,
        },
    }
    words = [
        f"A, {runs[0].name}, is the reference; everything else is marked where it is not the same.",
        f"Of {len(settings)} settings and figures of the claim {len(unequal)} differ, and of "
        f"{len(configuration) + equal_keys} keys of the configuration {len(configuration)}.",
    ]
    return {"claim": words, KIND: facts}


def _settings(kind: str, reports: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a row for every setting that any of the reports has."""
    if kind == "audit":
        parts = [mapping(report["audit"]) for report in reports]
        found = [
            {
                "claimed_epsilon": audit.get("claimed_epsilon"),
                "delta": audit.get("delta"),
                **mapping(audit.get("subject")),
                **mapping(audit.get("plan")),
            }
            for audit in parts
        ]
    else:
        found = [dict(report["settings"]) for report in reports]
    if kind == "frontier":
        for one, report in zip(found, reports, strict=True):
            one["trusts"] = ", ".join(map(str, listing(report.get("trusts")))) or None
    hidden = {*_INCIDENTAL, *(_OF_ONE_POINT if kind == "frontier" else ())}
    names = dict.fromkeys(str(name) for one in found for name in one)
    return [
        row(name, [leaf(one.get(name)) for one in found]) for name in names if name not in hidden
    ]


def _glance(
    kind: str,
    reports: Sequence[Mapping[str, Any]],
    settings: Sequence[Row],
    measured: Sequence[Mapping[str, Any]],
) -> list[Row]:
    """Return the few rows that a decision hangs on."""
    known = {one["key"]: one for one in settings}
    if kind == "run":
        spent = [leaf(report["settings"].get("epsilon_spent")) for report in reports]
        for i, report in enumerate(reports):
            spent[i] = "none claimed" if report["not_private"] else spent[i]
        known["epsilon_spent"] = row("epsilon_spent", spent)
    rows = [known[name] for name in _GLANCE[kind] if name in known]
    if len({report["subject"] for report in reports}) > 1:
        rows.insert(0, row("dataset", [report["subject"] for report in reports]))
    if kind == "audit":
        audits = [mapping(report["audit"]) for report in reports]
        results = [mappings(audit.get("results")) for audit in audits]
        chosen = [
            mapping(audit.get("chosen")) or mapping(found[0] if found else None)
            for audit, found in zip(audits, results, strict=True)
        ]
        return [
            row("verdict", [leaf(audit.get("verdict")) for audit in audits]),
            *rows,
            row("lower_bound", [number(one.get("epsilon_lower_bound")) for one in chosen]),
            row("failures", [number(audit.get("failures")) for audit in audits]),
        ]
    if kind == "frontier":
        near = near_one(reports)
        rows += [
            {**line, "key": one["key"]}
            for one in measured
            for line in one["rows"]
            if one["key"] == "auroc" and line["label"] in near
        ]
    if kind == "run":
        rows += [
            {**one["rows"][0], "key": one["key"]}
            for one in measured
            if one["key"] in ("auroc", "auprc")
        ]
        rows += [one for one in parts.budgets(reports) if one["key"] == "left"]
        verdicts = [leaf(report["summary"].get("verdict")) for report in reports]
        rows.append(row("verdict", verdicts))
        rows += [one for one in parts.losses(reports) if one["key"] in ("rounds_abandoned", "away")]
    return rows


def _flat(config: Any) -> dict[str, str]:
    """Return a configuration as dotted keys and texts; lists stay whole."""
    tree = configuration(config)
    out: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", tree)] if isinstance(tree, Mapping) else []
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Mapping) and (value or not place):
            waiting += [
                (f"{place}.{key}" if place else str(key), item)
                for key, item in reversed(list(value.items()))
            ]
        else:
            text = json.dumps(value, default=str, ensure_ascii=False)
            out[place] = value if isinstance(value, str) else text
    return out
