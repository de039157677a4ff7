"""A site tunes on its own training units; only the winner of a private selection leaves."""

from __future__ import annotations

import dataclasses
import itertools
import math
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.shard import TrainingUnits
from clients.site import Site
from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.models.stepping import Stepper
from dp_risk.privacy.accounting import DELTA_RESERVE, AnyEvent, Event, calibrate_selection, epsilon
from dp_risk.privacy.dpsgd import DPSGD, MAX_WEIGHT, dimension, load_weights
from dp_risk.privacy.gaussian import GaussianCount, GaussianSum
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import digest
from dp_risk.privacy.schedule import TUNING, Purpose, lifetime_excess
from dp_risk.privacy.selection import PrivateSelection, Scored
from dp_risk.types import ConfigurationError, RandomnessKind, Refused, Split, Trust

# Steps as large and as noisy as those of a run, but fewer; the server's usual momentum.
_STEPS, _MOMENTUM, _AVERAGING = 10, 0.9, 0.9
_MOST_CANDIDATES = 1000
# Repetitions for each candidate, on average: few would often miss the good ones.
_REPETITIONS = 2


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A public pair of hyperparameters.

    Parameters
    ----------
    learning_rate : float
        Step size for the mean gradient, above 0.
    clip_norm : float
        L2 bound of one unit's gradient, above 0.
    """

    learning_rate: float
    clip_norm: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigurationError(f"candidates: {name}: {value!r} is not a number")
            if not 0 < value < math.inf:
                raise ConfigurationError(f"candidates: {name}: {value} is not above 0")


DEFAULTS = tuple(
    Choice(learning_rate=step / clip, clip_norm=clip)
    for step, clip in itertools.product((0.3, 1.0, 3.0), (0.3, 1.0, 3.0))
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Train with one choice, and say how well the model fits the units it was trained on.

    Privacy
    -------
    Every use of the units is a full-batch Gaussian mechanism with one noise multiplier: a noisy
    number of units where it is not public, `steps` DP-SGD steps with sensitivity `clip_norm`, and
    the score. The score is the noisy sum over units of log 2 minus the unit's mean logistic loss,
    clipped to [-1, 1], with sensitivity 1. Event: uses x Gaussian(noise_multiplier).

    Parameters
    ----------
    choice : Choice
        What is tried.
    model : str
        Name in the model registry, with its defaults.
    coding : Coding
        The public coding.
    units : int or None
        Public number of units; None counts them with noise.
    steps : int
        At least 1.
    noise_multiplier : float
        Noise standard deviation over sensitivity, above 0.
    """

    choice: Choice
    model: str
    coding: Coding
    units: int | None
    steps: int
    noise_multiplier: float

    @property
    def event(self) -> Event:
        """What one trial costs."""
        return Event(
            noise_multiplier=self.noise_multiplier, count=uses(steps=self.steps, units=self.units)
        )

    def __call__(self, private: TrainingUnits, randomness: Randomness) -> Scored:
        """Return the choice itself with its score; the weights stay here."""
        noise = self.noise_multiplier
        size = float(self.units or 0)
        if self.units is None:
            counted = GaussianCount(noise_multiplier=noise)(len(private), randomness)
            size = float(counted["units"][0])
        module = models.build(self.model, {}, self.coding, 0)
        step = DPSGD(
            clip_norm=self.choice.clip_norm, noise_multiplier=noise, sampling_rate=1.0, steps=1
        )
        stepper = Stepper(
            learning_rate=self.choice.learning_rate, momentum=_MOMENTUM, averaging=_AVERAGING
        )
        at = stepper.start({k: t.numpy().copy() for k, t in module.state_dict().items()})
        for _ in range(self.steps):
            load_weights(module, _bounded(at.weights))
            summed = step((module, private), randomness)
            at = stepper.step(at, {k: g / max(size, 1.0) for k, g in summed.items()})
        load_weights(module, _bounded(stepper.result(at)))
        score = GaussianSum(clip_norm=1.0, dimension=1, noise_multiplier=noise)
        noisy = score(_gains(module, private), randomness)["sum"]
        winner = dataclasses.asdict(self.choice)
        return Scored(
            arrays={name: np.array([float(value)]) for name, value in winner.items()},
            score=float(noisy[0]),
        )


def uses(*, steps: int, units: int | None) -> int:
    """Return how often one trial uses the units: its steps, its score and its count."""
    return steps + 1 + (units is None)


def _bounded(weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    bounded = {k: np.clip(w, -MAX_WEIGHT, MAX_WEIGHT) for k, w in weights.items()}
    return {k: np.nan_to_num(w) for k, w in bounded.items()}


def _gains(module: Any, private: TrainingUnits) -> NDArray[np.float64]:
    """Return each unit's gain over knowing nothing, shape (units, 1); NaN where it has none."""
    unit, rows = private.rows()
    logits = models.logits(module, rows.codes, rows.values)
    losses = np.logaddexp(0.0, logits) - rows.labels * logits
    records = np.bincount(unit, minlength=len(private))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(unit, weights=losses, minlength=len(private)) / records
    return (math.log(2) - mean)[:, None]


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What leaves: the best choice, and what choosing it cost (`epsilon_run` by RDP)."""

    choice: Choice
    model: str
    run: str
    delta: float
    candidates: int
    event: AnyEvent
    epsilon_run: float
    epsilon_lifetime: float
    lifetime_used: float

    def to_dict(self) -> dict[str, Any]:
        """Encode as JSON data."""
        return {
            "schema_version": 1,
            "run": self.run,
            "model": self.model,
            **dataclasses.asdict(self.choice),
            "cost": {
                "delta": self.delta,
                "epsilon_run_rdp": self.epsilon_run,
                "epsilon_lifetime": self.epsilon_lifetime,
                "lifetime_used": self.lifetime_used,
            },
            "candidates": self.candidates,
            "event": self.event.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What a site's owner asks for.

    Parameters
    ----------
    epsilon, delta : float
        Bound on what the whole selection charges a unit; delta must be the policy's.
    choices : tuple of Choice
        The candidates; each is drawn twice on average.
    model : str
        Name in the model registry.
    steps : int
        DP-SGD steps of one trial, over all training units.
    """

    epsilon: float
    delta: float
    choices: tuple[Choice, ...] = DEFAULTS
    model: str = "additive"
    steps: int = _STEPS

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise ConfigurationError(f"delta: {self.delta} is not between 0 and 1")
        if not 1 <= len(self.choices) <= _MOST_CANDIDATES:
            raise ConfigurationError(f"candidates: give 1 to {_MOST_CANDIDATES}")
        if len(set(self.choices)) < len(self.choices):
            raise ConfigurationError("candidates: one of them stands twice")

    def selection(self, site: Site) -> tuple[PrivateSelection[TrainingUnits], Purpose]:
        """Return the mechanism, and the line of the schedule that pays for it; reads no row.

        Raises
        ------
        ConfigurationError
            If no noise is enough for this epsilon.
        """
        policy = site.policy
        mean, sites = _REPETITIONS * len(self.choices), policy.max_sites_per_unit
        try:
            noise = calibrate_selection(
                self.epsilon,
                self.delta,
                uses=uses(steps=self.steps, units=policy.units),
                mean=mean,
                count=sites,
            )
        except ValueError as error:
            raise ConfigurationError(f"epsilon: {error}") from None
        trials = tuple(
            Trial(
                choice=choice,
                model=self.model,
                coding=site.shard.coding,
                units=policy.units,
                steps=self.steps,
                noise_multiplier=noise,
            )
            for choice in self.choices
        )
        mechanism = PrivateSelection(candidates=trials, mean=mean)
        # A unit may sit at other sites, which tune as well.
        line = Purpose(
            name=TUNING,
            split=Split.TRAIN if policy.stable_ids else Split.BOTH,
            event=dataclasses.replace(mechanism.event, count=sites),
            rounds=1,
        )
        return mechanism, line

    def objections(self, site: Site, line: Purpose) -> Iterator[str]:
        """Yield every reason of the policy to refuse."""
        policy, event = site.policy, line.event
        if TUNING not in policy.purposes:
            yield f"policy.yaml: purposes do not name {TUNING}"
        if self.model not in policy.models:
            yield f"model {self.model} is not allowed"
        if Trust.LOCAL not in policy.trusts:
            yield f"trust {Trust.LOCAL} is not allowed"
        if RandomnessKind.SYSTEM not in policy.randomness:
            yield f"randomness {RandomnessKind.SYSTEM} is not allowed"
        if self.delta != policy.delta:
            yield f"delta must be the policy's, {policy.delta:g}"
        if policy.units is not None and self.delta * policy.units >= 1:
            yield "delta is not below 1/units"
        if event.noise_multiplier < policy.min_noise_multiplier:
            yield "the noise multiplier is below the smallest allowed"
        if max(choice.clip_norm for choice in self.choices) > policy.max_clip_norm:
            yield "a candidate's clip norm is above the largest allowed"
        cost = epsilon([event], self.delta)
        if not cost <= policy.run_epsilon:
            yield f"tuning costs epsilon {cost:.4g}, above the cap of {policy.run_epsilon:.4g}"
        excess = lifetime_excess(self._distance(site, line), self.epsilon, policy.lifetime_epsilon)
        if excess > DELTA_RESERVE * self.delta:
            yield "the samplers are too coarse for this delta"

    def _distance(self, site: Site, line: Purpose) -> float:
        """Distance of the noise: of one use, times the mean number of uses."""
        size = dimension(models.create(self.model, {}).build(site.shard.coding))
        grids = [
            Grid(clip_norm=choice.clip_norm, noise_multiplier=line.event.noise_multiplier,
                 dimension=size)
            for choice in self.choices
        ]  # fmt: skip
        one = max(grid.distance(1) for grid in grids)
        all_uses = uses(steps=self.steps, units=site.policy.units)
        all_uses *= _REPETITIONS * len(self.choices)
        return one * all_uses * line.event.count


def tune(site: Site, asked: Tuning, *, close_open_run: bool = False) -> Winner:
    """Charge one private selection, run it and return the winner.

    Everything that can be refused is refused before a row is read.

    Parameters
    ----------
    site : Site
        A site, opened by its owner.
    asked : Tuning
        What to try, and for how much.
    close_open_run : bool
        End a federated run whose reservation is open here; its rounds that never ran go back.

    Raises
    ------
    ConfigurationError
        If what is asked is impossible.
    Refused
        If the policy or the ledger says no, or a run is open.
    """
    models.create(asked.model, {})
    mechanism, line = asked.selection(site)
    reasons = list(asked.objections(site, line))
    open_run = site.ledger.state.open_run
    if open_run is not None and not close_open_run:
        reasons.append(f"run {open_run} is open here: let it end, or add --close-open-run")
    if reasons:
        raise Refused("; ".join(reasons))
    ledger, run = site.ledger, f"tuning-{secrets.token_hex(8)}"
    plan = digest({"run": run, **dataclasses.asdict(asked)})
    ledger.reserve(run=run, plan_digest=plan, schedule=(line,))
    try:
        ledger.pay(run=run, plan_digest=plan, purpose=TUNING, round=0, request=plan)
        units = site.shard.units(Split.TRAIN, site.policy.max_records_per_account)
        arrays = mechanism(units, Randomness.system())
        release = ledger.mint(run=run, purpose=TUNING, round=0, arrays=arrays)
    finally:
        ledger.close(run)
    balance = ledger.state.balances[line.split]
    return Winner(
        choice=Choice(**{name: float(array[0]) for name, array in release.arrays.items()}),
        model=asked.model,
        run=run,
        delta=asked.delta,
        candidates=len(asked.choices),
        event=line.event,
        epsilon_run=epsilon([line.event], asked.delta),
        epsilon_lifetime=balance.spent_epsilon,
        lifetime_used=balance.used,
    )
