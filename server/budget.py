"""The server's view of every site's budget, from the sites' own statements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dp_risk.privacy.plan import Plan
from dp_risk.types import FederationError, RandomnessKind


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """What a site says of itself: policy and ledger, never a row.

    Parameters
    ----------
    statement : mapping
        The site's last statement.
    """

    statement: Mapping[str, Any]

    @property
    def site(self) -> str:
        """The site's name."""
        return str(self.statement["site"])

    @property
    def key(self) -> str:
        """The site's public key, in hexadecimal."""
        return str(self.statement["key"])

    @property
    def units(self) -> int | None:
        """Declared number of units, or None."""
        units = self.statement["units"]
        return None if units is None else int(units)


def check_together(views: list[SiteView], *, dataset: str) -> None:
    """Refuse a federation whose sites do not fit together.

    Raises
    ------
    FederationError
        On two sites of one name, another dataset, or where they do not agree on stable ids.
    """
    names = [view.site for view in views]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FederationError(f"two sites call themselves {twice[0]}")
    for view in views:
        if view.statement["dataset"] != dataset:
            raise FederationError(
                f"{view.site} holds dataset {view.statement['dataset']}, the run asks for {dataset}"
            )
        if view.statement["stable_ids"] != views[0].statement["stable_ids"]:
            raise FederationError(
                f"{view.site} and {views[0].site} do not agree on stable_ids: whether training "
                "and holdout have accounts of their own"
            )


def refusal_line(views: list[SiteView], plan: Plan) -> str:
    """Say what was asked and what the refusing sites have left, from their statements."""
    epsilon, delta = plan.epsilon, plan.delta
    for view in views:
        reason = _reason(view.statement, plan)
        if reason:
            return f"refused: {view.site} {reason}; nothing was computed"
    asked = "a run without noise" if epsilon is None else f"epsilon {epsilon:g}"
    least = min(views, key=lambda view: float(view.statement["left_epsilon"]))
    more = len(views) - 1
    others = f" (and {more} more site{'s' if more > 1 else ''})" if more else ""
    # Policies of before know no subgroups, and a statement does not tell what purposes it names.
    purposes = "; it asks for utility by subgroup: do the sites' policies name that purpose?"
    return (
        f"refused: the run asks {asked} at delta {delta:g}; {_left(least.statement)}{others}"
        f"{purposes if plan.subgroups else ''}; "
        "nothing was computed (a site's own log says which rule refused)"
    )


def _reason(said: Mapping[str, Any], plan: Plan) -> str | None:
    """Return why a site refused where its statement tells."""
    if said["schema"] != plan.schema:
        return "has another schema than the run"
    if said["unit"] != plan.unit:
        return f"protects each {said['unit']}, the run asks for unit {plan.unit}"
    if plan.epsilon is not None and said["delta"] != plan.delta:
        return (
            f"keeps its ledger at delta {said['delta']:g}, the run asks for delta {plan.delta:g}; "
            "an account never changes its delta"
        )
    if plan.randomness == RandomnessKind.SEEDED and not said["public"]:
        return "accepts no seeded randomness: its data is not public"
    if not plan.private and not said["public"]:
        return "answers nothing without noise: its data is not public"
    if said["retired"]:
        return "has retired its budget"
    if plan.max_records_per_account > said["max_records_per_account"]:
        return (
            f"lets {said['max_records_per_account']} records of an account take part, the run "
            f"asks for {plan.max_records_per_account}"
        )
    if min(plan.min_sites, len(plan.participants)) < said["min_sites"]:
        return f"takes part with {said['min_sites']} sites at least"
    return None


def _left(said: Mapping[str, Any]) -> str:
    return (
        f"{said['site']} has epsilon {said['left_epsilon']:.4g} of its lifetime "
        f"{said['lifetime_epsilon']:g} left at delta {said['delta']:g} "
        f"({said['lifetime_used']:.0%} of the filter used, at most {said['run_epsilon']:g} a run)"
    )
