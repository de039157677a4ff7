"""From what a person asks to a plan's numbers, with public facts only.

The rule behind the defaults (docs/concepts.md): few steps over all units, because what noise does
to a walk of weights depends on how far it goes and not on its number of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dp_risk.privacy.accounting import DELTA_RESERVE, Event, calibrate, gaussian_mu
from dp_risk.privacy.schedule import answers
from dp_risk.types import ConfigurationError, RandomnessKind, Trust, Unit

# Units in an expected batch, over all sites, beyond which more of them hardly lower the noise.
_BATCH = 250_000
# Rounds of training, spare ones included; more would move the weights no further (the noise of a
# walk depends on its length), fewer leave it short.
_ROUNDS, _FEWEST_ROUNDS = 60, 40
_RATE_OVER_NOISE, _MAX_RATE, _PLAIN_RATE = 0.08, 2.0, 1.0
# Spare rounds beside one for every site that may be lost for good, as a part of all rounds: for
# answers that are lost now and then.
_SPARE_SHARE = 0.1
# Part of an evaluation's squared Gaussian budget that finds the bins of the scores.
_SCORE_BINS_SHARE = 0.15


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Which part of an account's budget goes where; training takes the rest.

    Parts of the squared ratio of sensitivity to noise, which is what adds up over Gaussian
    mechanisms. An account that pays for one thing only gives it everything, so that on a holdout
    of its own an evaluation takes the whole epsilon.

    Parameters
    ----------
    counts : float
        For a noisy number of units where sizes are private, in (0, 1).
    evaluation : float
        For the histograms of holdout scores, in [0, 1); 0 releases none.
    subgroups : float
        Part of the evaluation that goes to utility by subgroup where columns are named for it, in
        (0, 1); they share it evenly.
    """

    counts: float
    evaluation: float
    subgroups: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.counts < 1:
            raise ConfigurationError(f"privacy.allocation.counts: {self.counts} is not in (0, 1)")
        if not 0 <= self.evaluation < 1:
            raise ConfigurationError(
                f"privacy.allocation.evaluation: {self.evaluation} is not in [0, 1)"
            )
        if not 0 < self.subgroups < 1:
            raise ConfigurationError(
                f"privacy.allocation.subgroups: {self.subgroups} is not in (0, 1)"
            )
        if self.counts + self.evaluation >= 1:
            raise ConfigurationError("privacy.allocation: counts and evaluation leave nothing")


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What a person asks for (the `privacy` group of the configuration).

    Parameters
    ----------
    epsilon : float or None
        Bound on everything that one run charges to any one unit; None only when trust is none.
    delta : float
        In (0, 1) and below 1/units.
    unit : str
        record, or account: all records of one account id.
    max_records_per_account : int
        Most records of one account that take part, chosen at random; for accounts only.
    max_sites_per_unit : int
        Most sites that may hold one unit, at least 1.
    allocation : Allocation
        How the budget of a run is split.
    trust : str
        local, distributed or none.
    max_colluding : int
        Sites that may collude with the server, at least 1; only in trust distributed.
    clip_norm : float
        L2 bound of one unit's gradient, above 0.
    sampling_rate : float or None
        In (0, 1]; None chooses it from the number of units.
    randomness : str
        `seeded` repeats exactly and is not private.
    """

    epsilon: float | None
    delta: float
    unit: str
    max_records_per_account: int
    max_sites_per_unit: int
    allocation: Allocation
    trust: str
    max_colluding: int
    clip_norm: float
    sampling_rate: float | None
    randomness: str

    def __post_init__(self) -> None:
        for name, kind in (("trust", Trust), ("unit", Unit), ("randomness", RandomnessKind)):
            value = getattr(self, name)
            if value not in list(kind):
                known = ", ".join(kind)
                raise ConfigurationError(f"privacy.{name}: {value!r} is not one of {known}")
        if self.trust == Trust.CENTRAL:
            raise ConfigurationError(
                "privacy.trust: central is not built yet; use local or distributed"
            )
        if not isinstance(self.allocation, Allocation):
            object.__setattr__(self, "allocation", Allocation(**self.allocation))
        for name in ("max_records_per_account", "max_sites_per_unit", "max_colluding"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"privacy.{name}: {getattr(self, name)} is not at least 1")
        if self.trust == Trust.DISTRIBUTED and self.max_sites_per_unit > 1:
            raise ConfigurationError(
                "privacy.max_sites_per_unit: with trust distributed a unit sits at one site; use 1"
            )
        if self.trust == Trust.NONE:
            if self.epsilon is not None:
                raise ConfigurationError("privacy.epsilon: trust none protects nothing; use null")
        elif self.epsilon is None:
            raise ConfigurationError("privacy.epsilon: null protects nothing; give a number")
        elif not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigurationError(f"privacy.epsilon: {self.epsilon} is not above 0")
        if not 0 < self.delta < 1:
            raise ConfigurationError(f"privacy.delta: {self.delta} is not between 0 and 1")
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ConfigurationError(f"privacy.clip_norm: {self.clip_norm} is not above 0")
        if self.sampling_rate is not None and not 0 < self.sampling_rate <= 1:
            raise ConfigurationError(
                f"privacy.sampling_rate: {self.sampling_rate} is not in (0, 1]"
            )


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The numbers of a plan that cost privacy."""

    noise_multiplier: float
    sampling_rate: float
    rounds: int
    spares: int
    counts_noise: float
    score_bins_noise: float
    evaluation_noise: float
    subgroups_noise: float


def choose_spares(rounds: int, *, may_lose: int) -> int:
    """Return how many rounds of training may be lost with a site.

    One for every site that may be lost for good, and 10 % of the rounds.

    Parameters
    ----------
    rounds : int
        Rounds that count, at least 1.
    may_lose : int
        Sites that take part beyond the fewest that are needed, at least 0.
    """
    return may_lose + math.ceil(_SPARE_SHARE * rounds)


def check_delta(delta: float, units: int, *, where: str) -> None:
    """Refuse a delta of 1/units or more.

    Raises
    ------
    ConfigurationError
        With the largest delta that makes sense.
    """
    if delta * units >= 1:
        if where == "released":
            raise ConfigurationError(
                f"privacy.delta: the released number of units, {units}, does not show that "
                f"{delta:g} is below 1/units; it holds noise, so that the true one may be smaller: "
                "a larger privacy.epsilon makes it more exact; it was charged, and these sites "
                "keep the delta that they were opened with"
            )
        raise ConfigurationError(
            f"privacy.delta: {delta:g} is not below 1/units ({where}: {units} units, so below "
            f"{1 / units:.3g})"
        )


def choose_noise(
    privacy: Privacy,
    *,
    units: int | None,
    rounds: int | None,
    steps_per_round: int,
    stable_ids: bool,
    holdout: bool,
    may_lose: int = 0,
    spare_rounds: int | None = None,
    subgroups: int = 0,
) -> Noise:
    """Fix sampling, steps and noise before any data is touched.

    Parameters
    ----------
    privacy : Privacy
        What is asked.
    units : int or None
        Declared number of training units over all sites; None when sizes are private and each
        site will release a noisy count first.
    rounds : int or None
        None chooses it.
    steps_per_round : int
        At least 1.
    stable_ids : bool
        Whether train and holdout have accounts of their own.
    holdout : bool
        Whether every site holds units out.
    may_lose : int
        Sites that take part beyond the fewest that are needed, at least 0.
    spare_rounds : int or None
        Rounds that may be lost with a site, at least 0; None chooses it in trust distributed, and
        is none elsewhere.
    subgroups : int
        Columns by whose values the holdout is evaluated too, at least 0.
    """

    def spared(rounds: int) -> int:
        return choose_spares(rounds, may_lose=may_lose) if spare_rounds is None else spare_rounds

    rate = privacy.sampling_rate
    if rate is None:
        rate = 1.0 if units is None else min(1.0, _BATCH / max(units, 1))
    spares, spares_planned = 0, privacy.trust == Trust.DISTRIBUTED or spare_rounds is not None
    if rounds is None:
        rounds = math.ceil(_ROUNDS / steps_per_round)
        while spares_planned and rounds > _FEWEST_ROUNDS and rounds + spared(rounds) > _ROUNDS:
            rounds -= 1
    if spares_planned:
        spares = spared(rounds)
    noise = Noise(
        noise_multiplier=0.0,
        sampling_rate=rate,
        rounds=rounds,
        spares=spares,
        counts_noise=0.0,
        score_bins_noise=0.0,
        evaluation_noise=0.0,
        subgroups_noise=0.0,
    )
    if privacy.epsilon is None:
        return noise
    sites = privacy.max_sites_per_unit
    # How often a unit meets what is asked once.
    times = sites * answers(spares)
    # Of a Gaussian that spends the whole budget, so many times together.
    std = math.sqrt(times) / gaussian_mu(privacy.epsilon, privacy.delta * (1 - DELTA_RESERVE))
    others: list[Event] = []
    if units is None:
        noise = replace(noise, counts_noise=std / math.sqrt(privacy.allocation.counts))
        others.append(Event(noise_multiplier=noise.counts_noise, count=times))
    if holdout and privacy.allocation.evaluation:
        # A hair above the exact figure, so that rounding never exceeds the budget.
        part = std * (1 + 1e-9)
        if not stable_ids:
            part /= math.sqrt(privacy.allocation.evaluation)
        by_group = privacy.allocation.subgroups if subgroups else 0.0
        whole = part / math.sqrt(1 - by_group)
        noise = replace(
            noise,
            score_bins_noise=whole / math.sqrt(_SCORE_BINS_SHARE),
            evaluation_noise=whole / math.sqrt(1 - _SCORE_BINS_SHARE),
            subgroups_noise=part * math.sqrt(subgroups / by_group) if subgroups else 0.0,
        )
        if not stable_ids:
            others.append(Event(noise_multiplier=noise.score_bins_noise, count=times))
            others.append(Event(noise_multiplier=noise.evaluation_noise, count=times))
            if subgroups:
                others.append(
                    Event(noise_multiplier=noise.subgroups_noise, count=times * subgroups)
                )
    training = calibrate(
        privacy.epsilon,
        privacy.delta,
        sampling_rate=rate,
        count=(rounds + spares) * steps_per_round * sites,
        others=tuple(others),
    )
    return replace(noise, noise_multiplier=training)


def choose_learning_rate(noise: float, *, clip_norm: float, dimension: int) -> float:
    """Return a step size for the mean gradient, where nothing better is known.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise in one coordinate of the mean gradient, at least 0.
    clip_norm : float
        L2 bound of one unit's gradient, above 0.
    dimension : int
        Number of coordinates, at least 1.
    """
    if noise == 0:
        return _PLAIN_RATE
    return min(_MAX_RATE / clip_norm, _RATE_OVER_NOISE / (noise * math.sqrt(dimension)))
