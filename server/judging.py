"""Why an answer is not believed: reasons for the run's log, never a word of what was sent."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import RecordDict
from numpy.typing import NDArray

from dp_risk import wire
from dp_risk.privacy.release import Release
from server.aggregation import Shapes, Weights

LOG = logging.getLogger("dp_risk.server")
REFUSED = "refused"
# Far above any honest noisy sum, and far below where sums of floats overflow.
_LARGEST = 1e12


def read(content: RecordDict) -> Release | str:
    """Return the release in an answer, or why there is none.

    Whatever a site sends, this returns.
    """
    if wire.is_refusal(content):
        return REFUSED
    try:
        return wire.read_release(content)
    # A liar chooses the bytes that are decoded, and so what they raise.
    except Exception as error:
        LOG.debug("an answer is no release: %s", type(error).__name__)
        return "no release, or not what its digest says"


def misplaced(release: Release, key: str, *, run: str, purpose: str, round: int) -> str | None:
    """Return why a release is not the answer to this question; None where it is.

    Parameters
    ----------
    release : Release
        What came.
    key : str
        The site's public key, in hexadecimal.
    run, purpose, round : str, str, int
        What was asked.
    """
    if not release.signed_by(key):
        return "not signed with the site's key"
    if release.run != run:
        return "of another run"
    if release.purpose != purpose:
        return "for another purpose"
    if release.round != round:
        return "stale: of another round"
    return None


def misfit(
    arrays: Weights, shapes: Shapes, *, kind: Any = np.float64, longest: float = math.inf
) -> str | None:
    """Return why arrays cannot be an honest answer; None where they can.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        What came.
    shapes : mapping of str to tuple of int
        What was asked for.
    kind : dtype
        Of every array.
    longest : float
        L2 norm over all of them that an honest answer does not exceed.
    """
    if set(arrays) != set(shapes):
        return "arrays of other names"
    if any(arrays[name].shape != tuple(shape) for name, shape in shapes.items()):
        return "arrays of another shape"
    if any(array.dtype != kind for array in arrays.values()):
        return "numbers of another type"
    if kind != np.float64:
        return None
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "numbers that are not finite"
    if not all((np.abs(array) <= _LARGEST).all() for array in arrays.values()):
        return "numbers that are too large"
    if norm(arrays) > longest:
        return "longer than an honest answer can be"
    return None


def norm(arrays: Mapping[str, NDArray[np.float64]]) -> float:
    """Return the L2 norm over arrays whose squares do not overflow."""
    return math.sqrt(sum(float((array**2).sum()) for array in arrays.values()))
