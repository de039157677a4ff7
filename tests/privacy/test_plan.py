from __future__ import annotations

import dataclasses
import json
import math

import pytest

from dp_risk.privacy import sampling
from dp_risk.privacy.accounting import Event, epsilon
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import (
    COUNTS,
    EVALUATION,
    SCORE_BINS,
    SUBGROUPS,
    TRAINING,
    Purpose,
    lifetime_excess,
)

VALUES = {
    "run": "run-1",
    "dataset": "people",
    "schema": "00" * 32,
    "model": "additive",
    "model_options": {"linear": True},
    "dimension": 12,
    "trust": "local",
    "unit": "record",
    "randomness": "system",
    "delta": 1e-5,
    "epsilon": 2.0,
    "clip_norm": 1.0,
    "noise_multiplier": 5.0,
    "sampling_rate": 0.5,
    "rounds": 6,
    "steps_per_round": 2,
    "spares": 0,
    "local_rate": 0.1,
    "counts_noise": 20.0,
    "score_bins_noise": 12.0,
    "evaluation_noise": 6.0,
    "stable_ids": True,
    "max_records_per_account": 1,
    "max_sites_per_unit": 1,
    "min_sites": 1,
    "max_colluding": None,
    "participants": {"site-00": "aa"},
    "seed": 0,
}
PLAN = Plan(**VALUES)
OTHER = {
    "run": "run-2", "dataset": "others", "schema": "11" * 32, "model": "mlp",
    "model_options": {"linear": False}, "dimension": 13, "trust": "distributed",
    "unit": "account", "randomness": "seeded", "delta": 1e-6, "epsilon": 3.0, "clip_norm": 2.0,
    "noise_multiplier": 6.0, "sampling_rate": 0.4, "rounds": 7, "steps_per_round": 3,
    "spares": 2, "local_rate": 0.2, "counts_noise": 21.0, "score_bins_noise": 13.0,
    "evaluation_noise": 7.0,
    "stable_ids": False, "max_records_per_account": 9, "max_sites_per_unit": 2, "min_sites": 2,
    "max_colluding": 2, "participants": {"site-00": "bb"}, "seed": 1,
    "subgroups": ("age",), "subgroups_noise": 9.0,
}  # fmt: skip
GROUPED = {"subgroups": ("sex", "age"), "subgroups_noise": 8.0}
SHARED = {
    "trust": "distributed", "max_colluding": 1, "min_sites": 4, "steps_per_round": 1,
    "participants": {f"site-{n:02d}": "aa" for n in range(6)},
}  # fmt: skip
# Fields that only make sense with another one.
WITH = {
    "trust": SHARED,
    "max_colluding": SHARED,
    "spares": SHARED,
    "max_records_per_account": {"unit": "account"},
    "subgroups": GROUPED,
    "subgroups_noise": GROUPED,
}


def test_a_plan_survives_the_wire():
    again = Plan.from_dict(json.loads(json.dumps(PLAN.to_dict())))
    assert again == PLAN
    assert again.digest == PLAN.digest


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Plan)])
def test_every_field_is_in_the_digest(field):
    more = WITH.get(field, {})
    base = PLAN if field == "trust" else dataclasses.replace(PLAN, **more)
    assert dataclasses.replace(PLAN, **{**more, field: OTHER[field]}).digest != base.digest


def test_a_plan_of_before_subgroups_is_the_plan_without_them():
    # Sites keep the digests of plans that they enrolled, and sign them.
    assert not {"subgroups", "subgroups_noise"} & set(PLAN.to_dict())
    assert Plan.from_dict({**PLAN.to_dict(), "subgroups": [], "subgroups_noise": 0.0}) == PLAN
    grouped = dataclasses.replace(PLAN, **GROUPED)
    said = json.loads(json.dumps(grouped.to_dict()))
    assert said["subgroups"] == ["sex", "age"]
    assert Plan.from_dict(said) == grouped
    for name in GROUPED:
        with pytest.raises(ValueError, match="subgroups"):
            Plan.from_dict({key: value for key, value in said.items() if key != name})


def test_every_column_is_a_round_of_its_own():
    grouped = dataclasses.replace(PLAN, **GROUPED)
    *others, line = grouped.schedule
    assert tuple(others) == PLAN.schedule
    assert line == Purpose(
        name=SUBGROUPS, split="holdout", event=Event(noise_multiplier=8.0), rounds=2
    )
    held = [Event(noise_multiplier=s) for s in (12.0, 6.0, 8.0, 8.0)]
    assert grouped.costs["holdout"] == pytest.approx(epsilon(held, 1e-5))
    assert grouped.lifetime_excess(1000, 10.0) > PLAN.lifetime_excess(1000, 10.0)
    # Both splits in sequence, where ids may change.
    assert dataclasses.replace(grouped, stable_ids=False).schedule[-1].split == "both"
    # Each answer's noise is a little off the accounted one.
    distances = [
        dataclasses.replace(
            PLAN, **{**GROUPED, "subgroups": tuple(f"c{n}" for n in range(count))}
        ).lifetime_excess(1000, 10.0)
        for count in (1, 2, 9)
    ]
    one, two, nine = distances
    assert nine - one == pytest.approx(8 * (two - one), rel=1e-6)
    assert two > one
    # What is lost with a site may be asked again, twice at most.
    spare = dataclasses.replace(grouped, **SHARED, spares=4)
    assert spare.schedule[-1].rounds == 6
    assert spare.lifetime_excess(1000, 10.0) > dataclasses.replace(
        PLAN, **SHARED, spares=4
    ).lifetime_excess(1000, 10.0)
    assert grouped.sums[SUBGROUPS].noise_multiplier == 8.0
    assert SUBGROUPS not in PLAN.sums


def test_two_limits_of_colluding_sites_are_two_plans():
    one, two = (dataclasses.replace(PLAN, **{**SHARED, "max_colluding": most}) for most in (1, 2))
    assert one.digest != two.digest


@pytest.mark.parametrize("field", sorted(VALUES))
@pytest.mark.parametrize("value", [None, True, [], "x", math.nan], ids=str)
def test_a_field_of_another_type_is_refused(field, value):
    kind = type(VALUES[field])
    legal = (value == "x" and kind is str) or (value is True and kind is bool)
    if legal or (value is None and field in ("epsilon", "max_colluding")):
        pytest.skip("this is a legal type here")
    with pytest.raises((ValueError, TypeError)):
        Plan.from_dict({**PLAN.to_dict(), field: value})


@pytest.mark.parametrize("field", sorted(VALUES))
def test_a_missing_field_is_refused(field):
    values = PLAN.to_dict()
    del values[field]
    with pytest.raises(ValueError, match=field):
        Plan.from_dict(values)


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError):
        Plan.from_dict({**PLAN.to_dict(), "_target_": "os.system"})


@pytest.mark.parametrize(
    "change",
    [
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": math.nan},
        {"clip_norm": 0.0},
        {"clip_norm": math.inf},
        {"rounds": 0},
        {"rounds": -3},
        {"steps_per_round": 0},
        {"dimension": 0},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": 1e9},
        {"trust": "none"},
        {"trust": "everybody"},
        {"unit": "household"},
        {"randomness": "dice"},
        {"counts_noise": -1.0},
        {"counts_noise": math.nan},
        {"local_rate": math.inf},
        {"epsilon": math.nan},
        {"epsilon": -1.0},
        {"score_bins_noise": 0.0},
        {"evaluation_noise": 0.0},
        {"evaluation_noise": -1.0},
        {"evaluation_noise": math.nan},
        {"max_records_per_account": 0},
        {"max_records_per_account": 2},
        {"max_sites_per_unit": 0},
        {"min_sites": 0},
        {"max_colluding": 1},
        {"trust": "distributed"},
        {"spares": -1},
        {**SHARED, "spares": -1},
        {**SHARED, "max_colluding": 0},
        {**SHARED, "max_colluding": 3},
        {**SHARED, "max_colluding": None},
        {**SHARED, "min_sites": 7},
        {**SHARED, "steps_per_round": 2},
        {**SHARED, "max_sites_per_unit": 2},
        {**GROUPED, "subgroups": ["sex", "sex"]},
        {**GROUPED, "subgroups": [1]},
        {**GROUPED, "subgroups": ["x" * 301]},
        {**GROUPED, "subgroups": [f"c{n}" for n in range(65)]},
        {**GROUPED, "subgroups": []},
        {**GROUPED, "subgroups": "sex"},
        {**GROUPED, "subgroups_noise": 0.0},
        {**GROUPED, "subgroups_noise": math.nan},
        {**GROUPED, "evaluation_noise": 0.0, "score_bins_noise": 0.0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"sampling_rate": math.nan},
    ],
    ids=str,
)
def test_an_impossible_plan_is_refused(change):
    with pytest.raises(ValueError, match=r"."):
        Plan.from_dict({**PLAN.to_dict(), **change})


def test_the_schedule_holds_every_charge():
    training = Event(noise_multiplier=5.0, sampling_rate=0.5, count=2)
    assert PLAN.schedule == (
        Purpose(name=COUNTS, split="train", event=Event(noise_multiplier=20.0), rounds=1),
        Purpose(name=TRAINING, split="train", event=training, rounds=6),
        Purpose(name=SCORE_BINS, split="holdout", event=Event(noise_multiplier=12.0), rounds=1),
        Purpose(name=EVALUATION, split="holdout", event=Event(noise_multiplier=6.0), rounds=1),
    )
    train = [Event(noise_multiplier=20.0), dataclasses.replace(training, count=12)]
    held = [Event(noise_multiplier=12.0), Event(noise_multiplier=6.0)]
    assert PLAN.costs == {"train": epsilon(train, 1e-5), "holdout": epsilon(held, 1e-5)}
    assert PLAN.cost == max(PLAN.costs.values())
    declared = dataclasses.replace(PLAN, counts_noise=0.0)
    assert [line.name for line in declared.schedule] == [TRAINING, SCORE_BINS, EVALUATION]
    assert declared.costs["train"] < PLAN.costs["train"]


def test_splits_that_a_unit_may_change_are_charged_in_sequence():
    moving = dataclasses.replace(PLAN, stable_ids=False)
    assert {line.split for line in moving.schedule} == {"both"}
    assert moving.cost == epsilon([line.total for line in moving.schedule], 1e-5) > PLAN.cost


def test_a_unit_at_several_sites_is_charged_for_all_of_them():
    shared = dataclasses.replace(PLAN, max_sites_per_unit=3)
    for one, all_three in zip(PLAN.schedule, shared.schedule, strict=True):
        assert all_three.event.count == 3 * one.event.count
    # Three independent Gaussians are one of sqrt(3) times the sensitivity.
    held = [Event(noise_multiplier=s / math.sqrt(3)) for s in (12.0, 6.0)]
    assert shared.costs["holdout"] == pytest.approx(epsilon(held, 1e-5))
    assert shared.lifetime_excess(1000, 10.0) == pytest.approx(3 * PLAN.lifetime_excess(1000, 10.0))


def test_the_samplers_fit_in_their_part_of_delta():
    excess = PLAN.lifetime_excess(100_000, 10.0)
    assert 0 < excess < PLAN.delta_reserve() == pytest.approx(1e-7)
    # Above a rate of 1/8 sampling is exact; below it, the units count.
    rare = dataclasses.replace(PLAN, sampling_rate=0.1)
    assert rare.lifetime_excess(10**12, 10.0) > rare.lifetime_excess(10**9, 10.0)
    assert dataclasses.replace(PLAN, rounds=60).lifetime_excess(100_000, 10.0) > excess
    bare = {"trust": "none", "noise_multiplier": 0.0, "epsilon": None, "counts_noise": 0.0}
    bare |= {"score_bins_noise": 0.0, "evaluation_noise": 0.0}
    assert dataclasses.replace(PLAN, **bare).lifetime_excess(100_000, 10.0) == 0


def test_an_absurd_epsilon_needs_more_delta_than_there_is():
    assert dataclasses.replace(PLAN, epsilon=1e6).lifetime_excess(10, 10.0) > PLAN.delta_reserve()


@pytest.mark.parametrize("rounds", [0, -1, True, 1.0])
def test_a_purpose_has_rounds(rounds):
    # Fewer than none would be a refund.
    with pytest.raises(ValueError, match="rounds"):
        Purpose(name=TRAINING, split="train", event=Event(noise_multiplier=1.0), rounds=rounds)


def test_spare_rounds_are_priced_and_none_of_a_plan_of_separate_noise():
    plan = dataclasses.replace(PLAN, **SHARED)
    spare = dataclasses.replace(plan, spares=4)
    assert [line.rounds for line in plan.schedule] == [1, 6, 1, 1]
    assert [line.rounds for line in spare.schedule] == [3, 10, 3, 3]
    assert [line.rounds for line in dataclasses.replace(plan, spares=1).schedule] == [2, 7, 2, 2]
    for split, cost in plan.costs.items():
        assert spare.costs[split] > cost
    assert spare.cost == pytest.approx(dataclasses.replace(plan, rounds=8, spares=2).cost)


def test_the_noise_of_shares_has_a_distance_of_its_own():
    plan = dataclasses.replace(PLAN, **SHARED, sampling_rate=0.1)
    total = sum(
        max(summed.shared(size, 1).distance({"training": 6}.get(name, 1)) for size in (4, 5, 6))
        for name, summed in plan.sums.items()
    )
    more = sampling.distance(100, 0.1, 6)
    found = plan.lifetime_excess(100, 10.0)
    assert found == pytest.approx(lifetime_excess(total + more, plan.epsilon, 10.0))
    # The sum of several shares has more steps to a standard deviation than one site's noise.
    alone = dataclasses.replace(PLAN, steps_per_round=1).lifetime_excess(100, 10.0)
    assert 0 < found < alone
