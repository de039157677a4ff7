"""Defects of the secure sum: shares of the noise, masks and who takes part."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import pytest

from dp_risk.privacy import shares
from dp_risk.privacy.noise import Grid
from dp_risk.privacy.shares import ShareGrid
from dp_risk.secure_sum import session
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.masks import Round
from dp_risk.secure_sum.session import Session
from tests.planted.defects import Defect

DISTRIBUTED = ("privacy.trust=distributed", "federation.sites=3")


def _grid_of(monkeypatch: pytest.MonkeyPatch, sites: Any) -> None:
    """Let every share be as if so many sites carried the noise."""

    def grid(self: ShareGrid) -> Grid:
        return Grid(
            clip_norm=self.clip_norm,
            noise_multiplier=self.noise_multiplier,
            dimension=self.dimension,
            shares=sites(self),
        )

    found = cached_property(grid)
    found.__set_name__(ShareGrid, "_grid")
    monkeypatch.setattr(shares.ShareGrid, "_grid", found)


def _everybody_is_honest(monkeypatch: pytest.MonkeyPatch) -> None:
    _grid_of(monkeypatch, lambda grid: grid.participants)


def _a_share_of_all_squared(monkeypatch: pytest.MonkeyPatch) -> None:
    _grid_of(monkeypatch, lambda grid: grid.participants**2)


def _one_mask_for_all_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    def context(self: Round) -> tuple[Any, ...]:
        return ("mask", self.plan_digest, self.purpose)

    monkeypatch.setattr(Round, "context", property(context))


def _masks_forget_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Round.context.func  # type: ignore[attr-defined]

    def context(self: Round) -> tuple[Any, ...]:
        return tuple(honest(dataclasses.replace(self, request="")))

    monkeypatch.setattr(Round, "context", property(context))


def _no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def mask(_: Any, *, site: str, round: Round) -> Any:
        return np.zeros(round.dimension, np.uint64)

    monkeypatch.setattr(session, "mask", mask)


def _any_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    def participants(_: Session, named: Any) -> list[str]:
        return sorted(set(named or ()))

    monkeypatch.setattr(Session, "_participants", participants)


def _unsigned_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    def holds(self: Enrolment, terms: Any) -> bool:
        return (self.run, self.plan_digest) == (terms.run, terms.plan_digest)

    monkeypatch.setattr(Enrolment, "holds", holds)


def _plans_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Enrolment.holds

    def holds(self: Enrolment, terms: Any) -> bool:
        own = dataclasses.replace(self, plan_digest=terms.plan_digest)
        return honest(self, terms) or own.site in terms.roster

    monkeypatch.setattr(Enrolment, "holds", holds)


DEFECTS = (
    Defect(
        name="no allowance for colluding sites",
        checks=("noise_std",),
        plant=_everybody_is_honest,
        overrides=DISTRIBUTED,
    ),
    Defect(
        name="a share of the noise that is too small",
        checks=("noise_std",),
        plant=_a_share_of_all_squared,
        overrides=DISTRIBUTED,
        fast=True,
    ),
    Defect(
        name="a mask used twice",
        checks=("masks",),
        plant=_one_mask_for_all_rounds,
        overrides=DISTRIBUTED,
    ),
    Defect(
        name="masks that do not depend on the weights",
        checks=("reservation",),
        plant=_masks_forget_the_request,
        overrides=DISTRIBUTED,
    ),
    Defect(name="no masks", checks=("masks",), plant=_no_mask, overrides=DISTRIBUTED),
    Defect(
        name="a sum over any set of sites",
        checks=("reservation",),
        plant=_any_sites,
        overrides=DISTRIBUTED,
    ),
    Defect(
        name="enrolments of strangers",
        checks=("reservation",),
        plant=_unsigned_strangers,
        overrides=DISTRIBUTED,
    ),
    Defect(
        name="plans of sites are not compared",
        checks=("reservation",),
        plant=_plans_are_not_compared,
        overrides=DISTRIBUTED,
    ),
)
