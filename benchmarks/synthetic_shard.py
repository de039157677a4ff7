"""A site's stored arrays with rows made up at random, as many as one likes, written in pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clients.shard import Shard
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.types import Split, Unit

_PIECE = 1 << 18


# Six binned numbers and eight lists of ten values: 14 features, as many as Adult has columns.
SCHEMA = Schema.from_dict(
    {
        "name": "made up",
        "label": {"column": "label", "positive": ["1"], "negative": ["0"]},
        "features": {
            **{
                f"number{i}": {"type": "numeric", "low": 0, "high": 1, "bins": 16} for i in range(6)
            },
            **{
                f"list{i}": {"type": "categorical", "values": [f"v{j}" for j in range(10)]}
                for i in range(8)
            },
        },
    }
)


def make(folder: Path, rows: int) -> Shard:
    """Write a shard of so many training rows, as `clients.shard` keeps them; return it.

    Parameters
    ----------
    folder : Path
        Where it goes: 116 bytes a row.
    rows : int
        At least 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.csv"
    path.touch()
    shard = Shard(
        unit=Unit.RECORD, path=path, schema=SCHEMA, key=bytes(32), holdout=0.0,
        cache=folder / "coded",
    )  # fmt: skip
    coding, generator = Coding(schema=shard.schema), np.random.default_rng(0)
    ranges = [coding.feature_codes(name) for name in SCHEMA.features]
    place = shard.folder / Split.TRAIN
    place.mkdir(parents=True)

    def stored(name: str, dtype: str, width: tuple[int, ...]) -> np.memmap:
        return np.lib.format.open_memmap(
            place / f"{name}.npy", mode="w+", dtype=dtype, shape=(rows, *width)
        )

    codes = stored("codes", "<i4", (len(ranges),))
    values = stored("values", "<f4", (coding.n_values,))
    labels, ids = stored("labels", "<f4", ()), stored("ids", "S32", ())
    for start in range(0, rows, _PIECE):
        stop = min(start + _PIECE, rows)
        for slot, of_slot in enumerate(ranges):
            codes[start:stop, slot] = generator.integers(
                of_slot.start, of_slot.stop, stop - start, dtype=np.int32
            )
        values[start:stop] = generator.random((stop - start, coding.n_values))
        labels[start:stop] = generator.random(stop - start) < 0.25
        # Training never reads them.
        ids[start:stop] = b"0"
    for array in (codes, values, labels, ids):
        array.flush()
    return shard
