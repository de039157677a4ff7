"""Numbers of another program on built-in data, made once and stored: DP-EBM on pooled rows.

The program itself (interpret-core) is not needed here; `benchmarks/dp_ebm.py` made the file.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FILE = Path(__file__).with_name("dp_ebm.json")


def split_digest(train: NDArray[np.bytes_], holdout: NDArray[np.bytes_]) -> str:
    """Return a digest of which units are trained on and which are held out.

    Parameters
    ----------
    train, holdout : ndarray of bytes, shape (n,) and (m,)
        Unit ids of public rows, as in `dp_risk.data.coding.Coded.ids`; their order is ignored.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    sides = [b",".join(sorted(side.tolist())) for side in (train, holdout)]
    return hashlib.sha256(b"\n".join(sides)).hexdigest()


@cache
def dp_ebm() -> dict[str, Any]:
    """Return the whole file.

    Returns
    -------
    dict
        ``schema_version``; ``command`` and ``versions`` that made it; ``splits``: ``dataset, seed,
        train, holdout`` (units) and ``digest``; ``rows``: ``dataset, epsilon, delta, seed, auroc,
        auprc``.
    """
    return dict(json.loads(_FILE.read_text()))


def dp_ebm_rows(split: str, *, delta: float, seed: int) -> list[dict[str, Any]]:
    """Return the rows that were made with the same split, delta and seed.

    Parameters
    ----------
    split : str
        `split_digest` of the run's public rows: it differs when the data, the seed of the split or
        the holdout fraction do.
    delta : float
        Of the run.
    seed : int
        Of the run.

    Returns
    -------
    list of dict
        Those of the file, by growing epsilon; none where nothing was stored for this split.
    """
    stored = dp_ebm()
    names = {s["dataset"] for s in stored["splits"] if (s["digest"], s["seed"]) == (split, seed)}
    rows = [
        row
        for row in stored["rows"]
        if row["dataset"] in names and (row["delta"], row["seed"]) == (delta, seed)
    ]
    return sorted(rows, key=lambda row: float(row["epsilon"]))
