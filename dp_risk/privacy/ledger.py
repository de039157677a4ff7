"""The site's own record of every charge: append-only, hash-chained, synced before any compute.

One SQLite file holds one account: what was fixed when it was opened, the entries, and the answers
that were released. A run first reserves its whole schedule; each round then pays and releases.
Rounds that never ran go back to the filter when the run is closed; rounds that paid do not.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from dp_risk.privacy.accounting import Event, Filter
from dp_risk.privacy.plan import MAX_RUNS, Purpose
from dp_risk.privacy.release import Release, arrays_digest, canonical
from dp_risk.types import ConfigurationError, Refused, Split, VerificationError

SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE entry (
    sequence INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE INDEX entry_kind ON entry (kind, sequence);
CREATE TABLE answer (
    run TEXT, purpose TEXT, round INTEGER, request TEXT NOT NULL, digest TEXT, payload BLOB,
    PRIMARY KEY (run, purpose, round));
"""


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is fixed when a ledger is opened.

    Parameters
    ----------
    dataset : str
        Dataset id of the site's policy; new rows or edits do not open a new account.
    split : str
        "train" or "holdout".
    unit, adjacency : str
        What epsilon is about.
    delta : float
        In (0, 1).
    lifetime_epsilon : float
        Budget of everything that will ever be released.
    public : bool
        Whether the data is public: only then may a run without noise be answered.
    """

    dataset: str
    split: str
    unit: str
    adjacency: str
    delta: float
    lifetime_epsilon: float
    public: bool


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    time: str
    kind: str
    body: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class State:
    """Where an account stands.

    `*_epsilon` are lifetime (filter) costs, never run costs. Turning Renyi divergence into epsilon
    adds a constant once, so the first run seems dear and later ones cheap; `used`, in [0, 1], is
    the part of the filter's capacity that is gone and grows evenly.
    """

    spent_epsilon: float
    left_epsilon: float
    used: float
    head: str
    entries: int
    open_run: str | None


def _entry_hash(previous: str, sequence: int, time: str, kind: str, body: str) -> str:
    return hashlib.sha256(
        canonical({"p": previous, "s": sequence, "t": time, "k": kind, "b": body})
    ).hexdigest()


class Ledger:
    """One account on the site's disk. Open with `Ledger.open`.

    Every method that writes takes SQLite's exclusive write lock, so that two processes on one
    ledger take turns, and commits with full synchronisation before it returns.
    """

    def __init__(self, connection: sqlite3.Connection, account: Account, filter: Filter) -> None:
        self._connection = connection
        self.account = account
        self.filter = filter

    @classmethod
    def open(cls, path: Path, account: Account | None = None) -> Ledger:
        """Open a ledger, or create it for `account`.

        Parameters
        ----------
        path : Path
            The SQLite file.
        account : Account, optional
            What the policy says now; None opens an existing ledger to read.

        Raises
        ------
        ConfigurationError
            If the file is missing, unreadable, or of a newer version.
        Refused
            If the ledger was opened for another account: another delta, unit, budget or data set.
        """
        if account is None and not path.exists():
            raise ConfigurationError(f"{path}: no ledger here")
        try:
            connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            found = cls._read_account(connection, path)
            if found is None:
                if account is None:
                    raise ConfigurationError(f"{path}: no ledger here")
                found = cls._create(connection, account, path)
        except sqlite3.Error as error:
            raise ConfigurationError(f"{path}: the ledger cannot be used: {error}") from None
        stored, filter = found
        if account is not None and stored != account:
            for field in dataclasses.fields(Account):
                was, now = getattr(stored, field.name), getattr(account, field.name)
                if was != now:
                    raise Refused(
                        f"{path}: the ledger was opened with {field.name} {was}, the policy now "
                        f"says {now}; an account never changes"
                    )
        return cls(connection, stored, filter)

    @staticmethod
    def _read_account(connection: sqlite3.Connection, path: Path) -> tuple[Account, Filter] | None:
        tables = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        if tables is None:
            return None
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if "schema_version" not in meta:
            return None
        if int(meta["schema_version"]) > SCHEMA_VERSION:
            raise ConfigurationError(
                f"{path}: ledger version {meta['schema_version']} is newer than this program "
                f"understands ({SCHEMA_VERSION})"
            )
        account = Account(**json.loads(meta["account"]))
        filter = Filter(
            lifetime_epsilon=account.lifetime_epsilon,
            delta=account.delta,
            order=int(meta["order"]),
        )
        return account, filter

    @staticmethod
    def _create(
        connection: sqlite3.Connection, account: Account, path: Path
    ) -> tuple[Account, Filter]:
        try:
            filter = Filter.open(account.lifetime_epsilon, account.delta)
        except ValueError as error:
            raise ConfigurationError(f"{path}: {error}") from None
        salt = os.urandom(32).hex()
        connection.execute("BEGIN IMMEDIATE")
        found = Ledger._read_account(connection, path)
        if found is not None:
            # Another process opened the same account first.
            connection.execute("ROLLBACK")
            return found
        for statement in _TABLES.split(";"):
            connection.execute(statement)
        rows = {
            "schema_version": str(SCHEMA_VERSION),
            "account": json.dumps(dataclasses.asdict(account)),
            "order": str(filter.order),
            "salt": salt,
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
        body = json.dumps({**dataclasses.asdict(account), "order": filter.order, "filter": 0.0})
        time = _now()
        hashed = _entry_hash(salt, 0, time, "open", body)
        connection.execute(
            "INSERT INTO entry VALUES (0, ?, 'open', ?, ?, ?)", (time, body, salt, hashed)
        )
        connection.execute("COMMIT")
        return account, filter

    def close_file(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _last(self) -> Entry:
        row = self._connection.execute(
            "SELECT * FROM entry ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        return _entry(row)

    def _append(self, kind: str, body: Mapping[str, Any]) -> Entry:
        last = self._last()
        text, time, sequence = json.dumps(body), _now(), last.sequence + 1
        hashed = _entry_hash(last.hash, sequence, time, kind, text)
        row = (sequence, time, kind, text, last.hash, hashed)
        self._connection.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", row)
        return _entry(row)

    def entries(self) -> Iterator[Entry]:
        """Iterate over all entries in order."""
        for row in self._connection.execute("SELECT * FROM entry ORDER BY sequence"):
            yield _entry(row)

    @property
    def state(self) -> State:
        """Where the account stands."""
        last = self._last()
        spent = self.filter.epsilon(last.body["filter"])
        reserve = self._open_reservation()
        return State(
            spent_epsilon=spent,
            left_epsilon=max(0.0, self.account.lifetime_epsilon - spent),
            used=last.body["filter"] / self.filter.capacity,
            head=last.hash,
            entries=last.sequence + 1,
            open_run=reserve.body["run"] if reserve else None,
        )

    def _open_reservation(self) -> Entry | None:
        row = self._connection.execute(
            "SELECT * FROM entry WHERE kind IN ('reserve', 'close') ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        entry = _entry(row) if row else None
        return entry if entry and entry.kind == "reserve" else None

    def quote(self, schedule: tuple[Purpose, ...]) -> float:
        """Return the lifetime epsilon that the account would show after a schedule.

        An open reservation of another run is left out: reserving closes it first.
        """
        spent = self._settled(self._open_reservation(), self._last().body["filter"])
        return self.filter.epsilon(spent + self._divergence(schedule))

    def _divergence(self, schedule: tuple[Purpose, ...]) -> float:
        if any(line.event.noise_multiplier == 0 for line in schedule):
            return 0.0 if self.account.public else float("inf")
        return sum(line.rounds * self.filter.cost(line.event) for line in schedule)

    def _paid(self, run: str) -> dict[str, int]:
        return dict(
            self._connection.execute(
                "SELECT purpose, COUNT(*) FROM answer WHERE run = ? GROUP BY purpose", (run,)
            )
        )

    def _settled(self, reservation: Entry | None, spent: float) -> float:
        """Return the filter's total once the rounds of a reservation that never ran are back."""
        if reservation is None:
            return float(spent)
        paid = self._paid(reservation.body["run"])
        used = sum(
            paid.get(line.name, 0) * self.filter.cost(line.event)
            for line in _schedule(reservation)
            if line.event.noise_multiplier
        )
        return float(reservation.body["filter_before"]) + used

    def reserve(self, *, run: str, plan_digest: str, schedule: tuple[Purpose, ...]) -> None:
        """Set the whole schedule of a run aside. A run still open is closed first.

        Raises
        ------
        Refused
            If the lifetime budget would be exceeded, or the run id was used before.
        """
        with self._transaction():
            current = self._open_reservation()
            if current is not None and current.body["run"] == run:
                if current.body["plan"] == plan_digest:
                    return
                raise Refused("the run was enrolled with another plan")
            used = self._connection.execute(
                "SELECT 1 FROM entry WHERE kind = 'reserve' AND json_extract(body, '$.run') = ?",
                (run,),
            ).fetchone()
            if used:
                raise Refused("the run id was used before")
            runs = self._connection.execute(
                "SELECT COUNT(*) FROM entry WHERE kind = 'reserve'"
            ).fetchone()[0]
            if runs >= MAX_RUNS:
                raise Refused(f"the account holds {MAX_RUNS} runs, the most there may be")
            before = self._settled(current, self._last().body["filter"])
            after = before + self._divergence(schedule)
            asked = self.filter.epsilon(after)
            if not asked <= self.account.lifetime_epsilon:
                left = self.account.lifetime_epsilon - self.filter.epsilon(before)
                raise Refused(
                    f"lifetime budget: epsilon {left:.4g} of {self.account.lifetime_epsilon:.4g} "
                    f"is left, the run would bring the total to {asked:.4g}"
                )
            if current is not None:
                self._append("close", {"run": current.body["run"], "filter": before})
            lines = [
                {
                    "name": line.name,
                    "split": line.split,
                    "event": line.event.to_dict(),
                    "rounds": line.rounds,
                }
                for line in schedule
            ]
            self._append(
                "reserve",
                {
                    "run": run,
                    "plan": plan_digest,
                    "schedule": lines,
                    "filter_before": before,
                    "filter": after,
                },
            )

    def pay(
        self, *, run: str, plan_digest: str, purpose: str, round: int, request: str
    ) -> Release | None:
        """Charge one round, synced to disk, or return its release if it was answered before.

        Parameters
        ----------
        run, purpose, round : str, str, int
            Which line of the open reservation.
        plan_digest : str
            The plan that will run: it must be the one that was reserved.
        request : str
            Digest of everything that the request says.

        Returns
        -------
        Release or None
            The stored release of an identical request; None when the charge was written now and
            the mechanism may run.

        Raises
        ------
        Refused
            If the run is not open, the round is not in its schedule or out of order, or the round
            was started before with another request or without a stored answer.
        """
        with self._transaction():
            row = self._connection.execute(
                "SELECT request, digest FROM answer WHERE run = ? AND purpose = ? AND round = ?",
                (run, purpose, round),
            ).fetchone()
            if row is not None:
                if row[0] != request or row[1] is None:
                    raise Refused("the round was paid before and cannot be answered again")
                return self._stored(run, purpose, round)
            reservation = self._open_reservation()
            if reservation is None or reservation.body["run"] != run:
                raise Refused("the run is not open")
            if reservation.body["plan"] != plan_digest:
                raise Refused("another plan than the one that was reserved")
            line = next((x for x in _schedule(reservation) if x.name == purpose), None)
            if line is None or not 0 <= round < line.rounds:
                raise Refused("the round is not in the reserved schedule")
            if self._last_round(run, purpose) >= round:
                raise Refused("the round is out of order")
            total = self._last().body["filter"]
            body = {
                "run": run,
                "purpose": purpose,
                "round": round,
                "request": request,
                "event": line.event.to_dict(),
                "filter": total,
            }
            self._append("charge", body)
            self._connection.execute(
                "INSERT INTO answer VALUES (?, ?, ?, ?, NULL, NULL)", (run, purpose, round, request)
            )
        return None

    def _last_round(self, run: str, purpose: str) -> int:
        row = self._connection.execute(
            "SELECT MAX(round) FROM answer WHERE run = ? AND purpose = ?", (run, purpose)
        ).fetchone()
        return -1 if row[0] is None else int(row[0])

    def mint(
        self, *, run: str, purpose: str, round: int, arrays: Mapping[str, NDArray[Any]]
    ) -> Release:
        """Store the output of a paid round and return it as a release.

        Raises
        ------
        Refused
            If the round was not paid, or has an answer already.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        digest = arrays_digest(whole)
        with self._transaction():
            changed = self._connection.execute(
                "UPDATE answer SET digest = ?, payload = ? WHERE run = ? AND purpose = ? "
                "AND round = ? AND digest IS NULL",
                (digest, safetensors.numpy.save(whole), run, purpose, round),
            ).rowcount
            if changed != 1:
                raise Refused("only a round that is paid and not answered can be released")
            total = self._last().body["filter"]
            body = {"run": run, "purpose": purpose, "round": round, "digest": digest}
            entry = self._append("release", {**body, "filter": total})
        return Release(
            run=run, purpose=purpose, round=round, arrays=whole, digest=digest,
            ledger_head=entry.hash,
        )  # fmt: skip

    def _stored(self, run: str, purpose: str, round: int) -> Release:
        digest, payload = self._connection.execute(
            "SELECT digest, payload FROM answer WHERE run = ? AND purpose = ? AND round = ?",
            (run, purpose, round),
        ).fetchone()
        if payload is None:
            raise Refused("the run is closed and its answers are gone")
        return Release(
            run=run, purpose=purpose, round=round, arrays=safetensors.numpy.load(payload),
            digest=digest, ledger_head=str(self.head_at(run=run, purpose=purpose, round=round)),
        )  # fmt: skip

    def head_at(self, *, run: str, purpose: str, round: int) -> str | None:
        """Return the ledger's head when a round was released, or None."""
        row = self._connection.execute(
            "SELECT hash FROM entry WHERE kind = 'release' AND json_extract(body, '$.run') = ? "
            "AND json_extract(body, '$.purpose') = ? AND json_extract(body, '$.round') = ?",
            (run, purpose, round),
        ).fetchone()
        return None if row is None else str(row[0])

    def released(self, *, run: str, purpose: str, round: int) -> str | None:
        """Return the digest of what was released in a round, or None."""
        row = self._connection.execute(
            "SELECT digest FROM answer WHERE run = ? AND purpose = ? AND round = ?",
            (run, purpose, round),
        ).fetchone()
        return None if row is None else row[0]

    def close(self, run: str) -> None:
        """End a run: give the rounds that never ran back to the filter, drop stored answers."""
        with self._transaction():
            current = self._open_reservation()
            if current is None or current.body["run"] != run:
                return
            total = self._settled(current, self._last().body["filter"])
            paid = self._paid(run)
            self._append("close", {"run": run, "paid": paid, "filter": total})
            self._connection.execute("UPDATE answer SET payload = NULL WHERE run = ?", (run,))

    def charged(self, run: str) -> tuple[Purpose, ...]:
        """Return what a run has paid so far, one line a purpose."""
        row = self._connection.execute(
            "SELECT * FROM entry WHERE kind = 'reserve' AND json_extract(body, '$.run') = ?", (run,)
        ).fetchone()
        if row is None:
            return ()
        paid = self._paid(run)
        return tuple(
            dataclasses.replace(line, rounds=paid[line.name])
            for line in _schedule(_entry(row))
            if paid.get(line.name)
        )

    def verify(self) -> int:
        """Check the hash chain from the salt to the head, and the answers against it.

        Returns
        -------
        int
            Number of entries.

        Raises
        ------
        VerificationError
            Naming the first entry that does not hold.
        """
        # One snapshot: another process may be writing.
        self._connection.execute("BEGIN")
        try:
            count = self._verify_chain()
            self._verify_answers()
        finally:
            self._connection.execute("ROLLBACK")
        return count

    def _verify_chain(self) -> int:
        salt = self._connection.execute("SELECT value FROM meta WHERE key = 'salt'").fetchone()[0]
        previous, count = salt, 0
        for row in self._connection.execute("SELECT * FROM entry ORDER BY sequence"):
            sequence, time, kind, body, before, hashed = row
            good = sequence == count and before == previous
            if not good or hashed != _entry_hash(before, sequence, time, kind, body):
                raise VerificationError(f"ledger entry {count} does not hold: the chain is broken")
            previous, count = hashed, count + 1
        stated = {**dataclasses.asdict(self.account), "order": self.filter.order, "filter": 0.0}
        if count == 0 or next(iter(self.entries())).body != stated:
            raise VerificationError("ledger entry 0 does not hold: the account was changed")
        return count

    def _verify_answers(self) -> None:
        # What a round may still do, and what is given back, hangs on the table of answers.
        chain: dict[tuple[str, str, int], tuple[str, str | None]] = {}
        for entry in self.entries():
            if entry.kind in ("charge", "release"):
                key = (entry.body["run"], entry.body["purpose"], entry.body["round"])
                if entry.kind == "charge":
                    chain[key] = (entry.body["request"], None)
                else:
                    chain[key] = (chain[key][0], entry.body["digest"])
        rows = self._connection.execute("SELECT run, purpose, round, request, digest FROM answer")
        if {row[:3]: row[3:] for row in rows} != chain:
            raise VerificationError("the answers do not hold: they are not those of the entries")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _entry(row: tuple[Any, ...]) -> Entry:
    sequence, time, kind, body, previous, hashed = row
    return Entry(
        sequence=sequence, time=time, kind=kind, body=json.loads(body), previous=previous,
        hash=hashed,
    )  # fmt: skip


def _schedule(reservation: Entry) -> tuple[Purpose, ...]:
    return tuple(
        Purpose(
            name=x["name"],
            # Version 1 knew the training split only.
            split=x.get("split", Split.TRAIN),
            event=Event.from_dict(x["event"]),
            rounds=int(x["rounds"]),
        )
        for x in reservation.body["schedule"]
    )
