"""Canaries: runs on frozen weights over sites where each reserved code's unit is in or out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.site import founders
from dp_risk.cli.audit.bench import Bench, stacked
from dp_risk.cli.audit.reserved import Reserved, plant, side, table_of, units_of
from dp_risk.cli.audit.scratch import Scratch, embedding, starting_weights
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import ConfigurationError, Split

# Slots of a reserved unit: its gradient grows with their number, those of the biases do not.
SLOTS = 24


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What one probe run showed.

    Parameters
    ----------
    inside, outside : ndarray of float64
        Observations of canaries that were in a batch and that were not: about 1 and 0, and noise.
    scores : ndarray of float64, shape (canaries,)
        Sum over the run's observations of each canary.
    present : ndarray of bool, shape (canaries,)
        The auditor's coins: whether the canary was among the site's units.
    noise : ndarray of float64, shape (rounds, coordinates)
        Released coordinates of reserved codes without a unit: nothing but noise.
    share : float
        Part of a canary's clipped gradient that lies on its own code.
    plan : Plan
        Plan of the run.
    """

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]
    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    noise: NDArray[np.float64]
    share: float
    plan: Plan


def probe(scratch: Scratch, plan: Plan, *, codes: int, rows: int, number: int) -> Seen:
    """Do one run over fresh sites, with canaries at the first, and return what the auditor saw.

    There is one site; where sites share the noise, as few as there may be.

    Parameters
    ----------
    scratch : Scratch
        Where the sites are made; they are removed afterwards.
    plan : Plan
        Plan of the configured run: sampling rate and steps are taken from it, and so is the noise,
        because the same epsilon is asked.
    codes : int
        Reserved codes: the unit of each is at the site with probability 1/2.
    rows : int
        Ordinary rows at each site.
    number : int
        Of this run: names its folder.
    """
    torch.set_num_threads(1)
    name = f"probe-{number}"
    reserved = scratch.reserved(codes=codes, slots=SLOTS)
    table = scratch.rows(rows * scratch.fewest, seed=number)
    steps = plan.rounds * plan.steps_per_round
    sites = scratch.fewest
    settings, folders = scratch.sites(
        name,
        reserved,
        table,
        sites=sites,
        rounds=steps,
        steps_per_round=1,
        min_sites=sites,
        spare_rounds=plan.spares,
    )
    site = folders[0]
    words = list(reserved.words(reserved.codes).values())
    labelled = {word: reserved.labels[number % 2] for number, word in enumerate(words)}
    # A unit that would be held out never trains, so no coin is thrown for it.
    thrown = np.flatnonzero(
        ~side(site, reserved, reserved.rows(table_of(site), labelled, records=1))
    )
    heads = thrown[np.random.default_rng().random(len(thrown)) < 0.5]
    plant(site, reserved, {words[i]: labelled[words[i]] for i in heads})
    module = scratch.module(reserved)
    start = starting_weights(module, reserved)
    bench = Bench(settings, folders)
    bench.run(
        scratch.folder / name / "run", start=start, frozen=True, sampling_rate=plan.sampling_rate
    )
    seen = _observe(bench, site, reserved, thrown, module, start)
    shutil.rmtree(scratch.folder / name)
    return seen


def _observe(
    bench: Bench,
    site: Path,
    reserved: Reserved,
    thrown: NDArray[np.int64],
    module: Any,
    start: Mapping[str, NDArray[Any]],
) -> Seen:
    plan = bench.plan
    assert plan is not None
    weights = embedding(module, reserved)
    released = stacked(bench.opponent.views, TRAINING, weights)[0][:, reserved.codes.start :]
    shard = founders(site)[1]
    units = units_of(shard, reserved, Split.TRAIN)
    codes = reserved.codes.start + thrown
    present = np.array([int(code) in units for code in codes])
    directions = gradients(module, start, reserved, weights)
    if not all(norm > 0 for _, norm in directions.values()):
        raise ConfigurationError(
            "audit: a canary has no gradient at this model's first weights: it shows nothing"
        )
    clipped = {label: v * min(1.0, plan.clip_norm / n) for label, (v, n) in directions.items()}
    share = min(float(np.linalg.norm(v)) for v in clipped.values()) / plan.clip_norm
    signal = np.array([clipped[number % 2] for number in thrown])
    seen = released[:, codes - reserved.codes.start]
    values = np.einsum("tcw,cw->tc", seen, signal) / np.square(signal).sum(1)
    included = np.zeros(values.shape, dtype=np.bool_)
    steps = [paid.steps for paid in bench.spy.watches[site.name].rounds if paid.key[1] == TRAINING]
    unit_of = np.array([units.get(int(code), -1) for code in codes])
    for round, [batch] in enumerate(steps):
        included[round] = np.isin(unit_of, batch)
    absent = seen[:, ~present].reshape(len(seen), -1)
    return Seen(
        inside=values[included],
        outside=values[~included],
        scores=values.sum(0),
        present=present,
        noise=absent,
        share=share,
        plan=plan,
    )


def gradients(
    module: Any, start: Mapping[str, NDArray[Any]], reserved: Reserved, weights: str
) -> dict[int, tuple[NDArray[np.float64], float]]:
    """Return a reserved unit's gradient on its own code, and the norm of its whole gradient.

    Computed with plain automatic differentiation, for either label; all reserved codes are alike.
    """
    coding, code = reserved.coding, reserved.codes.start
    module.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    codes = torch.full((1, coding.slots), code, dtype=torch.int64)
    values = torch.zeros(1, coding.n_values, dtype=torch.float64)
    out = {}
    for label in (0, 1):
        module.zero_grad()
        target = torch.full((1,), float(label), dtype=torch.float64)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            module(codes, values), target, reduction="sum"
        )
        torch.autograd.backward(loss)
        squares = [p.grad.square().sum() for p in module.parameters() if p.grad is not None]
        own = dict(module.named_parameters())[weights].grad[code].numpy().copy()
        out[label] = own, float(torch.stack(squares).sum().sqrt())
    return out
