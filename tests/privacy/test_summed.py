"""Any mechanism's output may be one site's part of a sum: what several sites add up."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dp_risk.privacy.dpsgd import DPSGD, dimension
from dp_risk.privacy.gaussian import (
    GaussianCount,
    GaussianHistogram,
    GaussianQuantiles,
    GaussianSum,
)
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.shares import ShareGrid, grid_of
from tests.conformance.cases import module, rows

SITES, CELLS = 4, 64


def share(clip_norm: float = 1.0, size: int = CELLS, noise: float = 3.0) -> ShareGrid:
    return ShareGrid(
        clip_norm=clip_norm, noise_multiplier=noise, dimension=size, participants=SITES,
        max_colluding=1, units=1000,
    )  # fmt: skip


def mechanisms(given: Callable[..., Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield each mechanism with what one site holds and the exact output on it."""
    units, cells = np.arange(50), np.arange(50) % CELLS
    exact = np.bincount(cells, minlength=CELLS)
    yield GaussianCount(noise_multiplier=3.0, share=given(1.0, 1)), 50, [50.0]
    yield (
        GaussianHistogram(cells=CELLS, noise_multiplier=3.0, share=given(1.0, CELLS)),
        (units, cells), exact,
    )  # fmt: skip
    yield (
        GaussianQuantiles(
            low=0.0, high=CELLS, cells=CELLS, noise_multiplier=3.0, share=given(1.0, CELLS)
        ),
        (units, cells + 0.5), exact,
    )  # fmt: skip
    vectors = np.full((50, CELLS), 0.01)
    yield (
        GaussianSum(clip_norm=2.0, dimension=CELLS, noise_multiplier=3.0, share=given(2.0, CELLS)),
        vectors, vectors.sum(0),
    )  # fmt: skip


@pytest.mark.statistical
def test_sites_add_up_to_the_exact_sum_and_the_noise_that_is_accounted() -> None:
    """The flake rate is below 1e-6: 64 x 200 draws of a Gaussian, each mechanism at 5 sigma."""
    for mechanism, private, exact in mechanisms(share):
        grid = mechanism.share
        found = [
            sum(next(iter(mechanism(private, Randomness.system()).values())) for _ in range(SITES))
            for _ in range(200)
        ]
        errors = (np.array(found) - SITES * np.asarray(exact)) / grid.std
        assert abs(errors.std() - 1) < 5.5 / np.sqrt(2 * errors.size), type(mechanism)
        assert abs(errors.mean()) < 5.5 / np.sqrt(errors.size)
        assert grid.std == pytest.approx(np.sqrt(SITES / (SITES - 1)) * grid.accounted_std)


def test_the_event_is_that_of_the_sum() -> None:
    alone = list(mechanisms(lambda *_: None))
    for (one, *_), (shared, *_) in zip(alone, mechanisms(share), strict=True):
        assert shared.event == one.event
        assert shared.sensitivity == one.sensitivity


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    "other", [lambda c, d: share(c * 2, d), lambda c, d: share(c, d + 1),
              lambda c, d: share(c, d, noise=2.9)],
    ids=["clip norm", "dimension", "noise"],
)  # fmt: skip
def test_a_share_of_another_sum_is_an_error(number: int, other: Callable[..., Any]) -> None:
    good = list(mechanisms(share))
    assert len(good) == 4

    calls = itertools.count()

    def one(clip_norm: float, size: int) -> ShareGrid:
        return (other if next(calls) == number else share)(clip_norm, size)

    with pytest.raises(ValueError, match="another sum"):
        list(mechanisms(one))


@pytest.mark.statistical
def test_one_step_of_training_is_a_share_too() -> None:
    """The flake rate is below 1e-6: two-sided chi-square."""
    model = module("additive")
    grid = share(1.0, dimension(model))
    asked: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 3.0, "sampling_rate": 1.0}
    mechanism = DPSGD(**asked, steps=1, share=grid)
    found = []
    for _ in range(40):
        arrays = mechanism((model, rows(0)), Randomness.system())
        found.append(np.concatenate([array.ravel() for array in arrays.values()]))
        grid.encode(found[-1])
    values = np.concatenate(found) / grid.share_std
    low, high = stats.chi2.ppf([5e-8, 1 - 5e-8], len(values))
    assert low < (values**2).sum() < high
    assert mechanism.event == DPSGD(**asked, steps=1).event


def test_training_adds_no_share_twice_and_none_of_another_sum() -> None:
    model = module("additive")
    asked: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 3.0, "sampling_rate": 1.0}
    with pytest.raises(ValueError, match="alone"):
        DPSGD(**asked, steps=2, share=share(1.0, dimension(model)))
    wrong = DPSGD(**asked, steps=1, share=share(1.0, dimension(model) + 1))
    with pytest.raises(ValueError, match="another sum"):
        wrong((model, rows(3)), Randomness.system())


@given(st.floats(0.1, 10), st.floats(0.5, 50), st.integers(1, 500))
@settings(max_examples=50, deadline=None)
def test_without_a_share_a_site_adds_all_of_the_noise(clip: float, noise: float, size: int) -> None:
    own = grid_of(None, clip_norm=clip, noise_multiplier=noise, dimension=size)
    assert own == Grid(clip_norm=clip, noise_multiplier=noise, dimension=size)
    part = share(clip, size, noise)
    assert grid_of(part, clip_norm=clip, noise_multiplier=noise, dimension=size) is part
