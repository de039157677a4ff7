"""The supervisor with children that are no processes: whatever they do, a run gets its verdict."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.cli.federation.supervisor import Order, Patience, Supervisor
from server.link import Task
from server.queue import FAILED, FINISHED, QUEUED, RUNNING, STOPPED, Queue, Verdict
from tests.server.test_queue import queue, submit

DONE = Verdict(state=FINISHED)


class Link:
    """Flower's side, which takes note."""

    def __init__(self):
        self.started, self.ended, self.alive = 0, [], True

    def start(self) -> Task:
        self.started += 1
        return Task(run=self.started, task=self.started, token="t")

    def keep(self, task: Task) -> bool:
        return self.alive

    def end(self, task: Task) -> None:
        self.ended.append(task.run)


class Child:
    """Ends with an exit code, at once or when it is killed."""

    def __init__(self, code: int | None):
        self.killed = False
        self._over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if code is not None:
            self._over.set_result(code)

    async def wait(self) -> int:
        return await asyncio.shield(self._over)

    def kill(self) -> None:
        self.killed = True
        if not self._over.done():
            self._over.set_result(-9)


class World:
    """A supervisor whose children follow a script: each is what `acts` says, in turn."""

    def __init__(self, folder: Path, acts: list[Callable[[Queue, Order], int | None]]):
        self.queue = queue(folder)
        self.link = Link()
        self.acts = acts
        self.orders: list[Order] = []
        self.children: list[Child] = []
        self.told: list[tuple[str, dict]] = []
        self.supervisor = Supervisor(
            self.queue, self.link, self.start,
            tell=lambda name, **facts: self.told.append((name, facts)),
            patience=Patience(first=0.001, most=0.002), look=0.005,
        )  # fmt: skip

    async def start(self, order: Order) -> Child:
        act = self.acts[len(self.orders)]
        self.orders.append(order)
        child = Child(act(self.queue, order))
        self.children.append(child)
        return child

    async def until(self, what: Callable[[], object]) -> None:
        """Let it work until something holds, then cancel it as a server does that ends."""
        working = asyncio.ensure_future(self.supervisor.forever())
        for _ in range(2000):
            if what() or working.done():
                break
            await asyncio.sleep(0.001)
        working.cancel()
        outcome = (await asyncio.gather(working, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError), outcome
        assert what()

    def over(self, *runs: str) -> Callable[[], bool]:
        return lambda: all(self.queue.entry(run).over for run in runs)

    def names(self) -> list[str]:
        return [name for name, _ in self.told]


def finish(made: Queue, order: Order) -> int:
    made.judge(order.run, DONE)
    return 0


def die(made: Queue, order: Order) -> int:
    return 1


def work(made: Queue, order: Order) -> None:
    return None


def test_runs_are_done_one_after_the_other(tmp_path):
    world = World(tmp_path, [finish, finish])
    submit(world.queue, "a")
    submit(world.queue, "b")
    asyncio.run(world.until(world.over("a", "b")))
    assert [order.run for order in world.orders] == ["a", "b"]
    assert [world.queue.entry(run).state for run in "ab"] == [FINISHED, FINISHED]
    assert world.link.ended == [1, 2]
    assert world.names() == ["run started", "run finished"] * 2


@pytest.mark.parametrize("code", [0, 1, -9, -11])
def test_a_child_that_dies_without_a_verdict_is_started_again(tmp_path, code):
    world = World(tmp_path, [lambda *_: code] * 5 + [finish])
    submit(world.queue, "a")
    asyncio.run(world.until(world.over("a")))
    entry = world.queue.entry("a")
    assert (entry.state, entry.starts, entry.reason) == (FINISHED, 6, None)
    assert world.link.ended == [1, 2, 3, 4, 5, 6]
    assert all(child.killed for child in world.children)
    assert world.names().count("run interrupted") == 5
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    assert how in world.told[1][1]["reason"]


def test_a_run_that_failed_is_not_started_again_and_the_next_one_is(tmp_path):
    def fail(made, order):
        made.judge(order.run, Verdict(state=FAILED, reason="too few sites", exit_code=4))
        return 4

    world = World(tmp_path, [fail, finish])
    submit(world.queue, "a")
    submit(world.queue, "b")
    asyncio.run(world.until(world.over("a", "b")))
    entry = world.queue.entry("a")
    assert (entry.state, entry.reason, entry.exit_code) == (FAILED, "too few sites", 4)
    assert dict(world.told)["run failed"] == {
        "level": "error",
        "run": "a",
        "reason": "too few sites",
    }


def test_a_server_that_ends_kills_its_child_and_leaves_the_run_as_it_is(tmp_path):
    world = World(tmp_path, [work])
    submit(world.queue, "a")
    asyncio.run(world.until(lambda: world.children))
    assert world.children[0].killed
    assert world.link.ended == [1]
    assert world.queue.entry("a").state == RUNNING
    assert world.queue.verdict("a") is None
    assert not any(order.close for order in world.orders)


def test_the_next_server_goes_on_with_it_first(tmp_path):
    first = World(tmp_path, [work])
    submit(first.queue, "z")
    asyncio.run(first.until(lambda: first.children))
    submit(first.queue, "a")
    second = World(tmp_path, [finish, finish])
    asyncio.run(second.until(second.over("a", "z")))
    assert [order.run for order in second.orders] == ["z", "a"]
    assert second.queue.entry("z").starts == 2


def test_a_verdict_that_nobody_heard_counts(tmp_path):
    world = World(tmp_path, [])
    submit(world.queue, "a")
    world.queue.change("a", state=RUNNING)
    world.queue.judge("a", DONE)
    asyncio.run(world.until(world.over("a")))
    assert world.orders == []


def test_a_run_that_is_to_stop_is_killed_and_closed_by_another_child(tmp_path):
    def close(made, order):
        made.judge(order.run, Verdict(state=STOPPED))
        return 0

    world = World(tmp_path, [work, close])
    submit(world.queue, "a")

    async def scene():
        def act():
            if world.children and not world.queue.entry("a").stop:
                world.queue.stop("a")
                world.supervisor.wake()
            return world.queue.entry("a").over

        await world.until(act)

    asyncio.run(scene())
    assert [order.close for order in world.orders] == [False, True]
    assert world.children[0].killed
    assert world.queue.entry("a").state == STOPPED


def test_a_run_whose_sites_cannot_be_told_is_stopped_all_the_same(tmp_path):
    world = World(tmp_path, [die] * 9)
    submit(world.queue, "a")
    world.queue.change("a", state=RUNNING, stop=True)
    asyncio.run(world.until(world.over("a")))
    assert len(world.orders) == 3
    entry = world.queue.entry("a")
    assert (entry.state, entry.reason) == (STOPPED, "the sites could not be told")


def test_a_child_is_started_anew_when_flower_has_ended_its_run(tmp_path):
    world = World(tmp_path, [work, finish])
    world.link.alive = False
    submit(world.queue, "a")
    asyncio.run(world.until(world.over("a")))
    assert world.children[0].killed
    assert "asleep" in world.told[1][1]["reason"]


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path):
    def none_left(made, order):
        raise OSError(11, "Resource temporarily unavailable")

    world = World(tmp_path, [none_left, finish])
    submit(world.queue, "a")
    asyncio.run(world.until(world.over("a")))
    assert "Resource temporarily unavailable" in world.told[1][1]["reason"]
    assert world.link.ended == [1, 2]


def test_a_full_disk_ends_nothing(tmp_path, monkeypatch):
    async def scene():
        world = World(tmp_path, [finish, finish])
        submit(world.queue, "r1")
        change, left = world.queue.change, [OSError(errno.ENOSPC, "No space left on device")] * 3

        def full(run, **changes):
            if left:
                raise left.pop()
            return change(run, **changes)

        monkeypatch.setattr(world.queue, "change", full)
        await world.until(world.over("r1"))
        assert (
            "run interrupted",
            {"run": "r1", "reason": "its files cannot be written: No space left on device"},
        ) in world.told

    asyncio.run(scene())


def test_progress_is_told(tmp_path):
    def report(made, order):
        made.note(order.run, {"round": 3, "rounds": 9, "epsilon_spent": 0.5})

    world = World(tmp_path, [report])
    submit(world.queue, "a")
    asyncio.run(world.until(lambda: "run progress" in world.names()))
    facts = dict(world.told)["run progress"]
    assert facts == {"run": "a", "round": 3, "rounds": 9, "epsilon_spent": 0.5}


def test_a_long_run_is_told_in_a_few_lines(tmp_path):
    world = World(tmp_path, [lambda *_: None])
    submit(world.queue, "a")

    async def rounds():
        work = asyncio.create_task(world.supervisor.forever())
        for done in range(101):
            world.queue.note("a", {"round": done, "rounds": 100, "epsilon_spent": None})
            await asyncio.sleep(0.005)
        work.cancel()

    asyncio.run(rounds())
    told = [facts["round"] for name, facts in world.told if name == "run progress"]
    assert 3 <= len(told) <= 10
    assert told == sorted(told)


@given(first=st.floats(0.01, 10), most=st.floats(10, 600), deaths=st.integers(1, 10_000))
def test_pauses_grow_and_are_bounded(first, most, deaths):
    patience = Patience(first=first, most=most)
    pause = patience.after(deaths)
    assert first <= pause <= most
    assert patience.after(deaths + 1) >= pause


def test_a_queued_run_waits_for_a_wake(tmp_path):
    world = World(tmp_path, [finish])

    async def scene():
        def act():
            if not world.queue.entries():
                assert submit(world.queue, "a").state == QUEUED
                world.supervisor.wake()
            return world.queue.entry("a").over

        await world.until(act)

    asyncio.run(scene())
