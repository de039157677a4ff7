"""The protocol of everything that reads private rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.accounting import Event
from dp_risk.privacy.randomness import Randomness

Private = TypeVar("Private", contravariant=True)
Arrays = Mapping[str, NDArray[np.float64]]


class Mechanism(Protocol[Private]):
    """Fields are public; private data comes in as a call argument only."""

    @property
    def event(self) -> Event:
        """What one call costs."""
        ...

    @property
    def sensitivity(self) -> float:
        """L2 distance that adding or removing one unit can make before noise."""
        ...

    def __call__(self, private: Private, randomness: Randomness) -> Arrays:
        """Return what may leave the site."""
        ...
