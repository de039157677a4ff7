"""Defects of the ledger: what is charged, when, how often, and who notices an edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clients.noising import Alone, Asked, Compute
from clients.site import Site
from dp_risk.privacy import entries, keys, seal
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.answers import Answers
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.entries import Entry
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.replay import Replay
from dp_risk.privacy.schedule import EVALUATION, TRAINING, Purpose
from dp_risk.types import Refused
from tests.planted.defects import Defect

Patches = pytest.MonkeyPatch


def _one_round_counted(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Purpose, "total", property(lambda line: line.event))


def _new_ledger_at_every_start(monkeypatch: Patches) -> None:
    opened = Site.open

    def open(folder: Path) -> Site:
        for path in (*folder.glob("ledger.*"), *folder.glob("*.plan.json")):
            path.unlink()
        return opened(folder)

    monkeypatch.setattr(Site, "open", open)


def _charge_after_compute(monkeypatch: Patches) -> None:
    def answer(self: Alone, asked: Asked, compute: Compute) -> Any:
        run, purpose, round = self.plan.run, asked.purpose, asked.round
        arrays = compute(None)
        stored = self.ledger.pay(
            run=run,
            plan_digest=self.plan.digest,
            purpose=purpose,
            round=round,
            request=asked.request,
        )
        if stored is not None:
            return stored
        return self.ledger.mint(run=run, purpose=purpose, round=round, arrays=arrays)

    monkeypatch.setattr(Alone, "answer", answer)


def _without_charges(which: Callable[[Mapping[str, Any]], bool]) -> Callable[[Patches], None]:
    def plant(monkeypatch: Patches) -> None:
        append = Chain.append

        def careless(self: Chain, kind: str, body: Mapping[str, Any]) -> Entry:
            if kind == "charge" and which(body):
                return self.last()
            return append(self, kind, body)

        monkeypatch.setattr(Chain, "append", careless)

    return plant


def _refund_at_close(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Answers, "paid", lambda *_: {})
    charged = Replay._charged

    def forgetful(self: Replay, entry: Entry) -> None:
        charged(self, entry)
        self._paid = {}

    monkeypatch.setattr(Replay, "_charged", forgetful)


def _computed_again(monkeypatch: Patches) -> None:
    pay, mint = Ledger.pay, Ledger.mint

    def pays(self: Ledger, **asked: Any) -> None:
        pay(self, **asked)

    def mints(self: Ledger, **given: Any) -> Any:
        where = (given["run"], given["purpose"], given["round"])
        self._chain.change(
            "UPDATE answer SET digest = NULL WHERE run = ? AND purpose = ? AND round = ?", *where
        )
        return mint(self, **given)

    monkeypatch.setattr(Ledger, "pay", pays)
    monkeypatch.setattr(Ledger, "mint", mints)


def _computed_at_other_weights(monkeypatch: Patches) -> None:
    _computed_again(monkeypatch)
    request, pay = Answers.request, Ledger.pay

    def pays(self: Ledger, **asked: Any) -> Any:
        known = request(self._answers, asked["run"], asked["purpose"], asked["round"])
        return pay(self, **{**asked, "request": known[0] if known else asked["request"]})

    monkeypatch.setattr(Ledger, "pay", pays)


def _out_of_order(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Answers, "last", lambda *_: -1)


def _beyond_the_schedule(monkeypatch: Patches) -> None:
    pay = Ledger.pay

    def pays(self: Ledger, **asked: Any) -> Any:
        try:
            return pay(self, **asked)
        except Refused:
            if asked["purpose"] != TRAINING or self._open_reservation() is None:
                raise
            where = asked["run"], asked["purpose"], asked["round"]
            if self._answers.request(*where) is not None or asked["round"] < 8:
                raise
            self._answers.place(*where, asked["request"])
            return None

    monkeypatch.setattr(Ledger, "pay", pays)


def _crash_is_free(monkeypatch: Patches) -> None:
    request = Answers.request

    def forgets(self: Answers, *where: Any) -> Any:
        known = request(self, *where)
        if known is not None and known[1] is None:
            self._chain.change(
                "DELETE FROM answer WHERE run = ? AND purpose = ? AND round = ?", *where
            )
            return None
        return known

    monkeypatch.setattr(Answers, "request", forgets)


def _half_the_filter(monkeypatch: Patches) -> None:
    cost = Filter.cost
    monkeypatch.setattr(Filter, "cost", lambda self, event: cost(self, event) / 2)


def _one_step_in_the_filter(monkeypatch: Patches) -> None:
    cost = Filter.cost
    monkeypatch.setattr(
        Filter, "cost", lambda self, event: cost(self, dataclasses.replace(event, count=1))
    )


def _no_lifetime(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Filter, "epsilon", lambda *_: 0.0)


def _hashes_not_checked(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Entry, "holds", True)
    monkeypatch.setattr(entries, "_linked", lambda found: found)


def _signatures_not_checked(monkeypatch: Patches) -> None:
    monkeypatch.setattr(keys, "verify", lambda *_: True)


def _totals_not_checked(monkeypatch: Patches) -> None:
    monkeypatch.setattr(Replay, "_stated", lambda *_: None)
    monkeypatch.setattr(Replay, "_equal", lambda *_: True)


def _seal_not_checked(monkeypatch: Patches) -> None:
    monkeypatch.setattr(seal, "_sealed", lambda *_: None)


DEFECTS = (
    Defect(
        name="the accountant starts anew every round",
        checks=("accounting",),
        plant=_one_round_counted,
        fast=True,
    ),
    Defect(
        name="the ledger starts anew with the process",
        checks=("ledger", "reservation"),
        plant=_new_ledger_at_every_start,
    ),
    Defect(
        name="charge after compute",
        checks=("reads_in_mechanisms",),
        plant=_charge_after_compute,
        fast=True,
    ),
    Defect(
        name="only the first round is charged",
        checks=("steps_charged", "reads_in_mechanisms"),
        plant=_without_charges(lambda body: bool(body["round"])),
    ),
    Defect(
        name="evaluation is not charged",
        checks=("steps_charged", "reads_in_mechanisms"),
        plant=_without_charges(lambda body: body["purpose"] == EVALUATION),
    ),
    Defect(
        name="paid rounds are given back at the end of a run",
        checks=("reservation", "accounting"),
        plant=_refund_at_close,
    ),
    Defect(
        name="a repeated request is computed again",
        checks=("reservation",),
        plant=_computed_again,
        fast=True,
    ),
    Defect(
        name="a round is computed again at other weights",
        checks=("reservation",),
        plant=_computed_at_other_weights,
    ),
    Defect(name="rounds out of order", checks=("reservation",), plant=_out_of_order),
    Defect(name="rounds beyond the schedule", checks=("reservation",), plant=_beyond_the_schedule),
    Defect(name="a crash is not spent", checks=("reservation",), plant=_crash_is_free),
    Defect(name="the filter counts half", checks=("accounting",), plant=_half_the_filter),
    Defect(
        name="the filter forgets the steps of a round",
        checks=("accounting",),
        plant=_one_step_in_the_filter,
        overrides=("federation.steps_per_round=3",),
    ),
    Defect(name="the lifetime budget is not kept", checks=("reservation",), plant=_no_lifetime),
    Defect(name="hashes are not checked", checks=("ledger",), plant=_hashes_not_checked),
    Defect(name="signatures are not checked", checks=("ledger",), plant=_signatures_not_checked),
    Defect(name="totals are not checked", checks=("ledger",), plant=_totals_not_checked),
    Defect(
        name="an older copy of the ledger is accepted", checks=("ledger",), plant=_seal_not_checked
    ),
)
