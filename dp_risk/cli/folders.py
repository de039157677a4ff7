"""Run folders: made, kept empty until they are used, and read."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dp_risk.types import ConfigurationError

SCHEMA_VERSION = 1


def run_folder(asked: str | None, verb: str, job: int | None) -> Path:
    """Return a new, empty run folder.

    Raises
    ------
    ConfigurationError
        If the folder holds something already.
    """
    if asked is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / f"{now}-{verb}"
    else:
        folder = Path(asked)
    if job is not None:
        folder = folder / str(job) if asked else folder.with_name(f"{folder.name}-{job}")
    number, wanted = 1, folder
    while asked is None and folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    check_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"run.dir: {folder}: {error.strerror}") from None
    return folder


def check_empty(folder: Path) -> None:
    """Refuse a run folder that holds something.

    Raises
    ------
    ConfigurationError
        If it does, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"run.dir: {folder} is not empty; choose another, or leave it out")


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a run folder that nothing useful was written to when a run fails."""
    try:
        yield
    except BaseException:
        if not any((folder / name).exists() for name in ("run.json", "audit.json")):
            for name in ("config.yaml", "rounds.jsonl"):
                (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise


def printable(text: str) -> str:
    """Return what others wrote without what would move or end a line of a terminal."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def parse(text: str) -> Any:
    """Read JSON that says everything once: of two equal names, readers take either.

    Raises
    ------
    ValueError
        If it is no JSON, or names something twice.
    """
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def read_json(path: Path, newest: int = SCHEMA_VERSION) -> dict[str, Any]:
    """Read an artefact of a version up to `newest`.

    Raises
    ------
    ConfigurationError
        If it is missing, malformed, or of a newer version.
    """
    try:
        data = parse(path.read_text())
        version = data["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ConfigurationError(f"{path}: missing, or not an artefact of dp-risk") from None
    if type(version) is not int:
        raise ConfigurationError(f"{path}: its schema_version is no number")
    if version > newest:
        raise ConfigurationError(
            f"{path}: version {version} is newer than this program understands ({newest})"
        )
    return dict(data)
