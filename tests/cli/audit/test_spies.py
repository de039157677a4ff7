"""What the watch on a site sees: reads, steps, payments and random bits."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.shard import TrainingUnits
from clients.site import Site
from dp_risk.cli.audit.spies import Paid, Spy, Watch, WatchedUnits
from dp_risk.data.coding import Coded
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, EVALUATION, SCORE_BINS, TRAINING
from dp_risk.types import Refused, Split
from tests import federation

PLAN = federation.plan()


@pytest.fixture
def spy() -> Spy:
    return Spy()


@pytest.fixture
def watched(spy: Spy, site: Path) -> Site:
    return spy.open(site)


@pytest.fixture
def watch(spy: Spy, watched: Site) -> Watch:
    [watch] = spy.watches.values()
    return watch


def ask(site: Site, plan: Plan, purpose: str, round: int = 0, **more: Any) -> Any:
    weights = {} if purpose == COUNTS else federation.weights()
    return site.answer(
        plan_digest=plan.digest, purpose=purpose, round=round, request="0" * 64,
        weights=weights, **more,
    )  # fmt: skip


def units(count: int) -> TrainingUnits:
    return TrainingUnits(
        Coded(
            codes=np.zeros((count, 1), dtype=np.int32),
            values=np.zeros((count, 0), dtype=np.float32),
            labels=np.zeros(count, dtype=np.float32),
            ids=np.array([f"{i}".encode() for i in range(count)], dtype="S8"),
        )
    )


@pytest.mark.parametrize("look", ["len", "rows", "batch", "whole"])
def test_a_read_outside_a_paid_round_is_seen(watched: Site, watch: Watch, look: str) -> None:
    assert watch.reads == []
    if look == "whole":
        _ = watched.shard.train
    else:
        found = watched.shard.units(Split.TRAIN, None)
        watch.reads.clear()
        {"len": found.__len__, "rows": found.rows, "batch": lambda: found.batch(np.arange(3))}[
            look
        ]()
    assert {(read.split, read.paid) for read in watch.reads} == {(Split.TRAIN, None)}
    assert watch.rounds == []


def test_an_honest_run_reads_inside_its_rounds_alone(watched: Site, watch: Watch) -> None:
    watched.enrol(PLAN)
    assert watch.reads == []
    ask(watched, PLAN, COUNTS)
    for round in range(PLAN.rounds):
        ask(watched, PLAN, TRAINING, round)
    ask(watched, PLAN, SCORE_BINS)
    ask(watched, PLAN, EVALUATION, edges=[0.0])
    keys = [(COUNTS, 0), *((TRAINING, r) for r in range(3)), (SCORE_BINS, 0), (EVALUATION, 0)]
    assert [paid.key for paid in watch.rounds] == [(PLAN.run, *key) for key in keys]
    assert all(paid.charge is not None and paid.released for paid in watch.rounds)
    assert all(read.paid is not None for read in watch.reads)
    assert [len(paid.steps) for paid in watch.rounds] == [0, 1, 1, 1, 0, 0]
    assert [paid.whole for paid in watch.rounds] == [0, 0, 0, 0, 1, 1]
    assert {paid.beyond for paid in watch.rounds} == {0}
    assert set(watch.ids) == {TRAINING, SCORE_BINS, EVALUATION}
    assert not watch.ids[TRAINING] & watch.ids[EVALUATION]
    assert len(watch.ids[TRAINING]) == watch.sizes[Split.TRAIN]


def test_every_step_of_a_round_is_counted_with_its_batch(watched: Site, watch: Watch) -> None:
    plan = dataclasses.replace(
        PLAN, steps_per_round=4, rounds=1, sampling_rate=0.5, local_rate=0.01
    )
    watched.enrol(plan)
    ask(watched, plan, TRAINING)
    [paid] = watch.rounds
    assert len(paid.steps) == paid.steps_charged == 4
    # 240 units at rate 0.5: that two batches are equal has probability 2^-240.
    assert len({step.tobytes() for step in paid.steps}) == 4
    assert paid.split == Split.TRAIN


def test_a_stored_answer_is_no_new_round(watched: Site, watch: Watch) -> None:
    watched.enrol(PLAN)
    first, again = ask(watched, PLAN, TRAINING), ask(watched, PLAN, TRAINING)
    assert first.digest == again.digest
    assert len(watch.rounds) == 1
    # Nobody reads after the answer without being seen.
    len(watched.shard.units(Split.TRAIN, None))
    assert watch.reads[-1].paid is None


def test_steps_before_their_payment_belong_to_it_and_their_reads_do_not(
    watched: Site, watch: Watch
) -> None:
    watched.enrol(PLAN)
    found = watched.shard.units(Split.TRAIN, None)
    found.sizes(np.arange(5))
    watched.ledger.pay(
        run=PLAN.run, plan_digest=PLAN.digest, purpose=TRAINING, round=0, request="0" * 64
    )
    [paid] = watch.rounds
    assert [step.tolist() for step in paid.steps] == [[0, 1, 2, 3, 4]]
    assert all(read.paid is None for read in watch.reads)
    assert watch.early.steps == []


def test_a_refused_payment_opens_no_round(watched: Site, watch: Watch) -> None:
    with pytest.raises(Refused):
        ask(watched, PLAN, TRAINING)
    assert watch.rounds == []


def test_random_bits_are_counted_where_they_are_drawn(
    spy: Spy, watched: Site, watch: Watch
) -> None:
    watched.enrol(PLAN)
    draw = os.urandom
    with spy.listening():
        ask(watched, PLAN, TRAINING)
        ask(watched, PLAN, TRAINING, 1)
    assert os.urandom is draw
    ask(watched, PLAN, TRAINING, 2)
    assert [[len(found) for found in paid.drawn] for paid in watch.rounds] == [[32], [32], []]
    assert [paid.keys for paid in watch.rounds] == [list(paid.drawn) for paid in watch.rounds]


def test_repeatable_noise_draws_nothing(spy: Spy, public_site: Path) -> None:
    site = spy.open(public_site)
    plan = federation.plan(randomness="seeded", counts_noise=0.0)
    site.enrol(plan)
    with spy.listening():
        ask(site, plan, TRAINING)
    [paid] = spy.watches[public_site.name].rounds
    assert not paid.drawn
    assert len(paid.keys) == 1


@given(
    count=st.integers(1, 30),
    sampled=st.sets(st.integers(0, 29)),
    read=st.lists(st.integers(0, 29), max_size=40),
)
def test_units_that_no_batch_holds_are_counted(
    count: int, sampled: set[int], read: list[int]
) -> None:
    watch = Watch(current=Paid(key=("run", TRAINING, 0), charge=1, split="train", steps_charged=1))
    spied = WatchedUnits(units(count), watch, Split.TRAIN)
    step = np.array(sorted(i for i in sampled if i < count), dtype=np.int64)
    index = np.array([i for i in read if i < count], dtype=np.int64)
    spied.sizes(step)
    spied.batch(index)
    assert watch.current is not None
    assert watch.current.beyond == sum(i not in set(step.tolist()) for i in index.tolist())
    assert watch.ids.get(TRAINING, set()) == {f"{i}".encode() for i in index.tolist()}
