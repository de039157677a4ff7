"""Which code and which versions made a run, and what it took."""

from __future__ import annotations

import platform
import resource
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("dp-risk", "torch", "opacus", "flwr", "numpy", "dp-accounting", "hydra-core")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    out = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def commit() -> str | None:
    """Return the commit of a checkout ("-dirty" where files changed), or None."""
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False
        )
        if tracked.returncode:
            return None
        head = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
