"""The clocks that tests move on behave like those that move by themselves."""

import asyncio
import socket

import pytest

from tests.fakes.passing_time import LOOPS, PassingTimeLoop, PassingTimeUvloop, let_pass


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> type[PassingTimeLoop] | type[PassingTimeUvloop]:
    return LOOPS[request.param]


def test_timers_run_in_their_order_at_their_time_and_no_other_does(
    loop: type[PassingTimeLoop] | type[PassingTimeUvloop],
) -> None:
    async def test() -> None:
        running = asyncio.get_running_loop()
        ran: list[int] = []
        before = running.time()
        for seconds in (300, 100, 200, 4000):
            running.call_later(seconds, ran.append, seconds)
        running.call_at(before + 150, ran.append, 150)
        cancelled = running.call_later(120, ran.append, 120)
        cancelled.cancel()
        assert cancelled.cancelled()
        await let_pass(1000)
        assert ran == [100, 150, 200, 300]
        assert running.time() - before > 999.9

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())


def test_timeouts_sleeps_and_sockets_work_and_what_repeats_is_repeated(
    loop: type[PassingTimeLoop] | type[PassingTimeUvloop],
) -> None:
    async def test() -> None:
        woken = 0

        async def every_minute() -> None:
            nonlocal woken
            while True:
                await asyncio.sleep(60)
                woken += 1

        async def in_vain() -> None:
            async with asyncio.timeout(500):
                await asyncio.Event().wait()

        repeating, timing_out = asyncio.create_task(every_minute()), asyncio.create_task(in_vain())
        await asyncio.sleep(0)
        await let_pass(1000)
        assert 9 <= woken <= 16
        with pytest.raises(TimeoutError):
            await timing_out
        repeating.cancel()
        await asyncio.sleep(0.001)
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            theirs.sendall(b"hello\n")
            async with asyncio.timeout(10):
                assert await reader.readline() == b"hello\n"
            writer.close()
            await writer.wait_closed()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(test())
