"""How many observations the white-box audit asks for, and whether they are enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from dp_risk.audit.bounds import gaussian_epsilon, mu_from_errors
from dp_risk.audit.power import needed

RUN = {"sampling_rate": 0.25, "steps": 60, "delta": 1e-5}


def certified(mu, inside, *, sampling_rate, confidence=0.95, **run):
    """Epsilon bound at the expected errors."""
    outside, error = inside * (2 / sampling_rate - 1), norm.cdf(-mu / 2)
    bound = mu_from_errors(inside * error, inside, outside * error, outside, level=1 - confidence)
    return gaussian_epsilon(float(bound), sampling_rate=sampling_rate, **run)


@pytest.mark.parametrize("mu", [0.134, 0.43, 0.7, 3.0])
@pytest.mark.parametrize("share", [0.5, 0.85])
def test_it_is_the_smallest_number_that_reaches_the_share(mu, share):
    inside = needed(mu, share=share, confidence=0.95, **RUN)
    goal = share * gaussian_epsilon(mu, **RUN)
    assert certified(mu, inside, **RUN) >= goal * (1 - 1e-3)
    assert certified(mu, math.floor(inside * 0.97) - 1, **RUN) < goal


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 3), st.floats(0.3, 0.8), st.sampled_from([0.9, 0.95, 0.999]))
def test_more_is_needed_for_more(mu, share, confidence):
    def count(**changes):
        wanted = {"share": share, "confidence": confidence} | changes
        return needed(mu, sampling_rate=1.0, steps=20, delta=1e-5, **wanted)

    assert count() <= count(share=share + 0.1)
    assert count() <= count(confidence=1 - (1 - confidence) / 10)
    # Rare canaries are seen beside more observations without them.
    assert count(presence=0.25) <= count()


@pytest.mark.statistical
def test_about_half_of_all_audits_of_this_size_reach_the_share():
    mu, share, audits = 0.4, 0.85, 4000
    inside = needed(mu, sampling_rate=1.0, steps=20, delta=1e-5, share=share, confidence=0.95)
    goal = share * gaussian_epsilon(mu, 1e-5, steps=20)
    rng, error = np.random.default_rng(3), norm.cdf(-mu / 2)
    missed, false = rng.binomial(inside, error, (2, audits))
    found = mu_from_errors(missed, inside, false, inside, level=0.05)
    reached = np.mean([gaussian_epsilon(float(m), 1e-5, steps=20) >= goal for m in found])
    assert 0.4 < reached < 0.6


@pytest.mark.parametrize(
    "changes",
    [{"mu": 0.0}, {"mu": math.inf}, {"share": 0.0}, {"share": 1.0}, {"presence": 1.0}],
)
def test_arguments_out_of_range_are_refused(changes):
    arguments = {"mu": 1.0, "share": 0.8, "confidence": 0.95, **RUN} | changes
    with pytest.raises(ValueError, match="must be"):
        needed(**arguments)


def test_a_share_that_no_number_reaches_is_refused():
    with pytest.raises(ValueError, match="no number of observations"):
        needed(1e-4, sampling_rate=1.0, steps=1, delta=1e-9, share=0.99999, confidence=0.999)
