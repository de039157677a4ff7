"""A second opinion on what was charged, by formulas and a library of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import dp_accounting
from dp_accounting.rdp import RdpAccountant

from dp_risk.audit.bounds import gaussian_epsilon
from dp_risk.audit.findings import Check

# Numerical error of either side, in parts of the figure.
_TOLERANCE = 3e-3


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Steps of one Gaussian mechanism on Poisson samples.

    Parameters
    ----------
    noise_multiplier : float
        Noise over sensitivity, above 0.
    sampling_rate : float
        In (0, 1].
    steps : int
        At least 1.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An epsilon that somebody states, and what was spent under it.

    Parameters
    ----------
    name : str
        Who states it.
    epsilon, delta : float
        The claim.
    spent : sequence of Spent
        What was seen to run.
    order : int or None
        Renyi order of a filter's claim; None for the claim of a run.
    """

    name: str
    epsilon: float
    delta: float
    spent: Sequence[Spent]
    order: int | None = None

    @property
    def recomputed(self) -> float:
        """What the same spending costs at least.

        A run: exactly where nothing was sampled (Balle & Wang 2018), else by the privacy loss
        distribution of the dearest mechanism alone. A filter: Renyi-DP at its order
        (`dp_accounting`), converted by Canonne, Kamath & Steinke 2020, Proposition 12.
        """
        if not self.spent:
            return 0.0
        if self.order is not None:
            accountant = RdpAccountant([self.order])
            for part in self.spent:
                gaussian = dp_accounting.GaussianDpEvent(part.noise_multiplier)
                sampled = dp_accounting.PoissonSampledDpEvent(part.sampling_rate, gaussian)
                accountant.compose(sampled, part.steps)
            return float(accountant.get_epsilon(self.delta))
        if all(part.sampling_rate == 1 for part in self.spent):
            mu = math.sqrt(sum(part.steps / part.noise_multiplier**2 for part in self.spent))
            return gaussian_epsilon(mu, self.delta)
        return max(
            gaussian_epsilon(
                1 / part.noise_multiplier,
                self.delta,
                sampling_rate=part.sampling_rate,
                steps=part.steps,
            )
            for part in self.spent
        )


def accounting(claims: Sequence[Claim]) -> Check:
    """Check that no claim is below what was spent under it."""
    found = [(claim, claim.recomputed) for claim in claims]
    low = [(c, own) for c, own in found if own > c.epsilon * (1 + _TOLERANCE)]
    said = [f"{c.name}: {c.epsilon:.4g}, recomputed {own:.4g}" for c, own in low or found]
    return Check(name="accounting", passed=bool(found) and not low, figure="; ".join(said))
