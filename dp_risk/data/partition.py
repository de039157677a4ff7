"""Partitions of a public table into simulated sites.

They read rows exactly, so they are for data that every site may see: built-in data, or a file that
its owner splits before handing out the shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dp_risk.data.columns import distinct, to_numbers, to_text
from dp_risk.data.labels import read_labels
from dp_risk.data.schema import Schema
from dp_risk.types import ConfigurationError

MIN_ROWS = 20
MIN_SHARE = 0.3


class Partition(Protocol):
    """Assigns every row of a table to a site."""

    def __call__(self, table: Any, schema: Schema, sites: int) -> NDArray[np.int64]:
        """Return the site of each row, shape (n,), in [0, sites).

        Raises
        ------
        ConfigurationError
            If a column is missing, or there are fewer rows, accounts or values than sites.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Iid:
    """Equal shares at random; whole accounts where the schema has them."""

    seed: int

    def __call__(self, table: Any, schema: Schema, sites: int) -> NDArray[np.int64]:
        """Return the site of each row (see `Partition`)."""
        groups, weights = _groups(table, schema, sites)
        rng = np.random.default_rng([self.seed, 1])
        return np.asarray((rng.permutation(len(weights)) % sites)[groups])


@dataclass(frozen=True, kw_only=True)
class Dirichlet:
    """Label skew: the share of each class at each site is drawn from a Dirichlet distribution.

    A site keeps at least 0.3 of an equal share and 20 rows, as far as whole accounts and the size
    of the table allow: rows move to it at random from the fullest site.

    Parameters
    ----------
    alpha : float
        Concentration, positive; small is more skewed.
    seed : int
        Public seed.
    """

    seed: int
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigurationError(f"partition: alpha must be positive, not {self.alpha}")

    def __call__(self, table: Any, schema: Schema, sites: int) -> NDArray[np.int64]:
        """Return the site of each row (see `Partition`)."""
        groups, weights = _groups(table, schema, sites)
        labels = np.nan_to_num(read_labels(table, schema), nan=-1.0)
        top = np.full(len(weights), -1.0)
        np.maximum.at(top, groups, labels)
        rng = np.random.default_rng([self.seed, 2])
        site = np.empty(len(weights), dtype=np.int64)
        for label in (-1.0, 0.0, 1.0):
            members = rng.permutation(np.flatnonzero(top == label))
            edges = np.cumsum(rng.dirichlet(np.full(sites, self.alpha)))[:-1]
            place = (np.arange(len(members)) + 0.5) / max(len(members), 1)
            site[members] = np.searchsorted(edges, place)
        _repair(site, weights, sites, rng)
        return site[groups]


@dataclass(frozen=True, kw_only=True)
class ByColumn:
    """Natural silos: all rows with one value of a column go to one site.

    The most frequent values come first, each to the site with the fewest rows so far.

    Parameters
    ----------
    column : str, optional
        The column; the schema's ``silo`` by default.
    """

    column: str | None = None

    def __call__(self, table: Any, schema: Schema, sites: int) -> NDArray[np.int64]:
        """Return the site of each row (see `Partition`)."""
        name = _column(self.column or schema.silo, table, "silo")
        _check_sites(table.num_rows, sites, "rows")
        names, index = distinct(to_text(table[name], schema.missing))
        names, index = [*names, ""], np.where(index < 0, len(names), index)
        counts = np.bincount(index, minlength=len(names))
        _check_sites(int(np.count_nonzero(counts)), sites, f"values of {name}")
        rows = np.zeros(sites, dtype=np.int64)
        site = np.zeros(len(names), dtype=np.int64)
        for value in sorted(range(len(names)), key=lambda value: (-counts[value], names[value])):
            site[value] = np.argmin(rows)
            rows[site[value]] += counts[value]
        return site[index]


@dataclass(frozen=True, kw_only=True)
class ByTime:
    """Consecutive spans of time with equal numbers of rows; an account goes by its first row.

    Parameters
    ----------
    column : str, optional
        The column; the schema's ``time`` by default. Numbers and dates sort by value, other text
        as text (ISO 8601 sorts right); rows without a time come last.
    """

    column: str | None = None

    def __call__(self, table: Any, schema: Schema, sites: int) -> NDArray[np.int64]:
        """Return the site of each row (see `Partition`)."""
        name = _column(self.column or schema.time, table, "time")
        groups, weights = _groups(table, schema, sites)
        order = np.argsort(_time_key(table[name], schema), kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        first = np.full(len(weights), len(order), dtype=np.int64)
        np.minimum.at(first, groups, rank)
        queue = np.argsort(first, kind="stable")
        middle = np.cumsum(weights[queue]) - weights[queue] / 2
        site = np.empty(len(weights), dtype=np.int64)
        site[queue] = np.minimum((middle * sites / len(order)).astype(np.int64), sites - 1)
        return site[groups]


def whole_accounts(site: NDArray[np.int64], table: Any, schema: Schema) -> NDArray[np.int64]:
    """Return the sites of rows, shape (n,), with every account at the site of its first row."""
    groups, weights = _groups(table, schema, 1)
    first = np.full(len(weights), len(site), dtype=np.int64)
    np.minimum.at(first, groups, np.arange(len(site)))
    return np.asarray(site[first[groups]])


def _time_key(column: Any, schema: Schema) -> NDArray[np.float64]:
    text = to_text(column, schema.missing)
    numbers = to_numbers(text, schema.missing)
    if np.isnan(numbers).sum() == text.null_count:
        return numbers
    names, index = distinct(text)
    places = np.empty(len(names) + 1)
    places[np.argsort(np.array(names, dtype=object), kind="stable")] = np.arange(len(names))
    places[-1] = np.nan
    return np.asarray(places[index])


def _groups(table: Any, schema: Schema, sites: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the group of each row (its account, or the row alone) and the rows of each group."""
    if schema.account is None:
        index, what = np.arange(table.num_rows), "rows"
    else:
        name = _column(schema.account, table, "account")
        names, index = distinct(to_text(table[name], schema.missing))
        alone = np.flatnonzero(index < 0)
        index[alone] = len(names) + np.arange(len(alone))
        what = "accounts"
    weights = np.bincount(index).astype(np.int64)
    _check_sites(len(weights), sites, what)
    return index, weights


def _repair(
    site: NDArray[np.int64], weights: NDArray[np.int64], sites: int, rng: np.random.Generator
) -> None:
    total = int(weights.sum())
    floor = min(max(MIN_ROWS, int(np.ceil(MIN_SHARE * total / sites))), total // sites)
    rows = np.bincount(site, weights=weights, minlength=sites).astype(np.int64)
    members = [rng.permutation(np.flatnonzero(site == i)).tolist() for i in range(sites)]
    while rows.min() < floor:
        poor, rich = int(np.argmin(rows)), int(np.argmax(rows))
        # A heavy account must not make its giver poorer than its taker was.
        group = next((g for g in members[rich] if rows[rich] - weights[g] > rows[poor]), None)
        if group is None or len(members[rich]) < 2:
            return
        members[rich].remove(group)
        members[poor].append(group)
        site[group] = poor
        rows[rich] -= weights[group]
        rows[poor] += weights[group]


def _column(name: str | None, table: Any, role: str) -> str:
    if name is None:
        raise ConfigurationError(f"partition: the schema names no {role} column ({role}:)")
    if name not in table.column_names:
        raise ConfigurationError(f"partition: no column {name} in the data")
    return name


def _check_sites(found: int, sites: int, what: str) -> None:
    if sites < 1:
        raise ConfigurationError(f"sites must be at least 1, not {sites}")
    if found < sites:
        raise ConfigurationError(f"partition: {sites} sites need at least {sites} {what}")
