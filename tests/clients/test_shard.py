from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from clients.shard import Shard, TrainingUnits
from dp_risk import models
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.privacy import units
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.gaussian import GaussianCount, GaussianHistogram
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.types import ConfigurationError, Split

HEAVY, MOST = "heavy", 10_000
SCHEMA = Schema(
    name="cards",
    label=Label(column="fraud", positive=("1",)),
    features={
        "amount": Numeric(low=0, high=1000, scale="log", bins=4),
        "kind": Categorical(values=("a", "b")),
        "note": Text(buckets=8, max_ngrams=3),
    },
    account="card",
)
CLIP = 0.3
both_models = pytest.mark.parametrize("name", ["additive", "mlp"])


def table() -> pa.Table:
    """Return 120 accounts of heavy-tailed sizes and one of 10,000 records, shuffled."""
    rng = np.random.default_rng(3)
    sizes = np.minimum(rng.zipf(1.6, 120), 400)
    cards = np.repeat([*(f"c{i}" for i in range(120)), HEAVY], [*sizes, MOST])
    n = len(cards)
    words = np.array(["buy now", "hello", "gift card please", ""])
    columns = {
        "card": cards,
        "amount": rng.exponential(80, n),
        "kind": rng.choice(["a", "b", "c"], n),
        "note": words[rng.integers(0, 4, n)],
        "fraud": np.where(rng.random(n) < 0.3, "1", "0"),
    }
    return pa.table(columns).take(rng.permutation(n))


def shard(folder: Path, rows: pa.Table, unit: str = "account", holdout: float = 0.0) -> Shard:
    folder.mkdir(exist_ok=True)
    pq.write_table(rows, folder / "rows.parquet")
    return Shard(
        unit=unit,
        path=folder / "rows.parquet",
        schema=SCHEMA,
        key=b"k" * 32,
        holdout=holdout,
        cache=folder / "coded",
    )


@pytest.fixture(scope="module")
def with_and_without(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shard, Shard]:
    """Return the shard, and the one of a neighbour in which the heavy account is missing."""
    folder, rows = tmp_path_factory.mktemp("shards"), table()
    others = rows.filter(pc.not_equal(rows["card"], HEAVY))
    return shard(folder / "with", rows), shard(folder / "without", others)


@pytest.fixture(autouse=True)
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grid, "release", lambda self, total, randomness: total)


def module(name: str, like: Shard) -> torch.nn.Module:
    """Return a model away from its start."""
    built = models.build(name, {}, like.coding, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in built.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return built


def clipped_sum(name: str, like: Shard, units: TrainingUnits, clip: float = CLIP) -> np.ndarray:
    mechanism = DPSGD(clip_norm=clip, noise_multiplier=1.0, sampling_rate=1.0, steps=1)
    arrays = mechanism((module(name, like), units), Randomness.seeded(1))
    return np.concatenate([a.ravel() for a in arrays.values()])


def by_hand(name: str, like: Shard, units: TrainingUnits, clip: float) -> list[np.ndarray]:
    """Return each account's clipped gradient: one after another, with plain autograd."""
    model, (owner, rows) = module(name, like), units.rows()
    parameters = list(model.parameters())
    out = []
    for unit in range(len(units)):
        mine = rows.take(owner == unit)
        logits = model(
            torch.from_numpy(mine.codes.astype(np.int64)),
            torch.from_numpy(mine.values.astype(np.float64)),
        )
        labels = torch.from_numpy(mine.labels.astype(np.float64))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).numpy()
        norm = float(np.linalg.norm(gradient))
        out.append(gradient * min(1.0, clip * (1 - 1e-3) / norm))
    return out


@both_models
@pytest.mark.parametrize("cap", [100, MOST])
def test_an_account_of_10_000_records_moves_the_clipped_sum_by_at_most_the_clip_norm(
    name: str, cap: int, with_and_without: tuple[Shard, Shard]
) -> None:
    whole, others = (s.units(Split.TRAIN, cap) for s in with_and_without)
    assert (len(whole), len(others)) == (121, 120)
    larger = clipped_sum(name, with_and_without[0], whole)
    smaller = clipped_sum(name, with_and_without[1], others)
    moved = np.linalg.norm(larger - smaller)
    assert CLIP * 0.1 < moved <= CLIP
    # Far below what its gradient would do, were it clipped record by record.
    records = TrainingUnits(with_and_without[0].train)
    flat = clipped_sum(name, with_and_without[0], records)
    fewer = clipped_sum(name, with_and_without[1], TrainingUnits(with_and_without[1].train))
    assert np.linalg.norm(flat - fewer) > 100 * CLIP


@pytest.mark.parametrize("cap", [100, MOST, None])
def test_an_account_of_10_000_records_is_one_unit_of_counts_and_histograms(
    cap: int | None, with_and_without: tuple[Shard, Shard]
) -> None:
    whole, others = (s.units(Split.TRAIN, cap) for s in with_and_without)
    bits = Randomness.seeded(1)
    count = GaussianCount(noise_multiplier=1.0)
    assert count(len(whole), bits)["units"] - count(len(others), bits)["units"] == 1
    histogram = GaussianHistogram(cells=8, noise_multiplier=1.0)
    larger, smaller = (
        histogram((owner, rows.labels * 4 + np.minimum(rows.codes[:, 0], 3)), bits)["histogram"]
        for owner, rows in (whole.rows(), others.rows())
    )
    assert 0.1 < np.linalg.norm(larger - smaller) <= 1
    assert smaller.sum() == pytest.approx(120)


@both_models
@pytest.mark.parametrize("cap", [3, 100, None])
@pytest.mark.parametrize("clip", [0.05, CLIP, 100.0])
def test_accounts_are_clipped_as_a_loop_over_accounts_does(
    name: str, cap: int | None, clip: float, with_and_without: tuple[Shard, Shard]
) -> None:
    like = with_and_without[0]
    units = like.units(Split.TRAIN, cap)
    expected = by_hand(name, like, units, clip)
    # Perceptrons with a hidden layer are computed in float32.
    close = 1e-9 if name == "additive" else 1e-6
    np.testing.assert_allclose(
        clipped_sum(name, like, units, clip), np.sum(expected, 0), rtol=close, atol=close
    )
    heavy = int(np.argmax(like.units(Split.TRAIN, None).sizes(np.arange(121))))
    for unit in (0, 57, heavy):
        alone = Only(units, unit)
        np.testing.assert_allclose(
            clipped_sum(name, like, alone, clip), expected[unit], rtol=0, atol=close
        )


class Only(TrainingUnits):
    """One unit of many."""

    def __init__(self, units: TrainingUnits, unit: int) -> None:
        super().__init__(units._coded, units._offsets[unit : unit + 2], units._cap)


def test_a_batch_is_bounded_whatever_one_account_holds(
    with_and_without: tuple[Shard, Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, made = [], TrainingUnits.batch

    def batch(self: TrainingUnits, index: np.ndarray) -> object:
        found = made(self, index)
        cells.append((len(index), found.labels.numel()))
        return found

    monkeypatch.setattr(TrainingUnits, "batch", batch)
    monkeypatch.setattr(units, "_RECORDS", 512)
    like = with_and_without[0]
    clipped_sum("additive", like, like.units(Split.TRAIN, None))
    assert cells[-1] == (1, MOST)
    assert all(size <= 512 for _, size in cells[:-1])
    assert sum(count for count, _ in cells) == 121
    assert len(cells) < 30


def test_the_cap_is_a_stable_choice_of_the_accounts_own_rows(
    tmp_path: Path, with_and_without: tuple[Shard, Shard]
) -> None:
    rows = table()
    shuffled = shard(tmp_path / "other", rows.take(np.random.default_rng(1).permutation(len(rows))))
    for left, right in (
        (with_and_without[0], shuffled),
        (with_and_without[0], with_and_without[1]),
    ):
        chosen = []
        for side in (left, right):
            owner, kept = side.units(Split.TRAIN, 7).rows()
            assert np.bincount(owner).max() == 7
            names = np.char.add(kept.ids, b"|")
            chosen.append(
                {
                    (name, *code, *value, label)
                    for name, code, value, label in zip(
                        names.tolist(),
                        kept.codes.tolist(),
                        kept.values.tolist(),
                        kept.labels.tolist(),
                        strict=True,
                    )
                }
            )
        assert chosen[1] <= chosen[0]
        assert len(chosen[0]) - len(chosen[1]) <= 7


def test_batches_and_rows_tell_the_same(with_and_without: tuple[Shard, Shard]) -> None:
    units = with_and_without[0].units(Split.TRAIN, 5)
    owner, rows = units.rows()
    index = np.array([4, np.argmax(np.bincount(owner)), 0])
    batch = units.batch(index)
    assert batch.mask is not None
    assert batch.labels.shape == batch.mask.shape == (3, 5)
    assert batch.mask.sum(1).tolist() == units.sizes(index).tolist()
    for place, unit in enumerate(index):
        there, mine = batch.mask[place], rows.take(owner == unit)
        assert batch.inputs[0][place][there].tolist() == mine.codes.tolist()
        assert batch.inputs[1][place][there].tolist() == mine.values.tolist()
        assert batch.labels[place][there].tolist() == mine.labels.tolist()
        assert len(set(mine.ids.tolist())) == 1
    assert len(set(rows.ids.tolist())) == len(units) == owner.max() + 1


def test_accounts_are_split_whole(tmp_path: Path) -> None:
    halves = shard(tmp_path / "s", table(), holdout=0.4)
    train, held = halves.train, halves.holdout_units
    assert not set(train.ids.tolist()) & set(held.ids.tolist())
    sizes = [len(halves.units(split, 10)) for split in (Split.TRAIN, Split.HOLDOUT)]
    assert sum(sizes) == 121
    assert min(sizes) > 20
    assert len(train) + len(held) == len(table())
    with pytest.raises(ValueError, match="apart"):
        halves.units(Split.BOTH, 10)


def test_records_are_units_of_one_row_in_the_order_of_the_file(tmp_path: Path) -> None:
    records = shard(tmp_path / "s", table(), unit="record")
    units = records.units(Split.TRAIN, 3)
    owner, rows = units.rows()
    assert len(units) == len(rows) == len(table())
    assert owner.tolist() == list(range(len(units)))
    batch = units.batch(np.array([5, 2]))
    assert batch.mask is None
    assert batch.labels.tolist() == rows.labels[[5, 2]].tolist()
    label = np.array(table()["fraud"].to_pylist()) == "1"
    assert (rows.labels == label).all()


def test_units_are_coded_once_for_each_kind(tmp_path: Path) -> None:
    accounts = shard(tmp_path / "s", table())
    assert len(accounts.units(Split.TRAIN, 10)) == 121
    records = Shard(**{**vars_of(accounts), "unit": "record"})
    assert len(records.units(Split.TRAIN, 10)) == len(table())
    assert len(list((tmp_path / "s" / "coded").iterdir())) == 2
    again = Shard(**vars_of(accounts)).units(Split.TRAIN, 10)
    for stored in (again._offsets, again._coded.codes):
        assert isinstance(stored.base, np.memmap)


def vars_of(made: Shard) -> dict[str, object]:
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def test_an_account_without_its_column_is_a_configuration_error(tmp_path: Path) -> None:
    rows = table().drop_columns(["card"])
    with pytest.raises(ConfigurationError, match="card"):
        _ = shard(tmp_path / "s", rows).train


@pytest.mark.parametrize("count", [0, 1])
def test_few_accounts(tmp_path: Path, count: int) -> None:
    few = shard(tmp_path / "s", table().slice(0, count))
    units = few.units(Split.TRAIN, 10)
    assert len(units) == len(units.rows()[1]) == count
    norm = np.linalg.norm(clipped_sum("mlp", few, units))
    assert 0 < norm <= CLIP if count else norm == 0


@pytest.mark.parametrize("cap", [0, -1])
def test_a_cap_below_one_is_an_error(cap: int, with_and_without: tuple[Shard, Shard]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        with_and_without[0].units(Split.TRAIN, cap)
