"""The file under a ledger: a chain of signed entries in SQLite, synced at every commit.

Each entry is hashed over the one before it and signed by the site's key, so that the last hash,
the head, stands for everything before it. The chain starts from a random salt of 256 bits.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.entries import (
    CONTEXT,
    REKEY,
    Entry,
    damaged,
    entry_hash,
    raw,
    sign_consent,
    whole,
)
from dp_risk.types import ConfigurationError, Refused, VerificationError

LOG = logging.getLogger("dp_risk.ledger")
SCHEMA_VERSION = 2
# A file whose site rotated its key: programs that know no such entry refuse it by its version.
ROTATED_VERSION = 3
_CHUNK = 500
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE entry (sequence INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, "
    "body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL, signature TEXT)",
    "CREATE INDEX entry_kind ON entry (kind, sequence)",
    "CREATE TABLE answer (run TEXT, purpose TEXT, round INTEGER, request TEXT NOT NULL, "
    "digest TEXT, payload BLOB, released INTEGER, PRIMARY KEY (run, purpose, round))",
)
RUN_INDEX = "CREATE INDEX entry_run ON entry (json_extract(body, '$.run')) WHERE kind = 'reserve'"


def _now() -> str:
    # No finer: others read it, and how long a charge took would tell of the rows.
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def sync(folder: Path) -> None:
    """Put the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """Open the SQLite file; to read it, nothing is written, not even beside it."""
    mode = "rw" if write else "ro"
    if not write and not any(Path(f"{path}-{end}").exists() for end in ("wal", "shm", "journal")):
        # Nobody has it open, so it need not be locked: that would need files beside it.
        mode += "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None)
    if write:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
    return connection


class Chain:
    """The entries of one file. Every error of SQLite becomes one line that names the file.

    Writing takes SQLite's exclusive write lock, so that two processes on one file take turns, and
    is committed with full synchronisation.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, key: keys.Key | None) -> None:
        self.path = path
        self.connection = connection
        self._key = key

    @classmethod
    def open(
        cls, path: Path, *, key: keys.Key | None, opening: Callable[[], Mapping[str, Any]] | None
    ) -> Chain:
        """Open a chain; with a key and an opening, make it where there is none.

        Parameters
        ----------
        path : Path
            The SQLite file.
        key : Key, optional
            Without it the file is opened to read.
        opening : callable, optional
            Returns the body of entry 0.

        Raises
        ------
        ConfigurationError
            If there is no ledger, or the file is unreadable or of another version.
        """
        if not path.exists():
            if key is None or opening is None:
                raise ConfigurationError(f"{path}: no ledger here")
            cls._create(path, key, opening())
        with _one_line(path):
            chain = cls(path, connect(path, write=key is not None), key)
        try:
            version = chain.version()
            if version is None:
                # A new chain in its place would be a fresh budget on the same people.
                raise ConfigurationError(
                    f"{path}: the ledger cannot be used: the file is empty; restore it"
                )
            if version == 1:
                raise ConfigurationError(
                    f"{path}: a ledger of version 1: run `dp-risk ledger migrate SITE` once"
                )
            if version not in (SCHEMA_VERSION, ROTATED_VERSION):
                raise ConfigurationError(
                    f"{path}: ledger version {version} is newer than this program understands "
                    f"({ROTATED_VERSION})"
                )
        except BaseException:
            chain.close()
            raise
        return chain

    def version(self) -> int | None:
        """Return the version of the file; None when it is empty."""
        if not self.rows("SELECT 1 FROM sqlite_master WHERE name = 'meta'"):
            return None
        found = self.rows("SELECT value FROM meta WHERE key = 'schema_version'")
        if len(found) != 1 or not str(found[0][0]).isdecimal():
            raise ConfigurationError(f"{self.path}: the ledger cannot be used: it has no version")
        return int(found[0][0])

    @classmethod
    def _create(cls, path: Path, key: keys.Key, body: Mapping[str, Any]) -> None:
        """Make a chain that appears whole or not at all; of two processes one wins."""
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".opening-") as folder:
                made = Path(folder) / path.name
                made.touch()
                with _one_line(path):
                    chain = cls(made, connect(made, write=True), key)
                with closing(chain), chain.transaction():
                    for statement in (*_TABLES, RUN_INDEX):
                        chain.change(statement)
                    version = str(SCHEMA_VERSION)
                    chain.change("INSERT INTO meta VALUES ('schema_version', ?)", version)
                    chain._insert(0, "open", body, os.urandom(32).hex())
                with suppress(FileExistsError):
                    os.link(made, path)
            sync(path.parent)
        except OSError as error:
            raise ConfigurationError(
                f"{path}: the ledger cannot be made: {error.strerror}"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with _one_line(self.path):
            return self.connection.execute(query, values).fetchall()

    def change(self, statement: str, *values: Any) -> int:
        """Run a statement; return the number of rows that it changed."""
        with _one_line(self.path):
            return self.connection.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock; commit, or leave everything as it was.

        Raises
        ------
        Refused
            If the ledger was opened without the site's key.
        """
        if self._key is None:
            raise Refused(f"{self.path}: opened to read only: writing needs the site's key")
        self.change("BEGIN IMMEDIATE")
        try:
            yield
            self.change("COMMIT")
        except BaseException as error:
            # After some errors, such as a full disk, SQLite has rolled back already.
            if self.connection.in_transaction:
                self.change("ROLLBACK")
            if isinstance(error, KeyError | AttributeError):
                raise ConfigurationError(
                    f"{self.path}: the ledger cannot be used: an entry is damaged"
                ) from error
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state throughout, while another process may be writing."""
        self.change("BEGIN")
        try:
            yield
        finally:
            if self.connection.in_transaction:
                self.change("ROLLBACK")

    def append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        """Add and sign an entry, inside a transaction.

        Raises
        ------
        ConfigurationError
            If the entry in front of it is not one that this key signed.
        Refused
            If another key is in force by now.
        """
        last = self._signed(kind)
        return self._insert(last.sequence + 1, kind, body, last.hash, last.time)

    def rekey(self, new: keys.Key, body: Mapping[str, Any]) -> None:
        """Add the entry with which another key follows this one, inside a transaction.

        Raises
        ------
        ConfigurationError, Refused
            As in `append`.
        """
        last = self._signed(REKEY)
        said = {**body, "was": self.public_key, "key": keys.public_hex(new)}
        assert self._key is not None
        said["consent"] = sign_consent(self._key, last.hash, said)
        self.change("UPDATE meta SET value = ? WHERE key = 'schema_version'", str(ROTATED_VERSION))
        Chain(self.path, self.connection, new)._insert(
            last.sequence + 1, REKEY, said, last.hash, last.time
        )

    def _signed(self, kind: str) -> Entry:
        last = self.last()
        unsigned = last.signature is None and kind == "migrate"
        if not unsigned and not keys.verify(
            self.public_key, CONTEXT, last.hash.encode(), str(last.signature)
        ):
            if any(entry.body["was"] == self.public_key for entry in self.of(REKEY)):
                raise Refused(f"{self.path}: the site's key was rotated meanwhile")
            raise damaged(last.sequence)
        return last

    def _insert(
        self, sequence: int, kind: str, body: Mapping[str, Any], previous: str, after: str = ""
    ) -> Entry:
        text, time = json.dumps(body, allow_nan=False), _now()
        if time < after:
            LOG.warning("entry %d: the clock went back; nothing depends on time", sequence)
        hashed = entry_hash(previous, sequence, time, kind, text)
        signature = self.sign(CONTEXT, hashed.encode())
        row = (sequence, time, kind, text, previous, hashed, signature)
        self.change("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
        return raw(row)

    @property
    def public_key(self) -> str:
        """The public half of the key that signs, in hexadecimal; empty to read only."""
        return "" if self._key is None else keys.public_hex(self._key)

    def sign(self, context: str, message: bytes) -> str:
        """Sign with the site's key.

        Raises
        ------
        Refused
            If the ledger was opened without it.
        """
        if self._key is None:
            raise Refused(f"{self.path}: a signature needs the site's key")
        return keys.sign(self._key, context, message)

    def last(self) -> Entry:
        """Return the newest entry."""
        found = self.rows("SELECT * FROM entry ORDER BY sequence DESC LIMIT 1")
        if not found:
            raise ConfigurationError(f"{self.path}: the ledger cannot be used: it has no entry")
        return whole(found[0])

    def at(self, sequence: int) -> Entry | None:
        """Return one entry."""
        found = self.rows("SELECT * FROM entry WHERE sequence = ?", sequence)
        return whole(found[0]) if found else None

    def latest(self, kind: str) -> Entry | None:
        """Return the newest entry of a kind."""
        query = "SELECT * FROM entry WHERE kind = ? ORDER BY sequence DESC LIMIT 1"
        found = self.rows(query, kind)
        return whole(found[0]) if found else None

    def of(self, kind: str) -> list[Entry]:
        """Return all entries of a kind, in order."""
        return [
            whole(row)
            for row in self.rows("SELECT * FROM entry WHERE kind = ? ORDER BY sequence", kind)
        ]

    def entries(self) -> Iterator[Entry]:
        """Iterate over all entries in order, a part at a time: no cursor stays open."""
        query, after = "SELECT * FROM entry WHERE sequence > ? ORDER BY sequence LIMIT ?", -1
        while found := self.rows(query, after, _CHUNK):
            yield from map(raw, found)
            after = found[-1][0]

    def check_file(self) -> None:
        """Let SQLite check tables and indexes against each other.

        Raises
        ------
        VerificationError
            If they disagree.
        """
        count = self.rows("SELECT COUNT(*) FROM entry NOT INDEXED WHERE sequence < 0")
        if count != [(0,)] or self.rows("PRAGMA integrity_check") != [("ok",)]:
            raise VerificationError(f"{self.path}: the file does not hold: its pages are damaged")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path}: the ledger cannot be used: {reason}") from None
