"""Files that appear whole or not at all, and YAML that says what its fields mean."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from dp_risk.types import ConfigurationError

MOST_BYTES = 4 << 20
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}")


class _Blocks(yaml.SafeDumper):
    """Writes text of several lines as lines."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Only where white space behind it changes nothing.
    style = "|" if value[:-1] and value[:-1].strip() + "\n" == value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Blocks.add_representer(str, _text)


def write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file in the place of an older one, if any; a reader sees one of the two, whole.

    Parameters
    ----------
    path : Path
        The file.
    content : str or bytes
        All of it.
    mode : int
        Its permissions from the first byte on; 0o600 for a secret.
    """
    whole = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder while it is changed, after whoever else does; the lock goes with the process.

    Raises
    ------
    ConfigurationError
        If it is no folder that can be read.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise ConfigurationError(f"no such folder: {folder}") from None
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from None
    try:
        # Some network file systems lock no folders.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def tidy(folder: Path) -> None:
    """Remove what killed writers of files left; for a folder that nobody else writes to."""
    for path in folder.glob(".*"):
        if unfinished(path.name):
            path.unlink()


def unfinished(name: str) -> bool:
    """Whether a file has a name that a writer gives it until it is whole."""
    return _UNFINISHED.fullmatch(name) is not None


def read(path: Path) -> bytes:
    """Read a small file.

    Raises
    ------
    ConfigurationError
        If it is missing, unreadable or above 4 MiB.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"{path}: larger than {MOST_BYTES >> 20} MiB")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty one.

    Raises
    ------
    ConfigurationError
        If it cannot be read or is no mapping with names.
    """
    try:
        content = yaml.safe_load(read(path))
    except (yaml.YAMLError, UnicodeError, ValueError, RecursionError):
        raise ConfigurationError(f"{path}: not readable as YAML") from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigurationError(f"{path}: not a mapping with names")
    return content


def commented(title: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Return YAML with a title and a comment above every field that has one."""

    def comment(text: str) -> list[str]:
        return textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")

    lines = [*comment(title), ""]
    for name, value in values.items():
        lines += comment(comments.get(name, ""))
        lines += [yaml.dump({name: value}, Dumper=_Blocks, sort_keys=False, width=96).rstrip(), ""]
    return "\n".join(lines)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes its name at the end, or is gone after an error.

    What a killed predecessor left is removed first.

    Raises
    ------
    ConfigurationError
        If the folder exists and holds anything.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigurationError(f"{folder}: exists already")
    made = folder.absolute().parent / f".{folder.name}.unfinished"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True, mode=0o700)
    try:
        yield made
        made.chmod(0o755)
        os.rename(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
