"""What a ledger is about and where it stands: plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dp_risk.types import ConfigurationError, Split

_SPLITS = ((Split.TRAIN, Split.HOLDOUT), (Split.BOTH,))


@dataclass(frozen=True, kw_only=True)
class Account:
    """What is fixed when a ledger is opened: the same for every split in it.

    Parameters
    ----------
    dataset : str
        Dataset id of the site's policy; new rows or edits do not open a new account.
    unit, adjacency : str
        What epsilon is about.
    delta : float
        In (0, 1).
    lifetime_epsilon : float
        Budget of everything that will ever be released from one split.
    public : bool
        Whether the data is public: only then may a run without noise be answered.
    splits : tuple of str
        ("train", "holdout") when a unit keeps its split for ever: disjoint units, so each split
        has the whole budget. ("both",) when it may move: one account pays for all in sequence.
    partition : mapping of str to str
        Keyed digests, which tell nobody anything, of what decides who is a unit and which split it
        is on; empty where only a policy was read, which does not say it.

    Raises
    ------
    ConfigurationError
        On other splits.
    """

    dataset: str
    unit: str
    adjacency: str
    delta: float
    lifetime_epsilon: float
    public: bool
    splits: tuple[str, ...]
    partition: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.splits not in _SPLITS:
            raise ConfigurationError(
                f"an account's splits are train and holdout, or both: not {', '.join(self.splits)}"
            )


@dataclass(frozen=True, kw_only=True)
class Balance:
    """Where the account of one split stands.

    `*_epsilon` are lifetime (filter) costs, never run costs. Turning Renyi divergence into epsilon
    adds a constant once, so the first run seems dear and later ones cheap; `used`, in [0, 1], is
    the part of the filter's capacity that is gone and grows evenly.
    """

    spent_epsilon: float
    left_epsilon: float
    used: float


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a ledger stands.

    Parameters
    ----------
    head, signature : str
        Hash of the last entry and its signature, in hexadecimal.
    entries : int
        Number of entries.
    open_run : str or None
        The run whose reservation is open.
    lifetime_epsilon : float
        The budget in force: the smaller one of the policy's and the chain's.
    retired : bool
        Whether nothing will ever be released again.
    balances : mapping of str to Balance
        One a split.
    """

    head: str
    signature: str
    entries: int
    open_run: str | None
    lifetime_epsilon: float
    retired: bool
    balances: Mapping[str, Balance]

    @property
    def worst(self) -> Balance:
        """The balance of the split that has spent most."""
        return max(
            self.balances.values(), key=lambda balance: (balance.used, balance.spent_epsilon)
        )

    @property
    def spent_epsilon(self) -> float:
        """Lifetime epsilon spent from the worst account."""
        return self.worst.spent_epsilon

    @property
    def left_epsilon(self) -> float:
        """Lifetime epsilon left in the worst account."""
        return self.worst.left_epsilon

    @property
    def used(self) -> float:
        """Part of the filter's capacity that is gone from the worst account, in [0, 1]."""
        return self.worst.used


@dataclass(frozen=True, kw_only=True)
class Amendment:
    """A budget that was raised, a ledger retired or a key rotated: who, why, when.

    `lifetime_epsilon` is the budget from then on.
    """

    sequence: int
    time: str
    kind: str
    by: str
    reason: str
    lifetime_epsilon: float

    def __post_init__(self) -> None:
        for name, text in (("by", self.by), ("reason", self.reason)):
            if not text.strip() or len(text) > 500 or not text.isprintable():
                raise ConfigurationError(f"{name}: one line of 1 to 500 characters is needed")
        if not math.isfinite(self.lifetime_epsilon):
            raise ConfigurationError("a lifetime budget is a finite number")
