"""One suite that every mechanism passes."""

from __future__ import annotations

import ast
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import dp_risk.privacy
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.randomness import Randomness
from tests.conformance.cases import CASES, CLIP, NOISE, Rows, one, rows

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
    moved = np.linalg.norm(baseline(case, base.plus(one(1e6, 1e9))) - baseline(case, base))
    assert moved == pytest.approx(case.bound, rel=1e-2)


@every_case
def test_a_wrong_bound_would_be_found(case):
    # Two heavy units move the sum by twice the sensitivity: the check above can fail.
    base, heavy = rows(3), one(1e6, 1e9)
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
    if case.name != "count" and not math.isfinite(value):
        # A gradient that is not finite contributes zero.
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
    if case.name == "count":
        assert case.build(NOISE).event == Event(noise_multiplier=NOISE)
    else:
        assert case.build(NOISE, 0.25).event.sampling_rate == 0.25
        assert case.build(NOISE).sensitivity == CLIP


@every_case
def test_a_mechanism_holds_no_private_data(case):
    mechanism = case.build(NOISE)
    before = repr(mechanism)
    case.run(mechanism, rows(20), Randomness.seeded(1))
    assert repr(mechanism) == before
    assert not any(isinstance(v, Rows | np.ndarray) for v in vars(mechanism).values())
    with pytest.raises(AttributeError):
        mechanism.noise_multiplier = 0.0


def test_no_mechanism_is_left_out():
    """A class with an event, a sensitivity and a call is a mechanism, and is in CASES."""
    found = set()
    for path in Path(inspect.getfile(dp_risk.privacy)).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name != "Mechanism":
                methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
                if {"event", "sensitivity", "__call__"} <= methods:
                    found.add(node.name)
    assert found == {type(case.build(NOISE)).__name__ for case in CASES}
