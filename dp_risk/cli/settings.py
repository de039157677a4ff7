"""What the command line itself is told (small configuration groups)."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dp_risk.data.settings import Data
from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError, Refused, Trust
from server.job import Federation


@dataclass(frozen=True, kw_only=True)
class InProcess:
    """The in-process grid; `amnesia` forgets every site between two messages."""

    amnesia: bool


@dataclass(frozen=True, kw_only=True)
class Ray:
    """Flower's simulation engine: cores that a site takes while it answers, and an address.

    Without an address Ray is started on this machine.
    """

    cpus_per_site: float
    address: str | None

    def __post_init__(self) -> None:
        if not 0 < self.cpus_per_site <= 1024:
            raise ConfigurationError(
                f"grid.cpus_per_site: {self.cpus_per_site} is not in (0, 1024]"
            )


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A real federation; `operator` is the folder of whoever starts the run."""

    operator: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a run is evaluated.

    Parameters
    ----------
    bootstrap : int
        Resamples for the intervals of exact metrics, 1 to 100,000.
    capacity : float
        Share of the units that is reviewed, in (0, 1).
    subgroups : list of str
        Columns by whose values utility is measured too: exactly on public data, else at a charge.
    """

    bootstrap: int
    capacity: float
    subgroups: list[str]

    def __post_init__(self) -> None:
        if not 1 <= self.bootstrap <= 100_000:
            raise ConfigurationError(f"evaluation.bootstrap: {self.bootstrap} is not in 1..100000")
        if not 0 < self.capacity < 1:
            raise ConfigurationError(f"evaluation.capacity: {self.capacity} is not in (0, 1)")
        for column in self.subgroups:
            if self.subgroups.count(column) > 1:
                raise ConfigurationError(f"evaluation.subgroups: {column} is named twice")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Whether `report.html` is written, and who answers for what it says.

    Raises
    ------
    ConfigurationError
        If `review_by` is no day.
    """

    html: bool
    owner: str | None
    contact: str | None
    purpose: str | None
    review_by: str | None

    def __post_init__(self) -> None:
        if self.review_by is None:
            return
        try:
            datetime.date.fromisoformat(self.review_by)
        except ValueError:
            raise ConfigurationError(
                f"report.review_by: {self.review_by} is no day like 2027-06-30"
            ) from None


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The run folder, where None makes one, and the weights to start from, if any."""

    dir: str | None
    start: str | None

    def __post_init__(self) -> None:
        if self.start is not None and not Path(self.start).is_file():
            more = "; give its model.safetensors" if Path(self.start).is_dir() else ""
            what = "a folder" if more else "no file"
            raise ConfigurationError(f"run.start: {self.start} is {what}{more}")


@dataclass(frozen=True, kw_only=True)
class Sites:
    """Where simulated sites live, and the lifetime budget of a new one."""

    dir: str
    lifetime_epsilon: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lifetime_epsilon) and self.lifetime_epsilon > 0):
            raise ConfigurationError(
                f"sites.lifetime_epsilon: {self.lifetime_epsilon} is not above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the server keeps what it remembers between runs."""

    dir: str


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Which runs make a frontier; an epsilon of None is a run without privacy."""

    epsilons: list[float | None]
    seeds: list[int]
    trusts: list[str]
    baselines: bool

    def __post_init__(self) -> None:
        if not self.epsilons or not self.seeds or not self.trusts:
            raise ConfigurationError("frontier: epsilons, seeds and trusts must not be empty")
        for epsilon in self.epsilons:
            if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
                raise ConfigurationError(f"frontier.epsilons: {epsilon} is not above 0")
        for trust in self.trusts:
            if trust not in (Trust.LOCAL, Trust.DISTRIBUTED):
                raise ConfigurationError(
                    f"frontier.trusts: {trust!r} is not one of local, distributed"
                )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How hyperparameters are chosen: `none` charges every trial, `private` is one site's own."""

    selection: str

    def __post_init__(self) -> None:
        if self.selection not in ("none", "private"):
            raise ConfigurationError(
                f"tuning.selection: {self.selection!r} is not one of none, private"
            )

    def refuse_private(self) -> None:
        """Refuse a private selection where a server sees every trial.

        Raises
        ------
        Refused
            With the reason.
        """
        if self.selection == "private":
            raise Refused(
                "tuning.selection=private: a private selection needs that only the winner ever "
                "leaves, and here the server sees every trial's rounds: either every trial is "
                "charged (-m does that), or one site tunes on its own shard (dp-risk site tune)"
            )


@dataclass(frozen=True, kw_only=True)
class Audit:
    """How hard an audit tries.

    Parameters
    ----------
    codes : int or None
        Canaries that there may be at a probed site, at least 20; None: as many as are cheap.
    units : int
        Ordinary rows at a probed site, at least 2.
    share : float
        Part of the claim that the bound on an honest trainer should reach, in (0, 1): it says how
        many observations are made.
    seconds : float
        When to stop making observations, above 0.
    confidence : float
        Of the reported bounds, in (0, 1).
    gate_level : float
        Probability of falsifying an honest claim by the bound, in (0, 1).
    processes : int
        That make observations; 1 uses none of its own.
    repeats : int
        Runs on each side of the transcript spy, at least 2.
    max_sites, max_rounds, max_rows : int or None
        How much of the configured run is done; None: all of it.
    references : int
        Reference models of the membership attack, at least 2; 0: no attack.
    """

    codes: int | None
    units: int
    share: float
    seconds: float
    confidence: float
    gate_level: float
    processes: int
    repeats: int
    max_sites: int | None
    max_rounds: int | None
    max_rows: int | None
    references: int

    def __post_init__(self) -> None:
        if self.references < 0 or self.references == 1:
            raise ConfigurationError(f"audit.references: {self.references} is not 0 or at least 2")
        for name, least in (
            ("codes", 20),
            ("units", 2),
            ("processes", 1),
            ("repeats", 2),
            ("max_sites", 1),
            ("max_rounds", 1),
            ("max_rows", 20),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigurationError(f"audit.{name}: {value} is not at least {least}")
        for name in ("share", "confidence", "gate_level"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigurationError(f"audit.{name}: {getattr(self, name)} is not in (0, 1)")
        if not self.seconds > 0:
            raise ConfigurationError(f"audit.seconds: {self.seconds} is not above 0")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole configuration, checked."""

    data: Data
    partition: Any
    model_name: str
    model_options: dict[str, Any]
    privacy: Privacy | None
    privacy_values: dict[str, Any]
    federation: Federation
    grid: InProcess | Ray | Deployment
    evaluation: Evaluation
    report: Report
    tuning: Tuning
    run: RunFolder
    sites: Sites
    server: Server
    frontier: Frontier
    audit: Audit
    seed: int
    yaml: str

    @property
    def simulated(self) -> InProcess | Ray:
        """The grid of a run over simulated sites.

        Raises
        ------
        ConfigurationError
            If another was asked for.
        """
        if isinstance(self.grid, Deployment):
            raise ConfigurationError("grid: a real federation's runs: `dp-risk federation run`")
        return self.grid

    @property
    def in_process(self) -> InProcess:
        """The grid of an audit.

        Raises
        ------
        ConfigurationError
            If another was asked for.
        """
        if not isinstance(self.grid, InProcess):
            raise ConfigurationError("grid: an audit watches sites in this process: use in_process")
        return self.grid

    @property
    def asked(self) -> Privacy:
        """The privacy settings of a single run.

        Raises
        ------
        ConfigurationError
            If epsilon was not given.
        """
        if self.privacy is None:
            raise ConfigurationError(
                "privacy.epsilon is required: say how much privacy, for example privacy.epsilon=1"
            )
        return self.privacy
