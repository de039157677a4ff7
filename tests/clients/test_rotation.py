"""A site's key is rotated; whatever happens in the middle, the site opens again."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from clients import signing
from clients.rotation import rotate
from clients.site import Site
from dp_risk.privacy import keys
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, Refused
from tests.clients import mortal
from tests.federation import KEY, Server, history, plan
from tests.forkserver import fresh

WHO = {"by": "A. Person", "reason": "once a year"}


def turn(folder: Path, **options: bool) -> None:
    """Rotate a site's key."""
    site = Site.open(folder)
    try:
        rotate(site, **WHO, **options)
    finally:
        site.ledger.close_file()


def rotated(folder: Path, **options: bool) -> Site:
    """Rotate a site's key; return the site, opened anew."""
    turn(folder, **options)
    return Site.open(folder)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("site.*"))


def test_a_rotated_site_answers_with_its_new_key(site: Path) -> None:
    before, names = Site.open(site).statement(None), files(site)
    said = rotated(site).statement(None)
    assert said["key"] != before["key"] == KEY
    assert [entry["kind"] for entry in said["rekeys"]] == ["rekey"]
    assert keys.public_hex(keys.load(site / signing.KEY)) == said["key"]
    assert (site / signing.PUBLIC_KEY).read_text() == f"site-00: {said['key']}\n"
    assert (site / signing.KEY).stat().st_mode & 0o077 == 0
    assert files(site) == names
    server = Server(site)
    asked = plan(participants={"site-00": said["key"]})
    server.enrol(asked)
    server.train(asked)
    last = Ledger.open(site / signing.LEDGER).verify()
    assert (last.key, last.earlier) == (said["key"], (KEY,))


def test_a_rotation_is_refused_while_a_run_is_open(site: Path) -> None:
    server = Server(site)
    server.enrol(plan())
    server.train(plan())
    before, names = history(site), files(site)
    with pytest.raises(Refused, match=r"run-1 is open .* --close-open-run"):
        rotated(site)
    assert (history(site), files(site)) == (before, names)
    said = rotated(site, close_open_run=True).statement("run-1")
    assert said["open_run"] is None
    assert said["run"]["rounds"]["training"] == 1


def test_a_refused_rotation_leaves_no_key(site: Path) -> None:
    names = files(site)
    with pytest.raises(ConfigurationError, match="reason"):
        rotate(Site.open(site), by="A. Person", reason="")
    assert files(site) == names
    assert Site.open(site).ledger.public_key == KEY


def test_a_lost_key_is_not_made_anew(site: Path) -> None:
    Site.open(site)
    (site / signing.KEY).unlink()
    with pytest.raises(Refused, match=r"site.key: the site's key is gone .*restore it") as refusal:
        Site.open(site)
    assert "\n" not in str(refusal.value)
    assert not (site / signing.KEY).exists()
    assert Ledger.open(site / signing.LEDGER).verify().key == KEY


def test_the_key_from_before_a_rotation_opens_nothing(site: Path) -> None:
    old = (site / signing.KEY).read_text()
    rotated(site)
    (site / signing.KEY).write_text(old)
    with pytest.raises(Refused, match=r"another site key: .*restore site.key"):
        Site.open(site)


def test_of_many_rotations_at_once_every_one_ends_whole(site: Path) -> None:
    Site.open(site)
    failed: list[Exception] = []

    def often() -> None:
        for _ in range(5):
            # Not opened anew: that may meet the next rotation half-way.
            try:
                turn(site)
            except (Refused, ConfigurationError) as error:
                failed.append(error)

    threads = [threading.Thread(target=often) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Site.open(site).ledger
    verified = found.verify()
    assert len(verified.earlier) == len(found.rekeys()) >= 1
    assert len(failed) <= 15 - len(verified.earlier)
    expected = ("rotated meanwhile", "another site key")
    assert [e for e in failed if not any(words in str(e) for words in expected)] == []


def test_a_site_killed_while_it_rotates_opens_and_rotates_again(site: Path) -> None:
    context = fresh("tests.clients.mortal")
    Site.open(site).ledger.close_file()
    ends, step = set(), 0
    while True:
        was = Ledger.open(site / signing.LEDGER).public_key
        child = context.Process(target=mortal.rotate_and_die, args=(site, step))
        child.start()
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        opened = Site.open(site)
        now = opened.ledger.public_key
        ends.add(now != was)
        assert keys.public_hex(keys.load(site / signing.KEY)) == now
        assert (site / signing.PUBLIC_KEY).read_text() == f"site-00: {now}\n"
        opened.ledger.verify()
        opened.ledger.close_file()
        step += 1
    # Kills fell before the entry and after it.
    assert ends == {False, True}
    assert step > 15
    assert rotated(site).ledger.verify().earlier[0] == KEY
