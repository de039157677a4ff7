"""One run in this process: the same two Flower apps as in a deployment."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from flwr.app import Context, RecordDict
from numpy.typing import NDArray
from scipy.special import expit

from clients.site import Site
from dp_risk import models
from dp_risk.cli import subgroups
from dp_risk.cli.grids import running
from dp_risk.cli.settings import Settings
from dp_risk.data.coding import Coded, Coding
from dp_risk.data.schema import Schema
from dp_risk.evaluation.metrics import auprc, evaluate
from dp_risk.federation import files
from dp_risk.privacy.dpsgd import load_weights
from dp_risk.privacy.plan import Plan
from server.app import make_app as make_server
from server.job import Job

Progress = Callable[[int, Plan, float | None, float | None], None]


def run(
    settings: Settings,
    folder: Path,
    sites: list[Path],
    progress: Progress,
    memory: Path | None,
) -> dict[str, Any]:
    """Train over simulated sites; write and return `run.json`.

    Parameters
    ----------
    settings : Settings
        The checked configuration.
    folder : Path
        The run folder; it exists.
    sites : list of Path
        Site folders.
    progress : callable
        Told of (rounds done, plan, epsilon spent, AUPRC).
    memory : Path or None
        Where the server remembers the ledgers' heads.
    """
    # Batches are small: more threads cost more than they give.
    torch.set_num_threads(1)
    schema = settings.data.load_schema()
    holdout = public_holdout(sites)
    job = Job(
        run=secrets.token_hex(8),
        folder=folder.resolve(),
        dataset=settings.data.dataset,
        schema=schema.to_dict(),
        model=settings.model_name,
        model_options=settings.model_options,
        privacy=settings.asked,
        federation=settings.federation,
        seed=settings.seed,
        capacity=settings.evaluation.capacity,
        memory=memory,
        start=Path(settings.run.start).resolve() if settings.run.start else None,
        # Public units are measured afterwards, exactly and at no charge.
        subgroups=() if holdout is not None else tuple(settings.evaluation.subgroups),
    )
    (folder / "config.yaml").write_text(settings.yaml)
    watcher = _Watcher(job, holdout, progress)
    context = Context(
        run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"job": job.to_json()}
    )
    with running(settings.simulated, sites) as grid:
        make_server(watcher)(grid, context)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    record["simulated"] = True
    if holdout is not None:
        found = scores(folder, holdout)
        estimates = evaluate(
            holdout.labels,
            found,
            bootstrap=settings.evaluation.bootstrap,
            seed=settings.seed,
        )
        record["utility"] = {name: e.to_dict() for name, e in estimates.items()}
        record["utility_source"] = "exact"
        record["subgroups"] = subgroups.evaluate(settings, Coding(schema=schema), holdout, found)
        record["subgroups_note"] = None if record["subgroups"] else subgroups.NONE_ASKED
    elif settings.data.public:
        record["subgroups_note"] = subgroups.NOTHING_HELD_OUT
    files.write(folder / "run.json", json.dumps(record, indent=2) + "\n")
    return record


class _Watcher:
    """Shows progress; on public data it also scores the holdout now and then."""

    def __init__(self, job: Job, holdout: Coded | None, progress: Progress) -> None:
        self._holdout = holdout
        self._progress = progress
        coding = Coding(schema=Schema.from_dict(dict(job.schema)))
        self._module = models.build(job.model, job.model_options, coding, job.seed)

    def planned(self, plan: Plan) -> None:
        self._progress(0, plan, None, None)

    def stepped(self, done: int, plan: Plan, epsilon_spent: float | None, at: Any) -> float | None:
        estimate = None
        every = max(1, plan.rounds // 10)
        if self._holdout is not None and (done % every == 0 or done == plan.rounds):
            load_weights(self._module, at)
            estimate = auprc(self._holdout.labels, _probabilities(self._module, self._holdout))
        self._progress(done, plan, epsilon_spent, estimate)
        return estimate


def public_holdout(folders: list[Path]) -> Coded | None:
    """Return all holdouts together where every site's own policy says public.

    None where one does not, or where nothing is held out.
    """
    with open_sites(folders) as sites:
        if not all(site.policy.public for site in sites):
            return None
        holdout = concatenate([site.shard.holdout_units for site in sites])
    return holdout if len(holdout) else None


@contextmanager
def open_sites(folders: list[Path]) -> Iterator[list[Site]]:
    """Open sites in this process; their ledgers are closed in the end."""
    with ExitStack() as opened:
        sites = []
        for folder in folders:
            sites.append(Site.open(folder))
            opened.callback(sites[-1].ledger.close_file)
        yield sites


def concatenate(parts: list[Coded]) -> Coded:
    """Return the units of several shards as one."""
    return Coded(
        codes=np.concatenate([p.codes for p in parts]),
        values=np.concatenate([p.values for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        ids=np.concatenate([p.ids for p in parts]),
    )


def load_model(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return `model.json` and the weights of a run."""
    about = json.loads((folder / "model.json").read_text())
    return about, safetensors.numpy.load_file(folder / "model.safetensors")


def scores(folder: Path, coded: Coded) -> NDArray[np.float64]:
    """Return the probabilities that a run's model gives, shape (n,)."""
    about, weights = load_model(folder)
    coding = Coding(schema=Schema.from_dict(about["schema"]))
    module = models.build(about["model"], about["options"], coding, about["seed"])
    load_weights(module, weights)
    return _probabilities(module, coded)


def _probabilities(module: Any, coded: Coded) -> NDArray[np.float64]:
    return np.asarray(expit(models.logits(module, coded.codes, coded.values)))
