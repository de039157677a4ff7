"""From the answers of one round to a mean gradient, by the run's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.plan import Plan
from server import robust
from server.aggregation import parts
from server.combining import Sum
from server.robust import Rule


class Averaging:
    """One rule, for the sites of one run.

    The sum is divided by the expected batch of all its sites. Any other rule combines the sites'
    own mean gradients, a sum over the site's expected batch each.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    rule : Rule
        Which.
    byzantine : int
        Sites that may lie; 0 for a sum.
    sizes : mapping of site to float
        Declared or released numbers of units.
    noises : float
        How often a sum over all sites holds the noise that is accounted (`Summing.noises`).
    """

    def __init__(
        self, plan: Plan, *, rule: Rule, byzantine: int, sizes: Mapping[str, float], noises: float
    ) -> None:
        self._plan = plan
        self._rule = rule
        self._byzantine = byzantine
        self._sizes = sizes
        self._noises = noises
        if rule in (Rule.KRUM, Rule.MULTI_KRUM):
            # The quietest gradient is near to all: nobody makes its own so by a claim.
            believed = robust.believed(list(sizes.values()), byzantine)
            self._sizes = dict(zip(sizes, believed, strict=True))

    @property
    def apart(self) -> bool:
        """Whether the sites' own answers are needed."""
        return self._rule is not Rule.SUM

    @property
    def noise(self) -> float:
        """Standard deviation of the noise in one coordinate of a mean gradient of all sites."""
        plan, sizes = self._plan, list(self._sizes.values())
        std = plan.noise_multiplier * plan.clip_norm
        if self._rule is Rule.SUM:
            return std * math.sqrt(self._noises) / max(1.0, plan.sampling_rate * sum(sizes))
        # A liar's claim must not make noise look smaller than that of an honest site.
        sizes = robust.believed(sizes, self._byzantine)
        std *= math.sqrt(plan.steps_per_round)
        stds = [std / self._batch(size) for size in sizes]
        return robust.noise(self._rule, stds, self._byzantine, dimension=plan.dimension)

    def __call__(self, got: Sum) -> dict[str, NDArray[np.float64]]:
        """Return the mean gradient of a round.

        Parameters
        ----------
        got : Sum
            What came; for any rule but the sum with what each site released.

        Raises
        ------
        ValueError
            If too few sites are in it for the rule.
        """
        if self._rule is Rule.SUM:
            batch = self._batch(sum(self._sizes[site] for site in got.sites))
            return {name: array / batch for name, array in got.arrays.items()}
        shapes = {name: array.shape for name, array in got.arrays.items()}
        means = np.stack(
            [
                np.concatenate([got.each[site][name].ravel() for name in shapes])
                / self._batch(self._sizes[site])
                for site in got.sites
            ]
        )
        return parts(robust.combine(self._rule, means, self._byzantine), shapes)

    def _batch(self, units: float) -> float:
        return max(1.0, self._plan.sampling_rate * units * self._plan.steps_per_round)
