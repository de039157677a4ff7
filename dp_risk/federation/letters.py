"""The two letters with which a site and a federation get to know each other: signed JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dp_risk.federation import certificates, checks, files, node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.roster import Roster
from dp_risk.privacy import keys
from dp_risk.privacy.entries import Entry, follow
from dp_risk.privacy.release import canonical
from dp_risk.types import ConfigurationError, VerificationError

SCHEMA_VERSION = 1
_MOST_REKEYS = 1000
_ENVELOPE = ("kind", "schema_version", "signature")


@dataclass(frozen=True, kw_only=True)
class SiteLetter:
    """What a site tells a federation: who it is and what it agreed to.

    Parameters
    ----------
    site : str
        Its name.
    key : str
        Ed25519 public key that signs its ledger, and this letter.
    node_key : str
        ECDSA P-384 public key of its node, PEM.
    agreed : Agreement
        Dataset, schema, unit and delta of its policy.
    rekeys : sequence of Entry
        The entries of its ledger in which each key signed for the next: they lead to `key`.

    Raises
    ------
    ConfigurationError
        If a value is malformed.
    VerificationError
        If the rotations of its key do not hold, or lead to another one.
    """

    KIND = "dp-risk site letter"

    site: str
    key: str
    node_key: str
    agreed: Agreement
    rekeys: Sequence[Entry] = ()

    def __post_init__(self) -> None:
        checks.name(self.site, "site")
        checks.hexadecimal(self.key, "key")
        node_keys.checked(self.node_key, "node_key")
        if self.rekeys and follow(self.rekeys)[-1] != self.key:
            raise VerificationError("rekeys: the site's key was rotated to another one")

    @property
    def earlier(self) -> tuple[str, ...]:
        """Public keys that the site had before, oldest first; each signed for the next."""
        return follow(self.rekeys)[:-1]

    def signed(self, key: keys.Key) -> str:
        """Return the letter as a file holds it.

        Raises
        ------
        ConfigurationError
            If this is not the key that the letter names.
        """
        body = {
            "site": self.site,
            "key": self.key,
            "node_key": self.node_key,
            "agreed": self.agreed.to_dict(),
            "rekeys": [dataclasses.asdict(entry) for entry in self.rekeys],
        }
        return _sealed(self.KIND, body, self.key, key)

    @classmethod
    def read(cls, content: bytes, where: str) -> SiteLetter:
        """Read and check a letter; `where` is what an error names.

        Raises
        ------
        ConfigurationError
            If it is not such a letter, or a newer program wrote it.
        VerificationError
            If its signature is not by the key that it names, or the rotations of that do not hold.
        """
        names = ("site", "key", "node_key", "agreed", "rekeys")
        said = _opened(content, where, cls.KIND, names)
        try:
            agreed = Agreement.from_dict(said["agreed"], "agreed")
            rekeys = _entries(said["rekeys"], "rekeys")
            letter = cls(**{**said, "agreed": agreed, "rekeys": rekeys})
        except (ConfigurationError, VerificationError) as error:
            raise type(error)(f"{where}: {error}") from None
        return letter


@dataclass(frozen=True, kw_only=True)
class FederationLetter:
    """What a federation tells its sites: where it is, whom to trust, who takes part.

    Parameters
    ----------
    name : str
        The federation's name.
    address : str
        HOST:PORT of its server.
    insecure : bool
        Whether the server has no certificate: anybody on the way may read and change messages.
    authority : str or None
        Certificate of its authority (PEM), which the server's is issued by; None where insecure.
    key : str
        Ed25519 public key of the federation: signs this letter and the records of runs.
    agreed : Agreement
        Dataset, schema, unit and delta of all sites.
    roster : Roster
        Who takes part; its number tells an older letter from a newer one.

    Raises
    ------
    ConfigurationError
        If a value is malformed.
    """

    KIND = "dp-risk federation letter"

    name: str
    address: str
    insecure: bool
    authority: str | None
    key: str
    agreed: Agreement
    roster: Roster

    def __post_init__(self) -> None:
        checks.name(self.name, "name")
        checks.address(self.address, "address")
        checks.truth(self.insecure, "insecure")
        checks.hexadecimal(self.key, "key")
        if self.insecure != (self.authority is None):
            raise ConfigurationError("authority: absent exactly where insecure is true")
        if self.authority is not None:
            found = checks.text(self.authority, "authority", 8192)
            certificates.authority(found.encode("utf-8", "replace"))

    def signed(self, key: keys.Key) -> str:
        """Return the letter as a file holds it.

        Raises
        ------
        ConfigurationError
            If this is not the key that the letter names, or the letter would be too large.
        """
        body = {
            "name": self.name,
            "address": self.address,
            "insecure": self.insecure,
            "authority": self.authority,
            "key": self.key,
            "agreed": self.agreed.to_dict(),
            "roster": self.roster.to_dict(),
        }
        return _sealed(self.KIND, body, self.key, key)

    @classmethod
    def read(cls, content: bytes, where: str) -> FederationLetter:
        """Read and check a letter; `where` is what an error names.

        Raises
        ------
        ConfigurationError
            If it is not such a letter, or a newer program wrote it.
        VerificationError
            If its signature is not by the key that it names.
        """
        names = ("name", "address", "insecure", "authority", "key", "agreed", "roster")
        said = _opened(content, where, cls.KIND, names)
        try:
            return cls(
                **{
                    **said,
                    "agreed": Agreement.from_dict(said["agreed"], "agreed"),
                    "roster": Roster.from_dict(said["roster"], "roster"),
                }
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None


def _sealed(kind: str, body: Mapping[str, Any], public: str, key: keys.Key) -> str:
    if keys.public_hex(key) != public:
        raise ConfigurationError("the letter names another key than the one that would sign it")
    whole = {"kind": kind, "schema_version": SCHEMA_VERSION, **body}
    signature = keys.sign(key, kind, canonical(whole))
    text = json.dumps({**whole, "signature": signature}, indent=2) + "\n"
    if len(text) > files.MOST_BYTES:
        raise ConfigurationError(f"the letter is larger than {files.MOST_BYTES >> 20} MiB")
    return text


def _opened(content: bytes, where: str, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a letter of this kind whose signature holds."""
    if len(content) > files.MOST_BYTES:
        raise ConfigurationError(f"{where}: larger than {files.MOST_BYTES >> 20} MiB")
    try:
        whole = json.loads(content, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{where}: not a letter: not readable as JSON") from None
    if not isinstance(whole, dict) or whole.get("kind") != kind:
        raise ConfigurationError(f"{where}: not a {kind}")
    version = checks.whole(whole.get("schema_version"), f"{where}: schema_version", 1, 2**53)
    if version > SCHEMA_VERSION:
        raise ConfigurationError(f"{where}: written by a newer version of this program")
    checks.fields(whole, where, (*_ENVELOPE, *names))
    said = {name: whole[name] for name in names}
    key = checks.hexadecimal(said["key"], f"{where}: key")
    signature = checks.text(whole["signature"], f"{where}: signature", 128)
    body = {name: value for name, value in whole.items() if name != "signature"}
    try:
        good = keys.verify(key, kind, canonical(body), signature)
    except ValueError:
        # A number beyond all bounds.
        good = False
    if not good:
        raise VerificationError(f"{where}: its signature does not hold: it was changed")
    return said


def _entries(value: Any, where: str) -> tuple[Entry, ...]:
    names = tuple(field.name for field in dataclasses.fields(Entry))
    if not isinstance(value, list) or len(value) > _MOST_REKEYS:
        raise ConfigurationError(f"{where}: not a list of at most {_MOST_REKEYS} entries")
    entries = []
    for one in value:
        said = dict(checks.fields(one, where, names))
        checks.whole(said["sequence"], where, 1, 2**53)
        for name in names[1:]:
            checks.text(said[name], where, 20_000)
        entries.append(Entry(**said))
    return tuple(entries)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
