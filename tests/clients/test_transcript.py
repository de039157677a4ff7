"""A spy on the wire: one unit more or less changes noisy arrays and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flwr.app import RecordDict

from dp_risk import wire
from tests.federation import Server, make_site, plan, policy, rows, training_units, weights

# Hashes of noise, signatures of them, and when an entry was written.
FREE = {
    "ledger_head",
    "ledger_signature",
    "signature",
    "digest",
    "head",
    "hash",
    "previous",
    "time",
}


def outlier() -> pa.Table:
    return pa.table({"age": [1e9], "amount": [1e300], "kind": ["never seen"], "risk": ["yes"]})


def transcript(folder: Path, **changes: Any) -> list[RecordDict]:
    """Return every reply of a whole run, refusals included."""
    asked, server = plan(**changes), Server(folder)
    replies = [server.ask("query.status", {}), server.enrol(asked), server.counts(asked)]
    replies += [server.train(asked, number) for number in range(3)]
    replies += [
        server.train(asked, 0),
        server.train(asked, 3),
        server.train(asked, 1, at=weights(2.0)),
        server.score_bins(asked),
        server.evaluation(asked, [-0.5, 0.0, 0.5]),
        server.evaluation(asked, [-0.5, 0.0]),
        server.ask("query.status", {"run": asked.run}),
        server.ask("query.close", {"run": asked.run}),
        server.train(asked, 0),
        server.enrol(plan(run="run-2")),
    ]
    return replies


def bare(value: Any) -> Any:
    """Return JSON without what is free, also where an entry of a ledger holds it as text."""
    if isinstance(value, list):
        return [bare(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {k: bare(v) for k, v in value.items() if k not in FREE}
    return {**kept, "text": bare(json.loads(kept["text"]))} if "text" in kept else kept


def fields(content: RecordDict) -> dict[str, Any]:
    """Return everything that a reply says, except values of arrays, ids, heads and digests."""
    out: dict[str, Any] = {}
    for name, record in content.array_records.items():
        for key, array in record.items():
            out[f"{name}.{key}"] = (array.dtype, array.shape, array.stype, len(array.data))
    assert not content.metric_records
    for name, record in content.config_records.items():
        for key, value in record.items():
            if key == "json":
                out[name] = bare(json.loads(str(value)))
            elif key not in FREE:
                out[f"{name}.{key}"] = value
    return out


def pair(tmp_path: Path, extra: pa.Table) -> tuple[Path, Path]:
    one = make_site(tmp_path / "without", rows(), policy())
    two = make_site(tmp_path / "with", pa.concat_tables([rows(), extra]), policy())
    return one, two


@pytest.mark.parametrize("copies", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_one_outlier_more_changes_noisy_arrays_only(tmp_path: Path, copies: int) -> None:
    # A unit is its content: equal rows share an id, so they land on one side of the split.
    extra = pa.concat_tables([outlier()] * copies)
    without, there = pair(tmp_path, extra)
    if training_units(without) == training_units(there):
        extra = extra.set_column(0, "age", pa.array([1e9 + 1] * copies))
        without, there = pair(tmp_path / "again", extra)
    one, two = transcript(without), transcript(there)
    assert [fields(a) for a in one] == [fields(b) for b in two]
    assert sum(wire.is_refusal(a) for a in one) == 4
    assert sum("arrays" in a for a in one) == 7


def test_the_spy_would_see_an_exact_size(tmp_path: Path) -> None:
    one = make_site(tmp_path / "one", rows(), policy(units=240))
    two = make_site(tmp_path / "two", rows(), policy(units=241))
    assert fields(Server(one).ask("query.status", {})) != fields(
        Server(two).ask("query.status", {})
    )


def test_rows_that_cannot_be_read_say_nothing_either(tmp_path: Path) -> None:
    broken = pa.table({"age": ["x"], "amount": [""], "kind": [None], "risk": ["maybe"]}).cast(
        pa.schema([("age", pa.string()), ("amount", pa.string()), ("kind", pa.string()),
                   ("risk", pa.string())])
    )  # fmt: skip
    text = rows().cast(
        pa.schema([(name, pa.string()) for name in ("age", "amount", "kind", "risk")])
    )
    one = make_site(tmp_path / "one", text, policy())
    two = make_site(tmp_path / "two", pa.concat_tables([text, broken]), policy())
    assert [fields(a) for a in transcript(one)] == [fields(b) for b in transcript(two)]


def test_a_site_without_a_row_answers_with_noise(tmp_path: Path) -> None:
    empty = make_site(tmp_path / "empty", rows().slice(0, 0), policy())
    full = make_site(tmp_path / "full", rows(), policy())
    one, two = transcript(empty), transcript(full)
    assert [fields(a) for a in one] == [fields(b) for b in two]
    released = wire.read_release(one[3])
    assert all(np.any(array != 0) for array in released.arrays.values())


@pytest.mark.statistical
def test_the_released_count_is_the_count_and_noise(tmp_path: Path) -> None:
    # 25 draws, noise 20: the mean has a standard error of 4, the bound is 6 of them (2e-9).
    folder = make_site(tmp_path / "site", rows(), policy(lifetime_epsilon=200.0))
    server, found = Server(folder), []
    for number in range(25):
        asked = plan(run=f"run-{number}")
        server.enrol(asked)
        found.append(float(wire.read_release(server.counts(asked)).arrays["units"][0]))
    assert abs(np.mean(found) - training_units(folder)) < 24
    # Chi-square with 24 degrees of freedom: outside [0.1, 3.6] of its mean less often than 1e-7.
    assert 0.1 < np.var(found, ddof=1) / 400 < 3.6
