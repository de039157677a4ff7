"""The plan of a run: everything that is fixed before private data is touched."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dp_risk.privacy import sampling
from dp_risk.privacy.accounting import DELTA_RESERVE, Event
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.release import digest
from dp_risk.privacy.schedule import (
    COUNTS,
    EVALUATION,
    MAX_CELLS,
    PURPOSES,
    SCORE_BINS,
    SCORE_CELLS,
    SUBGROUPS,
    TRAINING,
    Purpose,
    Summed,
    answers,
    costs,
    lifetime_excess,
)
from dp_risk.types import RandomnessKind, Split, Trust, Unit

NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_MOST_TEXT, _MOST_PARTICIPANTS, _MOST_COLUMNS = 300, 10_000, 64
# What older plans do not say, and what that means; a plan that does not need it keeps its digest.
_LATER: Mapping[str, Any] = {"subgroups": [], "subgroups_noise": 0.0}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a server asks of every site, and what each site checks and prices by itself.

    Parameters
    ----------
    run : str
        Run id, unique.
    dataset : str
        Dataset id that the site's policy must carry.
    schema : str
        Digest of the public schema.
    model, model_options : str, mapping
        Name in the closed model registry, and its constructor arguments.
    dimension : int
        Number of released coordinates a step.
    trust, unit, randomness : str
        See `dp_risk.types`.
    delta : float
        In (0, 1).
    epsilon : float or None
        Bound that the run promises; None when nothing is protected.
    clip_norm : float
        L2 bound of one unit's gradient, above 0; ignored without noise.
    noise_multiplier : float
        Noise standard deviation over `clip_norm`; 0 is no noise.
    sampling_rate : float
        Poisson sampling rate, in (0, 1].
    rounds, steps_per_round : int
        At least 1.
    spares : int
        Rounds of training that may be asked in place of others that were lost with a site, at
        least 0; what is asked once may be asked again as often, twice at most.
    local_rate : float
        Step size of the site's own steps between the first and the last of a round, for a sum of
        gradients. Only used when `steps_per_round` is above 1.
    counts_noise : float
        Noise of the released unit count; 0 when sizes are declared.
    score_bins_noise, evaluation_noise : float
        Noise of the two histograms of holdout scores; 0 where nothing is evaluated.
    subgroups : tuple of str
        Columns by whose values the holdout's scores are counted too, at most 64.
    subgroups_noise : float
        Noise of each of these histograms; 0 exactly where there are none.
    stable_ids : bool
        Whether a unit keeps its split for ever. If not, both splits are charged in sequence.
    max_records_per_account : int
        Most records of one account that take part; 1 where the unit is a record.
    max_sites_per_unit : int
        Most sites that may hold one unit: events compose that many times.
    min_sites : int
        Fewest sites that may answer a round.
    max_colluding : int or None
        Sites that may collude with the server; None where trust is local: any number may.
    participants : mapping of str to str
        Name and public key (hexadecimal) of every site that takes part.
    seed : int
        Public seed.
    """

    run: str
    dataset: str
    schema: str
    model: str
    model_options: Mapping[str, Any]
    dimension: int
    trust: str
    unit: str
    randomness: str
    delta: float
    epsilon: float | None
    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    rounds: int
    steps_per_round: int
    spares: int
    local_rate: float
    counts_noise: float
    score_bins_noise: float
    evaluation_noise: float
    stable_ids: bool
    max_records_per_account: int
    max_sites_per_unit: int
    min_sites: int
    max_colluding: int | None
    participants: Mapping[str, str]
    seed: int
    subgroups: tuple[str, ...] = ()
    subgroups_noise: float = 0.0

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.run):
            raise ValueError("a run id is 1 to 100 letters, digits, points and dashes")
        texts = (self.dataset, self.schema, self.model, *self.participants)
        texts += tuple(self.participants.values())
        if not all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in texts):
            raise ValueError("a name in a plan is too long, or is none")
        if len(self.participants) > _MOST_PARTICIPANTS:
            raise ValueError("too many participants")
        for kind, value in (
            (Trust, self.trust),
            (Unit, self.unit),
            (RandomnessKind, self.randomness),
        ):
            kind(value)
        numbers = (
            self.delta,
            self.clip_norm,
            self.local_rate,
            self.counts_noise,
            self.score_bins_noise,
            self.evaluation_noise,
            self.subgroups_noise,
            self.noise_multiplier,
        )
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise ValueError("a plan holds finite numbers, at least 0")
        if not 0 < self.delta < 1 or self.clip_norm <= 0:
            raise ValueError("delta lies in (0, 1) and clip_norm is above 0")
        if self.rounds < 1 or self.steps_per_round < 1 or self.dimension < 1:
            raise ValueError("rounds, steps_per_round and dimension are at least 1")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError("sampling_rate lies in (0, 1]")
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise ValueError("epsilon is finite and above 0")
        if (self.noise_multiplier == 0) != (self.trust == Trust.NONE):
            raise ValueError("noise is absent exactly when trust is none")
        if (self.score_bins_noise == 0) != (self.evaluation_noise == 0):
            raise ValueError("scores are binned exactly when they are evaluated")
        self._check_subgroups()
        if self.unit == Unit.RECORD and self.max_records_per_account != 1:
            raise ValueError("a record is one record")
        if self.max_records_per_account < 1 or self.max_sites_per_unit < 1 or self.min_sites < 1:
            raise ValueError("records, sites of a unit and sites of a round are at least 1")
        if (self.max_colluding is None) == (self.trust == Trust.DISTRIBUTED):
            raise ValueError("max_colluding is said exactly where trust is distributed")
        if self.spares < 0:
            raise ValueError("spares is at least 0")
        if self.max_colluding is not None:
            self._check_distributed(self.max_colluding)
        if self.private:
            _ = self.grid

    def _check_subgroups(self) -> None:
        columns = self.subgroups
        if len(set(columns)) < len(columns) or len(columns) > _MOST_COLUMNS:
            raise ValueError(f"subgroups name each column once, and at most {_MOST_COLUMNS}")
        if not all(isinstance(name, str) and len(name) <= _MOST_TEXT for name in columns):
            raise ValueError("a name in a plan is too long, or is none")
        if bool(columns) != (self.subgroups_noise > 0):
            raise ValueError("subgroups have noise, and nothing else has that noise")
        if columns and not self.evaluation_noise:
            raise ValueError("subgroups are evaluated where the whole is")

    def _check_distributed(self, colluding: int) -> None:
        if colluding < 1 or self.min_sites < colluding + 2:
            raise ValueError("max_colluding is at least 1 and min_sites at least that and 2")
        if len(self.participants) < self.min_sites:
            raise ValueError("min_sites exceeds the participants")
        if self.steps_per_round != 1 or self.max_sites_per_unit != 1:
            raise ValueError(
                "where trust is distributed a round is one step, and a unit sits at one site"
            )
        for summed in self.sums.values():
            for participants in (self.min_sites, len(self.participants)):
                summed.shared(participants, colluding)

    @property
    def private(self) -> bool:
        """Whether anything is protected."""
        return self.trust != Trust.NONE

    @property
    def grid(self) -> Grid:
        """The grid of a training release."""
        return self.sums[TRAINING].grid

    @property
    def sums(self) -> Mapping[str, Summed]:
        """What the run sums with noise, by purpose, in the order of its schedule."""
        found = {
            COUNTS: (1.0, self.counts_noise, 1),
            TRAINING: (self.clip_norm, self.noise_multiplier, self.dimension),
            SCORE_BINS: (1.0, self.score_bins_noise, SCORE_CELLS),
            EVALUATION: (1.0, self.evaluation_noise, MAX_CELLS),
            SUBGROUPS: (1.0, self.subgroups_noise, MAX_CELLS),
        }
        return {
            name: Summed(clip_norm=clip, noise_multiplier=noise, dimension=dimension)
            for name, (clip, noise, dimension) in found.items()
            if noise
        }

    @property
    def needed(self) -> Mapping[str, int]:
        """Rounds of each purpose that a run needs, without those that may be lost."""
        once = dict.fromkeys((COUNTS, SCORE_BINS, EVALUATION), 1)
        return {**once, TRAINING: self.rounds, SUBGROUPS: len(self.subgroups)}

    @property
    def schedule(self) -> tuple[Purpose, ...]:
        """Everything that the run will charge, in order.

        A unit that sits at several sites meets each of their mechanisms, so every site charges for
        all of them.
        """
        sites = self.max_sites_per_unit
        training = Event(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            count=self.steps_per_round * sites,
        )
        lines = [self._line(TRAINING, Split.TRAIN, training, self.rounds + self.spares)]
        for name, split, noise in (
            (COUNTS, Split.TRAIN, self.counts_noise),
            (SCORE_BINS, Split.HOLDOUT, self.score_bins_noise),
            (EVALUATION, Split.HOLDOUT, self.evaluation_noise),
            (SUBGROUPS, Split.HOLDOUT, self.subgroups_noise),
        ):
            if noise:
                event = Event(noise_multiplier=noise, count=sites)
                rounds = self.needed[name] * answers(self.spares)
                lines.append(self._line(name, split, event, rounds))
        return tuple(sorted(lines, key=lambda line: PURPOSES.index(line.name)))

    def _line(self, name: str, split: Split, event: Event, rounds: int) -> Purpose:
        account = split if self.stable_ids else Split.BOTH
        return Purpose(name=name, split=account, event=event, rounds=rounds)

    @property
    def costs(self) -> Mapping[str, float]:
        """Epsilon of the whole schedule in each account (the run cost, PLD)."""
        return costs(self.schedule, self.delta)

    @property
    def cost(self) -> float:
        """Epsilon that the run costs a unit, wherever it is: the dearest account."""
        return max(self.costs.values())

    def _distance(self, units: int) -> float:
        if self.max_colluding is not None:
            return self._shared_distance(units, self.max_colluding)
        steps = (self.rounds + self.spares) * self.steps_per_round
        distance = self.grid.distance(steps) + sampling.distance(units, self.sampling_rate, steps)
        for noise, cells, times in (
            (self.counts_noise, 1, 1),
            (self.score_bins_noise, MAX_CELLS, 1),
            (self.evaluation_noise, MAX_CELLS, 1),
            (self.subgroups_noise, MAX_CELLS, len(self.subgroups)),
        ):
            if noise:
                grid = Grid(clip_norm=1.0, noise_multiplier=noise, dimension=cells)
                distance += grid.distance(times * answers(self.spares))
        return distance * self.max_sites_per_unit

    def _shared_distance(self, units: int, colluding: int) -> float:
        rounds = {line.name: line.rounds for line in self.schedule}
        sizes = range(self.min_sites, len(self.participants) + 1)
        return sampling.distance(units, self.sampling_rate, rounds[TRAINING]) + sum(
            max(summed.shared(size, colluding).distance(rounds[name]) for size in sizes)
            for name, summed in self.sums.items()
        )

    def lifetime_excess(self, units: int, lifetime_epsilon: float) -> float:
        """Return the module's `lifetime_excess` of the run at a site of `units` units."""
        if not self.private or self.epsilon is None:
            return 0.0
        return lifetime_excess(self._distance(units), self.epsilon, lifetime_epsilon)

    def delta_reserve(self) -> float:
        """Return the part of delta that `lifetime_excess` must stay below."""
        return DELTA_RESERVE * self.delta

    def to_dict(self) -> dict[str, Any]:
        """Encode for the wire and for `plan.json`."""
        said = dataclasses.asdict(self) | {"subgroups": list(self.subgroups)}
        unsaid = {name for name, default in _LATER.items() if said[name] == default}
        return {
            **{name: value for name, value in said.items() if name not in unsaid},
            "model_options": dict(self.model_options),
            "participants": dict(self.participants),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Decode a plan from the wire.

        Raises
        ------
        ValueError, TypeError
            On a missing or unknown key, a wrong type or an impossible value.
        """
        kinds: dict[str, Any] = {
            "str": str,
            "int": int,
            "float": (int, float),
            "bool": bool,
            "float | None": (int, float, type(None)),
            "int | None": (int, type(None)),
            "tuple[str, ...]": list,
        }
        said = {**_LATER, **data}
        for field in dataclasses.fields(cls):
            kind = kinds.get(str(field.type), Mapping)
            value = said.get(field.name)
            mixed = isinstance(value, bool) != (kind is bool)
            if field.name not in said or mixed or not isinstance(value, kind):
                raise ValueError(f"plan: {field.name} is missing or has another type")
        return cls(**{**said, "subgroups": tuple(said["subgroups"])})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        return digest(self.to_dict())
