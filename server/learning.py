"""From the sums of rounds to weights: at which weights to ask next, and how to step."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.models import opening
from dp_risk.models.opening import Weights
from dp_risk.models.preconditioning import Preconditioner, fit
from dp_risk.models.stepping import Stepper
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.planning import choose_learning_rate
from server.job import Federation, Job

# Fewer rounds than this do not pay for an opening.
_FEWEST_ROUNDS = 10


def opens(settings: Federation, rounds: int) -> bool:
    """Whether a run of so many rounds begins with an opening, and its steps are preconditioned."""
    return (
        settings.learning_rate is None
        and settings.steps_per_round == 1
        and rounds >= _FEWEST_ROUNDS
    )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """How a run stepped, for its record.

    Parameters
    ----------
    learning_rate : float or None
        Step size for the mean gradient; None where steps are preconditioned.
    positives : float or None
        Share of positive units that the opening rounds released; None without them.
    ridge : float or None
        Of the preconditioner; None without one.
    start : str or None
        SHA-256 of the file of weights that training started from; None where they were new.
    """

    learning_rate: float | None
    positives: float | None = None
    ridge: float | None = None
    start: str | None = None


class Learner:
    """The server's half of training: post-processing of what sites release.

    With a learning rate of the user's, few rounds or several steps a round, every round is a step
    of plain momentum SGD or Adam. Else the first two rounds find the share of positives and how
    often codes occur, and all later steps are preconditioned. New weights take their bias from that
    share; weights of another run keep theirs.

    Parameters
    ----------
    job : Job
        What is asked.
    coding : Coding
        Of the public schema.
    plan : Plan
        The enrolled plan.
    start : mapping of parameter name to ndarray
        First weights.
    noise : float
        Standard deviation of the noise in one coordinate of a mean gradient.
    """

    def __init__(
        self,
        *,
        job: Job,
        coding: Coding,
        plan: Plan,
        start: Weights,
        noise: float,
    ) -> None:
        settings = job.federation
        self._model = models.create(job.model, job.model_options)
        self._coding = coding
        self._start = start
        self._digest = hashlib.sha256(job.start.read_bytes()).hexdigest() if job.start else None
        self._rounds = plan.rounds
        self._noise = noise
        opening_rounds = opens(settings, plan.rounds)
        self._openings: list[Weights] | None = [] if opening_rounds else None
        self._precondition: Preconditioner | None = None
        rate = settings.learning_rate
        if opening_rounds:
            # Momentum multiplies a step by 1 / (1 - momentum).
            rate = 1 - settings.momentum
        elif rate is None:
            rate = choose_learning_rate(
                self._noise, clip_norm=plan.clip_norm, dimension=plan.dimension
            )
        self._stepper = Stepper(
            learning_rate=rate,
            momentum=settings.momentum,
            averaging=settings.averaging,
            adam=settings.adam,
        )
        self._at = self._stepper.start(start)
        self._positives: float | None = None

    @property
    def weights(self) -> Weights:
        """Where the next round's gradient is asked for."""
        if self._openings is None or len(self._openings) == opening.ROUNDS:
            return self._at.weights
        return opening.certain(self._start, self._model.bias, positive=not self._openings)

    def hear(self, gradient: Weights) -> None:
        """Take the mean gradient of a round, at `weights`."""
        if self._openings is not None and len(self._openings) < opening.ROUNDS:
            self._openings.append(gradient)
            if len(self._openings) == opening.ROUNDS:
                self._open(*self._openings)
            return
        if self._precondition is not None:
            gradient = self._precondition(gradient)
        self._at = self._stepper.step(self._at, gradient)

    def result(self) -> dict[str, NDArray[np.float64]]:
        """Return the averaged weights so far."""
        return self._stepper.result(self._at)

    @property
    def steps(self) -> Steps:
        """How the run stepped."""
        return Steps(
            learning_rate=None if self._precondition else self._stepper.learning_rate,
            positives=self._positives,
            ridge=self._precondition.ridge if self._precondition else None,
            start=self._digest,
        )

    def _open(self, at_positive: Weights, at_negative: Weights) -> None:
        bias = self._model.bias
        said = opening.read(at_positive, at_negative, bias, noise=self._noise)
        self._positives = said.positives
        self._precondition = fit(
            self._model.prior(self._coding),
            said,
            noise=self._noise,
            steps=self._rounds - opening.ROUNDS,
        )
        if self._digest is None:
            odds = math.log(said.positives / (1 - said.positives))
            first = {**self._start, bias: np.full_like(self._start[bias], odds)}
            self._at = self._stepper.start(first)
