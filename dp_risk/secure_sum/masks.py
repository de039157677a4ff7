"""Pairwise masks: what one site adds another takes away, and the sum over all has none.

No primitive is written here: X25519 (RFC 7748), HKDF with SHA-256 (RFC 5869) and ChaCha20
(RFC 8439) are those of `cryptography`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def mask(
    pairs: Mapping[str, bytes],
    *,
    site: str,
    participants: Iterable[str],
    plan_digest: str,
    r: int,
    purpose: str,
    dimension: int,
) -> NDArray[np.uint64]:
    """Return what a site adds to its vector in a round: uniform, and 0 in the sum over all.

    Sum over j > i of PRG(k_ij) minus sum over j < i, with k_ij = HKDF(s_ij, plan digest, r,
    purpose, dimension, digest of the participants) and PRG = ChaCha20. The modulus is 2**64.

    Parameters
    ----------
    pairs : mapping of str to bytes
        `pair_key` of every other participant; others may be there too.
    site : str
        Id of this site.
    participants : iterable of str
        Ids of all participants, this site among them, in any order.
    plan_digest, r, purpose, dimension
        Which round: its plan, its number, what it sums and how many coordinates that has.

    Returns
    -------
    ndarray of uint64, shape (dimension,)
    """
    everyone = sorted(participants)
    context = ("mask", plan_digest, r, purpose, dimension, digest(everyone))
    total = np.zeros(dimension, np.uint64)
    for other in everyone:
        if other == site:
            continue
        words = Randomness(_derive(pairs[other], *context)).words(dimension)
        if other > site:
            total += words
        else:
            total -= words
    return total


def unmask(
    vectors: Mapping[str, NDArray[np.uint64]], *, participants: Iterable[str], dimension: int
) -> NDArray[np.int64]:
    """Return the sum of what all participants masked.

    Parameters
    ----------
    vectors : mapping of str to ndarray of uint64, shape (dimension,)
        The masked vector of every participant, by site id.
    participants : iterable of str
        The sites that the server named; without any one of them the sum is noise.
    dimension : int
        Number of coordinates.

    Returns
    -------
    ndarray of int64, shape (dimension,)

    Raises
    ------
    FederationError
        If a participant is missing, or a vector is of another site, length or type.
    """
    named = set(participants)
    missing = sorted(named - set(vectors))
    if missing:
        raise FederationError(f"the round is lost with {', '.join(missing)}: nothing is unmasked")
    if set(vectors) != named:
        raise FederationError("a masked vector of a site that was not named")
    total = np.zeros(dimension, np.uint64)
    for site, vector in sorted(vectors.items()):
        if vector.dtype != np.uint64 or vector.shape != (dimension,):
            raise FederationError(f"{site}: a masked vector of another length or type")
        total += vector
    return total.view(np.int64)
