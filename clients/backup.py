"""A backup of a site that may be serving: its ledger as it is at one moment, keys and settings.

A plain copy of the folder is not safe while a ledger is written: what lies in its log may be torn
from its file. Plans and secrets of an open run are left out: a restored site never goes on with a
run, whose masks and rounds it may have used already.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from clients import signing
from dp_risk.federation import files, membership
from dp_risk.privacy.chain import connect, sync
from dp_risk.privacy.entries import Verified
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, Refused

_NEEDED = ("policy.yaml", "site.yaml", "split.key")
_KEPT = (
    signing.PUBLIC_KEY,
    membership.NODE_KEY,
    membership.SITE_LETTER,
    membership.LETTER,
    membership.AUTHORITY,
)
_TRIES = 3


def backup(folder: Path, out: Path) -> Verified:
    """Write a tar file, for its owner alone to read, from which a site can be restored.

    Parameters
    ----------
    folder : Path
        The site's folder; it may be serving.
    out : Path
        The file; its folder exists, and it does not.

    Returns
    -------
    Verified
        What was checked of the ledger in the backup: where it stands.

    Raises
    ------
    ConfigurationError
        If a file is missing or unreadable, or `out` exists or cannot be written.
    VerificationError
        If the ledger does not hold: such a one is not kept.
    """
    ledger = folder / signing.LEDGER
    if not ledger.exists():
        raise ConfigurationError(f"{ledger}: no ledger here")
    if out.exists():
        raise ConfigurationError(f"{out}: exists already; remove it or choose another")
    if not out.parent.is_dir():
        raise ConfigurationError(f"{out}: no such folder")
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".backup-") as name:
            made = Path(name)
            verified = _ledger(folder, made)
            for kept in (*_NEEDED, *(one for one in _KEPT if (folder / one).exists())):
                mode = 0o600 if kept.endswith(".key") else 0o644
                files.write(made / kept, files.read(folder / kept), mode=mode)
            whole = made / "backup.tar"
            _pack(made, whole)
            os.replace(whole, out)
        sync(out.parent)
    except OSError as error:
        raise ConfigurationError(f"{out}: cannot be written: {error.strerror}") from None
    return verified


def _ledger(folder: Path, made: Path) -> Verified:
    """Copy the ledger at one moment, with the key that is in force in it."""
    copy = made / signing.LEDGER
    for _ in range(_TRIES):
        copy.unlink(missing_ok=True)
        try:
            with (
                closing(connect(folder / signing.LEDGER, write=False)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise ConfigurationError(f"{folder / signing.LEDGER}: {error}") from None
        key = signing.load(folder)
        try:
            # Opened with the key it gets a seal of its own: that of the folder is of other bytes.
            ledger = Ledger.open(copy, key=key)
        except Refused:
            # The key was rotated meanwhile.
            continue
        try:
            verified = ledger.verify()
        finally:
            ledger.close_file()
        text = key.private_bytes_raw().hex() + "\n"
        files.write(made / signing.KEY, text, mode=0o600)
        return verified
    raise ConfigurationError(f"{folder}: the site's key is not the one that its ledger names")


def _pack(folder: Path, whole: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    handle = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in names:
                tar.add(folder / name, arcname=name)
        file.flush()
        os.fsync(file.fileno())
