"""What a bench keeps of a reply, and what it says where a site is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from clients.site import Site
from dp_risk import wire
from dp_risk.cli.audit.bench import REFUSAL, Bench, fields, stacked
from dp_risk.cli.audit.views import View
from dp_risk.data.coding import Coding
from dp_risk.data.groups import group_names
from dp_risk.data.schema import Schema
from dp_risk.privacy.release import Release, arrays_digest
from dp_risk.privacy.schedule import EVALUATION, SUBGROUPS, TRAINING
from dp_risk.types import FederationError
from tests import federation
from tests.cli.audit.test_reserved import scratch

CODING = Coding(schema=Schema.from_dict(federation.SCHEMA))


def request(**values: Any) -> Message:
    message = Message(wire.request_record(values), 2, "query.status")
    message.metadata.__dict__["_message_id"] = "message"
    return message


def answer(content: RecordDict, **values: Any) -> dict[str, Any]:
    asked = request(**values)
    return fields(asked, Message(content, reply_to=asked), CODING)


def release(round: int = 0, purpose: str = TRAINING, **arrays: Any) -> Release:
    return Release(
        run="run", purpose=purpose, round=round, arrays=arrays, digest=arrays_digest(arrays),
        ledger_head="a" * 64, signature="b" * 128,
    )  # fmt: skip


def test_fields_of_a_release_are_its_arrays_and_its_receipt() -> None:
    arrays = {"a": np.arange(3.0), "b": np.zeros((2, 2))}
    found = answer(wire.release_record(release(7, **arrays)))
    assert found["receipt.round"] == 7
    assert found["answers"] == "query.status"
    for name, array in arrays.items():
        assert (found[f"arrays.{name}"] == array).all()
        assert found[f"arrays.{name}"].shape == array.shape
        assert found[f"arrays.{name}.bytes"] > array.nbytes
    assert {"receipt.digest", "receipt.ledger_head", "receipt.signature"} <= set(found)


def test_the_bins_that_a_server_chose_are_not_compared_and_more_than_those_are() -> None:
    edges = [-1.0, 0.0, 1.0]
    for cells, unasked in ((8, 0), (9, 1), (5, -3)):
        histogram = np.arange(cells, dtype=np.float64)
        content = wire.release_record(release(purpose=EVALUATION, histogram=histogram))
        found = answer(content, edges=edges)
        assert found["arrays.histogram.unasked"] == unasked
        assert found["arrays.histogram"].shape == (1,)
        assert "arrays.histogram.bytes" not in found


def test_by_subgroup_there_are_as_many_bins_for_each_value_of_the_schema() -> None:
    groups = len(group_names(CODING, "kind"))
    assert groups > 1
    for more in (0, 1, -2):
        histogram = np.zeros(groups * 2 * 2 + more)
        content = wire.release_record(release(purpose=SUBGROUPS, histogram=histogram))
        found = answer(content, edges=[0.0], column="kind")
        assert found["arrays.histogram.unasked"] == more


def test_what_comes_beside_a_histogram_is_compared_whole() -> None:
    arrays = {"histogram": np.zeros(4), "units": np.arange(3.0)}
    found = answer(wire.release_record(release(purpose=EVALUATION, **arrays)), edges=[0.0])
    assert (found["arrays.units"] == arrays["units"]).all()
    assert "arrays.units.bytes" in found


def test_a_statement_is_fields_and_so_is_whatever_hides_beside_it() -> None:
    content = wire.statement_record({"site": "a", "run": {"rounds": 2}})
    content.config_records[wire.STATEMENT]["aside"] = 5
    found = answer(content)
    assert found["statement"] == {"site": "a", "run": {"rounds": 2}}
    assert found["statement.aside"] == 5


def test_the_refusal_says_one_word() -> None:
    assert answer(wire.refusal_record()) == {"answers": "query.status", **REFUSAL}
    more = RecordDict({wire.REFUSAL: ConfigRecord({"refused": True, "why": "row 3"})})
    assert answer(more) == {"answers": "query.status", **REFUSAL, "refusal.why": "row 3"}
    asked = request()
    error = fields(asked, Message(Error(code=0, reason="row 3"), reply_to=asked), CODING)
    assert error == {"answers": "query.status", "error": True}


def test_views_are_stacked_by_source_and_round() -> None:
    found = [
        View(
            source=site,
            purpose=TRAINING,
            round=round,
            arrays={"a": np.full(2, 10.0 * number + round)},
        )
        for round in range(3)
        for number, site in enumerate(("x", "y"))
    ]
    found.append(View(source="x", purpose=EVALUATION, round=0, arrays={"a": np.zeros(5)}))
    assert stacked(found, TRAINING, "a")[:, :, 0].tolist() == [[0, 1, 2], [10, 11, 12]]


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    asked = scratch(tmp_path)
    reserved = asked.reserved(codes=4, slots=1)
    settings, sites = asked.sites("run", reserved, asked.rows(None, seed=0), rounds=2)
    return settings, sites, tmp_path


def test_a_bench_keeps_what_left(folders: Any) -> None:
    settings, sites, place = folders
    bench = Bench(settings, sites, transcript=True)
    record = bench.run(place / "out")
    assert record["rounds"] == 2
    assert {site for site, _ in bench.releases} == {site.name for site in sites}
    assert len(bench.messages) > len(bench.releases)
    assert (bench.refusals, bench.stopped) == ([], False)


def test_a_run_that_silence_ends_is_a_transcript_and_else_an_error(
    folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, sites, place = folders

    def silent(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(Site, "answer", silent)
    heard = Bench(settings, sites, transcript=True)
    assert heard.run(place / "heard") == {}
    assert heard.stopped
    assert heard.refusals
    assert all(said == REFUSAL for said in heard.refusals)
    with pytest.raises(FederationError):
        Bench(settings, sites).run(place / "other")


def test_a_site_that_fails_is_no_refusal(folders: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, sites, _ = folders
    bench = Bench(settings, sites[:1])
    [node] = bench.nodes

    def fail(*_: Any) -> None:
        raise RuntimeError("row 3")

    monkeypatch.setattr(bench.grid, "_app", fail)
    content = bench.enrol(node, federation.plan())
    assert not wire.is_refusal(content)
    assert bench.refusals == [{"error": True}]
