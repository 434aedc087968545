"""Plain posts over real sockets: taken without aiohttp's requests, and for a client no other than those that are not."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from forwarder.intake.connections import Connections, Server
from forwarder.intake.direct import DirectConnection, Headers
from forwarder.settings import Address, IntakeSettings, Secret
from forwarder.telemetry import Telemetry
from tests.fakes.http_intake_harness import DEADLINE_SECONDS, Connection, Served, request_bytes, serving, until
from tests.fakes.passing_time import let_pass

BOTH_LOOPS = True
ONE = "/track/event"
GOOD = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
POST = request_bytes(ONE, GOOD)


def requests_of_aiohttp(served: Served) -> int:
    assert served.intake._runner is not None
    assert served.intake._runner.server is not None
    return served.intake._runner.server.requests_count


async def raw_answer(served: Served, *segments: bytes) -> bytes:
    """Send a request on a connection of its own and return all that comes until nothing more does, but for the date."""
    async with served.connection() as connection:
        for segment in segments:
            await connection.send(segment)
            await let_pass(0.02)
        head = await connection._reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"Content-Length: (\d+)", head)
        assert found is not None
        answer = head + await connection._reader.readexactly(int(found[1]))
        if b"Connection: close" in head:
            assert await connection.has_ended()
        return re.sub(rb'Date: [^\r]+|"id":"\d+"', b"-", answer)


# What is taken directly


@pytest.mark.parametrize("headers", [{}, {"Content_Type": "application/json"}, {"Idempotency_Key": "k"}])
async def test_a_plain_post_is_taken_without_a_request_of_aiohttp(headers: dict[str, str]) -> None:
    async with serving() as served, served.connection() as connection:
        for _ in range(3):
            assert (await connection.request(ONE, GOOD, **headers)).status == 200
        assert requests_of_aiohttp(served) == 0
        assert served.counts().accepted == (1 if "Idempotency_Key" in headers else 3)
        assert (await connection.request("/v1/events", GOOD)).status == 202
        assert (await connection.request(ONE, [GOOD])).status == 200
        assert requests_of_aiohttp(served) == 2
        assert (await connection.request(ONE, GOOD, **headers)).status == 200
        assert requests_of_aiohttp(served) == 2
        assert served.telemetry.registry.get_sample_value("growlytics_forwarder_intake_duration_seconds_count") == 6


@pytest.mark.parametrize(
    ("body", "settings", "status"),
    [
        (GOOD, {}, 200),
        (b"{}", {}, 422),
        (b"{", {}, 400),
        (GOOD, {"max_events": 1}, 429),
        (GOOD, {"max_bytes": 10}, 413),
    ],
)
async def test_the_answer_is_the_one_that_aiohttp_writes(body: bytes, settings: dict[str, Any], status: int) -> None:
    async with serving(**settings) as served:
        if "max_events" in settings:
            assert (await served.post(ONE, GOOD)).status == 200
        post = request_bytes(ONE, body)
        before = requests_of_aiohttp(served)
        direct = await raw_answer(served, post)
        assert requests_of_aiohttp(served) == before
        assert direct.startswith(b"HTTP/1.1 %d " % status)
        assert await raw_answer(served, post[:-1], post[-1:]) == direct
        assert requests_of_aiohttp(served) == before + 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Encoding": "br"}, 415),
        ({"Content_Encoding": "gzip"}, 400),
        ({"Upgrade": "h2c", "Connection": "Upgrade"}, 200),
        ({"Connection": "close"}, 200),
        ({"Expect": "100-continue"}, 200),
    ],
)
async def test_a_post_about_which_anything_is_special_goes_the_usual_way(headers: dict[str, str], status: int) -> None:
    async with serving() as served:
        assert (await served.post(ONE, GOOD, **headers)).status == status
        assert requests_of_aiohttp(served) == 1
        served.counts().assert_balanced()


async def test_a_plain_post_without_the_token_is_refused_and_counted_once() -> None:
    async with serving(token=Secret("some-token")) as served:
        assert (await served.post(ONE, GOOD)).status == 401
        assert served.counts().rejected == {"unauthorized": 1}
        assert (await served.post(ONE, GOOD, x_growlytics_key="some-token")).status == 200
        assert requests_of_aiohttp(served) == 1


async def test_a_body_beyond_the_bound_is_refused_before_it_is_parsed() -> None:
    async with serving(max_body_bytes=50) as served:
        assert (await served.post(ONE, GOOD)).status == 413
        assert served.counts().rejected == {"body_too_large": 1}


# While one is taken


class SlowPosts:
    """Takes posts when it is told to, and answers with their bodies."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.began: list[bytes] = []
        self.ended: list[bytes] = []

    def are_taken(self, headers: Headers, size_bytes: int) -> bool:  # noqa: ARG002 - a protocol's shape
        return "Not-Plain" not in headers

    async def answer(self, headers: Headers, body: bytes) -> tuple[bytes, bool]:  # noqa: ARG002
        self.began.append(body)
        await self.go_on.wait()
        self.ended.append(body)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), body == b"last"


@asynccontextmanager
async def slow(posts: SlowPosts, *, keepalive_seconds: float = 75.0) -> AsyncIterator[Connection]:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"usual " + await request.read())

    def refuse(request: web.BaseRequest, error: BaseException | None, status: int) -> web.Response:
        return web.Response(status=status)

    settings = IntakeSettings(header_timeout_seconds=0.5)
    connections = Connections(settings, telemetry=Telemetry(), too_slow=b"too slow")
    make = partial(DirectConnection, posts=posts)
    server = Server(handle, connections=connections, refuse=refuse, make=make)
    server._kwargs["keepalive_timeout"] = keepalive_seconds
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    connections.start()
    address = Address(*runner.addresses[0][:2])
    connection = Connection(*await asyncio.open_connection(address.host, address.port))
    try:
        yield connection
    finally:
        await connection.close()
        connections.stop()
        await runner.cleanup()


async def test_what_comes_before_the_answer_is_answered_after_it_and_in_order() -> None:
    posts = SlowPosts()
    async with slow(posts) as connection:
        await connection.send(request_bytes(ONE, b"1"))
        await until(lambda: posts.began == [b"1"], what="the first is taken")
        for body in (b"2", b"3"):
            await connection.send(request_bytes(ONE, body))
        await connection.send(request_bytes(ONE, b"4", Not_Plain="") + request_bytes(ONE, b"5")[:40])
        await let_pass(0.05)
        assert posts.began == [b"1"]
        posts.go_on.set()
        bodies = [(await connection.answer()).body.removeprefix(b"usual ") for _ in range(4)]
        await connection.send(request_bytes(ONE, b"5")[40:])
        bodies.append((await connection.answer()).body.removeprefix(b"usual "))
        assert bodies == [b"1", b"2", b"3", b"4", b"5"]


async def test_a_flood_that_comes_before_the_answer_is_not_read() -> None:
    posts = SlowPosts()
    async with slow(posts) as connection:
        await connection.send(request_bytes(ONE, b"1"))
        await until(lambda: posts.began == [b"1"], what="the first is taken")
        sending = asyncio.create_task(connection.send(b"x" * 100_000_000))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        assert not done
        sending.cancel()
        connection._writer.transport.abort()


async def test_nothing_more_is_taken_directly_of_a_client_that_does_not_read_its_answers() -> None:
    class Verbose(SlowPosts):
        async def answer(self, headers: Headers, body: bytes) -> tuple[bytes, bool]:
            answer, closes = await super().answer(headers, body)
            head, _, _ = answer.partition(b"\r\n")
            return head + b"\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000, closes

    posts = Verbose()
    posts.go_on.set()
    async with slow(posts) as connection:
        await connection.send(POST)
        await until(lambda: len(posts.ended) == 1, what="the first is taken")
        for number in range(10):
            await connection.send(request_bytes(ONE, b"%d" % number))
            await asyncio.sleep(0.01)
        assert len(posts.ended) == 1
        assert len((await connection.answer()).body) == 10_000_000
        assert [(await connection.answer()).body for _ in range(10)] == [b"usual %d" % number for number in range(10)]


async def test_a_client_that_waits_for_its_answer_for_long_is_not_idle_and_is_when_it_has_it() -> None:
    posts = SlowPosts()
    async with slow(posts, keepalive_seconds=10) as connection:
        await connection.send(POST)
        await let_pass(80)
        posts.go_on.set()
        assert (await connection.answer()).status == 200
        await let_pass(20)
        assert await connection.has_ended()


async def test_a_post_whose_client_leaves_is_taken_all_the_same() -> None:
    posts = SlowPosts()
    async with slow(posts) as connection:
        await connection.send(POST)
        await until(lambda: len(posts.began) == 1, what="it is taken")
        await connection.reset()
        await let_pass(0.05)
        posts.go_on.set()
        await until(lambda: posts.ended == [GOOD], what="it is taken to its end")


async def test_a_connection_is_closed_after_an_answer_that_says_so() -> None:
    posts = SlowPosts()
    posts.go_on.set()
    async with slow(posts) as connection:
        assert (await connection.request(ONE, b"last")).body == b"last"
        assert await connection.has_ended()


async def test_a_bug_costs_only_its_own_post(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served:

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(served.buffer, "put", fail)
            answer = await served.post(ONE, GOOD)
            assert (answer.status, answer.codes, answer.announces_close) == (500, ["internal_error"], True)
        assert (await served.post(ONE, GOOD)).status == 200
        assert requests_of_aiohttp(served) == 0


async def test_closing_waits_for_a_plain_post_that_is_being_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as served, served.connection() as connection:
        put, go_on, began = served.buffer.put, asyncio.Event(), asyncio.Event()

        async def slow_put(*arguments: object, **options: object) -> object:
            began.set()
            await go_on.wait()
            return await put(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(served.buffer, "put", slow_put)
        await connection.send(POST)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await began.wait()
        closing = asyncio.create_task(served.intake.close())
        await let_pass(0.05)
        assert not closing.done()
        go_on.set()
        assert (await connection.answer()).status == 200
        await closing


async def test_what_direct_connections_use_of_aiohttp_is_there() -> None:
    """Fail when aiohttp renames what is overridden or read: it would go unnoticed else."""
    for name in ("data_received", "_process_keepalive"):
        assert name in vars(DirectConnection)
        assert callable(getattr(web.RequestHandler, name)), name
    async with serving() as served, served.connection() as connection:
        assert (await connection.request(ONE, GOOD)).status == 200
        (made,) = served.intake._connections._open
        assert isinstance(made, DirectConnection)
        assert isinstance(made._waiter, asyncio.Future)
        assert (made._close, made._force_close) == (False, False)
        assert made._next_keepalive_close_time > asyncio.get_running_loop().time() + 60
        assert made._keepalive_timeout == 75
