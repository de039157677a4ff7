"""What events cost: calibration, the epsilon of one run, and the lifetime filter.

Two different costs are computed, and every display names which is which:

- *run*: the epsilon of a schedule that is fixed before data is touched, by privacy loss
  distributions (PLD; Koskela et al. 2020, Doroshenko et al. 2022), exact where all events are
  unsampled Gaussians (Balle & Wang 2018, Theorem 8). A schedule with a private selection, which
  PLD does not support, is priced by Renyi divergences over many orders (RDP).
- *lifetime*: a Renyi filter at one order (Feldman & Zrnic 2021), valid when later runs are chosen
  after seeing earlier ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import gammaln, log_ndtr, logsumexp, ndtr

from dp_risk.privacy import remembered
from dp_risk.privacy.events import AnyEvent, Event, Selection
from dp_risk.privacy.noise_search import TOLERANCE, smallest

__all__ = [
    "DELTA_RESERVE",
    "AnyEvent",
    "Event",
    "Filter",
    "Selection",
    "accountant",
    "calibrate",
    "calibrate_selection",
    "epsilon",
    "gaussian_epsilon",
    "gaussian_mu",
    "rdp",
    "rdp_to_epsilon",
]

# The part of delta kept for the computed distance between what is drawn and what is accounted.
DELTA_RESERVE = 0.01
# Orders over which Renyi accounting takes the best; every one of them gives a valid bound.
_ORDERS = (*range(1, 257), 512, 1024, 2048)
# Points that one step's privacy losses are rounded to: a tenth of a second at most.
_MOST_LOSSES = 4000
# So much noise costs nothing: a target that it does not meet cannot be met.
_MOST_NOISE = 1e6


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

    interval, total = _interval(events), None
    for event in events:
        one = pld.from_gaussian_mechanism(
            event.noise_multiplier,
            sampling_prob=event.sampling_rate,
            value_discretization_interval=interval,
        ).self_compose(event.count)
        total = one if total is None else total.compose(one)
    assert total is not None
    return float(total.get_epsilon_for_delta(delta))


def _interval(events: Sequence[Event]) -> float:
    """Return the grid on which privacy losses are rounded up: any one gives a valid bound.

    A twentieth of the standard deviation of one step's loss, which is about q sqrt(exp(1 / s^2) -
    1) for noise s (Bu et al. 2020, "Deep learning with Gaussian differential privacy"): what
    rounding adds to epsilon is then below a thousandth where many steps are composed. Never
    coarser than 1e-3, nor so fine that a loss 8 standard deviations out is beyond `_MOST_LOSSES`
    points: pricing takes as long as there are points.
    """
    interval = 1e-3
    for event in events:
        q, inverse = event.sampling_rate, 1 / event.noise_multiplier
        if q < 1:
            std = q * math.sqrt(math.expm1(min(inverse * inverse, 700.0)))
            far = np.logaddexp(math.log1p(-q), math.log(q) + 8 * inverse + inverse * inverse / 2)
            interval = min(interval, max(std / 20, float(far) / _MOST_LOSSES))
    return max(interval, 1e-5)


def accountant(events: Sequence[AnyEvent]) -> str:
    """Return what prices a schedule in `epsilon`: PLD, or RDP where it holds a selection."""
    return "RDP" if any(isinstance(event, Selection) for event in events) else "PLD"


def epsilon(events: Sequence[AnyEvent], delta: float) -> float:
    """Return the epsilon of a schedule fixed in advance (the *run* cost).

    Parameters
    ----------
    events : sequence of Event or Selection
        Everything that one run does to any one unit.
    delta : float
        In (0, 1). One hundredth is kept for the distance of the samplers.

    Returns
    -------
    float
        0 for no event, infinity for an event without noise.

    Raises
    ------
    ValueError
        On another delta, or an event of an unknown kind.
    """
    if not 0 < delta < 1:
        raise ValueError("delta must lie in (0, 1)")
    if not events:
        return 0.0
    gaussians = tuple(event for event in events if isinstance(event, Event))
    if len(gaussians) == len(events):
        return _epsilon(gaussians, delta * (1 - DELTA_RESERVE))
    return min(
        rdp_to_epsilon(sum(rdp(event, order) for event in events), order, delta)
        for order in _ORDERS
        if order > 1
    )


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

    What was found for sampled steps is kept on disk (`dp_risk.privacy.remembered`), and priced
    when it is read.

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
    # Many small steps are nearly one Gaussian, of mu = q sqrt(count (exp(1 / s^2) - 1)).
    mu = gaussian_mu(target, delta * (1 - DELTA_RESERVE))
    start = math.log1p((mu / sampling_rate) ** 2 / count) ** -0.5
    if sampling_rate == 1:
        return smallest(cost, target, start)
    key = json.dumps([target, delta, sampling_rate, count, *map(dataclasses.astuple, others)])
    kept = remembered.recall(key)
    # Nothing is believed: what is kept must cost what it should, neither more nor much less. Far
    # from the first guess not even that is tried, since pricing next to no noise takes for ever.
    if kept is not None and start / 8 < kept < start * 8:
        paid = cost(kept)
        if target * (1 - 10 * TOLERANCE) <= paid <= target:
            return kept
    found = smallest(cost, target, start)
    remembered.keep(key, found)
    return found


def calibrate_selection(
    target: float, delta: float, *, uses: int, mean: int, count: int = 1
) -> float:
    """Return the smallest noise multiplier that keeps a private selection within `target`.

    Parameters
    ----------
    target : float
        Epsilon of the whole run, above 0.
    delta : float
        In (0, 1).
    uses : int
        Full-batch uses of the Gaussian mechanism in one repetition.
    mean, count : int
        See `Selection`.

    Raises
    ------
    ValueError
        If no noise is enough: the conversion from Renyi divergence alone exceeds the target.
    """
    if not (math.isfinite(target) and target > 0):
        raise ValueError("epsilon must be finite and above 0")

    def cost(noise_multiplier: float) -> float:
        base = Event(noise_multiplier=noise_multiplier, count=uses)
        return epsilon([Selection(base=base, mean=mean, count=count)], delta)

    if cost(_MOST_NOISE * math.sqrt(uses)) > target:
        raise ValueError("no noise keeps a private selection within this epsilon at this delta")
    return smallest(cost, target, max(0.3, 3 * math.sqrt(uses) / target))


def rdp(event: AnyEvent, order: int) -> float:
    """Return the Renyi divergence that an event costs at an integer order.

    Mironov, Talwar & Zhang 2019, "Renyi differential privacy of the sampled Gaussian mechanism",
    Section 3.3; for a selection Papernot & Steinke 2022, Theorem 2 with eta = 1.

    Raises
    ------
    ValueError
        On an event of an unknown kind.
    """
    if isinstance(event, Selection):
        return event.count * _selection(event.base, event.mean, order)
    if not isinstance(event, Event):
        raise ValueError("not an event of a known kind")
    return _sampled_gaussian(event, order)


@lru_cache(maxsize=4096)
def _selection(base: Event, mean: int, order: int) -> float:
    """Return the divergence of one selection at an order.

    At order a the theorem gives, for every second order b >= 1 and with log(1/gamma) = log(mean),
    r(a) + 2 (1 - 1/b) r(b) + 2 log(mean)/b + log(mean)/(a - 1), where r is the base's. Both orders
    are free of the data: b is the best one, and a any order from `order` on, because divergences
    grow with their order.
    """
    first: float = min(
        _sampled_gaussian(base, a) + math.log(mean) / (a - 1)
        for a in (order, *_ORDERS)
        if a >= order
    )
    return first + _second_order(base, mean)


@lru_cache(maxsize=256)
def _second_order(base: Event, mean: int) -> float:
    # At order 1 the base has no weight.
    second: float = min(
        ((1 - 1 / b) * _sampled_gaussian(base, b) if b > 1 else 0.0) + math.log(mean) / b
        for b in _ORDERS
    )
    return 2 * second


@lru_cache(maxsize=4096)
def _sampled_gaussian(event: Event, order: int) -> float:
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

    def cost(self, event: AnyEvent) -> float:
        """Renyi divergence of an event at the filter's order."""
        return rdp(event, self.order)

    def epsilon(self, divergence: float) -> float:
        """Epsilon of what is spent so far (the *lifetime* cost)."""
        return rdp_to_epsilon(divergence, self.order, self.delta)
