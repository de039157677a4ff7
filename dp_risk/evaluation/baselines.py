"""Models without privacy, to set the federated ones beside.

They read rows without a charge: the caller checks that every site's policy declares its data
public.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from dp_risk.types import ConfigurationError

Scores = NDArray[np.float64]

# Boosting wants a dense matrix: rare codes beyond this many tell a tree little.
MAX_DENSE_CODES = 512


class CodedRows(Protocol):
    """What a baseline needs of `dp_risk.data.Coded`."""

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes, shape (n, slots); 0 is padding."""
        ...

    @property
    def values(self) -> NDArray[np.float32]:
        """Numbers in [0, 1], shape (n, n_values)."""
        ...

    @property
    def labels(self) -> NDArray[np.float32]:
        """0 or 1, shape (n,)."""
        ...


class CodeTable(Protocol):
    """What a baseline needs of `dp_risk.data.Coding`."""

    @property
    def n_codes(self) -> int:
        """Size of the global code table."""
        ...


def logistic(train: CodedRows, test: CodedRows, coding: CodeTable, seed: int) -> Scores:
    """Return test scores of a logistic regression on values and one-hot codes.

    Parameters
    ----------
    train, test : Coded
        Public rows; `train` has labels.
    coding : Coding
        The coding of both.
    seed : int
        Of the solver.

    Returns
    -------
    ndarray of float64, shape (len(test),)
        Probabilities of the positive class; constant where `train` has a single class.

    Raises
    ------
    ConfigurationError
        If `train` has no row or a row without a label.
    """

    def fit() -> Any:
        # Values lie in [0, 1], most of them near 0: the default C = 1 shrinks them too much.
        model = LogisticRegression(C=10.0, max_iter=1000, random_state=seed)
        return model.fit(_sparse(train, coding), train.labels)

    return _scores(train, len(test.labels), fit, lambda: _sparse(test, coding))


def gradient_boosting(train: CodedRows, test: CodedRows, coding: CodeTable, seed: int) -> Scores:
    """Return test scores of gradient-boosted trees on values and frequent one-hot codes.

    Parameters, return value and errors are those of `logistic`.
    """
    counts = np.bincount(train.codes.ravel(), minlength=coding.n_codes)
    counts[0] = 0
    frequent = np.argsort(-counts, kind="stable")[:MAX_DENSE_CODES]
    frequent = frequent[counts[frequent] > 0]

    def dense(rows: CodedRows) -> NDArray[np.float32]:
        hot = _one_hot(rows, coding)[:, frequent].toarray()
        return np.hstack([rows.values, hot]).astype(np.float32)

    def fit() -> Any:
        model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False)
        return model.fit(dense(train), train.labels)

    return _scores(train, len(test.labels), fit, lambda: dense(test))


def site_alone(
    sites: Sequence[CodedRows], test: CodedRows, coding: CodeTable, seed: int
) -> list[Scores]:
    """Return the test scores of a `logistic` trained by each site on its own rows.

    Parameters
    ----------
    sites : sequence of Coded
        Public rows of each site.
    test, coding, seed
        As in `logistic`.

    Returns
    -------
    list of ndarray
        One score vector a site, in order.

    Raises
    ------
    ConfigurationError
        As in `logistic`.
    """
    return [logistic(site, test, coding, seed) for site in sites]


def _one_hot(rows: CodedRows, coding: CodeTable) -> Any:
    n, slots = rows.codes.shape
    indptr = np.arange(n + 1, dtype=np.int64) * slots
    flat = rows.codes.ravel()
    data = (flat != 0).astype(np.float32)
    hot = sparse.csr_matrix((data, flat, indptr), shape=(n, coding.n_codes))
    hot.sum_duplicates()
    return hot


def _sparse(rows: CodedRows, coding: CodeTable) -> Any:
    return sparse.hstack([sparse.csr_matrix(rows.values), _one_hot(rows, coding)], format="csr")


def _scores(
    train: CodedRows, n: int, fit: Callable[[], Any], features: Callable[[], Any]
) -> Scores:
    if not len(train.labels) or np.isnan(train.labels).any():
        raise ConfigurationError("evaluation: a baseline needs training rows, each with a label")
    if n == 0:
        return np.empty(0)
    if len(np.unique(train.labels)) < 2:
        return np.full(n, float(train.labels[0]))
    return np.asarray(fit().predict_proba(features())[:, 1], dtype=np.float64)
