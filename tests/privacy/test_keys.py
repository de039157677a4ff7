from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.privacy import keys
from dp_risk.types import ConfigurationError
from tests.privacy.children import KEY

PUBLIC = keys.public_hex(KEY)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "deep" / "site.key"
    first = keys.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.public_hex(keys.load_or_create(path)) == keys.public_hex(first)
    assert keys.public_hex(keys.load(path)) == keys.public_hex(first)
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]
    assert keys.public_hex(keys.load_or_create(tmp_path / "other")) != keys.public_hex(first)


def test_all_who_make_it_at_once_get_the_same(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(keys.load_or_create, [tmp_path / "site.key"] * 16))
    assert len({keys.public_hex(key) for key in made}) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]


@pytest.mark.parametrize("text", ["", "secretsecret", "00" * 31, "00" * 33, "é" * 64])
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path, text):
    path = tmp_path / "site.key"
    path.write_text(text)
    for read in (keys.load, keys.load_or_create):
        with pytest.raises(ConfigurationError) as error:
            read(path)
        assert not text or text not in str(error.value)
    assert path.read_text() == text
    with pytest.raises(ConfigurationError, match="absent"):
        keys.load(tmp_path / "absent")


@given(st.binary(max_size=99), st.sampled_from(["a", "ab", "", "dp-risk ledger"]))
def test_a_signature_holds_for_its_context_message_and_key_alone(message, context):
    signature = keys.sign(KEY, context, message)
    assert keys.verify(PUBLIC, context, message, signature)
    assert not keys.verify(PUBLIC, context + "x", message, signature)
    assert not keys.verify(PUBLIC, None, message, signature)
    assert not keys.verify(PUBLIC, context, message + b"x", signature)
    assert not keys.verify("00" * 32, context, message, signature)
    flipped = f"{int(signature[0], 16) ^ 1:x}{signature[1:]}"
    for other in ("", "zz", signature.upper(), signature[:-2], signature + "00", flipped):
        assert other == signature or not keys.verify(PUBLIC, context, message, other)


def test_a_context_cannot_reach_into_the_message():
    with pytest.raises(ValueError, match="zero byte"):
        keys.sign(KEY, "a\0", b"b")


def test_a_keyed_digest_differs_by_key_context_and_message(tmp_path):
    other = keys.load_or_create(tmp_path / "site.key")
    said = [
        keys.keyed_digest(KEY, "a", b"b"),
        keys.keyed_digest(KEY, "a", b"c"),
        keys.keyed_digest(KEY, "b", b"b"),
        keys.keyed_digest(other, "a", b"b"),
    ]
    assert len(set(said)) == 4
    assert keys.keyed_digest(KEY, "a", b"b") == said[0]
    assert all(len(bytes.fromhex(one)) == 32 for one in said)
