"""`dp-risk federation admit` and `revoke`: who takes part."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from dp_risk.federation import checks, files
from dp_risk.federation.house import LETTER, House
from dp_risk.federation.letters import SiteLetter
from dp_risk.federation.roster import Member, Roster
from dp_risk.types import ConfigurationError


def admit(folder: Path, letters: Sequence[Path]) -> list[str]:
    """Take sites into the roster, all or none, and write the letter to the sites anew.

    A site that is in it already with the same keys stays as it is. One that rotated a key is given
    its new ones: its ledger's key signs the letter, or signed for the one that does.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If a letter is malformed, does not fit the federation, or names a site or key that is in
        the roster; then nothing is written.
    VerificationError
        If the signature of a letter does not hold; then nothing is written.
    """
    house, lines = House.open(folder), []
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with house.locked():
        roster = house.roster
        for path in letters:
            letter = SiteLetter.read(files.read(path), str(path))
            differences = house.agreed.differences(letter.agreed)
            if differences:
                raise ConfigurationError(
                    f"{path}: {letter.site} has {'; '.join(differences)} (as in {house.schema})"
                )
            roster, word = _with(roster, letter, now, path)
            lines.append(
                f"{word} {letter.site}: key {checks.fingerprint(bytes.fromhex(letter.key))}, "
                f"node key {checks.fingerprint(letter.node_key.encode())}"
            )
        house.publish(roster)
    if lines:
        lines.append("compare with what each site showed, by telephone")
    return [*lines, *_sent(house, roster)]


def revoke(folder: Path, site: str) -> list[str]:
    """Take a site off the roster and write the letter to the sites anew.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If it is not in the roster.
    """
    house = House.open(folder)
    with house.locked():
        roster = house.roster.revoke(site)
        house.publish(roster)
    return [
        f"revoked {site}: what it has received and released stays so; it may be admitted again",
        *_sent(house, roster),
    ]


def _with(roster: Roster, letter: SiteLetter, now: str, path: Path) -> tuple[Roster, str]:
    known = roster.members.get(letter.site)
    if known and (known.key, known.node_key) == (letter.key, letter.node_key):
        return roster, "there already:"
    newcomer = Member(site=letter.site, key=letter.key, node_key=letter.node_key, since=now)
    try:
        if known:
            return roster.replace(newcomer, letter.earlier), "rotated, signed by the key before:"
        return roster.add(newcomer), "admitted"
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _sent(house: House, roster: Roster) -> list[str]:
    sites = f"{len(roster.members)} site{'' if len(roster.members) == 1 else 's'}"
    return [
        f"roster of {sites}: {roster.fingerprint}",
        f"send {house.folder / LETTER} to all of them: dp-risk site join SITE {LETTER}",
    ]
