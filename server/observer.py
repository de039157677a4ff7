"""Who watches a run."""

from __future__ import annotations

from typing import Protocol

from dp_risk.privacy.plan import Plan
from server.aggregation import Weights


class Observer(Protocol):
    """Watches a run; the estimate it returns must be computed from public rows or releases."""

    def planned(self, plan: Plan) -> None:
        """Hear the plan before the first charge."""
        ...

    def stepped(
        self, done: int, plan: Plan, epsilon_spent: float | None, at: Weights
    ) -> float | None:
        """Hear of `done` rounds; return an AUPRC or None. `epsilon_spent` is given now and then."""
        ...


class Silent:
    """An observer that does nothing."""

    def planned(self, plan: Plan) -> None:
        """Do nothing."""

    def stepped(self, *_: object) -> float | None:
        """Do nothing."""
        return None
