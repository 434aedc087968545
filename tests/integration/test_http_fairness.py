"""At the cap of connections, those that never completed a request go first: clients that post are safe from silent ones."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.http_intake_harness import Served, serving, until
from tests.fakes.wire import GOOD, ONE, Wire, get, in_chunks, post, wire_to

BOTH_LOOPS = True
CAP = 6


def closed(served: Served) -> float:
    found = served.telemetry.registry.get_sample_value(
        "growlytics_forwarder_connections_closed_total", {"reason": "too_many"}
    )
    assert found is not None
    return found


async def posting(served: Served, stack: AsyncExitStack, count: int) -> list[Wire]:
    """Connect clients each of which has posted once."""
    wires = [await stack.enter_async_context(wire_to(served.place)) for _ in range(count)]
    for wire in wires:
        await assert_posts(wire)
    return wires


async def assert_posts(*wires: Wire) -> None:
    for wire in wires:
        await wire.send(post(ONE))
        assert (await wire.reply()).status == 200


NEVER_COMPLETE: dict[str, bytes] = {
    "nothing": b"",
    "a byte": b"P",
    "an empty line": b"\r\n",
    "half a head": post(ONE)[:30],
    "half a body": post(ONE)[:-9],
    "half a body in chunks": in_chunks(ONE, [GOOD])[:-9],
    "an expectation": post(ONE, GOOD, "Expect: 100-continue")[: -len(GOOD)],
    "what is refused before its body": post("/nothing")[:-9],
}


@pytest.mark.parametrize("at_unix_socket", [False, True])
@pytest.mark.parametrize("begun", NEVER_COMPLETE.values(), ids=NEVER_COMPLETE)
async def test_clients_that_have_posted_are_never_pushed_out_by_those_that_have_not(
    tmp_path: Path, begun: bytes, at_unix_socket: bool
) -> None:
    unix = tmp_path / "s" if at_unix_socket else None
    async with serving(unix=unix, max_connections=CAP) as served, AsyncExitStack() as stack:
        wires = await posting(served, stack, CAP - 1)
        for number in range(5 * CAP):
            silent = await stack.enter_async_context(wire_to(served.place))
            await silent.send_what_is_taken(begun)
            if number % CAP == 0:
                await assert_posts(*wires)
        await until(lambda: closed(served) >= 4 * CAP, what="those that are too many are closed")
        await assert_posts(*wires)
        await assert_posts(*await posting(served, stack, 1))
        await assert_posts(*wires)


async def test_a_cap_full_of_clients_that_post_is_not_shaken_by_silent_ones() -> None:
    async with serving(max_connections=CAP) as served, AsyncExitStack() as stack:
        wires = await posting(served, stack, CAP)
        for _ in range(5 * CAP):
            await stack.enter_async_context(wire_to(served.place))
        await until(lambda: closed(served) >= 5 * CAP - 1, what="all but one newcomer are closed")
        await assert_posts(*wires)


async def test_silent_clients_that_were_there_first_make_room_for_those_that_post() -> None:
    async with serving(max_connections=CAP) as served, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(wire_to(served.place)) for _ in range(CAP)]
        wires = await posting(served, stack, CAP - 1)
        await assert_posts(*wires)
        ended = [await wire.rest() for wire in silent[: CAP - 2]]
        assert ended == [[]] * (CAP - 2)


async def test_among_clients_that_post_the_one_whose_last_request_is_longest_ago_goes() -> None:
    async with serving(max_connections=3) as served, AsyncExitStack() as stack:
        first, second, third = await posting(served, stack, 3)
        await assert_posts(first)
        (fourth,) = await posting(served, stack, 1)
        assert await second.rest() == []
        await assert_posts(third, first, fourth)
        assert closed(served) == 1


async def test_a_newcomer_gets_in_and_posts_however_full_it_is() -> None:
    async with serving(max_connections=3) as served, AsyncExitStack() as stack:
        await posting(served, stack, 3)
        for _ in range(10):
            await posting(served, stack, 1)
        for _ in range(10):
            await stack.enter_async_context(wire_to(served.place))
        await posting(served, stack, 1)
        assert served.counts().accepted == 14


async def test_questions_are_requests_too() -> None:
    async with serving(max_connections=3) as served, AsyncExitStack() as stack:
        asking = [await stack.enter_async_context(wire_to(served.place)) for _ in range(2)]
        for wire in asking:
            await wire.send(get("/v1/status"))
            assert (await wire.reply()).status == 200
        for _ in range(9):
            await stack.enter_async_context(wire_to(served.place))
        await until(lambda: closed(served) >= 8, what="the silent ones are closed")
        for wire in asking:
            await wire.send(get("/v1/status"))
            assert (await wire.reply()).status == 200


async def test_a_client_whose_next_body_is_on_its_way_is_not_pushed_out_by_silent_ones() -> None:
    async with serving(max_connections=3, body_timeout_seconds=60) as served, AsyncExitStack() as stack:
        wires = await posting(served, stack, 2)
        for wire in wires:
            await wire.send(post(ONE)[:-9])
        for _ in range(9):
            await stack.enter_async_context(wire_to(served.place))
        await until(lambda: closed(served) >= 8, what="the silent ones are closed")
        for wire in wires:
            await wire.send(GOOD[-9:])
            assert (await wire.reply()).status == 200
