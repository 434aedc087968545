"""The real client on connections that are kept between posts, and that the server ends when it likes.

The kernel knows that a connection ended before the loop does. As long as it knew before the first byte was written, the
event goes over another connection and nobody notices; from then on, nobody can tell whether the event arrived.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import pytest
import uvloop
from aiohttp import connector
from yarl import URL

from forwarder.growlytics.connecting import Connector
from forwarder.growlytics.connections import ApiConnections
from forwarder.growlytics.outcome import Delivered, Outcome, Retryable
from forwarder.settings import GrowlyticsSettings
from tests.fakes.client_harness import BODY, LOST, NEVER_SENT, NO_ANSWER, NO_CONNECTION, OK, PATIENCE_SECONDS, opened
from tests.fakes.impatient_server import ImpatientServer, impatient_server
from tests.fakes.raw_server import Connection, RawServer, answer, answering, raw_server

Run = Callable[[Coroutine[None, None, None]], None]

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def a_few_turns() -> None:
    """Let both ends see what is already in their sockets."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_post_that_may_not_leave_sends_nothing_and_keeps_its_connection() -> None:
    async def behave(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(OK)

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY, lambda: False) is None, "on a new connection"
        assert await client.post(BODY, lambda: True) == Delivered()
        assert await client.post(BODY, lambda: False) is None, "on the kept one"
        assert await client.post(BODY) == Delivered()
        assert (len(server.connections), len(server.requests)) == (1, 2)


async def test_a_post_after_the_server_closed_the_idle_connection_connects_anew() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.close()

    async with raw_server(behave) as server, opened(server.url) as client:
        for _ in range(5):
            assert await client.post(BODY) == Delivered()
            await a_few_turns()
        assert len(server.connections) == 5


async def test_a_post_that_meets_the_servers_close_halfway_is_lost_or_delivered_anew_but_never_rejected() -> None:
    """The server closes without having said so, at the very moment the next post begins."""

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.close()

    async with raw_server(behave) as server, opened(server.url) as client:
        outcomes = [await client.post(BODY) for _ in range(50)]
        assert set(outcomes) <= {Delivered(), LOST}
        assert outcomes[0] == Delivered()
        assert len(server.requests) == outcomes.count(Delivered())


async def test_a_reused_connection_that_is_closed_instead_of_an_answer_is_lost_and_not_tried_again_by_itself() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await connection.close()

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY) == Delivered()
        assert await client.post(BODY) == LOST
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "surplus",
    [b"garbage", b"\r\n", answer("400 Bad Request"), answer("422 No") * 3, OK],
    ids=["garbage", "a newline", "a 400", "three 422", "a 200"],
)
@pytest.mark.parametrize("together", [True, False], ids=["with the answer", "while idle"])
async def test_what_nobody_asked_for_is_not_taken_for_the_answer_to_the_next_post(
    surplus: bytes, together: bool
) -> None:
    """The server answers the second post with an honest 503: whatever came before it, that event is not done with."""
    honest = answer("503 Busy")

    async def behave(connection: Connection) -> None:
        await connection.request()
        if len(connection.server.connections) == 1 and len(connection.server.requests) == 1:
            await connection.send(OK + surplus if together else OK)
            await a_few_turns()
            if not together:
                await connection.send(surplus)
            await connection.request()
        await connection.send(honest)

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY) in (Delivered(), LOST)
        await a_few_turns()
        await a_few_turns()
        assert isinstance(await client.post(BODY), Retryable)
        assert len(server.requests) <= 2


@pytest.mark.parametrize("together", [True, False], ids=["with the answer", "while idle"])
@pytest.mark.parametrize("beginning", [b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 422 No\r\n"])
async def test_the_beginning_of_an_answer_that_nobody_asked_for_is_not_continued_by_the_next_answer(
    beginning: bytes, together: bool
) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK + beginning if together else OK)
        await a_few_turns()
        if not together:
            await connection.send(beginning)
        await connection.request()
        await connection.send(answer("503 Busy"))

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY) in (Delivered(), LOST)
        await a_few_turns()
        await a_few_turns()
        assert isinstance(await client.post(BODY), Retryable) or len(server.connections) == 2


async def test_what_is_left_of_a_request_that_was_refused_early_does_not_answer_the_next_post() -> None:
    """The server refuses by the head alone, and takes the rest of the body for a request that it does not understand."""

    async def behave(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(answer("503 Busy"))
        while data := await connection.reader.read(2**20):
            if b"POST" in data:
                await connection.send(answer("400 Bad Request"))

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(b"x" * 100_000) == Retryable("status_5xx", maybe_delivered=False)
        assert await client.post(BODY) == Retryable("status_5xx", maybe_delivered=False)
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    ("one_answer", "is_kept"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", True, id="no body"),
        pytest.param(CHUNKED + b"2\r\nok\r\n0\r\nX: y\r\n\r\n", True, id="a trailer"),
        pytest.param(b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n" + OK, True, id="two 1xx first"),
        pytest.param(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", True, id="1.0, kept"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, id="1.0"),
        pytest.param(answer("200 OK", b"ok", "Connection: close"), False, id="close"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
async def test_a_connection_is_kept_exactly_if_the_answer_lets_it(
    one_answer: bytes, is_kept: bool, in_pieces: bool
) -> None:
    async def behave(connection: Connection) -> None:
        while await connection.request():
            for start in range(0, len(one_answer), 7 if in_pieces else len(one_answer)):
                await connection.send(one_answer[start : start + 7] if in_pieces else one_answer)
                await asyncio.sleep(0)

    async with raw_server(behave) as server, opened(server.url) as client:
        for _ in range(3):
            assert await client.post(BODY) == Delivered()
        assert len(server.requests) == 3
        assert len(server.connections) == (1 if is_kept else 3)


async def test_a_host_that_has_moved_is_found_where_it_is_by_new_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    port = 0

    def found(host: str, *_: object, **__: object) -> list[object]:
        assert host == "moving.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    clock = time.monotonic
    async with raw_server(answering(OK)) as before, raw_server(answering(OK)) as after:
        connections = ApiConnections(URL("http://moving.test/"), tls=True, proxy=None, proxy_headers={})
        for server, seconds_later in ((before, 0), (before, 5), (after, 11)):
            port = server.port if seconds_later != 5 else after.port
            monkeypatch.setattr(connector, "monotonic", lambda later=seconds_later: clock() + later)
            (await connections.connect(within_seconds=PATIENCE_SECONDS)).close()
            await a_few_turns()
        assert (len(before.connections), len(after.connections)) == (2, 1)
        await connections.close()


def connections_to(server: RawServer, **settings: Any) -> ApiConnections:
    return ApiConnections(URL(server.url), tls=True, proxy=None, proxy_headers={}, **settings)


REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


async def all_closed(server: RawServer) -> None:
    """Wait until the client has closed all connections."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not all(connection.reader.at_eof() for connection in server.connections):
            await asyncio.sleep(0)


def patience() -> float:
    return asyncio.get_running_loop().time() + PATIENCE_SECONDS


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 205 Reset Content\r\nContent-Length: x\r\n\r\n"]
)
@pytest.mark.parametrize("later", [b"", b'{"success":false', b'{"success":false,"a":"}'])
async def test_a_body_that_ends_nobody_knows_where_is_waited_for_until_it_pauses(head: bytes, later: bytes) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(head)
        for at in range(len(later)):
            await a_few_turns()
            await connection.send(later[at : at + 1])

    async with raw_server(behave) as server:
        connections = connections_to(server, quiet_seconds=0.2)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        answer = await connection.exchange(REQUEST, deadline=patience())
        assert (answer.status // 100, answer.body) == (2, later)
        assert not connection.is_fit
        connections.keep(connection)
        assert await server.connections[0].closed_by_client()
        await connections.close()


async def test_a_body_that_never_pauses_is_read_until_the_deadline() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.send(b"a")
            await asyncio.sleep(0.01)

    async with raw_server(behave) as server:
        connections = connections_to(server, quiet_seconds=0.2)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        deadline = asyncio.get_running_loop().time() + 0.5
        answer = await connection.exchange(REQUEST, deadline=deadline)
        assert answer.body.strip(b"a") == b""
        assert deadline <= asyncio.get_running_loop().time() < deadline + 2
        connection.close()
        await connections.close()


# The age of connections


async def test_a_connection_that_is_old_is_replaced_after_its_answer_and_never_before() -> None:
    """As if each was too old at once: every post is answered, on a connection of its own."""
    async with raw_server(answering(OK)) as server, opened(server.url, max_age=1e-9) as client:
        for _ in range(5):
            assert await asyncio.gather(*(client.post(BODY) for _ in range(4))) == [Delivered()] * 4
        assert len(server.requests) == len(server.connections) == 20
        await all_closed(server)


async def test_a_connection_that_becomes_old_between_write_and_answer_has_its_answer() -> None:
    async def behave(connection: Connection) -> None:
        while await connection.request():
            await asyncio.sleep(0.2)
            await connection.send(OK)

    async with raw_server(behave) as server, opened(server.url, max_age=0.1) as client:
        for number in range(1, 4):
            assert await client.post(BODY) == Delivered()
            assert len(server.connections) == number
        assert len(server.requests) == 3


async def test_a_connection_that_becomes_old_while_it_is_idle_is_not_used_again() -> None:
    async with raw_server(answering(OK)) as server:
        connections = connections_to(server, max_age_seconds=0.05, random_share=lambda: 0.0)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        await connection.exchange(REQUEST, deadline=patience())
        connections.keep(connection)
        while asyncio.get_running_loop().time() < connection.made_at + 0.05:
            await asyncio.sleep(0.01)
        assert connections.take() is None
        await all_closed(server)
        await connections.close()


async def test_0_is_no_limit_of_age() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url, max_age=0) as client:
        for _ in range(20):
            assert await client.post(BODY) == Delivered()
        assert len(server.connections) == 1


async def test_another_age_is_taken_up_for_the_connections_there_are() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url, max_age=0) as client:
        for max_age, connections in ((0.0, 1), (1e-9, 2), (0.0, 3), (3600.0, 3)):
            client.use(GrowlyticsSettings(url=server.url, connection_max_age_seconds=max_age))
            assert await client.post(BODY) == Delivered()
            assert len(server.connections) == connections


class _LaterLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward."""

    later_seconds = 0.0

    def time(self) -> float:
        return super().time() + self.later_seconds


def test_each_connection_has_a_share_of_its_own_of_the_age_that_all_may_reach() -> None:
    async def attempt() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _LaterLoop)
        shares = iter([0.0, 0.5, 1.0])
        async with raw_server(answering(OK)) as server:
            connections = connections_to(server, max_age_seconds=300, random_share=lambda: next(shares))
            made = [await connections.connect(within_seconds=PATIENCE_SECONDS) for _ in range(3)]
            for seconds, old in ((0, []), (224, []), (2, [2]), (36, [2]), (2, [1, 2]), (35, [1, 2]), (2, [0, 1, 2])):
                loop.later_seconds += seconds
                assert [number for number, one in enumerate(made) if loop.time() >= one.expires_at] == old
            for one in made:
                one.close()
            await connections.close()

    with asyncio.Runner(loop_factory=_LaterLoop) as runner:
        runner.run(attempt())


def test_a_host_that_has_moved_is_followed_although_traffic_keeps_every_connection_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A post every second on two connections, and after a minute the name means another address."""
    port = 0

    def found(host: str, *_: object, **__: object) -> list[object]:
        assert host == "moving.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    async def attempt() -> None:
        nonlocal port
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _LaterLoop)
        monkeypatch.setattr(connector, "monotonic", loop.time)
        posts = 0
        async with (
            raw_server(answering(OK)) as before,
            raw_server(answering(OK)) as after,
            opened("http://moving.test/", max_age=300) as client,
        ):
            port = before.port
            for second in range(400):
                if second == 60:
                    port = after.port
                assert await asyncio.gather(*(client.post(BODY) for _ in range(2))) == [Delivered()] * 2
                posts += 2
                loop.later_seconds += 1
            assert len(before.connections) == len(after.connections) == 2
            assert 2 * 225 <= len(before.requests) <= 2 * 301
            assert len(before.requests) + len(after.requests) == posts

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with asyncio.Runner(loop_factory=_LaterLoop) as runner:
        runner.run(attempt())


async def test_connections_that_are_idle_for_long_are_closed_and_those_in_use_are_not() -> None:
    closed: list[bool] = []

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        closed.append(await connection.closed_by_client())

    async with raw_server(behave) as server:
        connections = connections_to(server, keepalive_seconds=0.05)
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        request = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        used = await connections.connect(within_seconds=PATIENCE_SECONDS)
        for number in range(1, 3):  # the timer is set anew when it is needed again
            idle = await connections.connect(within_seconds=PATIENCE_SECONDS)
            assert (await idle.exchange(request, deadline=deadline)).status == 200
            connections.keep(idle)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(closed) < number:
                    await asyncio.sleep(0)
            assert used.is_fit
            assert not used.transport.is_closing()
            assert connections.take() is None
        assert closed == [True, True]
        used.close()
        await connections.close()


async def test_a_connection_that_was_idle_for_long_while_the_process_stood_still_is_not_used_again() -> None:
    """Whatever is between may have forgotten it without a word: the sweep comes too late to close it."""
    async with raw_server(answering(OK)) as server:
        connections = connections_to(server, keepalive_seconds=0.05)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        connections.keep(connection)
        time.sleep(0.1)  # noqa: ASYNC251 - the process stands still
        assert connections.take() is None
        assert connection.transport.is_closing()
        await connections.close()


async def test_a_connection_that_ended_right_before_the_post_is_noticed_before_anything_is_written() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        for number in range(1, 50):
            assert await client.post(BODY) == Delivered()
            assert len(server.connections) == number
            server.connections[-1].end()  # and no turn of the loop in between
        assert len(server.requests) == 49


async def test_many_connections_that_ended_are_all_passed_over() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        assert await asyncio.gather(*(client.post(BODY) for _ in range(8))) == [Delivered()] * 8
        assert len(server.connections) == 8
        for connection in server.connections:
            connection.end()
        assert await asyncio.gather(*(client.post(BODY) for _ in range(8))) == [Delivered()] * 8
        assert len(server.requests) == 16


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("turns", range(10))
def test_a_connection_that_ends_a_few_turns_into_the_post_makes_no_event_twice_nor_feigns_one(
    run: Run, turns: int
) -> None:
    async def attempt() -> None:
        async with raw_server(answering(OK)) as server, opened(server.url) as client:
            assert await client.post(b"first") == Delivered()
            asyncio.get_running_loop().call_soon(end_later, server.connections[0], turns)
            outcome = await client.post(b"second")
            await a_few_turns()
            received = [request.body for request in server.requests].count(b"second")
            assert received <= 1
            assert outcome in (Delivered(), LOST)
            assert received == 1 or outcome == LOST

    def end_later(connection: Connection, turns: int) -> None:
        if turns == 0:
            connection.end()
        else:
            asyncio.get_running_loop().call_soon(end_later, connection, turns - 1)

    run(attempt())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("most_idle_seconds", [0.0005, 0.004])
def test_a_server_that_ends_idle_connections_at_any_moment_gets_every_event_once_or_is_said_to_have_it_perhaps(
    run: Run, most_idle_seconds: float
) -> None:
    """The server is in other threads, so that it really happens at any moment."""
    identifiers = iter(range(600))
    outcomes: dict[bytes, Outcome] = {}

    async def post_all(server: ImpatientServer) -> None:
        async with opened(f"http://127.0.0.1:{server.port}/track/event") as client:

            async def work() -> None:
                for identifier in map(str, identifiers):
                    outcomes[identifier.encode()] = await client.post(f"<{identifier}>".encode())
                    await asyncio.sleep(random.uniform(0, 0.002))

            await asyncio.gather(*(work() for _ in range(8)))

    with impatient_server(most_idle_seconds=most_idle_seconds) as server:
        run(post_all(server))
    assert len(outcomes) == 600
    assert set(server.received.values()) == {1}, "no event came twice"
    for identifier, outcome in outcomes.items():
        if outcome == Delivered():
            assert server.received[identifier] == 1
        else:
            assert outcome == LOST or (outcome == NEVER_SENT and server.received[identifier] == 0)
    assert server.connections > 50, "otherwise this shows little"


async def test_an_answer_that_was_there_before_the_request_answers_nothing() -> None:
    """It has come by the time of the next post, and no turn of the loop was left to see it."""
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        assert await client.post(b"first") == Delivered()
        os.write(server.connections[0].file_descriptor, answer("422 No"))
        assert await client.post(b"second") == Delivered()
        assert [request.body for request in server.requests] == [b"first", b"second"]
        assert len(server.connections) == 2


async def test_a_fresh_connection_that_the_server_ends_is_not_tried_again_by_the_client() -> None:
    async def behave(connection: Connection) -> None:
        connection.end()

    async with raw_server(behave) as server, opened(server.url) as client:
        assert isinstance(await client.post(BODY), Retryable)
        assert len(server.connections) == 1


async def test_a_post_that_made_its_connection_says_how_long_that_took_and_one_on_a_kept_connection_nothing() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        first, second = await client.post(BODY), await client.post(BODY)
    assert isinstance(first, Delivered)
    assert isinstance(second, Delivered)
    assert 0 < first.connecting_seconds < PATIENCE_SECONDS
    assert second.connecting_seconds == 0


async def test_a_shorter_timeout_does_not_wait_for_the_deadlines_of_posts_that_began_before() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.closed_by_client()

    async with raw_server(behave) as server, opened(server.url) as client:
        before = asyncio.create_task(client.post(BODY))
        while not server.requests:
            await asyncio.sleep(0)
        client.use(GrowlyticsSettings(url=server.url, timeout_seconds=0.3))
        assert await client.post(BODY) in (NO_ANSWER, NO_CONNECTION)
        assert not before.done()
        before.cancel()


async def test_no_timer_is_set_for_a_post_while_one_for_an_earlier_deadline_is_and_none_is_left_in_the_end() -> None:
    async with raw_server(answering(OK)) as server:
        connections = connections_to(server, keepalive_seconds=PATIENCE_SECONDS)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        deadline = patience()
        for later in range(3):
            assert (await connection.exchange(REQUEST, deadline + later)).status == 200
            assert connections.sweep.at == deadline
            assert connection.deadline.at == inf
            connections.keep(connection)
            assert connections.take() is connection
        connection.close()
        assert connections.members == set()
        await connections.close()
        assert connections.sweep.at == inf


@pytest.mark.parametrize("pieces", [(OK,), (OK[:20], OK[20:])], ids=["at once", "in pieces"])
@pytest.mark.parametrize("in_the_same_turn", [True, False])
async def test_a_connection_on_which_more_came_than_the_answer_is_not_used_again(
    pieces: tuple[bytes, ...], *, in_the_same_turn: bool
) -> None:
    async with raw_server(answering(b"")) as server:
        connections = connections_to(server)
        connection = await connections.connect(within_seconds=PATIENCE_SECONDS)
        answer = connection.exchange(REQUEST, patience())
        for piece in pieces:
            assert connection.deadline.at < inf
            connection.data_received(piece)
        assert connection.deadline.at == inf
        if not in_the_same_turn:
            assert (await answer).status == 200
            connections.keep(connection)
        connection.data_received(b"x")
        if in_the_same_turn:
            assert (await answer).status == 200
            connections.keep(connection)
        assert connections.take() is None
        assert connections.members == set()
        await connections.close()


async def test_aiohttp_still_tells_of_bytes_that_came_before_they_were_asked_for() -> None:
    """It is the one thing that the client asks of aiohttp and that aiohttp's documents do not mention."""
    async with raw_server(answering(OK)) as server:
        connector = Connector(URL(server.url), proxy=None, proxy_headers={})
        made = await connector.connect(True, within_seconds=PATIENCE_SECONDS)
        protocol = made.transport.get_protocol()
        assert isinstance(protocol, asyncio.Protocol)
        assert getattr(protocol, "should_close", None) is False
        protocol.data_received(b"HTTP/1.1 408 Request Timeout")
        assert getattr(protocol, "should_close", None) is True
        made.release()
        await connector.close()
