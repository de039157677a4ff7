from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.types import FederationError
from server.attendance import Attendance, listed

SITES = ("a", "b", "c", "d")


class World:
    """Sites that are there or not, and a clock that only pauses move."""

    def __init__(self, *there: str) -> None:
        self.there, self.polls, self.pauses = set(there), 0, 0
        self.returning: dict[int, str] = {}

    def ready(self, sites: Sequence[str]) -> set[str]:
        self.polls += 1
        return self.there & set(sites)

    def pause(self, seconds: float) -> None:
        self.pauses += 1
        if self.pauses in self.returning:
            self.there.add(self.returning[self.pauses])


def attendance(world: World, fewest: int = 3, seconds: float = 60.0) -> Attendance:
    return Attendance(SITES, fewest=fewest, ready=world.ready, seconds=seconds, pause=world.pause)


def test_all_are_named_and_nobody_is_asked_while_nobody_is_lost() -> None:
    world = World()
    assert attendance(world).named("training") == list(SITES)
    assert world.polls == 0


def test_a_lost_site_is_named_again_once_it_is_back() -> None:
    world = World("a", "b", "c")
    here = attendance(world)
    here.lose(["d"])
    assert here.named("training") == ["a", "b", "c"]
    world.there.add("d")
    assert here.named("training") == ["a", "b", "c"]
    assert here.named("training") == list(SITES)


def test_where_too_few_are_left_the_others_are_waited_for() -> None:
    world = World("a", "b")
    world.returning = {3: "c"}
    here = attendance(world)
    here.lose(["c", "d"])
    assert here.named("training") == ["a", "b", "c"]
    assert world.pauses == 3


def test_patience_ends_in_one_line() -> None:
    here = attendance(World("a"), seconds=0.0)
    here.lose(["b", "c", "d"])
    with pytest.raises(FederationError, match=r"^1 of 4 sites .* training, 3 .* from b, c, d; "):
        here.named("training")


def test_the_silent_are_not_waited_for_where_enough_are_left() -> None:
    world = World("a")
    here = attendance(world)
    assert here.recover(["d"], SITES) == set()
    assert world.pauses == 0
    assert here.recover(["a"], SITES) == {"a"}


def test_the_silent_are_waited_for_where_they_are_needed() -> None:
    world = World()
    world.returning = {2: "d"}
    here = attendance(world, fewest=4)
    assert here.recover(["d"], SITES) == {"d"}
    assert world.pauses == 2


@given(st.lists(st.tuples(st.sets(st.sampled_from(SITES)), st.sets(st.sampled_from(SITES)))))
def test_a_restored_attendance_goes_on_as_the_first_would(
    rounds: list[tuple[set[str], set[str]]],
) -> None:
    world = World()
    first = attendance(world, fewest=0)
    for there, lost in rounds:
        second = attendance(world, fewest=0)
        second.restore(first.state)
        assert second.state == first.state
        world.there = there
        assert first.named("training") == second.named("training")
        assert first.state == second.state
        first.lose(lost)


def test_many_names_are_cut() -> None:
    assert listed(["b", "a"]) == "a, b"
    assert listed(str(n) for n in range(9)) == "0, 1, 2, 3, 4 and more"
