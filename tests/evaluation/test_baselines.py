from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dp_risk.evaluation.baselines import gradient_boosting, logistic, site_alone
from dp_risk.evaluation.metrics import auroc
from dp_risk.types import ConfigurationError


@dataclass(frozen=True)
class Rows:
    codes: np.ndarray
    values: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Table:
    n_codes: int = 12


def rows(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 12, size=(n, 3)).astype(np.int32)
    values = rng.random((n, 2)).astype(np.float32)
    logit = 6 * (values[:, 0] - 0.5) + 2 * (codes == 3).sum(axis=1) - 2 * (codes == 4).sum(axis=1)
    labels = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    return Rows(codes=codes, values=values, labels=labels)


@pytest.mark.parametrize("fit", [logistic, gradient_boosting])
def test_a_baseline_learns_from_codes_and_values(fit: object) -> None:
    train, test = rows(1500, 0), rows(800, 1)
    scores = fit(train, test, Table(), 0)  # type: ignore[operator]
    assert scores.shape == (800,)
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0
    values_only = Rows(np.zeros_like(train.codes), train.values, train.labels)
    without = fit(values_only, test, Table(), 0)  # type: ignore[operator]
    assert auroc(test.labels, scores) > 0.8
    assert auroc(test.labels, scores) > auroc(test.labels, without)


def test_padding_says_nothing() -> None:
    train, test = rows(300, 0), rows(50, 1)
    padded = [
        Rows(np.hstack([r.codes, np.zeros((len(r.labels), 2), np.int32)]), r.values, r.labels)
        for r in (train, test)
    ]
    plain = logistic(train, test, Table(), 0)
    np.testing.assert_allclose(logistic(padded[0], padded[1], Table(), 0), plain, atol=1e-4)


def test_rows_without_slots_or_without_values() -> None:
    train, test = rows(200, 0), rows(20, 1)
    for fit in (logistic, gradient_boosting):
        numbers = [Rows(r.codes[:, :0], r.values, r.labels) for r in (train, test)]
        codes = [Rows(r.codes, r.values[:, :0], r.labels) for r in (train, test)]
        assert np.isfinite(fit(numbers[0], numbers[1], Table(), 0)).all()
        assert np.isfinite(fit(codes[0], codes[1], Table(), 0)).all()


def test_each_site_alone_also_with_one_class() -> None:
    site, test = rows(100, 0), rows(30, 1)
    single = Rows(site.codes[:5], site.values[:5], np.ones(5, dtype=np.float32))
    scores = site_alone([site, single], test, Table(), 0)
    assert len(scores) == 2
    assert (scores[1] == 1.0).all()


def test_no_test_rows() -> None:
    assert logistic(rows(50, 0), rows(0, 1), Table(), 0).shape == (0,)


def test_no_training_rows_or_labels_is_refused() -> None:
    unlabelled = rows(3, 0)
    unlabelled.labels[1] = np.nan
    for train in (rows(0, 0), unlabelled):
        with pytest.raises(ConfigurationError):
            logistic(train, rows(5, 1), Table(), 0)
