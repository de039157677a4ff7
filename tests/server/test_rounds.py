"""Whole runs of the two apps over the in-process grid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Context, Message, RecordDict

import clients.site
from clients.app import make_app
from clients.rotation import rotate
from clients.site import Site
from dp_risk import wire
from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError, FederationError, Refused, VerificationError
from server.grids import InProcessGrid
from server.job import Job
from server.rounds import execute
from tests.federation import history, kinds, weights

from .test_job import PRIVACY, job

Sites = Callable[..., list[Path]]


def grid(folders: list[Path], app: Any = None) -> InProcessGrid:
    return InProcessGrid(app or make_app(), {n + 2: str(f) for n, f in enumerate(folders)})


def asked(tmp_path: Path, **federation: Any) -> Job:
    (tmp_path / "out").mkdir()
    return job(tmp_path / "out", **federation)


def test_a_run_charges_every_site_alike_and_writes_what_it_did(
    tmp_path: Path, sites: Sites
) -> None:
    folders = sites(3)
    record = execute(grid(folders), asked(tmp_path, sites=3))
    expected = ["open", "reserve", *["charge", "release"] * 6, "close"]
    assert [kinds(folder) for folder in folders] == [expected] * 3
    assert record["epsilon_spent"] <= 2.0
    assert record["rounds"] == record["steps"] == 3
    assert [(c["split"], c["purpose"]) for c in record["charges"]] == [
        ("train", "counts"),
        ("train", "training"),
        ("holdout", "score_bins"),
        ("holdout", "evaluation"),
    ]
    for split in ("train", "holdout"):
        shares = [c["share"] for c in record["charges"] if c["split"] == split]
        assert sum(shares) == pytest.approx(1.0)
        assert record["epsilon_by_split"][split] == pytest.approx(2.0, rel=1e-3)
    assert record["utility_source"] == "charged"
    assert set(record["utility"]) >= {"auroc", "auprc", "recall_at_fpr_1pct", "ece", "threshold"}
    assert [site["site"] for site in record["sites"]] == ["site-00", "site-01", "site-02"]
    for site, folder in zip(record["sites"], folders, strict=True):
        assert site["ledger_head"] == history(folder)[-1][1]
        assert site["rounds_joined"] == 3
        assert site["epsilon_lifetime"] + site["epsilon_lifetime_left"] == pytest.approx(10.0)
    assert record == json.loads((tmp_path / "out" / "run.json").read_text())
    model = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert all(np.isfinite(array).all() for array in model.values())
    assert len((tmp_path / "out" / "rounds.jsonl").read_text().splitlines()) == 3


def test_a_site_that_refuses_the_plan_stops_the_run_before_any_round(
    tmp_path: Path, sites: Sites
) -> None:
    folders = sites(2)
    # A budget is fixed when the ledger is opened: take the poor site's first.
    from clients.policy import Policy
    from tests.federation import replaced

    rules = Policy.load(folders[1] / "policy.yaml")
    replaced(rules, lifetime_epsilon=0.5).save(folders[1] / "policy.yaml")
    with pytest.raises(
        Refused, match=r"asks epsilon 2 .*site-01 has .*0\.5 of .*0\.5 left"
    ) as error:
        execute(grid(folders), asked(tmp_path))
    assert "site-00" not in str(error.value)
    assert kinds(folders[0]) == ["open", "reserve", "close"]
    assert kinds(folders[1]) == ["open"]
    assert not list((tmp_path / "out").iterdir())


class Losing:
    """A ClientApp of which one site falls silent from one round on."""

    def __init__(self, node: int, first: int) -> None:
        self.node, self.first, self.app = node, first, make_app()

    def __call__(self, message: Message, context: Context) -> Message:
        training = message.metadata.message_type == "train"
        if training and context.node_id == self.node:
            number = wire.read_request(message).values["round"]
            if number >= self.first:
                raise RuntimeError("gone")
        return self.app(message, context)


def test_a_lost_site_ends_the_run_and_its_charges_stay(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2)
    with pytest.raises(FederationError, match="1 of 2 sites answered training round 2"):
        execute(grid(folders, Losing(3, 1)), asked(tmp_path))
    assert kinds(folders[0]) == ["open", "reserve", *["charge", "release"] * 3, "close"]
    assert kinds(folders[1]) == ["open", "reserve", *["charge", "release"] * 2, "close"]


def test_a_lost_site_is_missed_but_allowed_where_fewer_sites_are_enough(
    tmp_path: Path, sites: Sites
) -> None:
    folders = sites(2)
    record = execute(grid(folders, Losing(3, 1)), asked(tmp_path, min_sites=1))
    assert [site["rounds_joined"] for site in record["sites"]] == [3, 1]
    assert record["answers_lost"] == 2
    assert record["min_sites"] == 1


def test_a_site_that_does_not_state_its_budget_stops_the_run(tmp_path: Path, sites: Sites) -> None:
    folders = sites(2)
    (folders[1] / "policy.yaml").unlink()
    with pytest.raises(FederationError, match="1 sites did not state their budget"):
        execute(grid(folders), asked(tmp_path))
    assert kinds(folders[0]) == ["open"]


def test_the_server_app_runs_a_job_from_its_run_configuration(tmp_path: Path, sites: Sites) -> None:
    from server.app import app

    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={"job": asked(tmp_path).to_json()},
    )
    app(grid(sites()), context)
    assert (tmp_path / "out" / "run.json").exists()


def test_an_evaluation_without_enough_answers_keeps_the_model_and_says_so(
    tmp_path: Path, sites: Sites
) -> None:
    folders = sites(2)
    app = make_app()

    def silent(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.evaluation":
            raise RuntimeError("gone")
        return app(message, context)

    record = execute(grid(folders, silent), asked(tmp_path))
    assert record["utility"] is None
    assert record["estimates"] is None
    assert any("its charge stands" in line for line in record["assumptions"])
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert kinds(folders[0])[-3:] == ["charge", "release", "close"]


def test_a_ledger_restored_from_an_older_copy_is_noticed(tmp_path: Path, sites: Sites) -> None:
    folders, memory = sites(2), tmp_path / "heads.json"
    ledger = folders[1] / "ledger.sqlite"
    execute(grid(folders), replace(job(tmp_path, memory=memory), run="run-1"))
    seal = ledger.with_suffix(".seal")
    old, sealed = ledger.read_bytes(), seal.read_bytes()
    execute(grid(folders), replace(job(tmp_path, memory=memory), run="run-2"))
    before = history(folders[0])
    for name in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + name).unlink(missing_ok=True)
    ledger.write_bytes(old)
    # Under the newer seal the site refuses by itself; a whole backup has the older one.
    with pytest.raises(Refused, match="when it was sealed"):
        Site.open(folders[1])
    seal.write_bytes(sealed)
    third = replace(job(tmp_path, memory=memory), run="run-3")
    with pytest.raises(VerificationError, match=r"site-01: .*an older copy was restored") as error:
        execute(grid(folders), third)
    assert "\n" not in str(error.value)
    assert history(folders[0]) == before
    # Spent further, the old copy is as long as the lost one and still another chain.
    for number in (4, 5):
        execute(grid(folders), replace(job(tmp_path, memory=None), run=f"run-{number}"))
    with pytest.raises(VerificationError, match="went another way"):
        execute(grid(folders), third)


def rotated(folder: Path) -> None:
    opened = Site.open(folder)
    rotate(opened, by="A. Person", reason="once a year")
    opened.ledger.close_file()


def test_a_rotated_key_does_not_forget_the_head(tmp_path: Path, sites: Sites) -> None:
    folders, memory, backup = sites(2), tmp_path / "heads.json", tmp_path / "backup"

    def go(number: int) -> None:
        execute(grid(folders), replace(job(tmp_path, memory=memory), run=f"run-{number}"))

    def restore() -> None:
        shutil.rmtree(folders[1])
        shutil.copytree(backup, folders[1])

    go(1)
    shutil.copytree(folders[1], backup)
    go(2)
    rotated(folders[1])
    # The memory follows a rotation that it has not seen, and keeps what was under the old key.
    go(3)
    go(4)
    older = r"site-01: .*an older copy was restored"
    restore()
    with pytest.raises(VerificationError, match=older):
        go(5)
    # Nor does another rotation of the older copy help.
    rotated(folders[1])
    with pytest.raises(VerificationError, match=older):
        go(5)


def test_rotations_that_do_not_hold_are_no_way_to_be_forgotten(
    tmp_path: Path, sites: Sites
) -> None:
    folders, memory, app = sites(2), tmp_path / "heads.json", make_app()
    rotated(folders[1])

    def lying(change: Callable[[dict[str, Any]], None]) -> Any:
        def answer(message: Message, context: Context) -> Message:
            reply = app(message, context)
            said = wire.read_statement(reply.content)
            for entry in said["rekeys"]:
                change(entry)
            reply.content = wire.statement_record(said)
            return reply

        return answer

    def named(run: str) -> Job:
        return replace(job(tmp_path, memory=memory), run=run)

    def consent_of_nobody(entry: dict[str, Any]) -> None:
        body = json.loads(entry["text"])
        entry["text"] = json.dumps({**body, "consent": "0" * 128})

    for change in (consent_of_nobody, lambda entry: entry.update(kind="raise")):
        with pytest.raises(VerificationError, match="site-01: ledger entry 1 does not hold"):
            execute(grid(folders, lying(change)), named("run-1"))
    execute(grid(folders), named("run-1"))


def test_a_head_that_the_sites_key_did_not_sign_is_noticed(tmp_path: Path, sites: Sites) -> None:
    folders, app = sites(2), make_app()

    def forging(message: Message, context: Context) -> Message:
        reply = app(message, context)
        said = wire.read_statement(reply.content)
        reply.content = wire.statement_record({**said, "ledger_head": "0" * 64})
        return reply

    with pytest.raises(VerificationError, match="not signed by its key"):
        execute(grid(folders, forging), asked(tmp_path))


ABSURD = {
    "nan": lambda a: np.full_like(a, np.nan),
    "infinite": lambda a: np.full_like(a, np.inf),
    "huge": lambda a: np.full_like(a, 1e300),
    "longer": lambda a: np.append(a.ravel(), 0.0),
    "empty": lambda a: a.ravel()[:0],
    "single": lambda a: a.astype(np.float32),
    "whole": lambda a: a.astype(np.int64),
}


def nonsense(monkeypatch: pytest.MonkeyPatch, purpose: str, folder: Path, spoil: Any) -> None:
    """Let the site in one folder spoil what it releases for one purpose, and sign it."""
    honest = clients.site.compute

    def compute(asked: Any, what: str, shard: Any, *rest: Any) -> dict[str, Any]:
        arrays = honest(asked, what, shard, *rest)
        if what != purpose or shard.path.parent != folder:
            return arrays
        return {name: spoil(array) for name, array in arrays.items()}

    monkeypatch.setattr("clients.site.compute", compute)


@pytest.mark.parametrize("absurd", ABSURD)
@pytest.mark.parametrize("purpose", ["counts", "training", "score_bins", "evaluation"])
def test_a_site_that_releases_nonsense_is_named_and_believed_by_nobody(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch, purpose: str, absurd: str
) -> None:
    folders = sites(2)
    nonsense(monkeypatch, purpose, folders[1], ABSURD[absurd])
    if purpose in ("score_bins", "evaluation"):
        record = execute(grid(folders), asked(tmp_path))
        assert record["utility"] is None
        return
    with pytest.raises(FederationError, match=rf"{purpose} round 1, .*came from site-01;") as error:
        execute(grid(folders), asked(tmp_path))
    assert "charges are kept" in str(error.value)
    # Where one answer is enough, the run goes on without the liar.
    if purpose == "training":
        other = replace(job(tmp_path / "out", min_sites=1), run="run-2")
        record = execute(grid(folders), other)
        assert [site["rounds_joined"] for site in record["sites"]] == [3, 0]


def test_absurd_sums_that_still_fit_stop_the_run_with_a_reason(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without noise nothing is clipped, so that no sum is too long.
    folders = sites(2, public=True, units=120)
    nonsense(monkeypatch, "training", folders[1], lambda array: array + 1e11)
    bare = Privacy(**{**PRIVACY, "trust": "none", "epsilon": None})
    with pytest.raises(FederationError, match=r"after round 1: .*absurd sums; charges are kept"):
        execute(grid(folders), replace(asked(tmp_path), privacy=bare))


def test_a_sum_that_no_honest_site_can_send_is_dropped_with_a_reason(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = sites(2)
    nonsense(monkeypatch, "training", folders[1], lambda array: 100 * array)
    record = execute(grid(folders), asked(tmp_path, min_sites=1))
    reason = "longer than an honest answer can be"
    lines = (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()
    found = [json.loads(line)["dropped"] for line in lines]
    assert found[0] == [{"site": "site-01", "reason": reason}]
    assert record["dropped"][0] | {"answers": 0} == {
        "purpose": "training", "site": "site-01", "reason": reason, "answers": 0
    }  # fmt: skip
    assert [site["rounds_joined"] for site in record["sites"]] == [3, 0]
    assert (record["rule"], record["max_byzantine"]) == ("sum", 0)


def test_a_run_starts_from_given_weights(tmp_path: Path, sites: Sites) -> None:
    start, out = tmp_path / "start.safetensors", tmp_path / "out"
    safetensors.numpy.save_file({n: a + 0.25 for n, a in weights().items()}, start)
    frozen = asked(tmp_path, learning_rate=1e-300, averaging=0.0)
    execute(grid(sites(2)), replace(frozen, start=start))
    found = safetensors.numpy.load_file(out / "model.safetensors")
    assert all((array == 0.25).all() for array in found.values())


def tensor_file(kind: str, size: int) -> bytes:
    """Return a safetensors file of one number of a type that numpy may not know."""
    header = json.dumps({"x": {"dtype": kind, "shape": [1], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


@pytest.mark.parametrize(
    "content", [b"", b"no tensors", tensor_file("BF16", 2), tensor_file("F8_E4M3", 1)]
)
def test_weights_of_another_model_are_refused_before_anybody_is_asked(
    tmp_path: Path, sites: Sites, content: bytes
) -> None:
    folders, start = sites(2), tmp_path / "start.safetensors"
    safetensors.numpy.save_file({"other": np.zeros(2)}, start)
    if content:
        start.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"run\.start: .* (no safetensors file|no weights of this model)"
    ):
        execute(grid(folders), replace(asked(tmp_path), start=start))
    assert [kinds(folder) for folder in folders] == [["open"]] * 2
