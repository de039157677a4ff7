"""Statistics of the audit against jax-privacy: stored figures, and the library where it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dp_risk.audit.bounds import gaussian_epsilon, mu_from_errors
from dp_risk.audit.membership import counts_epsilon
from dp_risk.audit.one_run import one_run, one_run_fdp
from tests.audit import golden_jax_privacy as golden

STORED = json.loads((Path(__file__).parent / "golden_jax_privacy.json").read_text())
LEVELS = (0.05, 0.001)
cases = pytest.mark.parametrize("number", range(len(golden.CASES)))
levels = pytest.mark.parametrize("level", LEVELS)


def gaussian(inside, outside, *, level, thresholds):
    """Return our Gaussian bound at the best of some thresholds, each at its part of the level."""
    cuts = np.unique(np.concatenate([inside, outside]))
    missed = np.searchsorted(np.sort(inside), cuts, "left")
    false = len(outside) - np.searchsorted(np.sort(outside), cuts, "left")
    sizes = len(inside), len(outside)
    mu = mu_from_errors(missed, sizes[0], false, sizes[1], level=level / thresholds)
    return gaussian_epsilon(float(mu.max()), golden.DELTA)


@cases
def test_the_stored_counts_are_those_of_the_scores(number):
    case, row = golden.CASES[number], STORED["rows"][number]
    inside, outside = golden.scores(*case[:3])
    assert (row["inside"], row["outside"]) == (len(inside), len(outside))
    assert row["true_positives"] == np.sum(inside >= case[3])
    assert row["false_positives"] == np.sum(outside >= case[3])


@cases
@levels
def test_bounds_of_counts_are_those_of_jax_privacy(number, level):
    row = STORED["rows"][number]
    said, right, wrong = row[f"at {level:g}"], row["true_positives"], row["false_positives"]
    counted = right, right + wrong, row["inside"] + row["outside"]
    terms = {"delta": golden.DELTA, "confidence": 1 - level}
    assert one_run(*counted, **terms) == pytest.approx(said["one_run"], abs=5e-4)
    assert one_run_fdp(*counted, **terms) == pytest.approx(said["one_run_fdp"], abs=2e-3)
    found = counts_epsilon(
        right, row["inside"], wrong, row["outside"], delta=golden.DELTA, level=level
    )
    assert found == pytest.approx(said["counts"], abs=1e-9)


@pytest.mark.parametrize("number", [0, 1, 3])
@levels
def test_the_gaussian_bound_is_that_of_jax_privacy_where_canaries_score_high(number, level):
    said = STORED["rows"][number][f"at {level:g}"]
    pair = golden.scores(*golden.CASES[number][:3])
    found = gaussian(*pair, level=level, thresholds=said["thresholds"])
    assert found == pytest.approx(said["gdp"], abs=1e-4)


def test_scores_of_nothing_certify_nothing_here_and_much_there():
    """Its bound takes the size of mu: both errors bounded near 1 make one far below 0."""
    pair = golden.null_scores()
    assert gaussian(*pair, level=0.05, thresholds=2 * len(pair[0])) == 0
    assert STORED["null_gdp"] > 3


def test_its_gaussian_bound_rises_with_the_confidence_where_mu_is_small():
    """A bound that is surer must not be larger; ours is not."""
    row = STORED["rows"][2]
    assert row["at 0.001"]["gdp"] > row["at 0.05"]["gdp"] + 1
    pair = golden.scores(*golden.CASES[2][:3])
    ours = [gaussian(*pair, level=v, thresholds=row["at 0.05"]["thresholds"]) for v in LEVELS]
    assert 0 <= ours[1] <= ours[0] < gaussian_epsilon(0.5, golden.DELTA)


def test_the_library_still_says_what_is_stored():
    auditing = pytest.importorskip("jax_privacy.auditing")
    for now, stored in zip(golden.figures(auditing), STORED["rows"], strict=True):
        for key, value in stored.items():
            assert now[key] == pytest.approx(value, abs=1e-4), key
    now = auditing.CanaryScoreAuditor(*golden.null_scores()).epsilon_from_gdp(0.05, golden.DELTA)
    assert now == pytest.approx(STORED["null_gdp"], abs=1e-4)
