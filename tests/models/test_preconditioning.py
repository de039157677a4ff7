from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk import models
from dp_risk.models.opening import Opening
from dp_risk.models.preconditioning import fit
from dp_risk.models.prior import Block, smooth
from tests.models.test_additive import coding

MODELS = [("additive", {"linear": True, "value_scale": 2.0}), ("mlp", {"width": 4, "depth": 1})]


def blocks() -> list[Block]:
    return [
        Block(name="w", start=2, covariance=smooth(4), power=1),
        Block(name="w", start=6, covariance=np.array([1.0, 0.5]), power=2),
        Block(name="b", start=0, covariance=np.array([4.0]), power=1),
    ]


def said(share: float = 0.3) -> Opening:
    means = {"w": np.array([[9.0, 9, 0.1, 0.2, 0.3, 0.4, 0.5, -0.2]]), "b": np.array([1.0])}
    return Opening(positives=share, means=means)


@pytest.mark.parametrize("noise", [0.0, 1e-4, 1e-2, 1.0])
def test_it_is_the_inverse_of_curvature_and_ridge(noise: float) -> None:
    found = fit(blocks(), said(), noise=noise, steps=50)
    spread, r = 0.3 * 0.7, found.ridge
    bins = np.linalg.inv(
        np.diag(spread * np.array([0.1, 0.2, 0.3, 0.4])) + r * np.linalg.inv(smooth(4))
    )
    numbers = 1 / (spread * np.array([0.25, 0.0]) + r / np.array([1.0, 0.5]))
    np.testing.assert_allclose(found.matrices[0], bins, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.matrices[1], numbers)
    np.testing.assert_allclose(found.matrices[2], [1 / (spread + r / 4)])


@settings(deadline=None)
@given(st.floats(1e-6, 10), st.integers(1, 500), st.floats(0.001, 0.999))
def test_noise_alone_walks_no_further_than_six(noise: float, steps: int, share: float) -> None:
    found = fit(blocks(), said(share), noise=noise, steps=steps)
    walk = noise * np.sqrt(steps * sum((m**2).sum() for m in found.matrices))
    assert walk <= 6 * (1 + 1e-9)
    assert found.ridge >= 0.004
    # No ridge that is smaller would do, but the least one.
    assert found.ridge == pytest.approx(0.004) or walk >= 6 * (1 - 1e-6)


def test_only_weights_of_the_prior_move() -> None:
    found = fit(blocks(), said(), noise=0.01, steps=50)
    step = found({"w": np.ones((1, 9)), "b": np.ones(1), "other": np.ones(3)})
    assert step["w"].shape == (1, 9)
    assert not step["w"][0, [0, 1, 8]].any()
    assert step["w"][0, 2:8].all()
    assert not step["other"].any()


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_model_expects_something_of_every_weight_that_is_trained(
    name: str, options: dict
) -> None:
    code = coding()
    one, module = models.create(name, options), models.build(name, options, code, 0)
    count = {k: np.zeros(p.numel(), dtype=int) for k, p in module.named_parameters()}
    for block in one.prior(code):
        count[block.name][block.start : block.stop] += 1
        full = block.covariance if block.covariance.ndim == 2 else np.diag(block.covariance)
        assert np.linalg.eigvalsh(full).min() > 0
    if name == "additive":
        # Code 0 says that nothing is there.
        assert count["terms.codes.weight"][0] == 0
        count["terms.codes.weight"][0] = 1
    assert all((times == 1).all() for times in count.values())
    assert one.bias in count


@given(st.integers(1, 64))
def test_neighbouring_bins_are_alike(bins: int) -> None:
    covariance = smooth(bins)
    np.testing.assert_allclose(covariance, covariance.T)
    assert (np.diff(covariance[0]) <= 1e-12).all()
    assert (covariance > 0).all()
