"""Training with the product's own learner on all rows of a bed in one place, at chosen constants.

The gradient of a logistic regression is written down by hand, so that a training takes a tenth of
a second. It is clipped as `DPSGD` clips; its noise is that of a plan for ten sites of which one may
collude, and comes from a seed, which all settings share.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from beds import Bed, metrics, train_mask
from scipy import sparse
from scipy.special import expit

from dp_risk import models
from dp_risk.cli import compose
from dp_risk.data.coding import Coded, Coding
from dp_risk.data.files import BUILTIN
from dp_risk.data.schema import Numeric
from dp_risk.models import additive, preconditioning, prior
from dp_risk.models.opening import Weights
from dp_risk.privacy.accounting import calibrate
from dp_risk.privacy.planning import choose_learning_rate, choose_spares
from server.learning import Learner

# Noise of ten sites, of which one may collude, over what is accounted.
NOISES = 10 / 9
# Variances (and widths) of a bin's height: `prior.OWN`, `NARROW` and `WIDE`.
KERNELS = {
    "default": (prior.OWN, prior.NARROW, prior.WIDE),
    "each bin alone": (1.4, (0.0, 1.0), (0.0, 1.0)),
    "rougher": (0.4, (0.6, 0.03), (0.4, 0.15)),
    "smoother": (0.1, (0.3, 0.06), (1.0, 0.3)),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is varied; as it stands, what a run in trust `distributed` with ten sites does."""

    walk: float = preconditioning.WALK
    ridge: float = preconditioning.LEAST_RIDGE
    slope: float = additive.SLOPE
    kernel: str = "default"
    rounds: int = 53
    clip_norm: float = 1.0
    momentum: float = 0.9
    averaging: float = 0.9
    # Neither opening rounds nor a preconditioner.
    plain: bool = False
    # Of plain steps; None takes the rule's.
    learning_rate: float | None = None
    # None takes the schema's.
    bins: int | None = None

    def said(self) -> str:
        """Return what differs from the default."""
        plain = asdict(Setting())
        changes = [(name, value) for name, value in asdict(self).items() if value != plain[name]]
        parts = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in changes]
        return ", ".join(parts) or "default"


class Pool:
    """All rows of a split in one place.

    Parameters
    ----------
    one : Bed
        The rows.
    bins : int or None
        Of every number, in place of the schema's.
    seed : int
        Of the split.
    """

    def __init__(self, one: Bed, bins: int | None, seed: int) -> None:
        self.delta, self._key = one.delta, [*one.name.encode(), seed]
        self.options: dict[str, Any] = {"value_scale": 1.0}
        if one.name in BUILTIN:
            self.options = compose.settings([f"data={one.name}"]).model_options
        self.coding, coded, columns = _columns(one, bins, self.options["value_scale"])
        module = models.build("additive", self.options, self.coding, 0)
        self.start = {k: v.numpy().copy() for k, v in module.state_dict().items()}
        train = train_mask(coded.ids, seed)
        self._rows, self._test = columns[train], columns[~train]
        self._turned = self._rows.T.tocsr()
        self._labels, self._test_labels = coded.labels[train], coded.labels[~train]
        self._norms = sparse.linalg.norm(self._rows, axis=1)

    def __call__(self, setting: Setting, epsilon: float, draw: int) -> dict[str, float]:
        """Train once with one of many draws of noise; return the metrics of the held-out rows."""
        sigma = _sigma(epsilon, self.delta, setting.rounds)
        std = sigma * setting.clip_norm * math.sqrt(NOISES)
        units, dimension = len(self._labels), self._rows.shape[1]
        rng = np.random.default_rng([*self._key, round(1000 * epsilon), draw])
        rate = setting.learning_rate
        if setting.plain and rate is None:
            rate = choose_learning_rate(
                std / units, clip_norm=setting.clip_norm, dimension=dimension
            )
        # What a learner reads of a job and a plan.
        federation = SimpleNamespace(
            learning_rate=rate, momentum=setting.momentum, averaging=setting.averaging, adam=None
        )
        job = SimpleNamespace(
            federation=federation, model="additive", model_options=self.options, start=None
        )
        plan = SimpleNamespace(
            rounds=setting.rounds, steps_per_round=1, sampling_rate=1.0, noise_multiplier=sigma,
            clip_norm=setting.clip_norm, dimension=dimension,
        )  # fmt: skip
        with ExitStack() as stack:
            own, narrow, wide = KERNELS[setting.kernel]
            for module, name, value in (
                (preconditioning, "WALK", setting.walk),
                (preconditioning, "LEAST_RIDGE", setting.ridge),
                (additive, "SLOPE", setting.slope),
                (prior, "OWN", own), (prior, "NARROW", narrow), (prior, "WIDE", wide),
            ):  # fmt: skip
                stack.enter_context(patch.object(module, name, value))
            learner = Learner(
                job=job, coding=self.coding, plan=plan, start=self.start, units=units,
                noises=NOISES,
            )  # fmt: skip
            for _ in range(setting.rounds):
                total = self._sum(learner.weights, setting.clip_norm)
                total += std * rng.standard_normal(len(total))
                learner.hear(self._named(total / units))
        logits = self._test @ self._flat(learner.result())
        return metrics(self._test_labels, expit(logits))

    def _sum(self, at: Weights, clip_norm: float) -> Any:
        """Return the sum of the clipped gradients of the logistic loss."""
        errors = expit(self._rows @ self._flat(at)) - self._labels
        sizes = np.abs(errors) * self._norms
        return self._turned @ (errors * np.minimum(1.0, clip_norm / np.maximum(sizes, 1e-300)))

    def _flat(self, at: Weights) -> Any:
        return np.concatenate([at[name].ravel() for name in self.start])

    def _named(self, flat: Any) -> dict[str, Any]:
        ends = np.cumsum([array.size for array in self.start.values()])
        parts = zip(self.start.items(), np.split(flat, ends[:-1]), strict=True)
        return {name: part.reshape(array.shape) for (name, array), part in parts}


def _columns(one: Bed, bins: int | None, scale: float) -> tuple[Coding, Coded, Any]:
    """Return coding, coded rows, and what each weight of the model is multiplied with."""
    schema = one.schema
    if bins is not None:
        features = {
            name: replace(f, bins=bins) if isinstance(f, Numeric) else f
            for name, f in schema.features.items()
        }
        schema = replace(schema, features=features)
    coding = Coding(schema=schema)
    coded = coding.encode(one.table)
    count = len(coded)
    parts = []
    if coding.slots:
        row = np.repeat(np.arange(count), coding.slots)
        there = coded.codes.ravel() != 0
        shape = (count, coding.n_codes)
        entries = (row[there], coded.codes.ravel()[there])
        parts.append(sparse.csr_matrix((np.ones(there.sum()), entries), shape=shape))
    if coding.n_values:
        parts.append(sparse.csr_matrix(scale * coded.values.astype(np.float64)))
    return coding, coded, sparse.hstack([*parts, np.ones((count, 1))], format="csr")


@cache
def _sigma(epsilon: float, delta: float, rounds: int) -> float:
    count = rounds + choose_spares(rounds, may_lose=1)
    return calibrate(epsilon, delta, sampling_rate=1.0, count=count)
