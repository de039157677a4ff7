"""What can be counted: charges for steps, reads in mechanisms, units in splits, one unit's reach.

Nothing here is statistical. Each check fails closed where there was nothing to count.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dp_risk.audit.findings import Check
from dp_risk.types import Split

_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What ran on private rows for one round, as the spy counted it.

    Parameters
    ----------
    site, purpose : str
        Where, and what for.
    round : int
        Of the run.
    steps : int
        Noisy steps that ran.
    reads : int
        How often private rows were read.
    """

    site: str
    purpose: str
    round: int
    steps: int
    reads: int


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What the ledger holds for one round.

    Parameters
    ----------
    site, purpose : str
        Where, and what for.
    round : int
        Of the run.
    steps : int
        Steps that were paid.
    """

    site: str
    purpose: str
    round: int
    steps: int


def _closed(name: str, wrong: Mapping[str, int], figure: str) -> Check:
    """Pass where nothing is wrong; else say what, how often, and that none is allowed."""
    found = [f"{count} {what}" for what, count in wrong.items() if count]
    if not found:
        return Check(name=name, passed=True, figure=figure)
    return Check(name=name, passed=False, figure=f"{', '.join(found)}; allowed 0")


def steps_charged(
    seen: Sequence[Seen], charges: Sequence[Charge], plan_steps: Mapping[str, int]
) -> Check:
    """Reconcile what ran with what was paid.

    Every round that ran a step or read a row has exactly one charge, for at least as many steps,
    counted over all its repetitions; and at each site the charges of a purpose add up to the plan.

    Parameters
    ----------
    seen : sequence of Seen
        Entries of one round add up. None at all fail the check.
    charges : sequence of Charge
        A charge whose round never ran is spent all the same.
    plan_steps : mapping
        Steps of the whole schedule at each site, by purpose.
    """
    name = "steps_charged"
    if not any(one.steps or one.reads for one in seen):
        return Check(name=name, passed=False, figure="no step was seen on private rows")
    ran: Counter[tuple[str, str, int]] = Counter()
    for one in seen:
        if one.steps or one.reads:
            ran[one.site, one.purpose, one.round] += one.steps
    paid: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    totals: Counter[tuple[str, str]] = Counter()
    for charge in charges:
        paid[charge.site, charge.purpose, charge.round].append(charge.steps)
        totals[charge.site, charge.purpose] += charge.steps
    sites = {one.site for one in seen} | {site for site, _ in totals}
    purposes = set(plan_steps) | {purpose for _, purpose in totals}
    off = [
        (site, purpose)
        for site in sorted(sites)
        for purpose in sorted(purposes)
        if totals[site, purpose] != plan_steps.get(purpose, 0)
    ]
    wrong = {
        "rounds without a charge": sum(key not in paid for key in ran),
        "rounds charged more than once": sum(len(steps) > 1 for steps in paid.values()),
        "rounds that ran more steps than were paid": sum(
            key in paid and steps > sum(paid[key]) for key, steps in ran.items()
        ),
        "totals that are not the schedule's": len(off),
    }
    return _closed(
        name,
        wrong,
        f"{ran.total()} steps ran in {len(ran)} rounds at {len(sites)} sites;"
        f" {totals.total()} charged, {len(sites) * sum(plan_steps.values())} planned",
    )


@dataclass(frozen=True, kw_only=True)
class Read:
    """One read of private rows.

    Parameters
    ----------
    site, split : str
        Where, and which units.
    purpose : str, optional
        Of the paid round that the read happened in; None outside any.
    charged : bool
        Whether the ledger already held the charge.
    allowed_split : str, optional
        The split that the charge names; `both` pays for either.
    beyond_sample : int
        Units read that are not in the step's sample.
    """

    site: str
    split: str
    purpose: str | None
    charged: bool
    allowed_split: str | None
    beyond_sample: int


def reads_in_mechanisms(reads: Sequence[Read]) -> Check:
    """Find reads of private rows that nothing paid for.

    Parameters
    ----------
    reads : sequence of Read
        None at all fail the check: then the spy saw nothing.
    """
    name = "reads_in_mechanisms"
    if not reads:
        return Check(name=name, passed=False, figure="no read of private rows was seen")
    inside = [read for read in reads if read.purpose is not None]
    wrong = {
        "reads outside any paid round": len(reads) - len(inside),
        "reads before their charge": sum(not read.charged for read in inside),
        "reads of a split that the charge does not name": sum(
            read.allowed_split not in (read.split, Split.BOTH) for read in inside
        ),
        "reads beyond the step's sample": sum(read.beyond_sample > 0 for read in inside),
    }
    return _closed(name, wrong, f"{len(reads)} reads, all inside a charged round")


def _units(ids: Sequence[NDArray[Any]]) -> set[bytes]:
    units: set[bytes] = set()
    for array in ids:
        if array.ndim != 1 or (array.size and array.dtype.kind not in "SVO"):
            raise ValueError("unit ids are vectors of bytes")
        units.update(array.tolist())
    return units


def splits_disjoint(
    train_ids: Sequence[NDArray[Any]], holdout_ids: Sequence[NDArray[Any]]
) -> Check:
    """Count units that were read both for training and as holdout, in any of the runs.

    Parameters
    ----------
    train_ids, holdout_ids : sequence of ndarray of bytes, shape (units,)
        One a run or a read, in any number. No train unit fails the check; without a holdout unit
        there is nothing to test.

    Raises
    ------
    ValueError
        If ids are not vectors of bytes.
    """
    name = "splits_disjoint"
    train, holdout = _units(train_ids), _units(holdout_ids)
    if not train:
        return Check(name=name, passed=False, figure="no train unit was seen")
    if not holdout:
        return Check(name=name, passed=True, figure="not tested: no holdout unit was seen")
    return _closed(
        name,
        {"units in both splits": len(train & holdout)},
        f"0 units in both splits ({len(train)} train, {len(holdout)} holdout), allowed 0",
    )


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one unit more did to a release under equal noise.

    Parameters
    ----------
    name, purpose : str
        The unit, and the release.
    moved : float
        L2 distance between the two releases, at least 0.
    allowed : float
        The sensitivity that the plan charges, at least 0.
    raw_norm : float, optional
        Norm of the unit's contribution before clipping.
    least : float
        A smaller move shows that the probe does not work, at least 0.
    slack : float
        Rounding that the sensitivity does not count, at least 0.
    """

    name: str
    purpose: str
    moved: float
    allowed: float
    raw_norm: float | None = None
    least: float = 0.0
    slack: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the move is within both bounds; never for NaN."""
        return self.least <= self.moved <= self.allowed * (1 + _ROUNDING) + self.slack

    @property
    def share(self) -> float:
        """The move over the allowed one; infinite for NaN."""
        if math.isnan(self.moved) or self.allowed <= 0:
            return 0.0 if self.moved == 0 else math.inf
        return self.moved / self.allowed


def sensitivity(changes: Sequence[Change]) -> Check:
    """Compare what worst-case units moved with the charged sensitivity.

    Parameters
    ----------
    changes : sequence of Change
        None at all fail the check.
    """
    name = "sensitivity"
    if not changes:
        return Check(name=name, passed=False, figure="no unit was added to any release")
    broken = [change for change in changes if not change.holds]
    idle = [change for change in broken if change.moved < change.least]
    over = [change for change in broken if change not in idle]
    worst = max(over or idle or changes, key=lambda change: change.share)
    figure = f"{worst.name} moved {worst.purpose} by {worst.moved:.4g}, allowed {worst.allowed:.4g}"
    if idle and not over:
        figure += f", at least {worst.least:.4g} expected: the probe does not reach the release"
    heavy = [
        change.raw_norm / change.allowed
        for change in changes
        if change.raw_norm is not None and change.allowed > 0
    ]
    if heavy:
        figure += f"; before clipping the heavy unit is {max(heavy):.4g} times the allowed"
    return Check(name=name, passed=not broken, figure=f"{figure}; {len(changes)} changes")
