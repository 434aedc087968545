"""The budget of what is parsed at the same time, in virtual time: first come, first served, and all of it comes back."""

import asyncio
import gzip
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.intake.bodies import (
    EXEMPT_BYTES,
    WAIT_SECONDS,
    ParsingBudget,
    RefusedBodyError,
    Reservation,
    inflater_for,
    unpacked,
)
from tests.fakes.virtual_time import VirtualTimeLoop, in_virtual_time, now

SEVERAL_TURNS = 10
ROUNDING_SECONDS = 1e-6


async def turns() -> None:
    for _ in range(SEVERAL_TURNS):
        await asyncio.sleep(0)


def asked(budget: ParsingBudget, size_bytes: int) -> "asyncio.Task[Reservation]":
    return asyncio.create_task(budget.reserve(size_bytes))


@in_virtual_time
async def test_what_fits_is_reserved_at_once_and_comes_back_at_the_end() -> None:
    budget = ParsingBudget(100)
    with await budget.reserve(60), await budget.reserve(40):
        assert budget.reserved_bytes == 100
    assert budget.reserved_bytes == 0
    assert now() == 1000.0


@in_virtual_time
async def test_a_small_one_does_not_overtake_a_large_one_that_came_before() -> None:
    budget = ParsingBudget(100)
    first = await budget.reserve(60)
    large, small = asked(budget, 70), asked(budget, 10)
    await turns()
    assert not large.done()
    assert not small.done()
    first.release()
    await turns()
    assert large.done()
    assert small.done()
    assert budget.reserved_bytes == 80


@in_virtual_time
async def test_what_shrinks_makes_room_for_others() -> None:
    budget = ParsingBudget(100)
    first = await budget.reserve(100)
    other = asked(budget, 70)
    first.shrink(40)
    await turns()
    assert not other.done()
    first.shrink(30)
    await turns()
    assert other.done()
    first.shrink(50)
    assert budget.reserved_bytes == 100, "nothing grows again"


@in_virtual_time
async def test_who_waits_for_a_second_is_refused_and_those_behind_have_their_turn() -> None:
    budget = ParsingBudget(100)
    with await budget.reserve(60):
        large = asked(budget, 70)
        await asyncio.sleep(WAIT_SECONDS / 2)
        small = asked(budget, 40)
        with pytest.raises(RefusedBodyError) as refused:
            await large
        assert refused.value.code == "busy"
        assert now() == 1000.0 + WAIT_SECONDS
        await small
        assert now() == 1000.0 + WAIT_SECONDS


@in_virtual_time
async def test_who_is_refused_has_not_reserved_anything() -> None:
    budget = ParsingBudget(100)
    with await budget.reserve(100):
        waiting = [asked(budget, size) for size in (1, 100, 50)]
        assert all(
            isinstance(each, RefusedBodyError) for each in await asyncio.gather(*waiting, return_exceptions=True)
        )
    assert budget.reserved_bytes == 0


@in_virtual_time
async def test_a_request_that_is_cancelled_while_it_waits_keeps_nobody_from_going_on() -> None:
    budget = ParsingBudget(100)
    first = await budget.reserve(60)
    large, small = asked(budget, 70), asked(budget, 10)
    await turns()
    large.cancel()
    await turns()
    assert small.done()
    first.release()
    assert budget.reserved_bytes == 10


@in_virtual_time
async def test_a_request_that_is_cancelled_just_as_it_has_its_turn_gives_it_back() -> None:
    budget = ParsingBudget(100)
    first = await budget.reserve(100)
    waiting, next_one = asked(budget, 70), asked(budget, 70)
    await turns()
    first.release()  # it has its turn, but does not know yet
    waiting.cancel()
    await turns()
    assert waiting.cancelled()
    assert next_one.done()
    assert budget.reserved_bytes == 70


@in_virtual_time
async def test_a_reservation_may_be_released_twice_and_ends_with_its_block_however_that_ends() -> None:
    budget = ParsingBudget(100)
    with pytest.raises(ZeroDivisionError), await budget.reserve(70) as reservation:
        raise ZeroDivisionError
    reservation.release()
    assert budget.reserved_bytes == 0


@in_virtual_time
async def test_what_is_larger_than_all_there_is_takes_all_of_it() -> None:
    budget = ParsingBudget(100)
    with await budget.reserve(1000):
        assert budget.reserved_bytes == 100
    assert budget.reserved_bytes == 0


actions = st.lists(
    st.tuples(
        st.integers(1, 100),
        st.integers(0, 100),
        st.sampled_from([0.0, 0.1, 0.4, 1.5]),
        st.sampled_from([0.0, 0.1, 0.7, 2.0]),
        st.sampled_from([None, None, 0.0, 0.3, 1.0]),
    ),
    max_size=12,
)


@given(actions)
def test_whatever_happens_the_bound_holds_turns_are_in_order_and_all_comes_back(
    requests: list[tuple[int, int, float, float, float | None]],
) -> None:
    async def run() -> None:
        budget = ParsingBudget(100)
        queue: deque[int] = deque()

        async def request(number: int, size: int, shrunk: int, seconds: float) -> None:
            queue.append(number)
            started = now()
            try:
                with await budget.reserve(size) as reservation:
                    assert now() <= started + WAIT_SECONDS + ROUNDING_SECONDS
                    ahead = list(queue)[: queue.index(number)]
                    queue.remove(number)
                    await turns()  # those that had their turn before may be told of it only now
                    assert not set(ahead) & set(queue), "nobody who came before still waits"
                    assert 0 <= budget.reserved_bytes <= 100
                    await asyncio.sleep(seconds / 2)
                    reservation.shrink(shrunk)
                    await asyncio.sleep(seconds / 2)
            except RefusedBodyError:
                assert now() == pytest.approx(started + WAIT_SECONDS)
            finally:
                if number in queue:
                    queue.remove(number)

        tasks: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        for number, (size, shrunk, after, seconds, cancelled_after) in enumerate(requests):
            tasks.append(asyncio.create_task(request(number, size, shrunk, seconds)))
            if cancelled_after is not None:
                loop.call_later(cancelled_after, tasks[-1].cancel)
            await asyncio.sleep(after)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), repr(result)
        assert budget.reserved_bytes == 0

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(run())


@in_virtual_time
async def test_a_small_body_that_came_as_it_is_needs_no_leave() -> None:
    budget = ParsingBudget(EXEMPT_BYTES)
    with await budget.reserve(EXEMPT_BYTES):
        async with unpacked(b"x" * (EXEMPT_BYTES - 1), None, max_bytes=1 << 20, budget=budget) as body:
            assert len(body) == EXEMPT_BYTES - 1
        with pytest.raises(RefusedBodyError, match="busy"):
            async with unpacked(b"x" * EXEMPT_BYTES, None, max_bytes=1 << 20, budget=budget):
                pass
        with pytest.raises(RefusedBodyError, match="busy"):
            async with unpacked(gzip.compress(b""), inflater_for("gzip"), max_bytes=1 << 20, budget=budget):
                pass


@in_virtual_time
async def test_a_body_holds_its_length_until_the_block_ends_and_a_compressed_one_first_its_worst_case() -> None:
    budget = ParsingBudget(1 << 20)
    async with unpacked(b"x" * 100_000, None, max_bytes=1 << 20, budget=budget):
        assert budget.reserved_bytes == 100_000
    compressed = gzip.compress(b"x" * 600_000)
    opened = unpacked(compressed, inflater_for("gzip"), max_bytes=1 << 20, budget=budget)
    task = asyncio.create_task(opened.__aenter__())
    await asyncio.sleep(0)
    assert budget.reserved_bytes == 1 << 20
    assert await task == b"x" * 600_000
    assert budget.reserved_bytes == 600_000
    await opened.__aexit__(None, None, None)
    assert budget.reserved_bytes == 0


@in_virtual_time
async def test_a_body_that_cannot_be_inflated_holds_nothing() -> None:
    budget = ParsingBudget(1 << 20)
    for compressed, code in ((b"x", "malformed_body"), (gzip.compress(bytes(2 << 20)), "body_too_large")):
        with pytest.raises(RefusedBodyError, match=code):
            async with unpacked(compressed, inflater_for("gzip"), max_bytes=1 << 20, budget=budget):
                pass
        assert budget.reserved_bytes == 0
