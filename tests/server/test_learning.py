from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.evaluation.metrics import auroc
from dp_risk.models.opening import Weights
from server.job import Job
from server.learning import Learner
from tests.federation import SCHEMA, plan
from tests.server.test_job import job

CODING = Coding(schema=Schema.from_dict(SCHEMA))
BIAS = "bias.weight"


def learner(one: Job | None = None, *, noise: float = 1e-3, **changes: Any) -> Learner:
    one = one or job()
    module = models.build(one.model, one.model_options, CODING, 0)
    planned = {"rounds": 40, "noise_multiplier": noise, "sampling_rate": 1.0, **changes}
    return Learner(
        job=one,
        coding=CODING,
        plan=plan(**planned),
        start={k: v.numpy().copy() for k, v in module.state_dict().items()},
        noise=noise / 1000.0,
    )


class Rows:
    """A site without noise: mean gradients of the logistic loss at the weights that are asked."""

    def __init__(self, share: float) -> None:
        rng = np.random.default_rng(1)
        self.codes = rng.integers(1, CODING.n_codes, (1000, CODING.slots))
        self.values = rng.random((1000, CODING.n_values))
        truth = rng.normal(size=CODING.n_codes)
        logits = truth[self.codes].sum(1)
        self.labels = (logits > np.quantile(logits, 1 - share)).astype(float)

    def scores(self, at: Weights) -> np.ndarray:
        codes, values = at["terms.codes.weight"][:, 0], at["terms.values.weight"][0]
        return codes[self.codes].sum(1) + self.values @ values + at[BIAS][0, 0]

    def __call__(self, at: Weights) -> dict[str, np.ndarray]:
        residual = 1 / (1 + np.exp(-self.scores(at))) - self.labels
        codes = np.zeros((CODING.n_codes, 1))
        np.add.at(codes[:, 0], self.codes, residual[:, None])
        values = residual @ self.values
        return {
            "terms.codes.weight": codes / 1000,
            "terms.values.weight": values[None] / 1000,
            BIAS: np.array([[residual.mean()]]),
        }


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_two_rounds_open_and_the_share_of_positives_is_where_steps_start(share: float) -> None:
    one, site = learner(), Rows(share)
    for expected in (30.0, -30.0):
        assert one.weights[BIAS][0, 0] == expected
        assert not one.weights["terms.codes.weight"].any()
        assert not one.result()["terms.codes.weight"].any()
        one.hear(site(one.weights))
    share = site.labels.mean()
    assert one.steps.positives == pytest.approx(share, abs=1e-4)
    assert one.weights[BIAS][0, 0] == pytest.approx(np.log(share / (1 - share)), abs=1e-2)
    assert one.steps.ridge == pytest.approx(0.004)
    assert one.steps.learning_rate is None


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_it_learns(share: float) -> None:
    one, site = learner(), Rows(share)
    for _ in range(40):
        one.hear(site(one.weights))
    assert auroc(site.labels, site.scores(one.result())) > 0.95


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        (job(learning_rate=0.5), {}),
        (job(), {"rounds": 9}),
        (job(steps_per_round=2), {"steps_per_round": 2}),
    ],
)
def test_where_something_else_is_asked_for_every_round_is_a_plain_step(
    asked: Job, changes: dict[str, int]
) -> None:
    one, site = learner(asked, noise=5.0, **changes), Rows(0.3)
    assert one.weights[BIAS][0, 0] == 0
    gradient = site(one.weights)
    one.hear(gradient)
    rate = one.steps.learning_rate
    assert rate == (0.5 if asked.federation.learning_rate else pytest.approx(2.0))
    np.testing.assert_allclose(one.weights[BIAS], -rate * gradient[BIAS])
    assert (one.steps.positives, one.steps.ridge) == (None, None)


def test_more_noise_takes_shorter_steps() -> None:
    ridges = []
    for noise in (1.0, 10.0, 100.0):
        one, site = learner(noise=noise), Rows(0.3)
        for _ in range(2):
            one.hear(site(one.weights))
        ridges.append(one.steps.ridge or 0)
    assert ridges == sorted(ridges)
    assert ridges[0] < ridges[-1]


def test_weights_of_another_run_keep_their_bias(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"any")
    one = learner(dataclasses.replace(job(), start=tmp_path / "weights"))
    site = Rows(0.3)
    for _ in range(2):
        one.hear(site(one.weights))
    assert one.steps.ridge is not None
    assert one.steps.start == hashlib.sha256(b"any").hexdigest()
    assert not one.weights[BIAS].any()
