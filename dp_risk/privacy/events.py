"""What happened to private rows: the closed list of events, and their codec.

`dp_risk.privacy.accounting` says what an event costs. What is not on this list is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

CODEC_VERSION = 1
_MOST_REPETITIONS = 10**6


@dataclass(frozen=True, kw_only=True)
class Event:
    """`count` independent uses of a Gaussian mechanism on a Poisson sample.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation over L2 sensitivity, at least 0; 0 means no protection at all.
    sampling_rate : float
        Probability of each unit to take part, in (0, 1].
    count : int
        Number of uses, at least 1.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.noise_multiplier < math.inf:
            raise ValueError("noise_multiplier must be finite and at least 0")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError("sampling_rate must lie in (0, 1]")
        _check_whole("count", self.count)

    def __str__(self) -> str:
        gaussian = f"Gaussian({self.noise_multiplier:.4g})"
        sampled = self.sampling_rate < 1
        one = f"PoissonSampled({self.sampling_rate:.4g}, {gaussian})" if sampled else gaussian
        return one if self.count == 1 else f"{self.count} x {one}"

    def to_dict(self) -> dict[str, Any]:
        """Encode for the ledger and the wire."""
        return {
            "codec": CODEC_VERSION,
            "kind": "gaussian",
            "noise_multiplier": self.noise_multiplier,
            "sampling_rate": self.sampling_rate,
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Event:
        """Decode; anything that is not exactly a known event is refused.

        Raises
        ------
        ValueError
            On an unknown version, kind, key or an impossible value.
        """
        known = {"codec", "kind", "noise_multiplier", "sampling_rate", "count"}
        if set(data) != known or data["codec"] != CODEC_VERSION or data["kind"] != "gaussian":
            raise ValueError("not an event of a known kind")
        for key in ("noise_multiplier", "sampling_rate"):
            if isinstance(data[key], bool) or not isinstance(data[key], int | float):
                raise ValueError(f"an event's {key} must be a number")
            if not 0 <= data[key] <= 1e300:
                raise ValueError(f"an event's {key} must be finite and at least 0")
        return cls(
            noise_multiplier=float(data["noise_multiplier"]),
            sampling_rate=float(data["sampling_rate"]),
            count=data["count"],
        )


@dataclass(frozen=True, kw_only=True)
class Selection:
    """`count` private selections: a base repeated a random number of times, its best output kept.

    The number of repetitions is geometric: P(k) = (1/mean) (1 - 1/mean)**(k - 1) for k = 1, 2, ...
    (Papernot & Steinke 2022, "Hyperparameter tuning with Renyi differential privacy", Definition 1
    with eta = 1 and gamma = 1/mean). It holds only where nothing but the best output ever leaves.

    Parameters
    ----------
    base : Event
        What every single repetition costs; with noise.
    mean : int
        Mean number of repetitions, at least 1.
    count : int
        Number of selections, at least 1.
    """

    base: Event
    mean: int
    count: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.base, Event) or self.base.noise_multiplier == 0:
            raise ValueError("a selection repeats an event that has noise")
        _check_whole("mean", self.mean)
        _check_whole("count", self.count)
        if self.mean > _MOST_REPETITIONS:
            raise ValueError(f"mean must be at most {_MOST_REPETITIONS}")

    @property
    def noise_multiplier(self) -> float:
        """Noise of one use of the base, never 0."""
        return self.base.noise_multiplier

    def __str__(self) -> str:
        one = f"Best(of {self.mean} on average, {self.base})"
        return one if self.count == 1 else f"{self.count} x {one}"

    def to_dict(self) -> dict[str, Any]:
        """Encode for the ledger."""
        return {
            "codec": CODEC_VERSION,
            "kind": "selection",
            "base": self.base.to_dict(),
            "mean": self.mean,
            "count": self.count,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Selection:
        """Decode; anything that is not exactly a selection is refused.

        Raises
        ------
        ValueError
            On an unknown version, kind, key or an impossible value.
        """
        known = {"codec", "kind", "base", "mean", "count"}
        if set(data) != known or data["codec"] != CODEC_VERSION or data["kind"] != "selection":
            raise ValueError("not an event of a known kind")
        if not isinstance(data["base"], Mapping):
            raise ValueError("a selection's base must be an event")
        return cls(base=Event.from_dict(data["base"]), mean=data["mean"], count=data["count"])


AnyEvent: TypeAlias = Event | Selection


def decode(data: Mapping[str, Any]) -> AnyEvent:
    """Decode an event of any known kind.

    Raises
    ------
    ValueError
        On anything else.
    """
    if data.get("kind") == "selection":
        return Selection.from_dict(data)
    return Event.from_dict(data)


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1")
