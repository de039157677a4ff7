"""Train and holdout by keyed hash of the stable unit id.

With one key and one fraction a unit is in the holdout for ever, whatever rows come or go. The key
is the site's own: without it nobody can tell from an id which side a unit is on.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import NO_ID
from dp_risk.types import ConfigurationError


def holdout_mask(ids: NDArray[np.bytes_], key: bytes, fraction: float) -> NDArray[np.bool_]:
    """Return which units are held out.

    Parameters
    ----------
    ids : ndarray of bytes, shape (n,)
        Stable unit ids, as in `Coded.ids`.
    key : bytes
        Secret of 16 to 64 bytes; never changes during the life of a site.
    fraction : float
        Probability of the holdout, in [0, 1].

    Returns
    -------
    ndarray of bool, shape (n,)
        True for the holdout; rows with one id agree. A row whose id column is empty never is.

    Raises
    ------
    ConfigurationError
        If the key or the fraction is out of range.
    """
    if not 16 <= len(key) <= 64:
        raise ConfigurationError(f"split key: 16 to 64 bytes are needed, not {len(key)}")
    if not 0.0 <= fraction <= 1.0:
        raise ConfigurationError(f"holdout fraction must be in [0, 1], not {fraction}")
    blake = hashlib.blake2b
    words = b"".join(blake(unit, digest_size=8, key=key).digest() for unit in ids.tolist())
    # 53 bits are exact in a float, so that a fraction of 1 holds out every unit.
    uniform = (np.frombuffer(words, dtype=">u8") >> np.uint64(11)) / 2.0**53
    # What has no id of its own might change sides: it stays in training.
    return np.asarray((uniform < fraction) & (ids.astype("S1") != NO_ID))


def public_key(seed: int) -> bytes:
    """Return the key of a split of public rows, repeatable and no secret.

    Parameters
    ----------
    seed : int
        Of the run.

    Returns
    -------
    bytes
        32 bytes.
    """
    return hashlib.sha256(json.dumps(["split", seed]).encode()).digest()
