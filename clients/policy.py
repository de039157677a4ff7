"""A site's policy: written by its owner, never taken from a message."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dp_risk.privacy.account import Account
from dp_risk.privacy.plan import Plan
from dp_risk.types import Adjacency, ConfigurationError, RandomnessKind, Split, Trust, Unit

_MOST_UNITS = 10**7


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site allows.

    Parameters
    ----------
    site : str
        The site's name.
    dataset : str
        Dataset id: names the ledger account. It outlives edits and new rows.
    unit, adjacency : str
        What the budget is about.
    delta : float
        In (0, 1); a plan must ask for exactly this one.
    lifetime_epsilon : float
        Budget of everything that is ever released (filter).
    run_epsilon : float
        Largest epsilon of one run (PLD).
    min_noise_multiplier : float
        Smallest noise of a training step.
    max_clip_norm : float
        Largest clip norm.
    purposes, models, trusts, randomness : tuple of str
        What a plan may name.
    public : bool
        Whether the rows themselves are public: exact metrics and runs without noise are answered.
    units : int or None
        Declared number of training units; None when the number is private and released with noise.
    """

    site: str
    dataset: str
    unit: str
    adjacency: str
    delta: float
    lifetime_epsilon: float
    run_epsilon: float
    min_noise_multiplier: float
    max_clip_norm: float
    purposes: tuple[str, ...]
    models: tuple[str, ...]
    trusts: tuple[str, ...]
    randomness: tuple[str, ...]
    public: bool
    units: int | None

    def __post_init__(self) -> None:
        # A policy that promises what the mechanisms do not do must not open a ledger.
        if self.unit != Unit.RECORD:
            raise ConfigurationError(f"policy: unit: {self.unit} is not built; use record")
        if self.adjacency != Adjacency.ADD_REMOVE:
            raise ConfigurationError(f"policy: adjacency: {self.adjacency} is not add-remove")
        for name, known in (("trusts", (Trust.LOCAL, Trust.NONE)), ("randomness", RandomnessKind)):
            for value in getattr(self, name):
                if value not in list(known):
                    raise ConfigurationError(f"policy: {name}: {value} is not one of {list(known)}")

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises
        ------
        ConfigurationError
            If the file is missing, or a field is missing, unknown or of another type.
        """
        try:
            data = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path}: no readable policy: {error}") from None
        if not isinstance(data, dict):
            raise ConfigurationError(f"{path}: a policy is a mapping")
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in data:
                raise ConfigurationError(f"{path}: {field.name} is missing")
            values[field.name] = _typed(path, field.name, str(field.type), data[field.name])
        unknown = sorted(set(data) - set(values))
        if unknown:
            raise ConfigurationError(f"{path}: unknown field {unknown[0]}")
        return cls(**values)

    def save(self, path: Path) -> None:
        """Write the policy file."""
        # Through JSON, which makes plain strings of enumerations and lists of tuples.
        data = json.loads(json.dumps(dataclasses.asdict(self)))
        path.write_text(yaml.safe_dump(data, sort_keys=False))

    @property
    def account(self) -> Account:
        """The ledger account that the policy is about."""
        return Account(
            dataset=self.dataset,
            unit=self.unit,
            adjacency=self.adjacency,
            delta=self.delta,
            lifetime_epsilon=self.lifetime_epsilon,
            public=self.public,
            splits=(Split.TRAIN, Split.HOLDOUT),
        )

    def objections(self, plan: Plan) -> Iterator[str]:
        """Yield every reason to refuse a plan; none means that the policy allows it."""
        if plan.dataset != self.dataset:
            yield "another dataset"
        if plan.unit != self.unit:
            yield "another unit"
        if plan.trust not in self.trusts:
            yield f"trust {plan.trust} is not allowed"
        if plan.model not in self.models:
            yield f"model {plan.model} is not allowed"
        if plan.randomness not in self.randomness:
            yield f"randomness {plan.randomness} is not allowed"
        for line in plan.schedule:
            if line.name not in self.purposes:
                yield f"purpose {line.name} is not allowed"
        if not plan.private:
            if not self.public:
                yield "a run without noise needs public data"
            return
        if plan.trust == Trust.NONE or plan.epsilon is None:
            yield "the plan promises no epsilon"
            return
        if plan.delta != self.delta:
            yield "another delta"
        if plan.noise_multiplier < self.min_noise_multiplier:
            yield "the noise multiplier is below the smallest allowed"
        if plan.clip_norm > self.max_clip_norm:
            yield "the clip norm is above the largest allowed"
        cost = plan.cost
        if not (math.isfinite(cost) and cost <= plan.epsilon * (1 + 1e-9)):
            yield f"the schedule costs epsilon {cost:.4g}, more than the plan says"
        if cost > self.run_epsilon:
            yield f"the run costs epsilon {cost:.4g}, above the cap of {self.run_epsilon:.4g}"
        if self.units is not None and plan.delta * self.units >= 1:
            yield "delta is not below 1/units"
        # A private size is bounded by a public one: a refusal must not depend on it.
        units = _MOST_UNITS if self.units is None else self.units
        if plan.lifetime_excess(units, self.lifetime_epsilon) > plan.delta_reserve():
            yield "the samplers are too coarse for this delta"
        if plan.randomness == RandomnessKind.SEEDED and not self.public:
            yield "seeded noise needs public data"


def _typed(path: Path, name: str, kind: str, value: Any) -> Any:
    wrong = ConfigurationError(f"{path}: {name}: {value!r} is not of type {kind}")
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise wrong
        return tuple(value)
    if kind == "bool" or isinstance(value, bool):
        if kind != "bool" or not isinstance(value, bool):
            raise wrong
        return value
    if kind == "float":
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise wrong
        return float(value)
    if kind == "int | None":
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise wrong
        return value
    if not isinstance(value, str):
        raise wrong
    return value
