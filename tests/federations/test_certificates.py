from __future__ import annotations

import datetime
import hashlib
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.supercore.primitives import asymmetric
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.federation import certificates, node_keys
from dp_risk.federation.certificates import Authority
from dp_risk.types import ConfigurationError

from .people import NOW, node_key

TODAY = datetime.datetime.now(datetime.UTC)
AUTHORITY = Authority.create("fed", TODAY)
PEM = certificates.pem(AUTHORITY.certificate)
KEY = certificates.new_key()


def handshake(folder, trusted, issued, host, key=KEY):
    """Shake hands in memory, as strictly as OpenSSL can; raise what the client raises."""
    (folder / "crt").write_bytes(issued)
    (folder / "key").write_bytes(certificates.private_pem(key))
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mine.load_cert_chain(folder / "crt", folder / "key")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT
    theirs.load_verify_locations(cadata=trusted.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = theirs.wrap_bio(down, up, server_hostname=host)
    server = mine.wrap_bio(up, down, server_side=True)
    for _ in range(5):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version()


@pytest.mark.parametrize("host", ["fl.example.org", "10.1.2.3"])
def test_a_site_that_trusts_the_authority_accepts_the_server(tmp_path, host):
    issued = AUTHORITY.issue(KEY, ["fl.example.org", "10.1.2.3"], TODAY)
    assert handshake(tmp_path, PEM, issued, host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_this_machine_has_three_names(tmp_path, host):
    for named in ("localhost", "127.0.0.1", "::1"):
        assert handshake(tmp_path, PEM, AUTHORITY.issue(KEY, [named], TODAY), host)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, PEM, AUTHORITY.issue(KEY, ["fl.example.org"], TODAY), host)


def test_nothing_else_is_accepted(tmp_path):
    other = Authority.create("fed", TODAY)
    issued = AUTHORITY.issue(KEY, ["localhost"], TODAY)
    old = AUTHORITY.issue(KEY, ["localhost"], TODAY - datetime.timedelta(days=900))
    for trusted, shown, host in (
        (certificates.pem(other.certificate), issued, "localhost"),
        (PEM, issued, "fl.example.org"),
        (PEM, old, "localhost"),
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(tmp_path, trusted, shown, host)


def test_a_server_issues_no_certificates(tmp_path):
    issued = x509.load_pem_x509_certificate(AUTHORITY.issue(KEY, ["localhost"], TODAY))
    pretender = Authority(certificate=issued, key=KEY)
    below = certificates.new_key()
    chain = pretender.issue(below, ["localhost"], TODAY) + certificates.pem(issued)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, PEM, chain, "localhost", key=below)


def test_a_later_certificate_of_the_same_authority_is_accepted_and_ends_with_it(tmp_path):
    secret = certificates.private_pem(AUTHORITY.key)
    again = Authority.load(PEM, secret)
    assert handshake(tmp_path, PEM, again.issue(KEY, ["localhost"], TODAY), "localhost")
    late = again.issue(KEY, ["localhost"], TODAY + datetime.timedelta(days=3600))
    found = x509.load_pem_x509_certificate(late)
    assert found.not_valid_after_utc == AUTHORITY.certificate.not_valid_after_utc


def test_renewal_is_due_near_the_end_and_for_other_hosts():
    issued = AUTHORITY.issue(KEY, ["localhost", "a.org"], NOW)
    later = NOW + datetime.timedelta(days=1)
    assert not certificates.renewal_due(issued, ["localhost", "a.org"], later)
    assert certificates.renewal_due(issued, ["localhost"], later)
    hosts = ["localhost", "a.org"]
    assert not certificates.renewal_due(issued, hosts, NOW + datetime.timedelta(days=669))
    assert certificates.renewal_due(issued, hosts, NOW + datetime.timedelta(days=671))
    for wrong in (b"", PEM):
        with pytest.raises(ConfigurationError):
            certificates.renewal_due(wrong, hosts, NOW)


def test_what_is_no_authority_is_refused():
    server = AUTHORITY.issue(KEY, ["localhost"], TODAY)
    other = certificates.pem(Authority.create("x", TODAY).certificate)
    for wrong in (b"", server, PEM + other, PEM + b"x", PEM.replace(b"\n", b"\r\n"), PEM[:-40]):
        with pytest.raises(ConfigurationError, match="authority"):
            certificates.authority(wrong)
    with pytest.raises(ConfigurationError, match="not that of its certificate"):
        Authority.load(PEM, certificates.private_pem(KEY))
    with pytest.raises(ConfigurationError, match="private key"):
        Authority.load(PEM, PEM)


def test_an_authority_that_another_one_signed_is_refused():
    other = Authority.create("fed", TODAY)
    cross = (
        x509.CertificateBuilder()
        .subject_name(AUTHORITY.certificate.subject)
        .issuer_name(AUTHORITY.certificate.subject)
        .public_key(AUTHORITY.key.public_key())
        .serial_number(1)
        .not_valid_before(TODAY)
        .not_valid_after(TODAY + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(other.key, hashes.SHA256())
    )
    with pytest.raises(ConfigurationError):
        certificates.authority(certificates.pem(cross))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.integers(0, len(PEM) - 1).map(lambda at: PEM[:at]))
def test_garbage_is_no_certificate(garbage):
    with pytest.raises(ConfigurationError):
        certificates.authority(garbage)


def test_the_fingerprint_is_the_start_of_what_openssl_shows():
    said = hashlib.sha256(AUTHORITY.certificate.public_bytes(serialization.Encoding.DER))
    shown = certificates.certificate_fingerprint(PEM)
    assert shown.replace(" ", "") == said.hexdigest()[:32]
    assert len(shown.split()) == 8


def test_a_node_key_is_spelt_as_flower_spells_it(tmp_path):
    path = tmp_path / "node.key"
    key = node_keys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = asymmetric.bytes_to_private_key(path.read_bytes())
    public = node_keys.public_text(key)
    assert asymmetric.public_key_to_bytes(again.public_key()) == public.encode()
    assert asymmetric.uses_nist_ec_curve(asymmetric.bytes_to_public_key(public.encode()))
    assert node_keys.checked(public, "x") == public
    assert node_keys.public_text(node_keys.load_or_create(path)) == public
    theirs, _ = asymmetric.generate_key_pairs()
    path.write_bytes(asymmetric.private_key_to_bytes(theirs))
    said = asymmetric.public_key_to_bytes(theirs.public_key())
    assert node_keys.public_text(node_keys.load(path)).encode() == said


def test_other_keys_are_no_node_keys(tmp_path):
    others = [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ]
    for other in others:
        public = other.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(ConfigurationError, match="where: not a public key of a node"):
            node_keys.checked(public.decode(), "where")
        secret = other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (tmp_path / "node.key").write_bytes(secret)
        with pytest.raises(ConfigurationError, match=r"node\.key") as error:
            node_keys.load(tmp_path / "node.key")
        assert secret.decode()[40:60] not in str(error.value)


@pytest.mark.parametrize(
    "change", [str.lower, lambda t: t + "x", lambda t: "x" + t, lambda t: t * 2]
)
def test_a_node_key_has_one_spelling(change):
    with pytest.raises(ConfigurationError):
        node_keys.checked(change(node_key("a")), "x")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300) | st.none() | st.integers() | st.binary())
def test_garbage_is_no_node_key(value):
    with pytest.raises(ConfigurationError, match="x: not a public key"):
        node_keys.checked(value, "x")
