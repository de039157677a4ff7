"""Every procedure of docs/operations.md, run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clients.policy import Policy
from clients.site import Site
from dp_risk.federation.house import House
from dp_risk.federation.membership import Membership
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.plan import Purpose
from dp_risk.types import ConfigurationError, Refused, VerificationError
from server.heads import Heads

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
_LINE = Purpose(name="training", split="train", event=Event(noise_multiplier=30.0), rounds=2)


def blocks(title: str) -> list[str]:
    """Return the commands under a heading of the page, up to the next one."""
    [part] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.S | re.M)
    return re.findall(r"^```sh\n(.*?)^```", part, re.S | re.M)


@pytest.fixture
def here(run: Run, tmp_path: Path, tiny_file: Path) -> Path:
    """A federation of two sites that joined it, each with a ledger."""
    shutil.copy(tiny_file, tmp_path / "mine.csv")
    shutil.copy(tiny_file.with_suffix(".schema.yaml"), tmp_path / "mine.schema.yaml")
    about = ("--schema", "mine.schema.yaml", "--dataset", "mine", "--delta", "1e-5")
    for name in ("mysite", "partner"):
        assert run("site", "init", name, "--data", "mine.csv", *about, "--stable-ids").code == 0
    assert run("federation", "init", "fed", *about).code == 0
    assert run("federation", "admit", "fed", "mysite/site.json", "partner/site.json").code == 0
    for name in ("mysite", "partner"):
        assert run("site", "join", name, "fed/federation.json").code == 0
        charge(tmp_path / name, "first")
    return tmp_path


def charge(site: Path, run: str, *, close: bool = True) -> None:
    ledger = Site.open(site).ledger
    ledger.reserve(run=run, plan_digest="p" * 64, schedule=(_LINE,))
    ledger.pay(run=run, plan_digest="p" * 64, purpose="training", round=0, request="r")
    if close:
        ledger.close(run)
    ledger.close_file()


def paste(folder: Path, title: str, number: int = 0) -> str:
    """Run a block in a shell that stops at the first error; return what it said."""
    commands = blocks(title)[number]
    shim = folder / "bin" / "dp-risk"
    if not shim.exists():
        shim.parent.mkdir()
        start = "import sys; from dp_risk.cli.main import main; main()"
        shim.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{start}" "$@"\n')
        shim.chmod(0o755)
    paths = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def statement(site: Path, entry: int | None = None) -> dict[str, object]:
    opened = Site.open(site)
    said = opened.statement(None, entry)
    opened.ledger.close_file()
    return said


def asked(heads: Heads, site: Path) -> None:
    """Compare a site's ledger with what is remembered, as the server does, and remember it."""
    before = heads.known(statement(site))
    said = statement(site, None if before is None else before.entries - 1)
    heads.check(said)
    heads.remember(said)


def in_step(here: Path, *sites: str) -> None:
    """Whether roster, policies and letters name the keys that the sites have now."""
    house = House.open(here / "fed")
    keys = {
        Policy.load(here / name / "policy.yaml").site: statement(here / name)["key"]
        for name in sites
    }
    assert house.roster.keys == keys
    for name in sites:
        assert Policy.load(here / name / "policy.yaml").roster == keys
        assert Membership.load(here / name).roster.keys == keys


def test_a_site_is_backed_up_and_restored(here: Path) -> None:
    heads = Heads(None)
    said = paste(here, "A site")
    asked(heads, here / "mysite")
    assert statement(here / "mysite")["ledger_head"] in said
    out = paste(here, "Restore a site")
    assert "4 entries hold" in out or "entries hold" in out
    asked(heads, here / "restored")
    assert statement(here / "restored") == statement(here / "mysite")


def test_an_older_ledger_is_noticed_and_there_is_a_way_back(here: Path) -> None:
    heads, mysite = Heads(None), here / "mysite"
    shutil.copytree(mysite, here / "older")
    charge(mysite, "second")
    asked(heads, mysite)
    shutil.rmtree(mysite)
    (here / "older").rename(mysite)
    with pytest.raises(VerificationError, match="an older copy was restored"):
        asked(heads, mysite)
    title = "An older ledger was restored"
    paste(here, title)
    with pytest.raises(Refused, match="retired"):
        charge(mysite, "third")
    paste(here, title, 1)
    in_step(here, "mysite-2", "partner")
    asked(heads, here / "mysite-2")
    # The old one is still remembered, and nobody changed sides.
    with pytest.raises(VerificationError, match="older copy"):
        asked(heads, mysite)
    assert (here / "mysite-2" / "split.key").read_text() == (mysite / "split.key").read_text()
    charge(here / "mysite-2", "third")


@pytest.mark.parametrize(
    ("title", "number"), [("Rotate a site's key", 0), ("Rotate a site's key", 1), ("The key leaked", 0)]
)  # fmt: skip
def test_a_key_is_rotated(here: Path, title: str, number: int) -> None:
    heads, mysite = Heads(None), here / "mysite"
    asked(heads, mysite)
    shutil.copytree(mysite, here / "older")
    charge(mysite, "second", close=title != "The key leaked")
    files = ("site.key", "node.key")
    before = [(mysite / name).read_text() for name in files]
    said = paste(here, title, number)
    after = [(mysite / name).read_text() for name in files]
    assert [a != b for a, b in zip(after, before, strict=True)] == [number == 0, number == 1]
    assert ("signed by the key before" in said) == (title != "The key leaked")
    in_step(here, "mysite", "partner")
    asked(heads, mysite)
    assert Membership.load(mysite).roster.members["mysite"].node_key != "" != said
    with pytest.raises(VerificationError, match="older copy"):
        asked(heads, here / "older")
    charge(mysite, "third")


def test_a_node_is_not_cut_off_from_a_run(here: Path, run: Run) -> None:
    charge(here / "mysite", "second", close=False)
    before = (here / "mysite" / "node.key").read_bytes()
    said = run("site", "rotate-key", "mysite", "--node")
    assert (said.code, "run second is open" in said.line) == (3, True)
    assert "--close-open-run" in said.line
    assert (here / "mysite" / "node.key").read_bytes() == before
    assert run("site", "rotate-key", "mysite", "--node", "--close-open-run").code == 0
    assert (here / "mysite" / "node.key").read_bytes() != before
    assert statement(here / "mysite")["open_run"] is None
    assert run("site", "rotate-key", "mysite").line.endswith("they stand in the ledger")


def test_a_roster_takes_no_new_key_without_the_old_one(here: Path, run: Run) -> None:
    about = ("--schema", "mine.schema.yaml", "--dataset", "mine", "--delta", "1e-5")
    another = run("site", "init", "another", "--name", "mysite", "--data", "mine.csv", *about)
    assert another.code == 0
    before = (here / "fed" / "roster.yaml").read_bytes()
    said = run("federation", "admit", "fed", "another/site.json")
    assert (said.code, "did not sign for this one" in said.line) == (2, True)
    assert (here / "fed" / "roster.yaml").read_bytes() == before


def test_a_ledger_whose_key_is_lost_can_be_read_and_not_written(here: Path, run: Run) -> None:
    (here / "mysite" / "site.key").unlink()
    said = paste(here, "The key is lost")
    assert "entries hold" in said
    for command in (
        ("ledger", "retire", "mysite", "--by", "A", "--reason", "b"),
        ("site", "rotate-key", "mysite", "--by", "A", "--reason", "b"),
        ("site", "letter", "mysite"),
    ):
        refusal = run(*command)
        assert (refusal.code, "the site's key is gone" in refusal.line) == (3, True)
    assert not (here / "mysite" / "site.key").exists()


def test_a_ledger_is_ended_without_its_split_key(here: Path) -> None:
    key = here / "mysite" / "split.key"
    kept = key.read_text()
    key.write_text("ab" * 32)
    with pytest.raises(Refused, match="split key changed"):
        Site.open(here / "mysite")
    key.unlink()
    with pytest.raises(ConfigurationError, match="not a site"):
        Site.open(here / "mysite")
    paste(here, "The split key is lost")
    assert Ledger.open(here / "mysite" / "ledger.sqlite").state.retired
    key.write_text(kept)
    assert statement(here / "mysite")["retired"]


def test_the_server_is_renewed(here: Path) -> None:
    names = ("server.crt", "server.key", "authority.crt")

    def content() -> list[bytes]:
        return [(here / "fed" / name).read_bytes() for name in names]

    first = content()
    assert "nothing to do" in paste(here, "The server")
    assert content() == first
    paste(here, "The server", 1)
    assert [a != b for a, b in zip(content(), first, strict=True)] == [True, True, False]
    assert (here / "fed" / "server.key").stat().st_mode & 0o077 == 0
    paste(here, "The server", 2)
    assert list(House.open(here / "fed").operators) == ["ada"]


def test_a_federation_comes_back_from_its_copy(here: Path) -> None:
    before = House.open(here / "fed").roster
    paste(here, "The federation")
    paste(here, "The federation's folder is lost")
    assert House.open(here / "fed").roster == before


def test_a_federation_without_a_copy_is_a_new_one(here: Path) -> None:
    key = House.open(here / "fed").public_key
    paste(here, "The federation's folder is lost", 1)
    assert House.open(here / "fed").public_key != key
    in_step(here, "mysite", "partner")


def test_every_block_of_the_page_is_run() -> None:
    source = Path(__file__).read_text()
    titles = re.findall(r"^#+ (.*)$", PAGE, re.M)
    with_blocks = [title for title in titles if blocks(title)]
    assert all(f'"{title}"' in source for title in with_blocks)
    assert sum(len(blocks(title)) for title in with_blocks) == PAGE.count("```sh") == 16
