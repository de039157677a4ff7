"""How many units the sites hold, as they declare or release it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.planning import check_delta
from dp_risk.privacy.schedule import COUNTS
from server import robust
from server.budget import SiteView
from server.combining import Question
from server.summing import Summing


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of training units.

    Parameters
    ----------
    known : mapping of site to float
        What sites declared or released.
    each : mapping of site to float
        One for every site: where its own is not known it counts as an average one.
    total : float
        Of all sites; of those that may lie no more is believed than honest ones hold.
    """

    known: Mapping[str, float]
    each: Mapping[str, float]
    total: float

    def most(self, sites: Sequence[str]) -> float:
        """Return how many units an answer of these sites can hold.

        Of one site its own number, or the largest that is known; of several that of all sites.
        """
        if len(sites) > 1 or not self.known:
            return self.total
        return self.known.get(sites[0], max(self.known.values()))


def find(plan: Plan, sums: Summing, views: Sequence[SiteView], byzantine: int) -> Sizes:
    """Return what sites declared, or ask them to release it.

    Raises
    ------
    FederationError
        If too few sites answer.
    ConfigurationError
        If delta does not fit the released number.
    """
    if not plan.counts_noise:
        known = {view.site: float(view.units or 0) for view in views}
        return Sizes(known=known, each=known, total=_total(known, byzantine))
    counts = sums(Question(purpose=COUNTS, shapes={"units": (1,)}, apart=True))
    known = {site: max(1.0, float(a["units"][0])) for site, a in counts.each.items()}
    released = _total(known, byzantine) if known else float(counts.arrays["units"][0])
    mean = max(1.0, released / len(counts.sites))
    each = {view.site: known.get(view.site, mean) for view in views}
    total = _total(each, byzantine)
    check_delta(plan.delta, round(total), where="released")
    return Sizes(known=known, each=each, total=total)


def _total(sizes: Mapping[str, float], byzantine: int) -> float:
    return sum(robust.believed(list(sizes.values()), byzantine))
