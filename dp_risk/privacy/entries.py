"""One entry of a ledger, and whether a whole chain of them holds. No file, no writing."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.types import ConfigurationError, VerificationError

CONTEXT = "dp-risk ledger"
REKEY = "rekey"
_CONSENT = "dp-risk rekey"
# What a changed byte can make of reading a ledger.
GARBLED = (
    ConfigurationError, sqlite3.Error, ValueError, TypeError, KeyError, AttributeError,
    OverflowError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger; `text` is its body as it was hashed.

    Entries of version 1 carry no signature of their own.
    """

    sequence: int
    time: str
    kind: str
    text: str
    previous: str
    hash: str
    signature: str | None

    @cached_property
    def body(self) -> Mapping[str, Any]:
        """What the entry says.

        Raises
        ------
        ConfigurationError
            If the text is damaged.
        """
        try:
            return dict(json.loads(self.text))
        except (ValueError, TypeError, RecursionError):
            raise damaged(self.sequence) from None

    @property
    def holds(self) -> bool:
        """Whether the hash is that of the other fields."""
        return self.hash == entry_hash(
            self.previous, self.sequence, self.time, self.kind, self.text
        )


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a check of a chain found to hold.

    Parameters
    ----------
    entries, head : int, str
        Number of entries and the hash of the last.
    key : str
        Public key in force at the end, in hexadecimal.
    earlier : tuple of str
        Keys that were in force before it, oldest first; each signed for the next.
    unsigned : int
        Entries of version 1 at the start, signed only through the migration that follows them.
    backwards : tuple of int
        Entries dated before the one in front of them: the clock was set back.
    sealed : bool
        Whether the bytes outside the entries were checked too.
    """

    entries: int
    head: str
    key: str
    earlier: tuple[str, ...]
    unsigned: int
    backwards: tuple[int, ...]
    sealed: bool


def check(entries: Iterable[Entry]) -> Verified:
    """Check the links, hashes and signatures of a whole chain.

    Raises
    ------
    VerificationError
        Naming the first entry that does not hold.
    """
    last: Entry | None = None
    key, earlier, unsigned, backwards = "", [], 0, []
    for entry in _linked(entries):
        try:
            if entry.kind in ("open", "migrate") and "key" in entry.body:
                founded, key = bool(key), str(entry.body["key"])
            else:
                founded = False
        except GARBLED:
            founded = True
        if founded:
            raise _broken(entry.sequence)
        if entry.kind == REKEY:
            earlier.append(key)
            key = successor(entry, key)
        if not key and entry.signature is None:
            unsigned += 1
        elif not keys.verify(key, CONTEXT, entry.hash.encode(), str(entry.signature)):
            raise VerificationError(
                f"ledger entry {entry.sequence} does not hold: its signature is wrong"
            )
        if last is not None and entry.time < last.time:
            backwards.append(entry.sequence)
        last = entry
    if last is None or not key:
        raise VerificationError("the ledger does not hold: no entry names the site's key")
    return Verified(
        entries=last.sequence + 1, head=last.hash, key=key, earlier=tuple(earlier),
        unsigned=unsigned, backwards=tuple(backwards), sealed=False,
    )  # fmt: skip


def check_links(entries: Iterable[Entry]) -> Entry:
    """Check the links and hashes of a chain, signed or not; return its last entry.

    Raises
    ------
    VerificationError
        Naming the first entry that does not hold.
    """
    last: Entry | None = None
    for entry in _linked(entries):
        last = entry
    if last is None:
        raise _broken(0)
    return last


def _linked(entries: Iterable[Entry]) -> Iterator[Entry]:
    last: Entry | None = None
    for count, entry in enumerate(entries):
        try:
            good = last is None or entry.previous == last.hash
            good = good and entry.sequence == count and entry.holds
            good = good and (count == 0) == (entry.kind == "open")
        except GARBLED:
            good = False
        if not good:
            raise _broken(count)
        yield entry
        last = entry


def _consent_bytes(previous: str, body: Mapping[str, Any]) -> bytes:
    """Return what the key in force signs when another one is to follow it.

    Parameters
    ----------
    previous : str
        Hash of the entry in front: the consent is to this place of this chain.
    body : mapping
        Of the "rekey" entry; its own signature is left out.
    """
    said = {name: value for name, value in body.items() if name != "consent"}
    return canonical({"previous": previous, "body": said})


def sign_consent(key: keys.Key, previous: str, body: Mapping[str, Any]) -> str:
    """Sign for the key that follows this one."""
    return keys.sign(key, _CONSENT, _consent_bytes(previous, body))


def successor(entry: Entry, key: str) -> str:
    """Return the key that follows the one in force.

    A "rekey" entry holds the signature of the old key, and is signed with the new one like every
    entry after it: so its maker had both.

    Raises
    ------
    VerificationError
        If the key in force did not sign for it, or the new key did not sign it.
    """
    try:
        body = entry.body
        found, signed = str(body["key"]), str(body["consent"])
        good = body["was"] == key != found
        good = good and keys.verify(key, _CONSENT, _consent_bytes(entry.previous, body), signed)
    except GARBLED:
        good = False
    if not good:
        raise VerificationError(
            f"ledger entry {entry.sequence} does not hold: the key in force did not sign for "
            "another one"
        )
    if not keys.verify(found, CONTEXT, entry.hash.encode(), str(entry.signature)):
        raise VerificationError(
            f"ledger entry {entry.sequence} does not hold: the new key did not sign it"
        )
    return found


def follow(rekeys: Iterable[Entry]) -> tuple[str, ...]:
    """Check the rotations of a site's key, without the entries between; return keys, oldest first.

    Raises
    ------
    VerificationError
        Naming the first that does not hold.
    """
    found: list[str] = []
    for entry in rekeys:
        try:
            good = entry.kind == REKEY and entry.holds
            found = found or [str(entry.body["was"])]
        except GARBLED:
            good = False
        if not good:
            raise _broken(entry.sequence)
        found.append(successor(entry, found[-1]))
    return tuple(found)


def verify_head(public: str, head: str, signature: str) -> bool:
    """Whether a ledger's head is signed with the key of this public half."""
    return keys.verify(public, CONTEXT, head.encode(), signature)


def _broken(sequence: int) -> VerificationError:
    return VerificationError(f"ledger entry {sequence} does not hold: the chain is broken")


def entry_hash(previous: str, sequence: int, time: str, kind: str, body: str) -> str:
    """Return the hash of an entry over the one before it, in hexadecimal."""
    return hashlib.sha256(
        canonical({"p": previous, "s": sequence, "t": time, "k": kind, "b": body})
    ).hexdigest()


def raw(row: tuple[Any, ...]) -> Entry:
    """Make an entry of a row, whatever it holds."""
    sequence, time, kind, text, previous, hashed, signature = row
    return Entry(
        sequence=sequence, time=time, kind=kind, text=text, previous=previous, hash=hashed,
        signature=signature,
    )  # fmt: skip


def whole(row: tuple[Any, ...]) -> Entry:
    """Make an entry of a row.

    Raises
    ------
    ConfigurationError
        If its hash does not hold.
    """
    entry = raw(row)
    try:
        holds = entry.holds
    except GARBLED:
        holds = False
    if not holds:
        raise damaged(entry.sequence)
    return entry


def damaged(sequence: int) -> ConfigurationError:
    """Return the error of an entry that cannot be built on."""
    return ConfigurationError(
        f"ledger entry {sequence} does not hold: run `dp-risk ledger verify SITE`"
    )
