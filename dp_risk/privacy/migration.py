"""From a ledger of version 1 to one of version 2, once, with nothing forgotten.

Version 1 held the training split alone and signed nothing. Every entry stays as it was; one signed
entry after them says which account they charged.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from dp_risk.privacy import keys, seal
from dp_risk.privacy.account import Account
from dp_risk.privacy.answers import Answers
from dp_risk.privacy.chain import RUN_INDEX, SCHEMA_VERSION, Chain, connect, sync
from dp_risk.privacy.entries import GARBLED, check, check_links
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.terms import Terms
from dp_risk.types import ConfigurationError, Refused, Split, VerificationError


def backup_of(path: Path) -> Path:
    """Return where `migrate` keeps the old file."""
    return path.with_name(path.name + ".v1.bak")


def migrate(path: Path, account: Account, *, key: keys.Key) -> Path:
    """Bring a ledger of version 1 to version 2, in one transaction; return the backup's path.

    What was spent is charged to "train", or to "both" where one account pays for all. The lifetime
    budget stays that of the old ledger, whatever the policy says now.

    Parameters
    ----------
    path : Path
        The SQLite file.
    account : Account
        What the policy says now, with who is a unit: the old ledger did not fix that.
    key : Key
        The site's key: it signs from now on.

    Raises
    ------
    ConfigurationError
        If there is no ledger of version 1, or its backup cannot be written.
    Refused
        If the policy is about another account, or another backup is in the way.
    VerificationError
        If the old ledger does not hold.
    """
    if not path.exists():
        raise ConfigurationError(f"{path}: no ledger here")
    try:
        chain = Chain(path, connect(path, write=True), key)
        with closing(chain):
            with chain.transaction():
                if chain.version() != 1:
                    raise Refused(f"{path}: not a ledger of version 1: nothing to migrate")
                old = dict(chain.rows("SELECT key, value FROM meta"))
                backup = _keep(path)
                _migrate(chain, _account(path, json.loads(old["account"]), account), old)
            seal.write(chain)
    except GARBLED as error:
        raise ConfigurationError(f"{path}: the ledger cannot be used: {error}") from None
    return backup


def _account(path: Path, old: Mapping[str, Any], account: Account) -> Account:
    for name in ("dataset", "unit", "adjacency", "delta", "public"):
        if old[name] != getattr(account, name):
            raise Refused(
                f"{path}: the ledger was opened with {name} {old[name]}, the policy now says "
                f"{getattr(account, name)}; an account never changes"
            )
    if old["split"] != Split.TRAIN:
        raise Refused(f"{path}: a ledger of the split {old['split']} was never written")
    return dataclasses.replace(account, lifetime_epsilon=float(old["lifetime_epsilon"]))


def _migrate(chain: Chain, account: Account, old: Mapping[str, str]) -> None:
    chain.change("ALTER TABLE entry ADD COLUMN signature TEXT")
    chain.change("ALTER TABLE answer ADD COLUMN released INTEGER")
    chain.change(RUN_INDEX)
    last = check_links(chain.entries())
    first = chain.at(0)
    stated = {**json.loads(old["account"]), "order": int(old["order"]), "filter": 0.0}
    if first is None or first.body != stated or first.previous != old["salt"]:
        raise VerificationError("ledger entry 0 does not hold: the account was changed")
    for entry in chain.of("release"):
        body = entry.body
        chain.change(
            "UPDATE answer SET released = ? WHERE run = ? AND purpose = ? AND round = ?",
            entry.sequence, body["run"], body["purpose"], body["round"],
        )  # fmt: skip
    Answers(chain).check(chain.entries(), None)
    pays = account.splits[0]
    terms = Terms(account=account, order=int(old["order"]), key=chain.public_key, pays=pays)
    totals = {**dict.fromkeys(account.splits, 0.0), pays: float(last.body["filter"])}
    body = {**terms.body(), "version": 1, "pays": pays, "filter": totals}
    chain.change("DELETE FROM meta")
    chain.change("INSERT INTO meta VALUES ('schema_version', ?)", str(SCHEMA_VERSION))
    chain.append("migrate", body)
    check(chain.entries())
    Replay(terms).run(chain.entries())


def _keep(path: Path) -> Path:
    """Copy the old file beside it; one from a migration that was interrupted will do."""
    backup = backup_of(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".migrate-") as folder:
            copy = Path(folder) / "copy"
            with closing(connect(path, write=False)) as source:
                with closing(sqlite3.connect(copy)) as target:
                    source.backup(target)
                hashes = _hashes(source)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(copy, backup)
                sync(path.parent)
            except FileExistsError:
                with closing(connect(backup, write=False)) as source:
                    same = _hashes(source) == hashes
                if not same:
                    raise Refused(f"{backup}: another backup is in the way; move it") from None
    except OSError as error:
        raise ConfigurationError(f"{backup}: cannot be written: {error.strerror}") from None
    return backup


def _hashes(connection: sqlite3.Connection) -> list[tuple[str]]:
    return connection.execute("SELECT hash FROM entry ORDER BY sequence").fetchall()
