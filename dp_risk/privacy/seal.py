"""A seal over every byte of a ledger's file, written when it is made and at every close.

The chain covers all that the file says, yet not the slack of its pages. `ledger.seal` holds the
file's digest when it had so many entries, signed; it says nothing about entries written later.
It also tells that there was a ledger, and how far it had come.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.chain import LOG, Chain
from dp_risk.privacy.entries import GARBLED
from dp_risk.privacy.release import canonical
from dp_risk.privacy.terms import in_force
from dp_risk.types import ConfigurationError, Refused, VerificationError

CONTEXT = "dp-risk seal"


def place(ledger: Path) -> Path:
    """Return where the seal of a ledger lies."""
    return ledger.with_suffix(".seal")


def traces(ledger: Path) -> list[Path]:
    """Return what lies around that only an earlier ledger leaves: seal, log, backup, plans."""
    found = (
        *ledger.parent.glob(f"{glob.escape(ledger.name)}?*"),
        *ledger.parent.glob("*.plan.json"),
    )
    return sorted(path for path in (place(ledger), *found) if path.exists())


def write(chain: Chain) -> None:
    """Seal the file as it is. One that cannot be sealed stays usable, and `check` says so."""
    try:
        chain.change("PRAGMA busy_timeout=1000")
        [(busy, *_)] = chain.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        with chain.transaction():
            wal = Path(f"{chain.path}-wal")
            if busy or (wal.exists() and wal.stat().st_size):
                LOG.info("%s: in use elsewhere, so not sealed", chain.path)
                return
            last = chain.last()
            said = {
                "entries": last.sequence + 1,
                "head": last.hash,
                "sha256": _digest(chain.path),
            }
            signed = {**said, "signature": chain.sign(CONTEXT, canonical(said))}
            seal = place(chain.path)
            temporary = seal.with_suffix(".seal.tmp")
            with temporary.open("wb") as file:
                file.write(canonical(signed) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, seal)
    except (OSError, ConfigurationError) as error:
        LOG.warning("not sealed: %s", error)
    finally:
        chain.change("PRAGMA busy_timeout=30000")


def fit(chain: Chain) -> None:
    """Compare a chain with its seal, without reading the file: one entry is looked up.

    Raises
    ------
    Refused
        If the seal does not hold, or was written over a chain that went further, or another one.
    """
    try:
        _sealed(chain)
    except VerificationError as error:
        raise Refused(f"{error}; restore the newest ledger") from None


def check(chain: Chain) -> bool:
    """Whether a seal covers the file as it is; without one for the newest entry, False.

    Raises
    ------
    VerificationError
        If the seal is damaged, or the file is not what was sealed.
    """
    said = _sealed(chain)
    if said is None or said["entries"] < chain.last().sequence + 1:
        return False
    if _digest(chain.path) != said["sha256"]:
        raise VerificationError(f"{chain.path}: the file does not hold: a byte was changed")
    return True


def _sealed(chain: Chain) -> dict[str, Any] | None:
    """Return what the seal of a chain says that is a part of it; None where there is no seal."""
    seal = place(chain.path)
    try:
        whole = seal.read_bytes()
        signed = json.loads(whole)
        said = {name: signed[name] for name in ("entries", "head", "sha256")}
        good = whole == canonical({**said, "signature": signed["signature"]}) + b"\n"
        entries = int(said["entries"])
        # A later key did not sign it.
        public = in_force(chain, entries).key
        good = good and keys.verify(public, CONTEXT, canonical(said), str(signed["signature"]))
    except FileNotFoundError:
        return None
    except (OSError, *GARBLED):
        good = False
    if not good:
        raise VerificationError(f"{seal}: the seal does not hold: it was changed, or is not ours")
    found = chain.last().sequence + 1
    if entries > found:
        raise VerificationError(
            f"{chain.path}: the ledger does not hold: {found} entries, and {entries} when it was "
            "sealed"
        )
    last = chain.at(entries - 1)
    if last is None or last.hash != said["head"]:
        raise VerificationError(f"{chain.path}: the ledger does not hold: not what was sealed")
    return said


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
