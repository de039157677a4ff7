"""A site's own rows: coded once, split by keyed hash, kept as memory-mapped arrays."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dp_risk.data.coding import Coded, Coding
from dp_risk.data.schema import Schema
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask
from dp_risk.privacy.release import digest
from dp_risk.types import Split, Unit

_FIELDS = tuple(field.name for field in dataclasses.fields(Coded))


class TrainingUnits:
    """The training units of a shard, as tensors a model reads."""

    def __init__(self, coded: Coded) -> None:
        self._coded = coded

    def __len__(self) -> int:
        return len(self._coded)

    def batch(self, index: NDArray[np.int64]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Return ((codes, values), labels) of some units, float64."""
        codes = torch.from_numpy(self._coded.codes[index].astype(np.int64))
        values = torch.from_numpy(self._coded.values[index].astype(np.float64))
        labels = torch.from_numpy(self._coded.labels[index].astype(np.float64))
        return (codes, values), labels


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where a site's rows are and how they are read.

    Parameters
    ----------
    path : Path
        CSV or Parquet file of the site.
    schema : Schema
        The public schema.
    key : bytes
        Key of the train/holdout split; it never changes.
    holdout : float
        Fraction of units held out, in [0, 1); it never changes.
    cache : Path
        Folder of the coded arrays.
    """

    path: Path
    schema: Schema
    key: bytes
    holdout: float
    cache: Path

    @cached_property
    def coding(self) -> Coding:
        """The public coding."""
        return Coding(schema=self.schema)

    @cached_property
    def _folder(self) -> Path:
        stat = self.path.stat()
        stamp = [self.schema.digest, stat.st_size, stat.st_mtime_ns, self.holdout, self.key.hex()]
        return self.cache / digest(stamp)[:16]

    @cached_property
    def train(self) -> Coded:
        """The training units; coded on first use."""
        return self._load(Split.TRAIN)

    @cached_property
    def holdout_units(self) -> Coded:
        """The held-out units; coded on first use."""
        return self._load(Split.HOLDOUT)

    def _load(self, split: Split) -> Coded:
        folder = self._folder / split
        if not folder.exists():
            self._code()
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FIELDS}
        return Coded(**arrays)

    def _code(self) -> None:
        coded = self.coding.encode(read_table(self.path), unit=Unit.RECORD)
        held = holdout_mask(coded.ids, self.key, self.holdout)
        self.cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.cache))
        for split, mask in ((Split.TRAIN, ~held), (Split.HOLDOUT, held)):
            part = coded.take(np.flatnonzero(mask))
            (temporary / split).mkdir()
            for name in _FIELDS:
                np.save(temporary / split / f"{name}.npy", getattr(part, name))
        try:
            os.rename(temporary, self._folder)
        except OSError:
            # Another process coded the same rows first.
            if not self._folder.exists():
                raise
