"""What every site of a federation and its server agree on before anything else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from dp_risk.federation import checks
from dp_risk.types import ConfigurationError, Unit


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a federation is about.

    Parameters
    ----------
    dataset : str
        Dataset id: names the ledgers' accounts.
    schema : str
        Digest of the public schema, 64 hexadecimal digits.
    unit : str
        "record" or "account".
    delta : float
        In (0, 1).

    Raises
    ------
    ConfigurationError
        If a value is malformed.
    """

    dataset: str
    schema: str
    unit: str
    delta: float

    def __post_init__(self) -> None:
        checks.name(self.dataset, "dataset")
        checks.hexadecimal(self.schema, "schema")
        if not isinstance(self.unit, str) or self.unit not in list(Unit):
            raise ConfigurationError("unit: neither record nor account")
        checks.fraction(self.delta, "delta")

    @classmethod
    def from_dict(cls, value: Any, where: str) -> Agreement:
        """Read what `to_dict` wrote.

        Raises
        ------
        ConfigurationError
            If a field is missing, unknown or malformed.
        """
        names = tuple(field.name for field in dataclasses.fields(cls))
        said = checks.fields(value, where, names)
        try:
            return cls(**said)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON data."""
        return {**dataclasses.asdict(self), "unit": str(self.unit), "delta": float(self.delta)}

    def differences(self, other: Agreement) -> list[str]:
        """Return a line for every field in which another one differs: `its here, theirs there`."""
        found = []
        for name, mine in self.to_dict().items():
            theirs = other.to_dict()[name]
            if mine != theirs:
                short = (mine[:12], theirs[:12]) if name == "schema" else (mine, theirs)
                found.append(f"{name} {short[1]} instead of {short[0]}")
        return found
