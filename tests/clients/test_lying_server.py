"""A server that lies, cheats and garbles: one constant refusal, and the ledger does not move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dp_risk import wire
from dp_risk.privacy.plan import Plan
from tests.federation import (
    KEY,
    REFUSAL,
    SCHEMA,
    Server,
    encoded,
    history,
    kinds,
    make_site,
    plan,
    policy,
    public_plan,
    refused,
    rows,
    weights,
)

PLANS: dict[str, dict[str, Any]] = {
    "epsilon understated": {"epsilon": 1.9},
    "more rounds": {"rounds": 4},
    "more steps a round": {"steps_per_round": 2},
    "less noise": {"noise_multiplier": 3.0},
    "less noise on the count": {"counts_noise": 2.0},
    "less noise on the evaluation": {"evaluation_noise": 1.0},
    "less noise on the bins": {"score_bins_noise": 1.0},
    "less noise on subgroups": {"subgroups": ("kind",), "subgroups_noise": 1.0},
    "subgroups beyond the price": {"subgroups": ("kind", "age"), "subgroups_noise": 3.0},
    "subgroups of no column": {
        "evaluation_noise": 9.0,
        "subgroups": ("nothing",),
        "subgroups_noise": 9.0,
    },
    "subgroups of a number without bins": {
        "evaluation_noise": 9.0,
        "subgroups": ("amount",),
        "subgroups_noise": 9.0,
    },
    "subgroups by the label": {
        "evaluation_noise": 9.0,
        "subgroups": ("risk",),
        "subgroups_noise": 9.0,
    },
    "splits charged in another account": {"stable_ids": False},
    "no such partner as this site": {"participants": {"site-01": "aa"}},
    "this site with another key": {"participants": {"site-00": "aa"}},
    "records of accounts": {"unit": "account", "max_records_per_account": 5},
    "many sites a unit, priced for one": {"max_sites_per_unit": 3},
    "noise shared with sites of no roster": {
        "max_colluding": 1,
        "trust": "distributed",
        "min_sites": 3,
        "participants": {"site-00": KEY, "site-01": KEY, "site-02": KEY},
    },
    "another delta": {"delta": 2e-5},
    "a smaller delta": {"delta": 5e-6},
    "another dataset": {"dataset": "other"},
    "another schema": {"schema": "0" * 64},
    "an unknown model": {"model": "oracle"},
    "options that do not fit": {"model_options": {"width": 3}},
    "another dimension": {"dimension": 10},
    "another unit": {"unit": "account"},
    "trust not allowed": {"trust": "central"},
    "seeded randomness": {"randomness": "seeded"},
    "a huge clip norm": {"clip_norm": 1e9},
    "a huge epsilon": {"epsilon": 1e9, "noise_multiplier": 0.31},
    "noise below the smallest": {"epsilon": 1e9, "noise_multiplier": 0.29},
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_a_plan_that_the_policy_or_its_price_forbids_is_refused(
    server: Server, changes: dict[str, Any]
) -> None:
    before = history(server.folder)
    assert refused(server.enrol(plan(**changes)))
    assert history(server.folder) == before
    assert not list(server.folder.glob("*plan*"))


def test_the_same_plan_without_a_lie_is_enrolled(server: Server) -> None:
    said = wire.read_statement(server.enrol(plan()))
    assert said["open_run"] == "run-1"
    assert kinds(server.folder) == ["open", "reserve"]


def test_no_noise_and_trust_none_need_public_rows(server: Server, public_site: Path) -> None:
    before = history(server.folder)
    assert refused(server.enrol(public_plan()))
    assert history(server.folder) == before
    allowed = Server(public_site)
    assert not refused(allowed.enrol(public_plan()))
    assert not refused(allowed.train(public_plan()))


def test_a_policy_that_lists_trust_none_still_protects_private_rows(tmp_path: Path) -> None:
    rules = policy(trusts=("local", "none"), randomness=("system", "seeded"))
    server = Server(make_site(tmp_path / "loose", rows(), rules))
    assert refused(server.enrol(public_plan()))
    assert refused(server.enrol(plan(randomness="seeded")))
    assert kinds(server.folder) == ["open"]


WIRE: dict[str, dict[str, Any]] = {
    "no noise, trust local": {"noise_multiplier": 0.0},
    "negative noise": {"noise_multiplier": -5.0},
    "sampling above 1": {"sampling_rate": 2.0},
    "sampling 0": {"sampling_rate": 0.0},
    "no epsilon": {"epsilon": None},
    "epsilon as text": {"epsilon": "2"},
    "epsilon of infinity": {"epsilon": 10**400},
    "true for a number": {"rounds": True},
    "no rounds": {"rounds": 0},
    "rounds beyond measure": {"rounds": 10**30},
    "a huge dimension": {"dimension": 10**30},
    "a huge clip norm": {"clip_norm": 1e308},
    "a tiny clip norm": {"clip_norm": 5e-324},
    "delta 1": {"delta": 1.0},
    "an extra key": {"more": 1},
    "a run id that ends early": {"run": "run-1\0b"},
    "no run id": {"run": ""},
    "a run id without end": {"run": "r" * 101},
    "a run id of other letters": {"run": "r\u00fcn"},
    "a name without end": {"participants": {"site-00" + "x" * 400: "aa"}},
    "a partner without a key": {"participants": {"site-00": 7}},
    "partners without end": {"participants": {str(i): "aa" for i in range(10_001)}},
    "a model as a list": {"model": ["additive"]},
    "an unknown trust": {"trust": "me"},
    "a target to instantiate": {"model_options": {"_target_": "os.system"}},
}


@pytest.mark.parametrize("changes", WIRE.values(), ids=WIRE)
def test_a_plan_that_is_none_is_refused(server: Server, changes: dict[str, Any]) -> None:
    before = history(server.folder)
    assert refused(server.enrol({**plan().to_dict(), **changes}))
    assert history(server.folder) == before


def test_a_plan_without_a_field_is_refused(server: Server) -> None:
    whole = plan().to_dict()
    for missing in whole:
        values = {name: value for name, value in whole.items() if name != missing}
        assert refused(server.enrol(values)), missing
    assert kinds(server.folder) == ["open"]


def test_a_second_plan_under_the_same_run_id_is_refused(server: Server) -> None:
    first, second = plan(), plan(seed=1)
    server.enrol(first)
    before = history(server.folder)
    assert refused(server.enrol(second))
    assert refused(server.train(second))
    assert history(server.folder) == before
    assert not refused(server.enrol(first))
    assert not refused(server.counts(first))


def test_a_run_id_is_used_once(server: Server) -> None:
    server.enrol(plan())
    server.ask("query.close", {"run": "run-1"})
    before = history(server.folder)
    assert refused(server.enrol(plan()))
    assert refused(server.enrol(plan(seed=1)))
    assert refused(server.train(plan()))
    assert history(server.folder) == before


@pytest.mark.parametrize(
    "changes", [{"sampling_rate": 0.5}, {"rounds": 2}, {"clip_norm": 2.0}, {"noise_multiplier": 30}]
)
def test_another_plan_than_the_enrolled_one_is_refused(
    server: Server, changes: dict[str, Any]
) -> None:
    server.enrol(plan())
    before = history(server.folder)
    assert refused(server.train(plan(**changes)))
    assert history(server.folder) == before


def test_rounds_beyond_the_plan_are_refused(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    for number in range(3):
        assert not refused(server.train(asked, number))
    before = history(server.folder)
    for number in (3, 4, -1, 10**30, 2**63, "3", None, [0]):
        assert refused(server.train(asked, number))
    assert history(server.folder) == before


def test_a_count_is_released_once_and_not_without_being_planned(server: Server) -> None:
    silent = plan(run="run-0", counts_noise=0.0)
    server.enrol(silent)
    assert refused(server.counts(silent))
    asked = plan()
    server.enrol(asked)
    assert refused(server.ask("query.counts", {"plan": asked.digest, "round": 1}))
    first = server.counts(asked)
    before = history(server.folder)
    assert encoded(server.counts(asked)) == encoded(first)
    assert history(server.folder) == before


def test_a_count_takes_no_weights(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    values = {"plan": asked.digest, "round": 0}
    assert refused(server.ask("query.counts", values, weights()))
    assert kinds(server.folder) == ["open", "reserve"]


def test_the_same_request_gets_the_same_bytes_and_pays_once(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    first = server.train(asked)
    before = history(server.folder)
    assert encoded(server.train(asked)) == encoded(first)
    assert history(server.folder) == before
    assert [kind for kind, _ in before] == ["open", "reserve", "charge", "release"]


@pytest.mark.parametrize("entry", [-1, 10**30, 2**63, True, "0", None, 1.0, [0]], ids=str)
def test_a_statement_about_no_entry_is_a_statement(server: Server, entry: Any) -> None:
    said = wire.read_statement(server.ask("query.status", {"entry": entry}))
    assert said["entry"]["hash"] is None


def test_a_replayed_round_with_other_weights_is_refused(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    server.train(asked)
    before = history(server.folder)
    assert refused(server.train(asked, at=weights(1.0)))
    assert refused(server.train(asked, extra="word"))
    assert history(server.folder) == before


def test_rounds_out_of_order_are_refused(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    assert not refused(server.train(asked, 1))
    before = history(server.folder)
    assert refused(server.train(asked, 0))
    assert history(server.folder) == before
    assert not refused(server.train(asked, 2))


EDGES = [-1.0, 0.0, 1.0]


def test_an_evaluation_is_released_once_with_the_bins_it_was_asked_with(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    first = server.evaluation(asked, EDGES)
    assert wire.read_release(first).arrays["histogram"].shape == (8,)
    before = history(server.folder)
    assert encoded(server.evaluation(asked, EDGES)) == encoded(first)
    # Other bins, or the other half of a bin, would tell more of the same rows.
    assert refused(server.evaluation(asked, [-1.0, 0.5, 1.0]))
    assert refused(server.evaluation(asked, [*EDGES, 2.0]))
    assert refused(server.evaluation(asked, EDGES, at=weights(1.0)))
    assert refused(server.evaluation(asked, EDGES, round=1))
    assert history(server.folder) == before


@pytest.mark.parametrize(
    "edges",
    [
        None, [], 3, "x", {"a": 1}, [None], ["0"], [True], [0.0, 0.0], [1.0, 0.0], [10**400],
        [float(i) for i in range(5000)], [[0.0]],
    ],
    ids=str,
)  # fmt: skip
def test_bins_that_are_none_are_refused_before_any_charge(server: Server, edges: Any) -> None:
    asked = plan()
    server.enrol(asked)
    assert refused(server.evaluation(asked, edges))
    assert kinds(server.folder) == ["open", "reserve"]
    assert not refused(server.evaluation(asked, EDGES))


def test_bins_and_weights_where_none_belong_are_refused_before_any_charge(server: Server) -> None:
    asked = plan()
    server.enrol(asked)
    assert refused(server.score_bins(asked, edges=EDGES))
    assert refused(server.score_bins(asked, at={}))
    assert refused(server.evaluation(asked, EDGES, at={}))
    assert refused(server.train(asked, edges=EDGES))
    assert kinds(server.folder) == ["open", "reserve"]


def grouped() -> Plan:
    """Return a plan whose holdout is evaluated by one column too."""
    return plan(subgroups=("kind",), subgroups_noise=9.0, evaluation_noise=9.0)


@pytest.mark.parametrize(
    ("edges", "column"),
    [
        (EDGES, "age"), (EDGES, None), (EDGES, 0), (EDGES, ["kind"]), (EDGES, ""), (None, "kind"),
        ([], "kind"), ([0.5, 0.5], "kind"), ([1, 2], "kind"),
        # Five groups, two labels: 52 bins would be more cells than the noise is made for.
        ([float(n) for n in range(51)], "kind"),
    ],
    ids=str,
)  # fmt: skip
def test_subgroups_that_are_not_the_plans_are_refused_before_any_charge(
    server: Server, edges: Any, column: Any
) -> None:
    asked = grouped()
    server.enrol(asked)
    assert refused(server.subgroups(asked, edges, column))
    assert kinds(server.folder) == ["open", "reserve"]
    most = [float(n) for n in range(50)]
    release = wire.read_release(server.subgroups(asked, most, "kind"))
    assert release.arrays["histogram"].shape == (5 * 2 * 51,)
    assert kinds(server.folder) == ["open", "reserve", "charge", "release"]
    # One column, one round: neither the same one again with other bins, nor a second round.
    assert refused(server.subgroups(asked, EDGES, "kind"))
    assert refused(server.subgroups(asked, EDGES, "kind", round=1))


def test_a_column_where_none_belongs_is_refused_before_any_charge(server: Server) -> None:
    asked = grouped()
    server.enrol(asked)
    assert refused(server.evaluation(asked, EDGES, column="kind"))
    assert refused(server.score_bins(asked, column="kind"))
    assert refused(server.train(asked, column="kind"))
    assert kinds(server.folder) == ["open", "reserve"]
    silent = plan(run="run-2")
    server.enrol(silent)
    assert refused(server.subgroups(silent, EDGES, "kind"))


def test_an_evaluation_that_was_not_planned_is_refused(server: Server) -> None:
    silent = plan(score_bins_noise=0.0, evaluation_noise=0.0)
    server.enrol(silent)
    assert refused(server.score_bins(silent))
    assert refused(server.evaluation(silent, EDGES))
    assert kinds(server.folder) == ["open", "reserve"]


def changed(name: str, array: Any) -> dict[str, Any]:
    return {**weights(), name: array}


WEIGHTS: dict[str, dict[str, Any]] = {
    "NaN": changed("bias.weight", np.array([[np.nan]])),
    "infinite": changed("bias.weight", np.array([[np.inf]])),
    "another shape": changed("bias.weight", np.zeros((1, 2))),
    "fewer dimensions": changed("bias.weight", np.zeros(1)),
    "integers": changed("bias.weight", np.zeros((1, 1), dtype=np.int64)),
    "complex": changed("bias.weight", np.zeros((1, 1), dtype=np.complex128)),
    "an extra key": changed("more", np.zeros(1)),
    "a missing key": {k: v for k, v in weights().items() if k != "bias.weight"},
    "none": {},
}


@pytest.mark.parametrize("at", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_are_not_the_models_are_refused_before_any_charge(
    server: Server, at: dict[str, Any]
) -> None:
    asked = plan()
    server.enrol(asked)
    assert refused(server.train(asked, at=at))
    assert kinds(server.folder) == ["open", "reserve"]
    assert not refused(server.train(asked))


@pytest.mark.parametrize("value", [1e308, -1e308, 1e160, 1e17, 1.1e3])
def test_weights_too_large_for_exact_clipping_are_refused_before_any_charge(
    server: Server, value: float
) -> None:
    asked = plan()
    server.enrol(asked)
    assert refused(server.train(asked, at=weights(value)))
    assert kinds(server.folder) == ["open", "reserve"]


@pytest.mark.parametrize(
    "kind",
    ["query.dump", "query", "evaluate", "train.more", "query.close.now", "rows", "", "query."],
)
def test_an_unknown_action_is_refused(server: Server, kind: str) -> None:
    before = history(server.folder)
    content = wire.request_record({"run": "run-1", "plan": "x", "round": 0})
    try:
        reply = server.send(kind, content)
    except ValueError as error:
        # Flower refuses to make a message of such a type at all.
        assert "essage" in str(error)  # noqa: PT017
    else:
        assert encoded(reply.content) == REFUSAL
        assert not reply.has_error()
    assert history(server.folder) == before


REQUESTS = {
    "nothing": RecordDict(),
    "no request": RecordDict({"other": ConfigRecord({"json": "{}"})}),
    "broken JSON": RecordDict({"request": ConfigRecord({"json": "{"})}),
    "no mapping": RecordDict({"request": ConfigRecord({"json": "[1]"})}),
    "a number": RecordDict({"request": ConfigRecord({"json": 3})}),
    "bytes": RecordDict({"request": ConfigRecord({"json": b"{}"})}),
    "no JSON": RecordDict({"request": ConfigRecord({})}),
    "too long": RecordDict({"request": ConfigRecord({"json": json.dumps({"a": "x" * 10**6})})}),
    "too deep": RecordDict({"request": ConfigRecord({"json": "[" * 10**5})}),
    "another record": RecordDict({"request": MetricRecord({"json": 1})}),
    "weights as words": RecordDict(
        {"request": ConfigRecord({"json": "{}"}), "weights": ConfigRecord({"a": 1})}
    ),
    "more": RecordDict(
        {"request": ConfigRecord({"json": "{}"}), "more": ArrayRecord([np.zeros(1)])}
    ),
}


@pytest.mark.parametrize("content", REQUESTS.values(), ids=REQUESTS)
def test_a_malformed_request_is_refused(server: Server, content: RecordDict) -> None:
    for kind in ("train", "query.status", "query.enrol", "query.counts", "query.close"):
        assert refused(server.send(kind, content).content), kind
    assert kinds(server.folder) == ["open"]


@pytest.mark.parametrize("digest", ["", "x", "../policy", "a" * 64, None, 7, ["a"], "/etc/passwd"])
def test_a_plan_digest_that_was_never_enrolled_is_refused(server: Server, digest: Any) -> None:
    assert refused(server.ask("train", {"plan": digest, "round": 0}, weights()))
    assert kinds(server.folder) == ["open"]


def test_a_site_that_cannot_be_opened_refuses_without_a_word(tmp_path: Path) -> None:
    secret = tmp_path / "secret-place"
    reply = Server(secret).ask("query.status", {})
    assert encoded(reply) == REFUSAL


def test_the_lifetime_budget_ends_and_the_ledger_stays(tmp_path: Path) -> None:
    folder = make_site(tmp_path / "poor", rows(), policy(lifetime_epsilon=3.0))
    server = Server(folder)
    assert not refused(server.enrol(plan()))
    assert not refused(server.counts(plan()))
    for number in range(3):
        assert not refused(server.train(plan(), number))
    server.ask("query.close", {"run": "run-1"})
    before = history(folder)
    assert refused(server.enrol(plan(run="run-2")))
    assert history(folder) == before
    said = wire.read_statement(server.ask("query.status", {}))
    assert said["spent_epsilon"] <= 3.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(field=st.sampled_from(sorted(plan().to_dict())), value=json_values)
def test_whatever_stands_in_a_field_a_plan_dearer_than_it_says_never_opens(
    site: Path, field: str, value: Any
) -> None:
    server = Server(site)
    values = {**plan().to_dict(), field: value}
    try:
        known = Plan.from_dict(values)
        cheap = known.private and known.cost <= 2.0 * (1 + 1e-9)
    except Exception:
        cheap = False
    before = history(site)
    try:
        said = server.ask("query.enrol", {"plan": values, "run": "run-1"})
    except ValueError:
        return  # not JSON: infinity
    free = ("run", "seed", "clip_norm", "noise_multiplier", "local_rate", "min_sites")
    if field not in free and not field.endswith("_noise"):
        assert cheap or refused(said)
    if refused(said):
        assert history(site) == before
    else:
        assert cheap


def test_a_schema_of_the_same_columns_with_other_bounds_is_another(server: Server) -> None:
    from dp_risk.data.schema import Schema

    other = {**SCHEMA, "features": {**SCHEMA["features"], "age": {"type": "numeric", "low": 0,
             "high": 99, "bins": 4}}}  # fmt: skip
    assert refused(server.enrol(plan(schema=Schema.from_dict(other).digest)))
