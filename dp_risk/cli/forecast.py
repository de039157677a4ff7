"""What a run will be like, from public facts, before any site is made."""

from __future__ import annotations

import dataclasses
import math

from dp_risk.cli.settings import Settings
from dp_risk.privacy.planning import Noise, Privacy, choose_noise
from dp_risk.privacy.schedule import spares_cost
from dp_risk.types import ConfigurationError, Trust
from server.learning import opens

# Spare rounds that make the noise so many times as large are worth a word.
_DEAR_SPARES = 1.25


def forecast(settings: Settings, privacy: Privacy, units: int | None) -> Noise:
    """Return the noise that a run over simulated sites will be planned with.

    Parameters
    ----------
    settings : Settings
        The checked configuration.
    privacy : Privacy
        What is asked, perhaps at another epsilon than the settings say.
    units : int or None
        Public number of training units over all sites; None when sizes are private.
    """
    federation = settings.federation
    return choose_noise(
        privacy,
        units=units,
        rounds=federation.rounds,
        steps_per_round=federation.steps_per_round,
        stable_ids=settings.data.keeps_ids(privacy.unit),
        holdout=settings.data.holdout > 0,
        may_lose=federation.sites - federation.fewest(privacy),
        spare_rounds=federation.spare_rounds,
        subgroups=0 if settings.data.public else len(settings.evaluation.subgroups),
    )


def in_sum(trust: str, *, sites: int, max_colluding: int) -> float:
    """Return how many times sigma the noise of a sum over all sites is."""
    shares = sites - max_colluding if trust == Trust.DISTRIBUTED else 1
    return math.sqrt(sites / shares)


def standing(settings: Settings, privacy: Privacy, noise: Noise) -> str:
    """Say in one line who is needed and how much noise a sum holds."""
    sites, colluding = settings.federation.sites, privacy.max_colluding
    local = in_sum(Trust.LOCAL, sites=sites, max_colluding=colluding)
    if privacy.trust != Trust.DISTRIBUTED:
        line = f"local: {noise.rounds} rounds; a sum over {sites} sites holds {local:.2f} x sigma"
        if colluding < sites - 1:
            shared = in_sum(Trust.DISTRIBUTED, sites=sites, max_colluding=colluding)
            line += f" (distributed: {shared:.2f} x)"
        return line
    fewest = settings.federation.fewest(privacy)
    shared = in_sum(privacy.trust, sites=sites, max_colluding=colluding)
    return (
        f"distributed: {noise.rounds} rounds and {noise.spares} spare, {fewest} of {sites} sites "
        f"needed{': none may stay away' if fewest == sites else ''}, {colluding} may collude; a "
        f"sum over {sites} sites holds {shared:.2f} x sigma (local: {local:.2f} x)"
    )


def plain_steps(settings: Settings, noise: Noise) -> str:
    """Warn of a run without an opening; empty where there is one."""
    if opens(settings.federation, noise.rounds):
        return ""
    return (
        "warning: plain steps without an opening, because of federation.learning_rate, "
        "federation.steps_per_round or fewer than ten rounds: the model may be much worse "
        "(docs/concepts.md, defaults)"
    )


def dear_spares(noise: Noise) -> str:
    """Warn of spare rounds that cost much noise; empty where they do not."""
    more = spares_cost(noise.rounds, noise.spares)
    if more <= _DEAR_SPARES:
        return ""
    return (
        f"warning: federation.spare_rounds: {noise.spares} spare beside {noise.rounds} rounds make "
        f"the noise of training up to {more:.2f} times as large, whether they are used or not"
    )


def blind_count(settings: Settings, privacy: Privacy, noise: Noise) -> str:
    """Say that a released number of units cannot be held against delta; empty where it can."""
    sites, colluding = settings.federation.sites, privacy.max_colluding
    std = noise.counts_noise * in_sum(privacy.trust, sites=sites, max_colluding=colluding)
    if std * privacy.delta <= 1:
        return ""
    return (
        f"privacy.epsilon: {privacy.epsilon:g}: the number of units would be released with a "
        f"standard deviation of {std:,.0f}, above 1/delta = {1 / privacy.delta:,.0f}, and could "
        "not show that delta is small enough; use a larger epsilon, or data.public_size=true where "
        "sizes are public"
    )


def check(settings: Settings) -> list[str]:
    """Return the warnings of a run that is about to start.

    Raises
    ------
    ConfigurationError
        If a released number of units would say nothing about delta.
    """
    privacy = settings.asked
    if privacy.trust == Trust.NONE:
        return []
    # Neither spare rounds nor counts depend on units or sampling, which is slow to price.
    noise = forecast(settings, dataclasses.replace(privacy, sampling_rate=1.0), None)
    blind = "" if settings.data.public_size else blind_count(settings, privacy, noise)
    if blind:
        raise ConfigurationError(blind)
    return [line for line in [dear_spares(noise)] if line]
