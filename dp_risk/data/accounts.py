"""Rows in the order of their accounts, each account's rows in a random order that never changes.

The first rows of an account are then a random choice of its rows, which is how a cap on records
is kept without a draw: the choice depends on that account's rows and the site's key alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import Coded


def by_account(coded: Coded, key: bytes) -> tuple[Coded, NDArray[np.int64]]:
    """Sort rows by account, and within an account by a keyed hash of the coded row.

    Equal rows of one account are told apart by their number, so that many copies of one row are
    not chosen all together or not at all.

    Parameters
    ----------
    coded : Coded
        Private rows whose `ids` are accounts.
    key : bytes
        The site's split key, 16 to 64 bytes.

    Returns
    -------
    rows : Coded
        The same rows.
    offsets : ndarray of int64, shape (accounts + 1,)
        Account i has the rows ``offsets[i]`` to ``offsets[i + 1]``.
    """
    n = len(coded)
    content = np.ascontiguousarray(
        np.hstack(
            [
                np.ascontiguousarray(part).reshape(n, width).view(np.uint8)
                for part, width in (
                    (coded.codes, coded.codes.shape[1]),
                    (coded.values, coded.values.shape[1]),
                    (coded.labels, 1),
                )
                if width
            ]
        )
    )
    blake = hashlib.blake2b
    hashes = _words(blake(row.data, digest_size=8, key=key).digest() for row in content)
    order = np.lexsort((hashes, coded.ids))
    ids, hashes = coded.ids[order], hashes[order]
    again = np.ones(n, dtype=np.bool_)
    again[:1] = False
    again[1:] = (ids[1:] == ids[:-1]) & (hashes[1:] == hashes[:-1])
    if again.any():
        position = np.arange(n)
        number = position - np.maximum.accumulate(np.where(again, 0, position))
        copies = np.flatnonzero(again)
        hashes = hashes.copy()
        hashes[copies] = _words(
            blake(b"%d %d" % (hash_, copy), digest_size=8, key=key).digest()
            for hash_, copy in zip(hashes[copies].tolist(), number[copies].tolist(), strict=True)
        )
        order = order[np.lexsort((hashes, ids))]
    rows = coded.take(order)
    first = np.ones(n, dtype=np.bool_)
    first[1:] = rows.ids[1:] != rows.ids[:-1]
    return rows, np.append(np.flatnonzero(first), n)


def _words(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)
