"""The real client while its process stands still: what has arrived meanwhile is read before a timeout is believed.

The servers are in threads of their own, and answer while the loop of the client is blocked beyond the timeout.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
import uvloop

from forwarder.growlytics.client import GrowlyticsClient
from forwarder.growlytics.outcome import Delivered, Outcome, Rejected, Retryable
from tests.fakes.certificates import Authority
from tests.fakes.client_harness import BODY, NO_ANSWER, OK, opened
from tests.fakes.raw_server import answer
from tests.fakes.slow_server import SlowServer, slow_server

Run = Callable[[Coroutine[None, None, None]], None]

POSTS = 4
TIMEOUT_SECONDS = 0.3
ANSWER_SECONDS = 0.1
STALL_SECONDS = 0.45
PACES = (1, 4, 16)
"""As many times as long may all of these be, where the machine is too busy for less."""

both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
both_ways = pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def at_some_pace(once: Callable[[float], None]) -> None:
    """Try in short times, which a busy machine does not keep to, then in longer ones, of which the last must do."""
    for pace in PACES:
        try:
            once(pace)
        except AssertionError:
            if pace == PACES[-1]:
                raise
        else:
            return


def stand_still(pace: float) -> None:
    """Block the loop beyond the timeout, as if the process was stopped."""
    time.sleep(STALL_SECONDS * pace)


def posting(client: GrowlyticsClient) -> list[asyncio.Task[Outcome]]:
    return [asyncio.create_task(client.post(BODY)) for _ in range(POSTS)]


async def on_the_wire(posts: Sequence[asyncio.Task[Outcome]], *servers: SlowServer) -> None:
    """Wait until all that is posted to each of them has come. Raise AssertionError if that takes longer than the timeout."""
    while any(server.bodies.count(BODY) < POSTS for server in servers):
        assert not any(post.done() and isinstance(post.result(), Retryable) for post in posts)
        await asyncio.sleep(0.001)


LARGE = answer("200 OK", b'{"padding":"' + b"x" * 400_000 + b'","success":false}')
ANSWERS: list[tuple[tuple[bytes, ...], Outcome]] = [
    ((OK,), Delivered()),
    ((OK[:-16], OK[-16:]), Delivered()),  # head and body apart
    ((OK[:9], OK[9:-16], OK[-16:]), Delivered()),
    ((b"HTTP/1.1 103 Early Hints\r\n\r\n", OK), Delivered()),
    ((LARGE,), Rejected(200)),
    ((LARGE[:500], LARGE[500:]), Rejected(200)),
    ((b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b'{"success":false}'), Rejected(200)),
    ((b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"success":false,',), Rejected(200)),  # the rest never comes
]


@both_loops
@both_ways
def test_answers_that_came_while_the_process_stood_still_are_used(run: Run, is_tls: bool, authority: Authority) -> None:
    ca_file = authority.file if is_tls else None

    async def attempt(servers: list[SlowServer], pace: float) -> None:
        async with AsyncExitStack() as stack:
            clients = [opened(each.url, timeout=TIMEOUT_SECONDS * pace, ca_file=ca_file) for each in servers]
            posts = [posting(await stack.enter_async_context(client)) for client in clients]
            await on_the_wire([post for some in posts for post in some], *servers)
            stand_still(pace)
            for (pieces, expected), some in zip(ANSWERS, posts, strict=True):
                assert await asyncio.gather(*some) == [expected] * POSTS, pieces[0][:80]

    def once(pace: float) -> None:
        with ExitStack() as stack:
            tls = authority.tls if is_tls else None
            servers = [
                stack.enter_context(slow_server(*pieces, seconds=ANSWER_SECONDS * pace / len(pieces), tls=tls))
                for pieces, _ in ANSWERS
            ]
            run(attempt(servers, pace))
            assert [len(server.bodies) for server in servers] == [POSTS] * len(servers)

    at_some_pace(once)


@both_loops
@both_ways
@pytest.mark.parametrize("turns", [1, 4])
def test_a_process_that_stands_still_while_it_connects_or_writes_makes_no_event_twice_nor_gives_up(
    run: Run, is_tls: bool, turns: int, authority: Authority
) -> None:
    """The connection is made, and perhaps the request sent, although the time for that is over when the loop goes on."""

    async def attempt(server: SlowServer, ca_file: Path | None, pace: float) -> None:
        async with opened(server.url, timeout=TIMEOUT_SECONDS * pace, ca_file=ca_file) as client:
            posts = posting(client)
            for _ in range(turns):
                await asyncio.sleep(0)
            stand_still(pace)
            assert await asyncio.gather(*posts) == [Delivered()] * POSTS
            assert len(server.bodies) == POSTS

    def once(pace: float) -> None:
        with slow_server(OK, seconds=ANSWER_SECONDS * pace, tls=authority.tls if is_tls else None) as server:
            run(attempt(server, authority.file if is_tls else None, pace))

    at_some_pace(once)


@both_loops
@both_ways
@pytest.mark.parametrize("turns", [0, 1])
def test_a_process_that_stands_still_when_it_writes_on_kept_connections_waits_for_the_answers(
    run: Run, is_tls: bool, turns: int, authority: Authority
) -> None:
    async def attempt(server: SlowServer, ca_file: Path | None, pace: float) -> None:
        async with opened(server.url, timeout=TIMEOUT_SECONDS * pace, ca_file=ca_file) as client:
            assert await asyncio.gather(*(client.post(b"first") for _ in range(POSTS))) == [Delivered()] * POSTS
            posts = posting(client)
            for _ in range(turns):
                await asyncio.sleep(0)
            stand_still(pace)
            assert await asyncio.gather(*posts) == [Delivered()] * POSTS
            assert server.bodies == [b"first"] * POSTS + [BODY] * POSTS

    def once(pace: float) -> None:
        with slow_server(OK, seconds=ANSWER_SECONDS * pace, tls=authority.tls if is_tls else None) as server:
            run(attempt(server, authority.file if is_tls else None, pace))

    at_some_pace(once)


async def after_a_stall(server: SlowServer, expected: Outcome, pace: float) -> None:
    async with opened(server.url, timeout=TIMEOUT_SECONDS * pace) as client:
        posts = posting(client)
        await on_the_wire(posts, server)
        stand_still(pace)
        assert await asyncio.gather(*posts) == [expected] * POSTS


@both_loops
def test_where_no_answer_came_meanwhile_it_is_a_timeout_after_all(run: Run) -> None:
    def once(pace: float) -> None:
        with slow_server(OK, seconds=60) as server:
            run(after_a_stall(server, NO_ANSWER, pace))

    at_some_pace(once)


@both_loops
def test_a_head_that_comes_at_the_very_deadline_counts_although_its_body_never_comes(run: Run) -> None:
    def once(pace: float) -> None:
        with slow_server(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{", seconds=ANSWER_SECONDS * pace) as server:
            run(after_a_stall(server, Delivered(), pace))

    at_some_pace(once)
