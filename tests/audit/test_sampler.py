from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dp_risk.audit.sampler import Batches, sampler
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import poisson_sample

UNITS, RATE, STEPS = 500, 0.1, 100
SIZE = int(UNITS * RATE)


def poisson(rng, units=UNITS, rate=RATE, steps=STEPS):
    return [np.flatnonzero(rng.random(units) < rate) for _ in range(steps)]


def check(steps, units=UNITS, rate=RATE):
    return sampler([Batches(site="site-00", units=units, steps=steps)], rate)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("units", "rate", "steps"), [(40, 0.1, 20), (200, 0.02, 5), (5, 0.5, 60), (1, 0.3, 30)]
)
def test_poisson_fails_as_often_as_stated(units, rate, steps):
    # At level .05 in 200 runs; never more than a binomial bound of 1e-7 allows.
    rng, runs, level = np.random.default_rng(1), 200, 0.05
    failed = sum(
        not sampler(
            [Batches(site="a", units=units, steps=poisson(rng, units, rate, steps))],
            rate,
            alpha=level,
        ).passed
        for _ in range(runs)
    )
    assert failed <= stats.binom.isf(1e-7, runs, level)


@pytest.mark.parametrize(("units", "rate", "steps"), [(2000, 0.05, 60), (300, 0.5, 40)])
def test_the_real_sampler_passes(units, rate, steps):
    randomness = Randomness.seeded(3)
    sites = [
        Batches(
            site=f"site-{i:02d}",
            units=units + i,
            steps=[poisson_sample(units + i, rate, randomness) for _ in range(steps)],
        )
        for i in range(3)
    ]
    assert sampler(sites, rate).passed


def shuffled(rng):
    steps = []
    while len(steps) < STEPS:
        steps += np.split(rng.permutation(UNITS), UNITS // SIZE)
    return steps


def with_replacement(rng):
    return [rng.integers(0, UNITS, SIZE) for _ in range(STEPS)]


def fixed_size(rng):
    return [rng.choice(UNITS, SIZE, replace=False) for _ in range(STEPS)]


def same(rng):
    return poisson(rng, steps=1) * STEPS


def two_in_turn(rng):
    return poisson(rng, steps=2) * (STEPS // 2)


def epochs_in_one_order(rng):
    return poisson(rng, steps=10) * (STEPS // 10)


def of_size(rng, members):
    """Batches whose sizes are binomial, so that only who is in them is wrong."""
    return [members(int(size)) for size in rng.binomial(UNITS, RATE, STEPS)]


def blocks(rng):
    return of_size(rng, lambda size: (rng.integers(UNITS) + np.arange(size)) % UNITS)


def strides(rng):
    return of_size(rng, lambda size: (rng.integers(UNITS) + 7 * np.arange(size)) % UNITS)


def one_subset(rng):
    return of_size(rng, lambda size: rng.choice(UNITS // 2, size, replace=False))


def one_unit_always(rng):
    return [np.union1d(step, [17]) for step in poisson(rng)]


def together(rng):
    return [
        np.flatnonzero(np.tile(rng.random(UNITS // 2) < RATE, 2)) for _ in range(STEPS)
    ]  # unit i and unit i + UNITS / 2


DEFECTS = {
    "shuffled": shuffled,
    "with replacement": with_replacement,
    "fixed size": fixed_size,
    "same batch": same,
    "two in turn": two_in_turn,
    "epochs in one order": epochs_in_one_order,
    "contiguous blocks": blocks,
    "strides": strides,
    "one subset": one_subset,
    "one unit always": one_unit_always,
    "pairs": together,
    "rate too high": lambda rng: poisson(rng, rate=1.2 * RATE),
    "rate too low": lambda rng: poisson(rng, rate=0.8 * RATE),
    "everyone": lambda rng: [np.arange(UNITS)] * STEPS,
    "no one": lambda rng: [np.arange(0)] * STEPS,
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_defects_are_caught(defect):
    assert not check(defect(np.random.default_rng(2))).passed


def test_a_defect_at_one_site_is_caught():
    rng = np.random.default_rng(2)
    sites = [Batches(site=f"site-{i}", units=UNITS, steps=poisson(rng)) for i in range(5)]
    sites.append(Batches(site="bad", units=UNITS, steps=shuffled(rng)))
    found = sampler(sites, RATE)
    assert not found.passed
    assert found.figure.startswith("bad")


@pytest.mark.parametrize("step", [[UNITS], [-1], [3, 3]])
def test_malformed_batches_fail(step):
    steps = [*poisson(np.random.default_rng(2)), np.array(step)]
    assert not check(steps).passed


def test_rate_one_reads_everyone():
    assert check([np.arange(UNITS)] * 3, rate=1.0).passed
    assert not check([np.arange(UNITS), np.arange(UNITS - 1)], rate=1.0).passed


def test_nothing_seen():
    assert not sampler([], RATE).passed
    assert not check([]).passed
    assert check([np.arange(0)], units=0).figure.startswith("not tested")


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.1, np.nan])
def test_rates_out_of_range_are_refused(rate):
    with pytest.raises(ValueError, match="sampling rate"):
        check([np.arange(3)], rate=rate)


@pytest.mark.parametrize("step", [np.zeros((2, 2), dtype=int), np.array([0.5])])
def test_steps_that_are_not_indices_are_refused(step):
    with pytest.raises(ValueError, match="unit indices"):
        check([step])


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="at least 0"):
        Batches(site="a", units=-1, steps=[])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 6),
    st.lists(st.lists(st.integers(-1, 7), max_size=6), max_size=5),
    st.floats(1e-6, 1),
)
def test_any_input_gets_an_answer(units, steps, rate):
    found = check([np.array(step, dtype=np.int64) for step in steps], units, rate)
    assert "\n" not in found.figure


def test_sites_that_draw_alike_are_caught():
    # Each site alone is as honest as can be; together one seed gives both away.
    sites = [
        Batches(
            site=f"site-{i:02d}",
            units=units,
            steps=[poisson_sample(units, RATE, Randomness.seeded(3, n)) for n in range(STEPS)],
        )
        for i, units in enumerate((UNITS, UNITS + 40))
    ]
    assert all(sampler([site], RATE).passed for site in sites)
    found = sampler(sites, RATE)
    assert not found.passed
    assert "alike" in found.figure
