"""What a plan's trust means for a round: sums of what sites release, or one secure sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.secure_sum.masks import Round, unmask
from dp_risk.secure_sum.session import MASKED
from dp_risk.secure_sum.terms import Terms
from dp_risk.types import FederationError, Trust
from server.aggregation import Shapes, Weights, parts, total
from server.judging import misfit


class Longest(Protocol):
    """How long an honest answer can be."""

    def __call__(self, sites: Sequence[str], noises: float) -> float:
        """Return the largest L2 norm of an answer of these sites together.

        `noises` says how often the noise that is accounted is in it.
        """
        ...


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
    apart : bool
        Whether the sites' own answers are wanted beside their sum, where they can be seen.
    longest : Longest or None
        How long an honest answer can be; None where that is not known.
    """

    purpose: str
    shapes: Shapes
    weights: Weights | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False
    longest: Longest | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum:
    """A noisy sum.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The sum over sites, noise included.
    each : mapping of site to mapping of str to ndarray
        What every single site released; empty where nobody sees that, or nobody asked.
    sites : tuple of str
        The sites that are in it.
    std : float
        Standard deviation of the noise in a coordinate, 0 where there is none.
    dropped : mapping of site to str
        Why an answer that came is not in it.
    """

    arrays: Weights
    each: Mapping[str, Weights]
    sites: tuple[str, ...]
    std: float
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question in one round, to the sites that are named for it."""

    question: Question
    round: int
    sites: tuple[str, ...]


class Combining(Protocol):
    """What a plan's trust means for a round."""

    @property
    def all_needed(self) -> bool:
        """Whether the named sites must know each other, and nothing can be read without one."""
        ...

    @property
    def noises(self) -> float:
        """How often a sum over all sites holds the noise that is accounted."""
        ...

    def misfit(self, site: str, release: Release, asked: Asked) -> str | None:
        """Return why a site's release cannot be part of the sum; None where it can."""
        ...

    def sum(self, releases: Mapping[str, Release], asked: Asked) -> Sum:
        """Return the sum of releases that fit, by site.

        Raises
        ------
        FederationError
            If the sum is absurd.
        """
        ...


class Separate:
    """Every site's release can stand alone; a sum of those that came is made here.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    """

    all_needed = False

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def noises(self) -> float:
        """Every site adds all of the noise."""
        return float(len(self._plan.participants))

    def misfit(self, site: str, release: Release, asked: Asked) -> str | None:
        """Return why a release is not what was asked for, or no honest answer to it."""
        question = asked.question
        longest = math.inf if question.longest is None else question.longest([site], 1.0)
        return misfit(release.arrays, question.shapes, longest=longest)

    def sum(self, releases: Mapping[str, Release], asked: Asked) -> Sum:
        """Add up what came."""
        names = tuple(sorted(releases))
        return Sum(
            arrays=total([releases[name].arrays for name in names]),
            each={n: releases[n].arrays for n in names} if asked.question.apart else {},
            sites=names,
            std=self._std(asked.question, len(names)),
        )

    def _std(self, question: Question, sites: int) -> float:
        if not self._plan.private:
            return 0.0
        dimension = sum(math.prod(shape) for shape in question.shapes.values())
        summed = replace(self._plan.sums[question.purpose], dimension=dimension)
        return summed.grid.std * math.sqrt(sites)


class Secure:
    """Only the sum over all sites that were named can be read; with any one missing, nothing.

    Parameters
    ----------
    plan : Plan
        The run's plan.
    """

    all_needed = True

    def __init__(self, plan: Plan) -> None:
        self._terms = Terms.of(plan, plan.participants)
        self._sites = len(plan.participants)

    @property
    def noises(self) -> float:
        """The shares of those that may collude come on top of what is accounted."""
        return self._sites / (self._sites - self._terms.max_colluding)

    def misfit(self, site: str, release: Release, asked: Asked) -> str | None:  # noqa: ARG002
        """Return why a release is no masked vector of the right length: nothing else shows."""
        return misfit(release.arrays, {MASKED: (self._round(asked).dimension,)}, kind=np.uint64)

    def sum(self, releases: Mapping[str, Release], asked: Asked) -> Sum:
        """Take the masks off by adding up."""
        question, terms = asked.question, self._terms
        vectors = {name: release.arrays[MASKED] for name, release in releases.items()}
        grid = terms.line(question.purpose).grid(len(asked.sites), terms.max_colluding)
        arrays = parts(grid.decode(unmask(vectors, self._round(asked))), question.shapes)
        longest = math.inf
        if question.longest is not None:
            sites = len(asked.sites)
            longest = question.longest(asked.sites, sites / (sites - terms.max_colluding))
        reason = misfit(arrays, question.shapes, longest=longest)
        if reason is not None:
            raise FederationError(
                f"the sum of {question.purpose} round {asked.round + 1} is absurd, {reason}: a "
                "site sent another vector than it was asked for; nobody can say which; charges "
                "are kept"
            )
        return Sum(arrays=arrays, each={}, sites=asked.sites, std=grid.std)

    def _round(self, asked: Asked) -> Round:
        purpose = asked.question.purpose
        number = self._terms.numbers(purpose)[asked.round]
        return self._terms.round(purpose, number, asked.sites)


def combining(plan: Plan) -> Combining:
    """Return what the plan's trust asks for."""
    return Secure(plan) if plan.trust == Trust.DISTRIBUTED else Separate(plan)
