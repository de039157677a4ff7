"""What the opponent sees of the rounds: releases of sites, or sums of which it knows some shares.

In trust local the server sees every site's release. In trust distributed it sees masked vectors,
their sum once all sites have answered, and all that the colluding sites know: their own shares,
which it takes away. What is left holds the noise that is accounted, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.site import RUNS
from dp_risk import models
from dp_risk.audit.noise import planned_std, planned_step
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.evaluation.bins import CELLS
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.privacy.schedule import COUNTS, EVALUATION, MAX_CELLS, SCORE_BINS, SUBGROUPS, TRAINING
from dp_risk.secure_sum.masks import Round, mask, pair_key, unmask
from dp_risk.secure_sum.session import MASKED
from dp_risk.secure_sum.store import RunKeys
from dp_risk.secure_sum.terms import Terms
from dp_risk.wire import Request
from server.aggregation import Shapes, parts

SUM = "the sum"


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One noisy output as the opponent sees it.

    Parameters
    ----------
    source : str
        Name of the site, or `SUM`.
    purpose, round : str, int
        Of which line of the schedule.
    arrays : mapping of str to ndarray of float64
        What it holds.
    """

    source: str
    purpose: str
    round: int
    arrays: Mapping[str, NDArray[Any]]


class Opponent:
    """Collects views from the releases as they arrive.

    Parameters
    ----------
    folders : mapping of str to Path
        Site folders by name.
    schema : Schema
        The run's schema.

    Attributes
    ----------
    views : list of View
        What it sees, in order.
    masked : mapping of str to list of ndarray of uint64
        Masked vectors, by site.
    """

    def __init__(self, folders: Mapping[str, Path], schema: Schema) -> None:
        self.views: list[View] = []
        self.masked: dict[str, list[NDArray[np.uint64]]] = {}
        self._folders = folders
        self._coding = Coding(schema=schema)
        self._waiting: dict[Any, dict[str, NDArray[np.uint64]]] = {}
        self._shares: dict[Any, NDArray[np.uint64]] = {}

    def hear(self, plan: Plan | None, site: str, asked: Request, release: Release) -> None:
        """Take in one release, and the request that it answers."""
        purpose, number = release.purpose, release.round
        named = asked.values.get("participants")
        if named is None or plan is None or plan.run != release.run:
            if named is None:
                self.views.append(
                    View(source=site, purpose=purpose, round=number, arrays=release.arrays)
                )
            return
        terms, names = Terms.of(plan, plan.participants), sorted(named)
        this = terms.round(purpose, terms.numbers(purpose)[number], names, asked.digest)
        vector = release.arrays[MASKED]
        self.masked.setdefault(site, []).append(vector)
        vectors = self._waiting.setdefault(this, {})
        vectors[site] = vector
        colluding = names[len(names) - terms.max_colluding :]
        if site in colluding:
            own = vector - mask(self._pairs(site, plan.run), site=site, round=this)
            self._shares[this] = self._shares.get(this, np.zeros_like(own)) + own
        if len(vectors) < len(names):
            return
        del self._waiting[this]
        total = unmask(vectors, this) - self._shares.pop(this).view(np.int64)
        grid = terms.line(purpose).grid(len(names), terms.max_colluding)
        arrays = parts(grid.decode(total), self._shapes(plan, this))
        self.views.append(View(source=SUM, purpose=purpose, round=number, arrays=arrays))

    def _pairs(self, site: str, run: str) -> dict[str, bytes]:
        """Return the keys that a colluding site shares with the others."""
        store = RunKeys(self._folders[site] / RUNS)
        secret = store.secret(run)
        return {
            said.site: pair_key(secret, site, said.site, said.public_key, run)
            for said in store.kept(run)
            if said.site != site
        }

    def _shapes(self, plan: Plan, this: Round) -> Shapes:
        cells = {SCORE_BINS: CELLS, EVALUATION: MAX_CELLS, SUBGROUPS: MAX_CELLS}
        if this.purpose in cells:
            return {"histogram": (cells[this.purpose],)}
        if this.purpose == COUNTS:
            return {"units": (1,)}
        module = models.build(plan.model, plan.model_options, self._coding, plan.seed)
        return {n: tuple(p.shape) for n, p in module.named_parameters() if p.requires_grad}


def noise_of(plan: Plan, purpose: str, sites: int) -> tuple[float, float | None]:
    """Return the standard deviation of a view's noise and the step of its grid.

    By the audit's own arithmetic. Where sums are of whole numbers in any case the step is None.

    Parameters
    ----------
    plan : Plan
        The plan.
    purpose : str
        Which line of its schedule.
    sites : int
        Sites of a round.
    """
    summed = plan.sums[purpose]
    numbers = (summed.clip_norm, summed.noise_multiplier, summed.dimension)
    times = math.sqrt(plan.steps_per_round if purpose == TRAINING else 1)
    if plan.max_colluding is not None:
        return times * planned_std(*numbers, shares=sites - plan.max_colluding), None
    return times * planned_std(*numbers), planned_step(*numbers)[0]
