from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cells import Cells
from dp_risk.data.coding import Coded
from dp_risk.data.groups import group_names, group_of
from dp_risk.privacy.schedule import EVALUATION, MAX_CELLS, SUBGROUPS, TRAINING
from dp_risk.types import Refused
from tests.federation import coding, plan, rows

CODING = coding()
PLAN = plan(subgroups=("kind", "age"), subgroups_noise=9.0, evaluation_noise=9.0)
EDGES = [-1.0, 0.5]


def asked(column: str | None) -> Cells:
    cells = Cells.asked(PLAN, SUBGROUPS if column else EVALUATION, EDGES, column, CODING)
    assert cells is not None
    return cells


@pytest.mark.parametrize("column", ["kind", "age"])
def test_a_row_is_in_the_cell_of_its_group_label_and_bin(column: str) -> None:
    table = CODING.encode(rows(200))
    logits = np.linspace(-3, 3, 200)
    cells = asked(column)
    names = group_names(CODING, column)
    found = cells.of(logits, table, CODING)
    assert len(cells) == len(names) * 2 * 3
    group, rest = np.divmod(found, 6)
    label, bin = np.divmod(rest, 3)
    assert (group == group_of(CODING, column, table)).all()
    assert (label == table.labels).all()
    assert (bin == np.searchsorted(EDGES, logits, side="right")).all()
    # All groups together are the cells without a column.
    assert (rest == asked(None).of(logits, table, CODING)).all()


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, 2.0, float("nan")]),
    st.sampled_from(["kind", "age"]),
)
@settings(max_examples=200, deadline=None)
def test_damaged_rows_are_in_one_cell_at_most(
    codes: list[int], logit: float, label: float, column: str
) -> None:
    n = len(codes)
    damaged = Coded(
        codes=np.repeat(np.array(codes, dtype=np.int64)[:, None], len(CODING.slot_names), axis=1),
        values=np.zeros((n, 1)),
        labels=np.full(n, label),
        ids=np.array([str(i).encode() for i in range(n)]),
    )
    cells = asked(column)
    found = cells.of(np.full(n, logit), damaged, CODING)
    assert found.shape == (n,)
    assert ((found >= -1) & (found < len(cells))).all()


def test_nothing_is_asked_of_a_purpose_without_cells() -> None:
    assert Cells.asked(PLAN, TRAINING, None, None, CODING) is None
    for edges, column in ((EDGES, None), (None, "kind"), (EDGES, "kind")):
        with pytest.raises(Refused):
            Cells.asked(PLAN, TRAINING, edges, column, CODING)


def test_cells_never_exceed_what_the_noise_is_made_for() -> None:
    for column in (None, "kind", "age"):
        groups = 1 if column is None else len(group_names(CODING, column))
        purpose = SUBGROUPS if column else EVALUATION
        most = MAX_CELLS // (2 * groups) - 1
        full = Cells.asked(PLAN, purpose, [float(n) for n in range(most)], column, CODING)
        assert full is not None
        assert MAX_CELLS - 2 * groups < len(full) <= MAX_CELLS
        with pytest.raises(Refused):
            Cells.asked(PLAN, purpose, [float(n) for n in range(most + 1)], column, CODING)
