"""The loop of a site against servers that lie, die, repeat themselves and send garbage."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore import telemetry
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.app import MESSAGE_TYPES
from clients.node import Ended, Ending, Errand, Gone, Lost, Node, NotAdmitted
from dp_risk import wire
from dp_risk.federation.bundle import official_bundle
from tests.clients.test_bundle import OFFICIAL, PYPROJECT, bundle, text
from tests.federation import (
    encoded,
    kinds,
    make_site,
    plan,
    policy,
    refused,
    replaced,
    rows,
    weights,
)

SECRET = "jane-doe-4711"
_IDS = count(1)
_ENROLLED = ["open", "reserve"]


def errand(kind: str, content: RecordDict, node: int = 2, run: int = 1) -> Errand:
    head = Message(content, node, kind)
    head.metadata.__dict__["_message_id"] = f"{next(_IDS):064d}"
    head.metadata.__dict__["_run_id"] = run
    head.__dict__["_content"] = None
    made = Errand(node=node, message=head, parts=())
    made.__dict__["sent"] = content
    return made


def enrol(asked: Any = None) -> Errand:
    values = (asked or plan()).to_dict()
    return errand("query.enrol", wire.request_record({"plan": values, "run": values["run"]}))


def train(round: int = 0, node: int = 2) -> Errand:
    values = {"plan": plan().digest, "round": round}
    return errand("train", wire.request_record(values, weights()), node)


@dataclass
class Fake:
    """A server that hands out errands and does what a test says at each step."""

    waiting: list[Errand]
    app: bytes = field(default_factory=official_bundle)
    node: int = 2
    sent: list[Message] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    # What a call does instead of what it should; the key is the name and how often it was called.
    faults: dict[tuple[str, int], Callable[[], Any]] = field(default_factory=dict)

    def _step(self, name: str) -> None:
        self.calls.append(name)
        fault = self.faults.get((name, self.calls.count(name)))
        if fault is not None:
            fault()

    @contextmanager
    def __call__(self) -> Iterator[Fake]:
        self._step("connect")
        yield self

    def receive(self) -> Errand | None:
        self._step("receive")
        return self.waiting.pop(0) if self.waiting else None

    def bundle(self, run: int) -> bytes:
        self._step("bundle")
        return self.app

    def content(self, asked: Errand) -> RecordDict:
        self._step("content")
        return asked.__dict__["sent"]

    def send(self, asked: Errand) -> None:
        self._step("send")
        assert asked.answer is not None
        self.sent.append(asked.answer)
        self._step("kept")

    @property
    def answers(self) -> list[RecordDict]:
        return [message.content for message in self.sent]


def breaking(error: BaseException) -> Callable[[], Any]:
    def fault() -> None:
        raise error

    return fault


def serve(folder: Path, fake: Fake, pauses: int = 3) -> list[float]:
    """Serve until so many pauses in a row without work; return how long each would have been."""
    waits: list[float] = []
    idle = [0, 0]

    def pause(seconds: float) -> None:
        waits.append(seconds)
        idle[0] = idle[0] + 1 if len(fake.sent) == idle[1] and not fake.waiting else 0
        idle[1] = len(fake.sent)
        if idle[0] >= pauses:
            raise Ended

    with pytest.raises(Ended):
        Node(site=folder, connect=fake, pause=pause).serve()
    return waits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site", rows(), policy())


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["facts"]["event"] for record in caplog.records]


def test_messages_are_answered_by_the_installed_app(folder, caplog):
    caplog.set_level(logging.INFO, logger="dp_risk.site")
    fake = Fake([enrol(), train(0), train(1)])
    serve(folder, fake)
    assert wire.read_statement(fake.answers[0])["run"]["id"] == plan().run
    assert [wire.read_release(said).round for said in fake.answers[1:]] == [0, 1]
    assert kinds(folder) == [*_ENROLLED, *(["charge", "release"] * 2)]
    assert events(caplog) == ["connected", "enrolled", "answered", "answered"]
    assert fake.calls.count("bundle") == 1


def test_every_type_that_is_read_has_a_handler(folder, caplog):
    fake = Fake([errand(kind, RecordDict()) for kind in sorted(MESSAGE_TYPES)])
    serve(folder, fake)
    assert all(refused(said) for said in fake.answers)
    # The gate around a handler refuses an empty request; without a handler there is no gate.
    assert [record.__dict__["facts"].get("message") for record in caplog.records] == sorted(
        MESSAGE_TYPES
    )


@pytest.mark.parametrize("kind", ["evaluate", "query", "query.rows", "train.other"])
def test_another_type_is_refused_unread(folder, kind):
    other = train()
    other.message.metadata.__dict__["_message_type"] = kind
    fake = Fake([other])
    serve(folder, fake)
    assert refused(fake.answers[0])
    assert "content" not in fake.calls


def test_a_bundle_with_code_is_refused_and_nothing_of_it_is_imported(folder, tmp_path, monkeypatch):
    """The planted coordinator: a bundle whose clients.app would send the rows."""
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').write('imported')\n".encode()
    planted = bundle((PYPROJECT, text()), ("clients/__init__.py", code), ("clients/app.py", code))
    monkeypatch.chdir(tmp_path)
    before, paths, modules = kinds(folder), list(sys.path), set(sys.modules)
    fake = Fake([enrol(), train()], app=planted)
    serve(folder, fake)
    assert all(refused(said) for said in fake.answers)
    assert "content" not in fake.calls
    assert fake.calls.count("bundle") == 1
    assert kinds(folder) == before
    assert not trace.exists()
    assert (sys.path, set(sys.modules)) == (paths, modules)
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_policy_approves_bundles_and_an_edit_counts_at_once(folder):
    strict, rules = policy(bundles=("ab" * 32,)), policy(bundles=(OFFICIAL,))
    strict.save(folder / "policy.yaml")
    fake = Fake([enrol(), enrol()])
    fake.faults["receive", 2] = lambda: rules.save(folder / "policy.yaml")
    serve(folder, fake)
    assert [refused(said) for said in fake.answers] == [True, False]
    assert fake.calls.count("bundle") == 1


def test_an_edit_of_the_policy_counts_in_the_next_round(folder):
    fake = Fake([enrol(), train(0), train(1)])
    never = replaced(policy(), min_noise_multiplier=1e6)
    fake.faults["receive", 3] = lambda: never.save(folder / "policy.yaml")
    serve(folder, fake)
    assert [refused(said) for said in fake.answers] == [False, False, True]


@pytest.mark.parametrize("error", [ValueError(SECRET), MemoryError(SECRET), RecursionError(SECRET)])
def test_what_cannot_be_decoded_is_refused_and_its_text_is_not_logged(folder, caplog, error):
    fake = Fake([train(), enrol()], faults={("content", 1): breaking(error)})
    serve(folder, fake)
    assert [refused(said) for said in fake.answers] == [True, False]
    assert type(error).__name__ in caplog.text
    assert SECRET not in caplog.text


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(sorted(MESSAGE_TYPES)),
    said=st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
)
def test_garbage_is_refused(folder, kind, said):
    fake = Fake(
        [errand(kind, RecordDict({name: ConfigRecord({"json": v}) for name, v in said.items()}))]
    )
    serve(folder, fake, pauses=1)
    assert refused(fake.answers[0])


def test_an_answer_whose_connection_broke_is_sent_again_and_charged_once(folder, caplog):
    fake = Fake([enrol(), train(0), train(1)], faults={("send", 2): breaking(Lost("cut"))})
    serve(folder, fake)
    assert [wire.read_release(said).round for said in fake.answers[1:]] == [0, 1]
    assert kinds(folder) == [*_ENROLLED, *(["charge", "release"] * 2)]
    assert fake.calls.count("connect") == 2
    assert fake.calls.count("content") == 3
    assert "cut" in caplog.text


def test_an_answer_that_the_server_has_already_is_sent_again(folder):
    fake = Fake([enrol(), train(0)], faults={("kept", 2): breaking(Lost("cut"))})
    serve(folder, fake)
    assert encoded(fake.answers[1]) == encoded(fake.answers[2])
    assert fake.sent[1] is fake.sent[2]
    assert kinds(folder) == [*_ENROLLED, "charge", "release"]


def test_a_server_that_was_started_anew_gets_the_stored_release(folder):
    fake = Fake([enrol(), train(0)])

    def anew() -> None:
        fake.node = 7
        fake.waiting.append(train(0, node=7))
        raise Lost("gone")

    fake.faults["send", 2] = anew
    serve(folder, fake)
    assert wire.read_release(fake.answers[1]).round == 0
    assert kinds(folder) == [*_ENROLLED, "charge", "release"]
    assert len(fake.sent) == 2


def test_the_same_message_twice_is_answered_alike_and_charged_once(folder):
    fake = Fake([enrol(), train(0), train(0)])
    serve(folder, fake)
    assert encoded(fake.answers[1]) == encoded(fake.answers[2])
    assert kinds(folder) == [*_ENROLLED, "charge", "release"]


def test_a_run_that_is_over_is_dropped(folder, caplog):
    caplog.set_level(logging.INFO, logger="dp_risk.site")
    fake = Fake([enrol(), train(0), train(1)], faults={("send", 2): breaking(Gone("over"))})
    serve(folder, fake)
    assert [wire.read_release(said).round for said in fake.answers[1:]] == [1]
    assert fake.calls.count("connect") == 1
    assert "message dropped" in events(caplog)


def test_a_message_that_never_arrives_is_given_up(folder):
    lost = {("content", attempt): breaking(Lost("cut")) for attempt in range(1, 9)}
    fake = Fake([train(), enrol()], faults=lost)
    fake.faults = {key: value for key, value in lost.items() if key[1] <= 5}
    serve(folder, fake)
    assert len(fake.answers) == 1
    assert wire.read_statement(fake.answers[0])["run"]["id"] == plan().run


@pytest.mark.parametrize(
    ("name", "value"), [("_created_at", "yesterday"), ("_message_type", "x\ny"), ("_ttl", None)]
)
def test_a_message_that_cannot_be_answered_ends_nothing(folder, caplog, name, value):
    odd = train()
    odd.message.metadata.__dict__[name] = value
    fake = Fake([odd, enrol()])
    serve(folder, fake)
    assert len(fake.answers) == 1
    assert "message dropped" in events(caplog)
    assert "\n" not in "".join(record.getMessage() for record in caplog.records)


def test_a_site_that_cannot_be_opened_refuses(folder):
    (folder / "policy.yaml").rename(folder / "gone.yaml")
    fake = Fake([enrol()])
    serve(folder, fake)
    assert refused(fake.answers[0])


@pytest.mark.parametrize(
    ("error", "least", "most"),
    [(NotAdmitted("not on the roster"), 7.5, 15.0), (Lost("refused"), 0.2, 8.0), (OSError(), 4, 8)],
)
def test_it_connects_for_ever_and_says_so_once(folder, caplog, error, least, most):
    fake = Fake([], faults={("connect", n): breaking(error) for n in range(1, 20)})
    fake.waiting = [enrol()]
    waits = serve(folder, fake)
    tried = waits[:19]
    assert all(least <= seconds <= most for seconds in tried)
    assert max(tried) > most / 2
    assert len(fake.answers) == 1
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


def test_polls_are_rare_when_nothing_comes(folder, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("clients.node.time.monotonic", lambda: clock[0])
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds
        if clock[0] > 120:
            raise Ended

    with pytest.raises(Ended):
        Node(site=folder, connect=Fake([]), pause=pause).serve()
    assert waits[0] == 0.15
    assert waits[-1] == 1.0
    assert sorted(waits) == waits


def signals(ending: Ending, numbers: list[int], done: list[str]) -> None:
    with ending.after():
        for number in numbers:
            ending(number, None)
        done.append("the answer")


def test_a_signal_ends_at_once_between_messages_and_after_an_answer():
    done: list[str] = []
    with pytest.raises(Ended):
        Ending()(signal.SIGTERM, None)
    with pytest.raises(Ended):
        signals(Ending(), [signal.SIGTERM], done)
    assert done == ["the answer"]


def test_a_second_signal_ends_an_answer_too():
    done: list[str] = []
    with pytest.raises(Ended):
        signals(Ending(), [signal.SIGINT, signal.SIGINT], done)
    assert not done


def test_a_signal_in_an_answer_whose_connection_breaks_still_ends(folder):
    ending = Ending()

    def both() -> None:
        ending(signal.SIGTERM, None)
        raise Lost("cut")

    fake = Fake([enrol()], faults={("send", 1): both})
    with pytest.raises(Ended):
        Node(site=folder, connect=fake, ending=ending, pause=lambda seconds: None).serve()
    assert fake.calls.count("connect") == 1


def test_flower_tells_nobody(folder, monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(telemetry, "event", told.append)
    monkeypatch.setattr(telemetry, "create_event", told.append)
    serve(folder, Fake([enrol(), train(0)]))
    assert not told


def test_telemetry_is_off_whatever_the_environment_says():
    asked = {"FLWR_TELEMETRY_ENABLED": "1", "FLWR_DISABLE_UPDATE_CHECK": "0"}
    code = (
        "import os, clients\n"
        "from flwr.supercore import telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["0", "1"]
