"""All of an audit, in order: from a configuration to `audit.json`, a report and a verdict."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dp_risk.audit.accounting import accounting
from dp_risk.audit.bounds import LARGEST
from dp_risk.audit.counting import sensitivity
from dp_risk.audit.findings import Check, Findings, every
from dp_risk.audit.independence import noise_independence
from dp_risk.audit.masks import masks
from dp_risk.audit.noise import Residuals, noise_grid, noise_shape, noise_std
from dp_risk.audit.sampler import sampler
from dp_risk.audit.transcript import transcript
from dp_risk.cli import artefacts, manifest
from dp_risk.cli.audit import attacks, canaries, membership, observed
from dp_risk.cli.audit.differences import changes, repeated, transcripts
from dp_risk.cli.audit.scratch import Scratch
from dp_risk.cli.audit.twins import WELL_FORMED, Twins
from dp_risk.cli.display import console, stages, table
from dp_risk.cli.scratch import scratch_place
from dp_risk.cli.settings import Settings
from dp_risk.cli.simulate import federation_folder
from dp_risk.federation import files
from dp_risk.privacy.plan import Plan
from dp_risk.types import Adjacency, ConfigurationError, Refused, Trust, VerificationError

Progress = Callable[[str, float], None]
# Equal requests for each run of the transcript spy.
_REPEATED = 6

ASSUMED = (
    "Sites are simulated on this machine from rows that are public; ledgers are fresh and thrown "
    "away, so that no real budget is touched.",
    "The auditor's code runs in the process that it audits: it finds defects, not an opponent who "
    "knows that it is being audited.",
    "Probe runs have frozen weights that the auditor chose, few ordinary rows, and units that are "
    "almost wholly one reserved code. The guarantee holds for any weights and rows, so this is a "
    "worst case that a server could bring about.",
)
NOT_AUDITED = (
    "Timing, memory and crashes of a site as channels.",
    "The operating system's random generator, and the libraries below Python.",
    "Data that is not public: the same code runs there, but nothing here has seen it.",
)


def run(settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Audit the configured trainer and write `audit.json` and the report.

    Parameters
    ----------
    settings : Settings
        The checked configuration.
    folder : Path
        The run folder; it exists.
    as_json : bool
        Progress as JSON lines.

    Raises
    ------
    Refused
        If the data is not public.
    ConfigurationError
        If nothing is claimed.
    VerificationError
        If the claim is falsified; everything is written then too.
    """
    check(settings)
    torch.set_num_threads(1)
    with scratch_place() as scratch, stages("audit", as_json=as_json) as progress:
        findings = examine(Scratch(settings=settings, folder=scratch), progress)
    (folder / "config.yaml").write_text(settings.yaml)
    files.write(folder / "audit.json", json.dumps(findings.to_dict(), indent=2) + "\n")
    artefacts.write_audit_report(folder, html=settings.report.html)
    manifest.sign(folder)
    _show(findings, folder)
    if findings.failed:
        raise VerificationError(f"claim falsified: {', '.join(findings.failed)}")


def check(settings: Settings) -> None:
    """Refuse what cannot be audited.

    Raises
    ------
    Refused
        If the data is not public, or sites hold it as private.
    ConfigurationError
        If nothing is claimed.
    """
    if settings.privacy_values["trust"] == Trust.NONE:
        raise ConfigurationError("privacy.trust: a run without noise claims nothing to audit")
    if not settings.data.public:
        raise Refused(
            "audit: refused: an audit reads rows without a charge, so it runs only where every "
            "site's policy declares its data public (data.public=true)"
        )
    if float(settings.asked.epsilon or 0.0) >= LARGEST:
        raise ConfigurationError(f"privacy.epsilon: {LARGEST:g} and more protects nothing to audit")
    federation_folder(settings)


def examine(scratch: Scratch, progress: Progress) -> Findings:
    """Do everything that an audit does; return what it found.

    Parameters
    ----------
    scratch : Scratch
        The configuration, and a folder that is thrown away.
    progress : callable
        Told what is being done, and which part of the whole is over.
    """
    asked, started = scratch.settings.audit, time.monotonic()
    progress("the configured run", 0.0)
    seen = observed.observe(scratch, asked)
    plan = seen.plan
    progress("one unit more or less", 0.15)
    moved = list(changes(scratch, plan))
    twins = Twins.make(scratch, "private", slots=4, private=True)
    heard = transcripts(twins, repeats=asked.repeats)
    noise = [seen.noise, *repeated(twins, plan, repeats=_REPEATED * asked.repeats)]
    progress("requests that must be refused", 0.3)
    honest = heard.benches[-1].plan or plan
    refusals = [attack(twins, honest) for attack in attacks.ATTACKS]
    members = membership.attack(
        scratch, plan, asked, lambda words, done: progress(words, 0.35 + 0.15 * done)
    )
    found = canaries.look(scratch, plan, asked, lambda done: progress("canaries", 0.5 + 0.5 * done))
    bounds, gate, gate_epsilon = canaries.results(found, plan, asked)
    noise.append(found.noise)
    benches = [seen.bench, *heard.benches]
    checks = [
        noise_std(noise),
        noise_independence(noise),
        noise_shape(noise),
        sensitivity([change for change in moved if change.name in WELL_FORMED]),
        dataclasses.replace(
            sensitivity([c for c in moved if c.name not in WELL_FORMED]), name="malformed_units"
        ),
        sampler(observed.batches(seen), plan.sampling_rate),
        _encoding(seen, noise),
        every([observed.steps_charged(bench) for bench in benches if not bench.stopped]),
        observed.reads(benches),
        every([transcript(heard.without, runs) for runs in heard.with_unit.values()]),
        observed.splits_disjoint(heard.benches),
        observed.system_randomness(benches),
        *refusals,
        accounting(observed.claims(seen)),
        gate,
    ]
    return Findings(
        claimed_epsilon=float(plan.epsilon or 0.0),
        delta=plan.delta,
        gate_level=asked.gate_level,
        gate_epsilon=gate_epsilon,
        # The heuristic is last: neither the verdict nor the gate looks at it.
        results=[*bounds, *([members.result] if members and members.result else [])],
        checks=checks,
        evidence={
            **_subject(seen),
            **canaries.evidence(found, plan),
            "sensitivity": [
                {"unit": c.name, "purpose": c.purpose, "moved": c.moved, "allowed": c.allowed}
                for c in moved
            ],
            "controls": canaries.controls(found, plan, asked),
            **({"membership": members.evidence} if members else {}),
            "assumptions": list(ASSUMED),
            "not_audited": list(NOT_AUDITED),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _encoding(seen: observed.Observed, noise: Sequence[Residuals]) -> Check:
    """Check how releases are written: on their grid, or as whole numbers under a mask."""
    if seen.plan.trust == Trust.DISTRIBUTED:
        return masks(seen.bench.opponent.masked)
    return noise_grid([seen.whole, *noise])


def _view(plan: Plan) -> str:
    """Say what the audited opponent sees."""
    if plan.trust != Trust.DISTRIBUTED:
        return "every release of a site, with the weights that it was asked at"
    return (
        f"every masked vector, their sums, and all that {plan.max_colluding} colluding sites "
        "know: their own shares are taken away from the sums"
    )


def _subject(seen: observed.Observed) -> dict[str, Any]:
    plan = seen.plan
    return {
        "subject": {
            "dataset": plan.dataset,
            "model": plan.model,
            "unit": plan.unit,
            "adjacency": Adjacency.ADD_REMOVE,
            "trust": plan.trust,
            "view": _view(plan),
            "sites": len(seen.watches),
            "randomness": plan.randomness,
        },
        "plan": {
            name: getattr(plan, name)
            for name in (
                *("noise_multiplier", "sampling_rate", "clip_norm", "rounds", "steps_per_round"),
                *("counts_noise", "score_bins_noise", "evaluation_noise", "subgroups_noise"),
                "dimension",
                *("max_records_per_account", "max_sites_per_unit"),
            )
            # What has no noise in the plan is not released at all.
            if getattr(plan, name)
        },
    }


def _show(findings: Findings, folder: Path) -> None:
    screen = console()
    rows = [[c.name, "held" if c.passed else "FAILED", c.figure] for c in findings.checks]
    screen.print(table("Checks", ["check", "", "figure"], rows))
    bounds = [
        [
            r.method.partition(" (")[0],
            f"{r.canaries:,}",
            f"{r.observations:,}",
            r.epsilon_lower_bound,
            r.ceiling,
            r.guarantee,
        ]
        for r in findings.results
    ]
    head = ["bound", "canaries", "observations", "epsilon at least", "ceiling", "guarantee"]
    screen.print()
    screen.print(table(f"Claimed: epsilon {findings.claimed_epsilon:g}", head, bounds))
    made = findings.evidence["canaries"]
    if made["inside"] < made["wanted"]:
        screen.print(
            f"\n{made['inside']:,} of {made['wanted']:,} observations were made before the time "
            "was over: the bounds are weaker than planned (audit.seconds)"
        )
    reason = findings.evidence.get("membership", {}).get("left_out")
    if reason:
        screen.print(f"\nmembership attack left out: {reason}")
    screen.print(f"\nclaim {findings.verdict}; report: {folder / 'report.html'}")
