"""Whole runs in which all sites add the noise together, and what the server sees of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Context, Message
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import server.rounds
from clients import noising
from clients.app import make_app
from clients.site import RUNS, Site
from dp_risk import wire
from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError, FederationError, Refused
from server.aggregation import parts
from server.combining import Question, Sum
from server.grids import InProcessGrid
from server.job import Job
from server.rounds import execute
from tests.federation import history, kinds, replaced, roster, rows, together

from .test_job import PRIVACY, job

Sites = Callable[..., list[Path]]


def asked(
    folder: Path, sites: int = 4, *, privacy: dict[str, Any] | None = None, **more: Any
) -> Job:
    folder.mkdir(exist_ok=True)
    shared = {**PRIVACY, "trust": "distributed", **(privacy or {})}
    return replace(job(folder, sites=sites, **more), privacy=Privacy(**shared))


def grid(folders: list[Path], app: Any = None, listener: Any = None) -> InProcessGrid:
    nodes = {n + 2: str(f) for n, f in enumerate(folders)}
    return InProcessGrid(app or make_app(), nodes, listener)


def paid(folder: Path) -> dict[str, int]:
    site = Site.open(folder)
    found = Counter(e.body["purpose"] for e in site.ledger.entries() if e.kind == "charge")
    site.ledger.close_file()
    return dict(found)


@pytest.mark.parametrize(
    "remember", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["one process", "amnesia"]
)
def test_a_run_charges_every_site_for_the_sum_and_keeps_no_key(
    tmp_path: Path, sites: Sites, remember: bool
) -> None:
    folders = sites(4, **together(4))
    record = execute(grid(folders, make_app(remember=remember)), asked(tmp_path / "out"))
    expected = ["open", "reserve", *["charge", "release"] * 6, "close"]
    assert [kinds(folder) for folder in folders] == [expected] * 4
    assert (record["trust"], record["max_colluding"], record["min_sites"]) == ("distributed", 1, 4)
    assert (record["rounds"], record["spare_rounds"], record["rounds_abandoned"]) == (3, 1, 0)
    assert "At most 1 of all 4 sites of the roster tells" in " ".join(record["assumptions"])
    assert [site["rounds_joined"] for site in record["sites"]] == [3] * 4
    assert [site["units"] for site in record["sites"]] == [None] * 4
    assert record["units"] == pytest.approx(240, abs=200)
    assert record["epsilon_spent"] <= 2.0
    assert set(record["utility"]) >= {"auroc", "auprc"}
    assert record["estimates"]["sites"] == 4
    assert not [path for folder in folders for path in (folder / RUNS).glob("*")]


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dp_risk.privacy.noise.discrete_gaussian",
        lambda bits, size, randomness: np.zeros(size, int),
    )


@pytest.mark.slow
def test_but_for_the_noise_it_is_a_run_on_all_rows_in_one_place(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = sites(5, **together(5, public=True, units=48))
    # No gradient is as long as this, so that nothing is clipped.
    shared = asked(tmp_path / "shared", 5, privacy={"clip_norm": 10.0}, learning_rate=1.0)
    bare = asked(
        tmp_path / "bare", 5, privacy={"trust": "none", "epsilon": None}, learning_rate=1.0
    )
    execute(grid(folders), replace(bare, run="run-bare"))
    exact = safetensors.numpy.load_file(tmp_path / "bare" / "model.safetensors")
    noisy = execute(grid(folders), replace(shared, run="run-noisy"))
    assert noisy["sigma"] > 1
    found = safetensors.numpy.load_file(tmp_path / "shared" / "model.safetensors")
    assert any(np.abs(found[name] - exact[name]).max() > 1e-3 for name in exact)
    without_noise(monkeypatch)
    execute(grid(folders), replace(shared, run="run-quiet"))
    found = safetensors.numpy.load_file(tmp_path / "shared" / "model.safetensors")
    for name, array in exact.items():
        np.testing.assert_allclose(found[name], array, atol=1e-3 * np.abs(array).max())


def histogram(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> Sum:
    """Return the sum that finds the bins in a run."""
    seen: list[Sum] = []
    honest = server.rounds.evaluate

    def evaluate(plan: Any, ask: Any, **more: Any) -> Any:
        def watched(purpose: str, cells: int, **values: Any) -> Sum:
            seen.append(ask(purpose, cells, **values))
            return seen[-1]

        return honest(plan, watched, **more)

    monkeypatch.setattr("server.rounds.evaluate", evaluate)
    work()
    return seen[0]


@pytest.mark.slow
@pytest.mark.statistical
def test_the_noise_of_the_sum_is_what_it_says(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flake rate is below 1e-6: the standard deviation of 256 cells, at 5 of its own."""
    folders = sites(4, **together(4, public=True, units=60))
    # The weights stay where they are, so that both runs bin the same scores.
    one = asked(tmp_path / "out", learning_rate=1e-12, spare_rounds=0)
    with monkeypatch.context() as patch:
        noisy = histogram(patch, lambda: execute(grid(folders), replace(one, run="run-1")))
    with monkeypatch.context() as patch:
        without_noise(patch)
        exact = histogram(patch, lambda: execute(grid(folders), replace(one, run="run-2")))
    error = noisy.arrays["histogram"] - exact.arrays["histogram"]
    assert exact.arrays["histogram"].sum() == pytest.approx(60, abs=25)
    assert 0.78 < error.std() / noisy.std < 1.22
    # A third more than one site's noise in variance, not four times as much.
    local = asked(tmp_path / "local", privacy={"trust": "local"})
    with monkeypatch.context() as patch:
        alone = histogram(patch, lambda: execute(grid(folders), replace(local, run="run-3")))
    assert alone.std / noisy.std == pytest.approx(np.sqrt(4 / (4 / 3)), rel=0.01)


@pytest.mark.statistical
def test_what_one_site_sends_looks_uniform(tmp_path: Path, sites: Sites) -> None:
    """The flake rate is 1e-7."""
    folders, masked = sites(3, **together(3)), []

    def listen(_: Message, reply: Message) -> None:
        content = reply.content
        if set(content) == {wire.ARRAYS, wire.RECEIPT}:
            release = wire.read_release(content)
            assert set(release.arrays) == {"masked"}
            masked.append(release.arrays["masked"])

    execute(grid(folders, listener=listen), asked(tmp_path / "out", 3, rounds=40))
    counts = np.bincount(np.concatenate(masked).view(np.uint8), minlength=256)
    assert counts.sum() > 20_000
    assert stats.chisquare(counts).pvalue > 1e-7


class Flaky:
    """A ClientApp whose sites fall silent at a message, for good or for that message only."""

    def __init__(self, silent: Callable[[int, Message], bool]) -> None:
        self.silent, self.app = silent, make_app()

    def __call__(self, message: Message, context: Context) -> Message:
        if self.silent(context.node_id, message):
            raise RuntimeError("gone")
        return self.app(message, context)


@pytest.mark.slow
def test_a_third_of_the_sites_is_lost_on_the_way(tmp_path: Path, sites: Sites) -> None:
    folders = sites(9, **together(9))
    # Node 2 leaves at its 3rd round of training, node 4 at its 7th, node 6 in the evaluation.
    last, seen = {2: 2, 4: 6, 6: 20}, Counter[int]()

    def silent(node: int, message: Message) -> bool:
        kind = message.metadata.message_type
        if kind in ("train", "query.evaluation"):
            seen[node] += 20 if kind == "query.evaluation" else 1
        return node in last and seen[node] > last[node]

    record = execute(
        grid(folders, Flaky(silent)), asked(tmp_path / "out", 9, min_sites=6, rounds=10)
    )
    assert (record["spare_rounds"], record["rounds_abandoned"]) == (4, 3)
    assert record["answers_lost"] == 2
    joined = [site["rounds_joined"] for site in record["sites"]]
    assert joined == [2, 10, 6 - 1, 10, 10, 10, 10, 10, 10]
    assert record["estimates"]["sites"] == 6
    stayed = [paid(folder) for number, folder in enumerate(folders) if number + 2 not in last]
    assert stayed == [{"counts": 1, "training": 12, "score_bins": 1, "evaluation": 2}] * 6
    assert paid(folders[0]) == {"counts": 1, "training": 2}
    for folder in folders:
        history(folder)


@pytest.mark.slow
def test_three_of_ten_sites_leave_at_random_and_every_ledger_is_right(
    tmp_path: Path, sites: Sites
) -> None:
    folders, rng = sites(50, table=rows(1500), **together(50)), np.random.default_rng(5)
    gone, reached = set[int](), {node: set[tuple[str, int]]() for node in range(2, 52)}
    leave = {int(node) + 2: int(rng.integers(20)) for node in rng.permutation(50)[:15]}

    def silent(node: int, message: Message) -> bool:
        kind = message.metadata.message_type
        values = wire.read_request(message).values
        if kind == "train" and values["round"] >= leave.get(node, 99):
            gone.add(node)
        if node not in gone and "round" in values:
            reached[node].add((kind, values["round"]))
        return node in gone

    record = execute(
        grid(folders, Flaky(silent)), asked(tmp_path / "out", 50, min_sites=35, rounds=20)
    )
    assert len(gone) == record["answers_lost"] == 15
    assert record["spare_rounds"] == 15 + 2
    # Sites that leave in the same round cost one round together.
    assert 1 < record["rounds_abandoned"] <= 15
    assert record["rounds"] + record["rounds_abandoned"] == max(
        len([1 for kind, _ in asked_of if kind == "train"]) for asked_of in reached.values()
    )
    purposes = {
        "train": "training", "query.counts": "counts", "query.score_bins": "score_bins",
        "query.evaluation": "evaluation",
    }  # fmt: skip
    for number, folder in enumerate(folders):
        assert paid(folder) == Counter(purposes[kind] for kind, _ in reached[number + 2])
        history(folder)


@pytest.mark.slow
def test_messages_are_lost_at_random_and_the_run_finishes(tmp_path: Path, sites: Sites) -> None:
    folders, rng = sites(6, **together(6)), np.random.default_rng(3)

    def silent(node: int, message: Message) -> bool:
        del node
        kind = message.metadata.message_type
        plain = kind in ("query.status", "query.enrol", "query.meet", "query.close")
        return not plain and rng.random() < 0.05

    record = execute(
        grid(folders, Flaky(silent)), asked(tmp_path / "out", 6, min_sites=4, rounds=20)
    )
    assert len((tmp_path / "out" / "rounds.jsonl").read_text().splitlines()) == 20
    most = 20 + record["spare_rounds"]
    for folder in folders:
        found = paid(folder)
        # A request that was lost was never charged; one that was repeated was charged once.
        assert 20 - record["rounds_abandoned"] <= found["training"] <= most


def test_an_answer_that_was_lost_on_the_way_is_given_again_for_nothing(
    tmp_path: Path, sites: Sites
) -> None:
    folders, once, app = sites(3, **together(3)), set[int](), make_app()

    def losing(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train" and context.node_id not in once:
            once.add(context.node_id)
            raise RuntimeError("lost")
        return reply

    record = execute(grid(folders, losing), asked(tmp_path / "out", 3))
    assert record["rounds_abandoned"] == 0
    assert [paid(folder)["training"] for folder in folders] == [3] * 3


def test_a_site_that_comes_back_takes_part_again(tmp_path: Path, sites: Sites) -> None:
    folders, seen = sites(4, **together(4)), Counter[int]()

    def silent(node: int, message: Message) -> bool:
        if message.metadata.message_type in ("train", "query.status"):
            seen[node] += 1
        # Silent for its second round, and when it is asked whether it is there.
        return node == 3 and 2 < seen[node] <= 6

    record = execute(
        grid(folders, Flaky(silent)), asked(tmp_path / "out", 4, min_sites=3, rounds=20)
    )
    joined = [site["rounds_joined"] for site in record["sites"]]
    assert joined[0] == joined[2] == joined[3] == 20
    assert 1 < joined[1] < 20
    assert record["rounds_abandoned"] == 1


def test_too_few_sites_end_the_run_and_charges_stay(tmp_path: Path, sites: Sites) -> None:
    folders, seen = sites(4, **together(4)), Counter[int]()

    def silent(node: int, message: Message) -> bool:
        seen[node] += message.metadata.message_type == "train"
        return node in (3, 4) and seen[node] > 1

    with pytest.raises(FederationError, match=r"2 of 4 sites are left for training, 3 .*site-01"):
        execute(grid(folders, Flaky(silent)), asked(tmp_path / "out", min_sites=3, timeout=0.5))
    assert paid(folders[0]) == {"counts": 1, "training": 2}
    assert paid(folders[1]) == {"counts": 1, "training": 1}
    assert kinds(folders[0])[-1] == "close"


def test_spare_rounds_end(tmp_path: Path, sites: Sites) -> None:
    folders, app = sites(4, **together(4)), make_app()

    def refusing(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train" and context.node_id == 3:
            return Message(wire.refusal_record(), reply_to=message)
        return reply

    with pytest.raises(
        FederationError,
        match=r"3 of 4 .* training round 2, 4 are needed, and none of 1 spare .* site-01",
    ):
        execute(grid(folders, refusing), asked(tmp_path / "out", spare_rounds=1))
    # What cannot be finished costs no more.
    assert [paid(folder)["training"] for folder in folders] == [2] * 4


def test_a_site_that_is_there_and_never_answers_costs_few_rounds(
    tmp_path: Path, sites: Sites
) -> None:
    folders, app = sites(4, **together(4)), make_app()

    def refusing(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train" and context.node_id == 3:
            return Message(wire.refusal_record(), reply_to=message)
        return reply

    record = execute(
        grid(folders, refusing), asked(tmp_path / "out", min_sites=3, rounds=20, spare_rounds=5)
    )
    # Named in rounds 1, 2, 4, 8, 16: the wait doubles each time.
    assert record["rounds_abandoned"] == 5
    assert [paid(folder)["training"] for folder in folders] == [25, 5, 25, 25]
    assert [site["rounds_joined"] for site in record["sites"]] == [20, 0, 20, 20]
    assert record["epsilon_spent"] <= record["epsilon_target"]
    for folder in folders:
        history(folder)


def test_sites_that_do_not_accept_each_other_end_the_run_before_any_charge(
    tmp_path: Path, sites: Sites
) -> None:
    from clients.policy import Policy

    folders = sites(3, **together(3))
    rules = Policy.load(folders[1] / "policy.yaml")
    more = roster(10)
    replaced(rules, roster=more).save(folders[1] / "policy.yaml")
    with pytest.raises(Refused, match="3 of 3 sites did not accept the others") as error:
        execute(grid(folders), asked(tmp_path / "out", 3))
    assert "\n" not in str(error.value)
    assert [kinds(folder) for folder in folders] == [["open", "reserve", "close"]] * 3


def test_a_site_whose_policy_has_no_roster_refuses(tmp_path: Path, sites: Sites) -> None:
    folders = sites(3, trusts=("local", "distributed"))
    with pytest.raises(Refused, match="refused: the run asks epsilon 2"):
        execute(grid(folders), asked(tmp_path / "out", 3))
    folders = [folder for folder in folders if kinds(folder) == ["open"]]
    assert len(folders) == 3


def test_a_vector_that_was_not_asked_for_is_found_out(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = sites(3, **together(3))
    honest = noising.Session.answer

    def absurd(self: Any, ledger: Any, **values: Any) -> Any:
        if values["purpose"] == "training" and self._site == "site-01":
            self._pairs = {name: bytes(32) for name in self._pairs}
        return honest(self, ledger, **values)

    monkeypatch.setattr(noising.Session, "answer", absurd)
    with pytest.raises(FederationError, match="absurd"):
        execute(grid(folders), asked(tmp_path / "out", 3))


@pytest.mark.parametrize(
    ("privacy", "federation", "message"),
    [
        ({}, {"sites": 2}, "federation.sites: 2: .*at least 3"),
        ({"max_colluding": 3}, {"sites": 4}, "max_colluding: 3 of 4 sites; .* = 2"),
        ({}, {"sites": 4, "min_sites": 2}, "federation.min_sites: 2: .*needs 3 sites"),
        ({}, {"sites": 4, "steps_per_round": 2}, "federation.steps_per_round"),
        ({"max_sites_per_unit": 2}, {"sites": 4}, "privacy.max_sites_per_unit"),
    ],
)
def test_what_a_secure_sum_cannot_do_is_refused_in_one_line(
    tmp_path: Path, privacy: dict[str, Any], federation: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        asked(tmp_path / "out", privacy=privacy, **federation)
    assert "\n" not in str(error.value)


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_parts_are_the_arrays_that_were_put_together(shapes: list[list[int]]) -> None:
    arrays = {str(n): np.random.default_rng(n).random(shape) for n, shape in enumerate(shapes)}
    flat = np.concatenate([array.ravel() for array in arrays.values()])
    again = parts(flat, {name: array.shape for name, array in arrays.items()})
    assert set(again) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_a_question_says_nothing_more_unless_told() -> None:
    assert Question(purpose="counts", shapes={"units": (1,)}).more == {}
