"""The batches that were read, against Poisson sampling at the charged rate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_risk.audit.findings import Check
from dp_risk.audit.tails import ALPHA, Tail, binomial, dispersion, verdict

_STEPS, _UNITS = 256, 4096  # Of which all pairs of batches are compared.
_PAIRED_UNITS = 256  # Of which all pairs are compared.


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """Which units each step of one site read.

    Parameters
    ----------
    site : str
        Name of the site.
    units : int
        How many there are, at least 0.
    steps : sequence of ndarray of int64, shape (batch,)
        Indices of units, in any order.

    Raises
    ------
    ValueError
        If a step is not a list of whole numbers.
    """

    site: str
    units: int
    steps: Sequence[NDArray[np.int64]]

    def __post_init__(self) -> None:
        if self.units < 0:
            raise ValueError("the number of units is at least 0")
        if any(s.ndim != 1 or (s.size and s.dtype.kind not in "iu") for s in self.steps):
            raise ValueError("a step is a vector of unit indices")


def _malformed(batches: Batches, rate: float) -> str | None:
    """Say what no sampler may do, whatever its law."""
    for number, step in enumerate(batches.steps):
        if step.size and not (step.min() >= 0 and step.max() < batches.units):
            return f"step {number} read a unit that does not exist"
        if len(np.unique(step)) != len(step):
            return f"step {number} read a unit more than once"
        if rate == 1 and len(step) != batches.units:
            return f"step {number} left out units at sampling rate 1"
    return None


def _members(
    steps: Sequence[NDArray[np.int64]], units: int, most_steps: int, most_units: int
) -> NDArray[np.float64]:
    """Return who was in which batch, shape (steps, units), of a fixed public sample of both."""
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(len(steps))[:most_steps])
    some = np.sort(generator.permutation(units)[:most_units])
    column = np.full(units, -1)
    column[some] = np.arange(len(some))
    members = np.zeros((len(chosen), len(some)))
    for row, step in enumerate(chosen):
        present = column[steps[step]]
        members[row, present[present >= 0]] = 1
    return members


def _together(members: NDArray[np.float64], rate: float) -> tuple[float, int, float]:
    """Return the smallest p-value of all pairs of rows, corrected, what they share, and expect.

    Given one row, its overlap with another is binomial.
    """
    overlap = (members @ members.T).astype(np.int64)
    row, column = np.triu_indices(len(overlap), 1)
    shared, size = overlap[row, column], overlap.diagonal()[row]
    p_values = binomial(shared, size, rate)
    worst = int(p_values.argmin())
    return float(p_values[worst]) * len(p_values), int(shared[worst]), float(size[worst] * rate)


def _neighbours(ordered: Sequence[NDArray[np.int64]], units: int, parity: int) -> tuple[int, int]:
    """Count members with a right neighbour, and how often that one was in the batch as well."""
    trials = both = 0
    for step in ordered:
        left = (step % 2 == parity) & (step < units - 1)
        trials += int(left.sum())
        both += int((left[:-1] & (np.diff(step) == 1)).sum())
    return trials, both


def _tails(batches: Batches, rate: float) -> Iterator[Tail]:
    units, steps = batches.units, [np.sort(step) for step in batches.steps]
    site, law = batches.site, f"Binomial({units}, {rate:g})"
    sizes = np.array([len(step) for step in steps])
    drawn = int(sizes.sum())
    yield Tail(
        p_value=float(binomial(drawn, units * len(steps), rate)),
        figure=f"{site}: rate {drawn / (units * len(steps)):.4g} of planned {rate:g}",
    )
    p_values = binomial(sizes, units, rate)
    worst = int(p_values.argmin())
    yield Tail(
        p_value=float(p_values[worst]) * len(sizes),
        figure=f"{site}: a batch of {sizes[worst]} units where {law} is due",
    )
    p_value, ratio = dispersion(sizes, units, rate)
    yield Tail(
        p_value=p_value,
        figure=f"{site}: variance of batch sizes is {ratio:.3f} of {law} ({len(steps)} steps)",
    )
    counts = np.bincount(np.concatenate(steps), minlength=units)
    law = f"Binomial({len(steps)}, {rate:g})"
    p_value, ratio = dispersion(counts, len(steps), rate)
    yield Tail(
        p_value=p_value,
        figure=f"{site}: variance of counts per unit is {ratio:.3f} of {law} ({units} units)",
    )
    p_values = binomial(counts, len(steps), rate)
    worst = int(p_values.argmin())
    yield Tail(
        p_value=float(p_values[worst]) * units,
        figure=f"{site}: a unit was read {counts[worst]} times where {law} is due",
    )
    # Given every second batch, the others' overlaps with it add up to one binomial count.
    shared = [
        len(np.intersect1d(one, two, assume_unique=True)) for one, two in itertools.pairwise(steps)
    ]
    for parity in (0, 1):
        trials, both = int(sizes[parity:-1:2].sum()), sum(shared[parity::2])
        yield Tail(
            p_value=float(binomial(both, trials, rate)),
            figure=f"{site}: consecutive batches share {both} units, expected {trials * rate:.1f}",
        )
        trials, both = _neighbours(steps, units, parity)
        yield Tail(
            p_value=float(binomial(both, trials, rate)),
            figure=f"{site}: neighbouring units come together {both} times,"
            f" expected {trials * rate:.1f}",
        )
    if len(steps) > 1:
        p_value, both, expected = _together(_members(steps, units, _STEPS, _UNITS), rate)
        yield Tail(
            p_value=p_value,
            figure=f"{site}: two batches share {both} units, expected {expected:.1f}",
        )
    if units > 1:
        p_value, both, expected = _together(_members(steps, units, _UNITS, _PAIRED_UNITS).T, rate)
        yield Tail(
            p_value=p_value,
            figure=f"{site}: two units come together {both} times, expected {expected:.1f}",
        )


def _between(one: Batches, two: Batches, rate: float) -> Tail:
    """Compare two sites that draw at the same time: the same seed would draw the same places."""
    units = min(one.units, two.units)
    pairs = [(a[a < units], b[b < units]) for a, b in zip(one.steps, two.steps, strict=False)]
    # Given the first site's batches, the second's overlaps with them add up to one binomial count.
    trials = sum(len(a) for a, _ in pairs)
    both = sum(len(np.intersect1d(a, b, assume_unique=True)) for a, b in pairs)
    return Tail(
        p_value=float(binomial(both, trials, rate)),
        figure=f"{one.site} and {two.site} draw {both} places alike, expected {trials * rate:.1f}",
    )


def sampler(batches: Sequence[Batches], sampling_rate: float, *, alpha: float = ALPHA) -> Check:
    """Compare the batches that were read with Poisson sampling.

    Sizes, counts per unit, and overlaps of batches, sites and pairs of units are binomial, exactly;
    the two dispersions use a Chernoff bound. At rate 1 every step must read every unit.

    Parameters
    ----------
    batches : sequence of Batches
        One for each site. No step at all fails the check; sites without units are not tested.
    sampling_rate : float
        The charged one, in (0, 1].
    alpha : float
        Probability of failing on an honest trainer.

    Raises
    ------
    ValueError
        If the sampling rate is out of range.
    """
    name = "sampler"
    if not 0 < sampling_rate <= 1:
        raise ValueError("a sampling rate lies in (0, 1]")
    steps = sum(len(one.steps) for one in batches)
    if not steps:
        return Check(name=name, passed=False, figure="no step was seen")
    for one in batches:
        if (wrong := _malformed(one, sampling_rate)) is not None:
            return Check(name=name, passed=False, figure=f"{one.site}: {wrong}")
    if sampling_rate == 1:
        return Check(name=name, passed=True, figure=f"rate 1: all units in each of {steps:,} steps")
    usable = [one for one in batches if one.steps and one.units]
    tails = [tail for one in usable for tail in _tails(one, sampling_rate)]
    tails += [_between(*pair, sampling_rate) for pair in itertools.combinations(usable, 2)]
    drawn = sum(len(step) for one in usable for step in one.steps)
    trials = sum(one.units * len(one.steps) for one in usable)
    summary = (
        f"rate {drawn / trials:.4g} of planned {sampling_rate:g} in {steps} steps, sizes, counts"
        " and overlaps as Poisson's"
        if trials
        else "no site has units"
    )
    return verdict(name, tails, summary, alpha=alpha)
