"""What events cost: calibration, the epsilon of one run, and the lifetime filter.

Two different costs are computed, and every display names which is which:

- *run*: the epsilon of a schedule that is fixed before data is touched, by privacy loss
  distributions (PLD; Koskela et al. 2020, Doroshenko et al. 2022), exact where all events are
  unsampled Gaussians (Balle & Wang 2018, Theorem 8).
- *lifetime*: a Renyi filter at one order (Feldman & Zrnic 2021), valid when later runs are chosen
  after seeing earlier ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr, logsumexp, ndtr

CODEC_VERSION = 1
# The part of delta kept for the computed distance between what is drawn and what is accounted.
DELTA_RESERVE = 0.01


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
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ValueError("count must be a whole number, at least 1")

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


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of a Gaussian mechanism with sensitivity/std ratio `mu`.

    Balle & Wang 2018, Theorem 8.
    """
    if mu == 0:
        return 0.0

    def excess(epsilon: float) -> float:
        low = math.exp(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)))
        return float(ndtr(mu / 2 - epsilon / mu)) - low - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + mu * 40, xtol=1e-10))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest `mu` whose Gaussian mechanism is (epsilon, delta)-DP."""
    return float(brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, 1e-9, 1e3, xtol=1e-12))


@lru_cache(maxsize=1024)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    if all(event.sampling_rate == 1 for event in events):
        mu = math.sqrt(sum(event.count / event.noise_multiplier**2 for event in events))
        return gaussian_epsilon(mu, delta)
    from dp_accounting.pld import privacy_loss_distribution as pld

    total = None
    for event in events:
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=1e-3,
        ).self_compose(event.count)
        total = one if total is None else total.compose(one)
    assert total is not None
    return float(total.get_epsilon_for_delta(delta))


def epsilon(events: Sequence[Event], delta: float) -> float:
    """Return the epsilon of a schedule fixed in advance (the *run* cost).

    Parameters
    ----------
    events : sequence of Event
        Everything that one run does to any one unit.
    delta : float
        In (0, 1). One hundredth is kept for the distance of the samplers.

    Returns
    -------
    float
        0 for no event, infinity for an event without noise.
    """
    if not 0 < delta < 1:
        raise ValueError("delta must lie in (0, 1)")
    return _epsilon(tuple(events), delta * (1 - DELTA_RESERVE)) if events else 0.0


@lru_cache(maxsize=256)
def calibrate(
    target: float,
    delta: float,
    *,
    sampling_rate: float,
    count: int,
    others: tuple[Event, ...] = (),
) -> float:
    """Return the smallest noise multiplier that keeps a schedule within `target`.

    Parameters
    ----------
    target : float
        Epsilon of the whole run, above 0.
    delta : float
        In (0, 1).
    sampling_rate, count : float, int
        The steps to calibrate.
    others : tuple of Event
        What else the run charges to the same units.

    Raises
    ------
    ValueError
        If `others` alone exceed the target.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError("epsilon must be finite and above 0")

    def cost(noise_multiplier: float) -> float:
        event = Event(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, count=count)
        return epsilon([event, *others], delta)

    if others and epsilon(others, delta) >= target:
        raise ValueError("the other charges alone exceed the target epsilon")
    low = high = max(0.3, math.sqrt(count) * sampling_rate / target)
    while cost(high) > target:
        low, high = high, high * 2
    while low > 1e-3 and cost(low) <= target:
        low, high = low / 2, low
    for _ in range(60):
        if high / low < 1 + 1e-5:
            break
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def rdp(event: Event, order: int) -> float:
    """Return the Renyi divergence that an event costs at an integer order.

    Mironov, Talwar & Zhang 2019, "Renyi differential privacy of the sampled Gaussian mechanism",
    Section 3.3.
    """
    if event.noise_multiplier == 0:
        return math.inf
    q, variance = event.sampling_rate, event.noise_multiplier**2
    if q == 1:
        return event.count * order / (2 * variance)
    k = np.arange(order + 1)
    log_binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
    terms = log_binomial + k * math.log(q) + (order - k) * math.log1p(-q)
    return event.count * float(logsumexp(terms + k * (k - 1) / (2 * variance))) / (order - 1)


def _slack(order: int, delta: float) -> float:
    log_delta = math.log(delta * (1 - DELTA_RESERVE))
    return math.log((order - 1) / order) - (log_delta + math.log(order)) / (order - 1)


def rdp_to_epsilon(divergence: float, order: int, delta: float) -> float:
    """Convert Renyi-DP at one order to epsilon (Canonne, Kamath, Steinke 2020, Proposition 12)."""
    return max(0.0, divergence + _slack(order, delta)) if divergence else 0.0


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A Renyi privacy filter at one order (Feldman & Zrnic 2021, Theorem 4.5).

    Parameters
    ----------
    lifetime_epsilon : float
        The budget, above 0.
    delta : float
        In (0, 1).
    order : int
        Fixed when the account is opened; at least 2.
    """

    lifetime_epsilon: float
    delta: float
    order: int

    @classmethod
    def open(cls, lifetime_epsilon: float, delta: float) -> Filter:
        """Choose the order at which a Gaussian that spends the whole budget may be largest."""

        def room(order: int) -> float:
            return (lifetime_epsilon - _slack(order, delta)) / order

        order = max((*range(2, 257), 512, 1024), key=room)
        if room(order) <= 0:
            raise ValueError("the lifetime budget is too small for its delta")
        return cls(lifetime_epsilon=lifetime_epsilon, delta=delta, order=order)

    @property
    def capacity(self) -> float:
        """Renyi divergence that may be spent in total."""
        return self.lifetime_epsilon - _slack(self.order, self.delta)

    def cost(self, event: Event) -> float:
        """Renyi divergence of an event at the filter's order."""
        return rdp(event, self.order)

    def epsilon(self, divergence: float) -> float:
        """Epsilon of what is spent so far (the *lifetime* cost)."""
        return rdp_to_epsilon(divergence, self.order, self.delta)
