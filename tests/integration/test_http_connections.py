"""Connections over real sockets: how many are kept, how long a client may take, and that nothing of them is left."""

import asyncio
import gc
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from forwarder.host.open_files import affordable
from forwarder.http.messages import State
from tests.fakes.http_intake_harness import Connection, Served, request_bytes, serving, until
from tests.fakes.passing_time import let_pass

BOTH_LOOPS = True
ONE = "/track/event"
BATCH = "/v1/events"
GOOD = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
POST = request_bytes(ONE, GOOD)


def closed(served: Served, reason: str) -> int:
    found = served.telemetry.registry.get_sample_value(
        "growlytics_forwarder_connections_closed_total", {"reason": reason}
    )
    assert found is not None
    return int(found)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def connect(served: Served, stack: AsyncExitStack) -> Connection:
    """Connect, and wait for the intake to know of it."""
    before = kept(served)
    connection = await stack.enter_async_context(served.connection())
    await until(lambda: kept(served) != before or closed(served, "too_many") > 0, what="the connection is accepted")
    return connection


def kept(served: Served) -> int:
    return len(served.intake.connections)


# The cap


async def test_at_the_cap_the_one_whose_last_request_is_longest_ago_goes() -> None:
    async with serving(max_connections=3) as served, AsyncExitStack() as stack:
        first, second, third = [await connect(served, stack) for _ in range(3)]
        for connection in (second, first):
            assert (await connection.request(ONE, GOOD)).status == 200
        fourth = await connect(served, stack)
        assert await third.has_ended()  # it never asked for anything
        assert closed(served, "too_many") == 1
        assert (await fourth.request("/nothing", b"")).status == 404
        fifth = await connect(served, stack)
        assert kept(served) == 4, "one more, which is new, may be open"
        assert (await fifth.request(ONE, GOOD)).status == 200
        assert await second.has_ended()
        for connection in (first, fourth, fifth):
            assert (await connection.request(ONE, GOOD)).status == 200
        assert closed(served, "too_many") == 2
        assert kept(served) == 3


async def test_what_is_no_complete_request_does_not_count_as_one() -> None:
    async with serving(max_connections=2) as served, AsyncExitStack() as stack:
        dripping, half = [await connect(served, stack) for _ in range(2)]
        await half.send(POST[:-5])
        await dripping.send(POST[:20])
        await let_pass(0.1)
        good = await connect(served, stack)
        assert await dripping.has_ended()
        await half.send(POST[-5:])
        assert (await half.answer()).status == 200
        await connect(served, stack)
        assert await good.has_ended()
        assert (await half.request(ONE, GOOD)).status == 200


async def test_a_unix_socket_has_a_cap_of_its_own(tmp_path: Path) -> None:
    async with serving(unix=tmp_path / "s", max_connections=2) as served, AsyncExitStack() as stack:
        first = await connect(served, stack)
        for _ in range(5):
            await connect(served, stack)
        assert await first.has_ended()
        await until(lambda: closed(served, "too_many") == 4, what="the rest are closed")
        assert kept(served) == 2


async def test_a_steady_client_is_not_in_the_way_of_a_stampede() -> None:
    async with serving(max_connections=20) as served, AsyncExitStack() as stack:
        good = await connect(served, stack)
        for _ in range(30):
            for _ in range(10):
                await stack.enter_async_context(served.connection())
            assert (await good.request(ONE, GOOD)).status == 200
        assert kept(served) <= 20


# Time for headers


async def test_headers_that_do_not_end_in_time_are_answered_408_and_closed() -> None:
    async with serving(header_timeout_seconds=30) as served, served.connection() as connection:
        await connection.send(POST[:10])
        await let_pass(25)
        assert closed(served, "header_timeout") == 0
        await let_pass(10)
        answer = await connection.answer()
        assert (answer.status, answer.codes) == (408, ["too_slow"])
        assert answer.announces_close
        assert "header_timeout_seconds" in answer.content["errors"][0]["message"]
        assert await connection.has_ended()
        assert closed(served, "header_timeout") == 1
        assert served.counts().received == 0
        await until(lambda: kept(served) == 0, what="it is forgotten")


async def test_headers_that_drip_are_too_slow_however_steadily_they_come() -> None:
    async with serving(header_timeout_seconds=30) as served, served.connection() as connection:
        await connection.send(b"POST /track/event HTTP/1.1\r\n")
        seconds = 0
        while not closed(served, "header_timeout"):
            await connection.send(b"X")
            await let_pass(1)
            seconds += 1
            assert seconds <= 35
        assert (await connection.answer()).status == 408


async def test_a_silent_client_is_closed_without_a_word() -> None:
    async with serving(header_timeout_seconds=20) as served, served.connection() as connection:
        await let_pass(30)
        assert await connection.has_ended()
        assert closed(served, "header_timeout") == 1


@pytest.mark.parametrize("begun", [b"P", b"\r\nP", POST[:-90], POST[:40]])
async def test_a_kept_connection_may_be_idle_but_not_begin_a_request_and_leave_it(begun: bytes) -> None:
    async with serving(header_timeout_seconds=20) as served, served.connection() as connection:
        assert (await connection.request(ONE, GOOD)).status == 200
        await let_pass(60)
        assert (await connection.request("/v1/status", b"", method="GET")).status == 200
        await let_pass(40)
        assert closed(served, "header_timeout") == 0
        await connection.send(begun)
        await let_pass(25)
        assert (await connection.answer()).status == 408
        assert await connection.has_ended()
        assert closed(served, "header_timeout") == 1


async def test_a_body_has_a_time_of_its_own() -> None:
    async with (
        serving(header_timeout_seconds=20, body_timeout_seconds=150) as served,
        served.connection() as connection,
    ):
        await connection.send(POST[:-5])
        await let_pass(120)
        await connection.send(POST[-5:])
        assert (await connection.answer()).status == 200
        await connection.send(POST[:-5])
        await let_pass(160)
        answer = await connection.answer()
        assert (answer.status, answer.codes) == (408, ["too_slow"])
        assert (closed(served, "header_timeout"), closed(served, "body_timeout")) == (0, 1)
        assert served.counts().rejected == {"too_slow": 1}


async def test_pipelined_requests_are_not_taken_for_slow_headers() -> None:
    async with serving(header_timeout_seconds=20) as served, served.connection() as connection:
        await connection.send(POST * 200 + POST[:30])
        for _ in range(200):
            assert (await connection.answer()).status == 200
        await connection.send(POST[30:])
        assert (await connection.answer()).status == 200
        await let_pass(60)
        assert (await connection.request(ONE, GOOD)).status == 200
        assert closed(served, "header_timeout") == 0


CHUNKED = (
    b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
)
LONG = request_bytes(ONE, b" " * 900_000 + GOOD)
WHOLE: dict[str, tuple[list[bytes], int]] = {
    "one": ([POST], 1),
    "chunked": ([CHUNKED], 1),
    "without a body": ([request_bytes("/v1/status", b"", method="GET")], 1),
    "its body apart": ([POST[:-5], POST[-5:]], 1),
    "its headers apart": ([POST[:30], POST[30:]], 1),
    "its last byte apart": ([POST[:-1], POST[-1:]], 1),
    "its chunks apart": ([CHUNKED[:-40], CHUNKED[-40:-1], CHUNKED[-1:]], 1),
    "several": ([POST + CHUNKED + POST], 3),
    "very many": ([POST * 100], 100),
    "many": ([POST * 32], 32),
    "a body longer than is read at once": ([LONG], 1),
    "such bodies, pipelined": ([LONG + CHUNKED + LONG], 3),
}  # fmt: skip


@pytest.mark.parametrize("begun", [b"P", b"POST /track/event HTTP/1.1\r\nHo"])
@pytest.mark.parametrize(("segments", "requests"), WHOLE.values(), ids=WHOLE.keys())
async def test_headers_that_begin_in_the_segment_of_a_request_must_end_in_time_too(
    segments: list[bytes], requests: int, begun: bytes
) -> None:
    async def ask(connection: Connection, more: bytes) -> None:
        for segment in (*segments[:-1], segments[-1] + more):
            await connection.send(segment)
            await let_pass(0.02)
        for _ in range(requests):
            assert (await connection.answer()).status == 200

    async with serving(header_timeout_seconds=30) as served, served.connection() as connection:
        await ask(connection, b"")
        await let_pass(60)
        assert closed(served, "header_timeout") == 0, "it is idle, and may be"
        await ask(connection, begun)
        await let_pass(40)
        answer = await connection.answer()
        assert (answer.status, answer.codes) == (408, ["too_slow"])
        assert await connection.has_ended()
        assert closed(served, "header_timeout") == 1


@pytest.mark.parametrize("cut", [1, 40, len(POST) - 90, len(POST) - 1])
async def test_headers_that_begin_so_and_end_in_time_are_a_request(cut: int) -> None:
    async with (
        serving(header_timeout_seconds=30, body_timeout_seconds=30) as served,
        served.connection() as connection,
    ):
        await connection.send(POST + POST[:cut])
        assert (await connection.answer()).status == 200
        await let_pass(20)
        await connection.send(POST[cut:])
        assert (await connection.answer()).status == 200
        await let_pass(60)
        assert (await connection.request(ONE, GOOD)).status == 200
        assert closed(served, "header_timeout") == 0
        assert served.counts().accepted == 3


# Answers that nobody reads


@pytest.mark.parametrize("path", ["/v1/status", "/nothing"])
async def test_a_client_that_asks_again_and_again_and_reads_nothing_is_closed(path: str) -> None:
    async with serving(body_timeout_seconds=50, header_timeout_seconds=30) as served:
        big = "x" * 100_000
        served.status["state"] = big
        rude = socket.create_connection((served.place.host, served.place.port))  # type: ignore[union-attr]
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        rude.setblocking(False)
        data = request_bytes(path, b"", method="GET") * 1000
        await until(lambda: kept(served) == 1, what="it is accepted")
        sent = 0
        async with asyncio.timeout(20):
            while not served.awaiting(State.UNREAD):
                with suppress(BlockingIOError):
                    sent += rude.send(data)
                await asyncio.sleep(0)
        assert sent < 100 << 20
        assert kept(served) == 1
        await let_pass(70)
        await until(lambda: kept(served) == 0, what="it is closed")
        rude.close()
        assert closed(served, "answer_timeout") == 1


async def test_an_answer_that_cannot_be_written_before_the_close_does_not_hold_the_connection() -> None:
    async with serving(body_timeout_seconds=40) as served:
        served.status["state"] = "x" * 8_000_000
        rude = socket.create_connection((served.place.host, served.place.port))  # type: ignore[union-attr]
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        rude.sendall(request_bytes("/v1/status", b"", method="GET", Connection="close"))
        await until(lambda: kept(served) == 1, what="it is accepted")
        await let_pass(0.1)
        assert kept(served) == 1
        await let_pass(60)
        await until(lambda: kept(served) == 0, what="it is closed")
        rude.close()


async def test_a_client_that_reads_slowly_but_steadily_gets_all_of_its_answer() -> None:
    async with serving() as served, served.connection() as connection:
        served.status["state"] = "x" * 3_000_000
        answer = await connection.request("/v1/status", b"", method="GET")
        assert len(answer.body) > 3_000_000


# What never ends


ENDLESS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "request line": (b"POST /", lambda _: b"x" * 1000),
    "method": (b"P", lambda _: b"O" * 1000),
    "header name": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX", lambda _: b"x" * 1000),
    "header value": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX: ", lambda _: b"x" * 1000),
    "headers": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\n", lambda i: b"X%d: 1\r\n" % i),
    "empty lines": (b"", lambda _: b"\r\n" * 500),
    "chunk size": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        lambda _: b"0" * 1000,
    ),
    "chunk extension": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        lambda _: b"x" * 1000,
    ),
    "trailer": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
        lambda _: b"x" * 1000,
    ),
    "trailers": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        lambda i: b"X%d: 1\r\n" % i,
    ),
    "empty chunks' extensions": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        lambda _: b"1;" + b"x" * 1000 + b"\r\n \r\n",
    ),
    "body of what is not found": (
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        lambda _: b"3e8\r\n" + b" " * 1000 + b"\r\n",
    ),
}


@pytest.mark.parametrize(("head", "more"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_what_never_ends_is_ended(head: bytes, more: Callable[[int], bytes]) -> None:
    async with serving(header_timeout_seconds=50, body_timeout_seconds=50) as served:
        _, writer = await asyncio.open_connection(served.place.host, served.place.port)  # type: ignore[union-attr]
        await until(lambda: kept(served) == 1, what="it is accepted")
        writer.write(head)
        seconds = 0
        while kept(served):
            writer.write(b"".join(more(20 * seconds + i) for i in range(20)))
            await let_pass(1)
            seconds += 1
            assert seconds < 120
        writer.close()
        assert served.counts().accepted == 0
        assert served.counts().received <= 1


# Nothing is left


@pytest.mark.parametrize("at_unix_socket", [False, True])
async def test_connections_that_come_and_go_leave_nothing(tmp_path: Path, at_unix_socket: bool) -> None:
    async with serving(unix=tmp_path / "s" if at_unix_socket else None) as served:
        endings = [
            b"",
            b"P",
            POST[:30],
            POST[:-5],
            POST,
            POST + POST[:10],
            b"}\r\n\r\n",
            request_bytes(ONE, [GOOD])[:-2],
        ]

        async def churn(connections: int) -> tuple[int, int, int]:
            for number in range(connections):
                connection = await served.connect()
                await connection.send(endings[number % len(endings)])
                await (connection.reset() if number % 3 and not at_unix_socket else connection.close())
            await until(lambda: kept(served) == 0, what="all are closed")
            await asyncio.sleep(0.05)
            gc.collect()
            return open_files(), len(asyncio.all_tasks()), len(gc.get_objects())

        files, tasks, objects = await churn(400)
        await served.take_all()
        await churn(800)
        await served.take_all()
        gc.collect()
        assert open_files() == files
        assert len(asyncio.all_tasks()) == tasks
        assert len(gc.get_objects()) < objects + 2000
        assert (await served.post(ONE, GOOD)).status == 200
        served.counts().assert_balanced()


# File descriptors

LIMITED = """
import resource, sys
from forwarder.host.open_files import affordable
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(affordable({wanted}, listeners={listeners}, others={others}), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "listeners", "others", "cap", "raised_to"),
    [
        (1024, 20_000, 1024, 3, 64, 1024, 256 + 64 + 3 * 128 + 3 * 1024),
        (10_000, 20_000, 1024, 2, 64, 1024, 10_000),
        (512, 2000, 1024, 2, 100, (2000 - 256 - 100 - 256) // 2, 2000),
        (256, 256, 1024, 2, 64, 1, 256),
        (1024, 4096, 65_536, 1, 0, 4096 - 256 - 128, 4096),
    ],
)
def test_the_cap_is_what_the_limit_of_file_descriptors_can_carry(
    soft: int, hard: int, wanted: int, listeners: int, others: int, cap: int, raised_to: int
) -> None:
    script = LIMITED.format(soft=soft, hard=hard, wanted=wanted, listeners=listeners, others=others)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(cap), str(raised_to), str(hard)]


def test_an_unlimited_number_of_file_descriptors_carries_every_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert affordable(65_536, listeners=3) == 65_536


def test_a_limit_that_cannot_be_raised_is_made_do_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert affordable(1024, listeners=1) == 1024 - 256 - 128
