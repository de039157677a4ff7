"""The ledger's verbs as a site's owner and an auditor use them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from clients.policy import Policy
from clients.rotation import rotate
from clients.site import POLICY, Site
from dp_risk.privacy import keys
from dp_risk.privacy.accounting import Event, epsilon
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.schedule import Purpose
from tests.federation import make_site, policy, replaced, rows

from .conftest import Run

GOLDEN = Path(__file__).parents[1] / "privacy" / "golden" / "ledger-1.sqlite"
BY = ("--by", "A. Person", "--reason", "a second study")
SCHEDULE = (
    Purpose(name="training", split="train", event=Event(noise_multiplier=9.0), rounds=3),
    Purpose(name="evaluation", split="holdout", event=Event(noise_multiplier=12.0), rounds=1),
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site whose one run is closed."""
    folder = make_site(tmp_path / "a site", rows(40), policy())
    ledger = Site.open(folder).ledger
    ledger.reserve(run="run-1", plan_digest="p" * 64, schedule=SCHEDULE)
    for purpose, round in (("training", 0), ("training", 1), ("evaluation", 0)):
        ledger.pay(run="run-1", plan_digest="p" * 64, purpose=purpose, round=round, request="r")
    ledger.close("run-1")
    ledger.close_file()
    return folder


def as_json(run: Run, *arguments: str | Path) -> dict[str, Any]:
    said = run("ledger", *arguments, "--json")
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


def lifetime(site: Path, value: float) -> None:
    replaced(Policy.load(site / POLICY), lifetime_epsilon=value).save(site / POLICY)


def test_show_names_both_costs_and_every_charge(run: Run, site: Path) -> None:
    shown = as_json(run, "show", site)
    assert set(shown["accounts"]) == {"train", "holdout"}
    assert (shown["lifetime_epsilon"], shown["retired"], shown["note"]) == (10.0, False, None)
    [about] = shown["runs"]
    assert about["epsilon_run_pld"] == {
        line.split: pytest.approx(epsilon([line.total], 1e-5)) for line in SCHEDULE
    }
    assert [(c["purpose"], c["rounds_paid"], c["rounds_reserved"]) for c in about["charges"]] == [
        ("training", 2, 3),
        ("evaluation", 1, 1),
    ]
    # What the charges cost together is what the accounts lost.
    ledger = Ledger.open(site / "ledger.sqlite")
    for charge in about["charges"]:
        used = charge["filter_paid"] / ledger.filter.capacity
        assert shown["accounts"][charge["split"]]["used"] == pytest.approx(used)
    said = run("ledger", "show", site).out
    assert "split train: lifetime epsilon (filter)" in said
    assert "run epsilon (PLD, as reserved): train" in said
    assert "2 of 3 rounds paid" in said
    assert shown["head"] in said


def test_show_says_what_of_a_reservation_counts(run: Run, site: Path) -> None:
    ledger = Site.open(site).ledger
    for name, paid in (("run-2", 0), ("run-3", 3), ("run-4", 0)):
        ledger.reserve(run=name, plan_digest="p", schedule=SCHEDULE)
        for round in range(paid):
            ledger.pay(run=name, plan_digest="p", purpose="training", round=round, request="r")
        if paid:
            ledger.pay(run=name, plan_digest="p", purpose="evaluation", round=0, request="r")
    ledger.close_file()
    states = [about["state"] for about in as_json(run, "show", site)["runs"]]
    assert [state.partition(":")[0] for state in states] == [
        "closed", "refused or ended before its first round", "closed", "open",
    ]  # fmt: skip
    assert states[0].endswith("never ran were given back")
    assert states[2].endswith("every round was paid")
    said = run("ledger", "show", site).out
    assert all(f"\n  {state}\n" in said for state in states)


def test_verify_says_what_it_could_not_check(run: Run, site: Path, tmp_path: Path) -> None:
    said = run("ledger", "verify", site)
    assert said.code == 0
    assert "6 entries hold, each signed" in said.out
    assert "every byte of the file" in said.out
    assert "not checked: who signed" in said.out
    assert "not checked: whether this is an older copy" in said.out
    key = keys.public_hex(keys.load(site / "site.key"))
    (tmp_path / "keys").write_text(f"{'0' * 64}\n{key}\n")
    found = as_json(run, "verify", site, "--keys", "keys")
    assert "signed by a key that you trust" in found["checked"]
    assert (found["entries"], found["key"], found["sealed"]) == (6, key, True)
    (tmp_path / "keys").write_text("0" * 64)
    assert run("ledger", "verify", site, "--keys", "keys").code == 5
    assert run("ledger", "verify", site, "--keys", "absent").code == 2
    ledger = Site.open(site).ledger
    ledger.reserve(run="run-2", plan_digest="p", schedule=SCHEDULE)
    ledger.close_file()
    assert "not checked: bytes outside the entries" in run("ledger", "verify", site).out


def test_every_byte_of_a_closed_ledger_counts(run: Run, site: Path) -> None:
    path, draw = site / "ledger.sqlite", random.Random(3)
    whole = path.read_bytes()
    for number in range(200):
        at = number if number < 30 else draw.randrange(len(whole))
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(changed))
        said = run("ledger", "verify", site)
        assert (said.code, said.out) == (5, ""), at
        assert said.line
        assert path.read_bytes() == changed
    path.write_bytes(whole)
    assert run("ledger", "verify", site).code == 0


def test_a_ledger_that_does_not_add_up_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_site(tmp_path / "planted", rows(40), policy())
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_after", lambda self, before, schedule: dict(before))
        ledger = Site.open(folder).ledger
        ledger.reserve(run="run-1", plan_digest="p" * 64, schedule=SCHEDULE)
        ledger.close("run-1")
        ledger.close_file()
    for verb in ("verify", "export"):
        said = run("ledger", verb, folder)
        assert (said.code, said.out) == (5, "")
        assert "ledger entry 1 does not hold: its totals are not what the events cost" in said.line


def test_an_auditor_gets_a_statement(run: Run, site: Path, tmp_path: Path) -> None:
    said = run("ledger", "export", site, "--out", "ledger.json")
    assert said.code == 0, said.err
    assert "6 entries" in said.out
    out = tmp_path / "ledger.json"
    assert run("ledger", "export", site).out == out.read_text()
    assert run("ledger", "export", site, "--out", "ledger.json").code == 2
    said = run("ledger", "verify", "ledger.json")
    assert said.code == 0, said.err
    assert "not checked: stored answers" in said.out
    out.write_text(out.read_text().replace('"retired": false', '"retired": true'))
    assert run("ledger", "verify", "ledger.json").code == 5


def test_the_policy_is_the_one_place_of_a_larger_budget(run: Run, site: Path) -> None:
    lifetime(site, 12.0)
    note = as_json(run, "show", site)["note"]
    assert "dp-risk ledger raise" in note
    assert run("ledger", "raise", site).code == 2
    said = run("ledger", "raise", site, *BY)
    assert said.code == 0, said.err
    assert "raised to 12 by A. Person" in said.out
    shown = as_json(run, "show", site)
    assert (shown["lifetime_epsilon"], shown["note"]) == (12.0, None)
    [amendment] = shown["amendments"]
    assert (amendment["by"], amendment["reason"]) == ("A. Person", "a second study")
    assert "a second study" in run("ledger", "show", site).out
    said = run("ledger", "raise", site, *BY)
    assert said.code == 2
    assert "12 already" in said.line
    lifetime(site, 11.0)
    assert as_json(run, "show", site)["lifetime_epsilon"] == 11.0
    assert "raised to 12, policy.yaml says 11" in run("ledger", "show", site).out
    assert run("ledger", "raise", site, *BY).code == 2
    assert run("ledger", "verify", site).code == 0


def test_another_account_is_not_raised(run: Run, site: Path) -> None:
    replaced(Policy.load(site / POLICY), lifetime_epsilon=12.0, delta=1e-6).save(site / POLICY)
    said = run("ledger", "raise", site, *BY)
    assert said.code == 3
    assert "delta" in said.line


def test_a_retired_ledger_stays_readable(run: Run, site: Path) -> None:
    made = as_json(run, "retire", site, *BY)["amendment"]
    assert (made["kind"], made["by"]) == ("retire", "A. Person")
    assert as_json(run, "show", site)["retired"] is True
    assert run("ledger", "verify", site).code == 0
    assert run("ledger", "retire", site, *BY).code == 3


def test_migrate_is_named_where_it_is_needed(run: Run, tmp_path: Path) -> None:
    site = make_site(tmp_path / "old", rows(40), policy(dataset="golden"))
    shutil.copy(GOLDEN, site / "ledger.sqlite")
    said = run("ledger", "show", site)
    assert said.code == 2
    assert "dp-risk ledger migrate SITE" in said.line
    found = as_json(run, "migrate", site)
    assert found["entries"] == 17
    assert Path(found["backup"]).exists()
    shown = as_json(run, "show", site)
    assert shown["open_run"] == "run-2"
    said = run("ledger", "verify", site)
    assert said.code == 0
    assert "the first 16 are of version 1" in said.out
    assert run("ledger", "migrate", site).code == 3


@pytest.mark.parametrize("verb", ["show", "verify", "export", "raise", "retire", "migrate"])
def test_every_verb_helps_and_says_when_there_is_nothing(run: Run, verb: str) -> None:
    said = run("ledger", verb, "--help")
    assert said.code == 0
    assert f"example:\n  dp-risk ledger {verb} " in said.out
    more = BY if verb in ("raise", "retire") else ()
    said = run("ledger", verb, "absent", *more)
    assert said.code == 2
    assert "absent" in said.line


def test_a_file_that_never_was_a_statement_is_a_mistake(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cards.csv").write_text("a,b\n1,2\n")
    said = run("ledger", "verify", "cards.csv")
    assert said.code == 2
    assert "not a ledger statement" in said.line


def test_an_export_needs_its_folder(run: Run, site: Path) -> None:
    said = run("ledger", "export", site, "--out", "nowhere/out.json")
    assert said.code == 2
    assert "nowhere/out.json" in said.line
    assert ".tmp" not in said.line


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "0" * 63, "not hexadecimal"])
def test_a_file_without_a_key_is_a_mistake_and_no_forgery(
    run: Run, tmp_path: Path, site: Path, text: str
) -> None:
    (tmp_path / "keys.txt").write_text(text)
    said = run("ledger", "verify", site, "--keys", "keys.txt")
    assert said.code == 2
    assert "holds no public key" in said.line


def test_a_rotation_is_shown_and_followed(run: Run, site: Path, tmp_path: Path) -> None:
    opened = Site.open(site)
    old = opened.ledger.public_key
    rotate(opened, by="A. Person", reason="once a year")
    new = opened.ledger.public_key
    opened.ledger.close_file()
    assert "key rotated by A. Person, 20" in run("ledger", "show", site).out
    shown = as_json(run, "show", site)
    assert shown["public_key"] == new
    assert [(e["kind"], e["reason"]) for e in shown["rekeys"]] == [("rekey", "once a year")]
    assert shown["amendments"] == []
    assert shown["entries"][-1]["was"] == old
    export = tmp_path / "statement.json"
    assert run("ledger", "export", site, "--out", export).code == 0
    trusted = tmp_path / "keys"
    for what in (site, export):
        for key, words in (
            (new, "signed by a key that you trust\n"),
            (old, f"which signed for the one in force, {new}: put that one into {trusted}"),
        ):
            trusted.write_text(f"site: {key}\n")
            said = run("ledger", "verify", what, "--keys", trusted)
            assert said.code == 0
            assert words in said.out
            assert "rotations of the key: 1, each signed by the old one" in said.out
        trusted.write_text("5a" * 32)
        assert run("ledger", "verify", what, "--keys", trusted).code == 5
    said = as_json(run, "verify", site)
    assert (said["key"], said["earlier"]) == (new, [old])
