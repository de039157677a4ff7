"""A federation's own folder, on the machine of its server."""

from __future__ import annotations

import datetime
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dp_risk.federation import certificates, checks, files
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.letters import FederationLetter
from dp_risk.federation.operator import Operator
from dp_risk.federation.roster import Roster
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError

FEDERATION, SCHEMA, LETTER = "federation.yaml", "schema.yaml", "federation.json"
AUTHORITY, AUTHORITY_KEY = "authority.crt", "authority.key"
SERVER, SERVER_KEY = "server.crt", "server.key"
KEY, PUBLIC_KEY = "federation.key", "federation.pub"
OPERATORS, ROSTER, OPERATOR = "operators.yaml", "roster.yaml", "operator"
_LOCK = ".lock"
_COMMENTS = {
    "name": "Name of the federation.",
    "hosts": "Names or IP addresses under which sites reach the server; the first is the address "
    "in the letter to the sites. After a change `dp-risk federation admit`, without a letter from "
    "a site, writes that letter anew.",
    "port": "TCP port of the server, for sites and operators.",
    "listen": "Interface that the server listens on; 0.0.0.0 is every one.",
    "insecure": "true: no certificate, so that anybody on the way may read and change messages. "
    "For trying things out on one machine only.",
    "agreed": "What every site must have in its own policy; schema is the digest of schema.yaml. "
    "It never changes: another data set is another federation.",
}
_TITLE = "A federation of dp-risk. Read when the server starts."
_OPERATORS_TITLE = (
    "Who may start and watch runs: name, and Ed25519 public key (64 hexadecimal digits). Remove a "
    "line to shut somebody out."
)


@dataclass(frozen=True, kw_only=True)
class House:
    """A federation's folder.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        The federation's name.
    hosts : tuple of str
        Under which sites reach the server, at least one.
    port : int
        In [1, 65535].
    listen : str
        Interface that the server listens on, an IP address.
    insecure : bool
        Whether there are no certificates.
    agreed : Agreement
        What all sites have in common.

    Raises
    ------
    ConfigurationError
        If a value is malformed.
    """

    folder: Path
    name: str
    hosts: tuple[str, ...]
    port: int
    listen: str
    insecure: bool
    agreed: Agreement

    def __post_init__(self) -> None:
        checks.name(self.name, "name")
        if not self.hosts:
            raise ConfigurationError("hosts: at least one is needed")
        for host in self.hosts:
            if checks.host(host, "hosts") != host:
                raise ConfigurationError(f"hosts: {host}: write {checks.host(host, 'hosts')}")
        checks.whole(self.port, "port", 1, 65535)
        if self.listen not in ("0.0.0.0", "::"):
            checks.host(self.listen, "listen")
        checks.truth(self.insecure, "insecure")

    @classmethod
    def open(cls, folder: Path) -> House:
        """Open a federation's folder.

        Raises
        ------
        ConfigurationError
            If federation.yaml is missing or malformed.
        """
        path = folder / FEDERATION
        if not path.exists():
            raise ConfigurationError(f"{folder}: not a federation: no {FEDERATION} here")
        names = ("name", "hosts", "port", "listen", "insecure", "agreed")
        said = checks.fields(files.read_yaml(path), str(path), names)
        hosts = said["hosts"]
        if not isinstance(hosts, list):
            raise ConfigurationError(f"{path}: hosts: not a list")
        try:
            agreed = Agreement.from_dict(said["agreed"], "agreed")
            return cls(folder=folder, **{**said, "hosts": tuple(hosts), "agreed": agreed})
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {error}") from None

    @staticmethod
    def create(
        folder: Path,
        *,
        name: str,
        hosts: Sequence[str],
        port: int,
        insecure: bool,
        agreed: Agreement,
        schema: bytes,
        now: datetime.datetime,
    ) -> House:
        """Write a new federation into an existing empty folder: all keys, and one operator.

        Parameters
        ----------
        folder : Path
            The folder; it is nothing yet if this fails.
        name, hosts, port, insecure, agreed
            As of the class.
        schema : bytes
            The schema file whose digest is agreed.
        now : datetime
            With a time zone.

        Raises
        ------
        ConfigurationError
            If a value is malformed.
        """
        local = all(host in certificates.LOOPBACK for host in hosts)
        house = House(
            folder=folder,
            name=name,
            hosts=tuple(hosts),
            port=port,
            listen="127.0.0.1" if local else "0.0.0.0",
            insecure=insecure,
            agreed=agreed,
        )
        values = {
            "name": name,
            "hosts": list(hosts),
            "port": port,
            "listen": house.listen,
            "insecure": insecure,
            "agreed": agreed.to_dict(),
        }
        files.write(folder / FEDERATION, files.commented(_TITLE, values, _COMMENTS))
        files.write(folder / SCHEMA, schema)
        keys.load_or_create(folder / KEY)
        files.write(folder / PUBLIC_KEY, f"{name}: {house.public_key}\n")
        if not insecure:
            authority, key = certificates.Authority.create(name, now), certificates.new_key()
            files.write(house.authority, certificates.pem(authority.certificate))
            files.write(house.authority_key, certificates.private_pem(authority.key), mode=0o600)
            files.write(house.certificate_key, certificates.private_pem(key), mode=0o600)
            files.write(house.certificate, authority.issue(key, hosts, now))
        Roster().save(folder / ROSTER)
        files.write(folder / OPERATORS, "")
        (folder / OPERATOR).mkdir(mode=0o700)
        house.add_operator(OPERATOR, folder / OPERATOR)
        house.publish()
        house.runs.mkdir()
        return house

    @property
    def address(self) -> str:
        """HOST:PORT where sites and operators connect."""
        return checks.join(self.hosts[0], self.port)

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"{'http' if self.insecure else 'https'}://{self.address}"

    @property
    def authority(self) -> Path:
        """Certificate of the authority (PEM); absent where insecure, as the next three."""
        return self.folder / AUTHORITY

    @property
    def authority_key(self) -> Path:
        """Private key of the authority (PEM)."""
        return self.folder / AUTHORITY_KEY

    @property
    def certificate(self) -> Path:
        """Certificate of the server (PEM)."""
        return self.folder / SERVER

    @property
    def certificate_key(self) -> Path:
        """Private key of the server (PEM)."""
        return self.folder / SERVER_KEY

    @property
    def schema(self) -> Path:
        """The public schema."""
        return self.folder / SCHEMA

    @property
    def runs(self) -> Path:
        """Folder of all runs, one folder each."""
        return self.folder / "runs"

    @property
    def heads(self) -> Path:
        """What the server remembers of the sites' ledgers."""
        return self.folder / "heads.json"

    @cached_property
    def key(self) -> keys.Key:
        """Private key that signs letters and records of runs."""
        return keys.load(self.folder / KEY)

    @property
    def public_key(self) -> str:
        """Its public half, 64 hexadecimal digits."""
        return keys.public_hex(self.key)

    @property
    def operators(self) -> Mapping[str, str]:
        """Public keys of operators by name, as the file says now.

        Raises
        ------
        ConfigurationError
            If the file is missing or malformed.
        """
        path = self.folder / OPERATORS
        return {
            checks.name(name, str(path)): checks.hexadecimal(key, f"{path}: {name}")
            for name, key in files.read_yaml(path).items()
        }

    @property
    def roster(self) -> Roster:
        """Who takes part, as the file says now.

        Raises
        ------
        ConfigurationError
            If the file is missing or malformed.
        """
        return Roster.load(self.folder / ROSTER)

    def letter(self) -> FederationLetter:
        """Return the letter to the sites as things are now.

        Raises
        ------
        ConfigurationError
            If a file that it is made of is missing or malformed.
        """
        return FederationLetter(
            name=self.name,
            address=self.address,
            insecure=self.insecure,
            authority=None
            if self.insecure
            else files.read(self.authority).decode("ascii", "replace"),
            key=self.public_key,
            agreed=self.agreed,
            roster=self.roster,
        )

    def publish(self, roster: Roster | None = None) -> None:
        """Write the roster, where there is a new one, and then the letter to the sites."""
        if roster is not None:
            roster.save(self.folder / ROSTER)
        files.write(self.folder / LETTER, self.letter().signed(self.key))

    def add_operator(self, name: str, folder: Path) -> None:
        """Let one more person start runs, with the files that are written into an existing folder.

        Raises
        ------
        ConfigurationError
            If the name is taken, or a file is malformed.
        """
        operators = dict(self.operators)
        if checks.name(name, "operator") in operators:
            raise ConfigurationError(f"{name}: an operator already (in {self.folder / OPERATORS})")
        schema = files.read(self.schema)
        operators[name] = Operator.create(folder, name=name, letter=self.letter(), schema=schema)
        text = files.commented(_OPERATORS_TITLE, operators, {})
        files.write(self.folder / OPERATORS, text)

    def renew(self, now: datetime.datetime, *, new_key: bool = False) -> bool:
        """Give the server another certificate, for the same key, where its own ends soon.

        So it is where `hosts` was changed.

        Parameters
        ----------
        now : datetime
            With a time zone.
        new_key : bool
            Make another key for the server too, however long its certificate would last.

        Returns
        -------
        bool
            Whether there is a new one; sites notice nothing, since the authority stays.

        Raises
        ------
        ConfigurationError
            If a certificate or key is missing or malformed.
        """
        if self.insecure:
            return False
        if not new_key and not certificates.renewal_due(
            files.read(self.certificate), self.hosts, now
        ):
            return False
        authority = certificates.Authority.load(
            files.read(self.authority), files.read(self.authority_key)
        )
        if new_key:
            made = certificates.private_pem(certificates.new_key())
            files.write(self.certificate_key, made, mode=0o600)
        key = certificates.load_key(files.read(self.certificate_key))
        files.write(self.certificate, authority.issue(key, self.hosts, now))
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the roster while it is changed; the lock goes with the process."""
        with (self.folder / _LOCK).open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
