from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clients.policy import Policy
from clients.shard import TrainingUnits
from clients.site import KEY, POLICY, SITE, Site
from dp_risk import wire
from dp_risk.privacy.schedule import TRAINING
from dp_risk.types import ConfigurationError, Refused
from tests.federation import (
    Server,
    encoded,
    history,
    make_site,
    module,
    plan,
    policy,
    public_plan,
    refused,
    replaced,
    rows,
    training_units,
    weights,
)


@pytest.mark.parametrize("name", [POLICY, SITE, KEY])
def test_a_site_without_one_of_its_files_is_a_configuration_error(site: Path, name: str) -> None:
    (site / name).unlink()
    with pytest.raises(ConfigurationError):
        Site.open(site)


@pytest.mark.parametrize("text", ["", "[]", "data: 1", "{", "data: x\nholdout: much\nschema: {}"])
def test_a_malformed_site_file_is_a_configuration_error(site: Path, text: str) -> None:
    (site / SITE).write_text(text)
    with pytest.raises(ConfigurationError):
        Site.open(site)


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": 1e-6},
        {"dataset": "other"},
        {"public": True},
        {"stable_ids": False},
        {"unit": "account"},
    ],
)
def test_a_policy_that_moves_what_the_ledger_fixed_closes_the_site(
    site: Path, changes: dict[str, object]
) -> None:
    Site.open(site).ledger.close_file()
    before = history(site)
    rules = Policy.load(site / POLICY)
    replaced(rules, **changes).save(site / POLICY)
    with pytest.raises(Refused, match="an account never changes"):
        Site.open(site)
    assert refused(Server(site).ask("query.status", {}))
    rules.save(site / POLICY)
    assert history(site) == before


def test_a_larger_budget_needs_a_signed_entry_and_a_smaller_one_binds_at_once(site: Path) -> None:
    Site.open(site).ledger.close_file()
    rules = Policy.load(site / POLICY)
    replaced(rules, lifetime_epsilon=100.0).save(site / POLICY)
    with pytest.raises(Refused, match="dp-risk ledger raise"):
        Site.open(site)
    replaced(rules, lifetime_epsilon=5.0).save(site / POLICY)
    said = wire.read_statement(Server(site).ask("query.status", {}))
    assert said["lifetime_epsilon"] == 5.0
    assert said["left_epsilon"] == 5.0


def test_new_rows_keep_account_and_split(site: Path) -> None:
    server = Server(site)
    server.enrol(plan())
    server.train(plan())
    spent = history(site)
    before = Site.open(site).shard
    held = set(before.holdout_units.ids.tolist())
    kept = set(before.train.ids.tolist())
    more = pa.concat_tables([rows(50, seed=9), rows()])
    pq.write_table(more, site / "rows.parquet")
    after = Site.open(site).shard
    assert history(site) == spent
    assert held < set(after.holdout_units.ids.tolist())
    assert kept < set(after.train.ids.tolist())
    assert len(after.train) + len(after.holdout_units) == 350


def test_train_and_holdout_share_no_unit_and_miss_none(site: Path) -> None:
    shard = Site.open(site).shard
    train, held = shard.train, shard.holdout_units
    assert not set(train.ids.tolist()) & set(held.ids.tolist())
    assert len(train) + len(held) == 300
    assert 20 < len(held) < 110


def test_coded_rows_are_made_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Site.open(site).shard.train

    def fails(*_: object) -> None:
        raise AssertionError("coded again")

    monkeypatch.setattr("clients.shard.read_records", fails)
    again = Site.open(site).shard.train
    assert np.array_equal(first.codes, again.codes)
    stat = (site / "rows.parquet").stat()
    os.utime(site / "rows.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(AssertionError, match="coded again"):
        _ = Site.open(site).shard.train


def test_a_batch_has_labels_and_values_in_double_precision(site: Path) -> None:
    coded = Site.open(site).shard.train
    batch = TrainingUnits(coded).batch(np.array([3, 1]))
    (codes, values), labels = batch.inputs, batch.labels
    assert codes.shape[0] == values.shape[0] == labels.shape[0] == 2
    assert str(labels.dtype) == str(values.dtype) == "torch.float64"
    assert labels.tolist() == coded.labels[[3, 1]].tolist()


def test_a_plan_outlives_the_process(site: Path) -> None:
    asked = plan()
    assert not refused(Server(site).enrol(asked))
    assert not refused(Server(site).counts(asked))
    assert not refused(Server(site).train(asked))


def test_forgetting_between_messages_changes_nothing(tmp_path: Path) -> None:
    asked = plan(randomness="seeded", noise_multiplier=plan().noise_multiplier)
    heard = []
    for remember in (True, False):
        folder = make_site(tmp_path / str(remember), rows(), policy(public=True))
        server = Server(folder, remember=remember)
        server.enrol(asked)
        replies = [server.counts(asked), *(server.train(asked, number) for number in range(3))]
        heard.append([encoded(wire.RecordDict({"a": r["arrays"]})) for r in replies])
        server.ask("query.close", {"run": asked.run})
    assert heard[0] == heard[1]
    assert len(set(heard[0])) == 4


def test_a_stored_plan_that_was_changed_on_disk_is_not_run(site: Path) -> None:
    asked = plan()
    Server(site).enrol(asked)
    [path] = site.glob("*.plan.json")
    stored = json.loads(path.read_text())
    stored["plan"]["noise_multiplier"] = 1.0
    path.write_text(json.dumps(stored))
    assert refused(Server(site).train(asked))
    assert [kind for kind, _ in history(site)] == ["open", "reserve"]


@pytest.mark.parametrize(
    "changes",
    [
        {"purposes": ("counts",)},
        {"models": ("mlp",)},
        {"min_noise_multiplier": 1000.0},
        {"min_sites": 2},
        {"roster": {"site-00": "aa" * 32}},
        {"trusts": ()},
    ],
    ids=str,
)
def test_a_policy_that_is_tightened_binds_the_run_that_is_open(
    site: Path, changes: dict[str, object]
) -> None:
    asked, server = plan(), Server(site)
    server.enrol(asked)
    assert not refused(server.train(asked, 0))
    before = history(site)
    rules = Policy.load(site / POLICY)
    replaced(rules, **changes).save(site / POLICY)
    assert refused(server.train(asked, 1))
    assert refused(server.score_bins(asked))
    assert history(site) == before
    # A change that still allows the plan stops nothing.
    replaced(rules, run_epsilon=7.0).save(site / POLICY)
    assert not refused(server.train(asked, 1))


def test_only_the_open_runs_plan_is_kept(site: Path) -> None:
    server = Server(site)
    server.enrol(plan())
    server.enrol(plan(run="run-2", rounds=1))
    assert [p.name for p in site.glob("*.plan.json")] == [
        f"{plan(run='run-2', rounds=1).digest}.plan.json"
    ]
    assert refused(server.train(plan()))


def test_a_closed_run_gives_back_what_never_ran(site: Path) -> None:
    server = Server(site)
    empty = wire.read_statement(server.ask("query.status", {}))["lifetime_used"]
    whole = wire.read_statement(server.enrol(plan()))["lifetime_used"]
    server.train(plan())
    closed = wire.read_statement(server.ask("query.close", {"run": "run-1"}))
    assert empty == 0.0 < closed["lifetime_used"] < whole
    assert closed["run"]["rounds"] == {TRAINING: 1}
    assert closed["open_run"] is None
    again = wire.read_statement(server.ask("query.close", {"run": "run-1"}))
    assert again["ledger_head"] == closed["ledger_head"]


def test_a_release_without_noise_is_the_exact_sum_of_gradients(public_site: Path) -> None:
    import torch

    asked, server = public_plan(), Server(public_site)
    server.enrol(asked)
    released = wire.read_release(server.train(asked, at=weights(0.1))).arrays
    coded = Site.open(public_site).shard.train
    units = TrainingUnits(coded)
    model = module()
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    batch = units.batch(np.arange(len(coded)))
    torch.nn.functional.binary_cross_entropy_with_logits(
        model(*batch.inputs), batch.labels, reduction="sum"
    ).backward()
    assert training_units(public_site) > 200
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(released[name], parameter.grad.numpy(), atol=1e-9)
