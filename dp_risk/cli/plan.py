"""`dp-risk plan`: what an epsilon costs, before any data is touched."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from dp_risk import models
from dp_risk.cli.display import console, table
from dp_risk.cli.forecast import blind_count, dear_spares, forecast, plain_steps, standing
from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coding
from dp_risk.privacy.accounting import Event, Filter, epsilon
from dp_risk.privacy.planning import Noise, Privacy, check_delta
from dp_risk.privacy.schedule import answers
from dp_risk.types import ConfigurationError, Trust

SCHEMA_VERSION = 1
_TABLE = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def show(settings: Settings, units: int | None, out: Path) -> None:
    """Print the plan and its costs, and write `plan.json`.

    Parameters
    ----------
    settings : Settings
        The checked configuration.
    units : int or None
        Public number of training units over all sites; None when sizes are private.
    out : Path
        Where `plan.json` goes.
    """
    asked = settings.asked
    if units is not None and asked.trust != Trust.NONE:
        check_delta(asked.delta, units, where="--units")
    coding = Coding(schema=settings.data.load_schema())
    module = models.build(settings.model_name, settings.model_options, coding, settings.seed)
    # As `dp_risk.privacy.dpsgd` counts them, which takes seconds to import.
    dimension = sum(p.numel() for p in module.parameters() if p.requires_grad)
    targets = sorted({*_TABLE, asked.epsilon} - {None}, key=lambda e: float(e or 0))
    try:
        filter = Filter.open(settings.sites.lifetime_epsilon, asked.delta)
    except ValueError as error:
        raise ConfigurationError(f"sites.lifetime_epsilon: {error}") from None
    # What a run without noise would cost with it.
    trust = Trust.LOCAL if asked.trust == Trust.NONE else asked.trust
    rows, lines = [], []
    spoken: list[str] = []
    for target in targets:
        privacy = dataclasses.replace(asked, epsilon=target, trust=trust)
        # Sites whose sizes are private release them, whatever is known of the total.
        noise = forecast(settings, privacy, units if settings.data.public_size else None)
        if target == asked.epsilon:
            spoken = [standing(settings, privacy, noise), dear_spares(noise)]
            spoken.append(plain_steps(settings, noise))
            blind = blind_count(settings, privacy, noise)
            spoken.append(f"warning: train will refuse this: {blind}" if blind else "")
            spoken = [said for said in spoken if said]
        line = _line(noise, privacy, settings, filter)
        lines.append({"epsilon": target, **line})
        mark = "*" if target == asked.epsilon else ""
        rows.append(
            [f"{target:g}{mark}", line["sigma"], line["q"], line["steps"], line["epsilon_run"],
             line["epsilon_rdp"], line["epsilon_lifetime"], line["epsilon_evaluation"]]
        )  # fmt: skip
    head = [
        "epsilon",
        "sigma",
        "q",
        "steps",
        "run cost (PLD)",
        "run cost (RDP)",
        "lifetime cost",
        "holdout",
    ]
    screen = console()
    screen.print(table("Cost of one run at a site", head, rows))
    known = "sizes released with noise" if units is None else f"{units} training units"
    if units is not None and not settings.data.public_size:
        known += ", each site's number released with noise"
    screen.print(
        f"\ndelta {asked.delta:g}; {known}; {dimension} coordinates; lifetime cost by the "
        f"Renyi filter at order {filter.order}, of a budget of {filter.lifetime_epsilon:g}"
    )
    for said in spoken:
        screen.print(said)
    data = {
        "schema_version": SCHEMA_VERSION,
        "delta": asked.delta,
        "epsilon": asked.epsilon,
        "units": units,
        "dimension": dimension,
        "filter_order": filter.order,
        "lifetime_epsilon": filter.lifetime_epsilon,
        "plans": lines,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=2) + "\n")
    screen.print(f"written: {out}")


def _line(noise: Noise, privacy: Privacy, settings: Settings, filter: Filter) -> dict[str, Any]:
    sites, delta = privacy.max_sites_per_unit, privacy.delta
    steps = (noise.rounds + noise.spares) * settings.federation.steps_per_round
    times = sites * answers(noise.spares)
    training = Event(
        noise_multiplier=noise.noise_multiplier,
        sampling_rate=noise.sampling_rate,
        count=steps * sites,
    )
    events, evaluation = [training], []
    if noise.counts_noise:
        events.append(Event(noise_multiplier=noise.counts_noise, count=times))
    if noise.evaluation_noise:
        evaluation = [
            Event(noise_multiplier=std, count=times)
            for std in (noise.score_bins_noise, noise.evaluation_noise)
        ]
    if noise.subgroups_noise:
        columns = len(settings.evaluation.subgroups)
        evaluation.append(Event(noise_multiplier=noise.subgroups_noise, count=times * columns))
    if not settings.data.keeps_ids(privacy.unit):
        events += evaluation
    orders = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)
    filters = [Filter(lifetime_epsilon=1.0, delta=delta, order=order) for order in orders]
    return {
        "sigma": noise.noise_multiplier,
        "q": noise.sampling_rate,
        "steps": steps,
        "counts_noise": noise.counts_noise or None,
        "evaluation_noise": noise.evaluation_noise or None,
        "subgroups_noise": noise.subgroups_noise or None,
        "epsilon_run": epsilon(events, delta),
        "epsilon_rdp": min(f.epsilon(sum(f.cost(e) for e in events)) for f in filters),
        "epsilon_lifetime": filter.epsilon(sum(filter.cost(e) for e in events)),
        "epsilon_evaluation": epsilon(evaluation, delta) if evaluation else None,
    }
