"""`dp-risk federation run`: a run of a real federation, asked for and watched from anywhere."""

from __future__ import annotations

import io
import secrets
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import yaml

from dp_risk.cli import folders, manifest, subgroups, summary
from dp_risk.cli.compose import asked_for, settings
from dp_risk.cli.display import Step, console, progress
from dp_risk.cli.federation.client import Client, SignedTooEarly, Unreachable, failure
from dp_risk.cli.settings import Settings
from dp_risk.federation.operator import Operator
from dp_risk.types import ConfigurationError, Trust, VerificationError
from server.robust import Rule

DEFAULT = "federation/operator"
_LOOK_SECONDS = 1.0
_MOST_PAUSE = 30.0
# A frozen site holds a round so long, and is then left out of it; it may come back.
_DEADLINE_SECONDS = 120.0
_SPARE_ROUNDS = 3
# One site of so many may stay away, and one at least where there are three.
_EXPECTED_LOSSES = 10
_FEWEST_TO_LOSE_ONE = 3
_FOLDER_KEY = "grid.operator"
# What the sites' own folders say, or what only simulated sites have.
_NOT_HERE = ("partition", "sites", "server", "frontier", "audit", "tuning", "run.start", "data")
_HERE = ("data.value_scale",)
_Answer = TypeVar("_Answer")
_GROUPS = ("data", "model", "privacy", "federation", "evaluation", "report", "seed")


def run(overrides: Sequence[str], *, as_json: bool, attach: str | None) -> Path:
    """Ask for a run, or look at one that goes on; return the run folder at its end.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides.
    as_json : bool
        Whether progress is JSON lines.
    attach : str or None
        Id of a run that was asked for before; its own configuration counts.

    Raises
    ------
    DpRiskError
        If it cannot be, fails, is stopped, or its record is not signed by the federation.
    """
    asked = asked_for(overrides)
    folder = Path(str(asked.get(_FOLDER_KEY, DEFAULT)))
    operator = Operator.load(folder)
    with Client(operator) as client:
        nodes = _again(client.status, when=SignedTooEarly)["nodes"]
        composed = composition(overrides, operator, sites=len(nodes))
        place = folders.run_folder(composed.run.dir, "federation", None)
        with folders.removed_if_empty(place):
            name = attach or secrets.token_hex(8)
            try:
                if attach is None:
                    job = job_of(composed)
                    _again(lambda: client.submit(name, job, _of_the_run(composed.yaml)))
                    print(f"run {name} is asked for at {operator.url}", file=sys.stderr)
                with progress("training", as_json=as_json) as step:
                    _watch(client, name, step)
                content = _again(lambda: client.files(name))
            except KeyboardInterrupt:
                _say_how_to_go_on(name, folder)
                raise
            unpack(content, place, operator.federation)
    record = folders.read_json(place / "run.json")
    if attach is not None:
        # What was asked for then, not what is typed now.
        epsilon = "null" if record["epsilon_target"] is None else record["epsilon_target"]
        then = [f"privacy.{name}={record[name]}" for name in ("trust", "randomness")]
        typed = [one for one in overrides if not one.startswith("privacy.")]
        composed = composition(
            [*typed, f"privacy.epsilon={epsilon}", *then], operator, sites=len(record["sites"])
        )
    summary.show(console(), record, composed.asked, place)
    return place


def _of_the_run(composed: str) -> str:
    """Return a configuration without what only other commands, simulated sites or paths need."""
    config = {k: v for k, v in yaml.safe_load(composed).items() if k in _GROUPS}
    config["data"] = {name: config["data"][name] for name in ("name", "delta")}
    return yaml.safe_dump(config, sort_keys=False)


def composition(overrides: Sequence[str], operator: Operator, *, sites: int) -> Settings:
    """Return the settings of a run over a federation's sites.

    Parameters
    ----------
    overrides : sequence of str
        As typed.
    operator : Operator
        Says what the sites agreed on.
    sites : int
        Sites of the roster, unless another number is asked for.

    Raises
    ------
    ConfigurationError
        If something is asked for that makes no sense here.
    """
    asked = asked_for(overrides)
    for key in asked:
        if key not in _HERE and any(key == no or key.startswith(f"{no}.") for no in _NOT_HERE):
            raise ConfigurationError(
                f"{key}: not in a real federation: its sites have their own data and policies"
            )
    if asked.get("grid", "deployment") != "deployment":
        raise ConfigurationError(f"grid: {asked['grid']}: `dp-risk train` does that")
    agreed = operator.agreed
    mine = [
        "grid=deployment",
        "data=file",
        f"data.name='{agreed.dataset}'",
        "data.path=null",
        f"data.schema='{_quoted(operator.schema)}'",
        f"data.delta={agreed.delta}",
        f"privacy.unit={agreed.unit}",
        f"federation.sites={sites}",
    ]
    typed = [one for one in overrides if not one.startswith("grid=")]
    lasting = defaults(settings([*mine, *typed]), asked)
    composed = settings([*mine, *lasting, *typed])
    subgroups.check(composed)
    return composed


def defaults(composed: Settings, asked: Mapping[str, Any]) -> list[str]:
    """Return the overrides of a run that is to outlast frozen and lost sites.

    Parameters
    ----------
    composed : Settings
        Without them.
    asked : mapping of str to object
        What was typed, by key: it stays.
    """
    federation = composed.federation
    found: dict[str, float] = {"deadline": _DEADLINE_SECONDS}
    if composed.privacy_values["trust"] == Trust.LOCAL:
        found["spare_rounds"] = _SPARE_ROUNDS
        # Another rule has its own sites to lose: those that lie.
        if federation.rule == Rule.SUM and federation.sites >= _FEWEST_TO_LOSE_ONE:
            lost = max(1, federation.sites // _EXPECTED_LOSSES)
            found["min_sites"] = federation.sites - lost
    keys = {f"federation.{name}": value for name, value in found.items()}
    return [f"{key}={value}" for key, value in keys.items() if key not in asked]


def job_of(composed: Settings) -> dict[str, Any]:
    """Return what the server makes a job of."""
    return {
        "dataset": composed.data.dataset,
        "schema": composed.data.load_schema().to_dict(),
        "model": composed.model_name,
        "model_options": composed.model_options,
        "privacy": asdict(composed.asked),
        "federation": asdict(composed.federation),
        "seed": composed.seed,
        "capacity": composed.evaluation.capacity,
        "subgroups": list(composed.evaluation.subgroups),
    }


def unpack(content: bytes, place: Path, federation: str) -> None:
    """Write the files of a run and check that the federation signed them.

    Raises
    ------
    VerificationError
        If it did not, or something is missing or changed.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(place, filter="data")
    except (tarfile.TarError, ValueError):
        raise VerificationError("the server sent no archive of files") from None
    signed = manifest.check_unchanged(place)
    if signed["public_key"] != federation:
        raise VerificationError(f"{place}: not signed by this federation's key")


def _watch(client: Client, name: str, step: Step) -> None:
    """Show how a run goes on until it is over.

    Raises
    ------
    DpRiskError
        If it failed or was stopped.
    """
    offset, shown = 0, 0
    while True:
        at = offset
        said = _again(lambda: client.follow(name, at))  # noqa: B023
        offset = int(said["offset"])
        for line in said["lines"]:
            # A resumed run tells its rounds once more.
            if int(line["round"]) > shown and said["rounds"]:
                shown = int(line["round"])
                rounds = SimpleNamespace(rounds=int(said["rounds"]))
                step(shown, rounds, line["epsilon_spent"], line["auprc"])
        if said["state"] == "finished" and not said["lines"]:
            return
        if said["state"] == "failed":
            raise failure(said["reason"], said.get("exit_code"))
        if said["state"] == "stopped":
            raise failure(f"run {name} was stopped", None)
        if not said["lines"]:
            time.sleep(_LOOK_SECONDS)


def _again(ask: Callable[[], _Answer], when: type[Unreachable] = Unreachable) -> _Answer:
    """Ask until there is an answer: a server may be started again."""
    pause, told = _LOOK_SECONDS, False
    while True:
        try:
            return ask()
        except when as error:
            if not told:
                print(f"{error}; trying again until it answers", file=sys.stderr)
                told = True
            time.sleep(pause)
            pause = min(_MOST_PAUSE, 2 * pause)


def _say_how_to_go_on(name: str, folder: Path) -> None:
    where = f"{_FOLDER_KEY}='{_quoted(folder)}'" if str(folder) != DEFAULT else ""
    again = " ".join(["dp-risk federation run", where, "--attach", name]).replace("  ", " ")
    print(
        f"\nrun {name} goes on without you\n"
        f"  look again:  {again}\n"
        f"  stop it:     dp-risk federation stop {name} --operator {folder}",
        file=sys.stderr,
    )


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("'", "\\'")
