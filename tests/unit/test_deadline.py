"""Deadlines of a process that may stand still, in virtual time."""

import asyncio
from math import inf

import pytest

from forwarder.growlytics.deadline import CHANCES, READING_SECONDS, STALLED_SECONDS, Deadline, Sweep
from tests.fakes.virtual_time import VirtualTimeLoop, in_virtual_time, now


def stand_still(seconds: float) -> None:
    """Let time go by without the loop, as when the process is stopped."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.stand_still(seconds)


class Watched:
    """A deadline that a sweep looks at, and when it passed."""

    def __init__(self, seconds: float, *, came: int = 0) -> None:
        self.passed_at: list[float] = []
        self.came = came
        self.deadline = Deadline()
        self.sweep = Sweep(self._look)
        self.start(seconds)

    def start(self, seconds: float) -> None:
        self.deadline.start(now() + seconds, now())
        self.sweep.look_by(self.deadline.at)

    def bring_forward(self, seconds: float) -> None:
        self.deadline.bring_forward(now() + seconds)
        self.sweep.look_by(self.deadline.at)

    def _look(self, at: float) -> float:
        if self.deadline.has_passed(at, self._something_came):
            self.passed_at.append(now())
        return self.deadline.at

    def _something_came(self) -> bool:
        self.came -= 1
        return self.came >= 0


@in_virtual_time
async def test_it_passes_in_time_where_nothing_came_and_nothing_stood_still() -> None:
    began, watched = now(), Watched(3)
    await asyncio.sleep(10)
    assert watched.passed_at == [began + 3]


@in_virtual_time
async def test_it_is_not_called_after_it_was_cancelled() -> None:
    watched = Watched(3)
    watched.sweep.cancel()
    await asyncio.sleep(10)
    assert watched.passed_at == []


@in_virtual_time
async def test_what_lies_in_the_socket_is_read_before_it_is_believed() -> None:
    began, watched = now(), Watched(3, came=1)
    await asyncio.sleep(10)
    assert watched.passed_at == [pytest.approx(began + 3 + READING_SECONDS)]


@in_virtual_time
async def test_a_far_side_of_which_something_always_comes_cannot_put_it_off_for_long() -> None:
    began, watched = now(), Watched(3, came=1_000_000)
    await asyncio.sleep(10)
    assert watched.passed_at == [pytest.approx(began + 3 + CHANCES * READING_SECONDS)]


@in_virtual_time
async def test_after_the_process_stood_still_the_far_side_gets_the_time_that_the_deadline_was_late() -> None:
    began, watched = now(), Watched(3)
    await asyncio.sleep(1)
    stand_still(4)
    await asyncio.sleep(10)
    assert watched.passed_at == [pytest.approx(began + 1 + 4 + 2)]


@in_virtual_time
async def test_after_a_very_long_time_it_gets_no_more_than_it_had_at_first() -> None:
    began, watched = now(), Watched(3)
    stand_still(86_400)
    await asyncio.sleep(10)
    assert watched.passed_at == [pytest.approx(began + 86_400 + 3)]


@in_virtual_time
async def test_the_process_may_stand_still_again() -> None:
    watched = Watched(3)
    for _ in range(CHANCES):
        stand_still(10)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert watched.passed_at == []
    stand_still(10)
    await asyncio.sleep(10)
    assert len(watched.passed_at) == 1


@in_virtual_time
async def test_the_usual_lateness_of_a_busy_loop_is_none() -> None:
    began, watched = now(), Watched(3)
    stand_still(3 + STALLED_SECONDS / 2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert watched.passed_at == [began + 3 + STALLED_SECONDS / 2]


@in_virtual_time
async def test_it_can_be_brought_forward_again_and_again_but_never_beyond_what_it_was() -> None:
    began, watched = now(), Watched(3)
    for _ in range(5):
        await asyncio.sleep(0.5)
        watched.bring_forward(1)
    await asyncio.sleep(10)
    assert watched.passed_at == [began + 3]
    began, watched = now(), Watched(3)
    watched.bring_forward(1)
    await asyncio.sleep(10)
    assert watched.passed_at == [began + 1]


@in_virtual_time
async def test_a_sweep_looks_at_the_earliest_deadline_in_whichever_order_they_are_told() -> None:
    began, looks = now(), list[float]()
    later = {began + 2: began + 4, began + 4: inf}

    def look(at: float) -> float:
        looks.append(now())
        return later[at]

    sweep = Sweep(look)
    for seconds in (5, 2, 3):
        sweep.look_by(began + seconds)
    await asyncio.sleep(10)
    assert looks == [began + 2, began + 4]
    assert sweep.at == inf


@in_virtual_time
async def test_a_sweep_sets_no_timer_while_there_is_no_deadline() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)

    async def turns_meanwhile() -> int:
        before = loop.turns
        await asyncio.sleep(1000)
        return loop.turns - before

    without_sweep = await turns_meanwhile()
    sweep = Sweep(lambda _: inf)
    sweep.look_by(inf)
    assert await turns_meanwhile() == without_sweep
    sweep.look_by(now() + 1)
    assert await turns_meanwhile() > without_sweep
    assert await turns_meanwhile() == without_sweep


@in_virtual_time
async def test_a_sweep_that_fails_once_looks_again() -> None:
    looks = 0

    def look(_: float) -> float:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        return inf

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    sweep = Sweep(look)
    sweep.look_by(now() + 1)
    await asyncio.sleep(2)
    sweep.look_by(now() + 1)
    await asyncio.sleep(2)
    assert looks == 2
