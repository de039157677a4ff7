"""A server that is killed anywhere goes on where it was."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Context, Message

from clients.app import make_app
from clients.site import LEDGER, Site
from dp_risk.federation import files
from dp_risk.privacy.planning import Privacy
from dp_risk.types import VerificationError
from server.grids import InProcessGrid
from server.job import Job
from server.rounds import execute
from tests.federation import history, together

from .test_job import PRIVACY, job

Sites = Callable[..., list[Path]]
# So many messages are in a run of three rounds with two sites (local), or three (distributed).
TRUSTS = ("local", "distributed")


class Killed(BaseException):
    """The end of a server: nothing that it still wanted to do is done."""


class Mortal(InProcessGrid):
    """A grid whose server is killed at one message: before a site hears it, or before the reply."""

    def __init__(self, app: Any, folders: list[Path], at: int, after: bool) -> None:
        super().__init__(app, {n + 2: str(f) for n, f in enumerate(folders)})
        self.left, self.after = at, after

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids: list[str] = []
        for message in messages:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise Killed
            ids += super().push_messages([message])
            if self.left == 0:
                raise Killed
        return ids


def asked(folder: Path, trust: str, sites: int, **more: Any) -> Job:
    folder.mkdir(exist_ok=True)
    shared = {**PRIVACY, "trust": trust, "randomness": "seeded"}
    values = {"sites": sites, **more}
    return replace(job(folder, **values), privacy=Privacy(**shared), resumable=True)


def federation(sites: Sites, trust: str) -> list[Path]:
    count = 2 if trust == "local" else 3
    return sites(count, **together(count, public=True, units=None))


def model(folder: Path) -> dict[str, Any]:
    return dict(safetensors.numpy.load_file(folder / "model.safetensors"))


def paid(folder: Path) -> Counter[str]:
    site = Site.open(folder)
    found = Counter(e.body["purpose"] for e in site.ledger.entries() if e.kind == "charge")
    site.ledger.close_file()
    return found


def lengths(sites: Sites, out: Path, trust: str) -> int:
    """Return how many messages a whole run is."""
    folders = federation(sites, trust)
    grid = Mortal(make_app(), folders, 10**6, False)
    execute(grid, asked(out, trust, len(folders)))
    return 10**6 - grid.left


def killed_once(tmp_path: Path, sites: Sites, trust: str, at: int, after: bool) -> None:
    folders = federation(sites, trust)
    one = asked(tmp_path / "out", trust, len(folders))
    with pytest.raises(Killed):
        execute(Mortal(make_app(), folders, at, after), one)
    record = execute(Mortal(make_app(), folders, 10**6, False), one)
    assert record["rounds_abandoned"] == record["answers_lost"] == 0
    expected = {"counts": 1, "training": 3, "score_bins": 1, "evaluation": 1}
    for folder in folders:
        assert paid(folder) == expected
        assert [kind for kind, _ in history(folder)][-1] == "close"
    lines = (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"round": {n}' for n in (1, 2, 3)]


@pytest.fixture
def unharmed(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """The model of a run that nobody disturbed, on sites of its own."""

    def run(trust: str) -> dict[str, Any]:
        from tests import federation as tiny

        count = 2 if trust == "local" else 3
        folders = [
            tiny.make_site(
                tmp_path / "unharmed" / f"site-{n:02d}",
                tiny.rows().take(list(range(n, 300, count))),
                tiny.policy(site=f"site-{n:02d}", **together(count, public=True, units=None)),
            )
            for n in range(count)
        ]
        execute(Mortal(make_app(), folders, 10**6, False), asked(tmp_path / "whole", trust, count))
        return model(tmp_path / "whole")

    return run


@pytest.mark.parametrize("trust", TRUSTS)
@pytest.mark.parametrize(("at", "after"), [(5, True), (10, False), (13, True), (16, False)])
def test_a_killed_server_ends_with_the_same_model_and_the_same_charges(
    tmp_path: Path, sites: Sites, unharmed: Any, trust: str, at: int, after: bool
) -> None:
    killed_once(tmp_path, sites, trust, at, after)
    expected = unharmed(trust)
    for name, array in model(tmp_path / "out").items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.slow
@pytest.mark.parametrize("trust", TRUSTS)
def test_a_server_may_be_killed_at_every_message(tmp_path: Path, unharmed: Any, trust: str) -> None:
    from tests import federation as tiny

    expected, count, at = unharmed(trust), 2 if trust == "local" else 3, 1
    while True:
        for after in (False, True):
            place = tmp_path / f"{at}-{after}"
            place.mkdir()

            def sites(n: int, place: Path = place, **changes: Any) -> list[Path]:
                return [
                    tiny.make_site(
                        place / f"site-{i:02d}",
                        tiny.rows().take(list(range(i, 300, n))),
                        tiny.policy(site=f"site-{i:02d}", **changes),
                    )
                    for i in range(n)
                ]

            try:
                killed_once(place, sites, trust, at, after)
            except pytest.fail.Exception:
                # It ended before this message.
                assert at > 6 * count
                return
            if (place / "out" / "model.safetensors").exists():
                for name, array in model(place / "out").items():
                    np.testing.assert_array_equal(array, expected[name])
        at += 1


def test_a_server_may_be_killed_again_and_again(
    tmp_path: Path, sites: Sites, unharmed: Any
) -> None:
    folders = federation(sites, "distributed")
    one, deaths = asked(tmp_path / "out", "distributed", 3), 0
    while True:
        try:
            execute(Mortal(make_app(remember=False), folders, 17, deaths % 2 == 0), one)
            break
        except Killed:
            deaths += 1
            assert deaths < 30
    assert deaths > 2
    expected = unharmed("distributed")
    for name, array in model(tmp_path / "out").items():
        np.testing.assert_array_equal(array, expected[name])


class DyingSite:
    """A ClientApp of which one site dies once: between its charge and its release."""

    def __init__(self, node: int, round: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app, self.node, self.round, self.patch = (
            make_app(remember=False),
            node,
            round,
            monkeypatch,
        )
        self.died = False

    def __call__(self, message: Message, context: Context) -> Message:
        from dp_risk import wire

        values = wire.read_request(message).values
        due = message.metadata.message_type == "train" and values["round"] == self.round
        if due and context.node_id == self.node and not self.died:
            self.died = True
            with self.patch.context() as patch:
                patch.setattr("clients.site.compute", self._die)
                return self.app(message, context)
        return self.app(message, context)

    @staticmethod
    def _die(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the site is killed after its charge")


@pytest.mark.parametrize("trust", TRUSTS)
def test_a_kill_between_charge_and_release_spends_a_spare_round(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch, trust: str
) -> None:
    folders = federation(sites, trust)
    app = DyingSite(3, 1, monkeypatch)
    one = asked(tmp_path / "out", trust, len(folders), spare_rounds=1)
    record = execute(Mortal(app, folders, 10**6, False), one)
    assert (record["rounds"], record["rounds_abandoned"], record["answers_lost"]) == (3, 1, 0 + 1)
    assert [paid(folder)["training"] for folder in folders] == [4] * len(folders)
    assert record["epsilon_spent"] <= record["epsilon_target"]
    assert [site["rounds_joined"] for site in record["sites"]] == [3] * len(folders)


def test_a_ledger_that_forgot_charges_while_nobody_served_is_noticed(
    tmp_path: Path, sites: Sites
) -> None:
    folders = federation(sites, "local")
    one = asked(tmp_path / "out", "local", 2)
    # Two statuses, two enrolments, two counts, then rounds of training.
    with pytest.raises(Killed):
        execute(Mortal(make_app(), folders, 8, True), one)
    history(folders[0])
    older = (folders[0] / LEDGER).read_bytes()
    with pytest.raises(Killed):
        execute(Mortal(make_app(), folders, 9, True), one)
    history(folders[0])
    gc.collect()
    for leftover in folders[0].glob(f"{LEDGER}-*"):
        leftover.unlink()
    (folders[0] / LEDGER).write_bytes(older)
    with pytest.raises(VerificationError, match=r"site-00: its ledger holds .* older copy"):
        execute(Mortal(make_app(), folders, 10**6, False), one)


def test_estimates_that_nobody_answered_are_not_asked_again(tmp_path: Path, sites: Sites) -> None:
    folders, app = federation(sites, "local"), make_app()

    def silent(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.evaluation":
            raise RuntimeError("gone")
        return app(message, context)

    one = asked(tmp_path / "out", "local", 2, timeout=0.1)
    # The last message is the second close.
    length = 10**6
    grid = Mortal(silent, folders, length, False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.record.build", _killed)
        with pytest.raises(Killed):
            execute(grid, one)
    record = execute(Mortal(app, folders, length, False), one)
    assert record["estimates"] is None
    assert paid(folders[0])["evaluation"] == 0


def _killed(*_: Any, **__: Any) -> Any:
    raise Killed


def test_a_run_that_is_not_resumable_keeps_no_journal(tmp_path: Path, sites: Sites) -> None:
    folders = federation(sites, "local")
    one = replace(asked(tmp_path / "out", "local", 2), resumable=False)
    with pytest.raises(Killed):
        execute(Mortal(make_app(), folders, 9, True), one)
    assert not (tmp_path / "out" / "journal").exists()
    # It was closed: what never ran is given back.
    assert [kind for kind, _ in history(folders[0])][-1] == "close"


def test_a_record_is_there_whole_or_not_at_all(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = federation(sites, "local")
    one = asked(tmp_path / "out", "local", 2)
    with monkeypatch.context() as power:
        # The content is written by then, and the file is not in its place.
        power.setattr(files, "os", SimpleNamespace(**{**vars(os), "fsync": _killed}))
        with pytest.raises(Killed):
            execute(Mortal(make_app(), folders, 10**6, False), one)
    assert not (tmp_path / "out" / "run.json").exists()
    record = execute(Mortal(make_app(), folders, 10**6, False), one)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == record


def test_a_site_that_forgets_at_the_end_is_named_and_the_record_stays(
    tmp_path: Path, sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = federation(sites, "local")
    honest = Site.statement

    def lying(self: Site, run: str | None, entry: int | None = None) -> dict[str, Any]:
        said = honest(self, run, entry)
        if self.policy.site == "site-01" and said["open_run"] is None and run:
            said["run"] = {**said["run"], "rounds": {}}
        return said

    monkeypatch.setattr(Site, "statement", lying)
    heads = tmp_path / "heads.json"
    one = replace(asked(tmp_path / "out", "local", 2), memory=heads)
    record = execute(Mortal(make_app(), folders, 10**6, False), one)
    [doubt] = record["doubts"]
    assert doubt.startswith("site-01: its ledger holds 0 charges of ")
    assert record["assumptions"][0] == f"Does not hold: {doubt}."
    kept = {
        head["site"]: head["entries"] for head in json.loads(heads.read_text())["heads"].values()
    }
    # Its last head is not believed: that of its enrolment stays.
    assert kept["site-01"] < kept["site-00"]
