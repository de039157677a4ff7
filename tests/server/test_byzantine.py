"""Whole runs of which a fifth of the sites lies; what they send is in `benchmarks/byzantine.py`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from dp_risk.cli import compose
from dp_risk.privacy.planning import Privacy
from server.grids import InProcessGrid
from server.job import Job
from server.robust import Rule
from server.rounds import execute
from tests.federation import kinds, rows, together
from tests.server.test_summing import asked as asked_together

from .test_job import PRIVACY, job

Sites = Callable[..., list[Path]]


def _byzantine() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "byzantine.py"
    spec = importlib.util.spec_from_file_location("byzantine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


byzantine = _byzantine()
REASONS = {
    "NaN": "numbers that are not finite",
    "wrong shape": "arrays of another shape",
    "stale": "stale: of another round",
    "re-keyed": "not signed with the site's key",
    "scaled x1000": "longer than an honest answer can be",
}


def slow(rule: Rule) -> Any:
    return pytest.param(rule, marks=pytest.mark.slow)


def grid(folders: list[Path], attack: str, liars: int = 1) -> InProcessGrid:
    nodes = {number + 2: str(folder) for number, folder in enumerate(folders)}
    bad = {node: Path(nodes[node]) for node in list(nodes)[:liars]}
    return InProcessGrid(byzantine.Lying(bad, attack), nodes)


@pytest.mark.parametrize("attack", REASONS)
@pytest.mark.parametrize("rule", [Rule.MEDIAN, slow(Rule.SUM)])
def test_an_invalid_answer_is_dropped_with_its_reason_and_the_run_goes_on(
    tmp_path: Path, sites: Sites, rule: Rule, attack: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    folders = sites(5, public=True, units=48)
    one = job(out, sites=5, rounds=4, min_sites=4, rule=rule)
    record = execute(grid(folders, attack), one)
    dropped = [
        (number, *found.values())
        for number, line in enumerate((out / "rounds.jsonl").read_text().splitlines())
        for found in json.loads(line)["dropped"]
    ]
    # The release of the first round is as good as any; the site is named again after some rounds.
    first = 1 if attack == "stale" else 0
    assert dropped[0] == (first, "site-00", REASONS[attack])
    assert {found[1:] for found in dropped} == {("site-00", REASONS[attack])}
    answers = sum(found["answers"] for found in record["dropped"])
    assert answers == len(dropped) == record["answers_lost"]
    assert record["rule"] == rule
    assert [site["rounds_joined"] for site in record["sites"]] == [first, 4, 4, 4, 4]
    assert kinds(folders[1]).count("charge") == 4 + 2


def bare(folder: Path, rule: Rule) -> Job:
    """Return a job without noise: what a lie moves is not hidden by it."""
    folder.mkdir()
    privacy = Privacy(**{**PRIVACY, "trust": "none", "epsilon": None})
    least = {"min_sites": 5, "sites": 6, "rounds": 10, "rule": rule}
    return replace(job(folder, **least), privacy=privacy)


@pytest.mark.parametrize(
    "rule", [Rule.SUM, Rule.MEDIAN, slow(Rule.TRIMMED_MEAN), slow(Rule.KRUM), Rule.MULTI_KRUM]
)
def test_without_noise_a_rule_keeps_its_way_and_a_sum_goes_the_other(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch, rule: Rule
) -> None:
    lie = {"flipped x10": lambda a, *_: {name: -10 * array for name, array in a.items()}}
    monkeypatch.setattr(byzantine, "ATTACKS", lie)
    folders, found = sites(6, public=True, units=100, table=rows(600)), []
    for name, liars in (("honest", 0), ("lying", 1)):
        execute(grid(folders, "flipped x10", liars), replace(bare(tmp_path / name, rule), run=name))
        weights = safetensors.numpy.load_file(tmp_path / name / "model.safetensors")
        found.append(weights["terms.codes.weight"].ravel())
    likeness = float(np.corrcoef(found[0], found[1])[0, 1])
    assert likeness < 0 if rule is Rule.SUM else likeness > 0.9


def test_a_liar_in_a_secure_sum_can_stop_a_run_that_names_nobody(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clients.site
    from dp_risk.types import FederationError

    folders, honest = sites(4, **together(4)), clients.site.compute

    def compute(plan: Any, purpose: str, shard: Any, *rest: Any) -> Any:
        arrays = honest(plan, purpose, shard, *rest)
        if purpose != "training" or shard.path.parent != folders[1]:
            return arrays
        return {name: 1024 * array for name, array in arrays.items()}

    monkeypatch.setattr("clients.site.compute", compute)
    with pytest.raises(
        FederationError, match=r"training round 1 is absurd, longer than .* nobody can say which"
    ):
        execute(grid(folders, "flipped", 0), asked_together(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("rule", Rule)
def test_a_fifth_of_the_sites_lies_and_auroc_stays(tmp_path: Path, rule: Rule) -> None:
    """Seeded, so that nothing but the lie differs; figures of more seeds: docs/benchmarks.md."""
    base = compose.settings(
        ["partition=iid", "privacy.randomness=seeded", "federation.min_sites=8"]
    )
    one = compose.with_privacy(base, seed=0, epsilon=8.0, trust="local")
    one = replace(one, federation=replace(one.federation, rule=rule))
    honest = byzantine.run(one, tmp_path, None, 2)["auroc"]
    assert honest > 0.96
    if rule is Rule.SUM:
        assert byzantine.run(one, tmp_path, "flipped, longest", 2)["auroc"] < honest - 0.1
        return
    for attack in byzantine.ATTACKS:
        found = byzantine.run(one, tmp_path, attack, 2)
        assert found["auroc"] > honest - 0.01, (attack, found)
        assert bool(found["dropped"]) == (attack in (*REASONS, "scaled x10")), found
