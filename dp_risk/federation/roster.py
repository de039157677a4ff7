"""Who takes part: the sites of a federation and the two public keys of each."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dp_risk.federation import checks, files, node_keys
from dp_risk.privacy.release import canonical, digest
from dp_risk.types import ConfigurationError

_TITLE = (
    "Who takes part. Written by `dp-risk federation admit` and `revoke`; `key` signs a site's "
    "ledger, `node_key` proves to the server who connects. `number` goes up with every change."
)


@dataclass(frozen=True, kw_only=True)
class Member:
    """A site of a federation.

    Parameters
    ----------
    site : str
        Its name.
    key : str
        Ed25519 public key that signs its ledger, 64 hexadecimal digits.
    node_key : str
        ECDSA P-384 public key of its node, PEM.
    since : str
        When it was admitted, ISO 8601 with a time zone.

    Raises
    ------
    ConfigurationError
        If a value is malformed.
    """

    site: str
    key: str
    node_key: str
    since: str

    def __post_init__(self) -> None:
        checks.name(self.site, "site")
        checks.hexadecimal(self.key, f"{self.site}: key")
        node_keys.checked(self.node_key, f"{self.site}: node_key")
        try:
            when = datetime.datetime.fromisoformat(checks.text(self.since, "since", 40))
        except ValueError:
            when = datetime.datetime.min
        if when.tzinfo is None:
            raise ConfigurationError(f"{self.site}: since: not a time with its zone")


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites of a federation.

    Parameters
    ----------
    members : mapping of str to Member
        By name; no key stands under two names.
    number : int
        How often it was changed, at least 0: an older roster has a smaller one.

    Raises
    ------
    ConfigurationError
        If two members share a key.
    """

    members: Mapping[str, Member] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        checks.whole(self.number, "number", 0, 2**53)
        for what in ("key", "node_key"):
            seen: dict[str, str] = {}
            for site, member in self.members.items():
                other = seen.setdefault(getattr(member, what), site)
                if other != site:
                    raise ConfigurationError(f"{site}: its {what} is that of {other}")

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Roster:
        """Read what `to_dict` wrote.

        Raises
        ------
        ConfigurationError
            If a field is missing, unknown or malformed, or a key stands twice.
        """
        said = checks.fields(value, where, ("number", "sites"))
        if not isinstance(said["sites"], dict):
            raise ConfigurationError(f"{where}: sites: not a mapping")
        try:
            members = {
                site: Member(
                    site=site, **checks.fields(about, "site", ("key", "node_key", "since"))
                )
                for site, about in said["sites"].items()
            }
            return cls(members=members, number=said["number"])
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Roster:
        """Read a roster file.

        Raises
        ------
        ConfigurationError
            If it is missing or malformed.
        """
        return cls.from_dict(files.read_yaml(path), str(path))

    def save(self, path: Path) -> None:
        """Write a roster file, atomically."""
        files.write(path, files.commented(_TITLE, self.to_dict(), {}))

    def to_dict(self) -> dict[str, Any]:
        """Return the roster as plain JSON data."""
        sites = {
            site: {"key": member.key, "node_key": member.node_key, "since": member.since}
            for site, member in sorted(self.members.items())
        }
        return {"number": self.number, "sites": sites}

    def add(self, member: Member) -> Roster:
        """Return the roster with one more site.

        Raises
        ------
        ConfigurationError
            If the name or one of the keys is in it already.
        """
        if member.site in self.members:
            raise ConfigurationError(
                f"{member.site}: a site of this name is in the roster already; `federation revoke` "
                "takes it off"
            )
        return Roster(members={**self.members, member.site: member}, number=self.number + 1)

    def replace(self, member: Member, earlier: Sequence[str]) -> Roster:
        """Return the roster with other keys of a site that is in it.

        Parameters
        ----------
        member : Member
            With the new keys.
        earlier : sequence of str
            Ledger keys that are proven to be the site's from before.

        Raises
        ------
        ConfigurationError
            If the site is not in the roster, the key in it is neither the same nor an earlier one,
            or another site has one of the new ones.
        """
        known = self.members.get(member.site)
        if known is None or known.key not in (member.key, *earlier):
            raise ConfigurationError(
                f"{member.site}: a site of this name is in the roster with another key, which did "
                "not sign for this one; `federation revoke` takes it off"
            )
        return Roster(members={**self.members, member.site: member}, number=self.number + 1)

    def revoke(self, site: str) -> Roster:
        """Return the roster without a site.

        Raises
        ------
        ConfigurationError
            If it is not in it.
        """
        if site not in self.members:
            raise ConfigurationError(f"{site}: not in the roster")
        others = {name: member for name, member in self.members.items() if name != site}
        return Roster(members=others, number=self.number + 1)

    @property
    def keys(self) -> dict[str, str]:
        """Public keys that sign ledgers, by site: what a site's policy holds."""
        return {site: member.key for site, member in sorted(self.members.items())}

    @property
    def node_keys(self) -> dict[str, str]:
        """Public keys of nodes (PEM) by site."""
        return {site: member.node_key for site, member in sorted(self.members.items())}

    @property
    def digest(self) -> str:
        """SHA-256 over all names and keys, whenever they were admitted."""
        return digest([self.keys, self.node_keys])

    @property
    def fingerprint(self) -> str:
        """The same in short, to be compared by telephone."""
        return checks.fingerprint(canonical([self.keys, self.node_keys]))
