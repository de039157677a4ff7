"""Edits of a ledger's file, each of which one part of its verification alone can notice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.signing import KEY, LEDGER
from dp_risk.privacy import keys
from dp_risk.privacy.entries import CONTEXT, entry_hash
from dp_risk.privacy.release import canonical

Row = dict[str, Any]
_COLUMNS = ("sequence", "time", "kind", "body", "previous", "hash", "signature")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of a chain.

    Parameters
    ----------
    change : callable
        Takes all entries and changes some.
    hashed : bool
        Whether all hashes are made anew, as anybody with the file can.
    signed : bool
        Whether all signatures are too, as the holder of the key can.
    """

    change: Callable[[list[Row]], None]
    hashed: bool = False
    signed: bool = False

    def copy(self, site: Path) -> Path:
        """Return an edited copy of a site's ledger, beside the site's folder."""
        copy = site.with_name("edited.sqlite")
        shutil.copy2(site / LEDGER, copy)
        connection = sqlite3.connect(copy)
        _unguard(connection)
        found = connection.execute("SELECT * FROM entry ORDER BY sequence").fetchall()
        rows = [dict(zip(_COLUMNS, row, strict=True)) for row in found]
        self.change(rows)
        if self.hashed:
            self._hash(rows, keys.load(site / KEY))
        connection.execute("DELETE FROM entry")
        connection.executemany(
            "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)",
            [tuple(row[name] for name in _COLUMNS) for row in rows],
        )
        connection.commit()
        connection.close()
        return copy

    def _hash(self, rows: list[Row], key: keys.Key) -> None:
        before = rows[0]["previous"]
        for row in rows:
            row["previous"] = before
            before = row["hash"] = entry_hash(
                before, row["sequence"], row["time"], row["kind"], row["body"]
            )
            if self.signed:
                row["signature"] = keys.sign(key, CONTEXT, before.encode())


def _unguard(connection: sqlite3.Connection) -> None:
    """Drop what guards the table: an owner of the file can do that."""
    for (name,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall():
        connection.execute(f'DROP TRIGGER "{name}"')


def _charge(rows: list[Row]) -> Row:
    """Return the first charge; a ledger without any has its last entry edited."""
    return next((row for row in rows if row["kind"] == "charge"), rows[-1])


def _removed(rows: list[Row]) -> None:
    rows.remove(_charge(rows))


def _renamed(rows: list[Row]) -> None:
    _charge(rows)["kind"] = "note"


def _dated(rows: list[Row]) -> None:
    _charge(rows)["time"] = "2000-01-01T00:00:00.000+00:00"


def _lowered(rows: list[Row]) -> None:
    """Halve every total: what was spent looks like less."""
    for row in rows:
        said = json.loads(row["body"])
        if isinstance(said.get("filter"), dict):
            said["filter"] = {split: total / 2 for split, total in said["filter"].items()}
            row["body"] = canonical(said).decode()


# The date of an entry is held by its hash alone; new hashes are given away by their signatures
# alone, and new signatures by the events alone.
EDITS: Mapping[str, Edit] = {
    "a charge removed": Edit(change=_removed),
    "a charge called something else": Edit(change=_renamed),
    "the date of a charge changed": Edit(change=_dated),
    "the date of a charge changed, with new hashes": Edit(change=_dated, hashed=True),
    "totals halved, with new hashes and signatures": Edit(
        change=_lowered, hashed=True, signed=True
    ),
}
