"""The matrix of docs/audit.md has a row for every planted defect, and a check in every row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted.defects import Defect
from tests.planted.matrix import row
from tests.planted.test_planted import DEFECTS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_planted_defect_has_its_row(defect: Defect) -> None:
    assert defect.checks
    caught = row(defect, ()).rsplit("|", 2)[0]
    assert any(line.startswith(caught) for line in PAGE.splitlines()), caught


def test_no_two_defects_have_one_name() -> None:
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
