"""What `diagnose` and `check-config --connect` find on the way to Growlytics, with real servers that do anything."""

import asyncio
import os
import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Final

import pytest

from forwarder.cli.checks import Checked, described
from forwarder.cli.probing import endpoint, probe_way
from forwarder.settings import GrowlyticsSettings, Secret
from tests.fakes.certificates import Authority
from tests.fakes.raw_server import (
    Behaviour,
    Connection,
    RawServer,
    answer,
    answering,
    answering_once_and_closing,
    raw_server,
)

SECONDS: Final = 20.0
"""Of a step that must succeed."""
SHORT_SECONDS: Final = 1.0
"""Of a step that cannot."""
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
NOW: Final = datetime.now(UTC)


def dated(*, hours: float = 0, status: str = "404 Not Found", more: str = "") -> bytes:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    return answer(status, b"", f"Date: {date}", *([more] if more else []))


async def probed(url: str, *, seconds: float = SECONDS, asks: bool = True, **more: object) -> dict[str, Checked]:
    """Return what each step found, by the step."""
    ca_file, proxy = more.get("ca_file"), more.get("proxy")
    settings = GrowlyticsSettings(
        url=url, ca_file=None if ca_file is None else str(ca_file), proxy=None if proxy is None else Secret(str(proxy))
    )
    found = await asyncio.to_thread(lambda: list(probe_way(settings, seconds=seconds, asks=asks)))
    assert len({each.check for each in found}) == len(found), found
    for each in found:
        assert bool(each.fix) == (each.result in {"warn", "fail"}), each
        assert "CANARY" not in repr(each)
    return {each.check: each for each in found}


def results(found: Mapping[str, Checked]) -> dict[str, str]:
    return {name: each.result for name, each in found.items()}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"))


# All is well


async def test_a_good_way_is_ok_at_every_step_and_neither_event_nor_key_is_sent(authority: Authority) -> None:
    async with raw_server(answering(dated()), tls=authority.tls) as server:
        found = await probed(f"{server.url}?CANARY=1", ca_file=authority.file)
        assert results(found) == dict.fromkeys(("dns", "connect", "tls", "answer", "clock"), "ok")
        (request,) = server.requests
    assert request.line == "HEAD / HTTP/1.1"
    assert request.body == b""
    assert {name for name, _ in request.headers} == {"host", "user-agent", "accept", "cache-control", "connection"}
    assert "verified with growlytics.ca_file" in found["tls"].text
    assert "127.0.0.1, issued by trustme" in found["tls"].text
    addresses = found["tls"].facts["addresses"]
    assert isinstance(addresses, list)
    (facts,) = addresses
    assert facts["protocol"].startswith("TLSv1.")
    assert facts["names"] == ["127.0.0.1"]
    assert facts["verified"] is True


async def test_without_asking_nothing_is_requested(authority: Authority) -> None:
    async with raw_server(answering(dated()), tls=authority.tls) as server:
        found = await probed(server.url, ca_file=authority.file, asks=False)
        assert server.requests == []
    assert results(found) == {"dns": "ok", "connect": "ok", "tls": "ok"}


async def test_over_plain_http_to_this_machine_there_is_no_tls_to_check() -> None:
    async with raw_server(answering(dated())) as server:
        found = await probed(server.url.replace("127.0.0.1", "localhost"))
    assert results(found) == {"dns": "ok", "connect": "ok", "tls": "skip", "answer": "ok", "clock": "ok"} or (
        found["connect"].result == "warn"  # localhost is also ::1 here, where this server does not listen
    )
    assert found["answer"].result == found["clock"].result == "ok"


async def test_every_address_of_a_name_is_tried_and_one_that_refuses_is_named() -> None:
    if len({each[4][0] for each in socket.getaddrinfo("localhost", 1, type=socket.SOCK_STREAM)}) < 2:
        pytest.skip("localhost has one address here")
    async with raw_server(answering(dated())) as server:
        found = await probed(server.url.replace("127.0.0.1", "localhost"))
    assert found["connect"].result == "warn"
    assert f"[::1]:{server.port}: connection refused" in found["connect"].text
    assert f"127.0.0.1:{server.port}: connected in" in found["connect"].text


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("https://dc.growlytics.in/track/event", "dc.growlytics.in", 443, "dc.growlytics.in"),
        ("https://DC.growlytics.in./track", "dc.growlytics.in.", 443, "dc.growlytics.in."),
        ("https://dc.growlytics.in..:8443", "dc.growlytics.in.", 8443, "dc.growlytics.in.:8443"),
        ("https://[2001:db8::1]/x", "2001:db8::1", 443, "[2001:db8::1]"),
        ("https://[2001:db8::1]:444/x", "2001:db8::1", 444, "[2001:db8::1]:444"),
        ("http://127.0.0.1/x", "127.0.0.1", 80, "127.0.0.1"),
        ("https://straße.example/", "xn--strae-oqa.example", 443, "xn--strae-oqa.example"),
        ("https://xn--strae-oqa.example/", "xn--strae-oqa.example", 443, "xn--strae-oqa.example"),
        ("https://日本.example.:1/", "xn--wgv71a.example.", 1, "xn--wgv71a.example.:1"),
    ],
)
def test_a_url_leads_where_the_daemon_connects_to(url: str, host: str, port: int, authority: str) -> None:
    found = endpoint(url)
    assert (found.host, found.port, found.authority) == (host, port, authority)
    assert not found.tls_host.endswith(".")


async def test_ipv6_is_tried_as_such() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        found = await probed(f"http://[::1]:{listener.getsockname()[1]}/", seconds=SHORT_SECONDS)
    assert found["dns"].result == found["connect"].result == "ok"
    assert "[::1]:" in found["connect"].text
    assert found["answer"].result == "fail"


# Names


async def test_a_name_that_does_not_exist_ends_the_way_and_the_rest_is_told_as_not_tried() -> None:
    found = await probed("https://nobody.invalid/track/event", seconds=3)
    assert results(found) == {"dns": "fail", "connect": "skip", "tls": "skip", "answer": "skip", "clock": "skip"}
    dead = "the name server does not answer"
    assert found["dns"].text.startswith(("no such host nobody.invalid", dead))
    assert described(found.values())["ok"] is False


@pytest.mark.parametrize("host", ["nobody..invalid", "a" * 64 + ".invalid"])
async def test_what_cannot_be_a_name_is_told(host: str) -> None:
    found = await probed(f"https://{host}/", seconds=3)
    assert found["dns"].result == "fail"
    assert host in found["dns"].text


# Connections


async def test_a_refused_connection_is_told_with_its_address() -> None:
    with socket.socket() as unused:  # bound, but it does not listen
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found = await probed(f"https://127.0.0.1:{port}/")
    assert results(found) == {"dns": "ok", "connect": "fail", "tls": "skip", "answer": "skip", "clock": "skip"}
    assert found["connect"].text == f"127.0.0.1:{port}: connection refused"


async def test_an_address_that_answers_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:  # the kernel drops further ones once its queue is full
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", port))
            found = await probed(f"https://127.0.0.1:{port}/", seconds=SHORT_SECONDS)
        finally:
            for each in waiting:
                each.close()
    assert found["connect"].text == f"127.0.0.1:{port}: no connection within 1 s"
    assert "firewall" in found["connect"].fix


# TLS


async def tls_with(context: ssl.SSLContext, **more: object) -> tuple[Checked, Checked]:
    """Return what was found of TLS and of the clock with a server that has this certificate."""
    async with raw_server(answering(dated()), tls=context) as server:
        found = await probed(server.url, **more)  # type: ignore[arg-type] # further settings
    return found["tls"], found["clock"]


async def test_an_expired_certificate_is_shown_with_its_dates(authority: Authority) -> None:
    context = authority.tls_for(
        "127.0.0.1", not_before=NOW - timedelta(days=90), not_after=NOW - timedelta(days=2, hours=1)
    )
    tls, clock = await tls_with(context, ca_file=authority.file)
    assert tls.result == "fail"
    assert tls.text.startswith("certificate has expired: certificate for 127.0.0.1, issued by trustme")
    assert f"to {NOW - timedelta(days=2, hours=1):%Y-%m-%d} (expired 3 days ago)" in tls.text
    assert "clock" in tls.fix
    assert clock.text.endswith("whose certificate cannot be verified")


async def test_a_certificate_that_is_not_yet_valid_is_shown_with_its_dates(authority: Authority) -> None:
    context = authority.tls_for("127.0.0.1", not_before=NOW + timedelta(days=2))
    tls, _ = await tls_with(context, ca_file=authority.file)
    assert tls.result == "fail"
    assert "not yet valid" in tls.text
    assert f"valid {NOW + timedelta(days=2):%Y-%m-%d} to" in tls.text


async def test_a_certificate_that_expires_soon_is_a_warning(authority: Authority) -> None:
    tls, _ = await tls_with(authority.tls_for("127.0.0.1", not_after=NOW + timedelta(days=5)), ca_file=authority.file)
    assert tls.result == "warn"
    assert "(4 days left)" in tls.text


async def test_the_names_of_another_hosts_certificate_are_shown(authority: Authority) -> None:
    tls, _ = await tls_with(authority.tls_for("dc.growlytics.in"), ca_file=authority.file)
    assert tls.text.startswith("certificate is not valid for 127.0.0.1: certificate for dc.growlytics.in, issued by")
    assert "growlytics.url" in tls.fix


async def test_a_certificate_of_an_unknown_authority_is_shown_with_its_issuer(
    authority: Authority, stranger: Authority
) -> None:
    for more in ({}, {"ca_file": authority.file}):
        tls, clock = await tls_with(stranger.tls, **more)
        assert tls.result == "fail"
        assert tls.text.startswith(
            "certificate of an unknown authority (see growlytics.ca_file): certificate for 127.0.0.1"
        )
        assert "growlytics.ca_file" in tls.fix
        assert "trustme" in tls.fix
        assert clock.result == "ok"


async def test_a_file_of_authorities_that_cannot_be_used_is_told_and_the_certificate_is_shown_all_the_same(
    authority: Authority, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("CANARY")
    for file in (wrong, tmp_path / "gone.pem"):
        tls, _ = await tls_with(authority.tls, ca_file=file)
        assert tls.text.startswith("growlytics.ca_file names a file that ")
        assert "certificate for 127.0.0.1" in tls.text


async def test_a_file_of_authorities_that_hangs_ends_the_check_in_time(authority: Authority, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with raw_server(answering(dated()), tls=authority.tls) as server:
        try:
            found = await probed(server.url, seconds=3, ca_file=pipe)
        finally:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))  # who reads it ends now
    assert "growlytics.ca_file names a file that was not read within" in found["tls"].text


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 4096,
        b"\xff\x1b[31mCANARY" * 100_000,
    ],
    ids=["ssh", "http", "zeros", "a flood"],
)
async def test_what_speaks_no_tls_is_told(sent: bytes) -> None:
    async def behave(connection: Connection) -> None:
        await connection.send(sent)

    async with raw_server(behave) as server:
        found = await probed(server.url.replace("http", "https", 1))
    assert found["tls"].result == "fail"
    assert found["tls"].text == "the other side does not speak TLS"
    assert results(found)["answer"] == results(found)["clock"] == "skip"


async def test_a_server_that_closes_during_the_handshake_is_told() -> None:
    async with raw_server(lambda connection: connection.close()) as server:
        found = await probed(server.url.replace("http", "https", 1))
    assert found["tls"].text == "connection closed during the TLS handshake"


async def test_a_server_that_never_answers_the_handshake_is_told() -> None:
    async with raw_server(silent) as server:
        found = await probed(server.url.replace("http", "https", 1), seconds=SHORT_SECONDS)
    assert found["tls"].text == "no answer to the TLS handshake"


# Answers and clocks


async def silent(connection: Connection) -> None:
    await connection.reader.read()


async def dripping(connection: Connection) -> None:
    """Send a byte now and then, so that no single read takes long."""
    await connection.send(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        await connection.send(b"y")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("behave", [silent, dripping])
async def test_a_server_that_never_ends_its_answer_is_told_in_time(behave: Behaviour) -> None:
    async with raw_server(behave) as server:
        found = await probed(server.url, seconds=SHORT_SECONDS)
    assert found["answer"].text == "no answer within 1 s (HEAD / without event and key)"
    assert found["clock"].result == "skip"


@pytest.mark.parametrize(
    "sent",
    [
        b"220 mail.example ESMTP\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
        b"\x00\xff\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_is_told(sent: bytes) -> None:
    async def behave(connection: Connection) -> None:
        await connection.request()
        await connection.send(sent)

    async with raw_server(behave) as server:
        found = await probed(server.url)
    assert found["answer"].result == "fail"
    assert found["answer"].text.startswith("what answers does not speak HTTP")


async def test_a_server_that_closes_before_its_answer_is_told() -> None:
    async with raw_server(answering_once_and_closing(b"")) as server:
        found = await probed(server.url)
    assert found["answer"].text.startswith("connection closed before an answer")


async def test_a_server_that_fails_is_a_warning_and_its_clock_is_compared() -> None:
    async with raw_server(answering(dated(status="503 Service Unavailable"))) as server:
        found = await probed(server.url)
    assert (found["answer"].result, found["clock"].result) == ("warn", "ok")


async def test_an_answer_after_another_that_only_announces_it_counts() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with raw_server(answering(early + dated(status="204 No Content"))) as server:
        found = await probed(server.url)
    assert found["answer"].facts["status"] == 204
    assert found["clock"].result == "ok"


@pytest.mark.parametrize(
    ("hours", "result", "words"),
    [
        (5.001, "fail", "this machine's clock is 5 h behind that of 127.0.0.1"),
        (-49.001, "fail", "this machine's clock is 2 d 1 h ahead of that of 127.0.0.1"),
        (1 / 60, "warn", "behind that of"),
        (0, "ok", "127.0.0.1"),
    ],
)
async def test_a_clock_that_is_off_is_told(hours: float, result: str, words: str) -> None:
    async with raw_server(answering(dated(hours=hours))) as server:
        clock = (await probed(server.url))["clock"]
    assert clock.result == result
    assert words in clock.text
    difference = clock.facts["difference_seconds"]
    assert isinstance(difference, float)
    assert difference == pytest.approx(-hours * 3600, abs=30)


async def test_a_cached_answer_is_as_old_as_the_cache_says() -> None:
    async with raw_server(answering(dated(hours=-2, more="Age: 7200"))) as server:
        assert (await probed(server.url))["clock"].result == "ok"


@pytest.mark.parametrize("date", ["Date: CANARY", "Date: Sun, 99 Nov 99999 25:61:61 GMT", "Date:", "X: y"])
async def test_without_a_valid_date_no_clock_is_compared(date: str) -> None:
    async with raw_server(answering(answer("200 OK", b"", date))) as server:
        found = await probed(server.url)
    assert found["answer"].result == "ok"
    assert found["clock"].result == "skip"


# Proxies


def tunnel(target: RawServer, *, demands: str = "") -> Behaviour:
    """Make the tunnel that is asked for, to a client with the credentials that this proxy demands."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def behave(connection: Connection) -> None:
        if (request := await connection.request()) is None:  # it only tried whether it can connect
            return
        assert request.line == f"CONNECT 127.0.0.1:{target.port} HTTP/1.1"
        assert request.header("x-growlytics-key") == []
        if demands and request.header("proxy-authorization") != [demands]:
            await connection.send(answer("407 Proxy Authentication Required"))
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        try:
            await connection.send(ESTABLISHED)
            await asyncio.gather(pump(connection.reader, writer), pump(reader, connection.writer))
        finally:
            writer.transport.abort()

    return behave


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "https"])
async def test_the_way_through_a_proxy_is_tried_step_by_step(authority: Authority, *, over_tls: bool) -> None:
    async with (
        raw_server(answering(dated()), tls=authority.tls) as server,
        raw_server(tunnel(server, demands="Basic dXNlcjpDQU5BUlk="), tls=authority.tls if over_tls else None) as proxy,
    ):
        url = f"{proxy.scheme}://user:CANARY@127.0.0.1:{proxy.port}"
        found = await probed(server.url, ca_file=authority.file, proxy=url)
    assert results(found) == dict.fromkeys(("dns", "connect", "proxy", "tls", "answer", "clock"), "ok")
    assert f"the proxy 127.0.0.1:{proxy.port} makes a tunnel to 127.0.0.1:{server.port}" in found["proxy"].text


@pytest.mark.parametrize(
    ("sent", "login", "words"),
    [
        (answer("407 Proxy Authentication Required"), "", "asks for a user and a password (407)"),
        (answer("407 Proxy Authentication Required"), "user:CANARY@", "refuses the user or the password (407)"),
        (answer("403 Forbidden", b"CANARY"), "", "answers 403 and makes no tunnel to dc.invalid:443"),
        (answer("502 Bad Gateway"), "user:CANARY@", "answers 502 and makes no tunnel to dc.invalid:443"),
        (b"SOCKS?\x1b[31m", "", "does not answer in HTTP"),
        (b"", "", "closes the connection before an answer"),
    ],
)
async def test_a_proxy_that_makes_no_tunnel_is_told(sent: bytes, login: str, words: str) -> None:
    async with raw_server(answering_once_and_closing(sent)) as proxy:
        found = await probed("https://dc.invalid/track/event", proxy=f"http://{login}127.0.0.1:{proxy.port}")
    assert results(found) == {
        "dns": "ok", "connect": "ok", "proxy": "fail", "tls": "skip", "answer": "skip", "clock": "skip"
    }  # fmt: skip
    assert found["proxy"].text == f"the proxy 127.0.0.1:{proxy.port} {words}"


async def test_a_proxy_that_is_silent_is_told() -> None:
    async with raw_server(silent) as proxy:
        found = await probed("https://dc.invalid/", proxy=f"http://127.0.0.1:{proxy.port}", seconds=SHORT_SECONDS)
    assert "does not answer within 1 s" in found["proxy"].text


async def test_a_proxy_over_tls_that_nobody_trusts_is_told(authority: Authority) -> None:
    async with raw_server(answering(ESTABLISHED), tls=authority.tls) as proxy:
        found = await probed("https://dc.invalid/", proxy=f"https://127.0.0.1:{proxy.port}")
    assert "cannot be used: certificate of an unknown authority" in found["proxy"].text


async def test_a_proxy_with_a_name_that_does_not_exist_is_told_without_its_password() -> None:
    found = await probed("https://dc.invalid/", proxy="http://CANARY:CANARY@proxy.invalid:3128", seconds=3)
    assert found["dns"].result == "fail"
    assert "proxy.invalid" in found["dns"].text
    assert found["proxy"].result == "skip"
