"""What `dp-risk federation run` asks for, and what it takes from a server."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from dp_risk.cli import main, manifest
from dp_risk.cli.federation import run as running
from dp_risk.cli.federation.client import SignedTooEarly, Unreachable
from dp_risk.cli.federation.status import view
from dp_risk.federation.house import House
from dp_risk.federation.operator import Operator
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError, FederationError, Refused, VerificationError
from server.queue import Queue
from tests.deployment.loopback import make


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    # A folder whose name needs quotes.
    root = tmp_path_factory.mktemp("run") / "it's here"
    make(root, sites=3, insecure=True)
    return House.open(root / "fed")


@pytest.fixture(scope="module")
def operator(house) -> Operator:
    return Operator.load(house.folder / "operator")


def test_a_run_takes_what_the_sites_agreed_on(operator, tmp_path):
    settings = running.composition(["privacy.epsilon=1", "model=mlp"], operator, sites=3)
    assert settings.federation.sites == 3
    assert (settings.asked.delta, settings.asked.unit) == (1e-5, "record")
    job = running.job_of(settings)
    assert (job["dataset"], job["model"]) == ("tiny", "mlp")
    assert job["schema"]["name"] == "tiny"
    made = Queue(tmp_path / "runs", tmp_path / "heads.json")
    made.tidy()
    entry = made.submit("r1", json.loads(json.dumps(job)), settings.yaml, "a", check=lambda _: None)
    assert made.job(entry.run).privacy == settings.asked


def test_what_is_typed_goes_first(operator):
    typed = ["privacy.epsilon=1", "federation.sites=2", "privacy.delta=1e-6", "seed=4"]
    settings = running.composition(typed, operator, sites=3)
    assert (settings.federation.sites, settings.asked.delta, settings.seed) == (2, 1e-6, 4)
    assert running.composition(["grid=deployment", *typed], operator, sites=3).seed == 4


def test_utility_by_subgroup_is_asked_for_by_columns_of_the_agreed_schema(operator):
    asked = ["privacy.epsilon=1", "evaluation.subgroups=[kind,age]"]
    composed = running.composition(asked, operator, sites=3)
    assert running.job_of(composed)["subgroups"] == ["kind", "age"]


@pytest.mark.parametrize("more", ["privacy.allocation.evaluation=0", "evaluation.subgroups=[none]"])
def test_subgroups_that_nothing_would_evaluate_are_refused(operator, more):
    asked = ["privacy.epsilon=1", "evaluation.subgroups=[kind]", more]
    with pytest.raises(ConfigurationError, match=r"evaluation\.subgroups"):
        running.composition(asked, operator, sites=3)


def lasting(operator, *typed, sites, epsilon=1):
    typed = [f"privacy.epsilon={epsilon}", *typed]
    made = running.composition(typed, operator, sites=sites).federation
    return made.deadline, made.spare_rounds, made.min_sites


@pytest.mark.parametrize(
    ("sites", "fewest"),
    [(1, None), (2, None), (3, 2), (9, 8), (10, 9), (19, 18), (20, 18), (50, 45)],
)
def test_a_run_outlasts_frozen_and_lost_sites(operator, sites, fewest):
    assert lasting(operator, sites=sites) == (120, 3, fewest)


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["federation.deadline=null", "federation.spare_rounds=0"], (None, 0, 9)),
        (["federation.min_sites=10"], (120, 3, 10)),
        (["federation.min_sites=null"], (120, 3, None)),
        (["federation.rule=median"], (120, 3, None)),
        (["federation.sites=2"], (120, 3, None)),
        (["privacy.trust=distributed"], (120, None, None)),
    ],
)
def test_what_is_typed_and_what_others_choose_stays(operator, typed, found):
    assert lasting(operator, *typed, sites=10) == found


def test_a_run_without_privacy_loses_no_site(operator):
    assert lasting(operator, "privacy.trust=none", sites=10, epsilon="null") == (120, None, None)


@pytest.mark.parametrize(
    "override",
    ["data=spambase", "data.path=mine.csv", "data.public=true", "partition=iid", "sites.dir=x",
     "partition.alpha=1", "run.start=w.safetensors", "frontier.seeds=[1]", "server.dir=x",
     "tuning.selection=private", "audit=quick"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(operator, override):
    with pytest.raises(ConfigurationError, match="not in a real federation") as error:
        running.composition(["privacy.epsilon=1", override], operator, sites=3)
    assert str(error.value).startswith(override.partition("=")[0])


def test_another_grid_is_refused_here_and_this_one_elsewhere(operator, capsys):
    with pytest.raises(ConfigurationError, match="grid: in_process"):
        running.composition(["privacy.epsilon=1", "grid=in_process"], operator, sites=3)
    assert main.run(["train", "privacy.epsilon=1", "grid=deployment"]) == 2
    assert "dp-risk federation run" in capsys.readouterr().err


def test_a_missing_operator_is_said(tmp_path, capsys):
    words = ["federation", "run", "privacy.epsilon=1", f"grid.operator='{tmp_path / 'none'}'"]
    assert main.run(words) == 2
    assert "not an operator's folder" in capsys.readouterr().err


def packed(folder: Path, house: House, key=None, spoil=None) -> bytes:
    folder.mkdir()
    (folder / "run.json").write_text('{"schema_version": 1}')
    manifest.sign(folder, key or house.key)
    if spoil is not None:
        spoil(folder)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    return made.getvalue()


def test_files_are_taken_that_the_federation_signed(tmp_path, house):
    place = tmp_path / "place"
    running.unpack(packed(tmp_path / "a", house), place, house.public_key)
    assert sorted(path.name for path in place.iterdir()) == ["manifest.json", "run.json"]


@pytest.mark.parametrize("what", ["key", "changed", "surplus", "missing", "nonsense", "outside"])
def test_other_files_are_not(tmp_path, house, what):
    key = keys.load_or_create(tmp_path / "other.key") if what == "key" else None
    spoils = {
        "changed": lambda f: (f / "run.json").write_text("{}"),
        "surplus": lambda f: (f / "more").write_text("x"),
        "missing": lambda f: (f / "run.json").unlink(),
    }
    content = packed(tmp_path / "a", house, key, spoils.get(what))
    if what == "nonsense":
        content = b"no archive"
    if what == "outside":
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
        content = made.getvalue()
    with pytest.raises(VerificationError):
        running.unpack(content, tmp_path / "place", house.public_key)
    assert not (tmp_path / "outside").exists()


class Client:
    """Answers from a script; an exception in it is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def follow(self, run, offset):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"rounds": 3, "lines": [], "offset": 0, "reason": None, **answer}


def line(number):
    return {"round": number, "epsilon_spent": None, "auprc": None}


def test_progress_is_shown_once_though_a_server_dies_under_it(monkeypatch, capsys):
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    shown = []
    client = Client(
        {"state": "queued"},
        {"state": "running", "lines": [line(1)]},
        Unreachable("gone"),
        Unreachable("gone"),
        {"state": "running", "lines": [line(1), line(2)]},
        {"state": "finished", "lines": [line(3)]},
        {"state": "finished"},
    )
    running._watch(client, "r", lambda done, plan, *_: shown.append((done, plan.rounds)))
    assert shown == [(1, 3), (2, 3), (3, 3)]
    assert capsys.readouterr().err.count("gone") == 1


def test_only_a_clock_that_is_behind_is_waited_for_at_the_start(monkeypatch, capsys):
    monkeypatch.setattr(running.time, "sleep", lambda _: None)
    errors = [SignedTooEarly("early"), SignedTooEarly("early"), Unreachable("gone")]

    def ask():
        raise errors.pop(0)

    with pytest.raises(Unreachable, match="gone"):
        running._again(ask, when=SignedTooEarly)
    assert capsys.readouterr().err.count("early") == 1
    assert not errors


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, ConfigurationError), (3, Refused), (4, FederationError), (None, FederationError)],
)
def test_a_failure_keeps_its_kind(code, kind):
    client = Client({"state": "failed", "reason": "why", "exit_code": code})
    with pytest.raises(kind, match="why") as error:
        running._watch(client, "r", lambda *_: None)
    assert type(error.value) is kind


def test_a_status_without_anything_is_shown():
    about = {"name": "n", "dataset": "d", "unit": "record", "delta": 1e-5}
    run = {"run": "r", "state": "queued", "round": None, "rounds": None, "epsilon_spent": None,
           "reason": None}  # fmt: skip
    node = {"site": "a", "online": False, "seen": None}
    for said in (
        {"federation": about, "nodes": [], "runs": [], "sites": {}},
        {"federation": about, "nodes": [node], "runs": [run], "sites": {}},
    ):
        assert view(said)
