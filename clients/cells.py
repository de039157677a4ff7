"""The public cells of a histogram of holdout scores, as a server asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.coding import Coded, Coding
from dp_risk.data.groups import group_names, group_of
from dp_risk.evaluation.bins import checked_edges, score_cells
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import EVALUATION, MAX_CELLS, SUBGROUPS
from dp_risk.types import ConfigurationError, Refused


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Cells by label and bin, for each group of a column or for all units together.

    Parameters
    ----------
    edges : ndarray of float64, shape (bins - 1,)
        Inner edges of the bins, in logits, strictly increasing.
    column : str or None
        The column; None for all units together.
    groups : int
        Number of its groups; 1 without a column.
    """

    edges: NDArray[np.float64]
    column: str | None
    groups: int

    @classmethod
    def asked(
        cls, plan: Plan, purpose: str, edges: Any, column: Any, coding: Coding
    ) -> Cells | None:
        """Return the cells that a request asks for; None where its purpose has none.

        Nothing here depends on a row.

        Raises
        ------
        Refused
            If they are no cells, too many, of a column that the plan does not name, or come with a
            purpose that has none.
        """
        if (column is None) != (purpose != SUBGROUPS):
            raise Refused("a column goes with subgroups, and with nothing else")
        if purpose not in (EVALUATION, SUBGROUPS):
            if edges is not None:
                raise Refused("bins where none belong")
            return None
        if column is not None and column not in plan.subgroups:
            raise Refused("a column that the plan does not name")
        if not isinstance(edges, list) or not all(type(edge) is float for edge in edges):
            raise Refused("the edges of bins are a list of numbers")
        try:
            groups = 1 if column is None else len(group_names(coding, column))
            if not 1 <= len(edges) < MAX_CELLS // (2 * groups):
                raise Refused("too few bins, or too many")
            return cls(edges=checked_edges(edges), column=column, groups=groups)
        except ConfigurationError as error:
            raise Refused(str(error)) from None

    def __len__(self) -> int:
        return self.groups * 2 * (len(self.edges) + 1)

    def of(self, logits: NDArray[np.float64], rows: Coded, coding: Coding) -> NDArray[np.int64]:
        """Return the cell of each row, shape (n,): ``(group * 2 + label) * bins + bin``.

        -1 where a row has none: its logit is not finite, or its label or code is damaged.
        """
        cells = score_cells(self.edges, logits, rows.labels)
        if self.column is None:
            return cells
        group = group_of(coding, self.column, rows)
        inside = (cells >= 0) & (group >= 0) & (group < self.groups)
        return np.where(inside, group * (len(self) // self.groups) + cells, -1)
