"""A run's statement with its entries holds, or whatever was changed is noticed."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from dp_risk.privacy import keys, run_statement
from dp_risk.privacy.entries import CONTEXT, entry_hash
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import canonical
from dp_risk.privacy.schedule import costs
from dp_risk.types import VerificationError
from tests.privacy.children import ACCOUNT, KEY, schedule
from tests.privacy.test_ledger import mint, pay

OTHER = Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32)
SITE = "site-00"


def run(ledger, name, rounds=2):
    ledger.reserve(run=name, plan_digest="p", schedule=schedule())
    for number in range(rounds):
        pay(ledger, number, run=name)
        mint(ledger, number, run=name)
    ledger.close(name)


def opened(folder: Path) -> Ledger:
    return Ledger.open(folder / "ledger.sqlite", ACCOUNT, key=KEY)


@pytest.fixture
def ledger(tmp_path):
    """A ledger with two runs that are over."""
    found = opened(tmp_path)
    run(found, "run-a")
    run(found, "run-b")
    yield found
    found.close_file()


def made(ledger, name="run-b"):
    """What travels, as it arrives."""
    return json.loads(json.dumps(run_statement.make(ledger, site=SITE, run=name)))


def check(said):
    return run_statement.check(said["statement"], said["entries"])


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    ledger = opened(tmp_path_factory.mktemp("site"))
    ledger.raise_budget(5.0, by="A. Person", reason="more runs")
    run(ledger, "run-b")
    said = made(ledger)
    ledger.close_file()
    return said


def test_a_statement_says_what_the_run_reserved_and_paid(ledger):
    said = made(ledger)
    found = check(said)
    assert (found.site, found.run, found.plan) == (SITE, "run-b", "p")
    assert found.schedule == schedule()
    assert found.paid == {"training": 2}
    assert found.terms.key == keys.public_hex(KEY)
    assert (found.entries, found.head) == (ledger.state.entries, ledger.state.head)
    # Whoever has the statement alone has the run's epsilon.
    assert costs(found.schedule, ACCOUNT.delta) == costs(schedule(), ACCOUNT.delta)
    balances = {k: dataclasses.asdict(b) for k, b in ledger.state.balances.items()}
    assert said["statement"]["balances"] == balances
    assert made(ledger) == said


def test_no_other_run_is_shown(ledger):
    assert "run-a" not in json.dumps(made(ledger))
    assert "run-b" not in json.dumps(made(ledger, "run-a"))
    before = made(ledger, "run-a")["statement"]["balances"]
    assert made(ledger)["statement"]["balances_before"] == before


def test_there_is_none_before_the_close_or_of_another_run(ledger):
    ledger.reserve(run="third", plan_digest="p", schedule=schedule())
    assert run_statement.make(ledger, site=SITE, run="third") is None
    assert run_statement.make(ledger, site=SITE, run="unknown") is None
    pay(ledger, run="third")
    ledger.close("third")
    # Paid for before the close, and released after it.
    mint(ledger, run="third")
    assert check(made(ledger, "third")).paid == {"training": 1}


def test_budgets_that_were_raised_count_from_then_on(ledger):
    who = {"by": "A. Person", "reason": "more runs"}
    ledger.raise_budget(5.0, **who)
    ledger.reserve(run="third", plan_digest="p", schedule=schedule())
    ledger.raise_budget(6.0, **who)
    ledger.close("third")
    ledger.retire(**who)
    said = made(ledger, "third")
    assert [a["lifetime_epsilon"] for a in said["statement"]["amendments"]] == [5.0, 6.0]
    check(said)
    assert check(made(ledger)).terms.account.lifetime_epsilon == 4.0


def test_a_rotated_key_proves_itself_and_says_nothing_of_runs_before_it(ledger):
    who = {"by": "A. Person", "reason": "once a year"}
    ledger.rekey(OTHER, partition={"split key": "6b" * 32}, **who)
    assert run_statement.make(ledger, site=SITE, run="run-b") is None
    run(ledger, "third")
    found = check(made(ledger, "third"))
    assert (found.terms.key, found.earlier) == (keys.public_hex(OTHER), (keys.public_hex(KEY),))
    said = made(ledger, "third")
    said["statement"]["rotations"] = []
    # Whoever hides a rotation has no older key to show.
    assert check(signed(said, OTHER)).earlier == ()


def signed(said, key=KEY):
    """Sign what a site made up."""
    body = {name: value for name, value in said["statement"].items() if name != "signature"}
    signature = keys.sign(key, run_statement.CONTEXT, canonical(body))
    return {**said, "statement": {**body, "signature": signature}}


def chained(entries, key=KEY):
    """Hash and sign entries anew, as whoever has the key can."""
    previous, out = entries[0]["previous"], []
    for number, one in enumerate(entries):
        entry = {**one, "sequence": entries[0]["sequence"] + number, "previous": previous}
        names = (entry["sequence"], entry["time"], entry["kind"], entry["text"])
        entry["hash"] = previous = entry_hash(previous, *names)
        entry["signature"] = keys.sign(key, CONTEXT, previous.encode())
        out.append(entry)
    return out


def text(entry, **changes):
    return {**entry, "text": json.dumps({**json.loads(entry["text"]), **changes})}


LIES = {
    "a charge left out": lambda e: [*e[:1], *e[3:]],
    "no charges": lambda e: [e[0], e[-1]],
    "a close that gives too much back": lambda e: [*e[:-1], text(e[-1], paid={})],
    "totals too small": lambda e: [*e[:-1], text(e[-1], filter={"train": 0.0, "holdout": 0.0})],
    "negative totals": lambda e: [
        text(e[0], filter_before={"train": -9.0, "holdout": 0.0}), *e[1:]
    ],
    "a cheaper event": lambda e: [
        text(e[0], schedule=[{**x, "rounds": 1} for x in json.loads(e[0]["text"])["schedule"]]),
        *e[1:],
    ],
    "no end": lambda e: e[:-1],
    "no beginning": lambda e: e[1:],
    "nothing": lambda e: [],
    "a second run": lambda e: [*e[:-1], e[0], e[-1]],
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_whoever_has_the_key_still_cannot_lie_about_the_sums(honest, lie):
    lying = copy.deepcopy(honest)
    lying["entries"] = LIES[lie](lying["entries"])
    if lying["entries"]:
        lying["entries"] = chained(lying["entries"])
        last = lying["entries"][-1]
        lying["statement"] |= {"entries": last["sequence"] + 1, "head": last["hash"]}
    with pytest.raises(VerificationError):
        check(signed(lying))


def test_chained_and_signed_anew_an_honest_one_still_holds(honest):
    check(signed({**honest, "entries": chained(honest["entries"])}))


def test_another_key_does_not_sign_for_the_site(honest):
    public = keys.public_hex(OTHER)
    for statement in (honest["statement"], {**honest["statement"], "public_key": public}):
        with pytest.raises(VerificationError):
            check(signed({**honest, "statement": statement}, OTHER))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**400, "x" * 10_000, -1, 0, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)  # fmt: skip


@st.composite
def places(draw, whole):
    """A way into a JSON value, as deep as it goes or less."""
    way, here = [], whole
    while isinstance(here, dict | list) and here and (not way or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        way.append(key)
        here = here[key]
    return way


@settings(max_examples=300, deadline=None)
@given(data=st.data(), value=json_values, resigned=st.booleans())
def test_whatever_stands_anywhere_it_is_judged(honest, data, value, resigned):
    changed = copy.deepcopy(honest)
    *way, last = data.draw(places(honest))
    here = changed
    for key in way:
        here = here[key]
    here[last] = value
    if resigned and isinstance(changed["statement"], dict):
        try:
            changed = signed(changed)
        except ValueError:
            resigned = False
    try:
        found = check(changed)
    except VerificationError:
        return
    # Only what the entries do not say may be chosen by whoever holds the key, each in its range.
    free = {"site", "lifetime_epsilon", "account", "amendments"}
    same = json.dumps(changed) == json.dumps(honest)
    assert same or (resigned and way and [*way, last][1] in free)
    assert found.head == honest["statement"]["head"]


@given(value=json_values, other=json_values)
def test_anything_at_all_is_judged(value, other):
    with pytest.raises(VerificationError):
        run_statement.check(value, other)
