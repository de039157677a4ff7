"""What is said of a run at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from dp_risk.privacy.planning import Privacy


def show(screen: Console, record: Mapping[str, Any], asked: Privacy, folder: Path) -> None:
    """Print what a run cost and brought.

    Parameters
    ----------
    screen : Console
        Where to.
    record : mapping
        Its `run.json`.
    asked : Privacy
        What was asked for.
    folder : Path
        The run folder.
    """
    if asked.epsilon is not None:
        worst = max(record["sites"], key=lambda site: float(site["lifetime_used"]))
        screen.print(
            f"run: epsilon {record['epsilon_spent']:.4g} at each of {len(record['sites'])} sites "
            f"(delta {asked.delta:g}, trust {_trust(record)})\n"
            f"lifetime: {worst['lifetime_used']:.1%} of the budget used (epsilon "
            f"{worst['epsilon_lifetime']:.4g} of {worst['epsilon_lifetime_budget']:g} by the "
            "filter, which adds a constant once, whatever was spent)"
        )
    if asked.epsilon is None or asked.randomness == "seeded":
        screen.print("this run is not private: it had no noise, or noise that can be repeated")
    if record["ridge"] is None:
        screen.print(
            "plain steps, because of federation.learning_rate, federation.steps_per_round or fewer "
            "than ten rounds: the model may be much worse than with the defaults"
        )
    utility = record["utility"]
    if utility is None:
        screen.print(
            "no utility: the data is not public and no estimate was charged, or nothing is held out"
        )
    else:
        how = ", estimated with noise" if record["utility_source"] == "charged" else ""
        for name in ("auroc", "auprc"):
            e = utility[name]
            if e["value"] is None or (e["low"] <= 0 and e["high"] >= 1):
                screen.print(f"{name.upper()}: too few held-out units to tell (0 to 1{how})")
                continue
            figures = f"{e['value']:.4f} ({e['low']:.4f} to {e['high']:.4f}{how})"
            screen.print(f"{name.upper()} {figures}")
    screen.print(f"{record['seconds']:.1f} s; report: {folder / 'report.html'}")


def _trust(record: Mapping[str, Any]) -> str:
    colluding = record["max_colluding"]
    among = "" if colluding is None else f", {colluding} of {len(record['sites'])} may collude"
    return f"{record['trust']}{among}"
