"""The first two rounds: at constant logits a gradient says who is positive, and which codes occur.

Where the output's bias is so large that every probability is 1, each unit's gradient with respect
to the logit is 1 for a negative and 0 for a positive unit; where it is so small that every one is 0
it is 0 and -1. The sums of two ordinary rounds of training therefore hold the clipped activations
of the negative and of the positive units: their shares, and how often every code occurs. They are
released and charged like any other round; what is computed here is post-processing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]
ROUNDS = 2
# Log-odds at which a probability is 0 or 1 for all that noise lets see.
_CERTAIN = 30.0
# The share of positives is not believed further than so many standard deviations of its noise.
_SURE = 2.0
# A smaller part of the units that answered than this says nothing.
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Opening:
    """What the first two rounds said.

    Parameters
    ----------
    positives : float
        Share of positive units, in (0, 1).
    means : mapping of parameter name to ndarray, or None
        What each weight is multiplied with, on average; None where noise hides it.
    """

    positives: float
    means: Weights | None


def certain(weights: Weights, bias: str, *, positive: bool) -> dict[str, NDArray[Any]]:
    """Return weights that call every unit positive, or every unit negative.

    Parameters
    ----------
    weights : mapping of parameter name to ndarray
        A model's first weights.
    bias : str
        The parameter that is added to the logit.
    positive : bool
        Which.
    """
    moved = np.full_like(weights[bias], _CERTAIN if positive else -_CERTAIN)
    return {**weights, bias: moved}


def read(at_positive: Weights, at_negative: Weights, bias: str, *, noise: float) -> Opening:
    """Return what the mean gradients of the two rounds say.

    Parameters
    ----------
    at_positive, at_negative : mapping of parameter name to ndarray
        Noisy mean gradients where every unit is called positive, and where it is called negative.
    bias : str
        The parameter that is added to the logit: its mean gradient is a share of units.
    noise : float
        Standard deviation of the noise in one coordinate of one mean gradient, at least 0.
    """
    negatives, positives = float(at_positive[bias].sum()), -float(at_negative[bias].sum())
    total = negatives + positives
    # Two noisy numbers are in the total; without noise it is the mean clip factor.
    if not total > max(2 * _SURE * np.sqrt(2) * noise, _LEAST):
        return Opening(positives=0.5, means=None)
    doubt = min(_SURE * noise / total, 0.5)
    share = float(np.clip(positives / total, max(doubt, 1e-6), 1 - max(doubt, 1e-6)))
    means = {name: (at_positive[name] - at_negative[name]) / total for name in at_positive}
    return Opening(positives=share, means=means)
