"""A ledger as a signed JSON statement for an auditor: the whole chain, no stored answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dp_risk.privacy import keys
from dp_risk.privacy.entries import GARBLED, Entry, Verified, check
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import canonical
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.terms import Terms
from dp_risk.types import ConfigurationError, VerificationError

CONTEXT = "dp-risk statement"
SCHEMA_VERSION = 1
KIND = "ledger statement"


def export(ledger: Ledger) -> str:
    """Return a statement of the ledger as it is; it must be open with the site's key.

    Raises
    ------
    VerificationError
        If the chain does not hold, or does not add up: that is not signed.
    """
    ledger.audit()
    state, entries = ledger.state, list(ledger.entries())
    body = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "account": {**dataclasses.asdict(ledger.account), "order": ledger.filter.order},
        "head": entries[-1].hash,
        "retired": state.retired,
        "public_key": ledger.public_key,
        "entries": [dataclasses.asdict(entry) for entry in entries],
    }
    return _text({**body, "signature": ledger.sign(CONTEXT, canonical(body))})


def verify(path: Path) -> Verified:
    """Check a statement: its own signature, the whole chain in it, and that both say the same.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    VerificationError
        Naming the first thing that does not hold.
    """
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    # A changed byte spoils one of these at the most.
    if not any(mark in whole for mark in (KIND.encode(), b'"signature"', b'"public_key"')):
        raise ConfigurationError(f"{path}: not a ledger statement")
    try:
        signed: dict[str, Any] = json.loads(whole)
        body = {name: value for name, value in signed.items() if name != "signature"}
        entries = [Entry(**entry) for entry in body["entries"]]
        verified = check(entries)
        founding = next((e for e in entries if e.kind == "migrate"), entries[0])
        good = whole == _text(signed).encode() and (body["kind"], body["schema_version"]) == (
            KIND, SCHEMA_VERSION,
        )  # fmt: skip
        good = good and (body["head"], body["public_key"]) == (verified.head, verified.key)
        terms = Terms.read(founding.body)
        good = good and terms.key == (*verified.earlier, verified.key)[0]
        good = good and keys.verify(
            verified.key, CONTEXT, canonical(body), str(signed["signature"])
        )
        good = good and _agrees(body, Replay(terms).run(entries))
    except (RecursionError, *GARBLED):
        good = False
    if not good:
        raise VerificationError(f"{path}: the statement does not hold: it was changed")
    return verified


def _agrees(body: dict[str, Any], replay: Replay) -> bool:
    terms = replay.terms
    # A stricter policy may have been in force when it was written.
    lower = min(replay.lifetime_epsilon, float(body["account"]["lifetime_epsilon"]))
    account = {**dataclasses.asdict(terms.account), "order": terms.order, "lifetime_epsilon": lower}
    same = canonical(body["account"]) == canonical(account)
    return same and body["retired"] is replay.retired


def _text(signed: dict[str, Any]) -> str:
    return json.dumps(signed, indent=2) + "\n"
