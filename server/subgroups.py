"""Utility by subgroup from the sites' noisy histograms: all of it is post-processing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dp_risk.data.coding import Coding
from dp_risk.data.groups import MISSING, OTHER, group_names
from dp_risk.evaluation.bins import joined, nearest_edge
from dp_risk.evaluation.private_subgroups import KNOWN_STDS, estimate_group
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import MAX_CELLS, SUBGROUPS
from server.evaluation import HISTOGRAM, Ask, Seen

_DRAWS = 1000
# More bins say more of each group, and hold more noise together.
_MOST_BINS = 8


def evaluate(
    plan: Plan, ask: Ask, seen: Seen, coding: Coding, *, capacity: float
) -> Iterator[dict[str, Any]]:
    """Ask for one histogram a column and estimate the utility of each group.

    Parameters
    ----------
    plan : Plan
        The run's plan, which names the columns.
    ask : callable
        As in `server.evaluation.evaluate`; it takes a `column` too.
    seen : Seen
        The evaluation of all units together. Its bins are joined to a few; the edge nearest to its
        threshold stays, and units above that are flagged.
    coding : Coding
        Of the schema.
    capacity : float
        Share of units that can be reviewed, in (0, 1).

    Yields
    ------
    dict
        A column as soon as it is known: ``column, source, capacity, threshold, noise_std, sites,
        overall, groups``, as in ``run.json``; ``noise_std`` is the standard deviation of the noise
        in a group's number of units. A group for every value of the schema, and for other and
        missing values where they stand out of the noise.

    Raises
    ------
    FederationError
        If too few sites answer.
    """
    # Without a threshold that is known, the highest bin is flagged.
    nearest = nearest_edge(seen.bins, 1.0 if math.isnan(seen.threshold) else seen.threshold)
    threshold = 1 / (1 + math.exp(-float(seen.bins.edges[nearest])))
    noisy = {"draws": _DRAWS, "seed": plan.seed}
    overall = estimate_group(
        seen.histogram, seen.bins, flagged=nearest + 1, noise_std=seen.noise_std, **noisy
    )
    for column in plan.subgroups:
        names = group_names(coding, column)
        most = min(_MOST_BINS, MAX_CELLS // (2 * len(names)))
        bins, flagged = joined(seen.bins, most=most, kept=nearest)
        shape = (len(names), 2, len(bins))
        got = ask(SUBGROUPS, math.prod(shape), edges=[float(e) for e in bins.edges], column=column)
        groups = [
            estimate_group(counts, bins, flagged=flagged, noise_std=got.std, **noisy)
            for counts in got.arrays[HISTOGRAM].reshape(shape)
        ]
        noise_std = got.std * math.sqrt(2 * len(bins))
        yield {
            "column": column,
            "source": "charged",
            "capacity": capacity,
            "threshold": threshold,
            "noise_std": noise_std,
            "sites": len(got.sites),
            "overall": overall.to_dict(),
            "groups": [
                {"value": name, **group.to_dict()}
                for name, group in zip(names, groups, strict=True)
                if name not in (OTHER, MISSING) or group.units >= KNOWN_STDS * noise_std
            ],
        }
