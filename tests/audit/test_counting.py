from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.audit.counting import (
    Change,
    Charge,
    Read,
    Seen,
    reads_in_mechanisms,
    sensitivity,
    splits_disjoint,
    steps_charged,
)

PLAN = {"training": 6, "evaluation": 1}
ROUNDS = [("training", 1, 2), ("training", 2, 2), ("training", 3, 2), ("evaluation", 4, 1)]
SITES = ["site-00", "site-01"]


def seen(site, purpose, number, steps, reads=1):
    return Seen(site=site, purpose=purpose, round=number, steps=steps, reads=reads)


def charge(site, purpose, number, steps):
    return Charge(site=site, purpose=purpose, round=number, steps=steps)


SEEN = [seen(site, *entry) for site in SITES for entry in ROUNDS]
CHARGES = [charge(site, *entry) for site in SITES for entry in ROUNDS]


def test_a_reconciled_ledger_passes():
    found = steps_charged(SEEN, CHARGES, PLAN)
    assert found.passed
    assert found.figure == "14 steps ran in 8 rounds at 2 sites; 14 charged, 14 planned"


def test_a_crashed_round_is_spent():
    assert steps_charged(SEEN[:2] + SEEN[3:], CHARGES, PLAN).passed


def test_a_round_that_touched_nothing_needs_no_charge():
    assert steps_charged([*SEEN, seen("site-00", "training", 9, 0, 0)], CHARGES, PLAN).passed


@pytest.mark.parametrize(
    ("ran", "charges", "plan", "words"),
    [
        (SEEN, CHARGES[1:], PLAN, "1 rounds without a charge"),
        (SEEN, [*CHARGES, CHARGES[0]], PLAN, "1 rounds charged more than once"),
        (
            [*SEEN[1:], dataclasses.replace(SEEN[0], steps=3)],
            CHARGES,
            PLAN,
            "1 rounds that ran more steps",
        ),
        ([*SEEN, SEEN[0]], CHARGES, PLAN, "1 rounds that ran more steps"),
        (SEEN, CHARGES, {**PLAN, "training": 7}, "2 totals that are not the schedule's"),
        (SEEN, CHARGES, {"training": 6}, "2 totals that are not the schedule's"),
        (SEEN, CHARGES, {**PLAN, "counts": 1}, "2 totals that are not the schedule's"),
        (
            [*SEEN, seen("site-00", "counts", 5, 0)],
            CHARGES,
            PLAN,
            "1 rounds without a charge",
        ),
        (
            [*SEEN, seen("site-02", "training", 1, 2)],
            CHARGES,
            PLAN,
            "1 rounds without a charge",
        ),
        ([], CHARGES, PLAN, "no step was seen"),
    ],
)
def test_counting_defects_are_caught(ran, charges, plan, words):
    found = steps_charged(ran, charges, plan)
    assert not found.passed
    assert words in found.figure


ENTRIES = st.tuples(
    st.sampled_from(SITES), st.sampled_from(["a", "b"]), st.integers(1, 3), st.integers(0, 3)
)


@given(st.lists(ENTRIES, max_size=6), st.lists(ENTRIES, max_size=6))
def test_no_round_passes_unpaid(ran, paid):
    charges = [charge(*entry) for entry in paid]
    plan = {p: sum(c.steps for c in charges if c.purpose == p and c.site == SITES[0]) for p in "ab"}
    found = steps_charged([seen(*entry) for entry in ran], charges, plan)
    for site, purpose, number, _ in ran:
        key = (site, purpose, number)
        steps = sum(entry[3] for entry in ran if entry[:3] == key)
        funds = [entry[3] for entry in paid if entry[:3] == key]
        assert not found.passed or (len(funds) == 1 and funds[0] >= steps)


READ = Read(
    site="site-00",
    split="train",
    purpose="training",
    charged=True,
    allowed_split="train",
    beyond_sample=0,
)


@pytest.mark.parametrize("allowed", ["train", "both"])
def test_reads_inside_mechanisms_pass(allowed):
    found = reads_in_mechanisms([READ, dataclasses.replace(READ, allowed_split=allowed)])
    assert found.passed
    assert found.figure == "2 reads, all inside a charged round"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"purpose": None, "charged": False, "allowed_split": None}, "outside any paid round"),
        ({"charged": False}, "before their charge"),
        ({"split": "holdout"}, "of a split that the charge does not name"),
        ({"allowed_split": None}, "of a split that the charge does not name"),
        ({"beyond_sample": 3}, "beyond the step's sample"),
    ],
)
def test_other_reads_fail(changes, words):
    found = reads_in_mechanisms([READ, dataclasses.replace(READ, **changes)])
    assert not found.passed
    assert found.figure == f"1 reads {words}; allowed 0"


def test_a_spy_that_saw_no_read_fails():
    assert not reads_in_mechanisms([]).passed


def ids(*names):
    return np.array([name.encode() for name in names], dtype="S4")


def test_splits():
    assert splits_disjoint([ids("a", "b"), ids("b")], [ids("c")]).passed
    found = splits_disjoint([ids("a", "b"), ids("b", "c")], [ids("d"), ids("b", "c")])
    assert not found.passed
    assert found.figure == "2 units in both splits; allowed 0"
    assert not splits_disjoint([], [ids("a")]).passed
    assert splits_disjoint([ids("a")], []).figure.startswith("not tested")


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_splits_are_compared_as_sets(train, holdout):
    found = splits_disjoint([np.array(train, dtype=object)], [np.array(holdout, dtype=object)])
    assert found.passed == (bool(train) and not set(train) & set(holdout))


@pytest.mark.parametrize("array", [np.zeros((2, 2)), np.arange(3)])
def test_ids_that_are_not_bytes_are_refused(array):
    with pytest.raises(ValueError, match="vectors of bytes"):
        splits_disjoint([array], [])


HEAVY = Change(
    name="heavy row", purpose="training", moved=1.0, allowed=1.0, raw_norm=800.0, least=0.9
)
ABSENT = Change(name="empty row", purpose="training", moved=0.0, allowed=1.0)


def test_clipped_units_pass():
    found = sensitivity([ABSENT, HEAVY])
    assert found.passed
    assert found.figure == (
        "heavy row moved training by 1, allowed 1;"
        " before clipping the heavy unit is 800 times the allowed; 2 changes"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moved": 1.001}, "by 1.001, allowed 1"),
        ({"moved": 800.0}, "by 800, allowed 1"),
        ({"moved": math.nan}, "by nan, allowed 1"),
        ({"moved": math.inf}, "by inf, allowed 1"),
        ({"moved": 0.0}, "the probe does not reach"),
        ({"moved": 1e-9, "allowed": 0.0, "least": 0.0}, "by 1e-09, allowed 0"),
    ],
)
def test_units_that_move_too_much_or_nothing_fail(changes, words):
    found = sensitivity([ABSENT, dataclasses.replace(HEAVY, **changes)])
    assert not found.passed
    assert words in found.figure


def test_too_much_is_named_before_nothing():
    idle = dataclasses.replace(HEAVY, name="idle", moved=0.0)
    found = sensitivity([idle, dataclasses.replace(HEAVY, name="wild", moved=3.0)])
    assert "wild" in found.figure


def test_rounding_is_allowed_and_slack_is_used():
    assert sensitivity([dataclasses.replace(HEAVY, moved=1 + 5e-7)]).passed
    assert sensitivity([dataclasses.replace(HEAVY, moved=1.05, slack=0.06)]).passed


def test_no_change_at_all_fails():
    assert not sensitivity([]).passed


@given(st.floats(), st.floats(0, 1e6), st.floats(0, 1e3))
def test_what_passes_is_within_bounds(moved, allowed, least):
    change = Change(name="a", purpose="b", moved=moved, allowed=allowed, least=least)
    if sensitivity([change]).passed:
        assert least <= moved <= allowed * 1.00001
