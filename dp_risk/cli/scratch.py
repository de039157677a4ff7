"""A place for simulated sites that are thrown away: gone when the command ends, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

_NAME = "dp-risk-scratch"
_TERMINATED = 143


@contextmanager
def scratch_place() -> Iterator[Path]:
    """Give a new folder, memory-backed where there is room; it is removed at the end.

    A command that is terminated removes it too. What a killed one left behind is removed by the
    next.
    """
    base = Path(_base() or tempfile.gettempdir())
    _sweep(base)
    with tempfile.TemporaryDirectory(prefix=f"{_NAME}-{os.getpid()}-", dir=base) as name:
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            yield Path(name)
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    raise SystemExit(_TERMINATED)


def _base() -> str | None:
    memory = Path("/dev/shm")
    try:
        roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    except OSError:
        return None
    return str(memory) if roomy else None


def _sweep(base: Path) -> None:
    """Remove this user's folders of processes that are gone."""
    for left in base.glob(f"{_NAME}-*-*"):
        process = left.name.removeprefix(f"{_NAME}-").partition("-")[0]
        with suppress(OSError, ValueError):
            if left.stat().st_uid == os.getuid() and not Path(f"/proc/{int(process)}").exists():
                shutil.rmtree(left)
