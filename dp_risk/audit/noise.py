"""The size and the shape of noise, against the plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from dp_risk.audit.findings import Check
from dp_risk.audit.tails import ALPHA, Tail, binomial, chi_square, verdict

# With fewer draws a test says little, and the noise's grid begins to show.
ENOUGH = 8
_CUT = 1e100
_OFF_GRID = 1e-3
_LEVELS = (1e-3, 1e-2, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0)


def planned_step(
    sensitivity: float, noise_multiplier: float, dimension: int, *, shares: int = 1
) -> tuple[float, int]:
    """Return the step of the grid of an honest release, and the bits of its noise.

    By arithmetic of the audit's own: sums are rounded to a grid, the noise of each of `shares`
    sites has a standard deviation of 2**bits steps, and bits is the smallest number from 20 for
    which rounding, sqrt(dimension) steps, costs at most 1 % of the sensitivity
    (`docs/decisions/002-discrete-gaussian-grid.md`).
    """
    root = math.sqrt(dimension)
    bits = max(20, math.ceil(math.log2(101 * noise_multiplier * root / math.sqrt(shares))))
    accounted = math.sqrt(shares * 4.0**bits - 1 / 12)
    return sensitivity / (accounted / noise_multiplier - root), bits


def planned_std(
    sensitivity: float, noise_multiplier: float, dimension: int, *, shares: int = 1
) -> float:
    """Return the standard deviation of honest noise, all shares together.

    It is up to 1 % above the product of `sensitivity` and `noise_multiplier`, and never below.
    """
    step, bits = planned_step(sensitivity, noise_multiplier, dimension, shares=shares)
    return step * 2.0**bits * math.sqrt(shares)


@dataclass(frozen=True, kw_only=True, eq=False)
class Residuals:
    """Releases of one kind, of which nothing but noise is left.

    Parameters
    ----------
    name : str
        What was released.
    values : ndarray, shape (sites, rounds, coordinates)
        Independent Gaussians on an honest trainer.
    std : float
        Their planned standard deviation, above 0.
    centred : bool
        Whether each coordinate's unknown mean over the rounds of its site was subtracted.
    step : float or None
        Step of the grid that the values must lie on; None where they were changed since.

    Raises
    ------
    ValueError
        If the shape or the standard deviation is not as stated.
    """

    name: str
    values: NDArray[np.float64]
    std: float
    centred: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3:
            raise ValueError("residuals have the shape (sites, rounds, coordinates)")
        if not 0 < self.std < np.inf:
            raise ValueError("the planned standard deviation must be positive and finite")

    @property
    def scores(self) -> NDArray[np.float64]:
        """Values in planned standard deviations, cut where their squares would overflow."""
        with np.errstate(over="ignore"):
            return np.clip(self.values / self.std, -_CUT, _CUT)

    @property
    def rounds_worth(self) -> int:
        """Independent rounds: one less where the mean was subtracted."""
        return max(int(self.values.shape[1]) - int(self.centred), 0)

    @property
    def draws(self) -> int:
        """Degrees of freedom of all values together."""
        sites, _, coordinates = self.values.shape
        return int(sites) * self.rounds_worth * int(coordinates)


def unusable(name: str, groups: Sequence[Residuals]) -> Check | None:
    """Fail closed on no noise at all, and on what is not a number; None to go on."""
    if sum(group.draws for group in groups) == 0:
        return Check(name=name, passed=False, figure="no noise was seen")
    wrong = sum(int((~np.isfinite(group.values)).sum()) for group in groups)
    if wrong:
        return Check(name=name, passed=False, figure=f"{wrong} released values are not finite")
    return None


def noise_std(groups: Sequence[Residuals], *, alpha: float = ALPHA) -> Check:
    """Compare the noise's standard deviation with the plan, two-sided.

    Looked at are every group as a whole and every site, round, round of one site and coordinate
    that has at least 8 draws; all chi-square tests are exact.

    Parameters
    ----------
    groups : sequence of Residuals
        No draws at all fail the check; fewer than 8 in a group are not tested.
    alpha : float
        Probability of failing on an honest trainer.
    """
    name = "noise_std"
    if (refusal := unusable(name, groups)) is not None:
        return refusal
    tails: list[Tail] = []
    ratios: list[tuple[float, Residuals]] = []
    noiseless = 0
    for group in groups:
        sites, rounds, coordinates = group.values.shape
        square = np.square(group.scores)
        # A round keeps all its draws, but a subtracted mean takes 1/rounds of their variance.
        kept = group.rounds_worth / max(rounds, 1)
        families = {
            "in all": ((0, 1, 2), group.draws, 1.0),
            "of site {}": ((1, 2), group.rounds_worth * coordinates, 1.0),
            "of round {}": ((0, 2), sites * coordinates, kept),
            "of site {} in round {}": ((2,), coordinates, kept),
            "of coordinate {}": ((0, 1), sites * group.rounds_worth, 1.0),
        }
        for where, (axes, freedom, scale) in families.items():
            if freedom < ENOUGH or group.draws == 0:
                continue
            total = np.asarray(square.sum(axis=axes)) / scale
            p_values = chi_square(total, freedom)
            ratio = np.sqrt(total / freedom)
            worst = np.unravel_index(int(p_values.argmin()), p_values.shape)
            figure = (
                f"{group.name}: std {where.format(*worst)} is {ratio[worst]:.4f} of plan"
                f" ({freedom} draws)"
            )
            tails.append(Tail(p_value=float(p_values[worst]) * p_values.size, figure=figure))
            if axes == (0, 1, 2):
                ratios.append((float(ratio), group))
            if axes == (2,):
                noiseless += int(((p_values * p_values.size < alpha) & (ratio < 0.5)).sum())
    if not ratios:
        return verdict(name, [], f"fewer than {ENOUGH} draws in every group", alpha=alpha)
    ratio, group = max(ratios, key=lambda found: found[1].draws)
    level = alpha / len(tails) / 2
    low, high = np.sqrt(stats.chi2.ppf([level, 1 - level], group.draws) / group.draws)
    check = verdict(
        name,
        tails,
        f"{ratio:.4f} of the planned std over {group.draws:,} draws of {group.name},"
        f" allowed {low:.4f} to {high:.4f}; {len(ratios)} kinds of values",
        alpha=alpha,
    )
    if not noiseless:
        return check
    figure = f"{noiseless} rounds with less than half the noise; {check.figure}"
    return Check(name=name, passed=check.passed, figure=figure)


def noise_shape(groups: Sequence[Residuals], *, alpha: float = ALPHA) -> Check:
    """Compare the law of the noise with the Gaussian of the planned standard deviation.

    Kolmogorov-Smirnov with Massart's bound 2 exp(-2 n D^2) (1990, "The tight constant in the
    Dvoretzky-Kiefer-Wolfowitz inequality"), which holds for every n; exact binomial counts within
    nine distances from 0, which see tails that it does not; and the largest draw.

    Parameters
    ----------
    groups : sequence of Residuals
        Of centred values one round of each coordinate and site is taken: those are independent.
        No draws at all fail the check; fewer than 8 in a group are not tested.
    alpha : float
        Probability of failing on an honest trainer.
    """
    name = "noise_shape"
    if (refusal := unusable(name, groups)) is not None:
        return refusal
    tails: list[Tail] = []
    gaps: list[tuple[int, float, str]] = []
    for group in groups:
        if not group.draws:
            continue
        scores = group.scores
        if group.centred:
            sites, rounds, coordinates = scores.shape
            taken = np.add.outer(np.arange(sites), np.arange(coordinates)) % rounds
            scores = np.take_along_axis(scores, taken[:, None, :], axis=1)
            scores = scores / np.sqrt(1 - 1 / rounds)
        scores = np.sort(scores, axis=None)
        count = scores.size
        if count < ENOUGH:
            continue
        expected = special.ndtr(scores)
        steps = np.arange(count + 1) / count
        gap = float(max((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
        gaps.append((count, gap, group.name))
        tails.append(
            Tail(
                p_value=float(2 * np.exp(-2 * count * gap**2)),
                figure=f"{group.name}: {gap:.4f} from the Gaussian law ({count} draws)",
            )
        )
        size = np.sort(np.abs(scores))
        for level in _LEVELS:
            outside = count - int(np.searchsorted(size, level, side="right"))
            chance = special.erfc(level / np.sqrt(2))
            tails.append(
                Tail(
                    p_value=float(binomial(outside, count, chance)),
                    figure=f"{group.name}: {outside} of {count} draws beyond {level:g} std,"
                    f" expected {count * chance:.1f}",
                )
            )
        tails.append(
            Tail(
                p_value=float(2 * count * special.ndtr(-size[-1])),
                figure=f"{group.name}: a draw of {size[-1]:.1f} std among {count}",
            )
        )
    if not tails:
        return verdict(name, [], f"fewer than {ENOUGH} draws in every group", alpha=alpha)
    count, gap, shown = max(gaps)
    summary = (
        f"{gap:.4f} from the Gaussian law over {count:,} draws of {shown}, allowed"
        f" {np.sqrt(np.log(2 * len(tails) / alpha) / (2 * count)):.4f}; {len(gaps)} kinds of values"
    )
    return verdict(name, tails, summary, alpha=alpha)


def noise_grid(groups: Sequence[Residuals]) -> Check:
    """Check that released values are whole numbers of grid steps.

    Noise of floats gives itself away in its low bits (Mironov 2012, "On significance of the least
    significant bits for differential privacy").

    Parameters
    ----------
    groups : sequence of Residuals
        Those without a step are not looked at. None with one fail the check.
    """
    name = "noise_grid"
    looked = [(group, group.step) for group in groups if group.step is not None and group.draws]
    off, total = 0, 0
    for group, step in looked:
        steps = group.values / step
        # Numbers of up to 2**30 steps come back from floats far more exactly than this.
        off += int((np.abs(steps - np.rint(steps)) > _OFF_GRID).sum())
        total += steps.size
    if not total:
        return Check(name=name, passed=False, figure="no release was seen")
    figure = f"{off:,} of {total:,} released values are off the grid"
    return Check(name=name, passed=not off, figure=figure)
