"""The plan of a run: noise, sampling and steps from public facts and the sites' statements."""

from __future__ import annotations

from dp_risk.privacy.plan import Plan
from dp_risk.privacy.planning import check_delta, choose_noise
from dp_risk.types import ConfigurationError, Trust, Unit
from server.budget import SiteView
from server.job import Job
from server.robust import believed


def make_plan(job: Job, schema: str, dimension: int, views: list[SiteView]) -> Plan:
    """Return the plan of a new run, before any data is touched.

    Parameters
    ----------
    job : Job
        What is asked.
    schema : str
        Digest of the public schema.
    dimension : int
        Number of weights that are trained.
    views : list of SiteView
        What the sites state.

    Raises
    ------
    ConfigurationError
        If delta does not fit the number of units, or a size is not declared that must be.
    """
    privacy, settings = job.privacy, job.federation
    sizes = [view.units for view in views]
    declared = [size for size in sizes if size is not None]
    units = None if None in sizes else round(sum(believed(declared, settings.byzantine)))
    if privacy.trust != Trust.NONE:
        if units is not None:
            check_delta(privacy.delta, units, where="declared")
    elif units is None and all(view.statement["public"] for view in views):
        raise ConfigurationError(
            "privacy.trust: a run without noise counts no units, so every site must declare "
            "its number (data.public_size=true)"
        )
    stated = [view.statement for view in views]
    stable_ids = bool(stated[0]["stable_ids"])
    fewest = settings.fewest(privacy)
    noise = choose_noise(
        privacy,
        units=units,
        rounds=settings.rounds,
        steps_per_round=settings.steps_per_round,
        stable_ids=stable_ids,
        holdout=all(said["holdout"] > 0 for said in stated),
        may_lose=len(views) - fewest,
        spare_rounds=settings.spare_rounds,
        subgroups=len(job.subgroups),
    )
    local_rate = 0.0
    if settings.steps_per_round > 1:
        # Public facts only: an average site's expected batch.
        batch = noise.sampling_rate * (units or 1000 * settings.sites) / settings.sites
        local_rate = (settings.learning_rate or 0.1) / max(batch, 1.0)
    return Plan(
        run=job.run,
        dataset=job.dataset,
        schema=schema,
        model=job.model,
        model_options=dict(job.model_options),
        dimension=dimension,
        trust=privacy.trust,
        unit=privacy.unit,
        randomness=privacy.randomness,
        delta=privacy.delta,
        epsilon=privacy.epsilon,
        clip_norm=privacy.clip_norm,
        noise_multiplier=noise.noise_multiplier,
        sampling_rate=noise.sampling_rate,
        rounds=noise.rounds,
        steps_per_round=settings.steps_per_round,
        spares=noise.spares,
        local_rate=local_rate,
        counts_noise=noise.counts_noise,
        score_bins_noise=noise.score_bins_noise,
        evaluation_noise=noise.evaluation_noise,
        # Where nothing is evaluated, no group is.
        subgroups=job.subgroups if noise.subgroups_noise else (),
        subgroups_noise=noise.subgroups_noise,
        stable_ids=stable_ids,
        max_records_per_account=(
            privacy.max_records_per_account if privacy.unit == Unit.ACCOUNT else 1
        ),
        max_sites_per_unit=privacy.max_sites_per_unit,
        min_sites=fewest,
        max_colluding=privacy.max_colluding if privacy.trust == Trust.DISTRIBUTED else None,
        participants={view.site: view.key for view in views},
        seed=job.seed,
    )
