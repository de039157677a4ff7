"""Small frozen values and the errors that every room shares."""

from __future__ import annotations

from enum import StrEnum


class Unit(StrEnum):
    """What one person contributes: the thing that adjacency adds or removes."""

    RECORD = "record"
    ACCOUNT = "account"


class Adjacency(StrEnum):
    """Which pairs of data sets the guarantee compares."""

    ADD_REMOVE = "add-remove"


class Trust(StrEnum):
    """Who adds the noise (docs/concepts.md)."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"
    CENTRAL = "central"
    NONE = "none"


class RandomnessKind(StrEnum):
    """Where sampling and noise take their bits from."""

    SYSTEM = "system"
    SEEDED = "seeded"


class Split(StrEnum):
    """The two disjoint sets of units at a site; each has its own ledger account.

    Where a unit may move from one to the other (an edited record without an id), one account,
    `both`, pays for both in sequence.
    """

    TRAIN = "train"
    HOLDOUT = "holdout"
    BOTH = "both"


class DpRiskError(Exception):
    """An error that a person can act on: one line, no traceback.

    The message never holds a value computed from private rows.
    """

    exit_code = 1


class ConfigurationError(DpRiskError):
    """Bad configuration or an unreadable source."""

    exit_code = 2


class Refused(DpRiskError):
    """A privacy budget or a site's policy says no."""

    exit_code = 3


class FederationError(DpRiskError):
    """Too few sites answered, or one broke the protocol."""

    exit_code = 4


class VerificationError(DpRiskError):
    """A digest, signature or claim does not hold."""

    exit_code = 5
