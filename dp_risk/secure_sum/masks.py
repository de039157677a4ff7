"""Pairwise masks: what one site adds another takes away, and the sum over all has none.

No primitive is written here: X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869) and ChaCha20
(RFC 8439) are those of `cryptography`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import canonical, digest
from dp_risk.types import FederationError


def public_of(secret: bytes) -> str:
    """Return the X25519 public key of a secret of 32 bytes, in hexadecimal."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw().hex()


def _derive(material: bytes, *context: str | int) -> bytes:
    info = canonical(["dp-risk secure sum", *context])
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(material)


def pair_key(secret: bytes, site: str, other: str, public: str, run: str) -> bytes:
    """Return s_ij, the 32 bytes that two sites share in a run; both find the same.

    Both public keys are in the derivation (RFC 7748, section 6.1).

    Parameters
    ----------
    secret : bytes
        This site's X25519 secret of the run.
    site, other : str
        Ids of this site and of the other one.
    public : str
        The other site's X25519 public key, in hexadecimal.
    run : str
        Run id.

    Raises
    ------
    ValueError
        If the public key is none, or one that makes every secret equal.
    """
    theirs = X25519PublicKey.from_public_bytes(bytes.fromhex(public))
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(theirs)
    (first, first_key), (last, last_key) = sorted([(site, public_of(secret)), (other, public)])
    return _derive(shared, "pair", run, first, last, first_key, last_key)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a run: everything that its masks depend on beside the keys.

    Parameters
    ----------
    plan_digest : str
        Digest of the run's plan.
    r : int
        Number of the round, used once in a run.
    purpose : str
        What is summed.
    dimension : int
        Number of coordinates.
    participants : tuple of str
        U: the ids of the sites that answer, in any order.
    request : str
        Digest of all that the sites were asked, so that the masks of sites that were asked
        different things stay in the sum: else a server sends all but one site weights whose
        gradient is zero and reads that one's sum (Pasquini, Francati, Ateniese 2022, "Eluding
        secure aggregation in federated learning via model inconsistency"). A server, which
        derives no mask, may leave it empty.
    """

    plan_digest: str
    r: int
    purpose: str
    dimension: int
    participants: tuple[str, ...]
    request: str = ""

    @cached_property
    def context(self) -> tuple[str | int, ...]:
        """What the keys of the round are derived with."""
        everyone = digest(sorted(self.participants))
        about = (self.plan_digest, self.r, self.purpose, self.dimension)
        return ("mask", *about, everyone, self.request)


def pair_mask(pair: bytes, round: Round) -> NDArray[np.uint64]:
    """Return what one site of a pair adds and the other takes away, shape (dimension,).

    PRG(k_ij) with k_ij = HKDF(s_ij, plan digest, r, purpose, dimension, digest of U, request)
    and PRG = ChaCha20.

    Parameters
    ----------
    pair : bytes
        s_ij, the `pair_key`.
    round : Round
        Which round.
    """
    return Randomness(_derive(pair, *round.context)).words(round.dimension)


def mask(pairs: Mapping[str, bytes], *, site: str, round: Round) -> NDArray[np.uint64]:
    """Return what a site adds to its vector in a round: uniform, and 0 in the sum over all.

    The pair masks with every later participant minus those with every earlier one, modulo 2**64.

    Parameters
    ----------
    pairs : mapping of str to bytes
        `pair_key` of every other participant; others may be there too.
    site : str
        Id of this site.
    round : Round
        Which round; this site is among its participants.

    Returns
    -------
    ndarray of uint64, shape (dimension,)
    """
    total = np.zeros(round.dimension, np.uint64)
    for other in round.participants:
        if other > site:
            total += pair_mask(pairs[other], round)
        elif other < site:
            total -= pair_mask(pairs[other], round)
    return total


def unmask(vectors: Mapping[str, NDArray[np.uint64]], round: Round) -> NDArray[np.int64]:
    """Return the sum of what all participants masked.

    Parameters
    ----------
    vectors : mapping of str to ndarray of uint64, shape (dimension,)
        The masked vector of every participant, by site id.
    round : Round
        Which round; without any one of its participants the sum is noise.

    Returns
    -------
    ndarray of int64, shape (dimension,)

    Raises
    ------
    FederationError
        If a participant is missing, or a vector is of another site, length or type.
    """
    named = set(round.participants)
    missing = sorted(named - set(vectors))
    if missing:
        raise FederationError(f"the round is lost with {', '.join(missing)}: nothing is unmasked")
    if set(vectors) != named:
        raise FederationError("a masked vector of a site that was not named")
    total = np.zeros(round.dimension, np.uint64)
    for site, vector in vectors.items():
        if vector.dtype != np.uint64 or vector.shape != (round.dimension,):
            raise FederationError(f"{site}: a masked vector of another length or type")
        total += vector
    return total.view(np.int64)
