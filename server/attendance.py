"""Which sites are named for the next round: those that are there, and those that are back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from dp_risk.types import FederationError

_NAMED = 5
_POLL_SECONDS = 1.0


class Ready(Protocol):
    """The way to sites that did not answer."""

    def __call__(self, sites: Sequence[str]) -> set[str]:
        """Return those that are there."""
        ...


class Attendance:
    """The sites of a run, and which of them are missing.

    A site that does not answer is left out of the next round, and named again once it is there;
    it is asked whether it is after 1, 2, 4, ... rounds. The waits go on growing when it is lost
    again: a site that says that it is there and never answers costs few rounds.

    Parameters
    ----------
    sites : iterable of str
        All sites of the run.
    fewest : int
        Sites that a round needs.
    ready : Ready
        Whether a site answers again.
    seconds : float
        How long to wait for sites when too few are there.
    pause : callable, optional
        Sleeps so many seconds.
    """

    def __init__(
        self,
        sites: Iterable[str],
        *,
        fewest: int,
        ready: Ready,
        seconds: float,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.sites = tuple(sorted(sites))
        self.fewest = fewest
        self._ready = ready
        self._seconds = seconds
        self._pause = pause
        self._patience = {site: _Patience() for site in self.sites}
        self._missing: set[str] = set()

    def named(self, purpose: str) -> list[str]:
        """Return who is named next: all that are not missing, or are back.

        Raises
        ------
        FederationError
            If too few sites are there, for as long as there is patience.
        """
        due = [site for site in sorted(self._missing) if self._patience[site].due()]
        self.back(due)
        if not self._wait(self.sites, self.fewest):
            here = len(self.sites) - len(self._missing)
            raise FederationError(
                f"{here} of {len(self.sites)} sites are left for {purpose}, {self.fewest} are "
                f"needed; nothing that fits came from {listed(self._missing)}; charges are kept"
            )
        return [site for site in self.sites if site not in self._missing]

    def recover(self, silent: Sequence[str], named: Sequence[str]) -> set[str]:
        """Return those of the silent that are there; wait where too few of the named would be."""
        self.lose(silent)
        self.back(silent)
        self._wait(named, self.fewest)
        return set(silent) - self._missing

    def _wait(self, sites: Sequence[str], needed: int) -> bool:
        """Return once so many of these sites are not missing, or patience is at its end."""
        deadline = time.monotonic() + self._seconds
        while len(set(sites) - self._missing) < needed:
            # Before a run ends, everybody is asked.
            self.back([site for site in sites if site in self._missing])
            if len(set(sites) - self._missing) >= needed:
                break
            if time.monotonic() > deadline:
                return False
            self._pause(_POLL_SECONDS)
        return True

    def back(self, sites: Sequence[str]) -> set[str]:
        """Ask sites whether they are there; return those that are, which are missing no more."""
        there = self._ready(sites) if sites else set()
        self._missing -= there
        return there

    def lose(self, sites: Iterable[str]) -> None:
        """Leave sites out until they are back."""
        self._missing |= set(sites)

    @property
    def state(self) -> dict[str, Any]:
        """What `restore` takes, as JSON data."""
        waits = {site: [p.wait, p.left] for site, p in self._patience.items()}
        return {"missing": sorted(self._missing), "patience": waits}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._missing = set(state["missing"])
        for site, (wait, left) in state["patience"].items():
            self._patience[site] = _Patience(wait, left)


class _Patience:
    """When a site that is missing is asked again whether it is there."""

    def __init__(self, wait: int = 1, left: int = 1) -> None:
        self.wait, self.left = wait, left

    def due(self) -> bool:
        """Count one round; say whether to ask."""
        self.left -= 1
        if self.left > 0:
            return False
        self.wait *= 2
        self.left = self.wait
        return True


def listed(names: Iterable[str]) -> str:
    """Return the first names in one line."""
    every = sorted(names)
    return ", ".join(every[:_NAMED]) + (" and more" if len(every) > _NAMED else "")
