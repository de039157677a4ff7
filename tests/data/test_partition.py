from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.data.partition import ByColumn, ByTime, Dirichlet, Iid
from dp_risk.data.schema import Label, Numeric, Schema
from dp_risk.types import ConfigurationError

ALL = [Iid(seed=3), Dirichlet(seed=3), Dirichlet(seed=3, alpha=0.05), ByColumn(), ByTime()]


def schema(account=None):
    return Schema(
        name="t",
        label=Label(column="y", positive=("1",)),
        features={"x": Numeric(low=0, high=1)},
        account=account,
        time="when",
        silo="where",
    )


def table(n, seed=0, accounts=50):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "x": rng.random(n),
            "y": rng.integers(0, 2, n),
            "when": rng.permutation(n),
            "where": [f"w{i}" for i in rng.integers(0, 20, n) ** 2 % 17],
            "who": [None if i == 0 else f"u{i}" for i in rng.integers(0, accounts, n)],
        }
    )


@pytest.mark.parametrize("partition", ALL, ids=repr)
@pytest.mark.parametrize("account", [None, "who"])
@given(n=st.integers(300, 400), sites=st.integers(1, 5), seed=st.integers(0, 9))
def test_every_row_has_one_site_and_a_seed_repeats(partition, account, n, sites, seed):
    data = table(n, seed)
    site = partition(data, schema(account), sites)
    assert site.shape == (n,)
    assert site.dtype == np.int64
    assert set(site.tolist()) == set(range(sites))
    np.testing.assert_array_equal(site, partition(data, schema(account), sites))


@pytest.mark.parametrize("partition", [p for p in ALL if not isinstance(p, ByColumn)], ids=repr)
def test_an_account_is_never_divided(partition):
    data = table(2000)
    site = partition(data, schema("who"), 4)
    homes: dict[str, set[int]] = {}
    for who, home in zip(data["who"].to_pylist(), site.tolist(), strict=True):
        if who is not None:
            homes.setdefault(who, set()).add(home)
    assert all(len(home) == 1 for home in homes.values())


def test_iid_shares_are_equal():
    counts = np.bincount(Iid(seed=1)(table(1003), schema(), 10))
    assert counts.max() - counts.min() <= 1


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.3, 1.0, 100.0]))
def test_dirichlet_sites_are_never_tiny(seed, alpha):
    counts = np.bincount(Dirichlet(seed=seed, alpha=alpha)(table(1000), schema(), 10))
    assert counts.min() >= 30


def test_dirichlet_skews_labels():
    data = table(4000)
    y = data["y"].to_numpy()

    def spread(alpha):
        site = Dirichlet(seed=5, alpha=alpha)(data, schema(), 10)
        return np.std([y[site == i].mean() for i in range(10)])

    assert spread(0.3) > 0.15 > 0.05 > spread(1000.0)


def test_seeds_differ():
    data = table(500)
    for make in (Iid, Dirichlet):
        first, second = (make(seed=seed)(data, schema(), 5) for seed in (1, 2))
        assert (first != second).any()


def test_by_column_keeps_values_together_and_balances():
    data = table(2000)
    site = ByColumn()(data, schema(), 4)
    values = np.array(data["where"].to_pylist())
    assert all(len(set(site[values == value])) == 1 for value in set(values))
    assert np.bincount(site).min() >= 0.5 * 2000 / 4


@pytest.mark.parametrize("as_text", [False, True])
def test_by_time_is_in_order_with_equal_counts(as_text):
    data = table(1000)
    when = data["when"].to_numpy()
    if as_text:
        data = data.set_column(2, "when", pa.array([str(t) for t in when]))
    site = ByTime()(data, schema(), 4)
    assert np.bincount(site).tolist() == [250] * 4
    assert (np.diff(site[np.argsort(when)]) >= 0).all()


def test_iso_dates_sort_and_missing_times_come_last():
    data = pa.table({"y": [1, 0, 1, 0], "when": ["2021-02-01", "?", "2020-12-31", "2021-01-01"]})
    assert ByTime()(data, schema(), 4).tolist() == [2, 3, 0, 1]


def test_impossible_partitions_are_refused():
    data = table(300)
    bare = Schema(name="t", label=schema().label, features=schema().features)
    for call in (
        lambda: Iid(seed=0)(data, schema(), 0),
        lambda: Iid(seed=0)(data, schema(), 301),
        lambda: Dirichlet(seed=0)(data, schema("who"), 200),
        lambda: ByColumn()(data, schema(), 30),
        lambda: ByColumn()(data, bare, 2),
        lambda: ByTime(column="nothing")(data, schema(), 2),
        lambda: Dirichlet(seed=0, alpha=0.0),
    ):
        with pytest.raises(ConfigurationError):
            call()
