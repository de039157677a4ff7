"""Ed25519 keys: made once, kept in a file, and signatures that name what they are for."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dp_risk.types import ConfigurationError

Key = Ed25519PrivateKey


def load(path: Path) -> Key:
    """Read a private key: 32 bytes in hexadecimal.

    Raises
    ------
    ConfigurationError
        If the file is missing or holds anything else; its content is never repeated.
    """
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text().strip()))
    except OSError as error:
        raise ConfigurationError(f"{path}: no readable key: {error.strerror}") from None
    except ValueError:
        raise ConfigurationError(f"{path}: not a key of 32 bytes in hexadecimal") from None


def load_or_create(path: Path) -> Key:
    """Read a private key, made on first use and readable by its owner alone.

    Of two processes that make it one wins and both return the winner's key.

    Raises
    ------
    ConfigurationError
        If the file holds no key, or cannot be written.
    """
    if not path.exists():
        write_once(path, Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")
    return load(path)


def write_once(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, unless it is there: the first writer wins.

    The file appears whole or not at all.

    Raises
    ------
    ConfigurationError
        If the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link never replaces a file that is there.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None


def public_hex(key: Key) -> str:
    """Return the public half in hexadecimal, 64 characters."""
    return key.public_key().public_bytes_raw().hex()


def _bound(context: str | None, message: bytes) -> bytes:
    if context is None:
        return message
    # No context holds a zero byte, so that no two pairs give the same bytes.
    if "\0" in context:
        raise ValueError("a context holds no zero byte")
    return context.encode() + b"\0" + message


def sign(key: Key, context: str, message: bytes) -> str:
    """Return the signature of a message for one use only, in hexadecimal.

    Parameters
    ----------
    key : Key
        The private key.
    context : str
        What the signature is for; one made for another context never verifies.
    message : bytes
        What is signed.
    """
    return key.sign(_bound(context, message)).hex()


def keyed_digest(key: Key, context: str, message: bytes) -> str:
    """Return the HMAC-SHA256 of a message, in hexadecimal: it tells nobody what it is of.

    Parameters
    ----------
    key : Key
        The private key, from which one for this context alone is derived.
    context : str
        What the digest is for.
    message : bytes
        What is digested; it may be easy to guess.
    """
    derived = hmac.digest(key.private_bytes_raw(), _bound(context, b""), hashlib.sha256)
    return hmac.digest(derived, message, hashlib.sha256).hex()


def verify(public: str, context: str | None, message: bytes, signature: str) -> bool:
    """Whether a signature holds; malformed keys and signatures do not.

    No context is for what older programs signed without one; nothing is signed so any more.
    """
    try:
        if (public, signature) != (public.lower(), signature.lower()):
            return False
        whole = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        whole.verify(bytes.fromhex(signature), _bound(context, message))
    except (InvalidSignature, ValueError):
        return False
    return True
