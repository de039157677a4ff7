"""The key that signs a site's ledger: read, made once, and rotated.

A new key lies beside the old one, under a name that tells its public half, before the ledger names
it; it takes the old one's place after that. Whoever opens the site next finishes what a killed
process began. No two rotations share a file, so that none can undo another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    if ledger.exists() and any(folder.glob(f"{KEY}.*")):
        _replace(folder, _in_force(folder))
    return keys.load(path)


@contextmanager
def successor(folder: Path) -> Iterator[keys.Key]:
    """Make the key that will follow, on disk; afterwards it takes its place if the ledger names it.

    Raises
    ------
    ConfigurationError
        If a file cannot be written.
    """
    new = keys.Key.generate()
    public = keys.public_hex(new)
    path = _next(folder, public)
    keys.write_once(path, new.private_bytes_raw().hex() + "\n")
    sync(folder)
    try:
        yield new
    finally:
        if _in_force(folder) == public:
            _replace(folder, public)
        else:
            path.unlink()


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


def _in_force(folder: Path) -> str:
    ledger = Ledger.open(folder / LEDGER)
    try:
        return ledger.public_key
    finally:
        ledger.close_file()
