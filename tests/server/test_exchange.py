from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Message, RecordDict

from clients.app import make_app
from clients.site import Site
from dp_risk import wire
from dp_risk.privacy import keys
from dp_risk.privacy.entries import CONTEXT as HEADS
from dp_risk.privacy.release import CONTEXT, Release, arrays_digest, receipt
from dp_risk.types import FederationError
from server.exchange import ask, releases, statements, wait_for_nodes
from server.grids import InProcessGrid

HEAD = "0" * 64
SITE_KEY, OTHER_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))


def released(
    round: int = 0,
    run: str = "run-1",
    purpose: str = "training",
    key: Ed25519PrivateKey = SITE_KEY,
) -> RecordDict:
    arrays = {"w": np.arange(3.0)}
    digest = arrays_digest(arrays)
    return wire.release_record(
        Release(
            run=run,
            purpose=purpose,
            round=round,
            arrays=arrays,
            digest=digest,
            ledger_head=HEAD,
            signature=keys.sign(key, CONTEXT, receipt(run, purpose, round, digest, HEAD)),
        )
    )


def test_nodes_come_in_order_and_no_more_than_asked(sites: Callable[..., list[Path]]) -> None:
    folders = {9 - n: str(folder) for n, folder in enumerate(sites(3))}
    grid = InProcessGrid(make_app(), folders)
    assert wait_for_nodes(grid, 2, 1.0) == [7, 8]


def test_too_few_nodes_is_a_federation_failure() -> None:
    grid = InProcessGrid(make_app(), {2: "a"})
    with pytest.raises(FederationError, match="1 of 2 sites"):
        wait_for_nodes(grid, 2, 1e-6)


def test_every_site_answers_for_itself(sites: Callable[..., list[Path]]) -> None:
    grid = InProcessGrid(make_app(), {n + 2: str(f) for n, f in enumerate(sites(3))})
    said = statements(ask(grid, [2, 4], "query.status", {}, None, 5.0))
    assert {node: s["site"] for node, s in said.items()} == {2: "site-00", 4: "site-02"}


def test_refusals_and_malformed_answers_are_no_statements(site: Path) -> None:
    honest = Site.open(site).statement(None)
    answers = {
        1: wire.refusal_record(),
        2: RecordDict(),
        3: RecordDict({"statement": ConfigRecord({"json": "{"})}),
        4: RecordDict({"statement": ConfigRecord({"json": "[1]"})}),
        5: RecordDict({"statement": ConfigRecord({"words": "{}"})}),
        6: released(),
        7: wire.statement_record({"site": "a"}),
        8: wire.statement_record(honest),
    }
    assert statements(answers) == {8: honest}


def test_only_releases_of_this_round_count() -> None:
    spoilt = released()
    spoilt["arrays"] = wire.arrays_to_record({"w": np.zeros(3)})
    # Behind the site's gate: other arrays with their own digest under the old head and signature.
    swapped, headed = released(), released()
    arrays = {"w": np.zeros(3)}
    swapped["arrays"] = wire.arrays_to_record(arrays)
    swapped.config_records["receipt"]["digest"] = arrays_digest(arrays)
    headed.config_records["receipt"]["signature"] = keys.sign(SITE_KEY, HEADS, HEAD.encode())
    half = released()
    del half["receipt"]
    answers = {
        1: wire.refusal_record(),
        2: released(round=1),
        3: released(run="run-2"),
        4: released(purpose="counts"),
        5: spoilt,
        6: half,
        7: wire.statement_record({}),
        8: released(),
        9: released(key=OTHER_KEY),
        10: swapped,
        11: headed,
    }
    public = dict.fromkeys(answers, keys.public_hex(SITE_KEY))
    found = releases(answers, public, run="run-1", purpose="training", round=0)
    reasons = {node: found.pop(node) for node in answers if isinstance(found[node], str)}
    assert set(found) == {8}
    assert reasons == {
        1: "refused",
        2: "stale: of another round",
        3: "of another run",
        4: "for another purpose",
        **dict.fromkeys((5, 6, 7), "no release, or not what its digest says"),
        **dict.fromkeys((9, 10, 11), "not signed with the site's key"),
    }
    assert found[8].arrays["w"].tolist() == [0.0, 1.0, 2.0]


class Losing(InProcessGrid):
    """A grid on which every node's first messages get lost on their way to it."""

    def __init__(self, folders: dict[int, str], lost: int) -> None:
        super().__init__(make_app(), folders)
        self.lost, self.sent = lost, Counter[int]()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            self.sent[node] += 1
            if self.sent[node] <= self.lost:
                ids.append(f"lost-{node}-{self.sent[node]}")
            else:
                ids += super().push_messages([message])
        return ids


def test_who_is_silent_is_asked_again(
    sites: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.exchange._AGAIN_SECONDS", 0.2)
    grid = Losing({n + 2: str(f) for n, f in enumerate(sites(3))}, lost=2)
    said = statements(ask(grid, [2, 3, 4], "query.status", {}, None, 20.0))
    assert [said[node]["site"] for node in (2, 3, 4)] == ["site-00", "site-01", "site-02"]
    assert grid.sent == {2: 3, 3: 3, 4: 3}


def test_who_stays_silent_is_asked_ever_more_rarely(
    sites: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.exchange._AGAIN_SECONDS", 0.1)
    grid = Losing({2: str(sites(1)[0])}, lost=10**6)
    assert ask(grid, [2], "query.status", {}, None, 1.2) == {}
    # At 0, .1, .3 and .7 seconds, where the machine is quick.
    assert 2 <= grid.sent[2] <= 4
