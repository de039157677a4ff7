"""What leaves a site, and how it is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy import keys

CONTEXT = "dp-risk release"


def canonical(value: Any) -> bytes:
    """Encode JSON data in the one way that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of JSON data, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in the order of names."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(canonical([name, array.dtype.str, list(array.shape)]))
        state.update(array.tobytes())
    return state.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """Arrays that a ledger has charged for. Only `Ledger.mint` and `Ledger.answered` make one.

    Parameters
    ----------
    run : str
        Run id.
    purpose : str
        What the schedule calls it: "training" or "counts".
    round : int
        Round number within the purpose, from 0.
    arrays : mapping of str to ndarray
        What leaves.
    digest : str
        `arrays_digest` of `arrays`.
    ledger_head : str
        Head of the site's ledger when the release was minted.
    signature : str
        The site's signature of all of the above, in hexadecimal.
    """

    run: str
    purpose: str
    round: int
    arrays: Mapping[str, NDArray[Any]]
    digest: str
    ledger_head: str
    signature: str

    def signed_by(self, public: str) -> bool:
        """Whether a site with this public key released exactly this under that head."""
        said = receipt(self.run, self.purpose, self.round, self.digest, self.ledger_head)
        return keys.verify(public, CONTEXT, said, self.signature)


def receipt(run: str, purpose: str, round: int, digest: str, head: str) -> bytes:
    """Return what the signature of a release is over; the arrays are in it by their digest."""
    return canonical(
        {"run": run, "purpose": purpose, "round": round, "digest": digest, "head": head}
    )
