from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from clients.policy import Policy
from clients.site import Site
from dp_risk.privacy import keys
from tests.federation import Server, plan, public_key, refused

from .conftest import Run


def init(run: Run, tiny_file: Path, *more: str) -> object:
    schema = tiny_file.with_suffix(".schema.yaml")
    return run("site", "init", "mine", "--data", tiny_file, "--schema", schema, "--delta", "1e-5",
               *more)  # fmt: skip


def test_a_new_site_answers_under_its_own_policy(run: Run, tmp_path: Path, tiny_file: Path) -> None:
    said = init(run, tiny_file, "--dataset", "tiny", "--name", "site-00", "--stable-ids")
    assert said.code == 0, said.err
    folder = tmp_path / "mine"
    for secret in ("site.key", "split.key"):
        assert stat.S_IMODE((folder / secret).stat().st_mode) == 0o600
    key = keys.public_hex(keys.load(folder / "site.key"))
    assert (folder / "site.pub").read_text() == f"site-00: {key}\n"
    assert key in said.out
    # Its own file names, so a roster can be pasted together from them.
    assert yaml.safe_load((folder / "site.pub").read_text()) == {"site-00": key}
    server = Server(folder)
    asked = plan(participants={"site-00": key})
    assert not refused(server.enrol(asked))
    assert not refused(server.counts(asked))
    assert refused(server.enrol(plan(run="run-2", participants={"site-00": public_key("site-00")})))
    assert not list(tmp_path.glob(".site-*"))


def test_the_policy_says_what_was_asked(run: Run, tmp_path: Path, tiny_file: Path) -> None:
    said = init(run, tiny_file, "--lifetime-epsilon", "6", "--run-epsilon", "2")
    assert said.code == 0
    rules = Policy.load(tmp_path / "mine" / "policy.yaml")
    assert (rules.site, rules.dataset) == ("mine", "tiny")
    assert (rules.lifetime_epsilon, rules.run_epsilon, rules.delta) == (6.0, 2.0, 1e-5)
    assert (rules.public, rules.units, rules.stable_ids) == (False, None, False)
    assert "stable_ids is false" in said.out
    assert Site.open(tmp_path / "mine").ledger.account.splits == ("both",)


def test_subgroups_are_for_the_owner_to_allow(run: Run, tmp_path: Path, tiny_file: Path) -> None:
    assert init(run, tiny_file).code == 0
    policy = tmp_path / "mine" / "policy.yaml"
    assert "subgroups" not in Policy.load(policy).purposes
    (tmp_path / "mine").rename(tmp_path / "other")
    assert init(run, tiny_file, "--subgroups").code == 0
    assert "subgroups" in Policy.load(policy).purposes


def test_partners_with_the_same_units_share_the_split_key(
    run: Run, tmp_path: Path, tiny_file: Path
) -> None:
    (tmp_path / "shared").write_text("ab" * 32)
    assert init(run, tiny_file, "--split-key", str(tmp_path / "shared")).code == 0
    assert (tmp_path / "mine" / "split.key").read_text() == "ab" * 32


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--unit", "account"], "account column"),
        (["--holdout", "1"], "--holdout: 1.0 is not in"),
        (["--delta", "2"], "delta"),
        (["--lifetime-epsilon", "-1"], "lifetime_epsilon"),
        (["--lifetime-epsilon", "1e-9"], "--lifetime-epsilon"),
        (["--run-epsilon", "0"], "run_epsilon"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--schema", "nowhere.yaml"], "nowhere.yaml"),
        (["--split-key", "nowhere"], "--split-key"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    run: Run, tmp_path: Path, tiny_file: Path, more: list[str], words: str
) -> None:
    said = init(run, tiny_file, *more)
    assert said.code == 2
    assert words in said.line
    assert not (tmp_path / "mine").exists()
    assert not list(tmp_path.glob(".site-*"))


def test_a_site_is_never_made_anew(run: Run, tmp_path: Path, tiny_file: Path) -> None:
    assert init(run, tiny_file).code == 0
    before = (tmp_path / "mine" / "site.key").read_text()
    said = init(run, tiny_file)
    assert said.code == 2
    assert "never made anew" in said.line
    assert (tmp_path / "mine" / "site.key").read_text() == before
