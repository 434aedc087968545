"""The real client over real sockets, against a server that speaks whatever bytes the test wants."""

import asyncio
import gzip
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine
from email.utils import formatdate

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder import __version__
from forwarder.growlytics.answer_body import MAX_ANSWER_BYTES
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import GrowlyticsSettings, Secret
from tests.fakes.client_harness import (
    BODY,
    KEY,
    LOST,
    NEVER_SENT,
    NO_ANSWER,
    NO_CONNECTION,
    NOW,
    OK,
    PATIENCE_SECONDS,
    RISING_SECONDS,
    comes_to,
    opened,
)
from tests.fakes.raw_server import (
    Behaviour,
    Connection,
    answer,
    answering,
    answering_once_and_closing,
    raw_server,
)

Run = Callable[[Coroutine[None, None, None]], None]


async def outcome_of(behave: Behaviour, *, timeout: float = PATIENCE_SECONDS) -> Outcome:
    """Post once to a server that behaves so."""
    async with raw_server(behave) as server, opened(server.url, timeout=timeout) as client:
        return await client.post(BODY)


async def a_few_turns() -> None:
    """Let both ends see what is already in their sockets."""
    for _ in range(20):
        await asyncio.sleep(0)


# What is sent


async def test_a_post_carries_the_headers_of_the_contract_and_nothing_else() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        assert await client.post(BODY) == Delivered()
    (request,) = server.requests
    assert request.line == "POST /track/event HTTP/1.1"
    assert sorted(request.headers) == sorted(
        [
            ("host", f"127.0.0.1:{server.port}"),
            ("x-growlytics-key", KEY),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
            ("content-type", "application/json"),
            ("content-length", str(len(BODY))),
            ("user-agent", f"growlytics-forwarder/{__version__}"),
        ]
    )


@pytest.mark.parametrize(
    "body",
    [
        BODY,
        b' {"a" : 1.0, "a":1e400,\t"b":12345678901234567890123}\r\n',
        '{"ä":"💥","\u2028":"\x7f"}'.encode(),
        b'{"lone":"\\ud800"}',
        bytes(range(256)),
        b"",
        b"x" * 300_000,
        pytest.param(b"y" * (2 * 1024 * 1024), id="2 MiB, which intake.max_body_bytes may allow"),
    ],
)
async def test_the_body_arrives_byte_for_byte(body: bytes) -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        assert await client.post(body) == Delivered()
    (request,) = server.requests
    assert request.body == body
    assert request.header("content-length") == [str(len(body))]
    assert request.header("content-type") == ["application/json"]


async def test_one_connection_serves_many_posts_one_after_the_other() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        for _ in range(200):
            assert await client.post(BODY) == Delivered()
    assert len(server.requests) == 200
    assert len(server.connections) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Internal Server Error"])
async def test_an_answer_that_is_no_success_leaves_the_connection_fit_for_the_next_post(status: str) -> None:
    async with raw_server(answering(answer(status, b"no" * 1000))) as server, opened(server.url) as client:
        for _ in range(20):
            assert await client.post(BODY) != Delivered()
    assert len(server.connections) == 1


async def test_posts_at_the_same_time_use_as_many_connections_and_each_again() -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        for _ in range(5):
            outcomes = await asyncio.gather(*(client.post(BODY) for _ in range(8)))
            assert outcomes == [Delivered()] * 8
    assert len(server.requests) == 40
    assert len(server.connections) <= 8


async def test_a_cookie_that_the_server_sets_is_not_sent_back() -> None:
    data = answer("200 OK", b"", "Set-Cookie: tracking=1; Path=/", "Set-Cookie: \x01broken=\x02;;;=")
    async with raw_server(answering(data)) as server, opened(server.url) as client:
        for _ in range(2):
            assert await client.post(BODY) == Delivered()
    assert all(not request.header("cookie") for request in server.requests)


# What complete answers come to


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        ("200 OK", b"", Delivered()),
        ("200 OK", b"OK", Delivered()),
        ("201 Created", b'{"success":true}', Delivered()),
        ("202 Accepted", b"{", Delivered()),
        ("200 OK", b'{"success":false}', Rejected(200)),
        ("200 OK", b' { "message" : "no",\n "success" : false } ', Rejected(200)),
        ("200 OK", b'[{"success":false}]', Delivered()),
        ("200 OK", b'{"success":"false"}', Rejected(200)),
        ("200 OK", b"\xff\xfe<\0", Blocked(200, "not_growlytics")),
        ("400 Bad Request", b"", Rejected(400)),
        ("409 Conflict", b"", Rejected(409)),
        ("413 Content Too Large", b"", Rejected(413)),
        ("422 Unprocessable", b"", Rejected(422)),
        ("401 Unauthorized", b"", Blocked(401, "key")),
        ("403 Forbidden", b"", Blocked(403, "refusal")),
        ("404 Not Found", b"", Blocked(404, "refusal")),
        ("407 Proxy Authentication Required", b"", Blocked(407, "key")),
        ("408 Request Timeout", b"", Retryable("status_408", maybe_delivered=False)),
        ("425 Too Early", b"", Retryable("status_425", maybe_delivered=False)),
        ("429 Too Many Requests", b"", Retryable("status_429", maybe_delivered=False)),
        ("500 Internal Server Error", b"", Retryable("status_5xx", maybe_delivered=False)),
        ("502 Bad Gateway", b"", Retryable("status_5xx", maybe_delivered=True)),
        ("503 Service Unavailable", b'{"success":false}', Retryable("status_5xx", maybe_delivered=False)),
        ("504 Gateway Timeout", b"", Retryable("status_5xx", maybe_delivered=True)),
        ("599 What", b"", Retryable("status_5xx", maybe_delivered=False)),
    ],
)
async def test_an_answer_comes_to_the_outcome_of_its_status_and_body(
    status: str, body: bytes, expected: Outcome
) -> None:
    assert await outcome_of(answering(answer(status, body))) == expected


async def test_an_answer_that_says_when_to_come_again_is_heard() -> None:
    async def retry_after(status: str) -> float | None:
        outcome = await outcome_of(answering(answer(status, b"", "Retry-After: 7")))
        assert isinstance(outcome, Retryable)
        return outcome.retry_after_seconds

    assert await retry_after("429 Too Many Requests") == 7.0
    assert await retry_after("503 Service Unavailable") == 7.0
    assert await retry_after("500 Internal Server Error") == 7.0
    assert await retry_after("408 Request Timeout") == 7.0


async def test_a_date_to_come_again_at_is_compared_with_the_date_of_the_answer() -> None:
    dates = [f"Date: {formatdate(NOW + 3600, usegmt=True)}", f"Retry-After: {formatdate(NOW + 3602, usegmt=True)}"]
    assert await outcome_of(answering(answer("503 Busy", b"", *dates))) == Retryable(
        "status_5xx", maybe_delivered=False, retry_after_seconds=2.0
    )


async def test_without_one_it_is_compared_with_the_clients_clock() -> None:
    date = formatdate(NOW + 90, usegmt=True)
    assert await outcome_of(answering(answer("503 Busy", b"", f"Retry-After: {date}"))) == Retryable(
        "status_5xx", maybe_delivered=False, retry_after_seconds=90.0
    )


@pytest.mark.parametrize("status", ["300", "301", "302", "303", "307", "308"])
async def test_a_redirect_is_not_followed_so_the_key_goes_nowhere_else(status: str) -> None:
    async with raw_server(answering(OK)) as elsewhere:
        redirect = answer(f"{status} Elsewhere", b"", f"Location: {elsewhere.url}")
        async with raw_server(answering(redirect)) as server, opened(server.url) as client:
            assert await client.post(BODY) == Blocked(int(status), "refusal")
        assert len(server.requests) == 1
        assert elsewhere.connections == []


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate"])
@pytest.mark.parametrize(("status", "outcome"), [("200 OK", Delivered()), ("422 Unprocessable", Rejected(422))])
async def test_a_status_counts_although_the_body_is_encoded_as_nobody_asked(
    encoding: str, status: str, outcome: Outcome
) -> None:
    encoded = answer(status, b"not what the header says", f"Content-Encoding: {encoding}")
    assert await outcome_of(answering(encoded)) == outcome


async def test_a_chunked_answer_is_read_to_its_end() -> None:
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"suc\r\nc\r\ncess":false}\r\n0\r\n\r\n'
    async with raw_server(answering(chunked)) as server, opened(server.url) as client:
        for _ in range(3):
            assert await client.post(BODY) == Rejected(200)
    assert len(server.connections) == 1


async def test_an_answer_that_ends_with_its_connection_is_whole_and_the_next_post_connects_anew() -> None:
    data = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"success":false}'
    async with raw_server(answering_once_and_closing(data)) as server, opened(server.url) as client:
        for _ in range(3):
            assert await client.post(BODY) == Rejected(200)
    assert len(server.connections) == 3


@pytest.mark.parametrize(
    "before", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 3]
)
async def test_an_answer_after_others_that_announce_it_counts(before: bytes) -> None:
    assert await outcome_of(answering(before + OK)) == Delivered()


async def test_an_upgrade_that_nobody_asked_for_is_an_answer_and_what_follows_it_is_none() -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with raw_server(answering(upgrade + OK)) as server, opened(server.url) as client:
        for _ in range(2):
            assert await client.post(BODY) == Blocked(101, "refusal")
        assert len(server.connections) == 2


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-Policy: {'a' * 9_000}"],
        [f"X-Policy: {'a' * 60_000}"],
        [f"X-{number}: a" for number in range(130)],
        [f"X-{number}: {'a' * 20}" for number in range(998)],
    ],
    ids=["a header of 9 kB", "a header of 60 kB", "130 headers", "1,000 headers"],
)
@pytest.mark.parametrize(
    ("body", "expected"), [(b'{"success":true}', Delivered()), (b'{"success":false}', Rejected(200))]
)
async def test_a_large_head_is_read_and_its_connection_kept(headers: list[str], body: bytes, expected: Outcome) -> None:
    async with raw_server(answering(answer("200 OK", body, *headers))) as server, opened(server.url) as client:
        for _ in range(2):
            assert await client.post(BODY) == expected
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    "headers",
    [[f"X: {'a' * 66_000}"], [f"X-{number}: a" for number in range(1_001)]],
    ids=["a header of 66 kB", "1,002 headers"],
)
async def test_a_head_beyond_that_is_no_answer_and_the_event_may_be_there(headers: list[str]) -> None:
    assert await outcome_of(answering(answer("200 OK", b"", *headers))) == LOST


NO_LENGTH = "HTTP/1.1 {status}\r\nX: y\r\n\r\n"


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "205 Reset Content"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [(b'{"success":true}', Delivered()), (b'{"success":false}', Rejected(200)), (b"OK", Delivered())],
)
async def test_an_answer_without_length_on_a_kept_connection_counts(
    status: str, body: bytes, expected: Outcome
) -> None:
    """An object that is complete is not waited for any longer; the rest is, in vain."""
    behave = answering(NO_LENGTH.format(status=status).encode() + body)
    if body == b"OK":
        await comes_to(expected, lambda seconds: outcome_of(behave, timeout=seconds))
    else:
        assert type(await outcome_of(behave)) is type(expected)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_an_answer_that_refuses_a_large_event_before_all_of_it_was_read_is_heard_although_a_reset_follows(
    run: Run,
) -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(answer("413 Content Too Large"))
        await a_few_turns()
        await asyncio.sleep(0.01)
        connection.reset()

    async def attempt() -> None:
        async with raw_server(behave) as server, opened(server.url) as client:
            for _ in range(3):
                assert await client.post(b"x" * 5_000_000) == Rejected(413)

    run(attempt())


async def test_an_answer_byte_by_byte_is_understood() -> None:
    async def behave(connection: Connection) -> None:
        while await connection.request():
            for byte in OK:
                await connection.send(bytes([byte]))
                await asyncio.sleep(0)

    assert await outcome_of(behave) == Delivered()


# No connection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_refused_connection_is_a_network_error_and_nothing_was_sent() -> None:
    async with opened(f"http://127.0.0.1:{free_port()}/track/event") as client:
        for _ in range(3):
            assert await client.post(BODY) == NEVER_SENT


@pytest.mark.parametrize("host", ["name..invalid", "a" * 70 + ".invalid", "256.256.256.256"])
async def test_a_host_that_cannot_exist_is_a_network_error_and_nothing_was_sent(host: str) -> None:
    """The settings take such a host, and no name server is asked for it."""
    async with opened(f"https://{host}/track/event") as client:
        assert await client.post(BODY) == NEVER_SENT


async def test_a_server_that_does_not_speak_tls_is_a_network_error_and_nothing_was_sent() -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.read(100)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.close()

    async with raw_server(behave) as server, opened(server.url.replace("http", "https", 1)) as client:
        assert await client.post(BODY) == NEVER_SENT


async def test_a_connection_that_is_never_answered_is_a_timeout_and_nothing_was_sent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        try:
            for one in crowd:  # the kernel holds one or two that nobody accepts; the next ones hang
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/track/event"
            async with opened(url, timeout=RISING_SECONDS[0]) as client:
                assert await client.post(BODY) == NO_CONNECTION
        finally:
            for one in crowd:
                one.close()


# Connections that break


async def test_a_reset_before_the_request_was_read_is_a_network_error_that_may_have_delivered() -> None:
    async def behave(connection: Connection) -> None:
        connection.reset()

    assert await outcome_of(behave) == LOST


async def test_a_reset_in_the_middle_of_a_long_request_is_a_network_error_that_may_have_delivered() -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.read(1000)
        connection.reset()

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(b"x" * 900_000) == LOST


async def test_a_reset_after_the_request_was_read_is_a_network_error_that_may_have_delivered() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        connection.reset()

    assert await outcome_of(behave) == LOST


async def test_a_close_without_an_answer_is_a_network_error_that_may_have_delivered() -> None:
    assert await outcome_of(answering_once_and_closing(b"")) == LOST


HEAD_BYTES = OK.index(b"\r\n\r\n") + 4


@pytest.mark.parametrize("at", [1, 8, 12, 20, 40, HEAD_BYTES - 1])
async def test_an_answer_whose_head_is_cut_is_a_network_error_that_may_have_delivered(at: int) -> None:
    assert await outcome_of(answering_once_and_closing(OK[:at])) == LOST


@pytest.mark.parametrize("at", [HEAD_BYTES, HEAD_BYTES + 1, len(OK) - 1])
async def test_an_answer_whose_body_is_cut_counts(at: int) -> None:
    assert await outcome_of(answering_once_and_closing(OK[:at])) == Delivered()


@pytest.mark.parametrize("at", range(47, 90, 4))
async def test_an_answer_in_chunks_that_is_cut_counts(at: int) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n"
    assert at <= len(chunked)
    assert await outcome_of(answering_once_and_closing(chunked[:at])) == Delivered()


@pytest.mark.parametrize("ends", ["closed", "reset", "left open"])
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("200 OK", Rejected(200)),
        ("422 Unprocessable", Rejected(422)),
        ("401 Unauthorized", Blocked(401, "key")),
        ("403 Forbidden", Blocked(403, "refusal")),
        ("429 Too Many Requests", Retryable("status_429", maybe_delivered=False)),
        ("503 Service Unavailable", Retryable("status_5xx", maybe_delivered=False)),
    ],
)
async def test_what_came_of_an_answer_counts_however_it_ends(head: str, expected: Outcome, ends: str) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(f'HTTP/1.1 {head}\r\nContent-Length: 1000\r\n\r\n{{"success":false,'.encode())
        await a_few_turns()
        match ends:
            case "closed":
                await connection.close()
            case "reset":
                connection.reset()

    if ends == "left open":
        await comes_to(expected, lambda seconds: outcome_of(behave, timeout=seconds))
    else:
        assert await outcome_of(behave) == expected


GARBAGE = {
    "not http": b"220 mail.example ESMTP\r\n\r\n",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "nul bytes": b"\x00" * 100,
    "all bytes": bytes(range(256)) * 4 + b"\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "words for a status": b"HTTP/1.1 two hundred\r\n\r\n",
    "huge status": b"HTTP/1.1 99999999999999999999 OK\r\n\r\n",
    "http 9.9": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "length in words": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "chunk without end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "no deflate": b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 5\r\n\r\nhello",
    "brotli": b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 5\r\n\r\nhello",
    "zstd": b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 5\r\n\r\nhello",
    "broken header": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "nul in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "folded header": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "endless header line": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "endless headers": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 50_000 + b"\r\n",
    "endless status line": b"HTTP/1.1 200 " + b"O" * 200_000 + b"\r\n\r\n",
    "early hints for ever": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz",
    "latin-1 reason": b"HTTP/1.1 200 \xe4\xff\r\nContent-Length: 0\r\n\r\n",
    "location of nonsense": b"HTTP/1.1 302 X\r\nLocation: http://[::1:\x7f/\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_comes_to_an_outcome_that_loses_no_event(garbage: bytes) -> None:
    """Nothing raises; an event is neither thrown away for garbage, nor taken for delivered without a sound 2xx."""
    outcome = await outcome_of(answering_once_and_closing(garbage))
    assert not isinstance(outcome, Rejected)
    if not garbage.startswith(b"HTTP/1.1 200"):
        assert not isinstance(outcome, Delivered) or garbage.startswith(b"HTTP/9.9")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), at=st.integers(0, len(OK)), cut=st.integers(0, 30))
async def test_no_damaged_answer_makes_post_raise(data: bytes, at: int, cut: int) -> None:
    damaged = OK[:at] + data + OK[at + cut :]
    outcome = await outcome_of(answering_once_and_closing(damaged))
    assert isinstance(outcome, Delivered | Retryable | Rejected | Blocked)


# Answers that take too long, or too much


async def comes_at_the_timeout_to(expected: Outcome, behave: Behaviour) -> None:
    async def attempt(seconds: float) -> Outcome:
        started = time.monotonic()
        outcome = await outcome_of(behave, timeout=seconds)
        assert seconds * 0.89 <= time.monotonic() - started < seconds + 20
        return outcome

    await comes_to(expected, attempt)


async def test_a_server_that_never_reads_is_a_timeout_that_may_have_delivered() -> None:
    async def behave(connection: Connection) -> None:
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
        await asyncio.Event().wait()

    async def attempt(seconds: float) -> Outcome:
        async with raw_server(behave) as server, opened(server.url, timeout=seconds) as client:
            return await client.post(b"x" * 1_000_000)

    await comes_to(NO_ANSWER, attempt)


async def test_no_answer_is_a_timeout_that_may_have_delivered() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await asyncio.Event().wait()

    await comes_at_the_timeout_to(NO_ANSWER, behave)


@pytest.mark.parametrize("at", [5, 20, HEAD_BYTES - 1])
async def test_an_answer_that_stops_in_its_head_is_a_timeout_that_may_have_delivered(at: int) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK[:at])
        await asyncio.Event().wait()

    await comes_at_the_timeout_to(NO_ANSWER, behave)


def dripping(beginning: bytes) -> Behaviour:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(beginning)
        while True:
            await connection.send(b"a")
            await asyncio.sleep(0.005)

    return behave


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nX: "])
async def test_a_head_that_drips_for_ever_is_a_timeout_although_something_always_comes(beginning: bytes) -> None:
    await comes_at_the_timeout_to(NO_ANSWER, dripping(beginning))


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 60000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nffff\r\n", b"Connection: close\r\n\r\n"],
)
@pytest.mark.parametrize(("body", "expected"), [(b"", Delivered()), (b'{"success":false,"x":"', Rejected(200))])
async def test_a_body_that_drips_for_ever_is_read_until_the_timeout_and_the_status_counts(
    head: bytes, body: bytes, expected: Outcome
) -> None:
    await comes_at_the_timeout_to(expected, dripping(b"HTTP/1.1 200 OK\r\n" + head + body))


async def test_a_timed_out_connection_is_not_used_again_so_its_late_answer_goes_to_nobody() -> None:
    async def attempt(seconds: float) -> Outcome:
        late = asyncio.Event()

        async def behave(connection: Connection) -> None:
            await connection.request()
            if len(connection.server.connections) == 1:
                await late.wait()
                await connection.send(answer("400 Bad Request"))
            else:
                await connection.send(OK)

        async with raw_server(behave) as server, opened(server.url, timeout=seconds) as client:
            outcome = await client.post(BODY)
            late.set()
            await a_few_turns()
            if outcome == NO_ANSWER:
                client.use(GrowlyticsSettings(url=server.url, timeout_seconds=PATIENCE_SECONDS))
                assert await client.post(BODY) == Delivered()
                assert len(server.connections) == 2
            return outcome

    await comes_to(NO_ANSWER, attempt)


@pytest.mark.parametrize(
    "head", [b"Transfer-Encoding: chunked", b"Content-Length: 1000000000000", b"Connection: close"]
)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", Delivered()),
        ("500 Internal Server Error", Retryable("status_5xx", maybe_delivered=False)),
        ("403 Forbidden", Blocked(403, "refusal")),
    ],
)
async def test_an_endless_answer_is_cut_and_its_connection_not_used_again(
    head: bytes, status: str, expected: Outcome
) -> None:
    sent: list[int] = []

    async def behave(connection: Connection) -> None:
        await connection.request()
        if len(connection.server.connections) > 1:
            await connection.send(OK)
            return
        await connection.send(f"HTTP/1.1 {status}\r\n".encode() + head + b"\r\n\r\n")
        while True:
            await connection.send(b"2000\r\n" + b"a" * 0x2000 + b"\r\n")
            sent.append(0x2000)

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY) == expected
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await client.post(BODY) == Delivered()
        assert len(server.connections) == 2
        assert sum(sent) < 64 * MAX_ANSWER_BYTES, "it went on reading"


@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES - 1, MAX_ANSWER_BYTES, MAX_ANSWER_BYTES + 1])
async def test_answers_around_the_most_that_is_read_come_to_their_status(size: int) -> None:
    async with raw_server(answering(answer("200 OK", b"a" * size))) as server, opened(server.url) as client:
        for _ in range(3):
            assert await client.post(BODY) == Delivered()
    if size < MAX_ANSWER_BYTES:
        assert len(server.connections) == 1


async def test_an_answer_that_inflates_without_end_is_cut() -> None:
    """An answer of 20 kB in gzip, though none was asked for, that holds 20 MB."""
    data = answer("200 OK", gzip.compress(b"\0" * 20_000_000), "Content-Encoding: gzip")
    before = time.process_time()
    assert await outcome_of(answering(data)) in (Delivered(), LOST)
    assert time.process_time() - before < 1


# Cancelling and closing


async def test_a_cancelled_post_raises_cancelled_error_and_its_connection_is_not_used_again() -> None:
    asked = asyncio.Event()

    async def behave(connection: Connection) -> None:
        await connection.request()
        if len(connection.server.connections) == 1:
            asked.set()
            assert await connection.closed_by_client()
        else:
            await connection.send(OK)

    async with raw_server(behave) as server, opened(server.url) as client:
        post = asyncio.create_task(client.post(BODY))
        await asked.wait()
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await client.post(BODY) == Delivered()
        assert len(server.connections) == 2


@pytest.mark.parametrize("turns", range(0, 24, 3))
async def test_a_post_that_is_cancelled_at_any_moment_raises_cancelled_error_or_has_its_outcome(turns: int) -> None:
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        post = asyncio.create_task(client.post(BODY))
        for _ in range(turns):
            await asyncio.sleep(0)
        post.cancel()
        await asyncio.wait({post})
        assert post.cancelled() or post.result() == Delivered()
        assert await client.post(BODY) == Delivered()


async def test_closing_ends_idle_connections_and_may_be_done_again() -> None:
    gone = asyncio.Event()

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        if await connection.closed_by_client():
            gone.set()

    async with raw_server(behave) as server, opened(server.url) as client:
        assert await client.post(BODY) == Delivered()
        await client.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await gone.wait()
        await client.close()


@pytest.mark.parametrize("body", [BODY, b"x" * 20_000_000], ids=["all of it has left", "most of it has not left"])
async def test_closing_ends_posts_under_way(body: bytes) -> None:
    begun = asyncio.Event()

    async def behave(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        begun.set()  # and nothing more is read

    async with raw_server(behave) as server, opened(server.url) as client:
        post = asyncio.create_task(client.post(body))
        await begun.wait()
        async with asyncio.timeout(PATIENCE_SECONDS / 2):
            await client.close()
            assert await post == LOST


async def test_a_client_that_was_never_opened_closes() -> None:
    client = GrowlyticsClient(GrowlyticsSettings(api_key=Secret(KEY)))
    await client.close()


async def test_key_and_password_are_in_no_text_that_the_client_can_be_turned_into() -> None:
    settings = GrowlyticsSettings(api_key=Secret(KEY), proxy=Secret("http://user:hunter2@127.0.0.1:1"))
    client = GrowlyticsClient(settings)
    password = b64encode(b"user:hunter2").decode()
    for text in (repr(client), repr(vars(client))):
        assert not [secret for secret in (KEY, "hunter2", password) if secret in text]


# Another key


async def test_posts_carry_the_newest_key_and_one_that_has_begun_keeps_its_own() -> None:
    answers = asyncio.Event()

    async def behave(connection: Connection) -> None:
        while await connection.request():
            await answers.wait()
            await connection.send(OK)

    async with raw_server(behave) as server, opened(server.url) as client:
        before = asyncio.create_task(client.post(BODY))
        await asyncio.sleep(0)
        assert server.connections == [], "it is still connecting"
        client.use_key(Secret("the-next-key"))
        after = asyncio.create_task(client.post(BODY))
        answers.set()
        assert [await before, await after] == [Delivered()] * 2
        assert sorted(key for request in server.requests for key in request.header("x-growlytics-key")) == [
            KEY,
            "the-next-key",
        ]
        assert await client.post(BODY) == Delivered()
        assert server.requests[-1].header("x-growlytics-key") == ["the-next-key"]
        assert len(server.connections) == 2, "another key is no reason to connect anew"
