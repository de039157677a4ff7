"""One noisy sum over sites: by adding up what each releases, or by a secure sum."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.secure_sum.masks import Round, unmask
from dp_risk.secure_sum.session import MASKED
from dp_risk.secure_sum.terms import Terms
from dp_risk.types import FederationError, Trust
from server.aggregation import Shapes, Weights, fits, parts, total
from server.budget import SiteView

LOG = logging.getLogger("dp_risk.server")
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class Question:
    """What the sites are asked to compute.

    Parameters
    ----------
    purpose : str
        Which line of the plan's schedule.
    shapes : mapping of str to tuple of int
        Shape of every array in the answer, in the order in which a site makes them.
    weights : mapping of str to ndarray, or None
        Of the model.
    more : mapping
        What else the request says.
    """

    purpose: str
    shapes: Shapes
    weights: Weights | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """A noisy sum.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The sum over sites, noise included.
    each : mapping of int to mapping of str to ndarray
        What every single site released, by node; empty where nobody sees that.
    nodes : tuple of int
        The sites that are in it.
    std : float
        Standard deviation of the noise in a coordinate, 0 where there is none.
    """

    arrays: Weights
    each: Mapping[int, Weights]
    nodes: tuple[int, ...]
    std: float


class Ask(Protocol):
    """The way to the sites for one round."""

    def __call__(
        self, question: Question, round: int, nodes: Sequence[int], **more: Any
    ) -> dict[int, Release]:
        """Return the releases that came, of this round and signed, by node."""
        ...


class Ready(Protocol):
    """The way to sites that did not answer."""

    def __call__(self, nodes: Sequence[int]) -> set[int]:
        """Return those that are there."""
        ...


class Summing(Protocol):
    """What a plan's trust means for the server."""

    @property
    def asked(self) -> Mapping[str, int]:
        """Rounds that were asked so far, lost ones included, by purpose: the sites' charges."""
        ...

    @property
    def abandoned(self) -> Mapping[str, int]:
        """Rounds that were lost with a site, by purpose."""
        ...

    @property
    def lost(self) -> Mapping[str, int]:
        """Answers that did not come, by purpose."""
        ...

    @property
    def noises(self) -> float:
        """How often a sum over all sites holds the noise that is accounted."""
        ...

    def __call__(self, question: Question) -> Sum:
        """Ask, and return the sum.

        Raises
        ------
        FederationError
            If too few sites answer.
        """
        ...


class Separate:
    """Every site's release can stand alone; a sum of those that came is made here.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    views : list of SiteView
        The sites.
    fewest : int
        Releases that a round needs.
    ask : Ask
        The way to the sites.
    """

    def __init__(self, plan: Plan, views: Sequence[SiteView], fewest: int, ask: Ask) -> None:
        self._plan = plan
        self._names = {view.node: view.site for view in views}
        self._fewest = fewest
        self._ask = ask
        self.asked: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    @property
    def noises(self) -> float:
        """Every site adds all of the noise."""
        return float(len(self._names))

    def __call__(self, question: Question) -> Sum:
        """Ask all sites once."""
        purpose, nodes = question.purpose, sorted(self._names)
        round = self.asked[purpose]
        self.asked[purpose] += 1
        got = self._ask(question, round, nodes)
        each = {node: r.arrays for node, r in got.items() if fits(r.arrays, question.shapes)}
        self.lost[purpose] += len(nodes) - len(each)
        if len(each) < self._fewest:
            silent = _listed(name for node, name in self._names.items() if node not in each)
            raise FederationError(
                f"{len(each)} of {len(nodes)} sites answered {purpose} round {round + 1}, "
                f"{self._fewest} are needed; nothing that fits came from {silent}; charges are kept"
            )
        arrays = total([each[node] for node in sorted(each)])
        return Sum(
            arrays=arrays, each=each, nodes=tuple(sorted(each)), std=self._std(question, len(each))
        )

    def _std(self, question: Question, sites: int) -> float:
        if not self._plan.private:
            return 0.0
        dimension = sum(math.prod(shape) for shape in question.shapes.values())
        summed = replace(self._plan.sums[question.purpose], dimension=dimension)
        return summed.grid.std * math.sqrt(sites)


class Secure:
    """Only the sum over all sites that were named can be read; with any one missing, nothing.

    A site that does not answer is left out of the next round, and named again once it is there;
    it is asked whether it is after 1, 2, 4, ... rounds. The waits go on growing when it is lost
    again: a site that says that it is there and never answers costs few rounds.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    views : list of SiteView
        The sites that have met.
    ask : Ask
        The way to the sites.
    ready : Ready
        Whether a site answers again.
    """

    def __init__(self, plan: Plan, views: Sequence[SiteView], ask: Ask, ready: Ready) -> None:
        self._terms = Terms.of(plan, plan.participants)
        self._names = {view.node: view.site for view in views}
        self._ask = ask
        self._ready = ready
        self._patience = {node: _Patience() for node in self._names}
        self._missing: set[int] = set()
        self.asked: Counter[str] = Counter()
        self.abandoned: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    @property
    def noises(self) -> float:
        """The shares of those that may collude come on top of what is accounted."""
        sites = len(self._names)
        return sites / (sites - self._terms.max_colluding)

    def __call__(self, question: Question) -> Sum:
        """Ask the sites that are there until all of them answer."""
        purpose, terms = question.purpose, self._terms
        numbers = terms.numbers(purpose)
        while True:
            nodes = self._participants(purpose)
            round = self.asked[purpose]
            if round == len(numbers):
                raise FederationError(
                    f"all {len(numbers)} rounds of {purpose} are used up, "
                    f"{self.abandoned[purpose]} were lost with a site; charges are kept"
                )
            self.asked[purpose] += 1
            names = [self._names[node] for node in nodes]
            this = terms.round(purpose, numbers[round], names)
            vectors = self._vectors(question, round, this, nodes)
            lost = [node for node in nodes if self._names[node] not in vectors]
            if lost and self._ready(lost) == set(lost):
                # They are there, only a message was lost: the same answer costs nothing more.
                vectors |= self._vectors(question, round, this, lost)
                lost = [node for node in lost if self._names[node] not in vectors]
            if not lost:
                break
            self._lose(lost, purpose, round)
        grid = terms.line(purpose).grid(len(nodes), terms.max_colluding)
        arrays = parts(grid.decode(unmask(vectors, this)), question.shapes)
        if not fits(arrays, question.shapes):
            raise FederationError(
                f"the sum of {purpose} round {round + 1} is absurd: a site sent another vector "
                "than it was asked for; charges are kept"
            )
        return Sum(arrays=arrays, each={}, nodes=tuple(nodes), std=grid.std)

    def _vectors(
        self, question: Question, number: int, round: Round, nodes: Sequence[int]
    ) -> dict[str, NDArray[np.uint64]]:
        got = self._ask(question, number, nodes, participants=list(round.participants))
        expected = {MASKED: (round.dimension,)}
        return {
            self._names[node]: release.arrays[MASKED]
            for node, release in got.items()
            if fits(release.arrays, expected, np.uint64)
        }

    def _participants(self, purpose: str) -> list[int]:
        """Return who is named next: all that are not missing, or are back."""
        due = [node for node in sorted(self._missing) if self._patience[node].due()]
        if due:
            self._missing -= self._ready(due)
        nodes = sorted(set(self._names) - self._missing)
        if len(nodes) < self._terms.min_sites:
            # Before the run ends, everybody is asked once more.
            self._missing -= self._ready(sorted(self._missing))
            nodes = sorted(set(self._names) - self._missing)
        if len(nodes) < self._terms.min_sites:
            gone = _listed(self._names[node] for node in self._missing)
            raise FederationError(
                f"{len(nodes)} of {len(self._names)} sites are left for {purpose}, "
                f"{self._terms.min_sites} are needed; nothing that fits came from {gone}; charges "
                "are kept"
            )
        return nodes

    def _lose(self, lost: Sequence[int], purpose: str, round: int) -> None:
        self.abandoned[purpose] += 1
        self.lost[purpose] += len(lost)
        self._missing |= set(lost)
        names = _listed(self._names[node] for node in lost)
        LOG.warning("%s round %d is lost with %s", purpose, round + 1, names)


class _Patience:
    """When a site that is missing is asked again whether it is there."""

    def __init__(self) -> None:
        self._wait = self._left = 1

    def due(self) -> bool:
        """Count one round; say whether to ask."""
        self._left -= 1
        if self._left:
            return False
        self._wait *= 2
        self._left = self._wait
        return True


def summing(
    plan: Plan, views: Sequence[SiteView], *, fewest: int, ask: Ask, ready: Ready
) -> Summing:
    """Return what the plan's trust asks for."""
    if plan.trust == Trust.DISTRIBUTED:
        return Secure(plan, views, ask, ready)
    return Separate(plan, views, fewest, ask)


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    return ", ".join(every[:_NAMED]) + (" and more" if len(every) > _NAMED else "")
