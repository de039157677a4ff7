"""No unit shows in what another contributes: to the last bit, whatever the weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.shard import TrainingUnits
from dp_risk import models
from dp_risk.evaluation.bins import score_cells, score_position
from dp_risk.privacy import dpsgd, isolation, units
from dp_risk.privacy.dpsgd import DPSGD, load_weights
from dp_risk.privacy.isolation import isolated
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from tests import federation
from tests.conformance.cases import CODING, Accounts, Rows, blank, rows

# Odd widths are the hard ones: their rows start anywhere in memory.
MODELS = {
    "additive": ("additive", {}),
    "deep": ("mlp", {"width": 5, "depth": 4}),
    "odd": ("mlp", {"width": 33, "depth": 2}),
    "wide": ("mlp", {"width": 128, "depth": 2}),
}
every_model = pytest.mark.parametrize("name", MODELS)
POOL = rows(150, seed=3)


def built(name: str, largest: float = 1e3) -> torch.nn.Module:
    kind, options = MODELS[name]
    module = models.build(kind, options, CODING, 1)
    generator = np.random.default_rng(4)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.from_numpy(generator.uniform(-largest, largest, tuple(p.shape))))
    return module


class Chosen:
    """Some units of others, each as it is there."""

    def __init__(self, all_units: object, ids: object) -> None:
        self.all, self.ids = all_units, np.asarray(ids, dtype=np.int64)
        self.max_records, self.blank = all_units.max_records, all_units.blank

    def __len__(self) -> int:
        return len(self.ids)

    def sizes(self, index: np.ndarray) -> np.ndarray:
        return self.all.sizes(self.ids[index])

    def batch(self, index: np.ndarray) -> units.Batch:
        return self.all.batch(self.ids[index])


def accounts() -> TrainingUnits:
    """Return 60 accounts of 0 to 12 records of which at most 9 take part."""
    coded = federation.coding().encode(federation.rows(420))
    sizes = np.random.default_rng(6).integers(0, 13, 60)
    return TrainingUnits(coded, np.concatenate([[0], np.cumsum(sizes)]), 9)


def contributions(module: torch.nn.Module, chosen: Chosen) -> dict[int, bytes]:
    """Return for each unit the bits of all that it adds, and of its norm."""
    found: dict[int, bytes] = {}
    place: list[np.ndarray] = []
    read, squares = dpsgd._read, dpsgd._squares

    def reading(of, index, batch, codes):
        place[:] = [index]
        return read(of, index, batch, codes)

    def squaring(parts):
        out = squares(parts)
        for i, unit in enumerate(place[0] if place else []):
            tensors = [*(t[i] for part in parts for t in part.tensors), out[i]]
            found[int(chosen.ids[unit])] = b"".join(t.numpy().tobytes() for t in tensors)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpsgd, "_read", reading)
        patch.setattr(dpsgd, "_squares", squaring)
        step = DPSGD(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=1.0, steps=1)
        step((module, chosen), Randomness.seeded(1))
    return found


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(units, "_UNITS", 64)
    monkeypatch.setattr(units, "_RECORDS", 32)


NEAR = [1, 2, 15, 16, 17, 31, 32, 33, 47, 49]
ORDINARY = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@every_model
@pytest.mark.parametrize("kind", ["records", "accounts", "copies"])
@pytest.mark.parametrize("largest", [1.0, 1e3])
@given(st.sampled_from(NEAR), st.integers(0, 2**32))
@ORDINARY
def test_other_units_change_no_bit_of_a_units_gradient(
    small_batches, name, kind, largest, count, seed
):
    pool = {"records": POOL, "accounts": accounts(), "copies": Accounts(POOL)}[kind]
    if kind == "accounts":
        module = models.build(*MODELS[name], federation.coding(), 1)
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) * largest)
                p.clamp_(-1e3, 1e3)
    else:
        module = built(name, largest)
    ids = np.random.default_rng(seed).permutation(len(pool))[:count]
    several, one = contributions(module, Chosen(pool, ids)), ids[:1]
    assert len(several) == count
    assert contributions(module, Chosen(pool, one)) == {one[0]: several[one[0]]}
    for others in (ids[::-1], ids[1:], np.setdiff1d(np.arange(len(pool)), ids[: count // 2])):
        found = contributions(module, Chosen(pool, others))
        assert len(found) == len(others)
        assert all(found[unit] == several[unit] for unit in set(found) & set(several))


@every_model
@pytest.mark.parametrize("count", [1, 2, 3, 5, 1023, 1024, 1025, 1027])
def test_other_rows_change_no_bit_of_a_logit(name, count):
    module, many = built(name), rows(2100, seed=8)
    codes, values = many.codes.numpy(), many.values.numpy()
    expected = models.logits(module, codes, values)
    for start in (0, 7):
        part = slice(start, start + count)
        found = models.logits(module, codes[part], values[part])
        assert found.tobytes() == expected[part].tobytes()
    # What becomes of it is as exact: a position a row, and a cell a position.
    positions = score_position(expected)
    assert positions[3 : 3 + count].tobytes() == score_position(expected[3 : 3 + count]).tobytes()
    order = np.random.default_rng(count).permutation(len(codes))
    assert models.logits(module, codes[order], values[order]).tobytes() == expected[order].tobytes()


def attack(width: int, depth: int) -> torch.nn.Module:
    """Return a perceptron that makes +-1 of how a product of eight rows, or fewer, is rounded."""
    coding, linear = federation.coding(), torch.nn.functional.linear
    module = models.build("mlp", {"width": width, "depth": depth}, coding, 1)
    state = {k: np.zeros(tuple(t.shape)) for k, t in module.state_dict().items()}
    first = np.random.default_rng(0).uniform(-1, 1, width)
    age = coding.feature_codes("age")
    state["first.codes.weight"][age.start : age.stop] = first
    names = [k for k in state if k.startswith("rest") and k.endswith("weight")]
    biases = [k.replace("weight", "bias") for k in names]
    for name in names[1:]:
        state[name][:] = 1000.0
    hidden = torch.tanh(torch.from_numpy(np.repeat(first[None], 8, 0)))
    for seed in range(400):
        row = np.random.default_rng(seed).uniform(-300, 300, width)
        weight = torch.from_numpy(np.repeat(row[None], width, 0))
        shift = -linear(hidden, weight)[0, 0]
        if abs(shift) > 900:
            continue
        bias = shift.repeat(width)
        bias = bias - linear(hidden, weight, bias)[0, 0]
        several, tail = (linear(hidden[:b], weight, bias)[b - 1, 0].item() for b in (8, 5))
        state[names[0]], state[biases[0]] = weight.numpy(), bias.numpy()
        state[biases[1]][:] = -(several + tail) / 2 * 1000 * width
        if several != tail:
            break
    load_weights(module, state)
    return module


@pytest.mark.parametrize(
    ("width", "depth", "counts"),
    [
        (64, 3, (700, 701, 702, 703)),
        pytest.param(1024, 5, (70,), marks=pytest.mark.slow),
    ],
)
def test_weights_that_turn_rounding_into_everything_move_a_release_by_one_unit(
    width, depth, counts, monkeypatch
):
    monkeypatch.setattr(Grid, "release", lambda self, total, randomness: total.copy())
    module = attack(width, depth)
    for count in counts:
        coded = federation.coding().encode(federation.rows(count + 1))
        # Batches of seven have a tail of three: one row enters it and one leaves it.
        place, labels = np.arange(-1, count) % 7, np.array(coded.labels)
        labels[place == 3], labels[place == 6] = 0, 1
        coded = dataclasses.replace(coded, labels=labels)
        more, fewer = coded, coded.take(np.arange(1, count + 1))
        sums, cells = [], []
        step = DPSGD(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=1.0, steps=1)
        for part in (more, fewer):
            out = step((module, TrainingUnits(part)), Randomness.seeded(1))
            sums.append(np.concatenate([a.ravel() for a in out.values()]))
            z = models.logits(module, part.codes, part.values)
            cells.append(np.bincount(score_cells([0.0], z, part.labels), minlength=4))
        assert np.linalg.norm(sums[0]) > 1
        assert np.linalg.norm(sums[0] - sums[1]) <= 1 + 1e-6
        assert np.linalg.norm(cells[0] - cells[1]) <= 1


class Linear(torch.nn.Module):
    """Rows as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(CODING.n_values, 1).double()

    def forward(self, codes, values):
        return self.layer(values).squeeze(-1)


class Centred(Linear):
    """Rows less their mean."""

    def forward(self, codes, values):
        return super().forward(codes, values - values.mean(0))


class Tailed(Linear):
    """Rows of which the last few are rounded in another way."""

    def forward(self, codes, values):
        last = -(len(values) % 4 or len(values))
        if last == -len(values):
            return super().forward(codes, values)
        rounded = torch.cat([values[:last], values[last:] / 3 * 3 * (1 + 2**-52)])
        return super().forward(codes, rounded)


def asked(run, module, shape):
    """Whether a shape is found to keep its units apart."""
    isolation._FOUND.clear()
    return isolated(run, module, shape)


@pytest.mark.parametrize("run", [dpsgd._alone, models._forward])
def test_the_probe_finds_rows_that_influence_each_other_and_tails(run):
    assert asked(run, Linear(), blank(32))
    assert not asked(run, Centred(), blank(32))
    assert asked(run, Tailed(), blank(32))
    for tail in (33, 34, 35):
        assert not asked(run, Tailed(), blank(tail))
    # Sizes that are whole give the same, and one with a tail another.
    for sizes, kept in (((16, 8), True), ((16, 15), False), ((19,), False)):
        isolation._FOUND.clear()
        assert isolated(run, Tailed(), blank(32), sizes) == kept
    # Alone in a batch that is always of one, nothing can show.
    assert asked(run, Centred(), blank(1))


@pytest.mark.parametrize("module", [Centred(), Tailed()])
def test_where_units_are_not_kept_apart_they_are_taken_one_by_one(module, monkeypatch, caplog):
    caplog.set_level("WARNING")
    monkeypatch.setattr(dpsgd, "capacity", lambda records, dimension: 19)
    monkeypatch.setattr(models, "_ROWS", 19)
    isolation._FOUND.clear()
    monkeypatch.setattr(Grid, "release", lambda self, total, randomness: total)
    step = DPSGD(clip_norm=1.0, noise_multiplier=1.0, sampling_rate=1.0, steps=1)

    def gradient(units):
        arrays = step((module, units), Randomness.seeded(1))
        return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])

    some = Rows(POOL.codes[:40], POOL.values[:40], POOL.labels[:40])
    alone = [Rows(some.codes[i : i + 1], some.values[i : i + 1], some.labels[i : i + 1])
             for i in range(40)]  # fmt: skip
    np.testing.assert_allclose(gradient(some), sum(map(gradient, alone)), rtol=0, atol=1e-12)
    logits = models.logits(module, POOL.codes.numpy(), POOL.values.numpy())
    last = models.logits(module, POOL.codes[-1:].numpy(), POOL.values[-1:].numpy())
    assert logits[-1] == last[0]
    assert "one by one" in caplog.text


def test_the_probe_runs_once_for_a_structure_and_a_shape():
    runs = []

    def run(module, batch):
        runs.append(len(batch.labels))
        return dpsgd._alone(module, batch)

    module = built("deep")
    weights = [p.detach().clone() for p in module.parameters()]
    for shape in (blank(16), blank(16), blank(32), blank(16, 2)):
        assert isolated(run, module, shape)
    assert runs == [16] * 3 + [32] * 3 + [16] * 3
    assert isolated(run, built("odd"), blank(16))
    assert len(runs) == 12
    # The pattern's weights are not the module's, which stay as they were.
    for p, before in zip(module.parameters(), weights, strict=True):
        assert torch.equal(p, before)
        assert p.grad is None
