"""The runs of a federation, on disk: what waits, what is being done, what became of the rest.

`runs/<id>/` holds `job.json` (what was asked), `state.json` (what became of it, written by the
server alone), `progress.json` and `verdict.json` (written by the child that does the run) and
`run/`, the run folder. Whatever dies, the files say where to go on.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dp_risk.federation import files
from dp_risk.types import ConfigurationError
from server.job import Job

SCHEMA_VERSION = 1
QUEUED, RUNNING, FINISHED, FAILED, STOPPED = "queued", "running", "finished", "failed", "stopped"
STATES = (QUEUED, RUNNING, FINISHED, FAILED, STOPPED)
VERDICTS = (FINISHED, FAILED, STOPPED)
_ID = re.compile(r"[0-9a-z][0-9a-z-]{0,63}")
_JOB, _STATE, _PROGRESS, _VERDICT = "job.json", "state.json", "progress.json", "verdict.json"
_FOLDER, _CONFIG, _ROUNDS = "run", "config.yaml", "rounds.jsonl"
# What a client asks for at once of a run's rounds.
_MOST_BYTES = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run and what became of it.

    Parameters
    ----------
    run : str
        Its id.
    state : str
        One of `STATES`.
    operator : str
        Who asked for it.
    submitted : str
        When, ISO 8601.
    reason : str or None
        Why it failed, or what holds it up.
    starts : int
        How often a child was started for it.
    stop : bool
        Whether it is to be stopped.
    exit_code : int or None
        Of a run that failed, as the command line knows it.
    """

    run: str
    state: str
    operator: str
    submitted: str
    reason: str | None = None
    starts: int = 0
    stop: bool = False
    exit_code: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in VERDICTS


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a child says at the end of a run: one of `VERDICTS`, and why."""

    state: str
    reason: str | None = None
    exit_code: int | None = None


class Queue:
    """The runs of a federation.

    Parameters
    ----------
    folder : Path
        `runs` of the federation's folder.
    memory : Path
        Where the server keeps the heads of ledgers that it has seen.
    """

    def __init__(self, folder: Path, memory: Path) -> None:
        self.folder = folder
        self._memory = memory

    def tidy(self) -> None:
        """Remove what a killed server left half done; for the one that takes its place."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(".*.tmp"):
            shutil.rmtree(leftover)

    def submit(
        self,
        run: str,
        job: Mapping[str, Any],
        config: str,
        operator: str,
        *,
        check: Callable[[Job], None],
    ) -> Entry:
        """Put a run in the queue; the same one again changes nothing.

        Parameters
        ----------
        run : str
            Id that the operator chose: 1 to 64 digits, small letters and dashes.
        job : mapping
            The fields of a `Job` but those that the server sets: its run, paths and journal.
        config : str
            The resolved configuration, for the run folder.
        operator : str
            Who asks.
        check : callable
            Raises where a new job is not one for this federation.

        Raises
        ------
        ConfigurationError
            If it is no job, or the id stands for another one.
        """
        if not _ID.fullmatch(run):
            raise ConfigurationError("run: not an id of small letters, digits and dashes")
        asked = {"schema_version": SCHEMA_VERSION, "job": dict(job), "config": config}
        asked_job = self._job(run, asked)
        place = self.folder / run
        if place.exists():
            if _read(place / _JOB) != json.loads(json.dumps(asked)):
                raise ConfigurationError(f"run: {run} is another run already")
            return self.entry(run)
        check(asked_job)
        now = datetime.datetime.now(datetime.UTC).isoformat()
        entry = Entry(run=run, state=QUEUED, operator=operator, submitted=now)
        made = self.folder / f".{run}.tmp"
        # A disk that was full may have left a part of it.
        shutil.rmtree(made, ignore_errors=True)
        (made / _FOLDER).mkdir(parents=True)
        (made / _FOLDER / _CONFIG).write_text(config)
        write(made / _JOB, asked)
        write(made / _STATE, asdict(entry))
        os.replace(made, place)
        return entry

    def entries(self) -> list[Entry]:
        """Return all runs, the oldest first."""
        names = [path.parent.name for path in self.folder.glob(f"*/{_STATE}")]
        return sorted(map(self.entry, names), key=lambda entry: (entry.submitted, entry.run))

    def entry(self, run: str) -> Entry:
        """Return a run.

        Raises
        ------
        ConfigurationError
            If there is none of this id, or its files are damaged.
        """
        if not _ID.fullmatch(run) or not (self.folder / run / _STATE).is_file():
            raise ConfigurationError("run: no run of this id")
        try:
            return Entry(**_read(self.folder / run / _STATE))
        except TypeError:
            raise ConfigurationError(f"{self.folder / run / _STATE}: damaged") from None

    def next(self) -> Entry | None:
        """Return the run to do now: the one that was begun, else the one that waits longest."""
        waiting = [entry for entry in self.entries() if not entry.over]
        begun = [entry for entry in waiting if entry.state == RUNNING]
        return next(iter(begun or waiting), None)

    def change(self, run: str, **changes: Any) -> Entry:
        """Change what is kept of a run."""
        entry = replace(self.entry(run), **changes)
        write(self.folder / run / _STATE, asdict(entry))
        return entry

    def stop(self, run: str) -> Entry:
        """Ask for a run to be stopped; one that has not begun is over at once."""
        entry = self.entry(run)
        if entry.over:
            return entry
        if entry.state == QUEUED:
            return self.change(run, state=STOPPED, stop=True, reason="stopped before it began")
        return self.change(run, stop=True)

    def run_folder(self, run: str) -> Path:
        """Return the run folder."""
        return self.folder / run / _FOLDER

    def job(self, run: str) -> Job:
        """Return the job of a run.

        Raises
        ------
        ConfigurationError
            If it is damaged.
        """
        return self._job(run, _read(self.folder / run / _JOB))

    def _job(self, run: str, asked: Mapping[str, Any]) -> Job:
        mine = {
            "run": run,
            "folder": str(self.run_folder(run).resolve()),
            "memory": str(self._memory.resolve()),
            "start": None,
            "roster": None,
            "resumable": True,
        }
        foreign = sorted(set(mine) & set(asked["job"]))
        if foreign:
            raise ConfigurationError(f"job: {foreign[0]} is set by the server")
        return Job.from_json(json.dumps({**asked["job"], **mine}))

    def note(self, run: str, progress: Mapping[str, Any]) -> None:
        """Keep how far a run is: `round`, `rounds` and `epsilon_spent`."""
        write(self.folder / run / _PROGRESS, progress)

    def progress(self, run: str) -> dict[str, Any]:
        """Return what `note` kept last; nothing where it kept nothing."""
        path = self.folder / run / _PROGRESS
        return _read(path) if path.exists() else {}

    def judge(self, run: str, verdict: Verdict) -> None:
        """Keep the verdict of a child."""
        write(self.folder / run / _VERDICT, asdict(verdict))

    def verdict(self, run: str) -> Verdict | None:
        """Return the verdict of a child; None where there is none."""
        path = self.folder / run / _VERDICT
        return Verdict(**_read(path)) if path.exists() else None

    def rounds(self, run: str, offset: int) -> tuple[list[Any], int]:
        """Return the rounds that were logged after `offset` bytes, and the offset after them."""
        path = self.run_folder(run) / _ROUNDS
        if not path.exists():
            return [], 0
        with path.open("rb") as file:
            # A resumed run writes its log anew.
            size = file.seek(0, os.SEEK_END)
            start = file.seek(offset if offset <= size else 0)
            text = file.read(_MOST_BYTES)
        whole = text[: text.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], start + len(whole)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, atomically."""
    files.write(path, json.dumps(content, indent=1, default=str) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: damaged: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path}: damaged: no mapping")
    return found
