"""A site that rotates its key and is killed at a numbered step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from clients.rotation import rotate
from clients.site import Site
from dp_risk.privacy.chain import Chain


def rotate_and_die(folder: Path, step: int) -> None:
    """Rotate, and be killed before the step of this number: a change of a file or of the ledger."""
    site, done = Site.open(folder), 0

    def counting(act: Any) -> Any:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal done
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return act(*arguments, **named)

        return counted

    Chain.change = counting(Chain.change)  # type: ignore[method-assign]
    for name in ("open", "link", "replace", "unlink", "fsync"):
        setattr(os, name, counting(getattr(os, name)))
    rotate(site, by="A. Person", reason="once a year")
