"""Defects of the trainer: clipping, noise and sampling."""

from __future__ import annotations

import pytest

from dp_risk.privacy import noise
from tests.planted.defects import Defect


def _half_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = noise.discrete_gaussian
    monkeypatch.setattr(noise, "discrete_gaussian", lambda *a: draw(*a) // 2)


DEFECTS = (
    Defect(
        name="sigma off by a factor of 2",
        checks=("noise_std",),
        plant=_half_the_noise,
        fast=True,
    ),
)
