from __future__ import annotations

import dataclasses

import pytest

from dp_risk.secure_sum.terms import REFUSAL, Terms
from dp_risk.types import ConfigurationError, Refused
from tests.federation import plan, roster
from tests.secure_sum.sites import COUNTS, TRAINING, names, terms_of

TERMS = terms_of(names(4))


def test_one_sequence_numbers_all_sums_of_a_run():
    found = [*TERMS.numbers("counts"), *TERMS.numbers("training")]
    assert found == list(range(COUNTS.rounds + TRAINING.rounds))


@pytest.mark.parametrize("r", [-1, 0, 1, 42, 2.0, "2", True, None, [2]])
def test_a_number_of_no_round_of_the_purpose_is_refused(r):
    assert TERMS.round("training", 2, names(4)).r == 2
    with pytest.raises(Refused, match=REFUSAL):
        TERMS.round("training", r, names(4))


@pytest.mark.parametrize("purpose", ["", "evaluation", None, 3, ["training"]])
def test_a_purpose_of_another_plan_is_refused(purpose):
    for call in (TERMS.line, TERMS.numbers):
        with pytest.raises(Refused, match=REFUSAL):
            call(purpose)


def test_the_grid_of_a_round_follows_from_public_facts():
    grid = TERMS.line("training").grid(4, TERMS.max_colluding)
    assert (grid.clip_norm, grid.noise_multiplier, grid.dimension) == (0.5, 20.0, 6)
    assert (grid.participants, grid.max_colluding, grid.units) == (4, 1, 1000)
    assert grid.step != TERMS.line("training").grid(3, 1).step


def test_the_roster_has_a_digest_of_names_and_keys():
    turned = dict(reversed(TERMS.roster.items()))
    assert terms_of(names(4), roster=turned).roster_digest == TERMS.roster_digest
    one, two = list(TERMS.roster)[:2]
    swapped = {**TERMS.roster, one: TERMS.roster[two], two: TERMS.roster[one]}
    assert terms_of(names(4), roster=swapped).roster_digest != TERMS.roster_digest


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"max_colluding": 0}, "max_colluding"),
        ({"min_sites": 2}, "min_sites"),
        ({"max_colluding": 2}, "min_sites"),
        ({"min_sites": 5}, "roster has 4"),
        ({"run": "a b"}, "run id"),
        ({"lines": (COUNTS, COUNTS)}, "twice"),
        ({"lines": (dataclasses.replace(COUNTS, rounds=0),)}, "no round"),
        ({"lines": (dataclasses.replace(COUNTS, units=2**45),)}, "counts: 64 bits"),
        ({"lines": (dataclasses.replace(TRAINING, noise_multiplier=1e7),)}, "training: "),
    ],
    ids=str,
)
def test_impossible_terms_are_said(change, word):
    with pytest.raises(ConfigurationError, match=word):
        terms_of(names(4), **change)


def test_the_terms_of_a_plan_are_its_schedule_and_its_numbers():
    noisy = plan(
        trust="distributed", max_colluding=1, min_sites=3, participants=roster(4), spares=2
    )
    terms = Terms.of(noisy, roster(5))
    assert (terms.run, terms.plan_digest) == (noisy.run, noisy.digest)
    assert (terms.min_sites, terms.max_colluding) == (3, 1)
    assert terms.roster == roster(5)
    assert [(line.purpose, line.rounds) for line in terms.lines] == [
        ("counts", 3), ("training", 5), ("score_bins", 3), ("evaluation", 3),
    ]  # fmt: skip
    for line in terms.lines:
        assert line.grid(4, 1) == noisy.sums[line.purpose].shared(4, 1)
    with pytest.raises(ConfigurationError, match="another trust"):
        Terms.of(plan(), roster(4))
