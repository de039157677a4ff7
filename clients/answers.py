"""What a round computes: the only place where a site's rows meet a mechanism."""

from __future__ import annotations

from typing import Any

from clients.cells import Cells
from clients.shard import Shard
from dp_risk import models
from dp_risk.evaluation.bins import CELLS, HIGH, LOW, score_position
from dp_risk.privacy.dpsgd import DPSGD
from dp_risk.privacy.gaussian import GaussianCount, GaussianHistogram, GaussianQuantiles
from dp_risk.privacy.mechanism import Arrays
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.randomness import Randomness
from dp_risk.privacy.schedule import COUNTS, MAX_CELLS, SCORE_BINS, TRAINING
from dp_risk.privacy.shares import ShareGrid
from dp_risk.types import Split


def compute(
    plan: Plan,
    purpose: str,
    shard: Shard,
    module: Any,
    cells: Cells | None,
    randomness: Randomness,
    share: ShareGrid | None = None,
) -> Arrays:
    """Return the noisy output of one paid round.

    Parameters
    ----------
    plan : Plan
        The enrolled plan.
    purpose : str
        One of `dp_risk.privacy.schedule.PURPOSES`.
    shard : Shard
        The site's rows.
    module : Module or None
        The model with the round's weights, where the purpose has one.
    cells : Cells or None
        Public cells of an evaluation, of all units or by subgroup.
    randomness : Randomness
        Bits for sampling and noise.
    share : ShareGrid or None
        Of the secure sum that the output goes into; None where the site adds all of the noise.
    """
    cap = plan.max_records_per_account
    if purpose == COUNTS:
        count = GaussianCount(noise_multiplier=plan.counts_noise, share=share)
        return count(len(shard.units(Split.TRAIN, cap)), randomness)
    if purpose == TRAINING:
        steps = DPSGD(
            clip_norm=plan.clip_norm,
            noise_multiplier=plan.noise_multiplier,
            sampling_rate=plan.sampling_rate,
            steps=plan.steps_per_round,
            local_rate=plan.local_rate,
            share=share,
        )
        return steps((module, shard.units(Split.TRAIN, cap)), randomness)
    units, rows = shard.units(Split.HOLDOUT, cap).rows()
    logits = models.logits(module, rows.codes, rows.values)
    if purpose == SCORE_BINS:
        positions = GaussianQuantiles(
            low=LOW, high=HIGH, cells=CELLS, noise_multiplier=plan.score_bins_noise, share=share
        )
        return positions((units, score_position(logits)), randomness)
    assert cells is not None
    histogram = GaussianHistogram(
        # The length of a secure sum is fixed before the bins are: what is beyond them stays empty.
        cells=len(cells) if share is None else MAX_CELLS,
        noise_multiplier=plan.sums[purpose].noise_multiplier,
        share=share,
    )
    return histogram((units, cells.of(logits, rows, shard.coding)), randomness)
