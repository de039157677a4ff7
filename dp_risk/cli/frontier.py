"""Utility against epsilon: many runs over public data, with baselines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import shutil
import signal
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dp_risk.cli import artefacts, manifest, training
from dp_risk.cli.compose import with_privacy
from dp_risk.cli.display import console, progress, quiet, table
from dp_risk.cli.scratch import scratch_place
from dp_risk.cli.settings import Settings
from dp_risk.cli.simulate import federation_folder, make_sites
from dp_risk.data.coding import Coded, Coding
from dp_risk.evaluation import baselines
from dp_risk.evaluation.metrics import auprc, auroc
from dp_risk.evaluation.stored import dp_ebm, dp_ebm_rows, split_digest
from dp_risk.federation import files
from dp_risk.types import Refused, Trust

SCHEMA_VERSION = 1
_NON_PRIVATE_ROUNDS = 100
_DP_EBM = "dp_ebm"


def run(settings: Settings, folder: Path, *, as_json: bool) -> None:
    """Run every point of the frontier and write the report.

    Every point has fresh simulated sites, because the points together would exceed any budget.

    Raises
    ------
    Refused
        If the data is not public, or sites hold it as private.
    """
    if not settings.data.public:
        raise Refused(
            "frontier: refused: the runs of a frontier compose to a large epsilon, so it runs only "
            "where every site's policy declares its data public (data.public=true); use train"
        )
    federation_folder(settings)
    # All of them before the first runs: a mistake in the last would come after hours.
    asked = [(*point, _point(settings, *point)) for point in _points(settings)]
    started = time.monotonic()
    points: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    shown: tuple[float, Path] | None = None
    show = console()
    with (
        scratch_place() as scratch,
        _background(settings) as pool,
    ):
        waiting = [
            pool.apply_async(_baselines, (settings, seed, scratch))
            for seed in (settings.frontier.seeds if settings.frontier.baselines else ())
        ]
        for number, (trust, epsilon, seed, one) in enumerate(asked):
            name = f"epsilon {'none' if epsilon is None else format(epsilon, 'g')}, seed {seed}"
            name += f", {trust}" if len(settings.frontier.trusts) > 1 else ""
            with progress(name, as_json=as_json) as step:
                record, place = _train(one, scratch, number, step)
            utility = record["utility"]
            points.append(
                {
                    "trust": record["trust"],
                    "model": record["model"],
                    "epsilon": epsilon,
                    "seed": seed,
                    "auroc": utility["auroc"]["value"],
                    "auprc": utility["auprc"]["value"],
                    "seconds": record["seconds"],
                }
            )
            if not as_json:
                show.print(
                    f"{name:<36} AUROC {points[-1]['auroc']:.4f}  AUPRC {points[-1]['auprc']:.4f}  "
                    f"{record['seconds']:.1f} s"
                )
            # The run nearest to epsilon 1, of the last trust, stands for the rest in the details.
            if epsilon is not None and seed == settings.frontier.seeds[0]:
                distance = abs(epsilon - 1.0)
                if shown is None or distance <= shown[0]:
                    shown = (distance, place)
        if shown is None:
            shown = (0.0, scratch / "run-0")
        for job in waiting:
            if not job.ready() and not as_json:
                show.print("waiting for the baselines")
            compared += job.get()
        shutil.copytree(shown[1], folder, dirs_exist_ok=True)
    (folder / "config.yaml").write_text(settings.yaml)
    frontier = {
        "schema_version": SCHEMA_VERSION,
        "points": points,
        "baselines": compared,
        "stored": _stored(compared),
        "seconds": round(time.monotonic() - started, 1),
    }
    files.write(folder / "frontier.json", json.dumps(frontier, indent=2) + "\n")
    artefacts.write_report(folder, html=settings.report.html)
    manifest.sign(folder)
    show.print()
    show.print(_summary(points, compared))
    show.print(f"\n{frontier['seconds']:.0f} s in all; report: {folder / 'report.html'}")


def _background(settings: Settings) -> Any:
    """Return one more process for the baselines, killed at the end, or nothing."""
    if not settings.frontier.baselines:
        return contextlib.nullcontext()
    return multiprocessing.get_context("spawn").Pool(1, initializer=_quiet)


def _quiet() -> None:
    # Whoever interrupts the frontier ends this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)


def _points(settings: Settings) -> Iterator[tuple[str, float | None, int]]:
    for epsilon in settings.frontier.epsilons:
        trusts = [Trust.NONE.value] if epsilon is None else settings.frontier.trusts
        for trust in trusts:
            for seed in settings.frontier.seeds:
                yield trust, epsilon, seed


def _point(settings: Settings, trust: str, epsilon: float | None, seed: int) -> Settings:
    one = with_privacy(settings, seed=seed, trust=trust, epsilon=epsilon)
    if epsilon is None:
        # Without noise there is no noisy count either.
        one = dataclasses.replace(one, data=dataclasses.replace(one.data, public_size=True))
    if epsilon is None and one.federation.rounds is None:
        rounds = dataclasses.replace(one.federation, rounds=_NON_PRIVATE_ROUNDS)
        one = dataclasses.replace(one, federation=rounds)
    return one


def _train(
    settings: Settings, scratch: Path, number: int | str, step: training.Progress = quiet
) -> tuple[dict[str, Any], Path]:
    place = scratch / f"run-{number}"
    place.mkdir()
    asked = settings.asked.epsilon or 1.0
    sites = make_sites(settings, scratch / f"sites-{number}", lifetime_epsilon=2 * asked + 2)
    record = training.run(settings, place, sites, step, memory=None)
    shutil.rmtree(scratch / f"sites-{number}")
    return record, place


def _baselines(settings: Settings, seed: int, scratch: Path) -> list[dict[str, Any]]:
    return list(_baseline_lines(settings, seed, scratch))


def _baseline_lines(settings: Settings, seed: int, scratch: Path) -> Iterator[dict[str, Any]]:
    one = _point(settings, Trust.NONE, None, seed)
    folders = make_sites(one, scratch / f"sites-baseline-{seed}", lifetime_epsilon=10.0)
    with training.open_sites(folders) as sites:
        train = [site.shard.train for site in sites]
        holdout = training.concatenate([site.shard.holdout_units for site in sites])
    coding = Coding(schema=one.data.load_schema())
    pooled = training.concatenate(train)

    def line(name: str, epsilon: float | None, scores: Any) -> dict[str, Any]:
        return {
            "name": name,
            "epsilon": epsilon,
            "seed": seed,
            "auroc": auroc(holdout.labels, scores),
            "auprc": auprc(holdout.labels, scores),
        }

    yield line("logistic", None, baselines.logistic(pooled, holdout, coding, seed))
    boosted = baselines.gradient_boosting(pooled, holdout, coding, seed)
    yield line("gradient_boosting", None, boosted)
    alone = [line("site_alone", None, s) for s in _alone(train, holdout, coding, seed)]
    mean = {key: statistics.fmean(a[key] for a in alone) for key in ("auroc", "auprc")}
    yield {"name": "site_alone", "epsilon": None, "seed": seed, **mean}
    pool = dataclasses.replace(settings.federation, sites=1)
    for epsilon in settings.frontier.epsilons:
        if epsilon is None:
            continue
        together = dataclasses.replace(settings, federation=pool)
        together = with_privacy(together, seed=seed, trust=Trust.LOCAL, epsilon=epsilon)
        name = f"pooled-{epsilon}-{seed}"
        record, _ = _train(together, scratch, name)
        yield {
            "name": "pooled_dp",
            "epsilon": epsilon,
            "seed": seed,
            "auroc": record["utility"]["auroc"]["value"],
            "auprc": record["utility"]["auprc"]["value"],
        }
    split = split_digest(pooled.ids, holdout.ids)
    for row in dp_ebm_rows(split, delta=float(settings.privacy_values["delta"]), seed=seed):
        if row["epsilon"] in settings.frontier.epsilons:
            shown = ("epsilon", "seed", "auroc", "auprc")
            yield {"name": _DP_EBM, **{key: row[key] for key in shown}}


def _stored(compared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return where the baselines come from that were not run here."""
    if not any(line["name"] == _DP_EBM for line in compared):
        return []
    made = dp_ebm()
    return [{"name": _DP_EBM, "command": made["command"], "versions": made["versions"]}]


def _alone(train: list[Coded], holdout: Coded, coding: Coding, seed: int) -> list[Any]:
    return list(baselines.site_alone(train, holdout, coding, seed))


def _summary(points: list[dict[str, Any]], compared: list[dict[str, Any]]) -> Any:
    groups: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for point in points:
        name = "non-private" if point["epsilon"] is None else str(point["trust"])
        groups.setdefault((f"federated, {name}", point["epsilon"]), []).append(point)
    for baseline in compared:
        groups.setdefault((baseline["name"], baseline["epsilon"]), []).append(baseline)
    rows = [
        [
            name,
            "none" if epsilon is None else f"{epsilon:g}",
            statistics.fmean(p["auroc"] for p in group),
            statistics.fmean(p["auprc"] for p in group),
            len(group),
        ]
        for (name, epsilon), group in groups.items()
    ]
    return table(
        "Utility against epsilon, means over seeds",
        ["", "epsilon", "AUROC", "AUPRC", "seeds"],
        rows,
    )
