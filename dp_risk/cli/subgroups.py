"""Utility by subgroup: which runs can have it, and its exact form on public data."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.cli.settings import Deployment, Settings
from dp_risk.data.coding import Coded, Coding
from dp_risk.data.groups import MISSING, OTHER, check_columns, group_names, group_of
from dp_risk.evaluation.subgroups import evaluate_group, review_threshold
from dp_risk.types import ConfigurationError, Trust

# Words of `run.json` where there is no utility by subgroup.
NONE_ASKED = "not evaluated by subgroup: evaluation.subgroups names no column"
NOTHING_HELD_OUT = "not evaluated by subgroup: no public units are held out"


def check(settings: Settings) -> None:
    """Refuse subgroups that a run could not have, before it is charged.

    Raises
    ------
    ConfigurationError
        If a column has no groups, or nothing would be evaluated.
    """
    asked = settings.evaluation.subgroups
    if not asked:
        return
    real = isinstance(settings.grid, Deployment)
    if real or not settings.data.public:
        why = None
        if settings.asked.trust == Trust.NONE:
            why = "trust none releases no estimates"
        elif not settings.asked.allocation.evaluation:
            why = "privacy.allocation.evaluation is 0, so nothing is evaluated"
        elif not (real or settings.data.holdout):
            why = "data.holdout is 0, so nothing is evaluated"
        if why:
            raise ConfigurationError(f"evaluation.subgroups: {why}")
    check_columns(Coding(schema=settings.data.load_schema()), asked)


def evaluate(
    settings: Settings, coding: Coding, holdout: Coded, scores: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Return the utility of every group of every column that was asked for.

    Parameters
    ----------
    settings : Settings
        Says which columns, the review capacity and the resamples.
    coding : Coding
        Of the schema.
    holdout : Coded
        Public units, at least one.
    scores : ndarray of float64, shape (len(holdout),)
        Their probabilities of the positive class.

    Returns
    -------
    list of dict
        One a column: ``column, source, capacity, threshold, overall, groups``, as in ``run.json``.
        A group for every value of the schema, and for other and missing values where there are any.
    """
    asked = settings.evaluation
    threshold = review_threshold(scores, asked.capacity)

    def measured(chosen: NDArray[np.bool_]) -> dict[str, Any]:
        group = evaluate_group(
            holdout.labels[chosen],
            scores[chosen],
            threshold=threshold,
            bootstrap=asked.bootstrap,
            seed=settings.seed,
        )
        return group.to_dict()

    overall = measured(np.ones(len(holdout), dtype=np.bool_))
    found = []
    for column in asked.subgroups:
        names, index = group_names(coding, column), group_of(coding, column, holdout)
        found.append(
            {
                "column": column,
                "source": "exact",
                "capacity": asked.capacity,
                "threshold": threshold,
                "overall": overall,
                "groups": [
                    {"value": name, **measured(index == i)}
                    for i, name in enumerate(names)
                    if name not in (OTHER, MISSING) or (index == i).any()
                ],
            }
        )
    return found
