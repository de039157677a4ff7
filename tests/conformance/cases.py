"""Every mechanism, with its private inputs, in one shape that one suite can test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Categorical, Label, Numeric, Schema, Text
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.gaussian import GaussianCount
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
NOISE, CLIP = 2.5, 0.7


class Rows:
    """Private units held as tensors; a value may be anything at all."""

    def __init__(self, codes: Any, values: Any, labels: Any) -> None:
        self.codes = torch.as_tensor(np.asarray(codes, dtype=np.int64))
        self.values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.float64))
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Any) -> Any:
        self.asked.append(len(index))
        i = torch.as_tensor(index)
        return Batch(inputs=(self.codes[i], self.values[i]), labels=self.labels[i])

    def sizes(self, index: Any) -> Any:
        return np.ones(len(index), dtype=np.int64)

    def plus(self, other: Rows) -> Rows:
        """Return these units followed by others."""
        return Rows(
            torch.cat([self.codes, other.codes]),
            torch.cat([self.values, other.values]),
            torch.cat([self.labels, other.labels]),
        )


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

    `build` takes (noise multiplier, sampling rate); `run` takes (mechanism, rows, bits) and
    returns one flat vector; `bound` is the sensitivity that the mechanism ought to have.
    """

    name: str
    build: Callable[..., Any]
    run: Callable[[Any, Rows, Randomness], np.ndarray]
    bound: float


def _flat(arrays: Any) -> np.ndarray:
    return np.concatenate([np.asarray(arrays[name]).ravel() for name in sorted(arrays)])


def module(name: str) -> torch.nn.Module:
    """Return a model away from its start, so that no gradient is zero by symmetry."""
    built = models.build(name, {}, CODING, 7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for p in built.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return built


def _dpsgd(name: str) -> Case:
    def build(noise: float, rate: float = 1.0) -> DPSGD:
        return DPSGD(clip_norm=CLIP, noise_multiplier=noise, sampling_rate=rate, steps=1)

    def run(mechanism: Any, units: Rows, randomness: Randomness) -> np.ndarray:
        return _flat(mechanism((module(name), units), randomness))

    return Case(name=f"dpsgd-{name}", build=build, run=run, bound=CLIP)


def _count() -> Case:
    def build(noise: float, rate: float = 1.0) -> GaussianCount:
        return GaussianCount(noise_multiplier=noise)

    def run(mechanism: Any, units: Rows, randomness: Randomness) -> np.ndarray:
        return _flat(mechanism(len(units), randomness))

    return Case(name="count", build=build, run=run, bound=1.0)


CASES = [_count(), *(_dpsgd(name) for name in models.REGISTRY)]
