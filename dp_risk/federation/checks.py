"""What a field of a letter, roster or configuration may hold."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from typing import Any

from dp_risk.types import ConfigurationError

_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)


def name(value: Any, where: str) -> str:
    """Return a name: 1 to 100 letters, digits, points, dashes; the first is no point or dash.

    Raises
    ------
    ConfigurationError
        If it is none; so do the others of this file.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(
            f"{where}: not a name of 1 to 100 letters, digits, points and dashes"
        )
    return value


def hexadecimal(value: Any, where: str) -> str:
    """Return an Ed25519 public key or a SHA-256: 64 hexadecimal digits in lower case."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ConfigurationError(f"{where}: not 64 hexadecimal digits in lower case")
    return value


def text(value: Any, where: str, most: int) -> str:
    """Return a text of at most `most` characters."""
    if not isinstance(value, str) or len(value) > most:
        raise ConfigurationError(f"{where}: not a text of at most {most} characters")
    return value


def truth(value: Any, where: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where}: neither true nor false")
    return value


def whole(value: Any, where: str, least: int, most: int) -> int:
    """Return a whole number in [least, most]."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigurationError(f"{where}: not a whole number from {least} to {most}")
    return value


def fraction(value: Any, where: str) -> float:
    """Return a number in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{where}: not a number")
    if not (math.isfinite(value) and 0 < value < 1):
        raise ConfigurationError(f"{where}: not between 0 and 1")
    return float(value)


def host(value: Any, where: str) -> str:
    """Return a host's name in lower case, or an IP address in its shortest form."""
    said = text(value, where, 253).lower()
    try:
        found = ipaddress.ip_address(said)
    except ValueError:
        # What looks like a number and is no address is no name either.
        if said.replace(".", "").isdigit() or not all(map(_LABEL.fullmatch, said.split("."))):
            raise ConfigurationError(f"{where}: neither a host's name nor an IP address") from None
        return said
    if found.is_unspecified:
        raise ConfigurationError(f"{where}: {found} is every interface, not where a site connects")
    return str(found)


def address(value: Any, where: str) -> str:
    """Return HOST:PORT, with brackets around an IPv6 address."""
    at, _, port = text(value, where, 300).rpartition(":")
    bare = at[1:-1] if at.startswith("[") and at.endswith("]") else at
    if not re.fullmatch(r"[1-9][0-9]{0,4}", port) or value != join(host(bare, where), int(port)):
        raise ConfigurationError(f"{where}: not HOST:PORT")
    return str(value)


def join(host: str, port: int) -> str:
    """Return HOST:PORT.

    Raises
    ------
    ConfigurationError
        If the port is not in [1, 65535].
    """
    whole(port, "port", 1, 65535)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fields(value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    """Return a mapping that has exactly these fields."""
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where}: not a mapping")
    for field in value:
        if field not in known:
            # The name is foreign: it may hold anything.
            raise ConfigurationError(f"{where}: unknown field {str(field)[:40]!r}")
    for field in known:
        if field not in value:
            raise ConfigurationError(f"{where}: {field} is missing")
    return value


def fingerprint(content: bytes) -> str:
    """Return 128 bits of a SHA-256 in groups of four digits, to be compared by telephone."""
    said = hashlib.sha256(content).hexdigest()[:32]
    return " ".join(said[start : start + 4] for start in range(0, 32, 4))
