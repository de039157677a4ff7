"""Defects of a site: its policy, gate and random bits, and what it says beside releases."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from numpy.typing import NDArray

from clients import answers, shard
from clients import site as site_module
from clients.policy import Policy
from clients.site import Site
from dp_risk import wire
from dp_risk.privacy import dpsgd
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.release import Release
from dp_risk.privacy.schedule import EVALUATION, TRAINING
from dp_risk.types import RandomnessKind, Split
from server import sites
from tests.planted.defects import Defect

Patches = pytest.MonkeyPatch


def _without_rule(*words: str) -> Callable[[Patches], None]:
    """Plant a policy that overlooks the objections with these words."""

    def plant(monkeypatch: Patches) -> None:
        objections = Policy.objections

        def careless(self: Policy, plan: Plan) -> Iterator[str]:
            return (said for said in objections(self, plan) if not any(w in said for w in words))

        monkeypatch.setattr(Policy, "objections", careless)

    return plant


def _keyed(words: Callable[[Site, Plan, str, int], tuple[Any, ...]]) -> Callable[[Patches], None]:
    """Plant noise whose key is a digest of some words."""

    def plant(monkeypatch: Patches) -> None:
        honest = Site._randomness

        def randomness(self: Site, plan: Plan, purpose: str, round: int) -> Randomness:
            if plan.randomness == RandomnessKind.SEEDED:
                return honest(self, plan, purpose, round)
            said = repr(words(self, plan, purpose, round))
            return Randomness(hashlib.sha256(said.encode()).digest())

        monkeypatch.setattr(Site, "_randomness", randomness)

    return plant


def _one_key_a_process(monkeypatch: Patches) -> None:
    key = os.urandom(32)
    monkeypatch.setattr(Randomness, "system", classmethod(lambda cls: cls(key)))


def _short_key(monkeypatch: Patches) -> None:
    monkeypatch.setattr(
        Randomness, "system", classmethod(lambda cls: cls(os.urandom(4) + bytes(28)))
    )


def _units_beside_the_release(monkeypatch: Patches) -> None:
    known: dict[str, int] = {}
    encode, decode, pay = wire.release_record, wire.read_release, site_module.compute

    def compute(plan: Plan, purpose: str, rows: Any, *rest: Any) -> Any:
        side = Split.TRAIN if purpose in ("training", "counts") else Split.HOLDOUT
        known["num-examples"] = len(rows.units(side, None))
        return pay(plan, purpose, rows, *rest)

    def encoded(release: Release) -> RecordDict:
        content = encode(release)
        content.config_records[wire.RECEIPT]["num-examples"] = known["num-examples"]
        return content

    def decoded(content: RecordDict) -> Release:
        plain = {k: v for k, v in content[wire.RECEIPT].items() if k != "num-examples"}
        return decode(
            RecordDict({wire.ARRAYS: content[wire.ARRAYS], wire.RECEIPT: ConfigRecord(plain)})
        )

    monkeypatch.setattr(site_module, "compute", compute)
    monkeypatch.setattr(wire, "release_record", encoded)
    monkeypatch.setattr(wire, "read_release", decoded)


def _class_counts(monkeypatch: Patches) -> None:
    statement = Site.statement

    def said(self: Site, *about: Any) -> dict[str, Any]:
        labels = self.shard.units(Split.TRAIN, None).rows()[1].labels
        return {**statement(self, *about), "positives": int((labels == 1).sum())}

    monkeypatch.setattr(Site, "statement", said)


def _array_beside(purpose: str, value: Callable[[Any], float]) -> Callable[[Patches], None]:
    """Plant one exact number of the rows in a release; the server overlooks it."""

    def plant(monkeypatch: Patches) -> None:
        compute, fits = site_module.compute, sites.releases

        def more(plan: Plan, asked: str, rows: Any, *rest: Any) -> Any:
            found = compute(plan, asked, rows, *rest)
            return {**found, "more": np.array([value(rows)])} if asked == purpose else found

        def without(*args: Any, **named: Any) -> Any:
            found = fits(*args, **named)
            for release in found.values():
                if isinstance(release, Release):
                    release.arrays.pop("more", None)
            return found

        monkeypatch.setattr(site_module, "compute", more)
        monkeypatch.setattr(sites, "releases", without)

    return plant


def _positives(rows: Any) -> float:
    # Not through the units: the round reads them anyway, so that only the release can tell.
    return float((rows._load(Split.HOLDOUT).labels == 1).sum())


def _text_of_the_error(monkeypatch: Patches) -> None:
    def refusal() -> RecordDict:
        said = str(sys.exception())
        return RecordDict({wire.REFUSAL: ConfigRecord({"refused": True, "why": said})})

    monkeypatch.setattr(wire, "refusal_record", refusal)


def _refuses_bad_rows(monkeypatch: Patches) -> None:
    read = dpsgd._read

    def strict(units: Any, index: Any, *rest: Any) -> Any:
        there = read(units, index, *rest)
        if there.sum() < len(index):
            raise ValueError("malformed rows")
        return there

    monkeypatch.setattr(dpsgd, "_read", strict)


def _a_cell_a_positive(monkeypatch: Patches) -> None:
    compute = site_module.compute

    def longer(plan: Plan, purpose: str, rows: Any, *rest: Any) -> Any:
        found = compute(plan, purpose, rows, *rest)
        if purpose != EVALUATION:
            return found
        return {"histogram": np.append(found["histogram"], np.zeros(int(_positives(rows))))}

    monkeypatch.setattr(site_module, "compute", longer)


def _reads_at_enrolment(monkeypatch: Patches) -> None:
    enrol = Site.enrol

    def curious(self: Site, plan: Plan) -> None:
        self.shard.units(Split.TRAIN, None).rows()
        enrol(self, plan)

    monkeypatch.setattr(Site, "enrol", curious)


def _split_by_row_number(monkeypatch: Patches) -> None:
    def mask(ids: NDArray[Any], key: bytes, fraction: float) -> NDArray[np.bool_]:
        return np.arange(len(ids)) % 5 == 0

    monkeypatch.setattr(shard, "holdout_mask", mask)


def _early_stopping(monkeypatch: Patches) -> None:
    compute = answers.compute

    def more(plan: Plan, purpose: str, rows: Any, *rest: Any) -> Any:
        if purpose == TRAINING:
            rows.units(Split.HOLDOUT, None).rows()
        return compute(plan, purpose, rows, *rest)

    monkeypatch.setattr(site_module, "compute", more)


DEFECTS = (
    Defect(
        name="a policy's smallest noise is not kept",
        checks=("policy",),
        plant=_without_rule("noise multiplier is below"),
    ),
    Defect(
        name="a policy's cap on a run is not kept",
        checks=("policy",),
        plant=_without_rule("above the cap"),
    ),
    Defect(
        name="a plan's price is not checked",
        checks=("policy",),
        plant=_without_rule("more than the plan says"),
    ),
    Defect(
        name="repeatable noise on private rows",
        checks=("policy",),
        plant=_without_rule("randomness", "seeded noise"),
    ),
    Defect(
        name="the same noise in every round",
        checks=("noise_independence", "system_randomness"),
        plant=_keyed(lambda site, plan, purpose, round: (site.policy.site, plan.run)),
    ),
    Defect(
        name="the same noise at every site",
        checks=("noise_independence", "system_randomness"),
        plant=_keyed(lambda site, plan, purpose, round: (plan.run, purpose, round)),
        fast=True,
    ),
    Defect(
        name="noise from the run id",
        checks=("system_randomness",),
        plant=_keyed(lambda site, plan, *where: (site.policy.site, plan.run, *where)),
    ),
    Defect(
        name="noise from the clock",
        checks=("system_randomness",),
        plant=_keyed(lambda *_: (time.time_ns(),)),
    ),
    Defect(
        name="one key for a whole process",
        checks=("noise_independence", "system_randomness"),
        plant=_one_key_a_process,
    ),
    Defect(name="a key of 32 bits", checks=("system_randomness",), plant=_short_key),
    Defect(
        name="the number of units beside a release",
        checks=("transcript",),
        plant=_units_beside_the_release,
        fast=True,
    ),
    Defect(
        name="class counts in a statement",
        checks=("transcript", "reads_in_mechanisms"),
        plant=_class_counts,
    ),
    Defect(
        name="an exact count of positives in a release",
        checks=("transcript",),
        plant=_array_beside(EVALUATION, _positives),
    ),
    Defect(name="the text of an error in a refusal", checks=("policy",), plant=_text_of_the_error),
    Defect(
        name="a refusal because of a malformed row",
        checks=("malformed_units", "transcript"),
        plant=_refuses_bad_rows,
    ),
    Defect(
        name="a release whose shape depends on rows",
        checks=("transcript",),
        plant=_a_cell_a_positive,
    ),
    Defect(
        name="rows are read at enrolment, for free",
        checks=("reads_in_mechanisms",),
        plant=_reads_at_enrolment,
    ),
    Defect(
        name="the holdout stops training early, for free",
        checks=("reads_in_mechanisms",),
        plant=_early_stopping,
    ),
    Defect(
        name="the split goes by row number",
        checks=("splits_disjoint",),
        plant=_split_by_row_number,
    ),
)
