"""A site's own rows: coded once, split by keyed hash, kept as memory-mapped arrays."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dp_risk.data.accounts import by_account
from dp_risk.data.coding import Coded, Coding
from dp_risk.data.records import read_records
from dp_risk.data.schema import Schema
from dp_risk.data.split import holdout_mask
from dp_risk.privacy.release import digest
from dp_risk.privacy.units import Batch
from dp_risk.types import Split, Unit

_FIELDS = tuple(field.name for field in dataclasses.fields(Coded))
_OFFSETS = "offsets"


class TrainingUnits:
    """Units of a shard as tensors a model reads: records, or accounts x records.

    Parameters
    ----------
    coded : Coded
        Rows, those of one unit together.
    offsets : ndarray of int64, shape (units + 1,), or None
        Unit i has the rows ``offsets[i]`` to ``offsets[i + 1]``; None: every row is a unit.
    max_records : int or None
        Only the first so many rows of a unit take part, at least 1; None: all, and what the
        largest unit holds is then taken for public.
    """

    def __init__(
        self,
        coded: Coded,
        offsets: NDArray[np.int64] | None = None,
        max_records: int | None = None,
    ) -> None:
        if max_records is not None and max_records < 1:
            raise ValueError("max_records is at least 1")
        self._coded = coded
        self._offsets = offsets
        self._cap = max_records

    def __len__(self) -> int:
        return len(self._coded) if self._offsets is None else len(self._offsets) - 1

    @property
    def max_records(self) -> int:
        """Bound on the records of a unit."""
        if self._offsets is None:
            return 1
        if self._cap is None:
            return int(np.diff(self._offsets).max(initial=1))
        return self._cap

    def blank(self, units: int, records: int) -> Batch:
        """Return zeros: units, or accounts of so many records of which none is there."""
        lead = (units,) if self._offsets is None else (units, records)
        codes = torch.zeros(*lead, self._coded.codes.shape[1], dtype=torch.int64)
        values = torch.zeros(*lead, self._coded.values.shape[1], dtype=torch.float64)
        return Batch(
            inputs=(codes, values),
            labels=torch.zeros(lead, dtype=torch.float64),
            mask=None if self._offsets is None else torch.zeros(lead, dtype=torch.bool),
        )

    def sizes(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return with how many records each of some units takes part."""
        if self._offsets is None:
            return np.ones(len(index), dtype=np.int64)
        sizes = np.asarray(self._offsets[index + 1] - self._offsets[index])
        return sizes if self._cap is None else np.minimum(sizes, self._cap)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """Return some units: codes, values and labels, numbers in float64.

        Accounts have shape (accounts, records, ...), padded to the largest of them and masked.
        """
        if self._offsets is None:
            return Batch(inputs=self._inputs(index), labels=self._labels(index))
        sizes = self.sizes(index)
        record = np.arange(sizes.max(initial=1))
        mask = record < sizes[:, None]
        chosen = np.where(mask, self._offsets[index][:, None] + record, 0)
        return Batch(
            inputs=self._inputs(chosen),
            labels=self._labels(chosen),
            mask=torch.from_numpy(mask),
        )

    def rows(self) -> tuple[NDArray[np.int64], Coded]:
        """Return the unit of each row that takes part, shape (n,), and those rows."""
        if self._offsets is None:
            return np.arange(len(self._coded)), self._coded
        index = np.arange(len(self))
        unit = np.repeat(index, np.diff(self._offsets))
        number = np.arange(len(unit)) - np.asarray(self._offsets)[unit]
        if self._cap is None:
            return unit, self._coded
        taken = number < self._cap
        return unit[taken], self._coded.take(taken)

    def _inputs(self, chosen: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        # `take` copies rows five times as fast as an index in brackets.
        codes = torch.from_numpy(self._coded.codes.take(chosen, axis=0).astype(np.int64))
        values = self._coded.values.take(chosen, axis=0)
        return codes, torch.from_numpy(values.astype(np.float64))

    def _labels(self, chosen: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self._coded.labels.take(chosen).astype(np.float64))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where a site's rows are and how they are read.

    Parameters
    ----------
    unit : str
        What the split keeps together and what a unit of training is: record or account.
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

    unit: str
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
    def folder(self) -> Path:
        """Where the coded rows of this file, schema, unit and split are kept."""
        stat = self.path.stat()
        stamp = [
            self.unit,
            self.schema.digest,
            stat.st_size,
            stat.st_mtime_ns,
            self.holdout,
            self.key.hex(),
        ]
        return self.cache / digest(stamp)[:16]

    @cached_property
    def train(self) -> Coded:
        """The rows of the training units, coded on first use; an account's rows are together."""
        return self._load(Split.TRAIN)

    @cached_property
    def holdout_units(self) -> Coded:
        """The rows of the held-out units, in the same way."""
        return self._load(Split.HOLDOUT)

    def units(self, split: Split, max_records: int | None) -> TrainingUnits:
        """Return the units of one side of the split.

        Parameters
        ----------
        split : Split
            Train or holdout.
        max_records : int or None
            Most records of an account that take part: a random choice that never changes. None
            takes all; records have no such cap.

        Raises
        ------
        ValueError
            For `both`, which is an account of the ledger and not a set of units.
        """
        if split is Split.BOTH:
            raise ValueError("the units of train and holdout are read apart")
        coded = self.train if split is Split.TRAIN else self.holdout_units
        if self.unit == Unit.RECORD:
            return TrainingUnits(coded)
        offsets = _mapped(self.folder / split / f"{_OFFSETS}.npy")
        return TrainingUnits(coded, offsets, max_records)

    def _load(self, split: Split) -> Coded:
        folder = self.folder / split
        if not folder.exists():
            self._code()
        return Coded(**{name: _mapped(folder / f"{name}.npy") for name in _FIELDS})

    def _code(self) -> None:
        coded = self.coding.encode(read_records(self.path), unit=Unit(self.unit))
        held = holdout_mask(coded.ids, self.key, self.holdout)
        self.cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.cache))
        for split, mask in ((Split.TRAIN, ~held), (Split.HOLDOUT, held)):
            part = coded.take(np.flatnonzero(mask))
            (temporary / split).mkdir()
            if self.unit == Unit.ACCOUNT:
                part, offsets = by_account(part, self.key)
                np.save(temporary / split / f"{_OFFSETS}.npy", offsets)
            for name in _FIELDS:
                np.save(temporary / split / f"{name}.npy", getattr(part, name))
        try:
            os.rename(temporary, self.folder)
        except OSError:
            # Another process coded the same rows first.
            if not self.folder.exists():
                raise


def _mapped(path: Path) -> NDArray[Any]:
    """Return a stored array that is read where it is touched, as a plain array over its file."""
    return np.asarray(np.load(path, mmap_mode="r"))
