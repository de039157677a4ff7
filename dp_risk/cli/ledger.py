"""`dp-risk ledger`: what a site's owner and its auditor do with a ledger."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dp_risk.types import ConfigurationError, Refused, VerificationError

if TYPE_CHECKING:
    from dp_risk.privacy.account import Amendment
    from dp_risk.privacy.entries import Verified
    from dp_risk.privacy.keys import Key
    from dp_risk.privacy.ledger import Ledger
    from dp_risk.privacy.terms import Run

SCHEMA_VERSION = 2
POLICY, LEDGER = "policy.yaml", "ledger.sqlite"
_SITE = "runs/sites/mine/site-00"
Add = Callable[[str, str, str], argparse.ArgumentParser]


def add_verbs(add: Add) -> None:
    """Add the verbs; `add(name, what, example)` makes one of them."""
    act: Callable[[argparse.Namespace], None]
    for name, act, what, more in (
        ("show", _show, "spent, left and history", ""),
        ("verify", _verify, "check the chain, its signatures and every byte of the file", ""),
        ("export", _export, "a signed statement for an auditor", " --out ledger.json"),
        ("raise", _raise, "sign the larger lifetime budget that policy.yaml now says",
         " --by 'A. Person' --reason 'second study'"),
        ("retire", _retire, "never release anything again",
         " --by 'A. Person' --reason 'consent ended'"),
        ("migrate", _migrate, "bring a ledger of version 1 to version 2", ""),
    ):  # fmt: skip
        verb = add(name, what, f"ledger {name} {_SITE}{more}")
        if name == "verify":
            verb.add_argument("site", type=Path, metavar="SITE|EXPORT", help="folder or statement")
            verb.add_argument("--keys", type=Path, help="trusted public keys, one a line")
        else:
            verb.add_argument("site", type=Path, metavar="SITE", help="the site's folder")
        if name == "export":
            verb.add_argument("--out", type=Path, help="file (default: standard output)")
        if name in ("raise", "retire"):
            verb.add_argument("--by", required=True, metavar="NAME", help="who decides")
            verb.add_argument("--reason", required=True, metavar="TEXT", help="why, one line")
        verb.add_argument("--json", action="store_true", help="as JSON")
        verb.set_defaults(act=act)


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=2, allow_nan=False))


def _key(site: Path) -> Key:
    from clients import signing

    return signing.load(site)


def _show(options: argparse.Namespace) -> None:
    from clients.policy import Policy
    from dp_risk.privacy.ledger import Ledger
    from dp_risk.privacy.terms import amendment_of

    path = options.site / LEDGER
    ledger, note = Ledger.open(path), None
    if (options.site / POLICY).exists():
        account = Policy.load(options.site / POLICY).account
        try:
            ledger = Ledger.open(path, account)
        except Refused as refusal:
            note = f"no run is possible now: {refusal}"
    account, state = ledger.account, ledger.state
    runs = [_run(ledger, run) for run in ledger.runs()]
    values = {
        "dataset": account.dataset,
        "unit": account.unit,
        "adjacency": account.adjacency,
        "delta": account.delta,
        "public": account.public,
        "filter_order": ledger.filter.order,
        "public_key": ledger.public_key,
        "lifetime_epsilon": state.lifetime_epsilon,
        "spent_epsilon": state.spent_epsilon,
        "left_epsilon": state.left_epsilon,
        "retired": state.retired,
        "note": note,
        "accounts": {s: dataclasses.asdict(b) for s, b in state.balances.items()},
        "amendments": [dataclasses.asdict(a) for a in ledger.amendments()],
        "rekeys": [dataclasses.asdict(amendment_of(e)) for e in ledger.rekeys()],
        "runs": runs,
        "head": state.head,
        "signature": state.signature,
        "open_run": state.open_run,
    }
    if options.json:
        entries = [
            {"sequence": e.sequence, "time": e.time, "kind": e.kind, "hash": e.hash, **e.body}
            for e in ledger.entries()
        ]
        _print_json({**values, "entries": entries})
        return
    print(
        f"{account.dataset}: delta {account.delta:g}, unit {account.unit}, {account.adjacency}; "
        f"lifetime epsilon {state.lifetime_epsilon:g} for each split, by a Renyi filter of "
        f"order {ledger.filter.order}"
    )
    for split, balance in state.balances.items():
        print(
            f"split {split}: lifetime epsilon (filter) {balance.spent_epsilon:.4g} of "
            f"{state.lifetime_epsilon:g} spent, {balance.left_epsilon:.4g} left, "
            f"{balance.used:.1%} of the filter used"
        )
    if state.retired:
        print("the ledger is retired: what is left will never be spent")
    signed = max((a.lifetime_epsilon for a in ledger.amendments()), default=0.0)
    if signed > state.lifetime_epsilon:
        print(
            f"the ledger was raised to {signed:g}, policy.yaml says {state.lifetime_epsilon:g}: "
            "the smaller one is in force"
        )
    if note:
        print(note)
    for amendment in (*ledger.amendments(), *map(amendment_of, ledger.rekeys())):
        print(_said(amendment))
    for run in runs:
        _print_run(run)
    print(f"{state.entries} entries; head {state.head}; key {ledger.public_key}")


def _run(ledger: Ledger, run: Run) -> dict[str, Any]:
    """Return a run with both costs of its whole reserved schedule, and its charges by purpose."""
    from dp_risk.privacy.accounting import accountant, epsilon

    filter = ledger.filter
    costs = {}
    by = accountant([line.event for line in run.schedule])
    for split in ledger.account.splits:
        events = [line.total for line in run.schedule if line.split == split]
        costs[split] = _finite(epsilon(events, filter.delta))
    charges = [
        {
            "purpose": line.name,
            "split": line.split,
            "event": line.event.to_dict(),
            "described": str(line.event),
            "rounds_reserved": line.rounds,
            "rounds_paid": run.paid.get(line.name, 0),
            "filter_paid": _finite(run.paid.get(line.name, 0) * filter.cost(line.event))
            if run.paid.get(line.name)
            else 0.0,
        }
        for line in run.schedule
    ]
    return {
        "run": run.run,
        "plan": run.plan,
        "time": run.time,
        "state": _standing(ledger, run),
        f"epsilon_run_{by.lower()}": costs,
        "charges": charges,
    }


def _standing(ledger: Ledger, run: Run) -> str:
    """Say what of a run's reservation counts now."""
    if run.run == ledger.state.open_run:
        return "open: the whole reservation counts"
    if not any(run.paid.values()):
        return "refused or ended before its first round: the reservation was given back"
    if all(run.paid.get(line.name, 0) >= line.rounds for line in run.schedule):
        return "closed: every round was paid"
    return "closed: rounds that never ran were given back"


def _finite(value: float) -> float | None:
    # Without noise nothing is protected: JSON has no infinity.
    return value if math.isfinite(value) else None


def _print_run(run: dict[str, Any]) -> None:
    by = "PLD" if "epsilon_run_pld" in run else "RDP"
    costs = ", ".join(
        f"{split} {'no protection' if cost is None else format(cost, '.4g')}"
        for split, cost in run[f"epsilon_run_{by.lower()}"].items()
    )
    print(
        f"run {run['run']}  {run['time'][:19]}  run epsilon ({by}, as reserved): {costs}\n"
        f"  {run['state']}"
    )
    for line in run["charges"]:
        print(
            f"  {line['purpose']:<12} {line['split']:<8} {line['rounds_paid']} of "
            f"{line['rounds_reserved']} rounds paid, each {line['described']}"
        )


def _said(amendment: Amendment) -> str:
    what = "retired"
    if amendment.kind == "rekey":
        what = "key rotated"
    elif amendment.kind == "raise":
        what = f"lifetime epsilon raised to {amendment.lifetime_epsilon:g}"
    return f"{what} by {amendment.by}, {amendment.time[:19]}: {amendment.reason}"


def _verify(options: argparse.Namespace) -> None:
    from dp_risk.privacy import statement
    from dp_risk.privacy.ledger import Ledger

    of_file = options.site.is_file()
    if of_file:
        verified = statement.verify(options.site)
    else:
        path = options.site / LEDGER
        if not path.exists():
            raise ConfigurationError(f"{path}: no ledger here")
        try:
            verified = Ledger.open(path).verify()
        except ConfigurationError as error:
            # What cannot be read does not hold: a changed byte may look like anything.
            raise VerificationError(str(error)) from None
    checked, unchecked = _words(verified, options.keys, of_file=of_file)
    if options.json:
        values = dataclasses.asdict(verified)
        _print_json({**values, "checked": checked, "not_checked": unchecked})
        return
    for line in checked:
        print(line)
    for line in unchecked:
        print(f"not checked: {line}")


def _words(verified: Verified, keys: Path | None, *, of_file: bool) -> tuple[list[str], list[str]]:
    from dp_risk.cli.manifest import trusted

    checked = [f"{verified.entries} entries hold, each signed; head {verified.head}"]
    unchecked = []
    if verified.unsigned:
        checked[0] = (
            f"{verified.entries} entries hold; head {verified.head}; the first "
            f"{verified.unsigned} are of version 1 and signed only as one, by the migration"
        )
    if verified.earlier:
        count = len(verified.earlier)
        checked.append(f"rotations of the key: {count}, each signed by the old one and the new one")
    if verified.backwards:
        numbers = ", ".join(map(str, verified.backwards[:10]))
        checked.append(f"the clock went back at entry {numbers}; nothing depends on time")
    if keys is None:
        unchecked.append(f"who signed: no keys given (--keys FILE); the key says {verified.key}")
    elif not any(trusted(keys, key) for key in (*verified.earlier, verified.key)):
        raise VerificationError(f"the ledger is signed by a key that is not in {keys}")
    elif not trusted(keys, verified.key):
        checked.append(
            f"signed by a key that you trust, which signed for the one in force, {verified.key}: "
            f"put that one into {keys}"
        )
    else:
        checked.append("signed by a key that you trust")
    if verified.sealed:
        checked.append("every byte of the file is as it was sealed")
    elif of_file:
        unchecked.append("stored answers: a statement holds none")
    else:
        unchecked.append("bytes outside the entries, written since the last seal")
    unchecked.append("whether this is an older copy (compare the head with the server's)")
    return checked, unchecked


def _export(options: argparse.Namespace) -> None:
    from dp_risk.privacy import statement
    from dp_risk.privacy.ledger import Ledger

    ledger = Ledger.open(options.site / LEDGER, key=_key(options.site))
    text = statement.export(ledger)
    if options.out is None:
        print(text, end="")
        return
    if options.out.exists():
        raise ConfigurationError(f"{options.out}: exists already; remove it or choose another")
    if not options.out.parent.is_dir():
        raise ConfigurationError(f"{options.out}: no such folder")
    temporary = options.out.with_name(options.out.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, options.out)
    state = ledger.state
    if options.json:
        _print_json({"out": str(options.out), "entries": state.entries, "head": state.head})
    else:
        print(f"written: {options.out}: {state.entries} entries, head {state.head}")


def _opened(site: Path) -> tuple[Ledger, float]:
    """Open a ledger to amend it; return it and the budget that the policy says now."""
    from clients.policy import Policy
    from dp_risk.privacy.ledger import Ledger

    path, account = site / LEDGER, Policy.load(site / POLICY).account
    allowed = Ledger.open(path).account.lifetime_epsilon
    lower = min(allowed, account.lifetime_epsilon)
    Ledger.open(path, dataclasses.replace(account, lifetime_epsilon=lower)).close_file()
    return Ledger.open(path, key=_key(site)), account.lifetime_epsilon


def _raise(options: argparse.Namespace) -> None:
    ledger, lifetime = _opened(options.site)
    _amended(options, ledger.raise_budget(lifetime, by=options.by, reason=options.reason))


def _retire(options: argparse.Namespace) -> None:
    ledger, _ = _opened(options.site)
    _amended(options, ledger.retire(by=options.by, reason=options.reason))


def _amended(options: argparse.Namespace, amendment: Amendment) -> None:
    if options.json:
        _print_json({"amendment": dataclasses.asdict(amendment)})
    else:
        print(_said(amendment))


def _migrate(options: argparse.Namespace) -> None:
    from clients.site import founders
    from dp_risk.privacy.ledger import Ledger
    from dp_risk.privacy.migration import migrate

    path = options.site / LEDGER
    if not path.exists():
        raise ConfigurationError(f"{path}: no ledger here")
    _, _, account, key = founders(options.site)
    backup = migrate(path, account, key=key)
    state = Ledger.open(path).state
    if options.json:
        _print_json({"backup": str(backup), "entries": state.entries, "head": state.head})
    else:
        print(f"migrated: {state.entries} entries, head {state.head}; the old file: {backup}")
