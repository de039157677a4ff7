"""The matrix defect x check of docs/audit.md: `python -m tests.planted.matrix` prints it."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import pytest

from tests.planted.defects import Defect
from tests.planted.test_planted import DEFECTS


def row(defect: Defect, failed: Sequence[str]) -> str:
    """Return the line of one defect."""
    named = ", ".join(f"`{name}`" for name in defect.checks)
    others = ", ".join(f"`{name}`" for name in failed if name not in defect.checks)
    return f"| {defect.name} | {named} | {others} |"


def main() -> None:
    """Plant every defect, audit, and print the matrix."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first defect, from 0")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print("| Defect | Caught by | Also failed |\n|---|---|---|")
    for defect in DEFECTS[options.first :]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            found = defect.audited(monkeypatch)
        missed = [name for name in defect.checks if name not in found.failed]
        if missed:
            raise SystemExit(f"{defect.name}: not caught by {', '.join(missed)}")
        print(row(defect, found.failed), flush=True)


if __name__ == "__main__":
    main()
