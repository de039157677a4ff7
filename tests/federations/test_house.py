from __future__ import annotations

import datetime
import stat
import threading

import pytest
import yaml

from dp_risk.federation.house import House
from dp_risk.federation.letters import FederationLetter
from dp_risk.federation.operator import Operator
from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError

from .people import AGREED, NOW, house, member

SECRET = {"authority.key", "server.key", "federation.key", "operator/operator.key"}


def test_a_new_federation_says_the_same_everywhere(tmp_path):
    made = house(tmp_path / "fed")
    opened = House.open(tmp_path / "fed")
    assert opened == made
    assert (opened.address, opened.url) == ("localhost:8000", "https://localhost:8000")
    assert opened.listen == "127.0.0.1"
    letter = FederationLetter.read((opened.folder / "federation.json").read_bytes(), "letter")
    assert letter == opened.letter()
    assert (letter.key, letter.agreed) == (opened.public_key, AGREED)
    assert letter.authority == opened.authority.read_text()
    operator = Operator.load(opened.folder / "operator")
    assert (operator.address, operator.federation) == (opened.address, opened.public_key)
    assert operator.agreed == AGREED
    assert operator.authority == opened.authority.read_bytes()
    assert opened.operators == {"operator": keys.public_hex(operator.key)}
    assert operator.schema.read_bytes() == opened.schema.read_bytes()
    assert yaml.safe_load((opened.folder / "federation.pub").read_text()) == {
        "fed": opened.public_key
    }


def test_secrets_are_for_their_owner_alone_and_nothing_else_holds_one(tmp_path):
    made = house(tmp_path / "fed")
    for path in made.folder.rglob("*"):
        if path.is_file():
            name = str(path.relative_to(made.folder))
            secret = name in SECRET
            assert (stat.S_IMODE(path.stat().st_mode) == 0o600) is secret, name
            assert secret or b"PRIVATE" not in path.read_bytes(), name
            assert secret or made.key.private_bytes_raw().hex() not in path.read_text(), name


def test_an_insecure_federation_has_no_certificates_and_says_so(tmp_path):
    made = house(tmp_path / "fed", insecure=True)
    assert made.url == "http://localhost:8000"
    assert not list(made.folder.glob("*.crt"))
    assert made.letter().authority is None
    assert Operator.load(made.folder / "operator").authority is None
    assert not made.renew(NOW + datetime.timedelta(days=9999))


def test_a_server_that_others_reach_listens_everywhere(tmp_path):
    made = house(tmp_path / "fed", hosts=("fl.example.org", "localhost"))
    assert (made.listen, made.address) == ("0.0.0.0", "fl.example.org:8000")


def test_the_roster_is_written_with_its_letter(tmp_path):
    made = house(tmp_path / "fed")
    made.publish(made.roster.add(member("a")))
    letter = FederationLetter.read((made.folder / "federation.json").read_bytes(), "letter")
    assert letter.roster == made.roster == House.open(made.folder).roster
    assert list(letter.roster.members) == ["a"]


def test_the_server_gets_another_certificate_in_time_and_keeps_its_key(tmp_path):
    made = house(tmp_path / "fed")
    before = made.certificate.read_bytes(), made.certificate_key.read_bytes()
    assert not made.renew(NOW + datetime.timedelta(days=300))
    assert made.renew(NOW + datetime.timedelta(days=700))
    assert made.certificate.read_bytes() != before[0]
    assert made.certificate_key.read_bytes() == before[1]
    assert not made.renew(NOW + datetime.timedelta(days=701))


def test_a_certificate_follows_the_hosts(tmp_path):
    made = house(tmp_path / "fed")
    text = (made.folder / "federation.yaml").read_text()
    (made.folder / "federation.yaml").write_text(text.replace("- localhost", "- fl.example.org"))
    moved = House.open(made.folder)
    assert moved.renew(NOW)
    assert not moved.renew(NOW)
    assert moved.letter().address == "fl.example.org:8000"


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        ("port: 8000", "port: 0", "port"),
        ("port: 8000", "port: true", "port"),
        ("port: 8000", "prot: 8000", "unknown field 'prot'"),
        ("- localhost", "- 0.0.0.0", "hosts"),
        ("- localhost", "- LOCALHOST", "write localhost"),
        ("- localhost", "- 3", "hosts"),
        ("hosts:\n- localhost", "hosts: []", "at least one"),
        ("hosts:\n- localhost", "hosts: localhost", "not a list"),
        ("name: fed", "name: ../x", "not a name"),
        ("listen: 127.0.0.1", "listen: a b", "listen"),
        ("insecure: false", "insecure: maybe", "insecure"),
        ("unit: record", "unit: [record]", "unit"),
        ("delta: 1.0e-05", "delta: 2", "delta"),
        ("name: fed", "name: {", "YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, was, now, words):
    path = house(tmp_path / "fed").folder / "federation.yaml"
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, now))
    with pytest.raises(ConfigurationError, match=words) as error:
        House.open(tmp_path / "fed")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_federation_or_operator_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no federation\.yaml"):
        House.open(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no operator\.yaml"):
        Operator.load(tmp_path)


@pytest.mark.parametrize("text", ["operator: 12", "'': 00", "operator: " + "AB" * 32, "- a"])
def test_operators_have_keys(tmp_path, text):
    made = house(tmp_path / "fed")
    (made.folder / "operators.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"operators\.yaml"):
        _ = made.operators


def test_nobody_is_an_operator_of_an_empty_file(tmp_path):
    made = house(tmp_path / "fed")
    (made.folder / "operators.yaml").write_text("# nobody\n")
    assert made.operators == {}


def test_two_that_change_the_roster_wait_for_each_other(tmp_path):
    made = house(tmp_path / "fed")

    def admit(site):
        with made.locked():
            made.publish(made.roster.add(member(site)))

    threads = [threading.Thread(target=admit, args=(f"s{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made.roster.members) == made.roster.number == 8
