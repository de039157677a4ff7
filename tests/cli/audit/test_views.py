"""What the opponent sees: releases of sites, or a sum without the shares of those that collude."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dp_risk.cli.audit.bench import Bench, stacked
from dp_risk.cli.audit.differences import comparable
from dp_risk.cli.audit.reserved import replace_rows, table_of
from dp_risk.cli.audit.scratch import Scratch, starting_weights
from dp_risk.cli.audit.twins import Twins
from dp_risk.cli.audit.views import SUM, noise_of
from dp_risk.cli.compose import settings
from dp_risk.privacy.schedule import COUNTS, TRAINING
from dp_risk.types import RandomnessKind


def twins(place: Path, file: Path, trust: str) -> Twins:
    asked = settings(
        [
            *("data=file", f"data.path={file}", f"data.schema={file.with_suffix('.schema.yaml')}"),
            *("data.delta=1e-5", "data.public=true", "partition=iid", "federation.sites=5"),
            *("privacy.epsilon=4", "audit=quick", f"privacy.trust={trust}"),
        ]
    )
    scratch = Scratch(settings=asked, folder=place / "scratch")
    return Twins.make(scratch, "twins", slots=4, private=False)


def begun(twins: Twins, plan, *, colluder_rows: int | None = None, **changes):
    sites = twins.copies(str(changes.get("run")))
    if colluder_rows is not None:
        replace_rows(sites[-1], table_of(sites[-1]).slice(0, colluder_rows))
    bench = Bench(twins.settings, sites)
    own = comparable(bench, twins, plan, randomness=RandomnessKind.SEEDED, **changes)
    assert bench.begin(own)
    return bench, own


def configured(twins: Twins, place: Path):
    bench = Bench(twins.settings, twins.copies("configured"))
    bench.run(place / "run")
    assert bench.plan is not None
    return bench.plan


def test_a_sum_is_seen_without_the_colluding_sites_share(tmp_path: Path, tiny_file: Path) -> None:
    made = twins(tmp_path, tiny_file, "distributed")
    plan = configured(made, tmp_path)
    bench, own = begun(made, plan, run="one")
    start = starting_weights(made.scratch.module(made.reserved), made.reserved)
    seen = bench.view(own, TRAINING, 0, start)
    assert seen is not None
    assert {view.source for view in bench.opponent.views} == {SUM}
    # The same seeds again: the colluder, the last site, has fewer rows now, and nothing changes.
    again, other = begun(made, plan, colluder_rows=5, run="two")
    second = again.view(other, TRAINING, 0, start)
    assert second is not None
    for name, array in seen.items():
        assert np.array_equal(array, second[name])


def test_nothing_is_seen_where_a_site_is_missing(tmp_path: Path, tiny_file: Path) -> None:
    made = twins(tmp_path, tiny_file, "distributed")
    bench, own = begun(made, configured(made, tmp_path), run="one")
    for node in bench.nodes[:-1]:
        bench.release(node, own, COUNTS, 0, None)
    assert bench.opponent.views == []
    assert len(bench.opponent.masked) == 2
    bench.release(bench.nodes[-1], own, COUNTS, 0, None)
    [view] = bench.opponent.views
    # Two of three sites of some 19 training units each, and noise of 20 that two of them carry.
    assert abs(float(view.arrays["units"][0]) - 38) < 6 * 20


@pytest.mark.statistical
@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_a_view_holds_the_noise_that_is_accounted(
    tmp_path: Path, tiny_file: Path, trust: str
) -> None:
    made = twins(tmp_path, tiny_file, trust)
    plan = configured(made, tmp_path)
    bench = Bench(made.settings, made.copies("noise"))
    start = starting_weights(made.scratch.module(made.reserved), made.reserved)
    for number in range(12):
        own = comparable(bench, made, plan, run=f"noise-{number}")
        bench.begin(own)
        for round in range(own.rounds):
            bench.view(own, TRAINING, round, start)
        bench.end(own.run)
    name = next(name for name in start if "codes" in name)
    found = stacked(bench.opponent.views, TRAINING, name)[0]
    residual = found - found.mean(0)
    rounds = len(found)
    std, _ = noise_of(own, TRAINING, len(bench.nodes))
    ratio = residual.std() / (std * np.sqrt(1 - 1 / rounds))
    # 36 rounds of 27 coordinates: 5.5 standard errors of a standard deviation, 4e-8 two-sided.
    assert abs(ratio - 1) < 5.5 / np.sqrt(2 * residual.size)
