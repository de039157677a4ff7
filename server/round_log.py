"""`rounds.jsonl`: one line a round of training; a resumed run goes on below its last whole line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RoundLog:
    """The log of one run.

    Parameters
    ----------
    path : Path
        The file.
    resumed : bool
        Whether its lines are kept. What a kill cut off is not a line.
    """

    def __init__(self, path: Path, *, resumed: bool) -> None:
        self._path = path
        self._started = time.monotonic()
        self._before = 0.0
        self._lines = 0
        text = path.read_text() if resumed and path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        for line in whole.splitlines():
            self._before = float(json.loads(line)["seconds"])
            self._lines += 1
        if whole != text:
            os.truncate(path, len(whole.encode()))
        elif not resumed:
            path.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, without those in which nobody served it."""
        return round(self._before + time.monotonic() - self._started, 3)

    def holds(self, number: int) -> bool:
        """Whether the round with this number, from 0, was logged before the server was killed."""
        return number < self._lines

    def write(self, line: Mapping[str, Any]) -> None:
        """Add the line of a round."""
        with self._path.open("a") as handle:
            handle.write(json.dumps(dict(line)) + "\n")
