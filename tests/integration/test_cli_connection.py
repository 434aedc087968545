"""The commands' HTTP client against servers that do what a daemon does not, or does rarely."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from forwarder.cli.daemon import AnswerLostError, Daemon, DaemonAnswer, HostPort, Place, UnreachableError
from tests.fakes.raw_server import (
    Behaviour,
    Connection,
    RawServer,
    answer,
    answering,
    answering_once_and_closing,
    raw_server,
)

JSON = b'{"a": 1}'
OK = answer("200 OK", JSON)


def daemon_at(server: RawServer) -> Daemon:
    return Daemon(Place(HostPort("127.0.0.1", server.port), token="T0K3N"))


async def asking(behave: Behaviour, ask: Callable[[Daemon], DaemonAnswer]) -> DaemonAnswer:
    async with raw_server(behave) as server:
        with daemon_at(server) as daemon:
            return await asyncio.to_thread(ask, daemon)


def get(daemon: Daemon) -> DaemonAnswer:
    return daemon.get("/v1/status", answer_seconds=30)


def post(daemon: Daemon) -> DaemonAnswer:
    return daemon.post("/v1/events", b"{}", content_type="application/json")


async def test_a_request_says_what_is_needed_and_two_use_one_connection() -> None:
    async with raw_server(answering(OK)) as server:
        with daemon_at(server) as daemon:
            for ask in (get, post):
                assert (await asyncio.to_thread(ask, daemon)).content == {"a": 1}
    assert len(server.connections) == 1
    first, second = server.requests
    assert (first.line, second.line) == ("GET /v1/status HTTP/1.1", "POST /v1/events HTTP/1.1")
    assert first.header("host") == [f"127.0.0.1:{server.port}"]
    assert first.header("accept-encoding") == ["identity"]
    assert second.header("authorization") == ["Bearer T0K3N"]
    assert second.header("content-type") == ["application/json"]
    assert second.body == b"{}"


@pytest.mark.parametrize("ask", [get, post])
async def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again(
    ask: Callable[[Daemon], DaemonAnswer],
) -> None:
    async with raw_server(answering_once_and_closing(OK)) as server:
        with daemon_at(server) as daemon:
            for _ in range(3):
                assert (await asyncio.to_thread(ask, daemon)).status == 200
                await server.connections[-1].writer.wait_closed()
    assert len(server.requests) == 3


async def test_a_kept_connection_that_breaks_repeats_a_get_once_and_a_post_never() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(OK)
        await connection.request()
        await connection.close()

    async with raw_server(behave) as server:
        with daemon_at(server) as daemon:
            for _ in range(2):
                assert (await asyncio.to_thread(get, daemon)).status == 200
            assert len(server.requests) == 3
            with pytest.raises(AnswerLostError, match="the connection was closed"):
                await asyncio.to_thread(post, daemon)
    assert len(server.requests) == 4


async def test_a_daemon_that_trickles_cannot_keep_a_command_beyond_its_deadline() -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.01)

    with pytest.raises(AnswerLostError, match=r"not all of it came within 0\.5 s") as lost:
        await asking(behave, lambda daemon: daemon.get("/v1/status", answer_seconds=0.5))
    assert lost.value.explained.endswith(
        "try again; if none ever comes, the daemon hangs: keep its log, and restart it"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it is not HTTP"),
        (b"", "the connection was closed;"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "the connection was closed within the answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{", "the connection was closed within the answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "got more than 100 headers"),
        (
            b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
            "got more than 65536 bytes when reading header line",
        ),
    ],
)
async def test_an_answer_that_is_none_is_lost_and_says_why(said: bytes, why: str) -> None:
    with pytest.raises(AnswerLostError) as lost:
        await asking(answering_once_and_closing(said), get)
    assert why in lost.value.explained


async def test_who_speaks_first_is_no_daemon() -> None:
    async def behave(connection: Connection) -> None:
        await connection.send(b"220 mail.example ESMTP\r\n")

    with pytest.raises(AnswerLostError, match="it is not HTTP"):
        await asking(behave, get)


@pytest.mark.parametrize("encoding", ["gzip", "br"])
async def test_an_encoded_answer_is_not_inflated(encoding: str) -> None:
    found = await asking(answering(answer("200 OK", b"\x1f\x8b", f"Content-Encoding: {encoding}")), get)
    assert (found.content, found.text) == ({}, b"\x1f\x8b")


async def test_a_redirect_is_not_followed() -> None:
    async with raw_server(answering(OK)) as elsewhere:
        redirect = answer("307 Elsewhere", b"", f"Location: {elsewhere.url}")
        assert (await asking(answering(redirect), get)).status == 307
    assert elsewhere.requests == []


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_an_answer_longer_than_allowed_is_not_read_to_its_end_and_the_next_request_is_answered(
    framing: str,
) -> None:
    body = b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n" if "chunked" in framing else b"x" * 1000

    async with raw_server(answering(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + body)) as server:
        with daemon_at(server) as daemon:
            for most, length in ((999, None), (1000, 1000)):
                found = await asyncio.to_thread(daemon.get, "/", max_answer_bytes=most)
                assert (None if found.text is None else len(found.text)) == length
    assert len(server.connections) == 2


@pytest.mark.parametrize("size", ["-1", "-5", "F" * 1000])
async def test_a_chunk_of_an_impossible_size_does_not_make_an_answer_longer_than_allowed(size: str) -> None:
    said = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n".encode()
    async with raw_server(answering_once_and_closing(said + b"x" * 2_000_000)) as server:
        with daemon_at(server) as daemon:
            got = await asyncio.to_thread(lambda: daemon.get("/v1/status", max_answer_bytes=1_000_000))
    assert got.text is None


async def test_an_answer_that_comes_before_the_whole_request_is_read() -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(answer("413 Too Large", JSON, "Connection: close"))
        # Neither read any more nor closed: the rest of the request does not fit any buffer.

    large = b"x" * 32 * 1024 * 1024
    found = await asking(behave, lambda daemon: daemon.post("/", large, content_type="text/plain"))
    assert (found.status, found.content) == (413, {"a": 1})


async def test_an_answer_before_the_end_of_a_request_is_read_although_the_connection_was_closed() -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.readuntil(b"\r\n\r\n")
        await connection.send(answer("413 Too Large", JSON, "Connection: close"))
        await connection.close()

    large = b"x" * 32 * 1024 * 1024
    found = await asking(behave, lambda daemon: daemon.post("/", large, content_type="text/plain"))
    assert (found.status, found.content) == (413, {"a": 1})


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_no_proxy_of_the_environment_is_asked(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(answering(OK)) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert (await asking(answering(OK), get)).content == {"a": 1}
    assert proxy.requests == []


async def test_a_daemon_is_found_at_any_of_the_addresses_of_its_name() -> None:
    async with raw_server(answering(OK)) as server:  # on 127.0.0.1 alone, where the name may also be ::1
        with Daemon(Place(HostPort("localhost", server.port))) as daemon:
            assert (await asyncio.to_thread(get, daemon)).content == {"a": 1}
    assert server.requests[0].header("host") == [f"localhost:{server.port}"]


async def test_interim_answers_are_passed_over() -> None:
    found = await asking(answering(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK), get)
    assert found.content == {"a": 1}


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [("7", 7), ("999999999", 3600), ("soon", None), ("Sun, 06 Nov 1994 08:49:37 GMT", None), ("-1", None)],
)
async def test_retry_after_counts_in_seconds_up_to_an_hour(retry_after: str, seconds: int | None) -> None:
    found = await asking(answering(answer("503 No", b"", f"Retry-After: {retry_after}")), get)
    assert found.retry_after_seconds == seconds


def test_a_unix_socket_whose_daemon_does_not_accept_is_waited_for_and_then_out_of_reach(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with Daemon(Place(None, path)) as daemon, pytest.raises(UnreachableError) as unreachable:
            daemon.get("/", answer_seconds=0.2)
    assert "it did not answer in time" in unreachable.value.explained


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (Place(HostPort("no-such-host.invalid", 1)), "ame "),
        (Place(None, "x" * 200), "AF_UNIX path too long"),
        (Place(None, "/no/such.sock"), "No such file or directory"),
        (Place(None, "/"), "Connection refused"),
    ],
)
def test_a_place_without_a_daemon_is_out_of_reach(place: Place, why: str) -> None:
    with Daemon(place) as daemon, pytest.raises(UnreachableError) as unreachable:
        post(daemon)
    assert why in str(unreachable.value)
