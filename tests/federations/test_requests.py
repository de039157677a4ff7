from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.federation import requests
from dp_risk.federation.requests import WINDOW_SECONDS, Nonces, TooEarly, body_digest
from dp_risk.privacy import keys
from dp_risk.types import VerificationError

from .people import key

NOW = 1_800_000_000.5
HERE = "ab" * 32
OPERATORS = {"op": keys.public_hex(key("op")), "two": keys.public_hex(key("two"))}
ASKED = {"method": "POST", "path": "/dp-risk/v1/runs?a=1", "body": b"{}"}


def signed(name="op", *, now=NOW, federation=HERE, by=None, **changes):
    return requests.sign(
        key(by or name), name, **{**ASKED, **changes}, now=now, federation=federation
    )


def heard(headers, *, now=NOW, seen=None, operators=OPERATORS, federation=HERE, **changes):
    asked = {**ASKED, **changes}
    return requests.verify(
        headers,
        operators,
        asked["method"],
        asked["path"],
        body_digest(asked["body"]),
        now,
        seen or Nonces(0),
        federation=federation,
    )


def test_an_operator_is_known_by_its_signature():
    assert heard(signed()) == "op"
    assert heard(signed("two")) == "two"
    assert heard(signed(body=b""), body=b"") == "op"


@pytest.mark.parametrize(
    "changes",
    [{"method": "GET"}, {"path": "/dp-risk/v1/runs"}, {"body": b"{ }"}, {"federation": "cd" * 32}],
)
def test_a_signature_is_for_one_request_to_one_federation(changes):
    with pytest.raises(VerificationError, match="not signed"):
        heard(signed(), **changes)


def test_strangers_and_those_shut_out_get_the_same_answer():
    for headers, operators in (
        (signed("stranger"), OPERATORS),
        (signed("op", by="stranger"), OPERATORS),
        (signed("op"), {"two": OPERATORS["two"]}),
        (signed("op"), {}),
        ({}, OPERATORS),
        ({**signed("op"), requests.OPERATOR: "two"}, OPERATORS),
    ):
        with pytest.raises(VerificationError) as error:
            heard(headers, operators=operators)
        assert str(error.value) == "the request is not signed by an operator of this federation"


@pytest.mark.parametrize("away", [WINDOW_SECONDS - 1, -WINDOW_SECONDS + 1, 0])
def test_clocks_may_differ_a_little(away):
    assert heard(signed(now=NOW + away)) == "op"


@pytest.mark.parametrize("away", [WINDOW_SECONDS + 1, -WINDOW_SECONDS - 1, 10**6])
def test_clocks_that_differ_more_are_said(away):
    with pytest.raises(VerificationError, match="set the clocks"):
        heard(signed(now=NOW + away))


def test_a_request_is_heard_once():
    seen, headers = Nonces(0), signed()
    assert heard(headers, seen=seen) == "op"
    for later in (0, 10, WINDOW_SECONDS - 1):
        with pytest.raises(VerificationError, match="heard before"):
            heard(headers, seen=seen, now=NOW + later)
    assert heard(signed(), seen=seen) == "op"


@given(
    ahead=st.integers(-WINDOW_SECONDS, WINDOW_SECONDS),
    later=st.integers(0, 3 * WINDOW_SECONDS),
    others=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_time_is_right_to_repeat_a_request(ahead, later, others):
    seen, headers = Nonces(0), signed(now=NOW + ahead)
    assert heard(headers, seen=seen) == "op"
    for number in range(others):
        when = NOW + number * later / 5
        heard(signed(now=when), seen=seen, now=when)
    with pytest.raises(VerificationError):
        heard(headers, seen=seen, now=NOW + later)


def test_a_server_that_forgot_does_not_hear_what_it_may_have_heard():
    headers = signed(now=NOW)
    for start in (NOW + 0.01, NOW + 60):
        with pytest.raises(TooEarly, match="before the server was started"):
            heard(headers, seen=Nonces(start), now=start + 1)
    assert heard(headers, seen=Nonces(NOW - 0.01), now=NOW) == "op"
    assert heard(signed(now=NOW + 61), seen=Nonces(NOW + 60), now=NOW + 61) == "op"


def test_the_memory_is_bounded_and_frees_itself():
    seen = Nonces(0, most=3)
    for _ in range(3):
        assert heard(signed(), seen=seen) == "op"
    with pytest.raises(VerificationError, match="too many"):
        heard(signed(), seen=seen)
    later = NOW + 2 * WINDOW_SECONDS + 2
    assert heard(signed(now=later), seen=seen, now=later) == "op"


def test_what_is_not_signed_is_not_remembered():
    seen, good = Nonces(0, most=1), signed()
    for _ in range(5):
        with pytest.raises(VerificationError):
            heard({**signed(by="x"), requests.NONCE: good[requests.NONCE]}, seen=seen)
    assert heard(good, seen=seen) == "op"


def test_of_many_at_once_one_is_heard():
    seen = Nonces(0)
    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda _: seen.use("a", NOW), range(64)))
    assert said.count(True) == 1


@settings(max_examples=200, deadline=None)
@given(
    headers=st.dictionaries(
        st.sampled_from(
            [requests.OPERATOR, requests.TIME, requests.NONCE, requests.SIGNATURE, "host"]
        ),
        st.text(max_size=200) | st.sampled_from(["op", "1800000000000", "٣", "\ud800", "00" * 64]),
    )
)
def test_garbage_is_refused(headers):
    with pytest.raises(VerificationError, match="not signed by an operator"):
        heard(headers)


@pytest.mark.parametrize("name", [requests.OPERATOR, requests.TIME, requests.NONCE])
def test_every_header_is_signed(name):
    headers = signed()
    other = {
        requests.OPERATOR: "two",
        requests.TIME: str(int(NOW * 1000) + 1),
        requests.NONCE: "0" * 32,
    }
    with pytest.raises(VerificationError, match="not signed"):
        heard({**headers, name: other[name]})
