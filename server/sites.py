"""The way to the sites by their names; which node a name is may change under way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from dp_risk.privacy.entries import verify_head
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.release import Release
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import FederationError, VerificationError
from server.budget import SiteView
from server.combining import Question
from server.exchange import ask, releases, statements, wait_for_nodes
from server.heads import signers
from server.job import Federation

LOG = logging.getLogger("dp_risk.server")
# Seconds that a site has to say that it is there.
_READY_SECONDS = 5.0
# Seconds after which the sites of a new run are looked up again.
_FIRST_SECONDS = 25.0
# The message that ends a run.
CLOSE = "query.close"
Values = Mapping[str, Any] | Callable[[str], Mapping[str, Any]]


class Sites:
    """The sites of one run.

    A name belongs to the key that first used it in this run: another node that uses the name, or a
    node whose statement is not signed with that key, is nobody.

    Parameters
    ----------
    grid : Grid
        Flower's way to the nodes.
    settings : Federation
        How many sites, and how long to wait.
    keys : mapping of str to str
        Public key of each site that is known already: those of a resumed run.
    roster : mapping of str to str, or None
        Ledger key of every site that may take part; None lets in whoever is there.
    """

    def __init__(
        self,
        grid: Grid,
        settings: Federation,
        keys: Mapping[str, str],
        roster: Mapping[str, str] | None = None,
    ) -> None:
        self._grid: Any = grid
        self._roster = roster
        self._settings = settings
        self._keys = dict(keys)
        self._nodes: dict[str, int] = {}
        self.refused: set[str] = set()
        """Sites that answered the last `views` with a refusal; who was silent is not among them."""

    def find(self) -> list[SiteView]:
        """Wait for the sites of a new run and return what they state.

        Raises
        ------
        FederationError
            If too few are there in time, or one states nothing.
        """
        settings, said = self._settings, dict[int, Mapping[str, Any]]()
        deadline = time.monotonic() + settings.timeout
        while True:
            nodes = wait_for_nodes(self._grid, settings.sites, settings.timeout)
            left = max(deadline - time.monotonic(), 1.0)
            silent = [node for node in nodes if node not in said]
            answers = ask(self._grid, silent, "query.status", {}, None, min(left, _FIRST_SECONDS))
            said |= {n: s for n, s in statements(answers).items() if self._belongs(n, s)}
            missing = [node for node in nodes if node not in said]
            # Who refuses has answered; who is silent may have lost its connection.
            if not missing or answers.keys() & set(missing) or time.monotonic() > deadline:
                break
        if missing:
            raise FederationError(f"{len(missing)} sites did not state their budget")
        views = [SiteView(statement=said[node]) for node in nodes]
        self._keys = {view.site: view.key for view in views}
        self._nodes = {view.site: node for view, node in zip(views, nodes, strict=True)}
        return sorted(views, key=lambda view: view.site)

    def views(self, names: Sequence[str], kind: str, values: Values) -> list[SiteView]:
        """Return the statements that these sites answer with; refusals are left out."""

        def of(node: int) -> Mapping[str, Any]:
            return values(by_node[node]) if callable(values) else values

        by_node = {self._nodes[name]: name for name in names if name in self._nodes}
        answers = ask(self._grid, sorted(by_node), kind, of, None, self._settings.timeout)
        stated = statements(answers, closing=kind == CLOSE)
        said = {n: s for n, s in stated.items() if self._belongs(n, s)}
        self.refused = {by_node[node] for node in answers if node not in said}
        views = [SiteView(statement=s) for node, s in said.items() if self._is(by_node[node], s)]
        return sorted(views, key=lambda view: view.site)

    def back(self, names: Sequence[str], seconds: float) -> set[str]:
        """Wait until all these sites are there; return those that are after so many seconds."""
        deadline, there = time.monotonic() + seconds, self.ready(names)
        while there != set(names) and time.monotonic() < deadline:
            time.sleep(1.0)
            there |= self.ready(names)
        return there

    def ready(self, names: Sequence[str]) -> set[str]:
        """Return which of these sites are there now, under whatever node."""
        here = set(self._grid.get_node_ids())
        placed = {node: name for name, node in self._nodes.items()}
        nodes = [node for node in sorted(here) if placed.get(node) in names or node not in placed]
        seconds = min(self._settings.timeout, _READY_SECONDS)
        found = set()
        for node, said in self._said(nodes, "query.status", {}, seconds).items():
            name = str(said["site"])
            if name in names and self._is(name, said):
                self._nodes[name] = node
                found.add(name)
        return found

    def releases(
        self, plan: Plan, question: Question, round: int, names: Sequence[str], **more: Any
    ) -> dict[str, Release | str]:
        """Ask sites for one round; return what they signed for it, or why that is not believed."""
        kind = "train" if question.purpose == TRAINING else f"query.{question.purpose}"
        values = {"plan": plan.digest, "round": round, **question.more, **more}
        weights = question.weights
        at = None if weights is None else {k: np.asarray(v) for k, v in weights.items()}
        by_node = {self._nodes[name]: name for name in names if name in self._nodes}
        keys = {node: self._keys[name] for node, name in by_node.items()}
        answers = ask(self._grid, sorted(by_node), kind, values, at, self._settings.seconds)
        got = releases(answers, keys, run=plan.run, purpose=question.purpose, round=round)
        return {by_node[node]: release for node, release in got.items()}

    def _said(self, nodes: list[int], kind: str, values: Any, seconds: float) -> Any:
        said = statements(ask(self._grid, nodes, kind, values, None, seconds))
        return {node: one for node, one in said.items() if self._belongs(node, one)}

    def _belongs(self, node: int, said: Mapping[str, Any]) -> bool:
        """Whether a node speaks of itself: its site's name, and the key that it was admitted with.

        That key may have signed for a later one since.
        """
        if self._roster is None:
            return True
        name = self._grid.site(node)
        try:
            good = said["site"] == name and self._roster.get(name) in signers(said)
        except VerificationError:
            good = False
        if not good:
            LOG.warning("%s does not state what the roster says of it", name or "a stranger")
        return good

    def _is(self, name: str, said: Mapping[str, Any]) -> bool:
        """Whether a statement is of the site with this name."""
        signed = verify_head(str(said["key"]), said["ledger_head"], said["ledger_signature"])
        return said["site"] == name and said["key"] == self._keys.get(name) and signed
