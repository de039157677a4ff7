"""One site in a run whose noise all sites add together, before a server that lies."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.noising import flat
from clients.site import RUNS, Site
from dp_risk import wire
from dp_risk.privacy import keys
from dp_risk.privacy.accounting import Event, calibrate
from dp_risk.privacy.plan import Plan
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.masks import unmask
from dp_risk.secure_sum.terms import Terms
from tests.federation import (
    DELTA,
    Server,
    history,
    kinds,
    make_site,
    plan,
    policy,
    refused,
    roster,
    rows,
    signing_key,
    together,
    weights,
)

COUNT = 4
NAMES = sorted(roster(COUNT))


def shared_plan(**changes: Any) -> Plan:
    """Return a plan of four sites that the private policy allows."""
    noise = calibrate(
        2.0, DELTA, sampling_rate=1.0, count=5, others=(Event(noise_multiplier=30.0, count=3),)
    )
    values = {
        "trust": "distributed", "max_colluding": 1, "min_sites": 3, "participants": roster(COUNT),
        "spares": 2, "noise_multiplier": noise, "counts_noise": 30.0, "score_bins_noise": 20.0,
        "evaluation_noise": 10.0,
    }  # fmt: skip
    return plan(**{**values, **changes})


@pytest.fixture
def servers(tmp_path: Path) -> list[Server]:
    """Four sites, each of which forgets everything between two messages."""
    table = rows()
    return [
        Server(
            make_site(
                tmp_path / name,
                table.take(list(range(number, 300, COUNT))),
                policy(site=name, **together(COUNT)),
            )
        )
        for number, name in enumerate(NAMES)
    ]


def enrolled(servers: list[Server], asked: Plan) -> list[dict[str, str]]:
    """Enrol everywhere; return what the sites say to each other."""
    return [wire.read_statement(server.enrol(asked))["enrolment"] for server in servers]


def meet(server: Server, asked: Plan, said: Any) -> RecordDict:
    return server.ask("query.meet", {"plan": asked.digest, "run": asked.run, "enrolments": said})


@pytest.fixture
def met(servers: list[Server]) -> list[Server]:
    """Four sites that know each other and may be asked."""
    said = enrolled(servers, shared_plan())
    for server in servers:
        assert not refused(meet(server, shared_plan(), said))
    return servers


def train(server: Server, round: Any = 0, names: Any = NAMES, **more: Any) -> RecordDict:
    return server.train(shared_plan(), round, participants=names, **more)


def test_the_sum_of_all_answers_is_the_gradient_of_all_rows(met: list[Server]) -> None:
    asked = shared_plan()
    vectors = {
        name: wire.read_release(train(server)).arrays["masked"]
        for name, server in zip(NAMES, met, strict=True)
    }
    terms = Terms.of(asked, asked.participants)
    this = terms.round("training", terms.numbers("training")[0], NAMES)
    grid = terms.line("training").grid(COUNT, 1)
    total = grid.decode(unmask(vectors, this))
    assert total.shape == (asked.dimension,)
    # At most one clip norm a unit, and the noise.
    assert np.abs(total).max() < 300 + 7 * grid.std
    less = {name: vectors[name] for name in NAMES[1:]}
    rest = terms.round("training", this.r, NAMES[1:])
    assert np.abs(grid.decode(unmask(less, rest))).max() > 1e6


@pytest.mark.parametrize(
    "other", [{"at": weights(900.0)}, {"names": NAMES[::-1]}, {"why": "you"}], ids=["at", "u", "w"]
)
def test_what_was_asked_differently_is_not_summed(met: list[Server], other: dict[str, Any]) -> None:
    # With weights that leave the others no gradient, the sum would be that of one site.
    asked = shared_plan()
    answers = [train(met[0]), *(train(server, **other) for server in met[1:])]
    vectors = {
        name: wire.read_release(answer).arrays["masked"]
        for name, answer in zip(NAMES, answers, strict=True)
    }
    terms = Terms.of(asked, asked.participants)
    this = terms.round("training", terms.numbers("training")[0], NAMES)
    grid = terms.line("training").grid(COUNT, 1)
    assert np.abs(grid.decode(unmask(vectors, this))).max() > 1e6


@pytest.mark.parametrize("value", [1e3, -1e3, 1e-300, -0.0])
def test_no_weights_that_are_taken_make_an_answer_depend_on_rows(
    servers: list[Server], tmp_path: Path, value: float
) -> None:
    # The same words whether the site holds many rows or none that can be read.
    asked = shared_plan()
    empty = make_site(
        tmp_path / "empty", rows().slice(0, 1), policy(site="site-03", **together(COUNT))
    )
    everyone = [*servers[:3], Server(empty)]
    said = enrolled(everyone, asked)
    for server in everyone:
        assert not refused(meet(server, asked, said))
        assert not refused(train(server, at=weights(value)))
        values = {"plan": asked.digest, "round": 0, "participants": NAMES}
        assert not refused(server.ask("query.score_bins", values, weights(value)))
        assert not refused(
            server.ask("query.evaluation", {**values, "edges": [0.0]}, weights(value))
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1001.0])
def test_weights_that_are_none_cost_nothing(met: list[Server], bad: float) -> None:
    before = history(met[0].folder)
    assert refused(train(met[0], at=weights(bad)))
    assert history(met[0].folder) == before


@pytest.mark.parametrize("spares", [10**4, 10**9, 10**400, -1, True])
def test_spares_that_cost_more_than_the_plan_says_never_open(
    servers: list[Server], spares: Any
) -> None:
    assert refused(servers[0].enrol({**shared_plan().to_dict(), "spares": spares}))
    assert kinds(servers[0].folder) == ["open"]


def test_counts_and_scores_go_the_same_way(met: list[Server]) -> None:
    asked = shared_plan()
    for server in met:
        for kind, at, more in (
            ("query.counts", None, {}),
            ("query.score_bins", weights(), {}),
            ("query.evaluation", weights(), {"edges": [-1.0, 0.0, 1.0]}),
        ):
            values = {"plan": asked.digest, "round": 0, "participants": NAMES, **more}
            release = wire.read_release(server.ask(kind, values, at))
            assert set(release.arrays) == {"masked"}
            assert release.arrays["masked"].dtype == np.uint64


def _flip(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


def _second(said: list[dict[str, str]], **changes: str) -> list[dict[str, str]]:
    return [said[0], {**said[1], **changes}, *said[2:]]


# One thing that is wrong in what a server relays; the rest holds.
RELAYED: dict[str, Callable[[list[dict[str, str]]], Any]] = {
    "none": lambda said: [],
    "too few": lambda said: said[:2],
    "without this site": lambda said: said[1:],
    "one twice": lambda said: [*said, said[1]],
    "a bit of a key": lambda said: _second(said, public_key=_flip(said[1]["public_key"])),
    "another run": lambda said: _second(said, run="run-2"),
    "another name": lambda said: _second(said, site="site-09"),
    "a signature of another": lambda said: _second(said, signature=said[2]["signature"]),
    "one field less": lambda said: [said[0], {"site": "site-01"}, *said[2:]],
    "half a character": lambda said: _second(said, public_key="\ud800"),
    "no list": lambda said: {"site-00": said[0]},
    "numbers": lambda said: [1, 2, 3],
    "more than there are": lambda said: said * 50,
}  # fmt: skip


@pytest.mark.parametrize("lie", RELAYED.values(), ids=RELAYED)
def test_enrolments_that_do_not_hold_are_refused(servers: list[Server], lie: Any) -> None:
    said = enrolled(servers, shared_plan())
    assert refused(meet(servers[0], shared_plan(), lie(copy.deepcopy(said))))
    assert refused(train(servers[0]))
    assert kinds(servers[0].folder) == ["open", "reserve"]
    # The truth still holds afterwards.
    assert not refused(meet(servers[0], shared_plan(), said))


@pytest.mark.parametrize(
    "other", [{"clip_norm": 0.001}, {"min_sites": 4}, {"spares": 1}, {"seed": 1}], ids=str
)
def test_sites_with_two_plans_do_not_meet(servers: list[Server], other: dict[str, Any]) -> None:
    mine = enrolled(servers[:1], shared_plan())
    others = enrolled(servers[1:], shared_plan(**other))
    assert refused(meet(servers[0], shared_plan(), [*mine, *others]))
    assert refused(meet(servers[1], shared_plan(**other), [*mine, *others]))


def test_a_key_from_outside_the_roster_is_not_met(servers: list[Server], tmp_path: Path) -> None:
    # The outsider is named by the plan and signs well; the roster of the others has another key.
    said = enrolled(servers, shared_plan())
    outsider = Server(make_site(tmp_path / "x", rows(), policy(site="site-07", **together(8))))
    theirs = shared_plan(participants=roster(8))
    stranger = wire.read_statement(outsider.enrol(theirs))["enrolment"]
    assert stranger["site"] == "site-07"
    assert refused(meet(servers[0], shared_plan(), [*said, stranger]))
    assert refused(servers[0].enrol(shared_plan(run="run-2", participants=roster(8))))


def test_a_partner_that_the_plan_does_not_name_is_not_met(servers: list[Server]) -> None:
    # A colluding site of the roster signs a plan that is not for it.
    few = dict(list(roster(COUNT).items())[:3])
    asked = shared_plan(participants=few)
    said = enrolled(servers[:3], asked)
    fourth = Ed25519PrivateKey.from_private_bytes(signing_key("site-03"))
    more = Enrolment.make(
        terms=Terms.of(asked, roster(COUNT)), site="site-03", secret=bytes([3] * 32),
        sign=partial(keys.sign, fourth),
    )  # fmt: skip
    assert more.holds(Terms.of(asked, roster(COUNT)))
    assert refused(meet(servers[0], asked, [*said, more.to_dict()]))
    assert not refused(meet(servers[0], asked, said))


REQUESTS: dict[str, dict[str, Any]] = {
    "nobody": {"names": []},
    "not said": {"names": None},
    "fewer than min_sites": {"names": NAMES[:2]},
    "one twice": {"names": [*NAMES[:3], NAMES[0]]},
    "without this site": {"names": NAMES[1:]},
    "a stranger": {"names": [*NAMES, "site-09"]},
    "numbers": {"names": [0, 1, 2]},
    "half a character": {"names": [*NAMES, "\ud800"]},
    "other letters": {"names": [*NAMES[:3], "site-0\u0663"]},
    "one text": {"names": "site-00"},
    "beyond the schedule": {"round": 5},
    "before it": {"round": -1},
    "bins": {"edges": [0.0]},
}


@pytest.mark.parametrize("lie", REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_the_plan_does_not_allow_is_refused(
    met: list[Server], lie: dict[str, Any]
) -> None:
    before = history(met[0].folder)
    assert refused(train(met[0], **lie))
    assert history(met[0].folder) == before
    assert not refused(train(met[0]))


CHANGED: dict[str, dict[str, Any]] = {
    "participants": {"names": NAMES[:3]},
    "their order": {"names": NAMES[::-1]},
    "weights": {"at": weights(0.5)},
    "a word more": {"why": "again"},
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_one_round_is_answered_once(met: list[Server], change: dict[str, Any]) -> None:
    first = wire.read_release(train(met[0]))
    before = history(met[0].folder)
    assert refused(train(met[0], **change))
    again = wire.read_release(train(met[0]))
    assert again.digest == first.digest
    assert history(met[0].folder) == before


def test_a_round_that_was_paid_and_not_answered_never_is(
    met: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("clients.site.compute", lambda *_: 1 / 0)
        assert refused(train(met[0]))
    assert refused(train(met[0]))
    assert kinds(met[0].folder)[-1] == "charge"
    assert not refused(train(met[0], 1))


def test_two_rounds_with_the_same_weights_have_other_masks(met: list[Server]) -> None:
    one, two = (wire.read_release(train(met[0], r)).arrays["masked"] for r in (0, 1))
    assert not (one == two).any()


def test_a_run_that_was_closed_leaves_no_key(met: list[Server]) -> None:
    assert list((met[0].folder / RUNS).glob("run-1.*"))
    said = wire.read_statement(met[0].ask("query.close", {"run": "run-1"}))
    assert said["enrolment"] is None
    assert not list((met[0].folder / RUNS).glob("*"))
    assert refused(train(met[0]))
    assert not list((met[0].folder / RUNS).glob("*"))


def test_a_run_that_nobody_closed_leaves_no_key_when_the_next_one_opens(
    met: list[Server],
) -> None:
    met[0].enrol(shared_plan(run="run-2"))
    names = {path.name for path in (met[0].folder / RUNS).glob("*")}
    assert names == {"run-2.secret"}


def test_keys_of_a_ledger_that_was_lost_never_come_back(met: list[Server]) -> None:
    folder = met[0].folder
    before = json.loads((folder / RUNS / "run-1.enrolled").read_text())[0]
    # Whoever deletes all traces of the ledger may still leave the keys.
    for path in (*folder.glob("ledger.*"), *folder.glob("*.plan.json")):
        path.unlink()
    said = wire.read_statement(met[0].enrol(shared_plan()))["enrolment"]
    assert said["public_key"] != before["public_key"]
    # Nor does a run that goes on lose its own.
    assert wire.read_statement(met[0].enrol(shared_plan()))["enrolment"] == said
    assert refused(train(met[0]))


def test_a_site_says_the_same_of_itself_every_time(servers: list[Server]) -> None:
    first = enrolled(servers, shared_plan())
    assert enrolled(servers, shared_plan()) == first
    for server, said in zip(servers, first, strict=True):
        assert (
            wire.read_statement(server.ask("query.status", {"run": "run-1"}))["enrolment"] == said
        )
        assert wire.read_statement(server.ask("query.status", {}))["enrolment"] is None
        assert (
            wire.read_statement(server.ask("query.status", {"run": "run-9"}))["enrolment"] is None
        )


def test_where_each_site_adds_its_own_noise_there_is_nobody_to_meet(servers: list[Server]) -> None:
    said = enrolled(servers, shared_plan())
    alone = plan(run="run-2")
    assert wire.read_statement(servers[0].enrol(alone))["enrolment"] is None
    assert refused(meet(servers[0], alone, said))
    assert refused(servers[0].train(alone, participants=NAMES))
    assert not refused(servers[0].train(alone))


def test_a_policy_that_changes_its_roster_ends_the_run(met: list[Server]) -> None:
    rules = policy(site="site-00", **together(COUNT + 1))
    rules.save(met[0].folder / "policy.yaml")
    assert refused(train(met[0]))
    policy(site="site-00", **together(COUNT)).save(met[0].folder / "policy.yaml")
    assert not refused(train(met[0]))


NAMED = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5),
    st.lists(st.one_of(st.sampled_from([*NAMES, "site-09"]), st.integers()), max_size=6),
)  # fmt: skip


@given(NAMED)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_only_a_set_of_the_enrolled_with_this_site_is_answered(
    met: list[Server], names: Any
) -> None:
    allowed = (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names) >= 3
        and "site-00" in names
        and set(names) <= set(NAMES)
    )
    if not allowed:
        before = history(met[0].folder)
        assert refused(train(met[0], names=names))
        assert history(met[0].folder) == before


def test_a_site_opens_no_session_before_the_ledger_knows_the_run(servers: list[Server]) -> None:
    assert refused(meet(servers[0], shared_plan(), []))
    site = Site.open(servers[0].folder)
    assert site.statement("run-1")["enrolment"] is None
    site.ledger.close_file()
    assert not (servers[0].folder / RUNS).exists()


def test_arrays_are_put_one_after_another_in_their_order() -> None:
    assert flat([np.ones((2, 2)), np.zeros(1), np.full(2, 3.0)]).tolist() == [1, 1, 1, 1, 0, 3, 3]
