"""How many training units a simulated federation has, without a site's machinery."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa

from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coding
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask, public_key
from dp_risk.types import Unit


def declared_units(settings: Settings) -> int | None:
    """Return the public number of training units of built-in data, as its sites would declare."""
    if not (settings.data.public and settings.data.public_size):
        return None
    coding, rows = Coding(schema=settings.data.load_schema()), read_table(settings.data.file)
    return training_units(settings, coding, rows, split_key(settings))


def training_units(settings: Settings, coding: Coding, rows: pa.Table, key: bytes) -> int:
    """Return how many units of some rows are not held out under a split key."""
    unit = Unit(settings.privacy_values["unit"])
    ids = coding.encode(rows, unit=unit).ids
    ids = ids[~holdout_mask(ids, key, settings.data.holdout)]
    return len(np.unique(ids)) if unit == Unit.ACCOUNT else len(ids)


def split_key(settings: Settings) -> bytes:
    """Return the key of simulated sites' splits: public where their rows are, else drawn."""
    if settings.data.public:
        return public_key(settings.seed)
    return os.urandom(32)
