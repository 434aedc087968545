"""Each way in which an attempt fails, with real sockets and certificates: what a person is told of it."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forwarder.growlytics.outcome import Blocked, Failure, Outcome, Rejected, Retryable
from forwarder.words import FailureKind
from tests.fakes.certificates import Authority
from tests.fakes.client_harness import BODY, NEVER_SENT, NO_ANSWER, PATIENCE_SECONDS, RISING_SECONDS, comes_to, opened
from tests.fakes.raw_server import Behaviour, Connection, answer, answering, raw_server

BOTH_LOOPS = True

HANDSHAKE_FAILURE = struct.pack("!BHHBB", 21, 0x0303, 2, 2, 40)
"""The alert of a server that agrees to nothing."""
PROTOCOL_VERSION = struct.pack("!BHHBB", 21, 0x0303, 2, 2, 70)
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


def failure_of(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Retryable | Rejected | Blocked)
    return outcome.failure


async def attempt(
    url: str, *, ca_file: Path | None = None, proxy: str | None = None, timeout: float = PATIENCE_SECONDS
) -> Failure:
    async with opened(url, ca_file=ca_file, proxy=proxy, timeout=timeout) as client:
        return failure_of(await client.post(BODY))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


# The way there


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_where_nobody_listens_refuses(host: str) -> None:
    port = free_port()
    assert await attempt(f"http://{host}:{port}/track/event?CANARY") == Failure(
        "connect", "connection refused", f"{host}:{port}"
    )


async def test_a_host_that_does_not_exist_is_named() -> None:
    failure = await attempt("https://nobody.invalid/track/event")
    assert (failure.kind, failure.host) == ("dns", "nobody.invalid:443")
    assert failure.text in ("no such host nobody.invalid", "the name server does not answer (for nobody.invalid)")


@pytest.mark.parametrize("host", ["nobody..invalid", "256.256.256.256"])
async def test_a_host_that_cannot_exist_is_named(host: str) -> None:
    assert await attempt(f"https://{host}/track/event") == Failure(
        "dns", f"not a valid host name: {host}", f"{host}:443"
    )


async def test_a_name_that_no_thread_can_be_started_to_resolve_is_a_failed_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """asyncio's loop resolves names in threads, which cannot be started where the limit of processes is reached."""

    async def exhausted(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", exhausted)
    async with opened("http://localhost:1/track/event") as client:
        outcome = await client.post(BODY)
    assert outcome == NEVER_SENT
    assert failure_of(outcome) == Failure(
        "connect", "no thread can be started: raise the limit of processes (ulimit -u)", "localhost:1"
    )


async def test_a_handshake_that_is_never_answered_takes_too_long_to_connect() -> None:
    async with raw_server(silent) as server:
        failure = await attempt(f"https://127.0.0.1:{server.port}/", timeout=RISING_SECONDS[0])
        assert failure == Failure("timeout_connect", "no connection within 0.27 s", f"127.0.0.1:{server.port}")


async def test_an_answer_that_never_comes_takes_too_long_to_answer() -> None:
    async def post(seconds: float) -> Outcome:
        async with raw_server(silent) as server, opened(server.url, timeout=seconds) as client:
            outcome = await client.post(BODY)
            if outcome == NO_ANSWER:
                text = f"no answer within {seconds:g} s"
                assert failure_of(outcome) == Failure("timeout_answer", text, f"127.0.0.1:{server.port}")
            return outcome

    await comes_to(NO_ANSWER, post)


# TLS


def expired(authority: Authority) -> ssl.SSLContext:
    return authority.tls_for("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1))


def not_yet_valid(authority: Authority) -> ssl.SSLContext:
    return authority.tls_for("127.0.0.1", not_before=datetime.now(UTC) + timedelta(days=1))


def of_another_host(authority: Authority) -> ssl.SSLContext:
    return authority.tls_for("dc.growlytics.in")


CERTIFICATES = pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (expired, "certificate has expired"),
        (not_yet_valid, "certificate is not yet valid (or this machine's clock is wrong)"),
        (of_another_host, "certificate is not valid for 127.0.0.1"),
    ],
)


@CERTIFICATES
async def test_what_is_wrong_with_a_certificate_is_said(
    authority: Authority, certificate: Callable[[Authority], ssl.SSLContext], text: str
) -> None:
    async with raw_server(answering(answer()), tls=certificate(authority)) as server:
        failure = await attempt(server.url, ca_file=authority.file)
        assert failure == Failure("tls", text, f"127.0.0.1:{server.port}")


@pytest.mark.parametrize("knows", [None, "stranger"], ids=["the system's authorities", "another authority's file"])
async def test_an_unknown_authority_is_said_with_the_setting(
    authority: Authority, stranger: Authority, knows: str | None
) -> None:
    async with raw_server(answering(answer()), tls=authority.tls) as server:
        failure = await attempt(server.url, ca_file=stranger.file if knows else None)
        assert failure.kind == "tls"
        assert failure.text == "certificate of an unknown authority (see growlytics.ca_file)"


async def sends_text(connection: Connection) -> None:
    await connection.reader.read(1)
    await connection.send(b"HTTP/1.1 400 CANARY\r\nContent-Length: 0\r\n\r\n")


async def agrees_to_nothing(connection: Connection) -> None:
    await connection.reader.read(1)
    await connection.send(HANDSHAKE_FAILURE)


async def speaks_old_versions(connection: Connection) -> None:
    await connection.reader.read(1)
    await connection.send(PROTOCOL_VERSION)


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (sends_text, "the other side does not speak TLS"),
        (agrees_to_nothing, "the other side refuses TLS: sslv3 alert handshake failure"),
        (speaks_old_versions, "the other side speaks no version of TLS that is allowed here"),
    ],
)
async def test_a_handshake_that_fails_says_how(behave: Behaviour, text: str) -> None:
    async with raw_server(behave) as server:
        failure = await attempt(f"https://127.0.0.1:{server.port}/")
        assert (failure.kind, failure.host) == ("tls", f"127.0.0.1:{server.port}")
        assert failure.text.replace("ssl/tls", "sslv3") == text  # as OpenSSL 3.2 calls it


# Lost connections, and what is no answer


async def silent(connection: Connection) -> None:
    await asyncio.Event().wait()


async def closes(connection: Connection) -> None:
    await connection.reader.read(1)
    await connection.reader.read(65536)
    await connection.close()


async def resets(connection: Connection) -> None:
    await connection.reader.read(1)
    connection.reset()


def sends(data: bytes) -> Behaviour:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        await connection.close()

    return behave


@pytest.mark.parametrize(
    ("behave", "kind", "text"),
    [
        (closes, "reset", "connection closed before an answer"),
        (resets, "reset", "connection reset by peer"),
        (sends(b"HTTP/1.1 503 CANARY\r\nContent"), "reset", "connection closed in the middle of an answer"),
        (sends(b"220 CANARY ESMTP\r\n\r\n"), "protocol", "the answer is not HTTP"),
        (sends(b"HTTP/1.1 503 X\r\nX: " + b"a" * 200_000), "protocol", "the answer's header is too long"),
        (sends(b"HTTP/1.1 CANARY X\r\n\r\n"), "protocol", "the answer is not HTTP"),
        (
            sends(b"HTTP/1.1 503 X\r\n" + b"X: CANARY\r\n" * 1_001 + b"\r\n"),
            "protocol",
            "the answer has too many headers",
        ),
    ],
)
async def test_what_comes_instead_of_an_answer_is_said_without_a_word_of_it(
    behave: Behaviour, kind: FailureKind, text: str
) -> None:
    async with raw_server(behave) as server:
        assert await attempt(server.url) == Failure(kind, text, f"127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    ("behave", "text"),
    [(closes, "connection closed during the TLS handshake"), (resets, "connection reset by peer")],
)
async def test_a_handshake_that_is_cut_off_is_a_lost_connection(behave: Behaviour, text: str) -> None:
    async with raw_server(behave) as server:
        assert await attempt(f"https://127.0.0.1:{server.port}/") == Failure("reset", text, f"127.0.0.1:{server.port}")


# Answers


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (503, "503 Service Unavailable"),
        (400, "400 Bad Request"),
        (401, "401 Unauthorized"),
        (403, "403 Forbidden"),
        (302, "302 Found"),
        (460, "460"),
    ],
)
async def test_an_answer_is_told_by_its_status_in_the_words_of_http(status: int, text: str) -> None:
    async with raw_server(answering(answer(f"{status} CANARY", b"CANARY"))) as server:
        assert await attempt(server.url) == Failure("status", text, f"127.0.0.1:{server.port}", status)


async def test_an_answer_that_says_that_it_failed_is_told_so() -> None:
    async with raw_server(answering(answer("200 CANARY", b'{"success":false,"message":"CANARY"}'))) as server:
        failure = await attempt(server.url)
        assert failure == Failure("status", '200 OK, with "success": false', f"127.0.0.1:{server.port}", 200)


# Proxies


async def through(behave: Behaviour, userinfo: str = "user:CANARY@") -> tuple[Failure, int]:
    async with raw_server(behave) as proxy:
        url = f"http://{userinfo}127.0.0.1:{proxy.port}"
        return await attempt("https://dc.invalid/track/event", proxy=url), proxy.port


@pytest.mark.parametrize("status", [407, 502])
async def test_a_proxy_that_refuses_is_told_by_its_status(status: int) -> None:
    failure, port = await through(answering(answer(f"{status} CANARY")))
    text = {407: "407 Proxy Authentication Required", 502: "502 Bad Gateway"}[status]
    assert failure == Failure("proxy", f"the proxy refused: {text}", f"127.0.0.1:{port}", status)


@pytest.mark.parametrize(
    ("behave", "text"),
    [
        (closes, "connection closed before an answer"),
        (resets, "connection reset by peer"),
        (sends(b"220 CANARY\r\n\r\n"), "the answer is not HTTP"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel_is_told(behave: Behaviour, text: str) -> None:
    failure, port = await through(behave)
    assert failure == Failure("proxy", f"the proxy cannot be used: {text}", f"127.0.0.1:{port}")


async def test_a_proxy_that_cannot_be_reached_is_told() -> None:
    port = free_port()
    failure = await attempt("https://dc.invalid/", proxy=f"http://user:CANARY@127.0.0.1:{port}")
    assert failure == Failure("proxy", "the proxy cannot be used: connection refused", f"127.0.0.1:{port}")
    failure = await attempt("https://dc.invalid/", proxy="http://user:CANARY@proxy..invalid:3128")
    text = "the proxy cannot be used: not a valid host name: proxy..invalid"
    assert failure == Failure("proxy", text, "proxy..invalid:3128")


async def test_a_proxy_over_tls_whose_certificate_expired_is_told(authority: Authority) -> None:
    async with raw_server(answering(answer()), tls=expired(authority)) as proxy:
        failure = await attempt("https://dc.invalid/", ca_file=authority.file, proxy=f"https://127.0.0.1:{proxy.port}")
        text = "the proxy cannot be used: certificate has expired"
        assert failure == Failure("proxy", text, f"127.0.0.1:{proxy.port}")


async def test_a_tunnel_that_leads_to_no_tls_is_told_of_growlytics() -> None:
    failure, _ = await through(sends(TUNNEL))
    assert failure == Failure("reset", "connection closed during the TLS handshake", "dc.invalid:443")
