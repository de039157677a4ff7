"""A backup that is taken while the site charges is whole, and a site is restored from it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from clients import signing
from clients.backup import backup
from clients.rotation import rotate
from clients.site import Site
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, Refused, VerificationError
from tests.clients import mortal
from tests.federation import Server, kinds, make_site, plan, policy, refused, rows
from tests.forkserver import fresh


def restored(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site whose rows lie elsewhere, after one closed run."""
    made = make_site(tmp_path / "site", rows(40), policy())
    about = made / "site.yaml"
    about.write_text(about.read_text().replace("rows.parquet", str(made / "rows.parquet")))
    Site.open(made).ledger.close_file()
    return made


def test_a_site_is_restored_from_its_backup(folder: Path, tmp_path: Path) -> None:
    opened = Site.open(folder)
    rotate(opened, by="A. Person", reason="once a year")
    opened.ledger.close_file()
    was = Site.open(folder).statement(None)
    verified = backup(folder, tmp_path / "site.tar")
    assert (tmp_path / "site.tar").stat().st_mode & 0o077 == 0
    assert (verified.entries, verified.key) == (2, was["key"])
    again = restored(tmp_path / "site.tar", tmp_path / "again")
    for secret in ("site.key", "split.key"):
        assert (again / secret).stat().st_mode & 0o077 == 0
    assert Site.open(again).statement(None) == was
    assert Ledger.open(again / signing.LEDGER).verify().sealed


def test_a_restored_site_does_not_go_on_with_a_run(folder: Path, tmp_path: Path) -> None:
    server = Server(folder)
    server.enrol(plan())
    server.train(plan())
    backup(folder, tmp_path / "site.tar")
    again = restored(tmp_path / "site.tar", tmp_path / "again")
    assert not list(again.glob("*.plan.json"))
    assert not (again / "runs").exists()
    assert refused(Server(again).train(plan(), round=1))
    assert kinds(again) == kinds(folder)


def test_backups_during_charges_hold(folder: Path, tmp_path: Path) -> None:
    context = fresh("tests.clients.mortal")
    line, theirs = context.Pipe()
    child = context.Process(target=mortal.charge_until_told, args=(folder, theirs))
    child.start()
    assert line.recv() == "charging"
    found = [backup(folder, tmp_path / f"{n}.tar").entries for n in range(4)]
    line.send("stop")
    charged = line.recv()
    child.join(30)
    assert child.exitcode == 0
    assert found == sorted(found)
    # They were taken in the middle of it.
    assert found[0] < found[-1] < charged
    for number, entries in enumerate(found):
        again = restored(tmp_path / f"{number}.tar", tmp_path / f"again-{number}")
        assert Site.open(again).ledger.verify().entries == entries


def test_what_is_no_whole_site_is_not_backed_up(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "site.tar"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="exists already"):
        backup(folder, out)
    assert out.read_bytes() == b"mine"
    with pytest.raises(ConfigurationError, match="no such folder"):
        backup(folder, tmp_path / "nowhere" / "site.tar")
    with pytest.raises(ConfigurationError, match="no ledger here"):
        backup(tmp_path, tmp_path / "b.tar")
    (folder / "split.key").rename(tmp_path / "split.key")
    with pytest.raises(ConfigurationError, match=r"split\.key: No such file"):
        backup(folder, tmp_path / "b.tar")
    (tmp_path / "split.key").rename(folder / "split.key")
    (folder / "site.key").write_text("07" * 32)
    with pytest.raises(ConfigurationError, match="not the one that its ledger names"):
        backup(folder, tmp_path / "b.tar")
    (folder / "site.key").unlink()
    with pytest.raises(Refused, match="the site's key is gone"):
        backup(folder, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
    assert not list(tmp_path.glob(".backup-*"))


def test_a_ledger_that_does_not_hold_is_not_backed_up(folder: Path, tmp_path: Path) -> None:
    ledger = Ledger.open(folder / signing.LEDGER)
    last = ledger.last
    ledger.close_file()
    path = folder / signing.LEDGER
    raw = path.read_bytes()
    assert raw.count(last.time.encode()) == 1
    path.write_bytes(raw.replace(last.time.encode(), b"2001" + last.time.encode()[4:]))
    with pytest.raises((VerificationError, ConfigurationError), match="does not hold"):
        backup(folder, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()
