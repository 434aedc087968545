"""The real client over TLS, with certificates of the tests' own authority, straight and through a forward proxy."""

import asyncio
import random
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from forwarder import __version__
from forwarder.growlytics.connecting import read_certificates
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import RefusedError
from tests.fakes.certificates import Authority
from tests.fakes.client_harness import (
    BODY,
    KEY,
    LOST,
    NEVER_SENT,
    NO_CONNECTION,
    OK,
    PATIENCE_SECONDS,
    RISING_SECONDS,
    opened,
)
from tests.fakes.raw_server import Behaviour, Connection, RawServer, answer, answering, raw_server

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


# Whom to trust


async def test_a_server_of_an_authority_in_the_file_is_reached_and_its_connection_kept(authority: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        for _ in range(20):
            assert await client.post(BODY) == Delivered()
        assert server.requests[0].header("x-growlytics-key") == [KEY]
        assert len(server.connections) == 1


async def test_a_server_of_an_authority_that_the_system_does_not_know_is_refused(authority: Authority) -> None:
    async with raw_server(answering(OK), tls=authority.tls) as server, opened(server.url) as client:
        assert await client.post(BODY) == NEVER_SENT
        assert server.requests == []


async def test_a_server_of_another_authority_than_that_in_the_file_is_refused(
    authority: Authority, stranger: Authority
) -> None:
    async with (
        raw_server(answering(OK), tls=stranger.tls) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        assert await client.post(BODY) == NEVER_SENT
        assert server.requests == []


@pytest.mark.parametrize("host", ["127.0.0.2", "dc.growlytics.in", "*.0.0.1"])
async def test_a_server_whose_certificate_is_for_another_host_is_refused(authority: Authority, host: str) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls_for(host)) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        assert await client.post(BODY) == NEVER_SENT
        assert server.requests == []


async def test_a_file_of_certificates_that_has_gone_is_told_when_the_client_opens(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="No such file"):
        async with opened("https://127.0.0.1:1/", ca_file=tmp_path / "gone.pem"):
            pass


async def test_a_handshake_that_is_never_answered_is_a_timeout_and_nothing_was_sent(authority: Authority) -> None:
    async def behave(connection: Connection) -> None:
        await connection.reader.read()

    async with (
        raw_server(behave) as server,
        opened(server.url.replace("http", "https", 1), ca_file=authority.file, timeout=RISING_SECONDS[0]) as client,
    ):
        assert await client.post(BODY) == NO_CONNECTION


async def test_a_kept_connection_that_ended_is_noticed_over_tls_too(authority: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        for number in range(1, 6):
            assert await client.post(BODY) == Delivered()
            assert len(server.connections) == number
            server.connections[-1].end()
        assert len(server.requests) == 5


@pytest.mark.parametrize("is_proxied", [False, True], ids=["straight", "through a proxy"])
async def test_each_of_many_posts_at_the_same_time_gets_the_answer_to_its_own_event(
    authority: Authority, is_proxied: bool
) -> None:
    """Also where the server takes its time, and ends connections after an answer, as it likes."""
    chance = random.Random(1)

    async def behave(connection: Connection) -> None:
        while request := await connection.request():
            number = int(request.body)
            await asyncio.sleep(chance.uniform(0, 0.003))
            await connection.send(answer(("200 OK", "422 No", "503 Busy")[number % 3], b"", f"Retry-After: {number}"))
            if chance.random() < 0.2:
                await connection.close()
                return

    def own_outcome(number: int) -> Outcome:
        busy = Retryable("status_5xx", maybe_delivered=False, retry_after_seconds=float(number))
        return (Delivered(), Rejected(422), busy)[number % 3]

    async with (
        raw_server(behave, tls=authority.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy) if is_proxied else None) as client,
    ):

        async def post(numbers: range) -> None:
            for number in numbers:
                assert await client.post(str(number).encode()) in (own_outcome(number), LOST)

        await asyncio.gather(*(post(range(first, 600, 12)) for first in range(12)))
        assert 12 < len(server.connections) < len(server.requests) / 2, "some were kept, and some ended"


# Whom to trust from now on


async def test_new_authorities_are_asked_for_the_next_connection_and_none_of_before_carries_another_post(
    authority: Authority, stranger: Authority
) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        for _ in range(2):
            assert await client.post(BODY) == Delivered()
        client.use_certificates(read_certificates(str(stranger.file)))
        assert await client.post(BODY) == NEVER_SENT
        client.use_certificates(read_certificates(str(authority.file)))
        assert await client.post(BODY) == Delivered()
        assert len(server.connections) == 2, "one before, one after"


async def test_a_post_under_way_ends_as_it_began_and_its_connection_is_not_kept(
    authority: Authority, stranger: Authority
) -> None:
    goes_on, has_come = asyncio.Event(), asyncio.Event()

    async def behave(connection: Connection) -> None:
        while await connection.request():
            has_come.set()
            await goes_on.wait()
            await connection.send(OK)

    async with (
        raw_server(behave, tls=authority.tls) as server,
        opened(server.url, ca_file=authority.file) as client,
    ):
        post = asyncio.create_task(client.post(BODY))
        await has_come.wait()
        client.use_certificates(read_certificates(str(stranger.file)))
        goes_on.set()
        assert await post == Delivered()
        assert await client.post(BODY) == NEVER_SENT


async def test_new_authorities_hold_for_a_proxy_over_tls_too(authority: Authority, stranger: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        tunnelling_proxy(stranger) as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        assert await client.post(BODY) == NEVER_SENT
        both = authority.file.with_name("both.pem")
        both.write_bytes(authority.file.read_bytes() + stranger.file.read_bytes())
        client.use_certificates(read_certificates(str(both)))
        assert await client.post(BODY) == Delivered()


# Through a proxy


@dataclass(eq=False)
class Seen:
    """What a proxy gets to see."""

    server: RawServer | None = None
    in_tunnels: bytearray = field(default_factory=bytearray)
    tunnels: list[tuple[Connection, asyncio.StreamWriter]] = field(default_factory=list)

    @property
    def everything(self) -> str:
        assert self.server is not None
        return f"{self.server.requests} {bytes(self.in_tunnels)!r}"


@asynccontextmanager
async def tunnelling_proxy(authority: Authority | None = None) -> AsyncIterator[Seen]:
    """Make every tunnel that is asked for; over TLS with the authority's certificate, if one is given."""
    seen = Seen()

    async def behave(connection: Connection) -> None:
        request = await connection.request()
        assert request is not None
        method, _, rest = request.line.partition(" ")
        assert method == "CONNECT"
        host, _, port = rest.removesuffix(" HTTP/1.1").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        seen.tunnels.append((connection, writer))
        await connection.send(ESTABLISHED)
        try:
            await asyncio.gather(to_the_server(connection, writer), to_the_client(reader, connection))
        finally:
            writer.transport.abort()

    async def to_the_server(connection: Connection, writer: asyncio.StreamWriter) -> None:
        while data := await connection.reader.read(65536):
            seen.in_tunnels.extend(data)
            writer.write(data)
        writer.close()

    async def to_the_client(reader: asyncio.StreamReader, connection: Connection) -> None:
        while data := await reader.read(65536):
            await connection.send(data)
        await connection.close()

    async with raw_server(behave, tls=authority.tls if authority else None) as seen.server:
        yield seen


def url_of(proxy: Seen, userinfo: str = "") -> str:
    assert proxy.server is not None
    return f"{proxy.server.scheme}://{userinfo}127.0.0.1:{proxy.server.port}"


@pytest.mark.parametrize("is_proxy_over_tls", [False, True], ids=["proxy over http", "proxy over https"])
async def test_a_proxy_is_asked_for_a_tunnel_and_sees_neither_key_nor_event(
    authority: Authority, is_proxy_over_tls: bool
) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        tunnelling_proxy(authority if is_proxy_over_tls else None) as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        for _ in range(10):
            assert await client.post(BODY) == Delivered()
        assert proxy.server is not None
        (asked,) = proxy.server.requests
        assert asked.line == f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"
        assert asked.header("user-agent") == [f"growlytics-forwarder/{__version__}"]
        assert asked.header("proxy-authorization") == []
        assert not [name for name, _ in asked.headers if "growlytics" in name]
        assert len(proxy.in_tunnels) > len(BODY) * 10
        for hidden in (KEY, "customerId", "Bought", "/track/event"):
            assert hidden not in proxy.everything
        assert len(server.requests) == 10
        assert len(server.connections) == 1, "the tunnel is kept"
        assert server.requests[0].header("x-growlytics-key") == [KEY]


async def test_user_and_password_are_for_the_proxy_alone(authority: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy, "us%40er:p%3Aä%20ss@")) as client,
    ):
        assert await client.post(BODY) == Delivered()
        assert await client.post(BODY) == Delivered()
        assert proxy.server is not None
        (asked,) = proxy.server.requests
        assert asked.header("proxy-authorization") == ["Basic " + b64encode("us@er:p:ä ss".encode()).decode()]
        assert len(server.connections) == 1
        for request in server.requests:
            assert not [name for name, _ in request.headers if "auth" in name]


async def test_a_server_behind_a_proxy_is_verified_as_any_other(authority: Authority, stranger: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=stranger.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        assert await client.post(BODY) == NEVER_SENT
        assert server.requests == []
        assert proxy.tunnels


async def test_a_proxy_over_tls_is_verified_before_it_is_told_anything(
    authority: Authority, stranger: Authority
) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        tunnelling_proxy(stranger) as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy, "user:hunter2@")) as client,
    ):
        assert await client.post(BODY) == NEVER_SENT
        assert proxy.server is not None
        assert proxy.server.requests == []
        assert server.connections == []


async def test_an_answer_that_comes_through_the_proxy_counts_as_any_other(authority: Authority) -> None:
    async with (
        raw_server(answering(answer("422 No", b"no")), tls=authority.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        assert await client.post(BODY) == Rejected(422)


async def test_a_tunnel_that_breaks_while_idle_is_made_again_and_nobody_notices(authority: Authority) -> None:
    async with (
        raw_server(answering(OK), tls=authority.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        for number in range(1, 6):
            assert await client.post(BODY) == Delivered()
            assert len(proxy.tunnels) == number
            proxy.tunnels[-1][0].end()
        assert len(server.requests) == 5


async def test_a_tunnel_that_breaks_after_the_request_may_have_delivered(authority: Authority) -> None:
    proxy: Seen

    async def behave(connection: Connection) -> None:
        await connection.request()
        proxy.tunnels[0][0].reset()
        await asyncio.Event().wait()

    async with (
        raw_server(behave, tls=authority.tls) as server,
        tunnelling_proxy() as proxy,
        opened(server.url, ca_file=authority.file, proxy=url_of(proxy)) as client,
    ):
        assert await client.post(BODY) == LOST


async def outcome_through(behave: Behaviour, *, timeout: float = PATIENCE_SECONDS) -> Outcome:
    """Post once through a proxy that behaves so, to a server that is not there."""
    async with (
        raw_server(behave) as proxy,
        opened("https://dc.invalid/track/event", proxy=f"http://127.0.0.1:{proxy.port}", timeout=timeout) as client,
    ):
        outcome = await client.post(BODY)
        assert len(proxy.connections) == 1 or outcome == NO_CONNECTION, "the client does not try again by itself"
        assert [request.line for request in proxy.requests if "CONNECT dc.invalid:443" not in request.line] == []
        return outcome


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("407 Proxy Authentication Required", Blocked(407, "proxy")),
        ("401 Unauthorized", Blocked(401, "proxy")),
        ("403 Forbidden", Blocked(403, "proxy")),
        ("405 Method Not Allowed", Blocked(405, "proxy")),
        ("302 Found", Blocked(302, "proxy")),
        ("429 Too Many Requests", NEVER_SENT),
        ("500 Internal Server Error", NEVER_SENT),
        ("502 Bad Gateway", NEVER_SENT),
        ("503 Service Unavailable", NEVER_SENT),
        ("504 Gateway Timeout", NEVER_SENT),
    ],
)
async def test_a_proxy_that_refuses_a_tunnel_blocks_us_or_may_have_a_bad_moment(status: str, expected: Outcome) -> None:
    assert await outcome_through(answering(answer(status, b"no", 'Proxy-Authenticate: Basic realm="x"'))) == expected


@pytest.mark.parametrize("status", ["408 Request Timeout", "429 Too Many Requests", "502 Bad Gateway", "503 Busy"])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["Retry-After: 2.5"], 2.5),
        (["Retry-After: Tue, 01 Dec 2026 12:00:09 GMT", "Date: Tue, 01 Dec 2026 12:00:00 GMT"], 9.0),
        ([], None),
    ],
)
async def test_a_proxy_that_has_a_bad_moment_says_when_to_come_again(
    status: str, headers: list[str], seconds: float | None
) -> None:
    assert await outcome_through(answering(answer(status, b"no", *headers))) == Retryable(
        "network", maybe_delivered=False, retry_after_seconds=seconds
    )


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 200", b"220 mail.example ESMTP\r\n\r\n", ESTABLISHED, ESTABLISHED + b"not tls"]
)
async def test_a_proxy_that_ends_the_connection_instead_of_a_tunnel_is_a_network_error_and_nothing_was_sent(
    data: bytes,
) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        await connection.close()

    assert await outcome_through(behave) == NEVER_SENT


@pytest.mark.parametrize("after_request", [False, True])
async def test_a_proxy_that_resets_the_connection_is_a_network_error_and_nothing_was_sent(after_request: bool) -> None:
    async def behave(connection: Connection) -> None:
        if after_request:
            await connection.request()
        connection.reset()

    assert await outcome_through(behave) == NEVER_SENT


@pytest.mark.parametrize("data", [b"", ESTABLISHED], ids=["no answer", "a tunnel to nowhere"])
async def test_a_proxy_that_falls_silent_is_a_timeout_and_nothing_was_sent(data: bytes) -> None:
    silent = asyncio.Event()

    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(data)
        silent.set()
        await asyncio.Event().wait()

    for seconds in RISING_SECONDS:
        assert await outcome_through(behave, timeout=seconds) == NO_CONNECTION
        if silent.is_set():
            return
    pytest.fail("the proxy was not asked")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "http://proxy..invalid:3128", "https://256.256.256.256"])
async def test_a_proxy_that_cannot_be_reached_is_a_network_error_and_nothing_was_sent(proxy: str) -> None:
    async with opened("https://dc.invalid/track/event", proxy=proxy) as client:
        assert await client.post(BODY) == NEVER_SENT


async def test_proxies_that_the_environment_names_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with raw_server(answering(OK)) as server, opened(server.url) as client:
        assert await client.post(BODY) == Delivered()
