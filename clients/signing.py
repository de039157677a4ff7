"""The key that signs a site's ledger: read, made once, and rotated.

A new key lies beside the old one, under a name that tells its public half, before the ledger names
it; it takes the old one's place after that. Whoever opens the site next finishes what a killed
process began. No two rotations share a file, so that none can undo another.
"""

from __future__ import annotations

import os
from pathlib import Path

from clients.policy import Policy
from dp_risk.privacy import keys, seal
from dp_risk.privacy.chain import sync
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, Refused

KEY, PUBLIC_KEY, POLICY, LEDGER = "site.key", "site.pub", "policy.yaml", "ledger.sqlite"


def load(folder: Path) -> keys.Key:
    """Return a site's key, the one that the ledger names as being in force.

    Raises
    ------
    ConfigurationError
        If the file holds no key or cannot be written.
    Refused
        If the key is gone and the ledger is there.
    """
    path, ledger = folder / KEY, folder / LEDGER
    if not path.exists():
        if ledger.exists() or seal.traces(ledger):
            raise Refused(
                f"{path}: the site's key is gone and a ledger is there: restore it from a backup; "
                "nothing is released without it"
            )
        return keys.load_or_create(path)
    if ledger.exists() and any(_waiting(folder)):
        opened = Ledger.open(ledger)
        try:
            _replace(folder, opened.public_key)
        finally:
            opened.close_file()
    return keys.load(path)


def begin(folder: Path) -> keys.Key:
    """Make the key that will follow, and put it on disk beside the one in force."""
    new = keys.Key.generate()
    path = _next(folder, keys.public_hex(new))
    keys.write_once(path, new.private_bytes_raw().hex() + "\n")
    sync(folder)
    return new


def finish(folder: Path, public: str) -> None:
    """Put the key that the ledger names now in the old one's place, and drop what was given up."""
    _replace(folder, public)
    for path in _waiting(folder):
        path.unlink(missing_ok=True)


def write_public(folder: Path, public: str) -> None:
    """Write ``site.pub``, one line for a partner's roster: the policy's name of the site, the key.

    Raises
    ------
    ConfigurationError
        If there is no readable policy.
    """
    site = Policy.load(folder / POLICY).site
    temporary = folder / f"{PUBLIC_KEY}.tmp"
    temporary.write_text(f"{site}: {public}\n")
    os.replace(temporary, folder / PUBLIC_KEY)


def _replace(folder: Path, public: str) -> None:
    path = _next(folder, public)
    if not path.exists():
        return
    try:
        write_public(folder, public)
        os.replace(path, folder / KEY)
        sync(folder)
    except FileNotFoundError:
        # Another process was faster.
        return
    except OSError as error:
        raise ConfigurationError(f"{folder / KEY}: cannot be written: {error.strerror}") from None


def _next(folder: Path, public: str) -> Path:
    return folder / f"{KEY}.{public[:16]}"


def _waiting(folder: Path) -> list[Path]:
    return [p for p in folder.glob(f"{KEY}.*") if len(p.name) == len(KEY) + 17]
