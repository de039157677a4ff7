"""The folder of somebody who starts and watches runs, from any machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dp_risk.federation import certificates, checks, files
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.letters import FederationLetter
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError

OPERATOR, KEY, AUTHORITY, SCHEMA = "operator.yaml", "operator.key", "authority.crt", "schema.yaml"
_TITLE = (
    "Who starts and watches runs of a federation. Copy this folder to wherever runs are started; "
    "operator.key is secret: whoever has it can spend the sites' budgets."
)
_COMMENTS = {
    "name": "Name of the operator, as in operators.yaml of the federation.",
    "address": "HOST:PORT of the server.",
    "insecure": "Whether the server has no certificate; else authority.crt says whom to trust.",
    "federation": "Public key of the federation: signs the records of runs.",
    "agreed": "What all sites have in common; schema is the digest of schema.yaml.",
}


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator's folder.

    Parameters
    ----------
    folder : Path
        The folder.
    name : str
        The operator's name at the federation.
    address : str
        HOST:PORT of the server.
    insecure : bool
        Whether the server has no certificate.
    federation : str
        The federation's public key, 64 hexadecimal digits.
    agreed : Agreement
        Dataset, schema, unit and delta of all sites.
    """

    folder: Path
    name: str
    address: str
    insecure: bool
    federation: str
    agreed: Agreement

    @classmethod
    def load(cls, folder: Path) -> Operator:
        """Open an operator's folder.

        Raises
        ------
        ConfigurationError
            If a file is missing or malformed.
        """
        path = folder / OPERATOR
        if not path.exists():
            raise ConfigurationError(f"{folder}: not an operator's folder: no {OPERATOR} here")
        names = ("name", "address", "insecure", "federation", "agreed")
        said = checks.fields(files.read_yaml(path), str(path), names)
        return cls(
            folder=folder,
            name=checks.name(said["name"], f"{path}: name"),
            address=checks.address(said["address"], f"{path}: address"),
            insecure=checks.truth(said["insecure"], f"{path}: insecure"),
            federation=checks.hexadecimal(said["federation"], f"{path}: federation"),
            agreed=Agreement.from_dict(said["agreed"], f"{path}: agreed"),
        )

    @staticmethod
    def create(folder: Path, *, name: str, letter: FederationLetter, schema: bytes) -> str:
        """Write an operator's files into an existing folder; return its public key.

        Parameters
        ----------
        folder : Path
            The folder.
        name : str
            The operator's name.
        letter : FederationLetter
            What the federation says of itself.
        schema : bytes
            The public schema file.
        """
        values = {
            "name": name,
            "address": letter.address,
            "insecure": letter.insecure,
            "federation": letter.key,
            "agreed": letter.agreed.to_dict(),
        }
        files.write(folder / OPERATOR, files.commented(_TITLE, values, _COMMENTS))
        files.write(folder / SCHEMA, schema)
        if letter.authority is not None:
            files.write(folder / AUTHORITY, letter.authority)
        return keys.public_hex(keys.load_or_create(folder / KEY))

    @property
    def url(self) -> str:
        """The server's address as a URL."""
        return f"{'http' if self.insecure else 'https'}://{self.address}"

    @property
    def schema(self) -> Path:
        """The public schema."""
        return self.folder / SCHEMA

    @property
    def authority(self) -> bytes | None:
        """Certificate of the federation's authority (PEM); None where insecure.

        Raises
        ------
        ConfigurationError
            If it is missing or malformed.
        """
        if self.insecure:
            return None
        content = files.read(self.folder / AUTHORITY)
        try:
            certificates.authority(content)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.folder / AUTHORITY}: {error}") from None
        return content

    @cached_property
    def key(self) -> keys.Key:
        """The operator's private key.

        Raises
        ------
        ConfigurationError
            If it is missing or malformed.
        """
        return keys.load(self.folder / KEY)
