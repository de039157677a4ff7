"""What a server is asked to do: public settings, as JSON in Flower's run configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError, Trust
from server import robust
from server.robust import Rule

# One site of so many may be lost for good, unless it is said.
_EXPECTED_LOSSES = 10
# Sites of a secure sum that do not collude: the sum of one alone would be its own.
_HONEST = 2
# One site of so many may lie, unless it is said.
_EXPECTED_LIARS = 5


def nine_of_ten(sites: int) -> int:
    """Return how many of so many sites must answer when one of ten may be lost for good."""
    return sites - sites // _EXPECTED_LOSSES


def four_of_five(sites: int) -> int:
    """Return how many sites are honest when one of five may lie, and one at least."""
    return max(1, sites - max(1, sites // _EXPECTED_LIARS))


@dataclass(frozen=True, kw_only=True)
class Federation:
    """How many sites, and how the server steps (the `federation` group of the configuration).

    Parameters
    ----------
    sites : int
        Sites to wait for, at least 1.
    min_sites : int or None
        Fewest sites that may answer a round; None means all of them, or in trust distributed
        all but one of every full ten.
    spare_rounds : int or None
        Rounds that may be lost with a site, at least 0; None chooses them in trust distributed, and
        is none elsewhere.
    rounds : int or None
        None chooses it.
    steps_per_round : int
        DP steps a site makes between two messages, at least 1.
    learning_rate : float or None
        Step size for the mean gradient; None chooses it from the noise.
    momentum : float
        In [0, 1).
    averaging : float
        Weight of the past in the average of the weights, in [0, 1).
    adam : float or None
        Weight of the past in Adam's mean of squared gradients, in (0, 1); None steps with momentum.
    timeout : float
        Seconds to wait for sites.
    deadline : float or None
        Seconds that sites have to answer one round, above 0; None: the timeout.
    rule : str
        How answers are combined, one of `server.robust.Rule`.
    max_byzantine : int or None
        Sites that may lie, at least 0; None: one of five, and none with rule sum.
    """

    sites: int
    min_sites: int | None
    spare_rounds: int | None
    rounds: int | None
    steps_per_round: int
    learning_rate: float | None
    momentum: float
    averaging: float
    timeout: float
    adam: float | None = None
    deadline: float | None = None
    rule: str = Rule.SUM
    max_byzantine: int | None = None

    def __post_init__(self) -> None:
        if self.sites < 1:
            raise ConfigurationError(f"federation.sites: {self.sites} is not at least 1")
        if self.min_sites is not None and not 1 <= self.min_sites <= self.sites:
            raise ConfigurationError(
                f"federation.min_sites: {self.min_sites} is not in 1..{self.sites}, the number of "
                "sites"
            )
        if self.spare_rounds is not None and self.spare_rounds < 0:
            raise ConfigurationError(
                f"federation.spare_rounds: {self.spare_rounds} is not at least 0"
            )
        if self.rounds is not None and self.rounds < 1:
            raise ConfigurationError(f"federation.rounds: {self.rounds} is not at least 1")
        if self.steps_per_round < 1:
            raise ConfigurationError(
                f"federation.steps_per_round: {self.steps_per_round} is not at least 1"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ConfigurationError(
                f"federation.learning_rate: {self.learning_rate} is not above 0"
            )
        for name, value in (("momentum", self.momentum), ("averaging", self.averaging)):
            if not 0 <= value < 1:
                raise ConfigurationError(f"federation.{name}: {value} is not in [0, 1)")
        if self.adam is not None and not 0 < self.adam < 1:
            raise ConfigurationError(f"federation.adam: {self.adam} is not in (0, 1)")
        if self.adam is not None and self.learning_rate is None:
            raise ConfigurationError(
                "federation.learning_rate: give one with federation.adam: the rule is for momentum"
            )
        if not self.timeout > 0:
            raise ConfigurationError(f"federation.timeout: {self.timeout} is not above 0")
        if self.deadline is not None and not self.deadline > 0:
            raise ConfigurationError(f"federation.deadline: {self.deadline} is not above 0")
        self._check_rule()

    @property
    def seconds(self) -> float:
        """Seconds that sites have to answer one round."""
        return self.timeout if self.deadline is None else self.deadline

    def fewest(self, privacy: Privacy) -> int:
        """Return the fewest sites that may answer a round.

        Raises
        ------
        ConfigurationError
            If there are too few for a secure sum, or a site makes several steps in one round.
        """
        if privacy.trust != Trust.DISTRIBUTED:
            return self._least
        if self.rule != Rule.SUM:
            raise ConfigurationError(
                f"federation.rule: {self.rule} needs every site's own answer; with trust "
                "distributed only the sum is seen: use sum, or trust local"
            )
        if self.steps_per_round != 1:
            raise ConfigurationError(
                "federation.steps_per_round: with trust distributed a round is one step; use 1"
            )
        colluding, sites = privacy.max_colluding, self.sites
        if sites < 1 + _HONEST:
            raise ConfigurationError(
                f"federation.sites: {sites}: trust distributed needs at least {1 + _HONEST}"
            )
        least = colluding + _HONEST
        if least > sites:
            raise ConfigurationError(
                f"privacy.max_colluding: {colluding} of {sites} sites; at most sites - {_HONEST} = "
                f"{sites - _HONEST}"
            )
        if self.min_sites is not None and self.min_sites < least:
            raise ConfigurationError(
                f"federation.min_sites: {self.min_sites}: trust distributed with "
                f"privacy.max_colluding={colluding} needs {least} sites in every round"
            )
        return self.min_sites or max(least, nine_of_ten(sites))

    @property
    def byzantine(self) -> int:
        """Sites that may lie without harm."""
        if self.max_byzantine is not None or self.rule == Rule.SUM:
            return self.max_byzantine or 0
        return self.sites - four_of_five(self.sites)

    @property
    def _least(self) -> int:
        # What liars send is dropped where it can be told, and no answer may be missed for that.
        return self.min_sites or max(1, self.sites - self.byzantine)

    def _check_rule(self) -> None:
        if self.rule not in list(Rule):
            raise ConfigurationError(
                f"federation.rule: {self.rule} is not one of {', '.join(Rule)}"
            )
        lying, rule = self.byzantine, Rule(self.rule)
        if lying < 0:
            raise ConfigurationError(f"federation.max_byzantine: {lying} is not at least 0")
        if rule is Rule.SUM and lying:
            raise ConfigurationError(
                f"federation.max_byzantine: rule sum bears no site that lies, {lying} are asked; "
                "set federation.rule"
            )
        if self._least < robust.fewest(rule, lying):
            raise ConfigurationError(
                f"federation.max_byzantine: with {lying} of {self.sites} sites lying {rule} needs "
                f"{robust.fewest(rule, lying)} in every round, and {self._least} may be all that "
                "answer (federation.min_sites)"
            )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run.

    Parameters
    ----------
    run : str
        Run id, unique.
    folder : Path
        Run folder; it exists.
    dataset : str
        Dataset id that every site must hold.
    schema : mapping
        The public schema.
    model, model_options : str, mapping
        Name in the model registry and its options.
    privacy : Privacy
        What is asked.
    federation : Federation
        How the server steps.
    seed : int
        Public seed.
    capacity : float
        Share of units that can be reviewed, in (0, 1): where precision and threshold are taken.
    memory : Path or None
        File with the ledgers' heads seen before; None remembers nothing.
    start : Path or None
        Safetensors file of the weights to start from; None initialises them from the seed.
    resumable : bool
        Whether the run folder keeps a journal from which a killed server goes on.
    roster : mapping of str to str, or None
        Ledger key of every site that may take part; None lets in whoever is there.
    subgroups : tuple of str
        Columns by whose values utility is estimated too, at a charge.
    """

    run: str
    folder: Path
    dataset: str
    schema: Mapping[str, Any]
    model: str
    model_options: Mapping[str, Any]
    privacy: Privacy
    federation: Federation
    seed: int
    capacity: float
    memory: Path | None
    start: Path | None = None
    resumable: bool = False
    roster: Mapping[str, str] | None = None
    subgroups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(column, str) for column in self.subgroups):
            raise ConfigurationError("evaluation.subgroups: not a list of columns")
        self.federation.fewest(self.privacy)

    def to_json(self) -> str:
        """Encode for Flower's run configuration."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Decode.

        Raises
        ------
        ConfigurationError
            If the text is no job.
        """
        try:
            data = json.loads(text)
            data["resumable"], roster = bool(data["resumable"]), data["roster"]
            data["roster"] = None if roster is None else dict(roster)
            data["subgroups"] = tuple(data.get("subgroups", ()))
            privacy = Privacy(**data.pop("privacy"))
            federation = Federation(**data.pop("federation"))
            paths = {
                name: None if data[name] is None else Path(data.pop(name))
                for name in ("folder", "memory", "start")
            }
            return cls(privacy=privacy, federation=federation, **{**data, **paths})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"the run configuration holds no job: {error}") from None
