from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from server import robust
from server.robust import Rule

ROBUST = [rule for rule in Rule if rule is not Rule.SUM]
values = st.floats(-1e6, 1e6)
absurd = st.floats(-1e12, 1e12)


@st.composite
def federations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Honest gradients that lie close together, and those of liars."""
    byzantine = draw(st.integers(0, 3))
    honest = draw(st.integers(byzantine + 3, byzantine + 8))
    d = draw(st.integers(1, 4))
    near = draw(arrays(np.float64, (honest, d), elements=st.floats(-1, 1)))
    centre = draw(arrays(np.float64, d, elements=values))
    lies = draw(arrays(np.float64, (byzantine, d), elements=absurd))
    return centre + near, lies, byzantine


@pytest.mark.parametrize("rule", [Rule.MEDIAN, Rule.TRIMMED_MEAN])
@given(federations())
def test_a_coordinate_stays_among_those_of_honest_sites(
    rule: Rule, federation: tuple[np.ndarray, np.ndarray, int]
) -> None:
    honest, lies, byzantine = federation
    found = robust.combine(rule, np.concatenate([lies, honest]), byzantine)
    slack = 1e-9 * np.abs(honest).max()
    assert (found >= honest.min(0) - slack).all()
    assert (found <= honest.max(0) + slack).all()


@given(federations())
def test_krum_returns_a_gradient_near_the_honest_ones(
    federation: tuple[np.ndarray, np.ndarray, int],
) -> None:
    honest, lies, byzantine = federation
    found = robust.krum(np.concatenate([lies, honest]), byzantine)
    n, d = len(honest) + byzantine, honest.shape[1]
    # A liar that is chosen scores no worse than an honest site, and has one among its nearest.
    worst = (n - byzantine - 2) * d * 4
    nearest = ((honest - found) ** 2).sum(1).min()
    assert nearest <= worst * (1 + 1e-9)


def reference(means: np.ndarray, byzantine: int) -> list[float]:
    """Return the scores of Krum as the paper writes them."""
    out = []
    for i, one in enumerate(means):
        far = sorted(float(((one - x) ** 2).sum()) for j, x in enumerate(means) if j != i)
        out.append(sum(far[: len(means) - byzantine - 2]))
    return out


@given(st.integers(0, 1000), st.integers(0, 2))
def test_krum_and_multi_krum_choose_by_the_scores_of_the_paper(seed: int, byzantine: int) -> None:
    means = np.random.default_rng(seed).normal(size=(2 * byzantine + 4, 3))
    order = np.argsort(reference(means, byzantine))
    np.testing.assert_array_equal(robust.krum(means, byzantine), means[order[0]])
    chosen = means[order[: len(means) - byzantine]]
    np.testing.assert_allclose(robust.multi_krum(means, byzantine), chosen.mean(0))


def test_multi_krum_is_the_mean_of_honest_sites_where_liars_are_far() -> None:
    honest = np.random.default_rng(1).normal(size=(8, 5))
    for lies in (honest[:2] + 100, -50 * honest[:2], np.full((2, 5), 1e12)):
        found = robust.multi_krum(np.concatenate([lies, honest]), 2)
        np.testing.assert_allclose(found, honest.mean(0))


@pytest.mark.parametrize("rule", ROBUST)
def test_the_order_of_sites_does_not_matter_and_agreement_is_kept(rule: Rule) -> None:
    rng = np.random.default_rng(2)
    means = rng.normal(size=(9, 6))
    found = robust.combine(rule, means, 2)
    np.testing.assert_allclose(robust.combine(rule, means[rng.permutation(9)], 2), found)
    np.testing.assert_allclose(robust.combine(rule, means + 7.0, 2), found + 7.0)
    np.testing.assert_allclose(robust.combine(rule, np.tile(means[0], (9, 1)), 2), means[0])


def test_known_values() -> None:
    means = np.array([[0.0], [1.0], [2.0], [3.0], [100.0]])
    assert robust.median(means) == 2.0
    assert robust.trimmed_mean(means, 1) == 2.0
    assert robust.trimmed_mean(means, 0) == pytest.approx(21.2)
    assert robust.multi_krum(means, 1) == 1.5


@pytest.mark.parametrize("rule", ROBUST)
@pytest.mark.parametrize("byzantine", [0, 1, 2])
def test_a_rule_says_how_many_sites_it_needs(rule: Rule, byzantine: int) -> None:
    needed = robust.fewest(rule, byzantine)
    assert robust.combine(rule, np.ones((needed, 2)), byzantine).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=f"{rule} needs {needed} sites, {needed - 1} are there"):
        robust.combine(rule, np.ones((needed - 1, 2)), byzantine)


def test_a_sum_is_no_rule_over_means() -> None:
    with pytest.raises(ValueError, match="a sum"):
        robust.combine(Rule.SUM, np.ones((3, 2)), 0)


def test_the_median_costs_pi_over_two_of_the_variance_whatever_the_sizes() -> None:
    sizes = np.random.default_rng(3).uniform(100, 5000, 201)
    of_sum = math.sqrt(len(sizes)) / sizes.sum()
    found = robust.noise(Rule.MEDIAN, list(1 / sizes), 40, dimension=5)
    assert found / of_sum == pytest.approx(math.sqrt(math.pi / 2), rel=0.03)


def test_the_noise_of_rules_on_equal_sites() -> None:
    # The median of three Gaussians has variance 1 - sqrt(3) / pi.
    three = robust.noise(Rule.MEDIAN, [1.0] * 3, 1, dimension=5)
    assert three == pytest.approx(math.sqrt(1 - math.sqrt(3) / math.pi), rel=0.02)
    mean = robust.noise(Rule.TRIMMED_MEAN, [2.0] * 10, 0, dimension=5)
    assert mean == pytest.approx(2 / math.sqrt(10), rel=0.02)
    trimmed = robust.noise(Rule.TRIMMED_MEAN, [2.0] * 10, 2, dimension=5)
    assert mean < trimmed < robust.noise(Rule.MEDIAN, [2.0] * 10, 2, dimension=5)
    assert robust.noise(Rule.KRUM, [1.0] * 10, 2, dimension=500) == pytest.approx(0.97, abs=0.05)
    several = robust.noise(Rule.MULTI_KRUM, [1.0] * 10, 2, dimension=500)
    assert several == pytest.approx(1 / math.sqrt(8), abs=0.03)
    assert robust.noise(Rule.KRUM, [0.0] * 10, 2, dimension=500) == 0.0


@given(
    st.lists(st.floats(1, 1e6), min_size=4, max_size=9), st.lists(st.floats(1e-9, 1e12), max_size=3)
)
def test_no_size_is_believed_beyond_what_honest_sites_claim(
    honest: list[float], lies: list[float]
) -> None:
    found = robust.believed([*lies, *honest], len(lies))
    assert min(honest) <= min(found)
    assert max(found) <= max(honest)
    assert robust.believed(honest, 0) == honest
