"""`dp-risk site join`: take over a federation's letter, once a person has looked at it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from clients import signing
from clients.policy import Policy
from dp_risk.cli.site.letter import POLICY, agreement
from dp_risk.federation import certificates, checks, files, node_keys
from dp_risk.federation.letters import FederationLetter
from dp_risk.federation.membership import AUTHORITY, LETTER, NODE_KEY, Membership
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError, Trust, VerificationError


def join(folder: Path, path: Path, *, new_federation: bool) -> list[str]:
    """Check a federation's letter, keep it, and write its roster into the site's policy.

    The first letter pins the federation's key: a later one must be signed by the same key and be
    no older.

    Parameters
    ----------
    folder : Path
        The site's folder.
    path : Path
        The letter, federation.json.
    new_federation : bool
        Whether the key may be another one: the site leaves the federation that it knew.

    Returns
    -------
    list of str
        What a person should compare and know now.

    Raises
    ------
    ConfigurationError
        If the letter is malformed, does not fit the policy, or does not name this site with its
        keys; then nothing is written, as in the other case.
    VerificationError
        If its signature does not hold, or the key is not the one that is known.
    """
    policy = Policy.load(folder / POLICY)
    content = files.read(path)
    letter = FederationLetter.read(content, str(path))
    differences = agreement(folder, policy).differences(letter.agreed)
    if differences:
        raise ConfigurationError(f"{path}: the federation has {'; '.join(differences)}")
    known: Mapping[str, str] = {}
    if (folder / LETTER).exists() and not new_federation:
        membership = Membership.load(folder)
        _check_known(membership, letter, path)
        known = membership.roster.keys
    _check_named(folder, policy, letter, path)
    changed = dataclasses.replace(policy, roster=letter.roster.keys)
    # The letter is last: what was interrupted before it is done, and told, again.
    if letter.authority is None:
        (folder / AUTHORITY).unlink(missing_ok=True)
    else:
        files.write(folder / AUTHORITY, letter.authority)
    if changed != policy:
        changed.save(folder / POLICY)
    files.write(folder / LETTER, content)
    return [
        f"joined: {letter.name} at {'http' if letter.insecure else 'https'}://{letter.address}",
        *_to_compare(letter),
        *_partners((policy.roster, known), changed.roster, policy.site),
        *_advice(changed),
        f"next: dp-risk site serve {folder}",
    ]


def _check_known(known: Membership, letter: FederationLetter, path: Path) -> None:
    if letter.key != known.key:
        raise VerificationError(
            f"{path}: signed by another key than that of {known.name}, which this site joined; "
            "--new-federation if it leaves that one"
        )
    if letter.roster.number < known.roster.number:
        raise VerificationError(
            f"{path}: older than the letter that this site has: sites may have been revoked since"
        )


def _check_named(folder: Path, policy: Policy, letter: FederationLetter, path: Path) -> None:
    member = letter.roster.members.get(policy.site)
    if member is None:
        raise ConfigurationError(
            f"{path}: its roster does not name {policy.site}: whoever runs the server admits it "
            "first"
        )
    mine = keys.public_hex(signing.load(folder))
    if member.key != mine:
        raise ConfigurationError(f"{path}: its roster has another key for {policy.site}")
    if member.node_key != node_keys.public_text(node_keys.load(folder / NODE_KEY)):
        raise ConfigurationError(f"{path}: its roster has another node key for {policy.site}")


def _to_compare(letter: FederationLetter) -> list[str]:
    roster = letter.roster
    lines = [
        "compare by telephone with whoever runs the server, and the roster with your partners:",
        f"  federation key {checks.fingerprint(bytes.fromhex(letter.key))}",
        f"  roster of {len(roster.members)} {roster.fingerprint}",
    ]
    if letter.authority is None:
        return [
            "INSECURE: the server has no certificate: anybody on the way may read and change every "
            "message; for one machine only",
            *lines,
        ]
    shown = certificates.certificate_fingerprint(letter.authority.encode())
    return [*lines, f"  authority {shown}"]


def _partners(
    before: Sequence[Mapping[str, str]], after: Mapping[str, str], site: str
) -> list[str]:
    """Name every partner whose key is not the one of both the policy and the letter before."""
    lines = []
    for name in sorted({*after}.union(*before) - {site}):
        had = {roster.get(name) for roster in before}
        if name not in after:
            lines.append(f"removed from the roster: {name}")
        elif had != {after[name]}:
            shown = f"{name} ({checks.fingerprint(bytes.fromhex(after[name]))})"
            if had - {None, after[name]}:
                lines.append(f"ANOTHER KEY in the roster: {shown}: ask why before you serve")
            else:
                lines.append(f"added to the roster: {shown}")
    return lines or ["the roster has the partners that it had"]


def _advice(policy: Policy) -> list[str]:
    lines = []
    if Trust.DISTRIBUTED not in policy.trusts:
        lines.append(
            "policy.yaml: trusts is local: add distributed if all sites of the roster may add the "
            "noise together"
        )
    if policy.min_sites == 1 and len(policy.roster) > 1:
        lines.append(
            "policy.yaml: min_sites is 1: raise it to the fewest sites of a run in which this one "
            "takes part, with distributed to nearly the length of the roster"
        )
    return lines
