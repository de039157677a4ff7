"""A run's record against the plan whose digest the sites signed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dp_risk.cli.folders import parse
from dp_risk.privacy.accounting import rdp
from dp_risk.privacy.entries import GARBLED
from dp_risk.privacy.events import Event
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import PURPOSES, Purpose
from dp_risk.types import VerificationError

# Settings that a plan and the record call the same.
_PLANNED = (
    *("run", "dataset", "model", "trust", "unit", "delta", "clip_norm", "rounds", "stable_ids"),
    *("max_records_per_account", "max_sites_per_unit", "min_sites", "max_colluding"),
    *("randomness", "seed"),
)
# Another version of the accountant may round its grid otherwise.
RELATIVE = 1e-6
# No plan comes near: beyond these an epsilon is in the hundreds, or takes minutes to compute.
_LEAST_NOISE, _MOST_USES, _MOST_LOSS = 0.1, 10**6, 1e3
# How a record says that a column was lost: what was planned for it stays charged.
LOST = "the charge stands"


class Notes(Protocol):
    """Takes lines of what was checked and what was not."""

    def holds(self, line: str) -> None:
        """Note what was checked."""
        ...

    def missing(self, line: str) -> None:
        """Note what could not be checked."""
        ...

    def known(self, keys: Iterable[str]) -> bool:
        """Whether one of these keys was given."""
        ...


def check(folder: Path, record: Mapping[str, Any], notes: Notes, *, signed: bool) -> Plan | None:
    """Check the record against the plan; return the plan, None where there is none.

    Parameters
    ----------
    folder : Path
        The run folder.
    record : mapping
        Its `run.json`.
    notes : Notes
        What is told.
    signed : bool
        Whether a site's statement names the plan's digest.

    Raises
    ------
    VerificationError
        Naming the first thing in which they differ.
    """
    path, sites = folder / "plan.json", record.get("sites", [])
    if not path.exists():
        if any("no_statement" in site for site in sites):
            raise VerificationError(f"{path}: missing, and the program of run.json writes one")
        notes.missing("the plan that the sites signed the digest of: older programs kept none")
        return None
    try:
        plan = Plan.from_dict(parse(path.read_text())["plan"])
    except GARBLED:
        raise VerificationError(f"{path}: does not hold: no plan") from None
    if plan.digest != record["plan"]:
        raise VerificationError(f"{path}: not the plan whose digest run.json names")
    settings = {
        **{name: getattr(plan, name) for name in _PLANNED},
        "epsilon_target": plan.epsilon,
        "sigma": plan.noise_multiplier,
        "q": plan.sampling_rate,
        "steps": plan.rounds * plan.steps_per_round,
        "spare_rounds": plan.spares,
    }
    for name, value in settings.items():
        if record[name] != value:
            raise VerificationError(f"{path}: {name} is another than run.json says")
    if {str(site["site"]) for site in sites} != set(plan.participants):
        raise VerificationError(f"{path}: other sites take part than run.json says")
    if not same_charges(plan.schedule, record["charges"]):
        raise VerificationError(f"{path}: other charges than run.json says")
    if not signed and plan.private:
        check_price(plan.schedule)
        if not same_epsilon(plan.costs, record):
            raise VerificationError(f"{path}: another epsilon than run.json says")
    _subgroups(path, plan, record)
    who = "the sites signed" if signed else "run.json names, which no site signed"
    notes.holds(f"run.json has the settings, charges and sites of the plan that {who}")
    return plan


def _subgroups(path: Path, plan: Plan, record: Mapping[str, Any]) -> None:
    """Check that the columns that were charged are those of the plan."""
    entries = record.get("subgroups", ())
    charged = [entry["column"] for entry in entries if entry["source"] == "charged"]
    if not set(charged) <= set(plan.subgroups):
        raise VerificationError(f"{path}: other subgroups than run.json says")
    note = str(record.get("subgroups_note"))
    if len(charged) < len(plan.subgroups) and LOST not in note:
        raise VerificationError(f"{path}: subgroups that run.json does not tell of")


def same_charges(schedule: Sequence[Purpose], charges: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a record's charges are those of a schedule, in order."""
    said = [(line["split"], line["purpose"], line["event_json"]) for line in charges]
    return said == [(line.split, line.name, line.total.to_dict()) for line in schedule]


def same_epsilon(costs: Mapping[str, float], record: Mapping[str, Any]) -> bool:
    """Whether a record's epsilon is what its splits cost."""
    said = record["epsilon_by_split"]
    return (
        said is not None
        and set(said) == set(costs)
        and all(math.isclose(said[s], costs[s], rel_tol=RELATIVE) for s in said)
        and math.isclose(record["epsilon_spent"], max(costs.values()), rel_tol=RELATIVE)
    )


def check_price(schedule: Sequence[Purpose]) -> None:
    """Refuse charges that no plan has, before they are priced.

    A plan has one line a purpose, and one of them is sampled; without sampling any price is a
    formula.

    Raises
    ------
    VerificationError
        If there are more, or any takes too long to price.
    """
    totals = [line.total for line in schedule]
    events = [event for event in totals if isinstance(event, Event)]
    sampled = sum(event.sampling_rate < 1 for event in events)
    dear = sampled and any(map(_dear, events))
    if dear or sampled > 1 or len(schedule) > len(PURPOSES):
        raise VerificationError("its charges are none that a plan can have")


def _dear(event: Event) -> bool:
    noise = event.noise_multiplier
    if noise == 0:
        return False
    if noise < _LEAST_NOISE or event.count > _MOST_USES:
        return True
    # Two bounds of the mean privacy loss: it is convex in the sampling rate, and grows with orders.
    loss = event.sampling_rate * event.count / (2 * noise**2)
    return min(loss, rdp(event, 2)) > _MOST_LOSS
