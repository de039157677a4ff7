"""What a sweep cost: every trial is charged, and each trial's report says what all of them cost."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.site import LEDGER
from dp_risk.cli import artefacts
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import costs
from dp_risk.privacy.terms import Run


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

    def begin(self, overrides: list[str]) -> Trial:
        """Add a trial."""
        self.trials.append(Trial(overrides=overrides))
        return self.trials[-1]

    def watch(self, federation: Path) -> None:
        """Take note of a federation's ledgers before its first trial charges them."""
        if federation not in self._earlier:
            self._earlier[federation] = {
                path: {run.run for run in _runs(path)[0]} for path in federation.glob(f"*/{LEDGER}")
            }

    def cost(self) -> float | None:
        """Return the epsilon (PLD) of all schedules that the dearest site reserved since.

        Trials that failed or were interrupted count too. None where nothing is protected.
        """
        totals = [
            _reserved(path, without=earlier.get(path, set()))
            for federation, earlier in self._earlier.items()
            for path in federation.glob(f"*/{LEDGER}")
        ]
        return max((total for total in totals if total is not None), default=None)

    def finish(self) -> float | None:
        """Write the search into every finished trial's record and report, and sign again.

        Returns
        -------
        float or None
            What all trials cost; None where nothing is protected.
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
            record["search"] = {"job": job, "epsilon": total, "trials": table}
            path.write_text(json.dumps(record, indent=2) + "\n")
            artefacts.write_report(trial.folder, html=trial.html)
            artefacts.sign(trial.folder)
        return total


def _runs(path: Path) -> tuple[tuple[Run, ...], float]:
    ledger = Ledger.open(path)
    try:
        return ledger.runs(), ledger.account.delta
    finally:
        ledger.close_file()


def _reserved(path: Path, *, without: set[str]) -> float | None:
    runs, delta = _runs(path)
    lines = [
        line
        for run in runs
        if run.run not in without
        for line in run.schedule
        if line.event.noise_multiplier
    ]
    return max(costs(lines, delta).values()) if lines else None


def _figures(folder: Path | None) -> dict[str, float | None]:
    if folder is None:
        return {"epsilon": None, "auroc": None}
    record = json.loads((folder / "run.json").read_text())
    auroc = (record["utility"] or {}).get("auroc") or {}
    return {"epsilon": record["epsilon_spent"], "auroc": auroc.get("value")}
