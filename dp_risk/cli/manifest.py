"""The manifest of a run folder: digests of all its files, signed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dp_risk.cli.folders import read_json
from dp_risk.federation.files import unfinished, write
from dp_risk.privacy import keys as keyring
from dp_risk.privacy.release import canonical
from dp_risk.types import ConfigurationError, VerificationError

MANIFEST = "manifest.json"
_VERSION = 2
_CONTEXT = "dp-risk run"
# Far above what a run leaves: checked before anything is read.
_DEEPEST = 20
_MOST_BYTES, _MOST_TEXT = 4 << 30, 256 << 20
_WEIGHTS = ".safetensors"


def signing_key() -> keyring.Key:
    """Return this user's signing key, made on first use."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return keyring.load_or_create(home / "dp-risk" / "signing.key")


def sign(folder: Path, key: keyring.Key | None = None) -> None:
    """Write `manifest.json`: digests of all other files, signed with a key, else this user's."""
    digests = {name: _digest(folder / name) for name in sorted(_files(folder), key=Path)}
    key = key or signing_key()
    body = {
        "schema_version": _VERSION,
        "files": digests,
        "public_key": keyring.public_hex(key),
    }
    signature = keyring.sign(key, _CONTEXT, canonical(body))
    write(folder / MANIFEST, _text({**body, "signature": signature}))


@contextmanager
def _readable() -> Iterator[None]:
    """Say in one line what of a folder cannot be read: it would not be seen."""
    try:
        yield
    except OSError as error:
        raise VerificationError(f"{error.filename}: {error.strerror}") from None


@_readable()
def _files(folder: Path) -> set[str]:
    """Return the names of all files but the manifest, from the folder on.

    Raises
    ------
    VerificationError
        If anything is no plain file or folder: a link leads out of what is signed, and a pipe or a
        device never ends. If anything cannot be read, is larger than a run leaves, or lies deeper.
    """
    found, left = set(), _MOST_BYTES
    for place, folders, names in os.walk(folder, onerror=_raise):
        if len(Path(place).relative_to(folder).parts) > _DEEPEST:
            raise VerificationError(f"{folder}: folders in it nest deeper than {_DEEPEST}")
        for path in (Path(place, name) for name in (*folders, *names)):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                left -= status.st_size
                if left < 0 or (status.st_size > _MOST_TEXT and path.suffix != _WEIGHTS):
                    raise VerificationError(f"{path}: larger than a file of a run folder can be")
                found.add(str(path.relative_to(folder)))
            elif not stat.S_ISDIR(status.st_mode):
                raise VerificationError(f"{path}: neither a plain file nor a folder")
    return found - {MANIFEST}


def _raise(error: OSError) -> None:
    raise error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(manifest: dict[str, Any]) -> str:
    files = {name: manifest["files"][name] for name in sorted(manifest["files"], key=Path)}
    order = ("schema_version", "files", "public_key", "signature")
    whole = {**{name: manifest[name] for name in order}, "files": files}
    return json.dumps(whole, indent=2) + "\n"


def _signed(manifest: dict[str, Any]) -> bool:
    body = {name: value for name, value in manifest.items() if name != "signature"}
    public, signature = body["public_key"], manifest["signature"]
    if manifest["schema_version"] == 1:
        # Version 1 signed without a context and without the key, and wrote base64.
        old = {"schema_version": 1, "files": body["files"]}
        bare = base64.b64decode(signature).hex()
        return keyring.verify(public, None, canonical(old), bare)
    return keyring.verify(public, _CONTEXT, canonical(body), signature)


def trusted(keys: Path, public: str) -> bool:
    """Whether a public key is in a file of trusted ones, one in hexadecimal a line.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    try:
        words = keys.read_text().split()
    except OSError as error:
        raise ConfigurationError(f"{keys}: {error.strerror}") from None
    except ValueError:
        words = []
    found = {word for word in words if len(word) == 64 and set(word) <= set("0123456789abcdef")}
    if not found:
        raise ConfigurationError(f"{keys}: holds no public key of 64 hexadecimal digits")
    return public in found


@_readable()
def check_unchanged(folder: Path, *, but: Sequence[str] = ()) -> dict[str, Any]:
    """Compare a run folder with its signed manifest; return the manifest.

    Parameters
    ----------
    folder : Path
        The run folder.
    but : sequence of str
        Patterns of files that may differ, from the run folder on; `*` is any depth.

    Raises
    ------
    ConfigurationError
        If there is no manifest.
    VerificationError
        Naming the first thing that does not hold.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise ConfigurationError(f"no such folder: {folder}")
    if not path.exists():
        raise ConfigurationError(f"{path}: missing, or not an artefact of dp-risk")
    # Before anything is read: a pipe in the place of a file would never end.
    there, whole = _files(folder), path.read_bytes()
    try:
        manifest = read_json(path, newest=_VERSION)
        good = whole == _text(manifest).encode() and _signed(manifest)
        files = dict(manifest["files"])
    except (
        ConfigurationError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
    ):
        good = False
    if not good:
        raise VerificationError(f"{path}: changed since it was signed: the signature does not hold")
    names = (n for n in set(files) | there if not any(fnmatchcase(n, one) for one in but))
    for name in sorted(names):
        if name not in there:
            raise VerificationError(f"{folder / name}: missing")
        if name not in files:
            why = (
                "unfinished: run dp-risk report again"
                if unfinished(name)
                else "not in the manifest"
            )
            raise VerificationError(f"{folder / name}: {why}")
        if _digest(folder / name) != files[name]:
            raise VerificationError(f"{folder / name}: changed since it was signed")
    return manifest
