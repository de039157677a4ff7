"""Hashed n-grams of free text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.schema import Text

_WORD = re.compile(r"\w+")
_CACHE_LIMIT = 1 << 20


def bucket(text: str, buckets: int) -> int:
    """Return the bucket of a text in [0, buckets): the same on every machine and run."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % buckets


def ngrams(text: str, feature: Text) -> Iterator[str]:
    """Yield the n-grams of one text, in order of where they end."""
    if feature.analyzer == "word":
        units: Iterator[str] = (match.group() for match in _WORD.finditer(text.lower()))
        joint = " "
    else:
        units = iter(" ".join(text.lower().split()))
        joint = ""
    window: list[str] = []
    for unit in units:
        window = [*window[1 - feature.ngram_high :], unit] if feature.ngram_high > 1 else [unit]
        for size in range(feature.ngram_low, min(feature.ngram_high, len(window)) + 1):
            yield joint.join(window[-size:])


def ngram_codes(
    texts: Sequence[str | None], feature: Text, start: int, out: NDArray[np.int32]
) -> None:
    """Write the distinct codes of each text's n-grams, the rest stays padding.

    Parameters
    ----------
    texts : sequence of str or None
        One text a row.
    feature : Text
        How to cut and hash.
    start : int
        Code of bucket 0.
    out : ndarray of int32, shape (n, max_ngrams)
        Zeros; filled from the left.
    """
    cache: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text is None:
            continue
        codes: dict[int, None] = {}
        for ngram in ngrams(text, feature):
            code = cache.get(ngram)
            if code is None:
                if len(cache) >= _CACHE_LIMIT:
                    cache.clear()
                code = cache[ngram] = start + bucket(ngram, feature.buckets)
            codes[code] = None
            if len(codes) == feature.max_ngrams:
                break
        out[row, : len(codes)] = list(codes)
