"""A site's policy: written by its owner, never taken from a message."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dp_risk.privacy.account import Account
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import PURPOSES
from dp_risk.types import Adjacency, ConfigurationError, RandomnessKind, Split, Trust, Unit

_MOST_UNITS = 10**7
_HEX = re.compile(r"[0-9a-f]{64}")
# Fields that older policy files do not have, and what such a file means.
_LATER: Mapping[str, Any] = {"bundles": []}
# The safe loader, written in C where PyYAML has it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_COMMENTS = {
    "site": "Name of this site in the federation.",
    "dataset": "Dataset id: names the ledger's accounts. It outlives edits and new rows; another "
    "id needs another site folder.",
    "unit": "What one unit of protection is: record, or account (all records of one account id).",
    "adjacency": "Which data sets the guarantee compares; add-remove is the only one.",
    "stable_ids": "Whether a unit keeps its id for ever, so that it stays in one split: true with "
    "a column of account or record ids, or where records are never edited. With false both "
    "splits are charged in sequence.",
    "delta": "A plan must ask for exactly this delta; below 1 / (number of units).",
    "lifetime_epsilon": "Budget of everything that is ever released (by the ledger's filter). To "
    "raise it: change it here, then `dp-risk ledger raise`.",
    "run_epsilon": "Largest epsilon of one run.",
    "min_noise_multiplier": "Smallest noise of a training step, over the clip norm.",
    "max_clip_norm": "Largest clip norm of a unit's gradient.",
    "max_records_per_account": "Most records of one account that may take part in a step; 1 where "
    "the unit is a record.",
    "purposes": "What may be released: counts (noisy number of units), training, score_bins, "
    "evaluation and subgroups (noisy histograms of holdout scores, all together and by the values "
    "of any column: a rate by nationality is a fact about a group, which no epsilon protects), "
    "tuning (`dp-risk site tune` here; no server can ask for it).",
    "models": "Models that may be trained.",
    "trusts": "Who may add the noise: local (this site, in full); distributed (all sites of the "
    "roster together, and a server that sees their sum only); none only for public data.",
    "randomness": "system; seeded only for public data, because whoever knows the seed removes the "
    "noise.",
    "public": "Whether the rows themselves may be shown to anybody. Allows exact metrics and runs "
    "without noise.",
    "units": "Number of training units where it may be known to anybody; null keeps it private, to "
    "be released with noise.",
    "min_sites": "Fewest sites of a run in which this site takes part, itself included.",
    "max_colluding": "Sites that may collude with the server without harm: a plan must allow for "
    "at least so many. With trust local any number may.",
    "max_sites_per_unit": "Most sites of a federation that may hold one unit; a plan must charge "
    "for at least so many.",
    "roster": "Name and public key (see site.pub) of every site that this one takes part with, "
    "itself included; empty: any, and no noise is shared.",
    "bundles": "SHA-256 of the app bundles that a run may come with; empty: any. Whatever stands "
    "here, a bundle that holds code, or names another app than the installed one, is refused.",
}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a site allows; the comments of a policy file say what each field means.

    Parameters
    ----------
    site, dataset : str
        The site's name, and the dataset id that names its ledger accounts.
    unit, adjacency : str
        What the budget is about.
    stable_ids : bool
        Whether train and holdout are disjoint units for ever, each with an account of its own.
    delta : float
        In (0, 1); a plan must ask for exactly this one.
    lifetime_epsilon, run_epsilon : float
        Budget of everything that is ever released (filter), and of one run (PLD); above 0.
    min_noise_multiplier, max_clip_norm : float
        Bounds of a training step.
    max_records_per_account : int
        At least 1.
    purposes, models, trusts, randomness : tuple of str
        What a plan may name.
    public : bool
        Whether the rows themselves are public: exact metrics and runs without noise are answered.
    units : int or None
        Declared number of training units; None when the number is private and released with noise.
    min_sites, max_sites_per_unit : int
        At least 1.
    max_colluding : int
        At least 0.
    roster : mapping of str to str
        Public keys (64 hexadecimal digits, lower case) by site, no two the same; empty accepts any
        partner.
    bundles : tuple of str
        SHA-256 (64 hexadecimal digits, lower case) of approved app bundles; empty approves any that
        holds no code.
    """

    site: str
    dataset: str
    unit: str
    adjacency: str
    stable_ids: bool
    delta: float
    lifetime_epsilon: float
    run_epsilon: float
    min_noise_multiplier: float
    max_clip_norm: float
    max_records_per_account: int
    purposes: tuple[str, ...]
    models: tuple[str, ...]
    trusts: tuple[str, ...]
    randomness: tuple[str, ...]
    public: bool
    units: int | None
    min_sites: int
    max_colluding: int
    max_sites_per_unit: int
    roster: Mapping[str, str]
    bundles: tuple[str, ...]

    def __post_init__(self) -> None:
        # A policy that promises what the mechanisms do not do must not open a ledger.
        for name, one, known in (
            ("unit", self.unit, Unit),
            ("adjacency", self.adjacency, Adjacency),
        ):
            if one not in list(known):
                raise ConfigurationError(f"policy: {name}: {one} is not one of {_words(known)}")
        for name, values in (
            ("purposes", PURPOSES),
            ("trusts", (Trust.LOCAL, Trust.DISTRIBUTED, Trust.NONE)),
            ("randomness", RandomnessKind),
        ):
            for value in getattr(self, name):
                if value not in list(values):
                    raise ConfigurationError(
                        f"policy: {name}: {value} is not one of {_words(values)}"
                    )
        if not 0 < self.delta < 1:
            raise ConfigurationError(f"policy: delta: {self.delta:g} is not between 0 and 1")
        for name, least in (
            ("max_records_per_account", 1),
            ("min_sites", 1),
            ("max_sites_per_unit", 1),
            ("max_colluding", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"policy: {name}: {getattr(self, name)} is not at least {least}"
                )
        for name in ("lifetime_epsilon", "run_epsilon", "max_clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"policy: {name}: {getattr(self, name):g} is not above 0")
        for name, key in self.roster.items():
            if not _HEX.fullmatch(key):
                raise ConfigurationError(f"policy: roster: the key of {name} is no public key")
        if len(set(self.roster.values())) < len(self.roster):
            # One key under two names is one partner that counts twice.
            raise ConfigurationError("policy: roster: two sites have the same key")
        for bundle in self.bundles:
            if not _HEX.fullmatch(bundle):
                raise ConfigurationError(f"policy: bundles: {bundle[:80]!r} is no SHA-256")
        if self.unit == Unit.RECORD and self.max_records_per_account != 1:
            raise ConfigurationError("policy: max_records_per_account: a record is 1 record")

    @classmethod
    def load(cls, path: Path) -> Policy:
        """Read a policy file.

        Raises
        ------
        ConfigurationError
            If the file is missing, or a field is missing, unknown or of another type.
        """
        try:
            data = yaml.load(path.read_text(), Loader=_LOADER)
        except (OSError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{path}: no readable policy: {error}") from None
        if not isinstance(data, dict):
            raise ConfigurationError(f"{path}: a policy is a mapping")
        values: dict[str, Any] = {}
        names = {field.name for field in dataclasses.fields(cls)}
        # First, because a misspelt field is a missing one too.
        for name in data:
            if name not in names:
                raise ConfigurationError(f"{path}: unknown field {name}")
        for field in dataclasses.fields(cls):
            if field.name not in data and field.name not in _LATER:
                raise ConfigurationError(f"{path}: {field.name} is missing")
            value = data[field.name] if field.name in data else _LATER[field.name]
            values[field.name] = _typed(path, field.name, str(field.type), value)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON data."""
        # Through JSON, which makes plain strings of enumerations and lists of tuples.
        plain: dict[str, Any] = json.loads(
            json.dumps({**dataclasses.asdict(self), "roster": dict(self.roster)})
        )
        return plain

    def save(self, path: Path) -> None:
        """Write the policy file, atomically, with a comment on every field."""
        data = self.to_dict()
        lines = ["# What this site allows. It is read here only, never taken from a message.", ""]
        for name, value in data.items():
            lines += textwrap.wrap(_COMMENTS[name], 96, initial_indent="# ", subsequent_indent="# ")
            lines += [yaml.safe_dump({name: value}, sort_keys=False, width=96).rstrip(), ""]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("\n".join(lines))
        os.replace(temporary, path)

    @property
    def account(self) -> Account:
        """What the policy fixes in the ledger; `clients.site` adds who is a unit."""
        return Account(
            dataset=self.dataset,
            unit=self.unit,
            adjacency=self.adjacency,
            delta=self.delta,
            lifetime_epsilon=self.lifetime_epsilon,
            public=self.public,
            splits=(Split.TRAIN, Split.HOLDOUT) if self.stable_ids else (Split.BOTH,),
            partition={},
        )

    def approves(self, bundle: str) -> bool:
        """Whether a run may come with the bundle of this SHA-256, which holds no code."""
        return not self.bundles or bundle in self.bundles

    def objections(self, plan: Plan) -> Iterator[str]:
        """Yield every reason to refuse a plan; none means that the policy allows it."""
        if plan.dataset != self.dataset:
            yield "another dataset"
        if plan.unit != self.unit:
            yield "another unit"
        if plan.stable_ids != self.stable_ids:
            yield "another account for the holdout"
        if plan.max_records_per_account > self.max_records_per_account:
            yield "more records of an account than allowed"
        if plan.max_sites_per_unit < self.max_sites_per_unit:
            yield "the plan charges for fewer sites of a unit than there may be"
        if plan.max_colluding is not None and plan.max_colluding < self.max_colluding:
            yield "the plan allows for fewer colluding sites than there may be"
        if min(plan.min_sites, len(plan.participants)) < self.min_sites:
            yield "fewer sites than allowed"
        for name, key in plan.participants.items():
            if self.roster and self.roster.get(name) != key:
                yield f"partner {name!r} is not in the roster with this key"
        if plan.trust == Trust.DISTRIBUTED and not self.roster:
            yield "noise is shared with the sites of the roster only, and it is empty"
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


def _words(known: Iterable[str]) -> str:
    return ", ".join(map(str, known))


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
    if kind.startswith("Mapping"):
        plain = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        if not plain or not all(isinstance(key, str) for key in value):
            raise wrong
        return dict(value)
    if kind == "int":
        if not isinstance(value, int):
            raise wrong
        return value
    if kind == "int | None":
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise wrong
        return value
    if not isinstance(value, str):
        raise wrong
    return value
