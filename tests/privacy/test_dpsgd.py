from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Label, Schema, Text
from dp_risk.privacy import dpsgd
from dp_risk.privacy import units as units_room
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.dpsgd import DPSGD, dimension, load_weights
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.sampling import poisson_sample
from tests.conformance.cases import CODING, Accounts, Rows, module, one, rows

both_models = pytest.mark.parametrize("name", ["additive", "mlp"])
MARGIN = 1 - 1e-3
# How close a sum is to one in float64: perceptrons with a hidden layer are computed in float32.
CLOSE = {"additive": 1e-9, "mlp": 1e-6}


def steps(**changes):
    values = {"clip_norm": 0.7, "noise_multiplier": 2.0, "sampling_rate": 1.0, "steps": 1}
    return DPSGD(**{**values, **changes})


def by_hand(model, units, clip):
    """Clip and sum one gradient after another, with plain autograd."""
    parameters = dict(model.named_parameters())
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = []
    for i in range(len(units)):
        batch = units.batch(np.array([i]))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model(*batch.inputs), batch.labels
        )
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        factor = 1.0 if clip is None else min(1.0, clip * MARGIN / max(norm, 1e-300))
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += factor * gradient
        norms.append(norm)
    return {name: t.numpy() for name, t in total.items()}, np.array(norms)


@pytest.fixture
def without_noise(monkeypatch):
    """Let the sum through as it was before the grid."""
    monkeypatch.setattr(Grid, "release", lambda self, total, randomness: total)


@both_models
@pytest.mark.parametrize("clip", [0.01, 0.7, 100.0])
def test_the_sum_is_that_of_a_plain_loop(name, clip, without_noise):
    units = rows(30).plus(one(1e5, 0.0))
    expected, norms = by_hand(module(name), units, clip)
    if clip == 0.7:
        # Some units are clipped and some are not.
        assert (norms > clip).any()
        assert (norms < clip).any()
    got = steps(clip_norm=clip)((module(name), units), Randomness.seeded(1))
    assert list(got) == list(expected)
    close = CLOSE[name] * min(clip, 1.0)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=close)


@both_models
def test_without_noise_nothing_is_clipped(name):
    units = rows(12)
    expected, _ = by_hand(module(name), units, None)
    got = steps(noise_multiplier=0.0, clip_norm=1e-3)((module(name), units), Randomness.seeded(1))
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=CLOSE[name])


@both_models
def test_physical_batches_make_no_difference(name, without_noise, monkeypatch):
    units = rows(40)
    whole = steps()((module(name), units), Randomness.seeded(1))
    monkeypatch.setattr(units_room, "_UNITS", 16)
    units.asked.clear()
    parts = steps()((module(name), units), Randomness.seeded(1))
    assert units.asked == [16, 16, 8]
    for key in whole:
        np.testing.assert_allclose(parts[key], whole[key], rtol=0, atol=1e-12)


@both_models
@pytest.mark.parametrize("count", [40, 300, 1100, 4200])
def test_batches_of_all_sizes_give_the_sum_of_one(name, count, without_noise, monkeypatch):
    units = rows(count)
    several = steps()((module(name), units), Randomness.seeded(1))
    monkeypatch.setattr(dpsgd, "smaller", lambda most: [])
    whole = steps()((module(name), units), Randomness.seeded(1))
    for key in whole:
        np.testing.assert_allclose(several[key], whole[key], rtol=0, atol=1e-10)


def test_models_train_in_batches_of_several_sizes():
    # Else this machine's arithmetic would have to be looked at: nothing here needs one row more.
    for name in ("additive", "mlp"):
        assert dpsgd._sizes(module(name), rows(1), 1) == [4096, 1024, 256]


@both_models
def test_padding_has_no_gradient_and_costs_no_norm(name, without_noise):
    units = rows(20)
    assert (units.codes == 0).any()
    got = steps()((module(name), units), Randomness.seeded(1))
    (key,) = [k for k in got if k.endswith("codes.weight")]
    assert (got[key][0] == 0).all()
    assert (got[key][1:] != 0).any()
    # The row of code 0 does not reach the output either.
    moved = module(name)
    with torch.no_grad():
        dict(moved.named_parameters())[key][0] = 1e6
    other = steps()((moved, units), Randomness.seeded(1))
    for k in got:
        np.testing.assert_array_equal(other[k], got[k])


@given(st.integers(0, 12), st.floats(0.05, 1.0), st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_the_batch_is_the_sampler_that_is_charged(count, rate, seed):
    units = rows(count)
    mechanism = steps(sampling_rate=rate, steps=3, noise_multiplier=0.0)
    assert mechanism.event == Event(noise_multiplier=0.0, sampling_rate=rate, count=3)
    mechanism((module("additive"), units), Randomness.seeded(seed))
    source = Randomness.seeded(seed)
    expected = [len(poisson_sample(count, rate, source)) for _ in range(3)]
    assert units.asked == [size for size in expected if size]


@pytest.mark.statistical
def test_batch_sizes_vary_as_poisson_sampling_does():
    # 250 steps; mean and variance within 6 standard deviations: flake rate below 1e-8. A batch of
    # fixed size has no variance, a shuffled epoch hits every unit equally often.
    units, rate, n = Counted(60), 0.2, 250
    steps(sampling_rate=rate, steps=n, noise_multiplier=0.0)(
        (module("additive"), units), Randomness.seeded(41)
    )
    sizes = np.array(units.asked + [0] * (n - len(units.asked)))
    law = stats.binom(60, rate)
    _, variance, _, kurtosis = law.stats(moments="mvsk")
    assert abs(sizes.mean() - 12) < 6 * math.sqrt(variance / n)
    assert abs(sizes.var() - variance) < 6 * math.sqrt(variance**2 * (kurtosis + 2) / n)
    hits = np.bincount(np.concatenate(units.chosen), minlength=60)
    # Chi-square of the hits of 60 independent units, two-sided at 1e-8.
    spread = ((hits - n * rate) ** 2).sum() / (n * rate * (1 - rate))
    low, high = stats.chi2.ppf([5e-9, 1 - 5e-9], 60)
    assert low < spread < high


class Counted(Rows):
    def __init__(self, count):
        plain = rows(count)
        super().__init__(plain.codes, plain.values, plain.labels)
        self.chosen = []

    def batch(self, index):
        self.chosen.append(np.asarray(index))
        return super().batch(index)


@pytest.mark.statistical
@both_models
@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_batch_still_has_full_noise(name, count):
    # Two-sided chi-square at 1e-8 for 300 steps' noise; no unit, or units that are never drawn.
    n = 30
    units = rows(count)
    mechanism = steps(sampling_rate=1e-12, steps=1)
    source = Randomness.seeded(42, name, count)
    out = [mechanism((module(name), units), source) for _ in range(n)]
    assert units.asked == []
    values = np.concatenate([a.ravel() for arrays in out for a in arrays.values()])
    low, high = stats.chi2.ppf([5e-9, 1 - 5e-9], len(values))
    assert low < (values**2).sum() / 1.4**2 < high * 1.0105**2


@pytest.mark.statistical
def test_every_step_of_a_round_has_its_own_noise():
    # Four steps without data: variance four times one step's, two-sided at 1e-8. Noise drawn once
    # a call has variance 1 (no more noise) or 16 (the same noise) times a step's.
    source = Randomness.seeded(43)
    out = [steps(steps=4)((module("additive"), rows(0)), source) for _ in range(30)]
    values = np.concatenate([a.ravel() for arrays in out for a in arrays.values()])
    low, high = stats.chi2.ppf([5e-9, 1 - 5e-9], len(values))
    assert low < (values**2).sum() / (4 * 1.4**2) < high * 1.0105**2


@both_models
def test_local_steps_move_the_weights_by_what_was_released(name, without_noise):
    units, rate = rows(15), 0.05
    model = module(name)
    expected = {key: np.zeros(tuple(p.shape)) for key, p in model.named_parameters()}
    for _ in range(3):
        one_step, _ = by_hand(model, units, 0.7)
        with torch.no_grad():
            for key, p in model.named_parameters():
                expected[key] += one_step[key]
                p -= rate * torch.from_numpy(one_step[key])
    got = steps(steps=3, local_rate=rate)((module(name), units), Randomness.seeded(1))
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=CLOSE[name])


def test_local_steps_follow_the_noisy_sum_only():
    # The second step starts from weights that the released first step explains.
    units = rows(15)
    first = steps()((module("additive"), units), Randomness.seeded(44))
    moved = module("additive")
    with torch.no_grad():
        for key, p in moved.named_parameters():
            p -= 0.1 * torch.from_numpy(first[key])
    source = Randomness.seeded(44)
    both = steps(steps=2, local_rate=0.1)((module("additive"), units), source)
    again = Randomness.seeded(44)
    steps()((module("additive"), units), again)
    second = steps()((moved, units), again)
    for key in both:
        np.testing.assert_allclose(both[key], first[key] + second[key], rtol=0, atol=1e-9)


def test_frozen_parameters_are_neither_counted_nor_released():
    model = module("mlp")
    frozen = next(iter(dict(model.named_parameters())))
    dict(model.named_parameters())[frozen].requires_grad_(False)
    got = steps()((model, rows(5)), Randomness.seeded(1))
    assert frozen not in got
    assert sum(a.size for a in got.values()) == dimension(model)


@both_models
def test_the_model_is_left_without_hooks(name):
    model = module(name)
    steps()((model, rows(5)), Randomness.seeded(1))
    expected = steps()((module(name), rows(5)), Randomness.seeded(2))
    again = steps()((module(name), rows(5)), Randomness.seeded(2))
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    for key in expected:
        np.testing.assert_array_equal(again[key], expected[key])


GOOD = {name: np.full(t.shape, 0.5) for name, t in module("additive").state_dict().items()}


def test_weights_are_loaded_whole():
    model = module("additive")
    load_weights(model, {k: v.astype(np.float32) for k, v in GOOD.items()})
    assert all((t == 0.5).all() for t in model.state_dict().values())
    assert CODING.n_codes == len(model.state_dict()["terms.codes.weight"])


@pytest.mark.parametrize(
    "change",
    [
        {"bias.weight": None},
        {"more": np.zeros(1)},
        {"bias.weight": np.zeros((2, 1))},
        {"bias.weight": np.zeros(1)},
        {"bias.weight": np.array([[math.nan]])},
        {"bias.weight": np.array([[math.inf]])},
        {"bias.weight": np.array([[1]])},
        {"bias.weight": np.array([[True]])},
        {"bias.weight": np.array([["x"]])},
        {"bias.weight": np.array([[1j]])},
    ],
    ids=str,
)
def test_other_weights_are_refused(change):
    weights = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(ValueError, match="weight"):
        load_weights(module("additive"), weights)


def test_weights_too_large_for_exact_clipping_are_refused():
    model = module("additive")
    weights = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    weights = {key: np.full_like(array, 1e17) for key, array in weights.items()}
    with pytest.raises(ValueError, match="too large"):
        load_weights(model, weights)


@pytest.mark.parametrize("value", [1e30, 1e100, 1e150])
def test_a_large_number_beside_a_vanishing_error_is_clipped(value, without_noise):
    model = module("additive")
    weights = {key: np.zeros(tensor.shape) for key, tensor in model.state_dict().items()}
    # An error of 6e-163, whose square is 0.
    weights["terms.values.weight"][0, 0] = -373.5 / value
    load_weights(model, weights)
    values = [[value, *[0.0] * (CODING.n_values - 1)]]
    one = Rows(np.zeros((1, CODING.slots)), values, [0.0])
    found = steps(clip_norm=1e-20, sampling_rate=1.0)((model, one), Randomness.seeded(1))
    assert sum((array**2).sum() for array in found.values()) ** 0.5 <= 1e-20


def test_local_steps_stay_where_clipping_is_exact(without_noise):
    model = module("additive")
    steps(steps=2, local_rate=1e300)((model, rows(15)), Randomness.seeded(1))
    assert all(p.abs().max() <= 1e3 for p in model.parameters())


NOTES = Coding(
    schema=Schema(
        name="t",
        label=Label(column="y", positive=("1",)),
        features={"note": Text(buckets=16, max_ngrams=10)},
    )
)


def notes(*codes):
    """Return one unit with ten n-grams."""
    return Rows([codes], np.zeros((1, 0)), [1.0])


def test_ten_equal_codes_count_a_hundred_in_the_squared_norm(without_noise):
    equal, other = notes(*[5] * 10), notes(*range(1, 11))
    error = 0.5
    for units, squared in ((equal, 100), (other, 10)):
        model = models.build("additive", {"linear": False}, NOTES, 1)
        # One more for the bias; the clip norm lies between what ten and a hundred would give.
        norm = error * math.sqrt(squared + 1)
        clip = error * math.sqrt(50)
        got = steps(clip_norm=clip)((model, units), Randomness.seeded(1))
        flat = np.concatenate([a.ravel() for a in got.values()])
        assert np.linalg.norm(flat) == pytest.approx(min(norm, clip * MARGIN), rel=1e-12)
    row = steps(clip_norm=100.0)(
        (models.build("additive", {"linear": False}, NOTES, 1), equal), Randomness.seeded(1)
    )["terms.codes.weight"]
    assert row[5].tolist() == [-10 * error]
    assert np.count_nonzero(row) == 1


@both_models
@pytest.mark.parametrize("clip", [0.01, 0.7, 100.0])
def test_repeated_codes_move_the_sum_by_at_most_the_clip_norm(name, clip, without_noise):
    def build():
        built = models.build(name, {}, NOTES, 1)
        with torch.no_grad():
            for p in built.parameters():
                p += 0.1
        return built

    base = notes(1, 2, 3, 3, 3, 0, 0, 0, 0, 0).plus(notes(*[7] * 10))
    changed = base.plus(notes(5, 5, 5, 5, 5, 5, 5, 5, 9, 9))
    sums = [steps(clip_norm=clip)((build(), u), Randomness.seeded(1)) for u in (base, changed)]
    moved = np.concatenate([(sums[1][key] - sums[0][key]).ravel() for key in sums[0]])
    assert np.linalg.norm(moved) <= clip
    expected, _ = by_hand(build(), changed, clip)
    for key, value in expected.items():
        np.testing.assert_allclose(sums[1][key], value, rtol=0, atol=CLOSE[name])


class Flat(torch.nn.Module):
    """Reads accounts as records: what must never pass."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(CODING.n_values, 1).double()

    def forward(self, codes, values):
        return self.layer(values.flatten(0, 1)).reshape(codes.shape[:-1])


def test_a_model_that_flattens_accounts_is_an_error():
    with pytest.raises(RuntimeError, match="another number"):
        steps()((Flat(), Accounts(rows(4))), Randomness.seeded(1))


@both_models
def test_one_account_of_any_shape_gives_what_its_records_give(name, without_noise):
    # Copies of one record are that record, whatever the padding around them.
    units = rows(9)
    alone = steps()((module(name), units), Randomness.seeded(1))
    copies = steps()((module(name), Accounts(units)), Randomness.seeded(1))
    close = 1e-3 * CLOSE[name] if name == "additive" else CLOSE[name]
    for key in alone:
        np.testing.assert_allclose(copies[key], alone[key], rtol=0, atol=close)


class Broken(Rows):
    """Rows of which some cannot be read at all."""

    bad = frozenset({17, 300})

    def batch(self, index):
        found = super().batch(index)
        if self.bad & set(index.tolist()):
            raise OverflowError("a private value")
        return found


@both_models
def test_units_that_raise_are_found_by_halving(name, without_noise, caplog):
    caplog.set_level("DEBUG")
    good = rows(400)
    units = Broken(good.codes, good.values, good.labels)
    kept = [i for i in range(400) if i not in Broken.bad]
    expected = steps()(
        (module(name), Rows(good.codes[kept], good.values[kept], good.labels[kept])),
        Randomness.seeded(1),
    )
    model = module(name)
    got = steps()((model, units), Randomness.seeded(1))
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], rtol=0, atol=1e-12)
    assert len(units.asked) < 60
    # How many there were is private, and logs are read by more people than rows.
    assert not caplog.messages


class Stumbles(torch.nn.Module):
    """A model that raises late, after Opacus has kept the first layer's inputs."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(CODING.n_values, 3).double()
        self.last = torch.nn.Linear(3, 1).double()

    def forward(self, codes, values):
        hidden = self.first(values)
        if (values > 1e5).any():
            raise ArithmeticError
        return self.last(hidden).squeeze(-1)


def test_a_pass_that_was_not_finished_leaves_nothing_behind(without_noise):
    torch.manual_seed(1)
    model, good = Stumbles(), rows(11)
    expected = steps(steps=2)((model, good), Randomness.seeded(1))
    got = steps(steps=2)((model, one(1e6).plus(good).plus(one(1e6))), Randomness.seeded(1))
    for key in expected:
        np.testing.assert_allclose(got[key], expected[key], rtol=0, atol=1e-12)
