"""One suite that every mechanism passes."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
import pkgutil
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

import dp_risk.privacy
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.mechanism import Mechanism
from dp_risk.privacy.randomness import Randomness
from tests.conformance.cases import CASES, NOISE, SECRET, Rows, one, rows

DRAWS = 800
# Two-sided level of one decision about a standard deviation.
LEVEL = 1e-8
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def noise_of(case, noise, draws=DRAWS, data=None):
    """Return at least `draws` values of noise: the same input every time, minus its mean output."""
    data = rows(6) if data is None else data
    mechanism = case.build(noise)
    outputs, seed = [], 0
    exact = baseline(case, data)
    while sum(o.size for o in outputs) < draws:
        outputs.append(case.run(mechanism, data, Randomness.seeded(31, case.name, seed)) - exact)
        seed += 1
    return np.concatenate(outputs)[:draws]


def baseline(case, data):
    """Return what leaves before noise: by noise so small that it is only rounding."""
    return case.run(case.build(1e-5), data, Randomness.seeded(1))


def has_std(values, std):
    """Whether values with mean zero may have this standard deviation, two-sided at LEVEL."""
    ratio = (values**2).sum() / std**2
    low, high = stats.chi2.ppf([LEVEL / 2, 1 - LEVEL / 2], len(values))
    # The grid adds at most about 1 % to the standard deviation.
    return low <= ratio <= high * 1.0105**2


@every_case
@pytest.mark.statistical
def test_noise_has_its_accounted_standard_deviation(case):
    # Flake rate below 1e-7 for each decision: accepting sigma at LEVEL; with 800 values, noise of
    # sigma passes as 2/3 or 3/2 sigma with probability below 1e-20.
    values = noise_of(case, NOISE)
    std = NOISE * case.bound
    assert has_std(values, std)
    assert not has_std(values, std * 2 / 3)
    assert not has_std(values, std * 3 / 2)
    assert abs(values.mean()) < 6 * std / math.sqrt(len(values))


@every_case
@pytest.mark.statistical
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_the_check_of_noise_rejects_a_wrong_mechanism(case, factor):
    assert not has_std(noise_of(case, NOISE * factor), NOISE * case.bound)


@every_case
@pytest.mark.statistical
def test_noise_does_not_shrink_with_the_data(case):
    # Same level as above, for no unit and for many.
    for data in (rows(0), rows(300)):
        assert has_std(noise_of(case, NOISE, data=data), NOISE * case.bound)


@every_case
@pytest.mark.statistical
def test_noise_is_independent_across_calls(case):
    # Correlation of neighbouring calls within 6 / sqrt(n): flake rate below 1e-8.
    data, mechanism = rows(6), case.build(NOISE)
    size = baseline(case, data).size
    calls = [
        case.run(mechanism, data, Randomness.seeded(32, n)) for n in range(max(20, 400 // size))
    ]
    noise = np.array(calls) - baseline(case, data)
    first, second = noise[:-1].ravel(), noise[1:].ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / math.sqrt(len(first) / 2)
    assert len({call.tobytes() for call in calls}) > 0.97 * len(calls)


@every_case
def test_one_stream_gives_two_noises_and_two_streams_of_one_key_give_one(case):
    data, mechanism = rows(6), case.build(1000.0)
    source = Randomness.seeded(33)
    first, second = (case.run(mechanism, data, source) for _ in range(2))
    assert (first != second).all()
    assert (case.run(mechanism, data, Randomness.seeded(33)) == first).all()
    fresh = [case.run(mechanism, data, Randomness.system()) for _ in range(2)]
    assert (fresh[0] != fresh[1]).all()


WORST = [
    pytest.param(one(1e6, label), id=f"gradient of norm 1e6, label {label:g}") for label in (0, 1)
] + [
    pytest.param(one(1e3, 1e9), id="a label of 1e9"),
    pytest.param(one(1e-3, 0.0), id="an ordinary unit"),
]


@every_case
@pytest.mark.parametrize("unit", WORST)
@pytest.mark.parametrize("others", [0, 1, 40])
def test_one_unit_moves_the_sum_by_at_most_the_sensitivity(case, unit, others):
    mechanism = case.build(1e-5)
    assert mechanism.sensitivity == case.bound
    base = rows(others)
    without = baseline(case, base)
    more = baseline(case, base.plus(unit))
    less = baseline(case, unit.plus(base))
    # Noise of 1e-5 sensitivities a coordinate and its grid are what remains.
    slack = case.bound * 1e-4 * math.sqrt(without.size)
    for changed in (more, less):
        assert np.linalg.norm(changed - without) <= case.bound + slack
    # The order of units makes no difference.
    assert np.linalg.norm(more - less) <= slack


@every_case
def test_a_heavy_unit_counts_in_full(case):
    # A bound that nothing reaches (the mean clipped, or too much clipped) is a defect as well.
    base = rows(40)
    moved = np.linalg.norm(baseline(case, base.plus(case.heavy)) - baseline(case, base))
    assert moved == pytest.approx(case.bound, rel=1e-2)


@every_case
def test_a_wrong_bound_would_be_found(case):
    # Two heavy units move the sum by twice the sensitivity: the check above can fail.
    base, heavy = rows(3), case.heavy
    moved = np.linalg.norm(baseline(case, base.plus(heavy).plus(heavy)) - baseline(case, base))
    assert moved > 1.5 * case.bound


STRANGE = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "huge": 1e308,
    "minus huge": -1e308,
    "overflows when squared": 1e200,
    "denormal": 5e-324,
    "zero": 0.0,
}


@every_case
@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("where", ["value", "label"])
def test_a_strange_unit_is_bounded_and_spoils_nobody_else(case, kind, where):
    value = STRANGE[kind]
    unit = one(value) if where == "value" else one(label=value)
    base = rows(10)
    without, changed = baseline(case, base), baseline(case, base.plus(unit))
    assert np.isfinite(changed).all()
    slack = case.bound * 1e-4 * math.sqrt(without.size)
    assert np.linalg.norm(changed - without) <= case.bound + slack
    if case.reads and not math.isfinite(value):
        # What is not finite contributes zero.
        assert np.linalg.norm(changed - without) <= slack


@every_case
@pytest.mark.statistical
def test_only_strange_units_still_leave_with_full_noise(case):
    # Level as above.
    data = one(math.nan).plus(one(math.inf)).plus(one(label=math.nan))
    values = noise_of(case, NOISE, data=data)
    assert np.isfinite(values).all()
    assert has_std(values, NOISE * case.bound)


@every_case
@pytest.mark.parametrize("count", [0, 1])
def test_few_units_have_the_same_shape_and_type(case, count):
    mechanism = case.build(NOISE)
    few = case.run(mechanism, rows(count), Randomness.seeded(1))
    many = case.run(mechanism, rows(50), Randomness.seeded(1))
    assert few.shape == many.shape
    assert few.dtype == many.dtype == np.float64


@every_case
def test_the_event_says_what_is_drawn(case):
    assert case.build(NOISE).event.noise_multiplier == NOISE
    assert case.build(NOISE).event.count == 1
    assert case.build(NOISE).sensitivity == case.bound
    rate = 0.25 if case.sampled else 1.0
    assert case.build(NOISE, 0.25).event == Event(noise_multiplier=NOISE, sampling_rate=rate)


@every_case
def test_a_mechanism_holds_no_private_data(case):
    mechanism = case.build(NOISE)
    before = repr(mechanism)
    case.run(mechanism, rows(20), Randomness.seeded(1))
    assert repr(mechanism) == before
    assert not any(isinstance(v, Rows | np.ndarray) for v in vars(mechanism).values())
    with pytest.raises(AttributeError):
        mechanism.noise_multiplier = 0.0


def pairs(field):
    """Return every case with each of its named inputs."""
    return [
        pytest.param(case, private, id=f"{case.name}: {what}")
        for case in CASES
        for what, private in getattr(case, field).items()
    ]


@pytest.mark.parametrize(("case", "private"), pairs("malformed"))
def test_input_that_holds_no_unit_still_leaves_with_its_noise(case, private):
    # The same bits as for no unit at all: nothing but noise, and all of it.
    mechanism = case.build(NOISE)
    noise = case.run(mechanism, rows(0), Randomness.seeded(34))
    released = case.call(mechanism, private, Randomness.seeded(34))
    assert released.dtype == np.float64
    assert (released == noise).all()
    assert (released != 0).any()


@pytest.mark.parametrize(("case", "private"), pairs("spoiled"))
def test_a_bad_unit_moves_nothing_and_costs_nobody_else(case, private, caplog):
    good, spoiled = private
    mechanism, slack = case.build(1e-5), case.bound * 1e-6
    empty = case.run(mechanism, rows(0), Randomness.seeded(1))
    caplog.set_level(logging.DEBUG)
    without = case.call(mechanism, good, Randomness.seeded(1))
    assert not caplog.records
    changed = case.call(mechanism, spoiled, Randomness.seeded(1))
    np.testing.assert_allclose(changed, without, rtol=0, atol=slack)
    assert np.linalg.norm(without - empty) > case.bound / 10
    # The site's own log, and no private value in it.
    assert {record.name for record in caplog.records} <= {"dp_risk.site"}
    assert SECRET not in caplog.text


@every_case
def test_no_log_tells_of_a_malformed_unit(case, caplog):
    caplog.set_level(logging.DEBUG)
    case.run(case.build(NOISE), rows(5).plus(one(math.nan)), Randomness.seeded(1))
    assert not caplog.records


# Made of other mechanisms, without a sum or a noise of its own: tests/privacy/test_selection.py.
COMPOSED = {"PrivateSelection"}


def is_mechanism(kind):
    """Whether a class has an event and can be called."""
    names = {*dir(kind), *getattr(kind, "__dataclass_fields__", ())}
    return {"event", "__call__"} <= names and not getattr(kind, "_is_protocol", False)


def test_no_mechanism_is_left_out():
    found = set()
    for name in [m.name for m in pkgutil.iter_modules(dp_risk.privacy.__path__)]:
        room = importlib.import_module(f"dp_risk.privacy.{name}")
        found |= {kind for _, kind in inspect.getmembers(room, inspect.isclass)}
    mechanisms = {kind.__name__ for kind in found if is_mechanism(kind)}
    assert mechanisms == {type(case.build(NOISE)).__name__ for case in CASES} | COMPOSED


def test_a_new_mechanism_would_be_found():
    class Inherits(DPSGD):
        pass

    @dataclass
    class Fields:
        event: Event
        sensitivity: float

        def __call__(self, private, randomness):
            return {}

    assert is_mechanism(Inherits)
    assert is_mechanism(Fields)
    assert not is_mechanism(Mechanism)
    assert not is_mechanism(Event)
