"""One backward pass gives what Opacus' own hooks give, and what one unit after another gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus import GradSampleModule
from opacus.layers import DPGRU, DPLSTM, DPMultiheadAttention
from torch import nn

from dp_risk.privacy.one_pass import OnePass
from dp_risk.privacy.per_unit import Outer, SummedRows, squared_counts

ORDINARY = settings(max_examples=15, deadline=None)
CODES, SLOTS, WIDTH = 9, 4, 3


class Plain(nn.Module):
    """A perceptron on values, with a norm and an activation that overwrites its input."""

    def __init__(self, bias=True, width=WIDTH):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, width, bias=bias), nn.ReLU(inplace=True), nn.LayerNorm(width),
            nn.Linear(width, 1, bias=bias),
        )  # fmt: skip

    def forward(self, codes, values):
        return self.layers(values).squeeze(-1)


class Coded(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.codes = SummedRows(CODES, width)
        self.last = nn.Linear(width, 1)

    def forward(self, codes, values):
        return self.last(torch.tanh(self.codes(codes))).squeeze(-1)


class Again(nn.Module):
    """The same layers in two calls."""

    def __init__(self):
        super().__init__()
        self.codes, self.mix = SummedRows(CODES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, codes, values):
        hidden = self.codes(codes) - 2 * torch.tanh(self.codes(codes.flip(-1).roll(1, -1)))
        hidden = self.norm(self.mix(torch.tanh(self.norm(self.mix(hidden)))))
        return self.last(hidden).squeeze(-1)


class Tied(Plain):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5, bias=False)
        self.two.weight = self.one.weight

    def forward(self, codes, values):
        return super().forward(codes, torch.tanh(self.two(torch.tanh(self.one(values)))))


class Mixed(nn.Module):
    """Known layers before and after others; records of a unit follow each other in time."""

    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.kind = kind
        if kind == "attention":
            self.middle = DPMultiheadAttention(4, 2)
        elif kind == "norm":
            self.middle = nn.GroupNorm(2, 4)
        elif kind == "convolution":
            self.middle = nn.Conv1d(4, 4, 1)
        else:
            self.middle = {"lstm": DPLSTM, "gru": DPGRU}[kind](4, 4, batch_first=True)
        self.last = nn.Linear(4, 1)

    def forward(self, codes, values):
        hidden = torch.tanh(self.first(values))
        steps = hidden if hidden.dim() == 3 else hidden.unsqueeze(1)
        if self.kind in ("lstm", "gru"):
            steps = self.middle(steps)[0]
        elif self.kind == "attention":
            # Opacus attends over the first axis; here the unit is first.
            steps = self.middle(steps, steps, steps)[0]
        else:
            steps = self.middle(steps.transpose(1, 2)).transpose(1, 2)
        return self.last(steps.reshape(hidden.shape)).squeeze(-1)


class Front(nn.Module):
    """A layer that is not known reads the data itself."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(CODES, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, codes, values):
        return self.last(torch.tanh(self.table(codes)).sum(-2)).squeeze(-1)


MODELS = {
    "plain": Plain,
    "no bias": lambda: Plain(bias=False),
    "one wide": lambda: Plain(width=1),
    "coded": Coded,
    "coded one wide": lambda: Coded(width=1),
    "again": Again,
    "tied": Tied,
    "front": Front,
    "norm": lambda: Mixed("norm"),
    "convolution": lambda: Mixed("convolution"),
    "lstm": lambda: Mixed("lstm"),
    "gru": lambda: Mixed("gru"),
}


def drawn(lead, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, CODES, (*lead, SLOTS), generator=generator)
    values = torch.randn(*lead, 5, generator=generator, dtype=torch.float64)
    errors = torch.randn(*lead, generator=generator, dtype=torch.float64)
    return codes, values, errors


def built(name, seed=1):
    torch.manual_seed(seed)
    return MODELS[name]().double()


def one_pass(module, codes, values, errors):
    """Return the gradient of each unit by parameter, and their squared norms."""
    model = OnePass(module)
    parts = model.parts(model(codes, values), errors)
    model.to_standard_module()
    n, found = len(errors), {}
    for part in parts:
        for unit in range(n):
            for p, total in part.sums(torch.eye(n, dtype=torch.float64)[unit]):
                found.setdefault(p, torch.zeros(n, *p.shape, dtype=torch.float64))[unit] += total
    return [found[p] for p in module.parameters() if p.requires_grad], sum(
        part.squares() for part in parts
    )


def hooks(module, codes, values, errors):
    for layer in module.modules():
        if isinstance(layer, nn.ReLU):
            # Opacus wraps what a layer returns in a view, which may not be changed in place.
            layer.inplace = False
    model = GradSampleModule(module, batch_first=True, loss_reduction="sum")
    model(codes, values).backward(errors)
    found = [p.grad_sample for p in module.parameters() if p.requires_grad]
    model.to_standard_module()
    return found


def one_by_one(module, codes, values, errors):
    trained = [p for p in module.parameters() if p.requires_grad]
    each = []
    for i in range(len(errors)):
        out = module(codes[i : i + 1], values[i : i + 1])
        each.append(torch.autograd.grad(out, trained, errors[i : i + 1]))
    return [torch.stack(g) for g in zip(*each, strict=True)]


def agree(name, lead, seed):
    inputs = drawn(lead, seed)
    found, squares = one_pass(built(name), *inputs)
    for expected in (hooks(built(name), *inputs), one_by_one(built(name), *inputs)):
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-11)
        total = sum(e.flatten(1).square().sum(1) for e in expected)
        torch.testing.assert_close(squares, total, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
@given(st.integers(1, 5), st.integers(0, 2**32))
@ORDINARY
def test_records_have_the_gradients_of_opacus_and_of_a_plain_loop(name, units, seed):
    agree(name, (units,), seed)


@pytest.mark.parametrize("name", MODELS)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32))
@ORDINARY
def test_accounts_have_the_gradients_of_opacus_and_of_a_plain_loop(name, units, records, seed):
    agree(name, (units, records), seed)


def test_attention_has_the_gradients_that_opacus_finds():
    # Its first axis is time, which hooks take for the unit: equal to Opacus is all there is here.
    inputs = drawn((3, 2), 5)
    found = []
    for run in (lambda *some: one_pass(*some)[0], hooks):
        torch.manual_seed(1)
        found.append(run(Mixed("attention").double(), *inputs))
    for f, e in zip(*found, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-11)


@given(st.lists(st.lists(st.integers(0, 6), min_size=5, max_size=5), min_size=1, max_size=6))
@ORDINARY
def test_squared_counts_are_those_of_a_count(rows):
    expected = [sum(row.count(c) ** 2 for c in set(row) - {0}) for row in rows]
    assert squared_counts(torch.tensor(rows)).tolist() == expected


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_a_frozen_parameter_has_no_part(frozen):
    module, inputs = built("plain"), drawn((4,), 3)
    getattr(module.layers[0], frozen).requires_grad_(False)
    getattr(module.layers[2], frozen).requires_grad_(False)
    found, squares = one_pass(module, *inputs)
    expected = one_by_one(module, *inputs)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(squares, sum(e.flatten(1).square().sum(1) for e in expected))


@pytest.mark.parametrize("name", ["plain", "coded", "lstm"])
@pytest.mark.parametrize("lead", [(4,), (4, 2)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_unit_that_is_not_finite_shows_in_its_norm_alone(name, lead, bad):
    codes, values, errors = drawn(lead, 4)
    spoiled = errors.clone()
    spoiled[2] = bad

    def run(errors, factor):
        model = OnePass(built(name))
        parts = model.parts(model(codes, values), errors)
        squares = sum(part.squares() for part in parts)
        away = ~torch.isfinite(squares)
        sums = [t for part in parts for _, t in part.without(away).sums(factor)]
        return squares, sums

    factor = torch.tensor([1.0, 0.5, 0.0, 0.25], dtype=torch.float64)
    squares, sums = run(spoiled, factor)
    assert torch.isfinite(squares).tolist() == [True, True, False, True]
    for s, e in zip(sums, run(errors, factor)[1], strict=True):
        torch.testing.assert_close(s, e, rtol=1e-12, atol=1e-14)


def test_records_that_cancel_leave_an_exact_norm():
    # Inner products of the records would leave nothing but rounding here.
    layer = nn.Linear(2, 1).double()
    values = torch.tensor([[[1e9, 1.0], [1e9, 1.0 + 2**-20]]], dtype=torch.float64)
    model = OnePass(layer)
    parts = model.parts(model(values), torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64))
    assert sum(part.squares() for part in parts).tolist() == [2.0**-40]


def test_float32_is_summed_in_float64():
    layer = nn.Linear(2, 1, bias=False)
    values = torch.tensor([[2.0**24, 0.0], [1.0, 0.0], [1.0, 0.0]])
    model = OnePass(layer)
    (part,) = model.parts(model(values), torch.ones(3, 1))
    assert isinstance(part, Outer)
    ((_, total),) = part.sums(torch.ones(3, dtype=torch.float64))
    assert total.tolist() == [[2.0**24 + 2, 0.0]]


class Overwrites(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 1).double()

    def forward(self, codes, values):
        out = self.layer(values)
        values.mul_(2)
        return out.squeeze(-1)


def test_inputs_that_are_changed_after_they_were_read_are_an_error():
    codes, values, errors = drawn((3,), 1)
    model = OnePass(Overwrites())
    with pytest.raises(RuntimeError, match="in place"):
        model.parts(model(codes, values), errors)


def test_another_number_of_units_is_an_error():
    model = OnePass(nn.Linear(5, 1).double())
    out = model(torch.zeros(6, 5).double()).reshape(3, 2)
    with pytest.raises(RuntimeError, match="another number"):
        model.parts(out, torch.ones(3, 2).double())


def test_what_is_left_of_a_pass_can_be_forgotten():
    inputs = drawn((3,), 2)
    module = built("lstm")
    model = OnePass(module)
    model(*inputs[:2])
    model.forget()
    found = sum(part.squares() for part in model.parts(model(*inputs[:2]), inputs[2]))
    model.to_standard_module()
    torch.testing.assert_close(found, one_pass(built("lstm"), *inputs)[1])
    assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
