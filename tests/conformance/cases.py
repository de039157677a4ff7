"""Every mechanism, with its private inputs, in one shape that one suite can test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.gaussian import (
    GaussianCount,
    GaussianHistogram,
    GaussianQuantiles,
    GaussianSum,
)
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.units import Batch

SCHEMA = Schema(
    name="t",
    label=Label(column="y", positive=("1",)),
    features={
        "x": Numeric(low=0, high=10, bins=5),
        "z": Numeric(low=0, high=1, bins=0),
        "kind": Categorical(values=("a", "b")),
        "note": Text(buckets=16, max_ngrams=4),
    },
)
CODING = Coding(schema=SCHEMA)
NOISE, CLIP, CELLS = 2.5, 0.7, 8


def blank(*lead: int, slots: int = CODING.slots, values: int = CODING.n_values) -> Batch:
    """Return units of nothing: records, or with two lengths accounts x records."""
    return Batch(
        inputs=(torch.zeros(*lead, slots, dtype=torch.int64), torch.zeros(*lead, values).double()),
        labels=torch.zeros(lead).double(),
        mask=torch.zeros(lead, dtype=torch.bool) if len(lead) == 2 else None,
    )


class Rows:
    """Private units held as tensors; a value may be anything at all."""

    def __init__(self, codes: Any, values: Any, labels: Any) -> None:
        self.codes = torch.as_tensor(np.asarray(codes, dtype=np.int64))
        self.values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.float64))
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def max_records(self) -> int:
        return 1

    def blank(self, units: int, records: int) -> Batch:
        return blank(units, slots=self.codes.shape[1], values=self.values.shape[1])

    def sizes(self, index: Any) -> Any:
        return np.ones(len(index), dtype=np.int64)

    def batch(self, index: Any) -> Batch:
        self.asked.append(len(index))
        i = torch.as_tensor(index)
        return Batch(inputs=(self.codes[i], self.values[i]), labels=self.labels[i])

    def plus(self, other: Rows) -> Rows:
        """Return these units followed by others."""
        return Rows(
            torch.cat([self.codes, other.codes]),
            torch.cat([self.values, other.values]),
            torch.cat([self.labels, other.labels]),
        )


class Accounts:
    """Each of some rows as an account of one to three copies of it; padding holds rubbish."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def max_records(self) -> int:
        return 3

    def blank(self, units: int, records: int) -> Batch:
        return blank(units, records)

    def sizes(self, index: Any) -> Any:
        return 1 + np.asarray(index) % 3

    def batch(self, index: Any) -> Batch:
        one, sizes = self.rows.batch(index), self.sizes(index)
        most = int(sizes.max())
        there = torch.arange(most) < torch.as_tensor(sizes).unsqueeze(-1)

        def copies(part: torch.Tensor, rubbish: float) -> torch.Tensor:
            out = part.unsqueeze(1).repeat(1, most, *[1] * (part.dim() - 1))
            out[~there] = rubbish
            return out

        codes, values = one.inputs
        return Batch(
            inputs=(copies(codes, -(10**9)), copies(values, math.nan)),
            labels=copies(one.labels, math.inf),
            mask=there,
        )


class Loose:
    """Units as they come, each a (codes, values, label) of any kind, stacked when asked for."""

    def __init__(self, units: list[Any]) -> None:
        self.units = units

    def __len__(self) -> int:
        return len(self.units)

    @property
    def max_records(self) -> int:
        return 1

    def blank(self, units: int, records: int) -> Batch:
        return blank(units)

    def sizes(self, index: Any) -> Any:
        return np.ones(len(index), dtype=np.int64)

    def batch(self, index: Any) -> Batch:
        codes, values, labels = zip(*(self.units[i] for i in index), strict=True)
        parts = [torch.as_tensor(np.array(part)) for part in (codes, values, labels)]
        return Batch(inputs=(parts[0], parts[1]), labels=parts[2])


def rows(count: int, seed: int = 0) -> Rows:
    """Return ordinary coded units; some codes are padding."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((count, CODING.slots), dtype=np.int64)
    for slot, name in enumerate(CODING.slot_names):
        choices = CODING.feature_codes(name.partition("#")[0])
        codes[:, slot] = rng.choice(choices, count)
    padding = np.array(["#" in name for name in CODING.slot_names])
    codes[:, padding] *= rng.random((count, padding.sum())) < 0.6
    return Rows(codes, rng.random((count, CODING.n_values)), rng.integers(0, 2, count))


def one(value: float = 1.0, label: float = 1.0) -> Rows:
    """Return one unit that holds a value."""
    return Rows(rows(1).codes, np.full((1, CODING.n_values), value), [label])


@dataclass(frozen=True, kw_only=True)
class Case:
    """A mechanism and how its private inputs are made.

    Parameters
    ----------
    build : callable
        Takes (noise multiplier, sampling rate).
    private : callable
        Turns rows into what the mechanism takes.
    bound : float
        The sensitivity that the mechanism ought to have.
    heavy : Rows
        One unit that moves the output by all of that.
    sampled : bool
        Whether the sampling rate is used.
    reads : bool
        Whether what a unit holds matters; a count sees only that it is there.
    malformed : mapping
        Private inputs in which nothing is a unit.
    spoiled : mapping
        Pairs of private inputs: good units, and the same with one bad unit.
    """

    name: str
    build: Callable[..., Any]
    private: Callable[[Rows], Any]
    bound: float
    heavy: Rows = field(default_factory=lambda: one(1e6, 1e9))
    sampled: bool = False
    reads: bool = True
    malformed: Mapping[str, Any]
    spoiled: Mapping[str, tuple[Any, Any]]

    def call(self, mechanism: Any, private: Any, randomness: Randomness) -> np.ndarray:
        """Return what leaves as one flat vector."""
        arrays = mechanism(private, randomness)
        return np.concatenate([np.asarray(arrays[name]).ravel() for name in sorted(arrays)])

    def run(self, mechanism: Any, units: Rows, randomness: Randomness) -> np.ndarray:
        """Return what leaves of some rows as one flat vector."""
        return self.call(mechanism, self.private(units), randomness)


SECRET = "secret-77"
NOT_NUMBERS: dict[str, Any] = {
    "none": None,
    "text": SECRET,
    "nan": math.nan,
    "infinity": math.inf,
    "beyond a float": 10**400,
    "complex": 1j,
    "list": [1.0],
    "object": object(),
}
NOT_ARRAYS: dict[str, Any] = {
    "none": None,
    "number": 3,
    "text": SECRET,
    "object": object(),
    "no axis": np.array(1.0),
    "three axes": np.zeros((2, 2, 2)),
    "texts": np.array([SECRET, "1", "2"]),
    "bytes": np.array([b"1", b"2"]),
    "complex": np.zeros(3, dtype=complex),
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "dictionary": {"a": 1.0},
    "ragged": [[1.0], [1.0, 2.0], 3.0],
}


def objects(items: list[Any]) -> np.ndarray:
    """Return an array of Python objects, one an item."""
    out = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        out[i] = item
    return out


def module(name: str) -> torch.nn.Module:
    """Return a model away from its start, so that no gradient is zero by symmetry."""
    built = models.build(name, {}, CODING, 7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in built.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return built


def _bad_units() -> dict[str, Any]:
    codes, values = rows(1).codes[0].tolist(), [0.5] * CODING.n_values
    far = {"beyond": CODING.n_codes, "negative": -1, "far": 2**40}
    return {
        **{f"code {name}": ([code, *codes[1:]], values, 1.0) for name, code in far.items()},
        "codes too few": (codes[1:], values, 1.0),
        "codes of fractions": ([c + 0.5 for c in codes], values, 1.0),
        "codes of text": ([SECRET] * len(codes), values, 1.0),
        "values too many": (codes, [*values, 0.5], 1.0),
        "values of text": (codes, [SECRET] * len(values), 1.0),
        "value none": (codes, [None] * len(values), 1.0),
        "value nan": (codes, [math.nan] * len(values), 1.0),
        "label infinite": (codes, values, math.inf),
        "label none": (codes, values, None),
        "label of text": (codes, values, SECRET),
        "label list": (codes, values, [1.0, 0.0]),
        "not a unit": 3,
    }


def _dpsgd(name: str, wrap: Callable[[Rows], Any] = lambda units: units, kind: str = "") -> Case:
    def build(noise: float, rate: float = 1.0) -> DPSGD:
        return DPSGD(clip_norm=CLIP, noise_multiplier=noise, sampling_rate=rate, steps=1)

    base = rows(6)
    good = list(zip(base.codes.tolist(), base.values.tolist(), base.labels.tolist(), strict=True))
    with_bad = {
        what: [*good[:4], bad, *good[4:]] if what != "not a unit" else [bad, *good]
        for what, bad in _bad_units().items()
    }
    return Case(
        name=f"dpsgd-{name}{kind}",
        build=build,
        private=lambda units: (module(name), wrap(units)),
        bound=CLIP,
        sampled=True,
        malformed={w: (module(name), Loose([bad] * 3)) for w, bad in _bad_units().items()},
        spoiled={
            what: ((module(name), Loose(good)), (module(name), Loose(bad)))
            for what, bad in with_bad.items()
        },
    )


def _count() -> Case:
    return Case(
        name="count",
        build=lambda noise, rate=1.0: GaussianCount(noise_multiplier=noise),
        private=len,
        bound=1.0,
        reads=False,
        malformed={**NOT_ARRAYS, "number": 2.5, "negative": -3, "nan": math.nan, "true": True},
        spoiled={},
    )


def _sum() -> Case:
    width = CODING.n_values + 1
    good = [[0.1, 0.2, -0.3], [0.4, -0.5, 0.6]]
    bad: dict[str, Any] = {
        **{f"entry {name}": [0.1, entry, 0.3] for name, entry in NOT_NUMBERS.items()},
        **{f"row {name}": entry for name, entry in NOT_NUMBERS.items()},
        "too short": [0.1, 0.2],
        "too long": [0.1, 0.2, 0.3, 0.4],
        "nested": [[0.1, 0.2, 0.3]],
        "an array of text": np.array([SECRET, "1", "2"]),
    }
    pairs: dict[str, tuple[Any, Any]] = {}
    for what, row in bad.items():
        pairs[what] = (good, [good[0], row, good[1]])
        pairs[f"{what}, first of objects"] = (objects(good), objects([row, *good]))
    for value in (math.nan, math.inf):
        array = np.array([*good, [0.0, value, 0.0]])
        pairs[f"{value} in an array"] = (np.array(good), array)
    return Case(
        name="sum",
        build=lambda noise, rate=1.0: GaussianSum(
            clip_norm=CLIP, dimension=width, noise_multiplier=noise
        ),
        private=lambda units: np.hstack([units.values.numpy(), units.labels.numpy()[:, None]]),
        bound=CLIP,
        malformed={
            **NOT_ARRAYS,
            "a vector": np.zeros(width),
            "too wide": np.ones((4, width + 1)),
            "no width": np.ones((4, 0)),
            "table of text": np.full((2, width), SECRET),
        },
        spoiled=pairs,
    )


def _by_row(bad: Mapping[str, tuple[Any, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return malformed and spoiled inputs of what takes (units, entries)."""
    units, entries = [0, 1, 1, 2], [0.0, 1.0, 2.0, 7.0]
    malformed: dict[str, Any] = {f"pair {name}": value for name, value in NOT_ARRAYS.items()}
    for name, value in NOT_ARRAYS.items():
        malformed[f"units {name}"] = (value, entries)
        malformed[f"entries {name}"] = (units, value)
    for name in ("number", "ragged"):
        malformed.pop(f"entries {name}", None)
        malformed.pop(f"units {name}", None)
    pairs: dict[str, tuple[Any, Any]] = {}
    for name, (unit, entry) in bad.items():
        more = ([*units, unit], [*entries, entry])
        pairs[name] = ((units, entries), more)
        pairs[f"{name}, objects"] = ((units, entries), (objects(more[0]), objects(more[1])))
    pairs["one row without an entry"] = ((units, entries), (np.array([*units, 9]), entries))
    pairs["one entry without a unit"] = ((units, entries), (units, np.array([*entries, 3.0])))
    pairs["nan among units"] = (
        (units, entries),
        (np.array([*units, math.nan]), np.array([*entries, 3.0])),
    )
    return malformed, pairs


def _histogram() -> Case:
    bad: dict[str, tuple[Any, Any]] = {
        **{f"cell {name}": (9, entry) for name, entry in NOT_NUMBERS.items()},
        **{f"unit {name}": (entry, 3.0) for name, entry in NOT_NUMBERS.items() if name[0] != "b"},
        **{f"cell {cell}": (9, cell) for cell in (-1, CELLS, 1.5, 1e300, 10**30)},
    }
    malformed, spoiled = _by_row(bad)

    def private(units: Rows) -> Any:
        known = torch.isfinite(units.values).all(1)
        return np.arange(len(units)), torch.where(known, units.labels, math.nan).numpy()

    return Case(
        name="histogram",
        build=lambda noise, rate=1.0: GaussianHistogram(cells=CELLS, noise_multiplier=noise),
        private=private,
        bound=1.0,
        heavy=one(),
        malformed=malformed,
        spoiled=spoiled,
    )


def _quantiles() -> Case:
    bad: dict[str, tuple[Any, Any]] = {
        **{f"value {name}": (9, entry) for name, entry in NOT_NUMBERS.items()},
        **{f"unit {name}": (entry, 3.0) for name, entry in NOT_NUMBERS.items() if name[0] != "b"},
    }
    malformed, spoiled = _by_row(bad)

    def private(units: Rows) -> Any:
        known = torch.isfinite(units.labels)
        return np.arange(len(units)), torch.where(known, units.values[:, 0], math.nan).numpy()

    return Case(
        name="quantiles",
        build=lambda noise, rate=1.0: GaussianQuantiles(
            low=-1.0, high=8.0, cells=CELLS, noise_multiplier=noise
        ),
        private=private,
        bound=1.0,
        malformed=malformed,
        spoiled=spoiled,
    )


CASES = [
    _count(),
    _sum(),
    _histogram(),
    _quantiles(),
    *(_dpsgd(name) for name in models.REGISTRY),
    *(_dpsgd(name, Accounts, "-accounts") for name in models.REGISTRY),
]
