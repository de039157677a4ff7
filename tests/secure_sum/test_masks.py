from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dp_risk.secure_sum.masks import Round, mask, pair_key, pair_mask, public_of, unmask
from dp_risk.types import FederationError
from tests.secure_sum.sites import names


def round_of(sites, size, **changes):
    base = {"plan_digest": "p", "r": 4, "purpose": "training", "participants": tuple(sites)}
    return Round(**{**base, "dimension": size, **changes})


def pairs_of(sites, run="run"):
    secrets = {site: hashlib.sha256(site.encode()).digest() for site in sites}
    return {
        site: {
            other: pair_key(secrets[site], site, other, public_of(secrets[other]), run)
            for other in sites
            if other != site
        }
        for site in sites
    }


SITES = names(6)
PAIRS = pairs_of(SITES)


def masked(vectors, sites, **changes):
    return {
        site: np.array(vector, np.int64).view(np.uint64)
        + mask(PAIRS[site], site=site, round=round_of(sites, len(vector), **changes))
        for site, vector in zip(sites, vectors, strict=True)
    }


def uniform(words: np.ndarray) -> float:
    """Return the chi-square p-value of the bytes against the uniform distribution."""
    return float(stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue)


@given(st.data(), st.integers(2, 6), st.integers(1, 20))
def test_the_masks_cancel_in_the_sum_over_all(data, count, dimension):
    whole = st.integers(-(2**63), 2**63 - 1)
    row = st.lists(whole, min_size=dimension, max_size=dimension)
    vectors = data.draw(st.lists(row, min_size=count, max_size=count))
    sites = SITES[:count]
    found = unmask(masked(vectors, sites), round_of(sites, dimension))
    plain = [sum(column) for column in zip(*vectors, strict=True)]
    assert found.dtype == np.int64
    assert [int(x) % 2**64 for x in found] == [x % 2**64 for x in plain]


def test_a_pair_finds_one_key_and_every_other_pair_and_run_another():
    found = [PAIRS[a][b] for a, b in itertools.combinations(SITES, 2)]
    assert found == [PAIRS[b][a] for a, b in itertools.combinations(SITES, 2)]
    other = pairs_of(SITES, run="another")
    assert not {key for one in other.values() for key in one.values()} & set(found)
    assert len(set(found)) == len(found) == 15
    # The same two keys under other names give another secret.
    one, two = b"\x01" * 32, b"\x02" * 32
    assert pair_key(one, "a", "b", public_of(two), "r") != pair_key(
        one, "a", "c", public_of(two), "r"
    )


@pytest.mark.parametrize("public", ["00" * 32, "01" + "00" * 31, "ab", "", "zz" * 32])
def test_a_key_that_makes_no_secret_is_refused(public):
    with pytest.raises(ValueError, match=r"."):
        pair_key(b"\x01" * 32, "a", "b", public, "run")


@pytest.mark.parametrize(
    "change",
    [
        {"plan_digest": "p2"},
        {"r": 5},
        {"purpose": "counts"},
        {"dimension": 65},
        {"participants": SITES[:4]},
        {"request": "other weights"},
    ],
    ids=str,
)
def test_anything_else_in_a_round_gives_other_masks(change):
    def found(**changes):
        return mask(PAIRS[SITES[0]], site=SITES[0], round=round_of(SITES[:5], 64, **changes))

    first = found()
    assert np.array_equal(first, found())
    assert np.array_equal(first, found(participants=SITES[:5][::-1]))
    other = found(**change)
    assert not set(first.tolist()) & set(other.tolist())
    # The mask of one pair, too, is of this round alone.
    pair = PAIRS[SITES[0]][SITES[1]]
    one, another = (pair_mask(pair, round_of(SITES[:5], 64, **of)) for of in ({}, change))
    assert not set(one.tolist()) & set(another.tolist())


def sum_is_hidden(vectors, sites):
    """Check every smaller sum and the whole one; return how many were smaller."""
    checked = 0
    for size in range(1, len(sites)):
        for subset in itertools.combinations(sites, size):
            total = np.sum([vectors[site] for site in subset], axis=0, dtype=np.uint64)
            assert 1e-8 < uniform(total) < 1 - 1e-8, subset
            checked += 1
    whole = np.sum(list(vectors.values()), axis=0, dtype=np.uint64)
    assert set(whole.tolist()) == {1000 * len(sites)}
    assert uniform(whole) < 1e-8
    return checked


@pytest.mark.statistical
def test_every_smaller_sum_is_uniform():
    # Chi-square on bytes, two-sided at 1e-8 a tail; 30 proper subsets of 5 sites, and 14 of 4 sites
    # whose masks with the colluding fifth are taken off: flake rate 9e-7.
    sites, dimension = SITES[:5], 4096
    vectors = masked([[1000] * dimension] * 5, sites)
    assert sum_is_hidden(vectors, sites) == 30

    spy, honest = sites[2], [site for site in sites if site != sites[2]]
    for site in honest:
        known = pair_mask(PAIRS[spy][site], round_of(sites, dimension))
        vectors[site] = vectors[site] - known if site < spy else vectors[site] + known
    assert sum_is_hidden({site: vectors[site] for site in honest}, honest) == 14


def test_one_mask_that_stays_hides_the_sum():
    vectors = masked([[7] * 4096] * 4, SITES[:4])
    # One site answers another round: its masks do not cancel.
    late = masked([[7] * 4096] * 4, SITES[:4], r=5)
    found = unmask({**vectors, SITES[2]: late[SITES[2]]}, round_of(SITES[:4], 4096))
    assert uniform(found.view(np.uint64)) > 1e-8
    assert 28 not in found


@pytest.mark.parametrize("count", [1, 2, 3])
def test_nothing_is_unmasked_when_a_site_is_missing(count):
    vectors = masked([[1, 2]] * 4, SITES[:4])
    answered = {site: vectors[site] for site in SITES[:count]}
    with pytest.raises(FederationError, match=SITES[3]):
        unmask(answered, round_of(SITES[:4], 2))


def test_a_vector_of_another_site_length_or_type_is_refused():
    vectors = masked([[1, 2]] * 4, SITES[:4])
    with pytest.raises(FederationError, match="not named"):
        unmask(vectors, round_of(SITES[:3], 2))
    for wrong in (np.zeros(3, np.uint64), np.zeros((2, 1), np.uint64), np.zeros(2, np.int64)):
        with pytest.raises(FederationError, match=f"{SITES[1]}.*length or type"):
            unmask({**vectors, SITES[1]: wrong}, round_of(SITES[:4], 2))
