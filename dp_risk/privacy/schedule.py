"""What a run may ask of a site: purposes, their events and their sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dp_risk.privacy.accounting import AnyEvent, epsilon
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.shares import ShareGrid

TRAINING = "training"
COUNTS = "counts"
SCORE_BINS = "score_bins"
EVALUATION = "evaluation"
SUBGROUPS = "subgroups"
# What a site does by itself, on its own rows: no plan's schedule holds it, so no server can ask.
TUNING = "tuning"
PURPOSES = (COUNTS, TRAINING, SCORE_BINS, EVALUATION, SUBGROUPS, TUNING)
# Most cells of a histogram, so that the distance of its noise is known before its bins are.
MAX_CELLS = 512
# Cells of the histogram that finds the bins.
SCORE_CELLS = 256
# Most units of a site: in a secure sum, what goes beyond them is cut off.
MAX_UNITS = 10**7
# What is asked once in a run is asked so many times more at most, where sites are lost.
_SPARE_ANSWERS = 2
# Runs that one ledger account may hold, so that their distances have a known sum.
MAX_RUNS = 10_000


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """One line of a schedule: the same event in every one of `rounds` rounds.

    `split` names the account that pays.
    """

    name: str
    split: str
    event: AnyEvent
    rounds: int

    def __post_init__(self) -> None:
        if isinstance(self.rounds, bool) or not isinstance(self.rounds, int) or self.rounds < 1:
            raise ValueError("rounds must be a whole number, at least 1")

    @property
    def total(self) -> AnyEvent:
        """The event of all rounds together."""
        return dataclasses.replace(self.event, count=self.event.count * self.rounds)


@dataclass(frozen=True, kw_only=True)
class Summed:
    """What is summed for one purpose: the numbers that its grid is made of.

    Parameters
    ----------
    clip_norm : float
        L2 bound of what one unit adds, above 0.
    noise_multiplier : float
        Noise standard deviation over `clip_norm`, above 0.
    dimension : int
        Number of coordinates; for a histogram that has its bins later, the most cells.
    """

    clip_norm: float
    noise_multiplier: float
    dimension: int

    @property
    def grid(self) -> Grid:
        """The grid of a site that adds the whole noise itself."""
        return Grid(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
        )

    def shared(self, participants: int, max_colluding: int) -> ShareGrid:
        """Return the grid of so many sites that add a share of the noise each."""
        return ShareGrid(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
            participants=participants,
            max_colluding=max_colluding,
            units=MAX_UNITS,
        )


def answers(spares: int) -> int:
    """Return how often a plan with spare rounds may ask for what it needs once."""
    return 1 + min(spares, _SPARE_ANSWERS)


def spares_cost(rounds: int, spares: int) -> float:
    """Return how many times as large spare rounds make the noise of training.

    That of Gaussians that compose over ``rounds + spares`` instead of `rounds`; sampled ones need
    no more.
    """
    return math.sqrt((rounds + spares) / rounds)


def costs(schedule: Sequence[Purpose], delta: float) -> dict[str, float]:
    """Return the epsilon of a schedule in each account that it names (the run cost)."""
    lines: dict[str, list[AnyEvent]] = {}
    for line in schedule:
        lines.setdefault(line.split, []).append(line.total)
    return {split: epsilon(events, delta) for split, events in lines.items()}


def lifetime_excess(distance: float, epsilon: float, lifetime_epsilon: float) -> float:
    """Return what `MAX_RUNS` equal runs together add to the delta of a lifetime budget.

    A total variation distance t adds (1 + e^epsilon) t to delta, and distances add up over runs. A
    budget above 20 bounds nothing in practice and is weighed as 20; the run's own epsilon is
    weighed in full.

    Parameters
    ----------
    distance : float
        Total variation distance between what one run draws and what is accounted, at least 0.
    epsilon, lifetime_epsilon : float
        Of one run, and of the budget.
    """
    one_run = 1 + math.exp(min(epsilon, 700.0))
    all_runs = MAX_RUNS * (1 + math.exp(min(lifetime_epsilon, 20.0)))
    return max(one_run, all_runs) * distance
