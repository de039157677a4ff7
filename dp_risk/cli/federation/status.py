"""`dp-risk federation status` and `stop`: what goes on, in a table or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from dp_risk.cli.display import console, table
from dp_risk.cli.federation.client import Client, Unreachable
from dp_risk.federation.operator import Operator

_LOOK_SECONDS = 2.0
# Runs that are over fill a screen.
_LAST_RUNS = 5


def status(folder: Path, *, as_json: bool, watch: bool) -> None:
    """Show nodes, runs and budgets.

    Parameters
    ----------
    folder : Path
        The operator's folder.
    as_json : bool
        One JSON object instead of tables.
    watch : bool
        Whether to go on until interrupted.

    Raises
    ------
    DpRiskError
        If the server does not answer, or refuses.
    """
    with Client(Operator.load(folder)) as client:
        said = client.status()
        if as_json:
            while True:
                print(json.dumps(said), flush=True)
                if not watch:
                    return
                time.sleep(_LOOK_SECONDS)
                said = client.status()
        screen = console()
        if not watch:
            screen.print(view(said))
            return
        with Live(view(said), console=screen, screen=screen.is_terminal) as live:
            while True:
                time.sleep(_LOOK_SECONDS)
                try:
                    live.update(view(client.status()))
                except Unreachable as error:
                    live.update(Text(str(error)))


def stop(folder: Path, run: str) -> str:
    """Ask for the end of a run; return a line that says what became of it."""
    with Client(Operator.load(folder)) as client:
        said = client.stop(run)
    if said["state"] == "running":
        return f"run {run}: is being stopped; what was charged stays charged"
    return f"run {run}: {said['state']}"


def view(said: Mapping[str, Any]) -> RenderableType:
    """Return a server's status as tables."""
    about = said["federation"]
    head = f"{about['name']}: {about['dataset']}, unit {about['unit']}, delta {about['delta']:g}"
    nodes = [
        [n["site"], "online" if n["online"] else "offline", _ago(n["seen"])] for n in said["nodes"]
    ]
    over = [run for run in said["runs"] if run["state"] not in ("queued", "running")]
    open_runs = [run for run in said["runs"] if run not in over]
    runs = [
        [r["run"], r["state"], _rounds(r), _figure(r["epsilon_spent"]), r["reason"] or ""]
        for r in [*over[-_LAST_RUNS:], *open_runs]
    ]
    budgets = [
        [
            site,
            *(_figure(b[n]) for n in ("spent_epsilon", "left_epsilon", "lifetime_epsilon")),
            "retired" if b["retired"] else "",
            _ago(time.time() - b["stated"]),
        ]
        for site, b in sorted(said["sites"].items())
    ]
    return Group(
        Text(head, style="bold"),
        Text(),
        table("sites", ["site", "state", "last seen"], nodes),
        Text(),
        table("runs", ["run", "state", "round", "epsilon", ""], runs),
        Text(),
        table(
            "lifetime budgets, as each site stated last",
            ["site", "spent", "left", "of", "", "stated"],
            budgets,
        ),
    )


def _rounds(run: Mapping[str, Any]) -> str:
    return "-" if run["rounds"] is None else f"{run['round']}/{run['rounds']}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
