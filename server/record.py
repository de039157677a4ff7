"""`run.json`: what a run promised, charged and found."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dp_risk.federation import files
from dp_risk.privacy.accounting import epsilon, rdp
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import Adjacency, RandomnessKind, Unit
from server.budget import SiteView
from server.job import Federation
from server.learning import Steps
from server.ledgers import Evidence
from server.provenance import commit, peak_rss_mb, versions
from server.sizes import Sizes
from server.summing import Summing

SCHEMA_VERSION = 1


def build(
    *,
    plan: Plan,
    views: list[SiteView],
    closed: Mapping[str, SiteView],
    evidence: Mapping[str, Evidence],
    sizes: Sizes,
    federation: Federation,
    steps: Steps,
    joined: Mapping[str, int],
    summing: Summing,
    estimates: Mapping[str, Any] | None,
    groups: Sequence[Mapping[str, Any]],
    doubts: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Return the record of a finished run.

    Parameters
    ----------
    plan : Plan
        Its plan.
    views, closed : list of SiteView, mapping of site to SiteView
        What the sites stated before the run and at its end.
    evidence : mapping of site to Evidence
        What their ledgers say of the run, signed.
    sizes : Sizes
        Numbers of units, as they were used.
    federation : Federation
        How the server combined answers.
    steps : Steps
        How the weights moved.
    joined : mapping of site to int
        Training rounds that each site was part of.
    summing : Summing
        What was asked and what was lost.
    estimates : mapping or None
        What `server.evaluation.evaluate` returned.
    groups : sequence of mapping
        What `server.subgroups.evaluate` returned.
    doubts : sequence of str
        What does not hold of a ledger, by site.
    seconds : float
        Duration.
    """
    sites = [
        _site(plan, v, closed.get(v.site, v), sizes.known, joined)
        | {"statement": evidence[v.site].statement, "no_statement": evidence[v.site].missing}
        for v in views
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": plan.run,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "dataset": plan.dataset,
        "model": plan.model,
        "trust": plan.trust,
        "unit": plan.unit,
        "adjacency": Adjacency.ADD_REMOVE,
        "delta": plan.delta,
        "epsilon_target": plan.epsilon,
        "epsilon_spent": plan.cost if plan.private else None,
        "epsilon_by_split": dict(plan.costs) if plan.private else None,
        "epsilon_lifetime": max(site["epsilon_lifetime"] for site in sites),
        "sigma": plan.noise_multiplier,
        "q": plan.sampling_rate,
        "steps": plan.rounds * plan.steps_per_round,
        "rounds": plan.rounds,
        "spare_rounds": plan.spares,
        "rounds_abandoned": sum(summing.abandoned.values()),
        "answers_lost": summing.lost.get(TRAINING, 0),
        "units": round(sizes.total),
        "clip_norm": plan.clip_norm,
        "max_records_per_account": plan.max_records_per_account,
        "max_sites_per_unit": plan.max_sites_per_unit,
        "stable_ids": plan.stable_ids,
        "learning_rate": steps.learning_rate,
        "positives": steps.positives,
        "ridge": steps.ridge,
        "min_sites": plan.min_sites,
        "max_colluding": plan.max_colluding,
        "rule": federation.rule,
        "max_byzantine": federation.byzantine,
        "dropped": [
            {"purpose": purpose, "site": site, "reason": reason, "answers": count}
            for (purpose, site, reason), count in sorted(summing.dropped.items())
        ],
        "sites": sites,
        "charges": charges(plan),
        "estimates": estimates,
        "utility": estimates["metrics"] if estimates else None,
        "utility_source": "charged" if estimates else None,
        "subgroups": list(groups),
        "subgroups_note": _no_groups(plan, [group["column"] for group in groups]),
        "seconds": round(seconds, 2),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "versions": versions(),
        "commit": commit(),
        "randomness": plan.randomness,
        "seed": plan.seed,
        "plan": plan.digest,
        "start": steps.start,
        "doubts": list(doubts),
        "assumptions": [
            *(f"Does not hold: {line}." for line in doubts),
            *_assumptions(plan, steps, estimates, federation),
        ],
    }


def write_plan(folder: Path, plan: Plan) -> None:
    """Write ``plan.json``: what the sites signed the digest of; nothing of it is private."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, "plan": plan.to_dict()}, indent=2)
    files.write(folder / "plan.json", text + "\n")


def charges(plan: Plan) -> list[dict[str, Any]]:
    """Return every charge of the plan with its cost alone and its share of its account.

    Shares are of the Renyi divergence at order 2, which adds up exactly.
    """
    weights = [line.rounds * rdp(line.event, 2) if plan.private else 0.0 for line in plan.schedule]
    out = []
    for line, weight in zip(plan.schedule, weights, strict=True):
        account = sum(
            w for x, w in zip(plan.schedule, weights, strict=True) if x.split == line.split
        )
        out.append(
            {
                "split": line.split,
                "purpose": line.name,
                "event": str(line.total),
                "event_json": line.total.to_dict(),
                "epsilon": epsilon([line.total], plan.delta) if plan.private else None,
                "share": weight / account if account else None,
            }
        )
    return out


def _site(
    plan: Plan,
    before: SiteView,
    view: SiteView,
    units: Mapping[str, float],
    joined: Mapping[str, int],
) -> dict[str, Any]:
    said = view.statement
    return {
        "site": view.site,
        "units": round(units[view.site]) if view.site in units else None,
        "epsilon_spent": plan.cost if plan.private else None,
        "epsilon_lifetime_left": said["left_epsilon"],
        "epsilon_lifetime": said["spent_epsilon"],
        "epsilon_lifetime_budget": said["lifetime_epsilon"],
        "lifetime_used": said["lifetime_used"],
        "lifetime_used_before": before.statement["lifetime_used"],
        "accounts": said["accounts"],
        "amendments": said["amendments"],
        "key": said["key"],
        "ledger_head": said["ledger_head"],
        "ledger_signature": said["ledger_signature"],
        "ledger_entries": said["ledger_entries"],
        "rounds_joined": joined.get(view.site, 0),
    }


def _no_groups(plan: Plan, found: Sequence[str]) -> str | None:
    lost = [column for column in plan.subgroups if column not in found]
    if found and not lost:
        return None
    if lost:
        by = ", ".join(lost) if found else "subgroup"
        return f"not evaluated by {by}: the charge stands, but too few sites answered"
    if plan.private and not plan.evaluation_noise:
        why = "nothing is evaluated"
    else:
        why = "no column was asked for, and nothing was charged for it"
    return f"not evaluated by subgroup: {why}"


def _assumptions(
    plan: Plan, steps: Steps, estimates: Mapping[str, Any] | None, federation: Federation
) -> list[str]:
    if plan.max_sites_per_unit == 1:
        lines = ["Each unit's data sits at one site only."]
    else:
        lines = [
            f"Each unit's data sits at {plan.max_sites_per_unit} sites at most, on one side of "
            "the split at all (the sites share the split key); each site charges for all of them."
        ]
    if plan.max_colluding is not None:
        lines.append(
            f"At most {plan.max_colluding} of all {len(plan.participants)} sites of the roster "
            f"{'tells' if plan.max_colluding == 1 else 'tell'} the server what "
            f"{'it knows' if plan.max_colluding == 1 else 'they know'}, whichever of them it names "
            "for a round. That every site sends what it was asked for is not checked."
        )
    if federation.byzantine:
        lines.append(
            f"At most {federation.byzantine} of {len(plan.participants)} sites lie about gradients "
            f"and sizes (rule {federation.rule}). What a site sends for the evaluation is believed."
        )
    if plan.stable_ids:
        lines.append(
            "A unit keeps its id, so that it is in training or in the holdout for ever; the two "
            "are charged apart."
        )
    lines += [
        "The schema (columns, bounds, values) is public and was not derived from the rows.",
        "Crashes, missed deadlines and the timing of answers are outside the guarantee.",
    ]
    if steps.start is not None:
        lines.append(
            "The weights that training started from are public, or were charged to these ledgers."
        )
    if plan.unit == Unit.ACCOUNT:
        lines.append("All records of a unit carry its account id.")
    if not plan.counts_noise:
        lines.append("The number of training units at each site is public, as its policy says.")
    if plan.private and not plan.evaluation_noise:
        lines.append("Nothing was evaluated: a site holds no units out, or no budget was allotted.")
    if plan.evaluation_noise and estimates is None:
        lines.append("An evaluation was planned and its charge stands, but too few sites answered.")
    if plan.randomness == RandomnessKind.SEEDED:
        lines.append("Randomness was seeded: whoever knows the seed can remove the noise.")
    return lines
