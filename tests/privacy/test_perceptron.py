"""Passes by hand give what autograd and Opacus' hooks give, in every shape of perceptron."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from torch import nn

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.privacy.one_pass import OnePass
from dp_risk.privacy.per_unit import SummedRows
from dp_risk.privacy.perceptron import Described, Perceptron
from dp_risk.privacy.units import Batch
from tests.conformance.cases import CODING

ORDINARY = settings(max_examples=15, deadline=None)
CODES, SLOTS, VALUES = 9, 4, 5


class Any(nn.Module):
    """A perceptron of some parts."""

    def __init__(self, *, codes, values, bias, depth, scale=1.0, width=3):
        super().__init__()
        wide = width if depth else 1
        self.codes = SummedRows(CODES, wide) if codes else None
        self.values = nn.Linear(VALUES, wide, bias=not bias) if values else None
        self.bias = nn.Linear(1, wide, bias=False) if bias else None
        after = [wide] * depth + [1]
        self.rest = nn.ModuleList(nn.Linear(*after[i : i + 2]) for i in range(depth))
        self.scale = scale

    def forward(self, codes, values):
        total = 0
        if self.codes is not None:
            total = total + self.codes(codes)
        if self.values is not None:
            total = total + self.values(values * self.scale)
        if self.bias is not None:
            total = total + self.bias(torch.ones(*codes.shape[:-1], 1, dtype=values.dtype))
        for layer in self.rest:
            total = layer(torch.tanh(total))
        return total.squeeze(-1)

    def perceptron(self):
        return Perceptron(
            codes=self.codes,
            values=self.values,
            bias=self.bias,
            scale=self.scale,
            rest=tuple(self.rest),
        )


SHAPES = {
    "all": {"codes": True, "values": True, "bias": True, "depth": 0, "scale": 3.0},
    "codes": {"codes": True, "values": False, "bias": False, "depth": 0},
    "codes and bias": {"codes": True, "values": False, "bias": True, "depth": 0},
    "values": {"codes": False, "values": True, "bias": False, "depth": 0, "scale": 0.5},
    "one hidden": {"codes": True, "values": True, "bias": False, "depth": 1},
    "hidden bias": {"codes": True, "values": False, "bias": True, "depth": 2},
    "deep": {"codes": False, "values": True, "bias": True, "depth": 4, "width": 7},
}


def built(name):
    torch.manual_seed(1)
    return Any(**SHAPES[name]).double()


def drawn(lead, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(lead, generator=generator) < 0.7 if len(lead) == 2 else None
    return Batch(
        inputs=(
            torch.randint(0, CODES, (*lead, SLOTS), generator=generator),
            torch.randn(*lead, VALUES, generator=generator, dtype=torch.float64),
        ),
        labels=torch.randint(0, 2, lead, generator=generator).double(),
        mask=mask,
    )


def each(module, parts, units):
    """Return the gradient of each unit by parameter, and their squared norms."""
    found = {p: torch.zeros(units, *p.shape, dtype=torch.float64) for p in module.parameters()}
    for part in parts:
        for unit in range(units):
            for p, total in part.sums(torch.eye(units, dtype=torch.float64)[unit]):
                found[p][unit] += total
    return list(found.values()), sum(part.squares() for part in parts)


def hooks(module, batch):
    model = GradSampleModule(module, batch_first=True, loss_reduction="sum")
    logits = model(*batch.inputs)
    weights = torch.ones_like(logits)
    if batch.mask is not None:
        weights = batch.mask.double() / batch.mask.sum(1, keepdim=True).clamp(min=1)
    nn.functional.binary_cross_entropy_with_logits(
        logits, batch.labels, weights, reduction="sum"
    ).backward()
    found = [p.grad_sample for p in module.parameters()]
    model.to_standard_module()
    return logits.detach(), found


@pytest.mark.parametrize("name", SHAPES)
@given(st.integers(1, 5), st.integers(0, 3), st.integers(0, 2**32))
@ORDINARY
def test_passes_by_hand_agree_with_opacus_and_with_one_pass(name, units, records, seed):
    batch = drawn((units, records) if records else (units,), seed)
    module = built(name)
    logits, parts = module.perceptron().backward(batch)
    found, squares = each(module, parts, units)
    # float32 where there are hidden layers; Opacus to 1e-5.
    close = {"rtol": 1e-9, "atol": 1e-11} if not module.rest else {"rtol": 1e-5, "atol": 2e-6}
    module = built(name)
    model = OnePass(module)
    again, parts = model.backward(batch)
    model.close()
    one, norms = each(module, parts, units)
    expected, gradients = hooks(built(name), batch)
    for other in (again, expected):
        torch.testing.assert_close(logits, other, **close)
    for by_hand, a, b in zip(found, one, gradients, strict=True):
        torch.testing.assert_close(by_hand, a, **close)
        torch.testing.assert_close(by_hand, b, **close)
    torch.testing.assert_close(squares, norms, **close)
    # The norm is that of the very numbers that are summed.
    total = sum(f.flatten(1).square().sum(1) for f in found)
    torch.testing.assert_close(squares, total, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", models.REGISTRY)
@pytest.mark.parametrize("options", [{}, {"depth": 3, "width": 6}, {"linear": False}])
def test_every_model_describes_what_it_computes(name, options):
    try:
        module = models.build(name, options, CODING, 1)
    except models.ConfigurationError:
        pytest.skip("not an option of this model")
    assert isinstance(module, Described)
    batch = random_rows(CODING)
    logits, parts = module.perceptron().backward(batch)
    torch.testing.assert_close(logits, module(*batch.inputs).detach(), rtol=0, atol=2e-6)
    assert {p for part in parts for p, _ in part.sums(torch.ones(8).double())} == set(
        module.parameters()
    )


def random_rows(coding: Coding):
    generator = torch.Generator().manual_seed(2)
    return Batch(
        inputs=(
            torch.randint(0, coding.n_codes, (8, coding.slots), generator=generator),
            torch.rand(8, coding.n_values, generator=generator, dtype=torch.float64),
        ),
        labels=torch.zeros(8, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", SHAPES)
def test_frozen_parameters_have_no_part(name):
    module, batch = built(name), drawn((4,), 3)
    whole, _ = each(module, module.perceptron().backward(batch)[1], 4)
    frozen = next(module.parameters()).requires_grad_(False)
    found, squares = each(module, module.perceptron().backward(batch)[1], 4)
    for p, f, w in zip(module.parameters(), found, whole, strict=True):
        assert torch.equal(f, torch.zeros_like(w) if p is frozen else w)
    left = sum(f.flatten(1).square().sum(1) for f in found)
    torch.testing.assert_close(torch.as_tensor(squares) + torch.zeros(4).double(), left)


@pytest.mark.parametrize("name", ["all", "deep"])
@pytest.mark.parametrize("bad", [1e300, 1e200, 1e30])
def test_numbers_too_large_show_in_the_norm_of_their_unit_alone(name, bad):
    module, batch = built(name), drawn((6,), 3)
    expected = each(module, module.perceptron().backward(batch)[1], 6)
    values = batch.inputs[1].clone()
    values[2] = bad
    changed = dataclasses.replace(batch, inputs=(batch.inputs[0], values))
    parts = module.perceptron().backward(changed)[1]
    squares = sum(part.squares() for part in parts)
    others = torch.arange(6) != 2
    assert torch.equal(squares[others], expected[1][others])
    for part in [part.without(~others) for part in parts]:
        for _, total in part.sums(others.double()):
            assert torch.isfinite(total).all()


def test_extreme_activations_are_those_of_tanh():
    wide = torch.tensor([-math.inf, -1e30, -50.0, -1e-6, 0.0, 1e-6, 0.5, 44.0, 1e30, math.inf])
    module = nn.Linear(1, 1, bias=False).double()
    last = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(module.weight)
    nn.init.ones_(last.weight)
    net = Perceptron(codes=None, values=module, rest=(last,))
    batch = Batch(inputs=(wide.double().unsqueeze(1),), labels=torch.zeros(10).double())
    logits = net.backward(batch)[0]
    torch.testing.assert_close(logits, torch.tanh(wide.double()), rtol=0, atol=2e-7)
