from __future__ import annotations

import logging
import math
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dp_risk.privacy.ledger import Ledger
from dp_risk.secure_sum import session as session_module
from dp_risk.secure_sum.masks import unmask
from dp_risk.secure_sum.session import MASKED
from dp_risk.secure_sum.terms import REFUSAL
from dp_risk.types import FederationError, Refused
from tests.secure_sum.sites import PLAN, RUN, federation, names, statement, summed

R = 2  # The first round of training.


@pytest.fixture
def sites(tmp_path):
    return federation(tmp_path)


def refused(call, *arguments, **named):
    with pytest.raises(Refused) as error:
        call(*arguments, **named)
    assert str(error.value) == REFUSAL


def paid(site) -> int:
    return sum(line.rounds for line in site.ledger.charged(RUN))


@pytest.mark.parametrize("purpose", ["counts", "training"])
def test_the_sum_is_the_plain_sum_of_the_noisy_shares(sites, purpose):
    r = sites["site-00"].terms.numbers(purpose)[0]
    found = summed(sites, r, purpose=purpose)
    grid = sites["site-00"].terms.line(purpose).grid(4, 1)
    assert np.array_equal(found, sum(grid.encode(site.share) for site in sites.values()))
    plain = sum(site.total(purpose) for site in sites.values())
    # Eight standard deviations in each of at most six coordinates: flake rate 8e-15.
    assert np.abs(grid.decode(found) - plain).max() < 8 * grid.std


def test_a_share_alone_is_hidden_by_its_mask(sites):
    masked = sites["site-01"].answer(R, list(sites)).arrays[MASKED]
    grid = sites["site-01"].terms.line("training").grid(4, 1)
    # Six words within 2**40 of the share by chance: 2**-138.
    distance = (masked - grid.encode(sites["site-01"].share).view(np.uint64)).view(np.int64)
    assert masked.dtype == np.uint64
    assert np.abs(distance.astype(np.float64)).max() > 2**40


def test_a_second_identical_request_gets_the_same_bytes(sites):
    site = sites["site-00"]
    first = site.answer(R, list(sites))
    again = site.answer(R, list(sites)[::-1])
    assert first.digest == again.digest
    assert np.array_equal(first.arrays[MASKED], again.arrays[MASKED])
    assert first.signed_by(site.ledger.public_key)
    assert site.reads == paid(site) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"participants": names(3)},
        {"request": "other weights"},
        {"participants": names(4)[:2] + names(4)[3:]},
    ],
    ids=["two U", "other weights", "another U of the same size"],
)
def test_a_round_replayed_with_anything_changed_is_refused(sites, change):
    site = sites["site-00"]
    site.answer(R, names(4))
    refused(site.answer, R, **{"participants": names(4), **change})
    assert site.reads == paid(site) == 1
    # The round before it is out of order, and the next is free.
    site.answer(R + 2, names(4))
    refused(site.answer, R + 1, names(4))
    site.answer(R + 3, names(3))


def test_one_number_serves_one_purpose(sites):
    site = sites["site-00"]
    last = sites["site-01"].terms.numbers("training")[-1]
    sites["site-01"].answer(last, names(4))
    refused(sites["site-01"].answer, last + 1, names(4))
    refused(site.answer, R, names(4), purpose="counts")
    refused(site.answer, 0, names(4), purpose="training")
    site.answer(0, names(4), purpose="counts")
    site.answer(R, names(4), purpose="training")


@pytest.mark.parametrize(
    "participants",
    [
        [], ["site-00"], ["site-00", "site-01"], names(4)[1:], [*names(3), "site-02"],
        [*names(4), "site-77"], "site-00", None, 4, [*names(3), 4], {"site-00": 1}, [["site-00"]],
    ],
    ids=str,
)  # fmt: skip
def test_participants_that_cannot_be_are_refused_and_cost_nothing(sites, participants):
    site = sites["site-00"]
    refused(site.answer, R, participants)
    assert site.reads == paid(site) == 0


def test_a_site_of_the_roster_that_did_not_enrol_is_no_participant(tmp_path):
    site = federation(tmp_path, 5, enrolled=4)["site-00"]
    refused(site.answer, R, names(5))
    refused(site.answer, R, ["site-00", "site-01", "site-04"])
    site.answer(R, names(4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.one_of(st.integers(-5, 60), st.text(max_size=3), st.none(), st.floats()),
    st.one_of(st.none(), st.lists(st.sampled_from(names(6)), max_size=7), st.text(max_size=3)),
    st.one_of(st.sampled_from(["counts", "training"]), st.text(max_size=4), st.none()),
)
@example(5, ["site-00", "site-03", "site-01"], "training")
@example(0, ["site-02", "site-00", "site-01"], "counts")
@example(6, ["site-00", "site-01", "site-05"], "training")
def test_whatever_a_server_says_it_gets_an_answer_or_the_refusal(sites, r, participants, purpose):
    site, session = sites["site-00"], sites["site-00"].session()
    before, reads = paid(site), site.reads
    named = participants if isinstance(participants, list) else []
    good = len(set(named)) == len(named) >= 3 and "site-00" in named and set(named) <= set(names(4))
    numbers = {"counts": range(2), "training": range(2, 42)}.get(purpose, ())

    def answer():
        return session.answer(
            site.ledger, purpose=purpose, r=r, participants=participants, request="q",
            compute=site.compute("training" if purpose == "training" else "counts"),
        )  # fmt: skip

    try:
        masked = answer().arrays[MASKED]
    except Refused:
        refused(answer)
        assert (paid(site), site.reads) == (before, reads)
    else:
        assert good
        assert isinstance(r, int)
        assert r in numbers
        assert masked.dtype == np.uint64


@pytest.mark.parametrize(
    "share", [np.zeros(5), np.zeros(7), np.full(6, 0.1), np.full(6, np.nan), np.zeros((6, 1))]
)
def test_a_share_of_another_length_or_off_the_grid_never_leaves(sites, share):
    site = sites["site-00"]

    def answer():
        return site.session().answer(
            site.ledger, purpose="training", r=R, participants=names(4), request="q",
            compute=lambda grid: share,
        )  # fmt: skip

    refused(answer)
    assert paid(site) == 1
    # It was paid, and is never computed again.
    refused(site.answer, R, names(4))
    assert site.reads == 0


def test_the_ledger_decides_and_its_reasons_stay_at_the_site(sites, caplog):
    site = sites["site-00"]
    site.ledger.retire(by="A Person", reason="over")
    with caplog.at_level(logging.WARNING, logger="dp_risk.site"):
        refused(site.answer, R, names(4))
    assert "retired" in caplog.text
    assert site.reads == 0


def test_a_plan_that_was_not_reserved_is_refused(tmp_path):
    sites = federation(tmp_path, plan_digest="0" * 64)
    assert PLAN != "0" * 64
    refused(sites["site-00"].answer, R, names(4))


class CrashError(BaseException):
    """The process is gone."""


def crash(*arguments, **named):
    raise CrashError


def after(whole):
    def run(*arguments, **named):
        whole(*arguments, **named)
        raise CrashError

    return run


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (Ledger, "pay", crash),
        (Ledger, "pay", after),
        (session_module, "mask", crash),
        (session_module, "mask", after),
        (Ledger, "mint", crash),
        (Ledger, "mint", after),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_site_restarted_from_its_disk_gives_no_second_answer(
    sites, monkeypatch, owner, name, when
):
    site, made = sites["site-00"], []

    def noting(*arguments, **named):
        made.append((named["round"], mask(*arguments, **named)))
        return made[-1][1]

    mask = session_module.mask
    monkeypatch.setattr(session_module, "mask", noting)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash if when is crash else after(getattr(owner, name)))
        with pytest.raises(CrashError):
            site.answer(R, names(4))
    site.reopen()
    stored = (name, when) == ("mint", after)
    if name == "pay" and when is crash:
        # Nothing had happened yet.
        site.answer(R, names(4))
    elif stored:
        first = site.answer(R, names(4))
        assert np.array_equal(first.arrays[MASKED], site.answer(R, names(4)).arrays[MASKED])
    else:
        refused(site.answer, R, names(4))
    refused(site.answer, R, names(3))
    # At most one mask was ever made for the round, and the next has another.
    assert len(made) <= 1
    site.answer(R + 1, names(4))
    assert len({words.tobytes() for _, words in made}) == len(made) <= 2
    assert paid(site) == 2


def test_a_site_comes_back_from_its_disk_with_the_same_keys(sites):
    before = summed(sites, R)
    for site in sites.values():
        site.reopen()
    after_restart = summed(sites, R)
    assert np.array_equal(before, after_restart)
    grid = sites["site-00"].terms.line("training").grid(4, 1)
    plain = sum(site.total("training") for site in sites.values())
    found = grid.decode(summed(sites, R + 1))
    assert np.abs(found - plain).max() < 8 * grid.std


def test_without_its_enrolments_or_with_others_a_site_does_not_go_on(sites):
    site = sites["site-00"]
    others = [other.statement() for other in sites.values()]
    others[3] = statement(site.terms, "site-03", b"\x09" * 32)
    refused(site.session, others)
    refused(site.session, others[:3])
    site.session([other.statement() for other in sites.values()])
    site.store.forget(RUN)
    refused(site.session)
    # Its key is gone with the run: what the others hold is of another key.
    refused(site.session, [other.statement() for other in sites.values()][1:])


def test_statements_that_do_not_hold_do_not_spoil_a_run(tmp_path):
    site = federation(tmp_path / "a")["site-00"]
    good = list(site.store.kept(RUN))
    site.store.forget(RUN)
    refused(site.session, good)
    mine = [site.statement(), *good[1:]]
    assert site.session(mine)


def test_a_round_with_a_lost_site_is_lost(sites):
    some = {name: sites[name].answer(R, names(4)).arrays[MASKED] for name in names(3)}
    with pytest.raises(FederationError, match="site-03"):
        unmask(some, sites["site-00"].terms.round("training", R, names(4)))
    # Named without the lost one afterwards, the same vectors are still noise.
    fewer = sites["site-00"].terms.round("training", R, names(3))
    grid = sites["site-00"].terms.line("training").grid(3, 1)
    # Six words within 1000 std of zero by chance: below 1e-60.
    assert np.abs(grid.decode(unmask(some, fewer))).max() > 1000 * grid.std
    summed(sites, R + 1, named=names(3))


def test_a_run_goes_on_while_three_of_ten_sites_are_lost(tmp_path):
    sites = federation(tmp_path, 10, min_sites=5)
    coin = random.Random(5)
    lost_at = {name: coin.randrange(20) for name in coin.sample(list(sites), 3)}
    numbers = iter(sites["site-00"].terms.numbers("training"))
    alive, done, abandoned = list(sites), 0, 0
    attempts = dict.fromkeys(sites, 0)
    while done < 20:
        r, named = next(numbers), list(alive)
        dead = [name for name in named if lost_at.get(name, math.inf) <= done]
        alive = [name for name in named if name not in dead]
        vectors = {name: sites[name].answer(r, named).arrays[MASKED] for name in alive}
        for name in alive:
            attempts[name] += 1
        this = sites["site-00"].terms.round("training", r, named)
        if dead:
            with pytest.raises(FederationError, match="lost"):
                unmask(vectors, this)
            abandoned += 1
            continue
        grid = sites["site-00"].terms.line("training").grid(len(named), 1)
        plain = sum(sites[name].total("training") for name in named)
        assert np.abs(grid.decode(unmask(vectors, this)) - plain).max() < 8 * grid.std
        done += 1
    assert len(alive) == 7
    assert 1 <= abandoned <= 3
    # Every attempt is charged, the abandoned ones too.
    assert {name: paid(site) for name, site in sites.items()} == attempts
    assert attempts[alive[0]] == 20 + abandoned
