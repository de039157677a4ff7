"""A watch on scratch sites: which units were read, by which paid round, and what was charged."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from clients.shard import Shard, TrainingUnits
from clients.site import Site
from dp_risk.data.coding import Coded
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.units import Batch
from dp_risk.types import Split

Round = tuple[str, str, int]


@dataclass(kw_only=True)
class Paid:
    """What happened between a payment and its release.

    Parameters
    ----------
    key : (str, str, int)
        Run, purpose and round.
    charge : int or None
        Entry of the ledger that holds the charge when the mechanism starts; None: there is none.
    split : str or None
        Account that it charges.
    steps_charged : int
        Steps that it charges.
    drawn : set of bytes
        What the operating system's generator gave meanwhile.
    keys : list of bytes
        Keys of the random streams that began meanwhile.
    steps : list of ndarray of int64
        Units of each batch, in the order of the steps.
    beyond : int
        Units that were read though no batch holds them.
    whole : int
        Reads of all units at once.
    released : bool
        Whether the ledger minted a release.
    """

    key: Round
    charge: int | None
    split: str | None
    steps_charged: int
    drawn: set[bytes] = field(default_factory=set)
    keys: list[bytes] = field(default_factory=list)
    steps: list[NDArray[np.int64]] = field(default_factory=list)
    beyond: int = 0
    whole: int = 0
    released: bool = False


@dataclass(frozen=True, kw_only=True)
class Read:
    """One read of rows: which split, and by which paid round."""

    split: Split
    paid: Paid | None


@dataclass(kw_only=True)
class Watch:
    """All that was seen of one site.

    Parameters
    ----------
    rounds : list of Paid
        Paid rounds that computed something, in order.
    reads : list of Read
        Every read of rows.
    ids : mapping of str to set of bytes
        Ids of the units that were read, by purpose.
    sizes : mapping of str to int
        Number of units, by split.
    current : Paid or None
        The paid round that is being computed.
    early : Paid
        What happened since the last release, outside any paid round: the next payment takes its
        steps and random bits over, because a round that is paid too late is a round too. Its
        reads stay unpaid.
    """

    rounds: list[Paid] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    ids: dict[str, set[bytes]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    current: Paid | None = None
    early: Paid = field(default_factory=lambda: _nothing())

    def read(self, split: Split) -> Paid | None:
        """Note a read."""
        self.reads.append(Read(split=split, paid=self.current))
        return self.current

    def saw(self, ids: NDArray[np.bytes_]) -> None:
        """Note whose rows were read, under the purpose that is being answered."""
        purpose = self.current.key[1] if self.current else ""
        self.ids.setdefault(purpose, set()).update(ids.tolist())


def _nothing() -> Paid:
    return Paid(key=("", "", -1), charge=None, split=None, steps_charged=0)


class WatchedUnits(TrainingUnits):
    """Units whose every read is noted; `inner` does the work."""

    def __init__(self, inner: TrainingUnits, watch: Watch, split: Split) -> None:
        self.__dict__.update(inner.__dict__)
        self._watch = watch
        self._split = split
        self._inside = False

    @contextmanager
    def _noted(self) -> Iterator[Paid | None]:
        """Note a read from outside; what a read needs of its own is a part of it."""
        if self._inside:
            yield None
            return
        self._inside = True
        try:
            yield self._watch.read(self._split) or self._watch.early
        finally:
            self._inside = False

    def __len__(self) -> int:
        with self._noted():
            size = self._watch.sizes[self._split] = super().__len__()
            return size

    def sizes(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return with how many records each of some units takes part: a step begins."""
        with self._noted() as paid:
            if paid is not None:
                paid.steps.append(np.array(index))
            return super().sizes(index)

    def batch(self, index: NDArray[np.int64]) -> Batch:
        """Return some units."""
        with self._noted() as paid:
            if paid is not None:
                sampled = paid.steps[-1] if paid.steps else np.empty(0, dtype=np.int64)
                # A batch is sorted, so that membership is cheap.
                at = np.minimum(np.searchsorted(sampled, index), max(len(sampled) - 1, 0))
                inside = sampled[at] == index if len(sampled) else np.zeros(len(index), bool)
                paid.beyond += int((~inside).sum())
            first = index if self._offsets is None else np.asarray(self._offsets)[index]
            self._watch.saw(self._coded.ids[first])
            return super().batch(index)

    def rows(self) -> tuple[NDArray[np.int64], Coded]:
        """Return all rows."""
        with self._noted() as paid:
            if paid is not None:
                paid.whole += 1
            unit, rows = super().rows()
            self._watch.saw(rows.ids)
            return unit, rows


@dataclass(frozen=True, kw_only=True)
class WatchedShard(Shard):
    """A shard whose every read is noted."""

    watch: Watch

    @property
    def train(self) -> Coded:
        """All training rows, past the units."""
        return self._whole(Split.TRAIN)

    @property
    def holdout_units(self) -> Coded:
        """All held-out rows, past the units."""
        return self._whole(Split.HOLDOUT)

    def _whole(self, split: Split) -> Coded:
        paid = self.watch.read(split)
        if paid is not None:
            paid.whole += 1
        return self._load(split)

    def units(self, split: Split, max_records: int | None) -> TrainingUnits:
        """Return the units of one side of the split, under watch."""
        plain = Shard(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Shard)})
        return WatchedUnits(plain.units(split, max_records), self.watch, split)


class Spy:
    """Opens sites under watch; counts what the operating system's generator gives.

    Attributes
    ----------
    watches : mapping of str to Watch
        By the name of a site's folder.
    """

    def __init__(self) -> None:
        self.watches: dict[str, Watch] = {}

    def open(self, folder: Path) -> Site:
        """Open a site whose ledger and shard are watched."""
        site, watch = Site.open(folder), self.watches.setdefault(folder.name, Watch())
        fields = {f.name: getattr(site.shard, f.name) for f in dataclasses.fields(site.shard)}
        ledger: Any = site.ledger
        ledger.pay = partial(_pay, site, watch, ledger.pay)
        ledger.mint = partial(_mint, watch, ledger.mint)
        return dataclasses.replace(site, shard=WatchedShard(**fields, watch=watch))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the operating system's random bytes and the streams that begin, by round."""
        draw, begin = os.urandom, Randomness.__init__

        def now() -> list[Paid]:
            watches = self.watches.values()
            paid = [watch.current for watch in watches if watch.current is not None]
            return paid or [watch.early for watch in watches]

        def drawn(size: int, /) -> bytes:
            found = draw(size)
            for one in now():
                one.drawn.add(found)
            return found

        def begun(stream: Randomness, key: bytes) -> None:
            for one in now():
                one.keys.append(bytes(key))
            begin(stream, key)

        with (
            mock.patch.object(os, "urandom", drawn),
            mock.patch.object(Randomness, "__init__", begun),
        ):
            yield


def _pay(site: Site, watch: Watch, pay: Any, **asked: Any) -> Any:
    watch.current = None
    stored = pay(**asked)
    if stored is None:
        key = (str(asked["run"]), str(asked["purpose"]), int(asked["round"]))
        last = site.ledger.last
        body = last.body if last.kind == "charge" else {}
        charged = key == (body.get("run"), body.get("purpose"), body.get("round"))
        watch.current = Paid(
            key=key,
            charge=last.sequence if charged else None,
            split=str(body["split"]) if charged else None,
            steps_charged=int(body["event"]["count"]) if charged else 0,
            drawn=watch.early.drawn,
            keys=watch.early.keys,
            steps=watch.early.steps,
        )
        watch.early = _nothing()
        watch.rounds.append(watch.current)
    return stored


def _mint(watch: Watch, mint: Any, **given: Any) -> Any:
    release = mint(**given)
    if watch.current is not None:
        watch.current.released = True
    watch.current = None
    return release
