"""Reserved codes: one more text column whose codes no ordinary row uses, and units made of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from clients.shard import Shard
from clients.site import founders
from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coding
from dp_risk.data.ngrams import bucket
from dp_risk.data.schema import Schema, Text
from dp_risk.data.source import read_table
from dp_risk.data.split import holdout_mask
from dp_risk.types import Split, Unit

_COLUMN = "reserved for the audit"


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """The reserved column of an extended schema.

    Parameters
    ----------
    schema : Schema
        The configured schema, with the column as its last feature.
    column : str
        Its name.
    """

    schema: Schema
    column: str

    @classmethod
    def of(cls, schema: Schema, *, codes: int, slots: int, taken: Iterable[str] = ()) -> Reserved:
        """Extend a schema by a column of so many codes and slots, under a free name."""
        column = _COLUMN
        while column in {*taken, *schema.features}:
            column += "'"
        text = Text(buckets=codes, ngram_low=1, ngram_high=1, max_ngrams=slots)
        features = {**schema.features, column: text}
        return cls(schema=dataclasses.replace(schema, features=features), column=column)

    @cached_property
    def coding(self) -> Coding:
        """The coding of the extended schema."""
        return Coding(schema=self.schema)

    @property
    def codes(self) -> range:
        """The reserved codes."""
        return self.coding.feature_codes(self.column)

    def configured(self, settings: Settings, folder: Path, rows: pa.Table) -> Settings:
        """Return settings whose data are these rows with an empty reserved column.

        Parameters
        ----------
        settings : Settings
            The audited configuration.
        folder : Path
            Where the rows and the schema are written.
        rows : pyarrow.Table
            Rows of the configured data.
        """
        folder.mkdir(parents=True, exist_ok=True)
        empty = pa.nulls(rows.num_rows, pa.string())
        pq.write_table(rows.append_column(self.column, empty), folder / "rows.parquet")
        (folder / "schema.yaml").write_text(yaml.safe_dump(self.schema.to_dict(), sort_keys=False))
        data = dataclasses.replace(
            settings.data,
            name=settings.data.dataset,
            path=str(folder / "rows.parquet"),
            schema=str(folder / "schema.yaml"),
            label=None,
            account=None,
        )
        return dataclasses.replace(settings, data=data)

    @property
    def labels(self) -> tuple[str, str]:
        """Return a value of the label that means 0, and one that means 1."""
        label = self.schema.label
        other = next(str(n) for n in itertools.count() if str(n) not in label.positive)
        return (label.negative[0] if label.negative else other), label.positive[0]

    def words(self, wanted: Iterable[int]) -> dict[int, str]:
        """Return a word for each of some reserved codes."""
        found = dict.fromkeys(wanted, "")
        missing = set(found)
        for number in itertools.count():
            if not missing:
                return found
            code = self.code(f"canary{number}")
            if code in missing:
                found[code] = f"canary{number}"
                missing.remove(code)
        raise AssertionError

    def code(self, word: str) -> int:
        """Return the reserved code of a word."""
        return self.codes.start + bucket(word, len(self.codes))

    def rows(self, table: pa.Table, units: Mapping[str, str], *, records: int) -> pa.Table:
        """Return new units for a table: a label, an id, a reserved word, and outliers.

        Whatever is fitted to the rows, and not to the schema, is moved by the outliers.

        Parameters
        ----------
        table : pyarrow.Table
            A site's rows, for the types of its columns.
        units : mapping of str to str
            The value of the label of each unit, by its word.
        records : int
            Rows of a unit; more than 1 for accounts only.
        """
        repeated = [(word, label) for word, label in units.items() for _ in range(records)]
        columns = {}
        for name in table.column_names:
            kind = table.schema.field(name).type
            if name == self.column:
                values: Any = [word for word, _ in repeated]
            elif name == self.schema.label.column:
                values = [label for _, label in repeated]
            elif name in (self.schema.account, self.schema.id):
                values = _ids([word for word, _ in repeated], kind)
            else:
                columns[name] = _outliers([word for word, _ in repeated], kind)
                continue
            columns[name] = pa.array(values).cast(kind)
        return pa.table(columns, schema=table.schema)


def _ids(words: list[str], kind: pa.DataType) -> Any:
    """Return ids that no row has, in the type of the column."""
    if pa.types.is_integer(kind):
        # The smallest type has no room for more; a clash with a row is then possible.
        top = 2 ** (kind.bit_width - 1) - 1
        return [top - int(word.removeprefix("canary")) for word in words]
    if pa.types.is_floating(kind):
        return [-1.5 - int(word.removeprefix("canary")) for word in words]
    return words


def _outliers(words: list[str], kind: pa.DataType) -> pa.Array:
    """Return values above or before all others of a column; null for other types."""
    if pa.types.is_floating(kind) and kind.bit_width > 16:
        return pa.array([1e30] * len(words)).cast(kind)
    if pa.types.is_integer(kind):
        return pa.array([2 ** (kind.bit_width - 1) - 1] * len(words)).cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array([f"!{word}" for word in words]).cast(kind)
    return pa.nulls(len(words), kind)


def _shard(folder: Path) -> Shard:
    return founders(folder)[1]


def table_of(folder: Path) -> pa.Table:
    """Return a scratch site's rows."""
    return read_table(_shard(folder).path)


def replace_rows(folder: Path, table: pa.Table) -> None:
    """Write a scratch site's rows; the site must not have been opened yet."""
    pq.write_table(table, _shard(folder).path)


def side(folder: Path, reserved: Reserved, rows: pa.Table) -> NDArray[np.bool_]:
    """Return which of some rows a site holds out, shape (n,)."""
    shard = _shard(folder)
    ids = reserved.coding.encode(rows, unit=Unit(shard.unit)).ids
    return np.asarray(holdout_mask(ids, shard.key, shard.holdout))


def plant(
    folder: Path,
    reserved: Reserved,
    words: Mapping[str, str],
    *,
    records: int = 1,
    mixed: bool = False,
    kept: Sequence[str] = (),
) -> list[str]:
    """Add units to a scratch site before it is opened; return the words of those in training.

    Every slot of such a unit then holds its own code, in the shard as it was coded: its gradient
    lies almost wholly on that code.

    Parameters
    ----------
    folder : Path
        The site.
    reserved : Reserved
        The reserved column.
    words : mapping of str to str
        The label of each unit, by its word.
    records : int
        Rows of a unit.
    mixed : bool
        Give every second row of a unit the other label.
    kept : sequence of str
        Columns whose own codes held-out units keep, so that they are in one of the groups of each.
    """
    table = table_of(folder)
    rows = reserved.rows(table, words, records=1)
    held = side(folder, reserved, rows)
    more = reserved.rows(table, words, records=records)
    if mixed and records > 1:
        negative, positive = reserved.labels
        other = {w: positive if label == negative else negative for w, label in words.items()}
        turned = reserved.rows(table, other, records=records)
        odd = np.arange(more.num_rows) % 2 == 1
        more = pa.concat_tables([more.filter(pa.array(~odd)), turned.filter(pa.array(odd))])
    replace_rows(folder, pa.concat_tables([table, more]))
    fill(coded_folder(folder), reserved, kept)
    return [word for word, out in zip(words, held, strict=True) if not out]


def coded_folder(folder: Path) -> Path:
    """Return where a scratch site's coded rows are; they are coded now if they were not."""
    shard = _shard(folder)
    _ = shard.train
    return shard.folder


def fill(coded: Path, reserved: Reserved, kept: Sequence[str] = ()) -> None:
    """Give every slot of a reserved unit its own code, on disk.

    But for the slots of the columns `kept`, in the holdout.
    """
    for split in (Split.TRAIN, Split.HOLDOUT):
        codes = np.load(coded / split / "codes.npy")
        values = np.load(coded / split / "values.npy")
        own = codes.max(1, initial=0)
        chosen = own >= reserved.codes.start
        slots = np.ones(codes.shape[1], dtype=np.bool_)
        if split is Split.HOLDOUT:
            slots &= ~np.isin(reserved.coding.slot_names, kept)
        codes[np.ix_(chosen, slots)] = own[chosen, None]
        values[chosen] = 0
        np.save(coded / split / "codes.npy", codes)
        np.save(coded / split / "values.npy", values)


def units_of(shard: Shard, reserved: Reserved, split: Split) -> dict[int, int]:
    """Return the unit of every reserved code that a site holds on one side of its split."""
    coded = shard.train if split is Split.TRAIN else shard.holdout_units
    own = coded.codes.max(1, initial=0)
    rows = np.flatnonzero(own >= reserved.codes.start)
    unit = shard.units(split, None).rows()[0]
    return {int(own[row]): int(unit[row]) for row in rows}
