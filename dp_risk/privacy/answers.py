"""What was paid and what was released, one row a round, beside the entries that say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from dp_risk.privacy.chain import Chain
from dp_risk.privacy.entries import GARBLED, Entry
from dp_risk.privacy.release import CONTEXT, Release, arrays_digest, receipt
from dp_risk.types import Refused, VerificationError

_AT = "WHERE run = ? AND purpose = ? AND round = ?"


class Answers:
    """The rounds that were paid, and their stored releases while the run is open."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def request(self, run: str, purpose: str, round: int) -> tuple[str, str | None] | None:
        """Return the request that paid for a round and the digest of its release, or None."""
        found = self._chain.rows(f"SELECT request, digest FROM answer {_AT}", run, purpose, round)
        return (found[0][0], found[0][1]) if found else None

    def place(self, run: str, purpose: str, round: int, request: str) -> None:
        """Note that a round is paid."""
        self._chain.change(
            "INSERT INTO answer (run, purpose, round, request) VALUES (?, ?, ?, ?)",
            run, purpose, round, request,
        )  # fmt: skip

    def last(self, run: str, purpose: str) -> int:
        """Return the last round paid, -1 for none."""
        query = "SELECT MAX(round) FROM answer WHERE run = ? AND purpose = ?"
        [(found,)] = self._chain.rows(query, run, purpose)
        return -1 if found is None else int(found)

    def paid(self, run: str) -> dict[str, int]:
        """Return the number of rounds paid, by purpose."""
        query = "SELECT purpose, COUNT(*) FROM answer WHERE run = ? GROUP BY purpose"
        return dict(self._chain.rows(query, run))

    def store(self, release: Mapping[str, NDArray[Any]], entry: Entry) -> None:
        """Store what an entry released, for the same request to be answered again.

        Raises
        ------
        Refused
            If the round was not paid, or has an answer already.
        """
        body = entry.body
        changed = self._chain.change(
            f"UPDATE answer SET digest = ?, payload = ?, released = ? {_AT} AND digest IS NULL",
            body["digest"], safetensors.numpy.save(dict(release)), entry.sequence,
            body["run"], body["purpose"], body["round"],
        )  # fmt: skip
        if changed != 1:
            raise Refused("only a round that is paid and not answered can be released")

    def release(self, run: str, purpose: str, round: int) -> Release:
        """Return the stored release of an answered round.

        Raises
        ------
        Refused
            If it is gone: the run is closed.
        """
        [(digest, payload)] = self._chain.rows(
            f"SELECT digest, payload FROM answer {_AT}", run, purpose, round
        )
        entry = self.entry(run, purpose, round)
        if payload is None or entry is None:
            raise Refused("the run is closed and its answers are gone")
        try:
            arrays = safetensors.numpy.load(payload)
        except (SafetensorError, *GARBLED):
            arrays = {}
        if arrays_digest(arrays) != digest:
            raise Refused("the stored answer is damaged")
        return self.signed(arrays, entry)

    def signed(self, arrays: Mapping[str, NDArray[Any]], entry: Entry) -> Release:
        """Return what an entry released, signed by the site; a signature is always the same."""
        run, purpose, round, digest = (
            entry.body[name] for name in ("run", "purpose", "round", "digest")
        )
        said = receipt(run, purpose, round, digest, entry.hash)
        return Release(
            run=run, purpose=purpose, round=round, arrays=arrays, digest=digest,
            ledger_head=entry.hash, signature=self._chain.sign(CONTEXT, said),
        )  # fmt: skip

    def entry(self, run: str, purpose: str, round: int) -> Entry | None:
        """Return the entry that released a round."""
        found = self._chain.rows(f"SELECT released FROM answer {_AT}", run, purpose, round)
        return self._chain.at(found[0][0]) if found and found[0][0] is not None else None

    def drop(self, run: str) -> None:
        """Forget the arrays of a run; that it paid and released stays."""
        self._chain.change("UPDATE answer SET payload = NULL WHERE run = ?", run)

    def check(self, entries: Iterable[Entry], open_run: str | None) -> None:
        """Check the rows against the chain: what a round may still do hangs on them.

        Raises
        ------
        VerificationError
            If they differ, or stored arrays are not those that were released.
        """
        said: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for entry in entries:
            if entry.kind in ("charge", "release"):
                body = entry.body
                key = (body["run"], body["purpose"], body["round"])
                if entry.kind == "charge":
                    said[key] = (body["request"], None, None)
                else:
                    said[key] = (said[key][0], body["digest"], entry.sequence)
        rows = self._chain.rows("SELECT run, purpose, round, request, digest, released FROM answer")
        wrong = VerificationError("the answers do not hold: they are not those of the entries")
        if len(rows) != len(said) or {row[:3]: row[3:] for row in rows} != said:
            raise wrong
        for key in said:
            [(digest, payload)] = self._chain.rows(
                f"SELECT digest, payload FROM answer {_AT}", *key
            )
            if payload is None:
                # Only an open run keeps its arrays.
                if digest is not None and key[0] == open_run:
                    raise wrong
                continue
            try:
                arrays = safetensors.numpy.load(payload)
                good = arrays_digest(arrays) == digest and safetensors.numpy.save(arrays) == payload
            except (SafetensorError, *GARBLED):
                good = False
            if not good:
                raise VerificationError("the answers do not hold: stored arrays were changed")
