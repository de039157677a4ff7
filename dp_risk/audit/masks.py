"""Masked vectors of a secure sum: alone they must look like nothing at all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dp_risk.audit.findings import Check
from dp_risk.audit.tails import ALPHA, Tail, binomial, chi_square, verdict

# Of each vector so many coordinates are compared with those of every other round.
_COMPARED = 16
# The difference of two vectors under one mask is far below this, and one of random vectors is not.
_SMALL_BITS = 56
_LEAST_BYTES = 256 * 8


def masks(vectors: Mapping[str, Sequence[NDArray[np.uint64]]], *, alpha: float = ALPHA) -> Check:
    """Compare masked vectors with uniform ones, and look for masks that were used twice.

    The bytes of all vectors of a site are counted (chi-square). Under one mask the difference of
    two rounds is the difference of two noisy sums, far below 2**56; of uniform vectors one
    coordinate in 128 is.

    Parameters
    ----------
    vectors : mapping of str to sequence of ndarray of uint64
        What each site sent, by site. None at all fail the check.
    alpha : float
        Probability of failing on an honest trainer.
    """
    count = sum(len(sent) for sent in vectors.values())
    if not count:
        return Check(name="masks", passed=False, figure="no masked vector was seen")
    tails = [tail for site, sent in vectors.items() for tail in _tails(site, sent)]
    summary = f"{count} masked vectors of {len(vectors)} sites look uniform, no mask comes back"
    return verdict("masks", tails, summary, alpha=alpha)


def _tails(site: str, sent: Sequence[NDArray[np.uint64]]) -> list[Tail]:
    tails = []
    found = np.bincount(np.concatenate([v.view(np.uint8) for v in sent]), minlength=256)
    if found.sum() >= _LEAST_BYTES:
        expected = found.sum() / 256
        total = float(np.square(found - expected).sum() / expected)
        tails.append(
            Tail(
                p_value=float(chi_square(total, 255)),
                figure=f"{site}: bytes {np.sqrt(total / 255):.2f} times as uneven as uniform ones",
            )
        )
    long = [v[:_COMPARED] for v in sent if len(v) >= _COMPARED // 2]
    pairs = list(itertools.combinations(range(len(long)), 2))
    if pairs:
        small = np.array([_small(long[a], long[b]) for a, b in pairs])
        sizes = np.array([min(len(long[a]), len(long[b])) for a, b in pairs])
        p_values = binomial(small, sizes, 2.0 ** (_SMALL_BITS - 63))
        worst = int(p_values.argmin())
        tails.append(
            Tail(
                p_value=float(p_values[worst]) * len(pairs),
                figure=f"{site}: {small[worst]} of {sizes[worst]} numbers of two rounds differ by "
                "noise alone: one mask hides both",
            )
        )
    return tails


def _small(one: NDArray[np.uint64], two: NDArray[np.uint64]) -> int:
    size = min(len(one), len(two))
    difference = (one[:size] - two[:size]).view(np.int64)
    limit = 2**_SMALL_BITS
    return int(((difference > -limit) & (difference < limit)).sum())
