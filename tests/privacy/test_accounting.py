from __future__ import annotations

import json
import math

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy.accounting import (
    DELTA_RESERVE,
    Event,
    Filter,
    Selection,
    accountant,
    calibrate,
    calibrate_selection,
    epsilon,
    gaussian_epsilon,
    gaussian_mu,
    rdp,
    rdp_to_epsilon,
)
from dp_risk.privacy.events import decode
from dp_risk.privacy.schedule import Purpose, costs

DELTA = 1e-5
KEPT = DELTA * (1 - DELTA_RESERVE)


def event(noise=1.0, rate=1.0, count=1):
    return Event(noise_multiplier=noise, sampling_rate=rate, count=count)


def theirs(*events):
    total = [
        dp_event.SelfComposedDpEvent(
            dp_event.PoissonSampledDpEvent(
                e.sampling_rate, dp_event.GaussianDpEvent(e.noise_multiplier)
            ),
            e.count,
        )
        for e in events
    ]
    return dp_event.ComposedDpEvent(total)


@pytest.mark.parametrize("order", [2, 3, 8, 32, 256])
@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [(1.0, 0.01, 1000), (0.6, 0.3, 4), (4.0, 0.5, 80), (0.8, 1.0, 1), (20.0, 1.0, 300)],
)
def test_renyi_divergence_equals_the_reference(order, noise, rate, count):
    e = event(noise, rate, count)
    accountant = RdpAccountant(orders=[order]).compose(theirs(e))
    # An order of its own turns the reference's epsilon back into its divergence.
    expected = accountant.get_epsilon(KEPT)
    got = rdp_to_epsilon(rdp(e, order), order, DELTA)
    assert expected > 0
    assert got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "events",
    [
        [event(1.0, 0.01, 1000)],
        [event(0.7, 0.2, 5)],
        [event(3.0, 0.5, 60), event(20.0)],
        [event(2.0, 0.05, 100), event(4.0, 1.0, 3)],
    ],
)
def test_run_epsilon_equals_the_reference(events):
    fine = PLDAccountant(value_discretization_interval=1e-4).compose(theirs(*events))
    assert epsilon(events, DELTA) == pytest.approx(fine.get_epsilon(KEPT), abs=5e-3)
    assert epsilon(events, DELTA) >= fine.get_epsilon(KEPT) - 1e-9


@pytest.mark.parametrize(
    "events", [[event(3.0, 1.0, 7)], [event(0.9)], [event(8.0, 1, 80), event(20.0)]]
)
def test_full_batches_are_exact(events):
    reference = PLDAccountant(value_discretization_interval=1e-4).compose(theirs(*events))
    assert epsilon(events, DELTA) == pytest.approx(reference.get_epsilon(KEPT), abs=1e-3)


def test_a_known_figure():
    got = epsilon([event(1.0, 0.01, 1000)], DELTA)
    assert got == pytest.approx(1.828, abs=0.01)
    # Neither the central limit (1.618) nor Renyi (2.101).
    assert 1.82 < got < 1.84


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], DELTA) == 0
    assert epsilon([event(0.0)], DELTA) == math.inf
    assert epsilon([event(5.0), event(0.0, 0.1)], DELTA) == math.inf
    assert rdp(event(0.0, 0.1), 8) == math.inf


@pytest.mark.parametrize("delta", [0, 1, -1e-5, math.nan, 2])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon([event()], delta)


@pytest.mark.parametrize(
    ("target", "rate", "count", "others"),
    [
        (0.5, 1.0, 80, ()),
        (8.0, 1.0, 80, (event(30.0),)),
        (1.0, 0.1, 100, ()),
        (4.0, 0.05, 40, (event(10.0),)),
    ],
)
def test_calibration_is_tight(target, rate, count, others):
    noise = calibrate(target, DELTA, sampling_rate=rate, count=count, others=others)
    assert epsilon([event(noise, rate, count), *others], DELTA) <= target
    assert epsilon([event(noise * 0.999, rate, count), *others], DELTA) > target * 0.995
    # Less noise by a hundredth is over the target, not merely near it.
    assert epsilon([event(noise * 0.99, rate, count), *others], DELTA) > target


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_target_is_refused(target):
    with pytest.raises(ValueError, match="epsilon"):
        calibrate(target, DELTA, sampling_rate=1.0, count=1)


def test_other_charges_above_the_target_are_refused():
    with pytest.raises(ValueError, match="other charges"):
        calibrate(1.0, DELTA, sampling_rate=1.0, count=1, others=(event(1.0),))


noises = st.floats(0.3, 50.0)
rates = st.floats(1e-4, 1.0)
counts = st.integers(1, 500)


@given(noises, st.floats(1.01, 3.0), rates, counts, st.integers(2, 300))
def test_renyi_divergence_is_monotone(noise, factor, rate, count, order):
    e = event(noise, rate, count)
    cost = rdp(e, order)
    assert cost >= 0
    assert rdp(event(noise * factor, rate, count), order) <= cost * (1 + 1e-9) + 1e-12
    assert rdp(event(noise, rate / factor, count), order) <= cost * (1 + 1e-9) + 1e-12
    assert rdp(event(noise, rate, count + 1), order) >= cost
    assert rdp(e, order + 1) >= cost * (1 - 1e-9) - 1e-12


@given(st.floats(0.01, 20), st.floats(1.01, 3.0), st.floats(1e-9, 0.1))
def test_gaussian_epsilon_is_monotone_and_inverts(mu, factor, delta):
    cost = gaussian_epsilon(mu, delta)
    assert gaussian_epsilon(mu * factor, delta) >= cost
    assert gaussian_epsilon(mu, delta / factor) >= cost
    if cost > 1e-3:
        assert gaussian_mu(cost, delta) == pytest.approx(mu, rel=1e-5)


@settings(max_examples=5, deadline=None)
@given(st.floats(0.8, 4.0), st.floats(1.1, 2.0), st.floats(0.01, 0.4), st.integers(1, 50))
def test_run_epsilon_is_monotone(noise, factor, rate, count):
    cost = epsilon([event(noise, rate, count)], DELTA)
    assert epsilon([event(noise * factor, rate, count)], DELTA) <= cost + 1e-9
    assert epsilon([event(noise, rate / factor, count)], DELTA) <= cost + 1e-9
    assert epsilon([event(noise, rate, 2 * count)], DELTA) >= cost - 1e-9
    assert epsilon([event(noise, rate, count)], DELTA / 10) >= cost - 1e-9
    # Sampling can only help.
    assert cost <= epsilon([event(noise, 1.0, count)], DELTA) + 1e-2


@settings(max_examples=10, deadline=None)
@given(st.floats(0.8, 6.0), st.floats(0.01, 1.0), st.integers(1, 200), st.floats(0.5, 10))
def test_the_filter_never_undercuts_the_run(noise, rate, count, lifetime):
    # Renyi accounting at one order is an upper bound on the exact cost.
    events = [event(noise, rate, count)]
    account = Filter.open(lifetime, DELTA)
    assert account.epsilon(account.cost(events[0])) >= epsilon(events, DELTA) - 2e-2


@given(noises, rates, counts)
def test_an_event_survives_its_codec(noise, rate, count):
    e = event(noise, rate, count)
    assert Event.from_dict(json.loads(json.dumps(e.to_dict()))) == e


GOOD = event(1.5, 0.25, 3).to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "laplace"},
        {"kind": "dp_accounting.dp_event.GaussianDpEvent"},
        {"codec": 2},
        {"codec": None},
        {"extra": 1},
        {"count": True},
        {"count": 0},
        {"count": -1},
        {"count": 2.0},
        {"count": "3"},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": True},
        {"noise_multiplier": "1.5"},
        {"noise_multiplier": None},
        {"noise_multiplier": 10**400},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.0001},
        {"sampling_rate": math.nan},
        {"sampling_rate": True},
        {"sampling_rate": "0.1"},
    ],
    ids=str,
)
def test_an_unknown_event_is_refused(change):
    assert Event.from_dict(GOOD) == event(1.5, 0.25, 3)
    with pytest.raises(ValueError, match=r"."):
        Event.from_dict({**GOOD, **change})


@pytest.mark.parametrize("key", sorted(GOOD))
def test_an_incomplete_event_is_refused(key):
    with pytest.raises(ValueError, match="known kind"):
        Event.from_dict({k: v for k, v in GOOD.items() if k != key})


@given(st.floats(0.05, 50), st.floats(1e-9, 1e-3))
def test_the_filter_holds_exactly_its_lifetime(lifetime, delta):
    account = Filter.open(lifetime, delta)
    assert account.capacity > 0
    assert account.epsilon(account.capacity) == pytest.approx(lifetime)
    assert account.epsilon(account.capacity * 1.01) > lifetime
    assert account.epsilon(0.0) == 0
    # No other order would let one Gaussian be larger.
    assert all(
        account.capacity / account.order
        >= Filter(lifetime_epsilon=lifetime, delta=delta, order=o).capacity / o
        for o in (2, 3, 5, 9, 17, 64, 256)
    )


def test_a_budget_too_small_for_its_delta_is_refused():
    with pytest.raises(ValueError, match="too small"):
        Filter.open(1e-4, 1e-6)


def selected(noise=40.0, uses=14, mean=9, count=1, rate=1.0):
    return Selection(base=event(noise, rate, uses), mean=mean, count=count)


def their_selection(e):
    one = dp_event.PoissonSampledDpEvent(
        e.base.sampling_rate, dp_event.GaussianDpEvent(e.base.noise_multiplier)
    )
    best = dp_event.RepeatAndSelectDpEvent(
        dp_event.SelfComposedDpEvent(one, e.base.count), e.mean, 1
    )
    return dp_event.SelfComposedDpEvent(best, e.count)


SELECTIONS = [
    selected(),
    selected(mean=30),
    selected(3.0, 5, 4),
    selected(20.0, 3, 9, 2),
    selected(4.0, 20, 12, rate=0.1),
]


@pytest.mark.parametrize("e", SELECTIONS, ids=str)
def test_a_selection_costs_what_the_reference_says(e):
    # The reference has no order 1 for a sampled base; that is best for a mean of 1 alone.
    theirs = RdpAccountant(orders=range(2, 257)).compose(their_selection(e))
    assert epsilon([e], DELTA) == pytest.approx(theirs.get_epsilon(KEPT), rel=1e-6)
    # One event alone, at an order that a filter may have.
    account = Filter(lifetime_epsilon=10.0, delta=DELTA, order=4)
    assert account.epsilon(account.cost(e)) >= epsilon([e], DELTA)


def test_a_selection_composes_with_gaussians():
    e, others = selected(), [event(20.0), event(30.0, 1.0, 3)]
    reference = RdpAccountant(orders=range(2, 257))
    reference.compose(their_selection(e)).compose(theirs(*others))
    assert epsilon([e, *others], DELTA) == pytest.approx(reference.get_epsilon(KEPT), rel=1e-6)
    assert epsilon([e, event(0.0)], DELTA) == math.inf
    assert (accountant([e, *others]), accountant(others), accountant([])) == ("RDP", "PLD", "PLD")


def test_a_selection_of_one_costs_its_base():
    e = selected(mean=1)
    for order in (2, 7, 256, 3000):
        assert rdp(e, order) == pytest.approx(rdp(e.base, order))


@given(st.floats(2.0, 100.0), st.integers(1, 50), st.integers(2, 100), st.integers(2, 300))
def test_a_selection_is_monotone_and_dearer_than_its_base(noise, uses, mean, order):
    e = selected(noise, uses, mean)
    cost = rdp(e, order)
    assert cost > rdp(e.base, order)
    assert rdp(selected(noise, uses, mean + 1), order) >= cost
    assert rdp(selected(noise * 1.1, uses, mean), order) <= cost
    assert rdp(e, order + 1) >= cost
    assert rdp(selected(noise, uses, mean, 3), order) == pytest.approx(3 * cost)


@pytest.mark.parametrize(("target", "uses", "mean", "count"), [(1.0, 14, 9, 1), (4.0, 50, 30, 3)])
def test_calibration_of_a_selection_is_tight(target, uses, mean, count):
    noise = calibrate_selection(target, DELTA, uses=uses, mean=mean, count=count)
    assert epsilon([selected(noise, uses, mean, count)], DELTA) <= target
    assert epsilon([selected(noise * 0.999, uses, mean, count)], DELTA) > target


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf, 1e-4])
def test_a_target_that_no_selection_meets_is_refused(target):
    with pytest.raises(ValueError, match="epsilon"):
        calibrate_selection(target, DELTA, uses=10, mean=9)


def test_nothing_unknown_is_priced():
    for unknown in (dp_event.GaussianDpEvent(1.0), None, 1.0):
        with pytest.raises(ValueError, match="known kind"):
            rdp(unknown, 8)
        with pytest.raises(ValueError, match="known kind"):
            epsilon([unknown, event()], DELTA)


def test_rounds_of_a_selection_are_counted():
    line = Purpose(name="tuning", split="train", event=selected(count=2), rounds=3)
    assert line.total == selected(count=6)
    assert costs([line], DELTA)["train"] == epsilon([selected(count=6)], DELTA)


@given(noises, rates, counts, st.integers(1, 10**6), counts)
def test_a_selection_survives_its_codec(noise, rate, uses, mean, count):
    e = selected(noise, uses, mean, count, rate)
    assert decode(json.loads(json.dumps(e.to_dict()))) == e


SELECTED = selected().to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "gaussian"},
        {"kind": None},
        {"codec": 2},
        {"extra": 1},
        {"mean": 0},
        {"mean": 1.5},
        {"mean": True},
        {"mean": 10**6 + 1},
        {"mean": "9"},
        {"count": 0},
        {"count": True},
        {"base": None},
        {"base": SELECTED},
        {"base": {**GOOD, "noise_multiplier": 0.0}},
        {"base": {**GOOD, "extra": 1}},
    ],
    ids=str,
)
def test_an_unknown_selection_is_refused(change):
    assert decode(SELECTED) == selected()
    with pytest.raises(ValueError, match=r"."):
        decode({**SELECTED, **change})


@pytest.mark.parametrize("key", sorted(SELECTED))
def test_an_incomplete_selection_is_refused(key):
    with pytest.raises(ValueError, match="known kind"):
        decode({k: v for k, v in SELECTED.items() if k != key})
