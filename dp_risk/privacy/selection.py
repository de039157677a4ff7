"""Private selection: run a random number of candidates, let only the best one's output leave.

Sound only inside one trusted boundary: whoever sees more than the winner (another trial's output or
score, how many trials there were) sees what was not accounted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dp_risk.privacy.accounting import Event, Selection
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.randomness import Randomness

Private = TypeVar("Private", contravariant=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What one trial gives: its output, and how good it is, both with their noise."""

    arrays: Arrays
    score: float


class Candidate(Protocol[Private]):
    """A mechanism that also scores its output; all that it returns is covered by its event."""

    @property
    def event(self) -> Event:
        """What one trial costs, the score included."""
        ...

    def __call__(self, private: Private, randomness: Randomness) -> Scored:
        """Run one trial."""
        ...


@dataclass(frozen=True, kw_only=True)
class PrivateSelection(Generic[Private]):
    """The output of the best of a random number of trials of candidates drawn at random.

    Privacy
    -------
    Event Selection(the candidates' event, mean); a selection has no L2 sensitivity of its own
    (Papernot & Steinke 2022, "Hyperparameter tuning with Renyi differential privacy", Definition 1
    and Theorem 2 with eta = 1). One repetition draws a candidate uniformly and runs it, which costs
    the candidates' common event; then the selection stops with probability 1/mean. Both draws
    reject words of the stream until they are exactly uniform, so that they are at distance 0 from
    what is accounted. Among equal scores the first trial wins: trials are exchangeable, so this is
    a tie broken at random. How long a call takes is a residual channel: it tells how many trials
    there were. At a low order (the filter of a large lifetime budget) a selection may cost more
    than every candidate run once: the terms in log(mean) do not shrink with the noise.

    Parameters
    ----------
    candidates : tuple of Candidate
        Public; all of one event.
    mean : int
        Mean number of repetitions, at least 1.

    Raises
    ------
    ValueError
        If there is no candidate, the candidates cost different things or nothing bounds them.
    """

    candidates: tuple[Candidate[Private], ...]
    mean: int

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ValueError("a selection needs a candidate")
        if any(one.event != self.candidates[0].event for one in self.candidates):
            raise ValueError("the candidates of a selection must all cost the same")
        _ = self.event

    @property
    def event(self) -> Selection:
        """What one call costs."""
        return Selection(base=self.candidates[0].event, mean=self.mean)

    def __call__(self, private: Private, randomness: Randomness) -> Arrays:
        """Return the best trial's output and nothing else.

        Parameters
        ----------
        private : Private
            What every candidate takes.
        randomness : Randomness
            Bits for the draws and for the trials.

        Returns
        -------
        mapping of str to ndarray
            A score that is not a number loses against every other.
        """
        best: Scored | None = None
        stop = False
        while not stop:
            drawn = self.candidates[below(len(self.candidates), randomness)]
            trial = drawn(private, randomness)
            if best is None or trial.score > best.score or math.isnan(best.score):
                best = trial
            stop = below(self.mean, randomness) == 0
        assert best is not None
        return best.arrays


def below(bound: int, randomness: Randomness) -> int:
    """Return an exactly uniform whole number in [0, bound), for bound in [1, 2**64].

    Words beyond the last multiple of `bound` are drawn again.
    """
    if not 1 <= bound <= 2**64:
        raise ValueError("bound must lie in [1, 2**64]")
    limit = 2**64 - 2**64 % bound
    while (word := int(randomness.words(1)[0])) >= limit:
        pass
    return word % bound
