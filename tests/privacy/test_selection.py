from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.accounting import Event, Selection
from dp_risk.privacy.gaussian import GaussianSum
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.selection import PrivateSelection, Scored, below

# Level of one chi-square decision; the tests here make fewer than ten.
LEVEL = 1e-8


@dataclass(frozen=True)
class Noisy:
    """A candidate with a real mechanism: its output is its name and its score a noisy sum."""

    name: int
    noise: float = 2.0

    @property
    def event(self):
        return Event(noise_multiplier=self.noise)

    def __call__(self, private, randomness):
        score = GaussianSum(clip_norm=1.0, dimension=1, noise_multiplier=self.noise)
        total = float(score(private, randomness)["sum"][0]) + self.name
        return Scored(arrays={"name": np.array([float(self.name)])}, score=total)


class Spy:
    """A candidate without private input, which writes down every trial."""

    event = Event(noise_multiplier=1.0)

    def __init__(self, name, trials, scores=None):
        self.name, self.trials, self.scores = name, trials, scores

    def __call__(self, private, randomness):
        if self.scores is None:
            score = float(int(randomness.words(1)[0]) / 2**64)
        else:
            score = next(self.scores)
        trial = Scored(arrays={"trial": np.array([float(len(self.trials))])}, score=score)
        self.trials.append((self.name, score))
        return trial


def runs(mechanism, trials, n, seed=1):
    """Return the trials of each of `n` calls, and each call's output."""
    source, out = Randomness.seeded(seed), []
    for _ in range(n):
        trials.clear()
        arrays = mechanism(None, source)
        out.append((list(trials), arrays))
    return out


def spied(names, mean, cls=PrivateSelection):
    trials = []
    return cls(candidates=tuple(Spy(name, trials) for name in range(names)), mean=mean), trials


def repetitions_are_accounted(lengths, mean):
    """Whether repetitions may be geometric with this mean: chi-square over 15 cells at LEVEL."""
    law = stats.geom(1 / mean)
    edges = np.unique([0, *law.ppf(np.linspace(0, 1, 16)[1:-1]), np.inf])
    expected = np.diff(law.cdf(edges)) * len(lengths)
    observed = np.histogram(lengths, edges + 0.5)[0]
    return stats.chisquare(observed, expected).pvalue > LEVEL


@pytest.mark.statistical
@pytest.mark.parametrize("mean", [2, 5, 9])
def test_the_number_of_repetitions_is_the_accounted_one(mean):
    # Flake rate 1e-8 a decision; means that are off by a third are rejected.
    mechanism, trials = spied(3, mean)
    lengths = np.array([len(seen) for seen, _ in runs(mechanism, trials, n=6000)])
    assert lengths.min() == 1
    assert repetitions_are_accounted(lengths, mean)
    assert not repetitions_are_accounted(lengths, mean * 4 / 3)
    assert not repetitions_are_accounted(lengths, mean * 3 / 4)


@pytest.mark.statistical
def test_candidates_are_drawn_uniformly_and_independently():
    # Two chi-squares at LEVEL: single draws, and pairs of neighbouring draws.
    mechanism, trials = spied(5, 4)
    calls = [[name for name, _ in seen] for seen, _ in runs(mechanism, trials, n=6000)]
    single = np.bincount(np.concatenate(calls), minlength=5)
    assert stats.chisquare(single).pvalue > LEVEL
    pairs = [5 * a + b for names in calls for a, b in itertools.pairwise(names)]
    assert stats.chisquare(np.bincount(pairs, minlength=25)).pvalue > LEVEL
    tilted = single + np.array([1, 0, 0, 0, -1]) * single.sum() // 20
    assert stats.chisquare(tilted).pvalue < LEVEL


def only_the_best_leaves(calls):
    """Whether each call gave exactly the output of its best trial."""
    return all(
        set(arrays) == {"trial"}
        and arrays["trial"].shape == (1,)
        and int(arrays["trial"][0]) == int(np.argmax([score for _, score in seen]))
        for seen, arrays in calls
    )


def test_only_the_best_output_leaves():
    mechanism, trials = spied(4, 6)
    assert only_the_best_leaves(runs(mechanism, trials, n=500))


class FixedNumber(PrivateSelection):
    """Planted: the best of a fixed number of trials, charged as if it were random."""

    def __call__(self, private, randomness):
        drawn = [self.candidates[below(len(self.candidates), randomness)] for _ in range(self.mean)]
        return max((one(private, randomness) for one in drawn), key=lambda t: t.score).arrays


class EveryOnce(PrivateSelection):
    """Planted: every candidate once, in order, until the selection stops."""

    def __call__(self, private, randomness):
        done, stop = [], False
        while not stop:
            done.append(self.candidates[len(done) % len(self.candidates)](private, randomness))
            stop = below(self.mean, randomness) == 0
        return max(done, key=lambda t: t.score).arrays


class AllScores(PrivateSelection):
    """Planted: the scores of all trials leave with the winner."""

    def __call__(self, private, randomness):
        arrays = dict(super().__call__(private, randomness))
        return {**arrays, "scores": np.zeros(3)}


class TheLast(PrivateSelection):
    """Planted: the last trial wins."""

    def __call__(self, private, randomness):
        while True:
            trial = self.candidates[below(len(self.candidates), randomness)](private, randomness)
            if below(self.mean, randomness) == 0:
                return trial.arrays


@pytest.mark.statistical
def test_planted_mistakes_are_caught():
    # Each with certainty, or with probability above 1 - 1e-8.
    mechanism, trials = spied(4, 6, FixedNumber)
    lengths = np.array([len(seen) for seen, _ in runs(mechanism, trials, n=2000)])
    assert not repetitions_are_accounted(lengths, 6)
    mechanism, trials = spied(4, 6, EveryOnce)
    first = [seen[0][0] for seen, _ in runs(mechanism, trials, n=2000)]
    assert stats.chisquare(np.bincount(first, minlength=4)).pvalue < LEVEL
    for cls in (AllScores, TheLast):
        mechanism, trials = spied(4, 6, cls)
        assert not only_the_best_leaves(runs(mechanism, trials, n=500))


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=8), st.integers(0, 2**32))
def test_any_score_at_all_gives_the_best(scores, seed):
    trials, stream = [], iter(scores * 200)
    mechanism = PrivateSelection(candidates=(Spy(0, trials, stream),), mean=3)
    winner = int(mechanism(None, Randomness.seeded(seed))["trial"][0])
    seen = [score for _, score in trials]
    numbers = [score for score in seen if not math.isnan(score)]
    if numbers:
        assert seen[winner] == max(numbers)
        # The first of equals: exchangeable trials make that a tie broken at random.
        assert winner == seen.index(max(numbers))


def test_the_event_is_of_the_base_and_the_mean():
    mechanism = PrivateSelection(candidates=(Noisy(0), Noisy(1)), mean=7)
    assert mechanism.event == Selection(base=Event(noise_multiplier=2.0), mean=7)


@pytest.mark.parametrize(
    ("candidates", "mean", "said"),
    [
        ((), 3, "needs a candidate"),
        ((Noisy(0), Noisy(1, 3.0)), 3, "cost the same"),
        ((Noisy(0, 0.0),), 3, "has noise"),
        ((Noisy(0),), 0, "mean"),
        ((Noisy(0),), 1.5, "mean"),
    ],
)
def test_an_unsound_selection_is_refused(candidates, mean, said):
    with pytest.raises(ValueError, match=said):
        PrivateSelection(candidates=candidates, mean=mean)


@pytest.mark.parametrize(
    "rows",
    [np.zeros((0, 1)), np.full((3, 1), math.nan), np.full((3, 1), 1e308), np.zeros((2, 5)), None],
    ids=["none", "nan", "huge", "wrong shape", "nothing"],
)
def test_bad_rows_change_neither_what_leaves_nor_its_shape(rows):
    mechanism = PrivateSelection(candidates=(Noisy(0), Noisy(1)), mean=4)
    before = repr(mechanism)
    out = mechanism(rows, Randomness.system())
    assert set(out) == {"name"}
    assert out["name"].dtype == np.float64
    assert out["name"].shape == (1,)
    assert repr(mechanism) == before


def test_one_candidate_and_one_repetition_are_the_base_itself():
    mechanism, trials = spied(1, 1)
    assert all(len(seen) == 1 for seen, _ in runs(mechanism, trials, n=50))


def test_the_number_of_trials_is_never_logged(caplog):
    mechanism, _ = spied(2, 5)
    with caplog.at_level(logging.DEBUG):
        mechanism(None, Randomness.seeded(3))
    assert not caplog.records


@given(st.integers(1, 2**64), st.integers(0, 2**32))
def test_a_draw_below_a_bound(bound, seed):
    assert 0 <= below(bound, Randomness.seeded(seed)) < bound


class Script:
    """Randomness that says what it was told, word by word."""

    def __init__(self, *words):
        self.left = list(words)

    def words(self, size):
        said, self.left = self.left[:size], self.left[size:]
        assert len(said) == size
        return np.array(said, dtype=np.uint64)


def test_a_word_beyond_the_last_multiple_is_drawn_again():
    # 2**64 = 3 * 6148914691236517205 + 1: one word is too many.
    assert below(3, Script(2**64 - 1, 4)) == 1
    assert below(3, Script(2**64 - 2)) == 2
    assert below(2**63 + 1, Script(2**63 + 1, 2**64 - 1, 5)) == 5
    with pytest.raises(ValueError, match="bound"):
        below(0, Script())
