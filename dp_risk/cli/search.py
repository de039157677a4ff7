"""Sweeps: one job after another, every one charged, and every report says what all of them cost."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clients.site import LEDGER
from dp_risk.cli import artefacts, folders, manifest, subgroups
from dp_risk.cli.compose import settings, sweep
from dp_risk.cli.settings import Settings
from dp_risk.cli.simulate import federation_folder
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.schedule import Purpose, costs
from dp_risk.types import ConfigurationError, DpRiskError, Split


def run(
    overrides: Sequence[str], one: Callable[[Settings, int], Path | None], *, verb: str
) -> None:
    """Run every job of a sweep, and write what it cost into every trial's report.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, some of them with several values.
    one : callable
        Does one job: takes its settings and number, returns the run folder of a training run.
    verb : str
        What is swept.

    Raises
    ------
    ConfigurationError
        If any job is mistaken, or its run folder is not empty: then none has started.
    DpRiskError
        The error with the highest exit code of all jobs, at the end.
    """
    jobs = _composed(list(sweep(overrides)), verb)
    search = Search()
    worst: DpRiskError | None = None
    try:
        for number, (said, asked) in enumerate(jobs):
            print(f"job {number}: {' '.join(said)}", flush=True)
            trial = search.begin(said)
            try:
                if verb == "train":
                    trial.html = asked.report.html
                    search.watch(federation_folder(asked), _people(asked))
                trial.folder = one(asked, number)
                trial.outcome = "done"
            except DpRiskError as error:
                trial.outcome = str(error)
                print(f"dp-risk: job {number}: {error}", file=sys.stderr)
                if worst is None or error.exit_code > worst.exit_code:
                    worst = error
    finally:
        if verb == "train" and len(search.trials) > 1:
            total = search.finish()
            if total == math.inf:
                print("search: a trial had no noise: no epsilon bounds a choice among the trials")
            elif total is not None:
                done = sum(trial.folder is not None for trial in search.trials)
                print(
                    f"search: {done} of {len(search.trials)} trials finished; together they cost "
                    f"epsilon {total:.4g} at a site (PLD of all that was reserved), and so does a "
                    "choice among them"
                )
    if worst is not None:
        raise worst


def _composed(jobs: list[list[str]], verb: str) -> list[tuple[list[str], Settings]]:
    """Compose every job first: a typo in the last one must not be found after others paid."""
    composed, mistakes = [], []
    for number, overrides in enumerate(jobs):
        try:
            asked = settings(overrides)
            asked.tuning.refuse_private()
            if verb == "train":
                _ = asked.asked, asked.data.file, asked.data.load_schema()
                subgroups.check(asked)
            if asked.run.dir is not None:
                folders.check_empty(Path(asked.run.dir) / str(number))
        except ConfigurationError as error:
            mistakes.append(f"job {number}: {error}")
        else:
            composed.append((overrides, asked))
    if mistakes:
        more = f" (and {len(mistakes) - 1} more jobs are mistaken)" if len(mistakes) > 1 else ""
        raise ConfigurationError(f"{mistakes[0]}{more}; no job was started")
    return composed


@dataclass(kw_only=True)
class Trial:
    """One job of a sweep, filled in while it runs.

    Parameters
    ----------
    overrides : list of str
        What was asked.
    outcome : str
        "done", or why it did not finish.
    folder : Path or None
        Its run folder; None where it did not finish.
    html : bool
        Whether its report is written as HTML.
    """

    overrides: list[str]
    outcome: str = "interrupted"
    folder: Path | None = None
    html: bool = True


@dataclass(kw_only=True)
class Search:
    """The trials of a sweep, and the ledgers that pay for them."""

    trials: list[Trial] = field(default_factory=list)
    _earlier: dict[Path, dict[Path, set[str]]] = field(default_factory=dict)
    _people: dict[Path, str] = field(default_factory=dict)

    def begin(self, overrides: list[str]) -> Trial:
        """Add a trial."""
        self.trials.append(Trial(overrides=overrides))
        return self.trials[-1]

    def watch(self, federation: Path, people: str) -> None:
        """Take note of a federation's ledgers before its first trial charges them."""
        if federation not in self._earlier:
            self._people[federation] = people
            self._earlier[federation] = {
                path: set(_reserved(path)[0]) for path in federation.glob(f"*/{LEDGER}")
            }

    def cost(self) -> float | None:
        """Return the epsilon (PLD) of all schedules that were reserved since, for any one unit.

        Trials that failed or were interrupted count too. Within a federation the dearest site
        counts. The same rows dealt out anew (another seed of public data) are the same units,
        which may then be on the other side of the split: such federations compose in sequence.
        Infinity where a trial had no noise; None where nothing was read.
        """
        totals = []
        for people in set(self._people.values()):
            dealt = [f for f, whose in self._people.items() if whose == people]
            found = [self._dearest(federation) for federation in dealt]
            lines = [line for schedule, _ in found for line in schedule]
            if len(dealt) > 1:
                lines = [replace(line, split=Split.BOTH) for line in lines]
            if any(line.event.noise_multiplier == 0 for line in lines):
                return math.inf
            if lines:
                totals.append(max(costs(lines, min(delta for _, delta in found)).values()))
        return max(totals, default=None)

    def _dearest(self, federation: Path) -> tuple[list[Purpose], float]:
        best: tuple[float, list[Purpose], float] = (0.0, [], 1.0)
        for path in federation.glob(f"*/{LEDGER}"):
            earlier = self._earlier[federation].get(path, set())
            runs, delta = _reserved(path)
            lines = [line for run, new in runs.items() if run not in earlier for line in new]
            cost = max(costs(lines, delta).values(), default=0.0)
            if not best[1] or cost > best[0]:
                best = (cost, lines, delta)
        return best[1], best[2]

    def finish(self) -> float | None:
        """Write the search into every finished trial's record and report, and sign again.

        Returns
        -------
        float or None
            What all trials cost; see `cost`.
        """
        total = self.cost()
        same = set.intersection(*(set(trial.overrides) for trial in self.trials))
        table = [
            {
                "job": job,
                "overrides": " ".join(o for o in trial.overrides if o not in same),
                "outcome": trial.outcome,
                **_figures(trial.folder),
            }
            for job, trial in enumerate(self.trials)
        ]
        for job, trial in enumerate(self.trials):
            if trial.folder is None:
                continue
            path = trial.folder / "run.json"
            record: dict[str, Any] = json.loads(path.read_text())
            record["search"] = {
                "job": job,
                "epsilon": None if total == math.inf else total,
                "protected": total != math.inf,
                "trials": table,
            }
            path.write_text(json.dumps(record, indent=2) + "\n")
            artefacts.write_report(trial.folder, html=trial.html)
            manifest.sign(trial.folder)
        return total


def _people(asked: Settings) -> str:
    """Return whose rows a job reads; files hold the same people, whatever they are called."""
    return "files" if asked.data.path is not None else asked.data.dataset


def _reserved(path: Path) -> tuple[dict[str, list[Purpose]], float]:
    """Return the schedules that a ledger's runs reserved, and its delta."""
    ledger = Ledger.open(path)
    try:
        return {run.run: list(run.schedule) for run in ledger.runs()}, ledger.account.delta
    finally:
        ledger.close_file()


def _figures(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"epsilon": None, "auroc": None}
    record = json.loads((folder / "run.json").read_text())
    auroc = (record["utility"] or {}).get("auroc")
    return {"epsilon": record["epsilon_spent"], "auroc": auroc}
