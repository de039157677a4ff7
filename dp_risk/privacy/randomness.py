"""The one place where random bits for sampling and noise come from.

Both kinds expand a 256-bit key with ChaCha20 (RFC 8439). `system` draws the key from the operating
system; `seeded` derives it from a public seed, so that a run made with it can be repeated exactly
and must never be called private.
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray


class Randomness:
    """A stream of uniform 64-bit words.

    Parameters
    ----------
    key : bytes
        32 bytes. Two streams with one key are equal: never reuse a key for another purpose.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("a ChaCha20 key has 32 bytes")
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    @classmethod
    def system(cls) -> Randomness:
        """Return a stream keyed by the operating system's generator."""
        return cls(os.urandom(32))

    @classmethod
    def seeded(cls, seed: int, *context: str | int) -> Randomness:
        """Return a repeatable stream for tests and simulation.

        Parameters
        ----------
        seed : int
            Public seed.
        *context : str or int
            What the stream is for (site, round, purpose): other words, independent bits.
        """
        name = "\x1f".join(["dp-risk", str(seed), *map(str, context)])
        return cls(hashlib.sha256(name.encode()).digest())

    def words(self, size: int) -> NDArray[np.uint64]:
        """Return `size` independent uniform words in [0, 2**64), shape (size,)."""
        return np.frombuffer(self._stream.update(bytes(8 * size)), dtype="<u8")
