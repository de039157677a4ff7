from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dp_risk.audit import tails
from dp_risk.audit.tails import Tail, verdict


@pytest.mark.statistical
def test_continuous_p_values_are_uniform():
    # Kolmogorov-Smirnov at 1e-7 for each of three laws.
    x = np.random.default_rng(1).normal(size=(4000, 2, 9))
    squares = np.square(x)
    found = {
        "chi_square": tails.chi_square(squares[:, 0].sum(axis=1), 9),
        "cosine": tails.cosine(
            (x[:, 0] * x[:, 1]).sum(axis=1)
            / np.sqrt(squares[:, 0].sum(axis=1) * squares[:, 1].sum(axis=1)),
            9,
        ),
        "share": np.array([tails.share(s[0].sum() / s.sum(), 9, 9) for s in squares]),
    }
    for name, p_values in found.items():
        assert stats.kstest(p_values, "uniform").pvalue > 1e-7, name


@pytest.mark.parametrize(("trials", "rate"), [(0, 0.3), (1, 0.5), (7, 0.2), (40, 0.9)])
def test_binomial_p_values_hold_at_every_level(trials, rate):
    count = np.arange(trials + 1)
    mass = stats.binom.pmf(count, trials, rate)
    p_values = tails.binomial(count, trials, rate)
    for level in p_values:
        assert mass[p_values <= level].sum() <= level * (1 + 1e-9)


@pytest.mark.parametrize(("trials", "rate", "draws"), [(3, 0.01, 4), (30, 0.1, 3), (6, 0.5, 5)])
def test_dispersion_holds_at_every_level(trials, rate, draws):
    # The exact law of the capped squared scores, by enumeration of all outcomes.
    variance = trials * rate * (1 - rate)
    grid = np.indices((trials + 1,) * draws).reshape(draws, -1).T
    outcomes, repeats = np.unique(np.sort(grid, axis=1), axis=0, return_counts=True)
    chosen = np.random.default_rng(0).permutation(len(outcomes))[:300]
    mass = repeats * stats.binom.pmf(outcomes, trials, rate).prod(axis=1)
    squares = np.square(outcomes - trials * rate) / variance
    spread = np.minimum(squares, 64).sum(axis=1)
    for one in chosen:
        p_value, ratio = tails.dispersion(outcomes[one], trials, rate)
        below = mass[spread <= spread[one] + 1e-9].sum()
        assert ratio == pytest.approx(squares[one].mean())
        above = 1 - mass[spread < spread[one] - 1e-9].sum()
        assert p_value >= min(1, 2 * min(below, above)) * (1 - 1e-6) - 1e-14


def test_the_verdict_is_bonferroni():
    def decide(*p_values):
        found = [Tail(p_value=p, figure=f"p was {p}") for p in p_values]
        return verdict("x", found, "all well", alpha=0.01)

    assert decide(0.006, 0.5).passed
    assert not decide(0.004, 0.5).passed
    assert decide(0.006, 0.5).figure.startswith("all well")
    assert decide(0.004, 0.5).figure.startswith("p was 0.004")
    assert not decide(0.5, np.nan).passed


def test_no_test_at_all_says_so():
    check = verdict("x", [], "too little", alpha=0.01)
    assert check.passed
    assert check.figure == "not tested: too little"
