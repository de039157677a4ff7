"""The gate: whatever a handler does, only what the ledger released or the policy says leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto

from clients.gate import gate
from clients.site import Site
from dp_risk import wire
from dp_risk.privacy import keys
from dp_risk.privacy.entries import CONTEXT
from dp_risk.privacy.release import arrays_digest
from tests.federation import REFUSAL, Server, encoded, history, plan, signing_key, weights

SECRET = "jane-doe-4711"
Spoil = Callable[[RecordDict], Any]


def spoiling(folder: Path, spoil: Spoil) -> Server:
    """A site behind whose gate every reply's content goes through `spoil`."""
    honest = Server(folder)
    app = ClientApp()

    def handler(message: Message, context: Context) -> Message:
        content = honest.send(message.metadata.message_type, message.content).content
        made = spoil(content)
        return made if isinstance(made, Message) else Message(made, reply_to=message)

    mods = [gate(lambda context: Site.open(Path(str(context.node_config["site"]))))]
    app.train(mods=mods)(handler)
    for action in ("enrol", "counts", "status", "close"):
        app.query(action, mods=mods)(handler)
    return Server(folder, app=app)


def raw_rows(content: RecordDict) -> RecordDict:
    return RecordDict({"arrays": wire.arrays_to_record({"rows": np.frombuffer(SECRET.encode())})})


def instead(content: RecordDict) -> RecordDict:
    arrays = {name: array + 1.0 for name, array in weights().items()}
    return with_arrays(content, arrays)


def with_arrays(content: RecordDict, arrays: dict[str, Any]) -> RecordDict:
    content["arrays"] = wire.arrays_to_record(arrays)
    content.config_records["receipt"]["digest"] = arrays_digest(arrays)
    return content


def noiseless(content: RecordDict) -> RecordDict:
    arrays = wire.record_to_arrays(content.array_records["arrays"])
    arrays["bias.weight"] = np.round(arrays["bias.weight"])
    return with_arrays(content, arrays)


def changed_beside_its_digest(content: RecordDict) -> RecordDict:
    digest = content.config_records["receipt"]["digest"]
    content = noiseless(content)
    content.config_records["receipt"]["digest"] = digest
    return content


def one_array_more(content: RecordDict) -> RecordDict:
    arrays = wire.record_to_arrays(content.array_records["arrays"])
    return with_arrays(content, {**arrays, SECRET: np.zeros(1)})


def single_precision(content: RecordDict) -> RecordDict:
    arrays = wire.record_to_arrays(content.array_records["arrays"])
    return with_arrays(content, {k: a.astype(np.float32) for k, a in arrays.items()})


def renamed(content: RecordDict) -> RecordDict:
    arrays = wire.record_to_arrays(content.array_records["arrays"])
    return with_arrays(content, {f"{SECRET}{k}": a for k, a in arrays.items()})


def extra_metric(content: RecordDict) -> RecordDict:
    content["metrics"] = MetricRecord({"num-examples": 240})
    return content


def extra_config(content: RecordDict) -> RecordDict:
    content["more"] = ConfigRecord({"name": SECRET})
    return content


def extra_in_the_receipt(content: RecordDict) -> RecordDict:
    content.config_records["receipt"]["name"] = SECRET
    return content


def secret_for(key: str, value: Any = SECRET) -> Spoil:
    def spoil(content: RecordDict) -> RecordDict:
        content.config_records["receipt"][key] = value
        return content

    return spoil


def signed_head(content: RecordDict) -> RecordDict:
    receipt = content.config_records["receipt"]
    head = str(receipt["ledger_head"]).encode()
    key = Ed25519PrivateKey.from_private_bytes(signing_key("site-00"))
    receipt["signature"] = keys.sign(key, CONTEXT, head)
    return content


def statement(content: RecordDict) -> RecordDict:
    return wire.statement_record({"name": SECRET})


def pickled(content: RecordDict) -> RecordDict:
    data = io.BytesIO()
    np.save(data, np.array([SECRET], dtype=object), allow_pickle=True)
    array = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=data.getvalue())
    content["arrays"] = ArrayRecord({"bias.weight": array})
    return content


def raises(content: RecordDict) -> RecordDict:
    raise RuntimeError(f"no room for {SECRET}")


def nothing(content: RecordDict) -> Any:
    return None


def empty(content: RecordDict) -> RecordDict:
    return RecordDict()


RELEASES = {
    "raw rows": raw_rows,
    "other arrays": instead,
    "a changed array": noiseless,
    "a changed array beside its digest": changed_beside_its_digest,
    "one array more": one_array_more,
    "another dtype": single_precision,
    "another name": renamed,
    "an extra metric record": extra_metric,
    "an extra config record": extra_config,
    "an extra key in the receipt": extra_in_the_receipt,
    "another run": secret_for("run"),
    "another purpose": secret_for("purpose"),
    "another round": secret_for("round", 1),
    "a round as words": secret_for("round"),
    "another digest": secret_for("digest"),
    "another ledger head": secret_for("ledger_head"),
    "another signature": secret_for("signature"),
    "the signature of the head alone": signed_head,
    "a statement that nobody makes": statement,
    "a pickle": pickled,
    "an exception": raises,
    "no reply": nothing,
    "an empty reply": empty,
}


def started(folder: Path) -> Any:
    asked = plan()
    Server(folder).enrol(asked)
    return asked


def travelled(message: Message) -> bytes:
    return bytes(message_to_proto(message).SerializeToString())


@pytest.mark.parametrize("spoil", RELEASES.values(), ids=RELEASES)
def test_a_spoilt_release_becomes_the_constant_refusal(site: Path, spoil: Spoil) -> None:
    asked = started(site)
    values = {"plan": asked.digest, "round": 0}
    reply = spoiling(site, spoil).send("train", wire.request_record(values, weights()))
    assert encoded(reply.content) == REFUSAL
    assert SECRET.encode() not in travelled(reply)
    assert [kind for kind, _ in history(site)] == ["open", "reserve", "charge", "release"]


def test_an_unspoilt_release_passes_unchanged(site: Path) -> None:
    asked = started(site)
    spoiler = spoiling(site, lambda content: content)
    first = spoiler.train(asked)
    assert encoded(first) == encoded(Server(site).train(asked))
    release = wire.read_release(first)
    assert history(site)[-1] == ("release", release.ledger_head)


def with_data(content: RecordDict, **fields: Any) -> RecordDict:
    arrays = dict(content.array_records["arrays"].items())
    old = arrays["bias.weight"]
    same = {"dtype": old.dtype, "shape": old.shape, "stype": old.stype, "data": old.data}
    arrays["bias.weight"] = Array(**{**same, **fields})
    content["arrays"] = ArrayRecord(arrays)
    return content


def behind_the_array(content: RecordDict) -> RecordDict:
    data = content.array_records["arrays"]["bias.weight"].data
    return with_data(content, data=data + SECRET.encode())


def in_the_dtype(content: RecordDict) -> RecordDict:
    return with_data(content, dtype=SECRET)


def in_the_shape(content: RecordDict) -> RecordDict:
    return with_data(content, shape=(4711, 4711, 4711))


@pytest.mark.parametrize("hide", [behind_the_array, in_the_dtype, in_the_shape])
def test_nothing_hides_beside_the_values_of_a_release(site: Path, hide: Spoil) -> None:
    asked = started(site)
    honest = encoded(Server(site).train(asked))
    values = {"plan": asked.digest, "round": 0}
    reply = spoiling(site, hide).send("train", wire.request_record(values, weights()))
    assert SECRET.encode() not in travelled(reply)
    assert encoded(reply.content) in (honest, REFUSAL)


def said(content: RecordDict) -> str:
    return str(content.config_records["statement"]["json"])


def more_words(content: RecordDict) -> RecordDict:
    return wire.statement_record({**json.loads(said(content)), "name": SECRET})


def other_number(content: RecordDict) -> RecordDict:
    return wire.statement_record({**json.loads(said(content)), "units": 240})


def a_key_twice(content: RecordDict) -> RecordDict:
    text = '{"site":"' + SECRET + '",' + said(content)[1:]
    return RecordDict({"statement": ConfigRecord({"json": text})})


def spaces(content: RecordDict) -> RecordDict:
    text = said(content).replace(",", ", ")
    return RecordDict({"statement": ConfigRecord({"json": text})})


def a_second_config(content: RecordDict) -> RecordDict:
    content.config_records["statement"]["name"] = SECRET
    return content


def a_release_beside(content: RecordDict) -> RecordDict:
    content["arrays"] = wire.arrays_to_record({"units": np.array([240.0])})
    return content


STATEMENTS = {
    "more words": more_words,
    "another number": other_number,
    "a key twice": a_key_twice,
    "spaces": spaces,
    "a second key": a_second_config,
    "arrays beside": a_release_beside,
    "raw rows": raw_rows,
    "an exception": raises,
}


@pytest.mark.parametrize("kind", ["query.status", "query.close"])
@pytest.mark.parametrize("spoil", STATEMENTS.values(), ids=STATEMENTS)
def test_a_spoilt_statement_says_nothing_more_than_the_true_one(
    site: Path, kind: str, spoil: Spoil
) -> None:
    honest = encoded(Server(site).ask(kind, {"run": "run-9"}))
    reply = spoiling(site, spoil).send(kind, wire.request_record({"run": "run-9"}))
    assert SECRET.encode() not in travelled(reply)
    if spoil in (a_key_twice, spaces):
        assert encoded(reply.content) in (honest, REFUSAL)
    else:
        assert encoded(reply.content) == REFUSAL


def test_an_error_reply_of_a_handler_is_refused(site: Path) -> None:
    app = ClientApp()
    mods = [gate(lambda context: Site.open(site))]

    @app.query("status", mods=mods)
    def handler(message: Message, context: Context) -> Message:
        return Message(Error(code=1, reason=SECRET), reply_to=message)

    reply = Server(site, app=app).send("query.status", wire.request_record({}))
    assert encoded(reply.content) == REFUSAL
    assert SECRET.encode() not in travelled(reply)


@pytest.mark.parametrize("place", ["Site.answer", "Shard._load", "DPSGD.__call__", "Ledger.mint"])
def test_an_exception_on_the_way_to_a_release_leaves_no_text_and_stays_charged(
    site: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from clients.shard import Shard
    from dp_risk.privacy.dpsgd import DPSGD
    from dp_risk.privacy.ledger import Ledger

    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError(f"cannot read {SECRET}")

    asked = started(site)
    classes = {"Site": Site, "Shard": Shard, "DPSGD": DPSGD, "Ledger": Ledger}
    name, method = place.split(".")
    with monkeypatch.context() as patch:
        patch.setattr(classes[name], method, fails)
        values = {"plan": asked.digest, "round": 0}
        reply = Server(site).send("train", wire.request_record(values, weights()))
    assert encoded(reply.content) == REFUSAL
    assert SECRET.encode() not in travelled(reply)
    paid = place != "Site.answer"
    assert [k for k, _ in history(site)] == ["open", "reserve"] + ["charge"] * paid
    # What crashed after its charge is spent: it is never run again.
    assert (encoded(Server(site).train(asked)) == REFUSAL) == paid


def test_the_charge_is_on_disk_before_a_row_is_read(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients.shard import Shard

    seen: list[list[str]] = []
    honest = Shard._load

    def watched(self: Shard, split: Any) -> Any:
        seen.append([kind for kind, _ in history(site)])
        return honest(self, split)

    monkeypatch.setattr(Shard, "_load", watched)
    asked = started(site)
    server = Server(site)
    server.ask("query.status", {})
    assert seen == []
    server.counts(asked)
    server.train(asked)
    assert seen == [
        ["open", "reserve", "charge"],
        ["open", "reserve", "charge", "release", "charge"],
    ]
