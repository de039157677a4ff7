"""The matrix defect x check of docs/audit.md: `python -m tests.planted.matrix` prints it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import pytest

from tests.planted.defects import Defect
from tests.planted.test_planted import DEFECTS


def table(rows: Iterable[tuple[Defect, Sequence[str]]]) -> str:
    """Return the matrix in Markdown: what the audit must fail, and what failed beside it."""
    lines = ["| Defect | Caught by | Also failed |", "|---|---|---|"]
    for defect, failed in rows:
        named = ", ".join(f"`{name}`" for name in defect.checks)
        others = ", ".join(f"`{name}`" for name in failed if name not in defect.checks)
        lines.append(f"| {defect.name} | {named} | {others} |")
    return "\n".join(lines)


def main() -> None:
    """Plant every defect, audit, and print the matrix."""
    warnings.filterwarnings("ignore")
    rows = []
    for defect in DEFECTS:
        with pytest.MonkeyPatch.context() as monkeypatch:
            found = defect.audited(monkeypatch)
        missed = [name for name in defect.checks if name not in found.failed]
        if missed:
            raise SystemExit(f"{defect.name}: not caught by {', '.join(missed)}")
        rows.append((defect, found.failed))
        print(f"{len(rows)} of {len(DEFECTS)}", end="\r", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
