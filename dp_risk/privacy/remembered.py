"""Calibrated noise multipliers on disk, which nobody has to trust.

One JSON file of public numbers: what was asked and what was found. It saves a search, never a
check: `dp_risk.privacy.accounting.calibrate` prices what it reads, and every site prices a plan by
itself. A file that is damaged, foreign, too long or not to be written is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

_NAME = "calibrated.json"
_MOST_ENTRIES = 512
_MOST_BYTES = 1 << 20


def folder() -> Path:
    """Return `$XDG_CACHE_HOME/dp-risk`, or `~/.cache/dp-risk`."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dp-risk"


def _entries() -> dict[str, float]:
    # Not to be blocked by a pipe, nor filled by a file that never ends.
    descriptor = os.open(folder() / _NAME, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        entries = json.loads(file.read(_MOST_BYTES))
    if not isinstance(entries, dict):
        return {}
    return {key: value for key, value in entries.items() if isinstance(value, float)}


def recall(key: str) -> float | None:
    """Return what was kept under a key: any float whatever, or None."""
    try:
        return _entries().get(key)
    except (OSError, ValueError, RecursionError, RuntimeError):
        # RuntimeError: there is no home.
        return None


def keep(key: str, value: float) -> None:
    """Keep a number under a key, if that can be done; only the latest 512 are kept."""
    temporary = None
    try:
        folder().mkdir(parents=True, exist_ok=True)
        try:
            entries = _entries()
        except (OSError, ValueError, RecursionError):
            entries = {}
        entries.pop(key, None)
        kept = dict([*entries.items(), (key, value)][-_MOST_ENTRIES:])
        descriptor, temporary = tempfile.mkstemp(dir=folder())
        with os.fdopen(descriptor, "w") as file:
            json.dump(kept, file)
        os.replace(temporary, folder() / _NAME)
    except (OSError, RuntimeError):
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
