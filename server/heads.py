"""The heads of ledgers that the server has seen, kept between runs.

A ledger that was restored from an older copy would spend a budget twice. The site cannot notice;
whoever saw a later head can.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_risk.privacy.entries import Entry, follow, verify_head
from dp_risk.types import ConfigurationError, VerificationError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Head:
    """The head of a site's ledger when it was last seen."""

    site: str
    entries: int
    head: str


class Heads:
    """Remembered heads by the site's public key.

    A key that was rotated stays with the ledger's newest head: whoever brings back the old key with
    an older ledger is seen as well.

    Parameters
    ----------
    path : Path or None
        JSON file; None forgets.

    Raises
    ------
    ConfigurationError
        If the file is there and cannot be read.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: dict[str, Head] = {}
        if path is None or not path.exists():
            return
        try:
            content = json.loads(path.read_text())
            if content["schema_version"] > SCHEMA_VERSION:
                raise ConfigurationError(f"{path}: written by a newer version of this program")
            self._seen = {key: Head(**head) for key, head in content["heads"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{path}: no readable memory of heads: {error!r}") from None

    def known(self, statement: Mapping[str, Any]) -> Head | None:
        """Return the head that was seen last under the statement's key, or one before it.

        Raises
        ------
        VerificationError
            If the statement's rotations of the key do not hold.
        """
        found = [self._seen[key] for key in signers(statement) if key in self._seen]
        return max(found, key=lambda head: head.entries, default=None)

    def check(self, statement: Mapping[str, Any]) -> None:
        """Compare a statement with what is remembered.

        A statement made about the last entry of `known(statement)` says which hash it has now.

        Raises
        ------
        VerificationError
            If the statement's head is not signed by its key, or the chain is not a continuation
            of the one seen before.
        """
        site, key = statement["site"], str(statement["key"])
        if not verify_head(key, statement["ledger_head"], statement["ledger_signature"]):
            raise VerificationError(f"{site}: its ledger head is not signed by its key")
        before = self.known(statement)
        if before is None:
            return
        now = int(statement["ledger_entries"])
        if now < before.entries:
            raise VerificationError(
                f"{site}: its ledger has {now} entries and had {before.entries} when it was last "
                "seen: an older copy was restored; nothing was computed"
            )
        if statement["entry"] != {"sequence": before.entries - 1, "hash": before.head}:
            raise VerificationError(
                f"{site}: its ledger no longer holds the head that was last seen (entry "
                f"{before.entries - 1}): an older copy was restored and went another way; nothing "
                "was computed"
            )

    def remember(self, statement: Mapping[str, Any]) -> None:
        """Take note of the head in a statement that was checked."""
        head = Head(
            site=str(statement["site"]),
            entries=int(statement["ledger_entries"]),
            head=str(statement["ledger_head"]),
        )
        self._seen.update(dict.fromkeys(signers(statement), head))

    def save(self) -> None:
        """Write the file, atomically."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        heads = {key: vars(head) for key, head in self._seen.items()}
        content = {"schema_version": SCHEMA_VERSION, "heads": heads}
        temporary.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(temporary, self._path)


def signers(statement: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that a statement's ledger was ever signed with, the newest last."""
    key, rekeys = str(statement["key"]), statement["rekeys"]
    if not rekeys:
        return (key,)
    try:
        keys = follow(Entry(**entry) for entry in rekeys)
    except VerificationError as error:
        raise VerificationError(f"{statement['site']}: {error}") from None
    if keys[-1] != key:
        raise VerificationError(f"{statement['site']}: its key is not the one it rotated to")
    return keys
