from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dp_risk import models
from dp_risk.models import opening
from dp_risk.privacy.dpsgd import load_weights
from tests.models.test_additive import coding

BIAS = "b"


def mean_gradients(seed: int, share: float, count: int = 400) -> tuple[dict, dict, np.ndarray]:
    """Return the noise-free mean gradients of a logistic regression at +-30, and the rows."""
    rng = np.random.default_rng(seed)
    rows = (rng.random((count, 3)) < (0.1, 0.5, 0.9)).astype(float)
    positive = rng.random(count) < share
    sums = []
    for residual in (1.0 - positive, 0.0 - positive):
        sums.append({"w": residual @ rows / count, BIAS: np.array([residual.mean()])})
    return sums[0], sums[1], np.column_stack([rows, positive])


@given(st.integers(0, 99), st.floats(0.05, 0.95))
def test_without_noise_shares_and_means_are_exact(seed: int, share: float) -> None:
    high, low, rows = mean_gradients(seed, share)
    said = opening.read(high, low, BIAS, noise=0.0)
    assert said.positives == pytest.approx(rows[:, 3].mean())
    assert said.means is not None
    np.testing.assert_allclose(said.means["w"], rows[:, :3].mean(0))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(1e-9, 10))
def test_what_noise_hides_is_not_believed(negatives: float, positives: float, noise: float) -> None:
    high, low = {BIAS: np.array([negatives])}, {BIAS: np.array([-positives])}
    said = opening.read(high, low, BIAS, noise=noise)
    assert 0 < said.positives < 1
    if said.means is None:
        assert negatives + positives <= max(6 * noise, 1e-6)
    else:
        doubt = min(2 * noise / (negatives + positives), 0.5)
        assert doubt * (1 - 1e-9) <= said.positives <= 1 - doubt * (1 - 1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("additive", {"linear": True, "value_scale": 1.0}), ("mlp", {"width": 4, "depth": 2})],
)
@pytest.mark.parametrize("positive", [True, False])
def test_a_model_is_certain_of_every_row(name: str, options: dict, positive: bool) -> None:
    code = coding()
    module = models.build(name, options, code, 0)
    start = {k: v.numpy().copy() for k, v in module.state_dict().items()}
    bias = models.create(name, options).bias
    moved = opening.certain(start, bias, positive=positive)
    assert {k for k in start if not np.array_equal(start[k], moved[k])} == {bias}
    load_weights(module, moved)
    codes = np.random.default_rng(0).integers(0, code.n_codes, (50, code.slots))
    logits = models.logits(module, codes, np.ones((50, code.n_values)))
    certain = torch.sigmoid(torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(certain, float(positive), atol=1e-9)


def test_next_to_nothing_says_nothing() -> None:
    high, low = (
        {BIAS: np.array([1e-300]), "w": np.array([1e12])},
        {BIAS: np.zeros(1), "w": np.zeros(1)},
    )
    assert opening.read(high, low, BIAS, noise=0.0).means is None
