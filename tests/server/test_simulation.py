"""Flower's simulation engine: the same apps in processes of Ray."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from clients.app import make_app
from dp_risk.cli.grids import forgetful, running
from dp_risk.cli.settings import InProcess, Ray
from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError
from server.grids import InProcessGrid
from server.job import Job
from server.rounds import execute
from server.simulation import actors
from tests.federation import kinds

from .test_job import PRIVACY, job

Sites = Callable[..., list[Path]]
# Of a test that kills a process: which site's, and where it is said that it has happened.
MORTAL = "DP_RISK_TEST_MORTAL"
ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install dp-risk[ray]"
)


def seeded(folder: Path, **more: Any) -> Job:
    folder.mkdir()
    privacy = Privacy(**{**PRIVACY, "randomness": "seeded"})
    return replace(job(folder, **{"timeout": 60.0, **more}), privacy=privacy)


@ray
@pytest.mark.ray
@pytest.mark.smoke
def test_processes_of_ray_find_the_same_model_in_silence(
    tmp_path: Path, sites: Sites, capfd: pytest.CaptureFixture[str]
) -> None:
    made, found = sites(3, public=True), []
    for name, grid in (
        ("one", InProcess(amnesia=False)),
        ("many", Ray(cpus_per_site=0.5, address=None)),
    ):
        folders = [shutil.copytree(site, tmp_path / f"{name}-sites" / site.name) for site in made]
        with running(grid, folders) as way:
            record = execute(way, seeded(tmp_path / name, sites=3))
        found.append((tmp_path / name / "model.safetensors").read_bytes())
        assert [site["rounds_joined"] for site in record["sites"]] == [3] * 3
        expected = ["open", "reserve", *["charge", "release"] * 6, "close"]
        assert [kinds(folder) for folder in folders] == [expected] * 3
    assert found[0] == found[1]
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def mortal() -> Any:
    """Return the sites' app; its process dies once, after a site has charged for its 2nd round."""
    app = make_app(remember=False)
    site, mark = os.environ[MORTAL].split(":")

    def answer(message: Message, context: Context) -> Message:
        reply = app(message, context)
        mine = Path(str(context.node_config["site"])).name == site
        if message.metadata.message_type == "train" and mine:
            rounds = Path(mark)
            been = len(rounds.read_text()) if rounds.exists() else 0
            rounds.write_text("x" * (been + 1))
            if been == 1:
                os._exit(9)
        return reply

    return answer


@ray
@pytest.mark.ray
@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_charges_stay(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = sites(2, public=True)
    monkeypatch.setenv(MORTAL, f"site-01:{tmp_path / 'mark'}")
    nodes = {number + 2: str(folder) for number, folder in enumerate(folders)}
    with actors(mortal, cpus_per_site=1.0, address=None) as app:
        grid = InProcessGrid(app, nodes, executor=app.executor)
        record = execute(grid, seeded(tmp_path / "out", min_sites=1, rounds=8))
    assert record["answers_lost"] >= 1
    joined = [site["rounds_joined"] for site in record["sites"]]
    assert joined[0] == 8
    assert 2 <= joined[1] < 8
    history = kinds(folders[1])
    # The answer was lost with the process, and is paid for.
    assert history.count("charge") - 3 > joined[1]
    assert history[-1] == "close"


@ray
@pytest.mark.ray
@pytest.mark.slow
def test_a_site_that_asks_for_more_cores_than_there_are_is_a_mistake() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"grid\.cpus_per_site: no machine of Ray has 1024"),
        actors(forgetful, cpus_per_site=1024.0, address=None),
    ):
        raise AssertionError


def test_without_ray_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    started = time.monotonic()
    with (
        pytest.raises(ConfigurationError, match=r"pip install dp-risk\[ray\]") as error,
        running(Ray(cpus_per_site=1.0, address=None), [tmp_path]),
    ):
        raise AssertionError
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("cpus", [0.0, -1.0, float("nan"), 1e9])
def test_cores_of_a_site_have_a_range(cpus: float) -> None:
    with pytest.raises(ConfigurationError, match=r"grid\.cpus_per_site"):
        Ray(cpus_per_site=cpus, address=None)
