"""Enough probe runs for the power that was asked for, and what they certify."""

from __future__ import annotations

import dataclasses
import logging
import math
import multiprocessing
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from dp_risk.audit.bounds import clopper_pearson, gaussian_epsilon, white_box
from dp_risk.audit.findings import Check, Result
from dp_risk.audit.noise import Residuals
from dp_risk.audit.one_run import one_run_results
from dp_risk.audit.power import needed
from dp_risk.cli.audit.probe import SLOTS, Seen, probe
from dp_risk.cli.audit.scratch import Scratch, embedding
from dp_risk.cli.audit.views import noise_of
from dp_risk.cli.settings import Audit
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import Trust

# Released coordinates of all canaries of a site together: more cost more than they tell.
_COORDINATES, _MOST_CODES, _LEAST_CODES = 8192, 2000, 100
_CURVE = 60


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """What the probe runs showed together.

    Parameters
    ----------
    runs : list of Seen
        One a run.
    codes : int
        Canaries that may be at a site.
    wanted : int
        Observations with the canary in the batch that the power asks for.
    silent : Seen
        The positive control: one run without noise.
    """

    runs: list[Seen]
    codes: int
    wanted: int
    silent: Seen

    def joined(self, name: str) -> NDArray[Any]:
        """Return one field of all runs together."""
        return np.concatenate([getattr(seen, name) for seen in self.runs])

    @property
    def noise(self) -> Residuals:
        """Released coordinates of absent canaries: nothing but noise."""
        width = min(seen.noise.shape[1] for seen in self.runs)
        plan = self.runs[0].plan
        std, step = noise_of(plan, TRAINING, len(plan.participants))
        return Residuals(
            name="absent canaries",
            values=np.stack([seen.noise[:, :width] for seen in self.runs]),
            std=std,
            step=step,
        )


def look(scratch: Scratch, plan: Plan, asked: Audit, progress: Callable[[float], None]) -> Canaries:
    """Do probe runs until there are enough observations, or the time is over.

    Parameters
    ----------
    scratch : Scratch
        Where sites are made.
    plan : Plan
        Plan of the configured run.
    asked : Audit
        Power, and time.
    progress : callable
        Told which part is done, in [0, 1].
    """
    codes = asked.codes or _cheap(scratch)
    wanted = needed(
        1 / plan.noise_multiplier,
        sampling_rate=plan.sampling_rate,
        steps=plan.rounds * plan.steps_per_round,
        delta=plan.delta,
        share=asked.share,
        confidence=asked.confidence,
    )
    started, found = time.monotonic(), 0
    runs: list[Seen] = []
    options = {"codes": codes, "rows": asked.units}
    silent = probe(_without_noise(scratch), _short(plan), number=0, **options)
    with workers(asked.processes) as submit:
        waiting: list[Callable[[], Any]] = []
        number = 1
        while found < wanted:
            over = time.monotonic() - started > asked.seconds
            # A run that does not begin is not missed: how many there are depends on the time only.
            while len(waiting) < asked.processes and not (over and (runs or waiting)):
                waiting.append(submit(probe, (scratch, plan), {**options, "number": number}))
                number += 1
            if not waiting:
                break
            seen = waiting.pop(0)()
            runs.append(seen)
            found += len(seen.inside)
            done = max(found / wanted, (time.monotonic() - started) / asked.seconds)
            progress(min(1.0, done))
    return Canaries(runs=runs, codes=codes, wanted=wanted, silent=silent)


def _cheap(scratch: Scratch) -> int:
    """Return how many canaries a site may have without being slow."""
    reserved = scratch.reserved(codes=_LEAST_CODES, slots=SLOTS)
    module = scratch.module(reserved)
    width = int(dict(module.named_parameters())[embedding(module, reserved)][0].numel())
    return max(_LEAST_CODES, min(_MOST_CODES, _COORDINATES // width))


def _without_noise(scratch: Scratch) -> Scratch:
    settings = scratch.settings
    privacy = dataclasses.replace(settings.asked, trust=Trust.NONE, epsilon=None)
    data = dataclasses.replace(settings.data, public_size=True)
    return dataclasses.replace(
        scratch, settings=dataclasses.replace(settings, privacy=privacy, data=data)
    )


def _short(plan: Plan) -> Plan:
    return dataclasses.replace(plan, rounds=min(plan.rounds, 5), steps_per_round=1)


@contextmanager
def workers(count: int) -> Iterator[Callable[..., Callable[[], Any]]]:
    """Give a way to call functions: here, or in processes of their own."""
    if count == 1:
        yield lambda call, values, named: lambda: call(*values, **named)
        return
    with multiprocessing.get_context("spawn").Pool(count, initializer=_quiet) as pool:
        yield lambda call, values, named: pool.apply_async(call, values, named).get


def _quiet() -> None:
    # Whoever interrupts the audit ends its processes too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)


def results(found: Canaries, plan: Plan, asked: Audit) -> tuple[list[Result], Check, float]:
    """Return the bounds, the gate, and the gate's bound."""
    claim = float(plan.epsilon or 0.0)
    inside, outside = found.joined("inside"), found.joined("outside")
    steps = plan.rounds * plan.steps_per_round
    canaries = sum(len(seen.present) for seen in found.runs)
    common: dict[str, Any] = {
        "canaries": canaries,
        "sampling_rate": plan.sampling_rate,
        "steps": steps,
        "delta": plan.delta,
    }
    tight = white_box(inside, outside, confidence=asked.confidence, **common)
    gated = white_box(inside, outside, confidence=1 - asked.gate_level, **common)
    bound = gated.result.epsilon_lower_bound
    one = one_run_results(
        found.joined("scores"),
        found.joined("present"),
        claimed_mu=claimed_mu(plan),
        delta=plan.delta,
        confidence=asked.confidence,
    )
    gate = Check(
        name="gate",
        passed=bound <= claim,
        figure=f"epsilon at least {bound:.3g} (level {asked.gate_level:g}, "
        f"{len(inside):,} observations inside, {len(outside):,} outside), claimed {claim:g}",
    )
    return [tight.result, *one], gate, bound


def claimed_mu(plan: Plan) -> float:
    """Return the Gaussian parameter whose epsilon at the plan's delta is the claim."""
    claim = float(plan.epsilon or 0.0)
    return float(brentq(lambda mu: gaussian_epsilon(mu, plan.delta) - claim, 1e-6, 100.0))


def controls(found: Canaries, plan: Plan, asked: Audit) -> list[dict[str, Any]]:
    """Return the same bound where it must be large, and where it must be 0."""
    common: dict[str, Any] = {
        "sampling_rate": plan.sampling_rate,
        "steps": plan.rounds * plan.steps_per_round,
        "delta": plan.delta,
        "confidence": asked.confidence,
    }
    silent, outside = found.silent, found.joined("outside")
    loud = white_box(silent.inside, silent.outside, canaries=len(silent.present), **common)
    null = white_box(outside[::2], outside[1::2], canaries=found.codes, **common)
    return [
        {
            "name": "the same canaries in a run without noise",
            "expected": "as much as so few observations can certify",
            "epsilon_lower_bound": loud.result.epsilon_lower_bound,
        },
        {
            "name": "absent canaries against absent canaries",
            "expected": "0",
            "epsilon_lower_bound": null.result.epsilon_lower_bound,
        },
    ]


def evidence(found: Canaries, plan: Plan) -> dict[str, Any]:
    """Return what the plots of a report need."""
    inside, outside = found.joined("inside"), found.joined("outside")
    low, high = np.quantile(np.concatenate([inside, outside]), [0.001, 0.999])
    edges = np.linspace(low, high, 61)
    scores, present = found.joined("scores"), found.joined("present")
    levels = np.linspace(0.01, 0.99, _CURVE)
    thresholds = np.quantile(scores[~present], 1 - levels)
    missed = np.array([(scores[present] <= t).mean() for t in thresholds])
    high = [
        clopper_pearson(int((scores[present] <= t).sum()), int(present.sum()), 0.05)
        for t in thresholds
    ]
    epsilon, delta = float(plan.epsilon or 0.0), plan.delta
    claimed = np.maximum(1 - delta - math.exp(epsilon) * levels, 0)
    claimed = np.maximum(claimed, math.exp(-epsilon) * (1 - delta - levels))
    return {
        "canaries": {
            "codes": found.codes,
            "runs": len(found.runs),
            "share": min(seen.share for seen in found.runs),
            "inside": len(inside),
            "outside": len(outside),
            "wanted": found.wanted,
            "stopped": "enough observations" if len(inside) >= found.wanted else "time is over",
        },
        "observations": {
            "edges": edges.tolist(),
            "inside": np.histogram(inside, edges)[0].tolist(),
            "outside": np.histogram(outside, edges)[0].tolist(),
            "inside_mean": float(inside.mean()),
            "outside_mean": float(outside.mean()),
            "std": float(outside.std()),
        },
        "tradeoff": {
            "false_positive": levels.tolist(),
            "claimed": claimed.tolist(),
            "measured": missed.tolist(),
            "high": high,
        },
    }
