"""What a site knows of the federation that it joined."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dp_risk.federation import files
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.letters import FederationLetter
from dp_risk.federation.roster import Roster
from dp_risk.types import ConfigurationError

LETTER, AUTHORITY, NODE_KEY, SITE_LETTER = (
    "federation.json",
    "authority.crt",
    "node.key",
    "site.json",
)


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A site's side of a federation.

    Parameters
    ----------
    folder : Path
        The site's folder.
    name, address : str
        Of the federation; HOST:PORT.
    insecure : bool
        Whether its server has no certificate.
    authority : bytes or None
        Certificate of its authority (PEM); None where insecure.
    key : str
        Its public key, 64 hexadecimal digits.
    agreed : Agreement
        Dataset, schema, unit and delta.
    roster : Roster
        Who takes part, as the letter said.
    """

    folder: Path
    name: str
    address: str
    insecure: bool
    authority: bytes | None
    key: str
    agreed: Agreement
    roster: Roster

    @classmethod
    def load(cls, folder: Path) -> Membership:
        """Read what a site's folder holds of its federation.

        Raises
        ------
        ConfigurationError
            If the site has not joined, or the letter is malformed.
        VerificationError
            If the letter was changed.
        """
        path = folder / LETTER
        if not path.exists():
            raise ConfigurationError(
                f"{folder}: this site has joined no federation: `dp-risk site join {folder} "
                f"{LETTER}`"
            )
        letter = FederationLetter.read(files.read(path), str(path))
        return cls(
            folder=folder,
            name=letter.name,
            address=letter.address,
            insecure=letter.insecure,
            authority=None if letter.authority is None else letter.authority.encode(),
            key=letter.key,
            agreed=letter.agreed,
            roster=letter.roster,
        )

    @property
    def node_key(self) -> Path:
        """File of the node's private key (ECDSA P-384, PEM)."""
        return self.folder / NODE_KEY

    @property
    def url(self) -> str:
        """The server's address as a URL."""
        return f"{'http' if self.insecure else 'https'}://{self.address}"
