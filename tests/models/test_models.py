from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk import models
from dp_risk.types import ConfigurationError
from tests.conformance.cases import CODING, Rows, rows

every_model = pytest.mark.parametrize("name", sorted(models.REGISTRY))


def state(name, seed, **options):
    return models.build(name, options, CODING, seed).state_dict()


@every_model
def test_one_logit_a_unit_in_float64(name):
    codes, values = rows(7).batch(np.arange(7)).inputs
    model = models.build(name, {}, CODING, 1)
    assert model(codes, values).shape == (7,)
    assert model(codes, values).dtype == torch.float64
    assert model(codes[:0], values[:0]).shape == (0,)
    assert all(t.dtype == torch.float64 for t in model.state_dict().values())


@every_model
def test_the_seed_alone_fixes_the_start(name):
    torch.manual_seed(1)
    first = state(name, 5)
    torch.manual_seed(2)
    again = state(name, 5)
    assert list(first) == list(again)
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_seeds_differ_where_the_start_is_random():
    first, other = state("mlp", 5), state("mlp", 6)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@every_model
def test_building_leaves_the_global_generator_alone(name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    state(name, 5)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
@given(st.integers(0, 2**32), st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_units_do_not_see_each_other(name, seed, count):
    codes, values = rows(count, seed).batch(np.arange(count)).inputs
    model = models.build(name, {}, CODING, 1)
    together = model(codes, values)
    alone = torch.cat([model(codes[i : i + 1], values[i : i + 1]) for i in range(count)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@every_model
def test_the_order_of_text_codes_does_not_matter(name):
    codes, values = rows(9).batch(np.arange(9)).inputs
    text = [i for i, slot in enumerate(CODING.slot_names) if "#" in slot]
    turned = codes.clone()
    turned[:, text] = codes[:, text[::-1]]
    model = models.build(name, {}, CODING, 1)
    torch.testing.assert_close(model(turned, values), model(codes, values))


def test_depth_and_width_are_what_is_asked():
    shapes = [tuple(t.shape) for t in state("mlp", 1, width=5, depth=3).values() if t.dim() == 2]
    assert sorted(shapes) == sorted(
        [(CODING.n_codes, 5), (5, CODING.n_values), (5, 5), (5, 5), (1, 5)]
    )


def test_an_mlp_answers_to_every_input():
    unit = rows(1)
    model = models.build("mlp", {}, CODING, 1)
    values = unit.values.requires_grad_(True)
    model(unit.codes, values).sum().backward()
    assert (values.grad != 0).all()
    other = Rows(unit.codes.roll(1, 1) * 0 + 1, unit.values.detach(), unit.labels)
    assert model(other.codes, other.values) != model(unit.codes, unit.values)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("os.system", {}),
        ("Additive", {}),
        ("", {}),
        ("additive", {"_target_": "os.system"}),
        ("additive", {"width": 3}),
        ("additive", {"value_scale": "x"}),
        ("mlp", {"width": 0}),
        ("mlp", {"width": 4097}),
        ("mlp", {"depth": 0}),
        ("mlp", {"depth": 9}),
        ("mlp", {"width": "32"}),
        ("mlp", {"linear": True}),
    ],
)
def test_only_known_models_with_possible_options(name, options):
    with pytest.raises(ConfigurationError, match="model"):
        models.create(name, options)


@every_model
def test_records_of_accounts_give_what_records_give(name):
    codes, values = rows(12).batch(np.arange(12)).inputs
    model = models.build(name, {}, CODING, 1)
    together = model(codes.reshape(2, 3, 2, -1), values.reshape(2, 3, 2, -1))
    assert together.shape == (2, 3, 2)
    torch.testing.assert_close(together.flatten(), model(codes, values), rtol=1e-12, atol=1e-12)


@every_model
def test_codes_of_another_coding_are_an_error(name):
    codes, values = rows(3).batch(np.arange(3)).inputs
    with pytest.raises(ValueError, match="coding"):
        models.build(name, {}, CODING, 1)(codes[:, 1:], values)
