"""Every planted defect is caught by the check that is named for it; honest runs pass."""

from __future__ import annotations

import pytest

from tests.planted import corners, data, evaluator, ledger, site, sums, trainer
from tests.planted.defects import Defect, audited

DEFECTS = (
    *trainer.DEFECTS,
    *data.DEFECTS,
    *site.DEFECTS,
    *evaluator.DEFECTS,
    *ledger.DEFECTS,
    *sums.DEFECTS,
    *corners.DEFECTS,
)


@pytest.mark.parametrize(
    "defect",
    [
        pytest.param(defect, id=defect.name, marks=() if defect.fast else pytest.mark.slow)
        for defect in DEFECTS
    ],
)
def test_a_planted_defect_is_caught_by_name(
    defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = defect.audited(monkeypatch)
    assert set(defect.checks) <= set(found.failed), found.checks


def test_an_honest_trainer_is_not_falsified() -> None:
    assert audited(()).failed == ()
