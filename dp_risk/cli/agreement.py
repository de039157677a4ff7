"""Whether `report.json` says what the files beside it say: its facts are made again from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from dp_risk.cli import artefacts
from dp_risk.types import VerificationError

# Words about the facts: another version of the program may put them otherwise.
_WORDS = frozenset(
    {
        "title", "claim", "not_private", "not_audited", "residual", "unprotected", "words",
        "verdict_words", "utility_words", "budget_words", "notes", "label",
    }
)  # fmt: skip
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12


def check(folder: Path, report: Mapping[str, Any]) -> str | None:
    """Compare a report with the facts of its folder.

    Parameters
    ----------
    folder : Path
        The folder of a run, a frontier or an audit.
    report : mapping
        `report.json` of this version.

    Returns
    -------
    str or None
        The first place that this program words otherwise; None where there is none.

    Raises
    ------
    VerificationError
        Naming the first place where they differ in more than words.
    """
    if report["kind"] == "audit":
        expected = artefacts.audit_facts(folder, report["versions"], report["commit"])
    else:
        expected = artefacts.facts(folder)
    said = {k: v for k, v in report.items() if k != artefacts.SIGNATURE}
    place = _differs(said, expected, "", skip=_WORDS)
    if place is not None:
        raise VerificationError(f"{place}: not what the files beside it say")
    return _differs(said, expected, "", skip=frozenset())


def _differs(said: Any, expected: Any, place: str, *, skip: Set[str]) -> str | None:
    """Return the first place where two values differ, as a JSON pointer; None where none does."""
    if isinstance(said, Mapping) and isinstance(expected, Mapping):
        # What only a newer program says is not missing.
        for name in sorted(set(said) - skip):
            inside = f"{place}/{name}"
            if name not in expected:
                return inside
            found = _differs(said[name], expected[name], inside, skip=skip)
            if found is not None:
                return found
        return None
    if isinstance(said, list) and isinstance(expected, list | tuple):
        if len(said) != len(expected):
            return place
        for number, (one, other) in enumerate(zip(said, expected, strict=True)):
            found = _differs(one, other, f"{place}/{number}", skip=skip)
            if found is not None:
                return found
        return None
    return None if _same(said, expected) else place


def _same(said: Any, expected: Any) -> bool:
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (said, expected)]
    if all(numbers):
        # Another machine may round the last digits of what is computed again otherwise.
        return math.isclose(said, expected, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    return type(said) is type(expected) and bool(said == expected)
