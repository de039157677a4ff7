"""The child of `dp-risk federation serve`: one run in a process that may die and be started again.

Started as a module with its order on standard input, so that no token is seen by other users; when
that input ends, so does the child, at once and without a word to the sites: the run is resumed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import Message

from dp_risk import wire
from dp_risk.federation import files
from dp_risk.federation.house import House
from dp_risk.privacy.plan import Plan
from dp_risk.types import DpRiskError
from server import link
from server.exchange import ask, statements
from server.job import Job
from server.journal import FOLDER as JOURNAL
from server.queue import FAILED, FINISHED, STOPPED, Queue, Verdict, write
from server.statements import checked

BUDGETS = "budgets.json"
_CLOSE_SECONDS = 30.0
_STATED = ("spent_epsilon", "left_epsilon", "lifetime_epsilon", "lifetime_used", "retired")


def main() -> None:
    """Do what standard input orders, and exit."""
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    link.silence(verbose=False)
    house = House.open(Path(order["federation"]))
    queue = Queue(house.runs, house.heads)
    run = str(order["run"])
    with (queue.folder / run / ".lock").open("w") as lock:
        # A predecessor may be on its way out.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if queue.verdict(run) is not None:
            return
        try:
            grid = link.connect(order["address"], link.Task(**order["task"]), Budgets(house).hear)
            if order["close"]:
                reason = _close(grid, queue.job(run))
                queue.judge(run, Verdict(state=STOPPED, reason=reason))
            else:
                _train(grid, queue, run, house)
                queue.judge(run, Verdict(state=FINISHED))
        except DpRiskError as error:
            code = error.exit_code
            queue.judge(run, Verdict(state=FAILED, reason=str(error), exit_code=code))
            sys.exit(code)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def _train(grid: Any, queue: Queue, run: str, house: House) -> None:
    """Do a run to its end and sign what it brought; what is done already is not done again."""
    import torch

    from dp_risk.cli import artefacts, manifest
    from server.rounds import execute

    # Batches are small: more threads cost more than they give.
    torch.set_num_threads(1)
    folder = queue.run_folder(run)
    files.tidy(folder)
    if not _recorded(folder):
        job = replace(queue.job(run), roster=house.roster.keys)
        execute(grid, job, Notes(queue, run))
    artefacts.write_report(folder, html=True, key=house.key)
    # The record is whole now, and a signed folder holds nothing else.
    shutil.rmtree(folder / JOURNAL, ignore_errors=True)
    manifest.sign(folder, house.key)


def _recorded(folder: Path) -> bool:
    """Whether a run is done and its record is whole."""
    try:
        return bool(json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError):
        return False


def _close(grid: Any, job: Job) -> str | None:
    """Tell the sites that a run is over; return who was not told, if anybody."""
    nodes = sorted(grid.get_node_ids())
    patience = min(_CLOSE_SECONDS, job.federation.timeout)
    said = statements(ask(grid, nodes, "query.close", {"run": job.run}, None, patience))
    if len(said) == len(nodes):
        return None
    return f"{len(nodes) - len(said)} of {len(nodes)} sites did not answer; they hear of it later"


class Notes:
    """An observer that keeps how far the run is.

    Parameters
    ----------
    queue : Queue
        Where it is kept.
    run : str
        The run.
    """

    def __init__(self, queue: Queue, run: str) -> None:
        self._queue = queue
        self._run = run
        # A resumed run tells of its new rounds alone.
        before = queue.progress(run)
        self._spent: float | None = before.get("epsilon_spent")
        self._done = int(before.get("round", 0))

    def planned(self, plan: Plan) -> None:
        """Keep the number of rounds."""
        self._keep(self._done, plan)

    def stepped(self, done: int, plan: Plan, epsilon_spent: float | None, at: Any) -> float | None:  # noqa: ARG002
        """Keep the number of rounds that are done, and what they cost."""
        self._spent = self._spent if epsilon_spent is None else epsilon_spent
        self._keep(done, plan)
        return None

    def _keep(self, done: int, plan: Plan) -> None:
        progress = {"round": done, "rounds": plan.rounds, "epsilon_spent": self._spent}
        self._queue.note(self._run, progress)


class Budgets:
    """What every site stated last of its budget, for whoever looks at the federation.

    Parameters
    ----------
    house : House
        Whose roster says which key is which site's.
    """

    def __init__(self, house: House) -> None:
        self._path = house.folder / BUDGETS
        self._keys: Mapping[str, str] = house.roster.keys
        try:
            self._sites = dict(json.loads(self._path.read_text()))
        except (OSError, ValueError, TypeError):
            self._sites = {}

    def hear(self, site: str, reply: Message) -> None:
        """Keep the statement in a reply, if it holds one; a site speaks of itself alone."""
        try:
            said = checked(wire.read_statement(reply.content))
        except (ValueError, KeyError, TypeError):
            return
        if said["site"] != site or self._keys.get(site) != said["key"]:
            return
        about = {name: said[name] for name in _STATED}
        self._sites[said["site"]] = {**about, "stated": time.time()}
        write(self._path, self._sites)


if __name__ == "__main__":
    main()
