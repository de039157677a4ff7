"""What an audit found, as it is written to `audit.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1
FALSIFIED, NOT_FALSIFIED = "falsified", "not falsified"
BOUND, CONDITIONAL, HEURISTIC = "bound", "conditional", "heuristic"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One deterministic or statistical check.

    Parameters
    ----------
    name : str
        Snake case; what a planted defect is caught by.
    passed : bool
        Whether it held.
    figure : str
        What was measured, and what was allowed, in one line.
    """

    name: str
    passed: bool
    figure: str


def every(checks: Sequence[Check]) -> Check:
    """Return one check that holds when all of some with the same name do.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not checks:
        raise ValueError("no checks")
    shown = next((check for check in checks if not check.passed), checks[0])
    more = f"; {len(checks) - 1} more alike" if shown.passed and len(checks) > 1 else ""
    return dataclasses.replace(shown, figure=shown.figure + more)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One empirical lower bound on epsilon.

    Parameters
    ----------
    method : str
        How it was found.
    canaries, observations : int
        Distinct canaries, and how many times one of them was looked at.
    confidence : float
        In (0, 1).
    epsilon_lower_bound : float
        At least 0, at the claim's delta.
    ceiling : float
        What a perfect attack with as many observations would certify.
    guarantee : str
        `bound` holds without conditions, `conditional` under the stated `assumptions`,
        `heuristic` is neither.
    assumptions : sequence of str
        What the bound needs.
    """

    method: str
    canaries: int
    observations: int
    confidence: float
    epsilon_lower_bound: float
    ceiling: float
    guarantee: str
    assumptions: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """An audit's outcome.

    Parameters
    ----------
    claimed_epsilon, delta : float
        The claim.
    gate_level : float
        Probability of falsifying an honest claim by the gate, per audit.
    gate_epsilon : float
        The bound that the gate compares with the claim, at confidence ``1 - gate_level``.
    results : sequence of Result
        Bounds, each at its own confidence; the first is of the method that was chosen beforehand.
    checks : sequence of Check
        All checks, the gate among them.
    evidence : mapping
        Plain JSON for plots and tables: what was configured and what was seen.
    """

    claimed_epsilon: float
    delta: float
    gate_level: float
    gate_epsilon: float
    results: Sequence[Result]
    checks: Sequence[Check]
    evidence: Mapping[str, Any]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that did not hold."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def verdict(self) -> str:
        """`falsified` when any check failed; never "verified"."""
        return FALSIFIED if self.failed else NOT_FALSIFIED

    def to_dict(self) -> dict[str, Any]:
        """Encode as the content of `audit.json`.

        Its bound is that of the first result: the largest of several would not hold at their
        confidence.
        """
        first = self.results[0].epsilon_lower_bound if self.results else 0.0
        return {
            "schema_version": SCHEMA_VERSION,
            "claimed_epsilon": self.claimed_epsilon,
            "delta": self.delta,
            "epsilon_lower_bound": first,
            "gate": {"level": self.gate_level, "epsilon_lower_bound": self.gate_epsilon},
            "verdict": self.verdict,
            "results": [dataclasses.asdict(result) for result in self.results],
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "evidence": dict(self.evidence),
        }
