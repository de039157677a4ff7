"""Every procedure of docs/operations.md, run as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from clients.policy import Policy
from clients.site import Site
from dp_risk.federation.house import House
from dp_risk.federation.membership import Membership
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import ConfigurationError, Refused, VerificationError
from server.heads import Heads

from .conftest import Run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
Paste = Callable[..., str]
_LINE = Purpose(name="training", split="both", event=Event(noise_multiplier=30.0), rounds=2)


def blocks(title: str) -> list[str]:
    """Return the commands under a heading of the page, up to the next one."""
    [part] = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", PAGE, re.S | re.M)
    return re.findall(r"^```sh\n(.*?)^```", part, re.S | re.M)


@pytest.fixture
def here(run: Run, tmp_path: Path, tiny_file: Path) -> Path:
    """A federation of two sites that joined it, each with a ledger."""
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(tiny_file), tmp_path / "mine.csv")
    shutil.copy(tiny_file.with_suffix(".schema.yaml"), tmp_path / "mine.schema.yaml")
    about = ("--schema", "mine.schema.yaml", "--dataset", "mine", "--delta", "1e-5")
    for name in ("mysite", "partner"):
        assert run("site", "init", name, "--data", "mine.csv", *about).code == 0
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


@pytest.fixture
def paste(here: Path, run: Run) -> Paste:
    """Run a block of the page, line by line; return what it said."""

    def pasted(title: str, number: int = 0) -> str:
        said = ""
        for line in blocks(title)[number].splitlines():
            command, *arguments = shlex.split(line)
            if command == "dp-risk":
                done = run(*arguments)
                assert done.code == 0, done.err
                said += done.out
            else:
                subprocess.run([command, *arguments], cwd=here, check=True, timeout=60)
        return said

    return pasted


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


def test_a_site_is_backed_up_and_restored(here: Path, paste: Paste) -> None:
    heads = Heads(None)
    said = paste("A site")
    asked(heads, here / "mysite")
    assert statement(here / "mysite")["ledger_head"] in said
    out = paste("Restore a site")
    assert "4 entries hold" in out
    asked(heads, here / "restored")
    assert statement(here / "restored") == statement(here / "mysite")


def test_an_older_ledger_is_noticed_and_there_is_a_way_back(here: Path, paste: Paste) -> None:
    heads, mysite = Heads(None), here / "mysite"
    shutil.copytree(mysite, here / "older")
    charge(mysite, "second")
    asked(heads, mysite)
    shutil.rmtree(mysite)
    (here / "older").rename(mysite)
    with pytest.raises(VerificationError, match="an older copy was restored"):
        asked(heads, mysite)
    title = "An older ledger was restored"
    paste(title)
    with pytest.raises(Refused, match="retired"):
        charge(mysite, "third")
    paste(title, 1)
    in_step(here, "mysite-2", "partner")
    asked(heads, here / "mysite-2")
    # The old one is still remembered, and nobody changed sides.
    with pytest.raises(VerificationError, match="older copy"):
        asked(heads, mysite)
    assert (here / "mysite-2" / "split.key").read_text() == (mysite / "split.key").read_text()
    charge(here / "mysite-2", "third")


@pytest.mark.parametrize(
    ("title", "number"),
    [("Rotate a site's key", 0), ("Rotate a site's key", 1), ("The key leaked", 0)],
)
def test_a_key_is_rotated(here: Path, paste: Paste, title: str, number: int) -> None:
    heads, mysite = Heads(None), here / "mysite"
    asked(heads, mysite)
    shutil.copytree(mysite, here / "older")
    charge(mysite, "second", close=title != "The key leaked")
    files = ("site.key", "node.key")
    before = [(mysite / name).read_text() for name in files]
    said = paste(title, number)
    after = [(mysite / name).read_text() for name in files]
    assert [a != b for a, b in zip(after, before, strict=True)] == [number == 0, number == 1]
    assert ("signed by the key before" in said) == (title != "The key leaked")
    in_step(here, "mysite", "partner")
    asked(heads, mysite)
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


def test_a_ledger_whose_key_is_lost_can_be_read_and_not_written(
    here: Path, paste: Paste, run: Run
) -> None:
    (here / "mysite" / "site.key").unlink()
    said = paste("The key is lost")
    assert "entries hold" in said
    for command in (
        ("ledger", "retire", "mysite", "--by", "A", "--reason", "b"),
        ("site", "rotate-key", "mysite", "--by", "A", "--reason", "b"),
        ("site", "letter", "mysite"),
    ):
        refusal = run(*command)
        assert (refusal.code, "the site's key is gone" in refusal.line) == (3, True)
    assert not (here / "mysite" / "site.key").exists()


def test_a_ledger_is_ended_without_its_split_key(here: Path, paste: Paste) -> None:
    key = here / "mysite" / "split.key"
    kept = key.read_text()
    key.write_text("ab" * 32)
    with pytest.raises(Refused, match="split key changed"):
        Site.open(here / "mysite")
    key.unlink()
    with pytest.raises(ConfigurationError, match="not a site"):
        Site.open(here / "mysite")
    paste("The split key is lost")
    assert Ledger.open(here / "mysite" / "ledger.sqlite").state.retired
    key.write_text(kept)
    assert statement(here / "mysite")["retired"]


def test_the_server_is_renewed(here: Path, paste: Paste) -> None:
    names = ("server.crt", "server.key", "authority.crt")

    def content() -> list[bytes]:
        return [(here / "fed" / name).read_bytes() for name in names]

    first = content()
    assert "nothing to do" in paste("The server")
    assert content() == first
    paste("The server", 1)
    assert [a != b for a, b in zip(content(), first, strict=True)] == [True, True, False]
    assert (here / "fed" / "server.key").stat().st_mode & 0o077 == 0
    paste("The server", 2)
    assert list(House.open(here / "fed").operators) == ["ada"]


def test_a_federation_comes_back_from_its_copy(here: Path, paste: Paste) -> None:
    before = House.open(here / "fed").roster
    paste("The federation")
    paste("The federation's folder is lost")
    assert House.open(here / "fed").roster == before


def test_a_federation_without_a_copy_is_a_new_one(here: Path, paste: Paste) -> None:
    key = House.open(here / "fed").public_key
    paste("The federation's folder is lost", 1)
    assert House.open(here / "fed").public_key != key
    in_step(here, "mysite", "partner")


def test_every_block_of_the_page_is_run() -> None:
    source = Path(__file__).read_text()
    titles = re.findall(r"^#+ (.*)$", PAGE, re.M)
    with_blocks = [title for title in titles if blocks(title)]
    assert all(f'"{title}"' in source for title in with_blocks)
    assert sum(len(blocks(title)) for title in with_blocks) == PAGE.count("```sh") == 15
