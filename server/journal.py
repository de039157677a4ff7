"""What a run has got so far, on disk: a server that was killed goes on where it was.

The server is a function of the plan and of the sums that it got, so these are what is kept: every
answered question in a file of its own, and the question that is being asked. A resumed run is done
again from its start, with the answers of the journal; not a message is sent for them. The question
that was open is asked again in the same words, so that a site which has answered it sends the same
release, and pays nothing.

A journal holds releases and public facts. Each file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dp_risk.privacy.plan import Plan
from dp_risk.types import ConfigurationError

SCHEMA_VERSION = 1
FOLDER, START, OPEN, END = "journal", "start.json", "open.safetensors", "end"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """Arrays, and what is said of them as JSON data."""

    about: Mapping[str, Any]
    arrays: Arrays = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a run started.

    Parameters
    ----------
    plan : Plan
        Its plan.
    statements : tuple of mapping
        What every site stated before it.
    enrolments : tuple of mapping
        What the sites of a secure sum signed for each other.
    sites : tuple of str
        Those that have accepted plan and partners; empty as long as that is not known.
    """

    plan: Plan
    statements: tuple[Mapping[str, Any], ...]
    enrolments: tuple[Mapping[str, Any], ...] = ()
    sites: tuple[str, ...] = ()


class Journal:
    """The journal of one run.

    Parameters
    ----------
    folder : Path or None
        The run folder; None keeps nothing.

    Raises
    ------
    ConfigurationError
        If there is a journal of a newer version.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / FOLDER
        self._number = 0
        self.kept = 0
        if self._folder is None:
            return
        self._folder.mkdir(exist_ok=True)
        for leftover in self._folder.glob("*.tmp"):
            leftover.unlink()
        while self._path(self.kept).exists():
            self.kept += 1

    @property
    def replaying(self) -> bool:
        """Whether the next question is answered by the journal."""
        return self._number < self.kept

    @property
    def number(self) -> int:
        """Number of the next question."""
        return self._number

    def start(self) -> Start | None:
        """Return how the run started; None where it is new."""
        if self._folder is None or not (self._folder / START).exists():
            return None
        path = self._folder / START
        try:
            content = json.loads(path.read_text())
            _check_version(path, content)
            return Start(
                plan=Plan.from_dict(content["plan"]),
                statements=tuple(content["statements"]),
                enrolments=tuple(content["enrolments"]),
                sites=tuple(content["sites"]),
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _damaged(path, error) from None

    def begin(self, start: Start) -> None:
        """Keep how a run starts: before any site is asked to pay, and when all have accepted."""
        if self._folder is None:
            return
        content = {
            "schema_version": SCHEMA_VERSION,
            "plan": start.plan.to_dict(),
            "statements": [dict(said) for said in start.statements],
            "enrolments": [dict(said) for said in start.enrolments],
            "sites": list(start.sites),
        }
        _write(self._folder / START, json.dumps(content, indent=1).encode())

    @property
    def ended(self) -> bool:
        """Whether the run is over, and only its end has to be told to the sites."""
        return self._folder is not None and (self._folder / END).exists()

    def end(self) -> None:
        """Keep that the run is over: nothing is asked of a site any more."""
        if self._folder is not None:
            _write(self._folder / END, b"")

    def last(self) -> Entry | None:
        """Return the last answer that was kept; None where there is none."""
        return _read(self._path(self.kept - 1)) if self.kept else None

    def next(self) -> Entry:
        """Return the answer to the next question, while `replaying`."""
        entry = _read(self._path(self._number))
        self._number += 1
        return entry

    def opened(self) -> Entry | None:
        """Return the question that was open when the server ended, if it is the next."""
        if self._folder is None or not (self._folder / OPEN).exists():
            return None
        entry = _read(self._folder / OPEN)
        return entry if entry.about.get("number") == self._number else None

    def open(self, entry: Entry) -> None:
        """Keep the question that is asked next."""
        if self._folder is not None:
            about = {**entry.about, "number": self._number}
            _write(self._folder / OPEN, _encoded(Entry(about=about, arrays=entry.arrays)))

    def answered(self, entry: Entry) -> None:
        """Keep an answer."""
        if self._folder is not None:
            _write(self._path(self._number), _encoded(entry))
        self._number += 1
        self.kept = self._number

    def _path(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:06d}.safetensors"


def _encoded(entry: Entry) -> bytes:
    about = {"schema_version": SCHEMA_VERSION, **entry.about}
    arrays = {name: np.ascontiguousarray(array) for name, array in entry.arrays.items()}
    return bytes(safetensors.numpy.save(arrays, metadata={"about": json.dumps(about)}))


def _read(path: Path) -> Entry:
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            _check_version(path, about)
            return Entry(about=about, arrays={name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    if int(content["schema_version"]) > SCHEMA_VERSION:
        raise ConfigurationError(f"{path}: written by a newer version of this program")


def _damaged(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{path}: the run's journal is damaged: {type(error).__name__}")


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
