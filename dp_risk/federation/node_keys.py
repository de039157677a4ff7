"""Keys with which a site's node proves to the server who it is: ECDSA over P-384.

The bytes are those that Flower's node authentication sends and compares: PEM, PKCS #8 without a
password for the private half, SubjectPublicKeyInfo for the public one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dp_risk.federation import files
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError

NodeKey = ec.EllipticCurvePrivateKey
_MOST_CHARACTERS = 400


def load_or_create(path: Path) -> NodeKey:
    """Read a node's private key, made on first use and readable by its owner alone.

    Raises
    ------
    ConfigurationError
        If the file holds no such key; its content is never repeated.
    """
    if not path.exists():
        keys.write_once(path, _new())
    return load(path)


def replace(path: Path) -> None:
    """Make another private key for a node, in the place of the one that is there."""
    files.write(path, _new(), mode=0o600)


def _new() -> str:
    made = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return made.decode()


def load(path: Path) -> NodeKey:
    """Read a node's private key.

    Raises
    ------
    ConfigurationError
        If the file is missing or holds anything else; its content is never repeated.
    """
    try:
        key = serialization.load_pem_private_key(files.read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _fits(key.curve):
        raise ConfigurationError(f"{path}: not a private key of a node (ECDSA P-384, PEM)")
    return key


def public_text(key: NodeKey) -> str:
    """Return the public half as PEM, about 215 characters; `.encode()` gives Flower's bytes."""
    return _pem(key.public_key())


def checked(value: Any, where: str) -> str:
    """Return a public key as PEM, spelt in the one way that Flower spells it.

    Raises
    ------
    ConfigurationError
        If it is anything else.
    """
    wrong = ConfigurationError(f"{where}: not a public key of a node (ECDSA P-384, PEM)")
    if not isinstance(value, str) or len(value) > _MOST_CHARACTERS or not value.isascii():
        raise wrong
    try:
        key = serialization.load_pem_public_key(value.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise wrong from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _fits(key.curve):
        raise wrong
    # Another spelling of a key would be another one to whoever compares bytes.
    if _pem(key) != value:
        raise wrong
    return value


def _fits(curve: ec.EllipticCurve) -> bool:
    return isinstance(curve, ec.SECP384R1)


def _pem(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()
