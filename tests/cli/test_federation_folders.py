from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from clients.policy import Policy
from clients.site import POLICY as POLICY_FILE
from clients.site import SITE, Site
from dp_risk.cli.site import letter as letters
from dp_risk.data.schema import Schema
from dp_risk.federation import checks
from dp_risk.federation.house import House
from dp_risk.federation.letters import SiteLetter
from dp_risk.federation.membership import Membership
from dp_risk.federation.operator import Operator
from dp_risk.privacy import keys

from .conftest import Run, Said

# Runs a command and kills it at the n-th time that a file or folder takes its name.
_MORTAL = """
import os, signal, sys
left, real = int(sys.argv[1]), {"replace": os.replace, "rename": os.rename}
def deadly(name):
    def move(*paths):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*paths)
    return move
os.replace, os.rename = deadly("replace"), deadly("rename")
from dp_risk.cli.main import run
sys.exit(run(sys.argv[2:]))
"""
Make = Callable[..., Said]


@pytest.fixture
def site(run: Run, tiny_file: Path) -> Make:
    """Make a site by name."""

    def make(name: str, *more: str) -> Said:
        schema = tiny_file.with_suffix(".schema.yaml")
        return run("site", "init", name, "--data", tiny_file, "--schema", schema,
                   "--delta", "1e-5", "--dataset", "tiny", *more)  # fmt: skip

    return make


@pytest.fixture
def federation(run: Run, tiny_file: Path) -> Make:
    """Make the federation `fed`."""

    def make(*more: str, name: str = "fed") -> Said:
        schema = tiny_file.with_suffix(".schema.yaml")
        return run("federation", "init", name, "--schema", schema, "--dataset", "tiny",
                   "--delta", "1e-5", *more)  # fmt: skip

    return make


@pytest.fixture
def joined(run: Run, site: Make, federation: Make, tmp_path: Path) -> Path:
    """A federation of a and b, which a has joined."""
    for said in (
        site("a"),
        site("b"),
        federation(),
        run("federation", "admit", "fed", "a/site.json", "b/site.json"),
        run("site", "join", "a", "fed/federation.json"),
    ):
        assert said.code == 0, said.err
    return tmp_path


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is no lock."""
    found = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def killed(folder: Path, moves: int, *arguments: str | Path) -> bool:
    """Run a command that dies after some moves; return whether it did."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _MORTAL, str(moves), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def test_the_letters_go_both_ways(run: Run, joined: Path) -> None:
    house = House.open(joined / "fed")
    a, b = (Policy.load(joined / name / "policy.yaml") for name in "ab")
    mine = {n: keys.public_hex(keys.load(joined / n / "site.key")) for n in "ab"}
    assert (dict(a.roster), dict(b.roster)) == (mine, {})
    assert house.roster.keys == mine
    known = Membership.load(joined / "a")
    assert known.authority == house.authority.read_bytes()
    assert (joined / "a" / "authority.crt").read_bytes() == known.authority
    assert (known.address, known.key) == ("localhost:8000", house.public_key)
    assert Site.open(joined / "a").policy == a


def test_what_two_people_read_to_each_other_is_the_same(
    run: Run, joined: Path, site: Make, federation: Make
) -> None:
    federation_key = checks.fingerprint(bytes.fromhex(House.open(joined / "fed").public_key))
    roster = House.open(joined / "fed").roster.fingerprint
    join = run("site", "join", "b", "fed/federation.json")
    assert federation_key in join.out
    assert roster in join.out
    admit = run("federation", "admit", "fed")
    assert roster in admit.out
    shown = site("c").out
    admitted = run("federation", "admit", "fed", "c/site.json").out
    letter = SiteLetter.read((joined / "c" / "site.json").read_bytes(), "c")
    for said in (
        checks.fingerprint(bytes.fromhex(letter.key)),
        checks.fingerprint(letter.node_key.encode()),
    ):
        assert said in shown
        assert said in admitted
    other = federation("--host", "fl.example.org", "--port", "9000", name="other")
    authority = other.out.split("authority: ")[1].split("\n")[0]
    run("federation", "admit", "other", "b/site.json")
    joined_other = run("site", "join", "b", "other/federation.json", "--new-federation").out
    assert authority in joined_other
    assert "https://fl.example.org:9000" in joined_other


def test_secrets_are_named_and_for_their_owner_alone(joined: Path, federation: Make) -> None:
    said = federation(name="other")
    for name in ("federation.key", "operator/operator.key", "authority.key", "server.key"):
        assert name in said.out
        assert stat.S_IMODE((joined / "other" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((joined / "a" / "node.key").stat().st_mode) == 0o600
    for content in (files(joined / "a")["site.json"], files(joined / "fed")["federation.json"]):
        for folder in ("a", "fed"):
            for name, secret in files(joined / folder).items():
                if name.endswith(".key"):
                    assert secret.strip() not in content


def test_the_schema_of_a_federation_says_the_same_under_its_new_name(
    run: Run, tmp_path: Path, tiny_file: Path, site: Make, federation: Make
) -> None:
    schema = tiny_file.with_suffix(".schema.yaml")
    content = yaml.safe_load(schema.read_text())
    content.pop("name", None)
    schema.write_text(yaml.safe_dump(content))
    assert federation().code == 0
    house = House.open(tmp_path / "fed")
    assert Schema.from_yaml(house.schema).digest == house.agreed.schema
    operator = Operator.load(tmp_path / "fed" / "operator")
    assert Schema.from_yaml(operator.schema).digest == operator.agreed.schema
    assert site("a").code == 0
    assert run("site", "init", "b", "--data", tiny_file, "--schema", house.schema,
               "--delta", "1e-5", "--dataset", "tiny").code == 0  # fmt: skip
    assert run("federation", "admit", "fed", "a/site.json", "b/site.json").code == 0


def test_a_revoked_site_leaves_every_policy_with_the_next_letter(run: Run, joined: Path) -> None:
    assert run("federation", "revoke", "fed", "b").code == 0
    said = run("site", "join", "a", "fed/federation.json")
    assert said.code == 0
    assert "removed from the roster: b" in said.out
    assert list(Policy.load(joined / "a" / "policy.yaml").roster) == ["a"]
    again = run("site", "join", "b", "fed/federation.json")
    assert again.code == 2
    assert "does not name b" in again.line
    assert run("federation", "revoke", "fed", "b").code == 2


def test_a_partner_with_another_key_is_named(run: Run, joined: Path, site: Make) -> None:
    (joined / "b").rename(joined / "old")
    assert site("b").code == 0
    refused = run("federation", "admit", "fed", "b/site.json")
    assert refused.code == 2
    assert "b/site.json: b: a site of this name is in the roster" in refused.line
    assert run("federation", "revoke", "fed", "b").code == 0
    assert run("federation", "admit", "fed", "b/site.json").code == 0
    said = run("site", "join", "a", "fed/federation.json")
    fingerprint = checks.fingerprint(
        bytes.fromhex(keys.public_hex(keys.load(joined / "b" / "site.key")))
    )
    assert f"ANOTHER KEY in the roster: b ({fingerprint})" in said.out
    assert "partners that it had" in run("site", "join", "a", "fed/federation.json").out


def test_a_partner_that_the_owner_struck_out_is_named_when_it_comes_back(
    run: Run, joined: Path
) -> None:
    path = joined / "a" / "policy.yaml"
    policy = Policy.load(path)
    dataclasses.replace(policy, roster={"a": policy.roster["a"]}).save(path)
    assert "added to the roster: b" in run("site", "join", "a", "fed/federation.json").out


def test_joining_keeps_every_other_field_of_the_policy(run: Run, joined: Path) -> None:
    path = joined / "b" / "policy.yaml"
    path.write_text(path.read_text().replace("run_epsilon: 10.0", "run_epsilon: 3.0"))
    before = Policy.load(path).to_dict()
    assert run("site", "join", "b", "fed/federation.json").code == 0
    after = Policy.load(path).to_dict()
    assert before["run_epsilon"] == 3.0
    assert {**after, "roster": {}} == before
    assert after["roster"]


def test_a_letter_of_another_federation_is_refused_unless_it_is_meant(
    run: Run, joined: Path, federation: Make
) -> None:
    assert federation(name="other").code == 0
    assert run("federation", "admit", "other", "a/site.json").code == 0
    before = files(joined / "a")
    said = run("site", "join", "a", "other/federation.json")
    assert said.code == 5
    assert "signed by another key" in said.line
    assert files(joined / "a") == before
    moved = run("site", "join", "a", "other/federation.json", "--new-federation")
    assert moved.code == 0
    assert Membership.load(joined / "a").name == "other"


def test_an_older_letter_does_not_bring_a_revoked_site_back(run: Run, joined: Path) -> None:
    (joined / "old.json").write_bytes((joined / "fed" / "federation.json").read_bytes())
    assert run("federation", "revoke", "fed", "b").code == 0
    assert run("site", "join", "a", "fed/federation.json").code == 0
    before = files(joined / "a")
    said = run("site", "join", "a", "old.json")
    assert said.code == 5
    assert "older than the letter" in said.line
    assert files(joined / "a") == before


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--dataset", "other"], "dataset tiny instead of other"),
        (["--delta", "1e-6"], "delta 1e-05 instead of 1e-06"),
    ],
)
def test_a_federation_about_something_else_is_refused_on_both_sides(
    run: Run, tmp_path: Path, site: Make, federation: Make, more: list[str], words: str
) -> None:
    assert site("a").code == 0
    assert federation(*more).code == 0
    before = files(tmp_path / "fed")
    said = run("federation", "admit", "fed", "a/site.json")
    assert said.code == 2
    assert words in said.line
    assert files(tmp_path / "fed") == before
    # The other side: the policy was edited after the letter was written.
    assert site("b", *more).code == 0
    assert run("federation", "admit", "fed", "b/site.json").code == 0
    policy = tmp_path / "b" / "policy.yaml"
    policy.write_text(
        policy.read_text()
        .replace("dataset: other", "dataset: tiny")
        .replace("delta: 1.0e-06", "delta: 1.0e-05")
    )
    before = files(tmp_path / "b")
    said = run("site", "join", "b", "fed/federation.json")
    assert said.code == 2
    assert "the federation has" in said.line
    assert files(tmp_path / "b") == before


def test_a_site_without_its_keys_in_the_roster_does_not_join(run: Run, joined: Path) -> None:
    for name, words in (("node.key", "another node key"), ("site.key", "another key for b")):
        (joined / "b" / name).unlink()
        if name == "site.key":
            keys.load_or_create(joined / "b" / name)
        else:
            assert run("site", "letter", "b").code == 0
        before = files(joined / "b")
        said = run("site", "join", "b", "fed/federation.json")
        assert said.code == 2
        assert words in said.line
        assert files(joined / "b") == before


def test_a_letter_follows_the_policy_and_old_sites_get_a_node_key(
    run: Run, tmp_path: Path, site: Make
) -> None:
    assert site("a").code == 0
    node_key = (tmp_path / "a" / "node.key").read_bytes()
    path = tmp_path / "a" / "policy.yaml"
    path.write_text(path.read_text().replace("site: a\n", "site: clinic\n"))
    assert run("site", "letter", "a").code == 0
    read = SiteLetter.read((tmp_path / "a" / "site.json").read_bytes(), "x")
    assert read.site == "clinic"
    assert (tmp_path / "a" / "node.key").read_bytes() == node_key
    for name in ("node.key", "site.json"):
        (tmp_path / "a" / name).unlink()
    assert run("site", "letter", "a").code == 0
    assert (tmp_path / "a" / "node.key").read_bytes() != node_key
    assert run("site", "letter", "nowhere").code == 2


@pytest.mark.parametrize("at", ["site", "federation"])
def test_a_changed_letter_is_refused_with_its_own_exit_code(
    run: Run, joined: Path, at: str
) -> None:
    path = joined / ("b/site.json" if at == "site" else "fed/federation.json")
    said = json.loads(path.read_text())
    said["agreed"]["delta"] = 1e-4
    (joined / "changed.json").write_text(json.dumps(said))
    before = files(joined / "b"), files(joined / "fed")
    command = (
        ("federation", "admit", "fed", "a/site.json", "changed.json")
        if at == "site"
        else ("site", "join", "b", "changed.json")
    )
    said = run(*command)
    assert said.code == 5
    assert "changed.json: its signature does not hold" in said.line
    assert (files(joined / "b"), files(joined / "fed")) == before


def test_of_several_letters_all_are_admitted_or_none(run: Run, joined: Path, site: Make) -> None:
    assert site("c").code == 0
    assert site("d", "--delta", "1e-7").code == 0
    before = files(joined / "fed")
    said = run("federation", "admit", "fed", "c/site.json", "d/site.json")
    assert said.code == 2
    assert "d/site.json" in said.line
    assert files(joined / "fed") == before
    assert run("federation", "admit", "fed", "c/site.json", "nowhere.json").code == 2
    assert files(joined / "fed") == before
    twice = run("federation", "admit", "fed", "a/site.json", "c/site.json", "c/site.json")
    assert twice.code == 0
    assert twice.out.count("there already:") == 2
    assert list(House.open(joined / "fed").roster.members) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--delta", "0"], "delta"),
        (["--delta", "nan"], "delta"),
        (["--dataset", "a b"], "dataset"),
        (["--name", "../x"], "name"),
        (["--host", "0.0.0.0"], "--host"),
        (["--host", "a b"], "--host"),
        (["--port", "0"], "port"),
        (["--port", "65536"], "port"),
        (["--unit", "account"], "account column"),
        (["--schema", "nowhere.yaml"], "nowhere.yaml"),
        (["--port", "many"], "--port"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path, federation: Make, more: list[str], words: str
) -> None:
    before = files(tmp_path)
    said = federation(*more)
    assert said.code == 2
    assert words in said.err
    assert files(tmp_path) == before
    assert not [path.name for path in tmp_path.iterdir() if "fed" in path.name]


def test_a_federation_is_never_made_anew(joined: Path, federation: Make) -> None:
    before = files(joined / "fed")
    said = federation()
    assert said.code == 2
    assert "fed: exists already" in said.line
    assert files(joined / "fed") == before


def test_verbs_name_what_is_no_folder_or_letter(run: Run, joined: Path) -> None:
    for command, words in (
        (("federation", "admit", "a", "b/site.json"), "not a federation"),
        (("federation", "admit", "fed", "fed/federation.json"), "not a dp-risk site letter"),
        (("federation", "admit", "fed", "nowhere.json"), "nowhere.json"),
        (("federation", "admit", "fed", "fed"), "fed: Is a directory"),
        (("federation", "revoke", "nowhere", "a"), "nowhere"),
        (("site", "join", "fed", "fed/federation.json"), "policy"),
        (("site", "join", "a", "a/site.json"), "not a dp-risk federation letter"),
        (("site", "join", "a", "nowhere.json"), "nowhere.json"),
    ):
        said = run(*command)
        assert said.code == 2, command
        assert words in said.line


def test_a_full_disk_is_one_line_and_the_old_roster_stays(
    run: Run, joined: Path, site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site("c").code == 0
    before = files(joined / "fed")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = run("federation", "admit", "fed", "c/site.json")
    assert said.code == 1
    assert "No space left" in said.line
    assert files(joined / "fed") == before


def test_insecure_is_said_loudly_on_both_sides(
    run: Run, tmp_path: Path, site: Make, federation: Make
) -> None:
    said = federation("--insecure")
    assert "INSECURE" in said.out
    assert "http://localhost:8000" in said.out
    assert not list((tmp_path / "fed").rglob("*.crt"))
    assert site("a").code == 0
    (tmp_path / "a" / "authority.crt").write_text("of an earlier federation")
    assert run("federation", "admit", "fed", "a/site.json").code == 0
    joined = run("site", "join", "a", "fed/federation.json")
    assert "INSECURE" in joined.out
    assert not (tmp_path / "a" / "authority.crt").exists()
    assert Membership.load(tmp_path / "a").authority is None


def test_an_owner_chooses_who_may_add_the_noise(run: Run, tmp_path: Path, site: Make) -> None:
    assert site("a").code == 0
    assert Policy.load(tmp_path / "a" / "policy.yaml").trusts == ("local",)
    said = site("b", "--trust", "local", "--trust", "distributed", "--trust", "local")
    assert said.code == 0
    assert "local and distributed" in said.out
    assert Policy.load(tmp_path / "b" / "policy.yaml").trusts == ("local", "distributed")
    assert site("c", "--trust", "none").code == 2


def test_a_name_that_no_letter_can_hold_makes_no_site(tmp_path: Path, site: Make) -> None:
    said = site("c", "--name", "a b")
    assert said.code == 2
    assert "name of the site" in said.line
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".c", "c"))]


def test_the_letter_reads_the_files_that_a_site_has() -> None:
    assert (letters.POLICY, letters.SITE) == (POLICY_FILE, SITE)


def test_a_killed_init_leaves_no_federation_and_the_next_one_cleans_up(
    tmp_path: Path, tiny_file: Path, federation: Make
) -> None:
    schema = tiny_file.with_suffix(".schema.yaml")
    command = ("federation", "init", "fed", "--schema", schema, "--dataset", "tiny",
               "--delta", "1e-5")  # fmt: skip
    for moves in (0, 9):
        assert killed(tmp_path, moves, *command)
        assert not (tmp_path / "fed").exists()
    assert federation().code == 0
    assert [p.name for p in tmp_path.iterdir() if "fed" in p.name] == ["fed"]


def test_a_killed_admission_is_finished_by_the_next(run: Run, joined: Path, site: Make) -> None:
    assert site("c").code == 0
    moves = 0
    while killed(joined, moves, "federation", "admit", "fed", "c/site.json"):
        # Each file is whole: the old one or the new one.
        House.open(joined / "fed").letter()
        assert "a" in Membership.load(joined / "fed").roster.members
        moves += 1
    assert moves == 2
    roster = House.open(joined / "fed").roster
    assert list(roster.members) == ["a", "b", "c"]
    assert Membership.load(joined / "fed").roster == roster


def test_a_killed_join_is_finished_and_told_by_the_next(run: Run, joined: Path) -> None:
    for moves in (0, 1, 2):
        assert killed(joined, moves, "site", "join", "b", "fed/federation.json")
        Policy.load(joined / "b" / "policy.yaml")
        assert not (joined / "b" / "federation.json").exists()
    assert Policy.load(joined / "b" / "policy.yaml").roster
    assert "added to the roster: a" in run("site", "join", "b", "fed/federation.json").out
    assert Membership.load(joined / "b").roster.keys == Policy.load(joined / "b/policy.yaml").roster


def test_every_operator_has_a_key_of_its_own(run: Run, joined: Path) -> None:
    assert run("federation", "operator", "fed", "ada", "--out", "ada").code == 0
    house, ada = House.open(joined / "fed"), Operator.load(joined / "ada")
    first = Operator.load(joined / "fed" / "operator")
    assert dict(house.operators) == {
        "operator": keys.public_hex(first.key),
        "ada": keys.public_hex(ada.key),
    }
    assert keys.public_hex(first.key) != keys.public_hex(ada.key)
    assert (ada.name, ada.address, ada.agreed) == ("ada", first.address, first.agreed)
    assert ada.authority == first.authority
    assert stat.S_IMODE((joined / "ada" / "operator.key").stat().st_mode) == 0o600
    before = files(joined / "fed")
    for name, out, words in (
        ("ada", "two", "ada: an operator already"),
        ("bob", "ada", "ada: exists already"),
        ("a b", "two", "not a name"),
    ):
        said = run("federation", "operator", "fed", name, "--out", out)
        assert said.code == 2
        assert words in said.line
    assert files(joined / "fed") == before
    assert not (joined / "two").exists()
