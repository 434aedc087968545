"""Requests that are damaged at random, as bytes: no 5xx but 501, no hang, and afterwards the daemon is as before."""

import asyncio
import gzip
import random
import re
import time
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from tests.system.processes import Daemon, running_daemon, until

NOWHERE: Final = "http://127.0.0.1:9/track/event"
GOOD: Final = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
SEED: Final = 20260817
CLIENTS: Final = 64
WARM_UP_EXCHANGES: Final = 500
FEW_FILES: Final = 60
LAST: Final = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
PATIENCE_SECONDS: Final = 30
"""Longer than the daemon's own bounds on headers, bodies and the rest of what it refused."""

TARGETS: Final = [
    *("/track/event", "/track/event", "/track/event", "/v1/events", "/v1/events", "/v1/events?ids=true", "/v1/status"),
    *("/v1/events/1", "/v1/dead-letters", "/v1/dead-letters?limit=5", "/v1/dead-letters/replay", "/v1/dead-letters/1"),
    *(
        "/v1/attribute-types",
        "/openapi.yaml",
        "/",
        "*",
        "http://localhost/v1/events",
        "//v1/events",
        "/%2e%2e/%ff?%ff=%",
    ),
]
METHODS: Final = [
    "POST",
    "POST",
    "POST",
    "POST",
    "GET",
    "PUT",
    "HEAD",
    "OPTIONS",
    "DELETE",
    "CONNECT",
    "TRACE",
    "PRI",
    "post",
]
HEADERS: Final = [
    *("Content-Type: application/json", "Content-Type: application/x-ndjson", "Content-Type: text/plain", "Content-Type:"),
    *("Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: zstd", "Content-Encoding: br"),
    *("Content-Encoding: gzip, gzip", "Expect: 100-continue", "Connection: close", "Connection: Upgrade", "Upgrade: h2c"),
    *("Upgrade: websocket", "Origin: https://evil.example", "Origin: null", "Host: evil.example", "Sec-Fetch-Site: none"),
    *("Idempotency-Key: a", "Idempotency-Key: \xff\xfe", "x-growlytics-key: k", "Authorization: Bearer x", "Cookie: a=b;"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Content-Length: 5", "Content-Length: 99999999999"),
    *("Content-Length: -1", "X:" + "y" * 9000, "Accept: */*", "Range: bytes=0-", "If-Match: *", "TE: trailers"),
    *("Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13", "Access-Control-Request-Method: POST", " folded", "Bad Name: x"),
]  # fmt: skip
BODIES: Final = [
    *(GOOD, GOOD, b"[%b,%b]" % (GOOD, GOOD), b"%b\n%b\n" % (GOOD, GOOD), b"", b"{", b"[]", b"[[[[[[", b"null", b'"\xff"'),
    *(b'{"idempotency_key":"k","event":%b}' % GOOD, b"[1,2,%b]" % GOOD, GOOD.replace(b"1.50", b"1e999"), b'{"ids":["1"]}'),
    *(GOOD.replace(b'"n"', b'"\\ud800\\u0000"'), b"[" * 2000, GOOD * 20, b" " * 5000 + GOOD),
]  # fmt: skip
PIECES: Final = [
    b"\r\n",
    b"\n",
    b"\x00",
    b" ",
    b":",
    b"\xff",
    b"0",
    b"\r\n\r\n",
    b"%",
    b"{",
    b'"',
    b"\t",
    b";",
    b"GET / HTTP/1.1",
]


def damaged_request(chance: random.Random) -> bytes:
    """Return a request that is valid but for a few damages, or not even that."""
    body = chance.choice(BODIES)
    headers = ["Host: localhost"] if chance.random() < 0.95 else []
    match chance.randrange(8):
        case 0:
            headers.append("Content-Encoding: gzip")
            body = gzip.compress(body, 1)
        case 1:
            headers.append("Content-Encoding: deflate")
            body = zlib.compress(body, 1)
        case _:
            pass
    if chance.random() < 0.2:
        body = damaged(chance, body)
    if chance.random() < 0.3:
        headers.append("Transfer-Encoding: chunked")
        body = in_chunks(chance, body)
    elif chance.random() < 0.97:
        headers.append(
            f"Content-Length: {len(body) + (chance.choice([-3, -1, 1, 7]) if chance.random() < 0.05 else 0)}"
        )
    headers += chance.sample(HEADERS, chance.choice([0, 0, 0, 0, 0, 1, 1, 2, 4]))
    chance.shuffle(headers)
    version = (
        "HTTP/1.1" if chance.random() < 0.95 else chance.choice(["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.1.1", ""])
    )
    method, target = (
        ("POST", chance.choice(TARGETS[:6]))
        if chance.random() < 0.7
        else (chance.choice(METHODS), chance.choice(TARGETS))
    )
    first = f"{method} {target} {version}"
    data = "\r\n".join([first, *headers, "", ""]).encode("latin-1") + body
    return damaged(chance, data) if chance.random() < 0.3 else data


def in_chunks(chance: random.Random, body: bytes) -> bytes:
    chunks = []
    while body:
        size = chance.choice([1, 3, 17, 1000])
        extension = b";a=b" if chance.random() < 0.1 else b""
        chunks.append(b"%x%b\r\n%b\r\n" % (len(body[:size]), extension, body[:size]))
        body = body[size:]
    trailer = b"X: y\r\n" if chance.random() < 0.1 else b""
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def damaged(chance: random.Random, data: bytes) -> bytes:
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data = data[:at] + data[at + chance.choice([1, 2, 20]) :]
            case 1:
                data = data[:at] + chance.choice(PIECES) + data[at:]
            case 2:
                data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
            case 3:
                data = data[:at]
            case _:
                data = data[:at] + data[at : at + 50] * 2 + data[at:]
    return data


async def exchange(daemon: Daemon, chance: random.Random) -> bytes:
    """Send a few damaged requests over one connection, then a good one that ends it; return all that is answered."""
    data = [damaged_request(chance) for _ in range(chance.choice([1, 1, 1, 2, 4]))]
    if chance.random() < 0.2:
        reader, writer = await asyncio.open_unix_connection(daemon.unix_socket)
    else:
        host, _, port = daemon.ready["http"].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    answered = bytearray()
    try:
        for each in data:
            at = chance.randrange(len(each) + 1) if chance.random() < 0.2 else 0
            for part in (each[:at], each[at:]):
                writer.write(part)
                await asyncio.sleep(0.001 if at else 0)
        match chance.randrange(20):
            case 0:
                pass  # hang up
            case 1:
                writer.write_eof()
                await reader.read()
            case _:
                assert await _read_to_end(reader, writer, answered), f"neither answered nor closed: {data}"
    except OSError:
        pass  # it was closed, as it may be
    finally:
        writer.close()
    return bytes(answered)


async def _read_to_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answered: bytearray) -> bool:
    for _ in range(PATIENCE_SECONDS):
        # The one before may have been taken for the end of a body, all but its last bytes.
        writer.write(LAST)
        with suppress(TimeoutError):
            while part := await asyncio.wait_for(reader.read(65536), 1):
                answered += part
            return True
    return False


async def fuzz(daemon: Daemon, exchanges: int, *, first: int = 0) -> Counter[int]:
    """Return how often each status was answered."""
    statuses: Counter[int] = Counter()
    numbers = iter(range(first, first + exchanges))

    async def client() -> None:
        for number in numbers:
            answered = await exchange(daemon, random.Random(SEED + number))
            found = re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answered)
            statuses.update(int(status) for status in found)
            assert not [status for status in found if status.startswith(b"5") and status != b"501"], (number, answered)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(client())
    return statuses


async def assert_it_is_what_it_was(tmp_path: Path, exchanges: int) -> None:
    async with running_daemon(
        tmp_path, NOWHERE, intake__header_timeout_seconds=2, intake__body_timeout_seconds=2
    ) as daemon:
        await fuzz(daemon, WARM_UP_EXCHANGES)
        await until(lambda: open_files(daemon) < FEW_FILES, "all connections are closed")
        files, memory = open_files(daemon), daemon.rss_bytes()
        started = time.monotonic()
        statuses = await fuzz(daemon, exchanges, first=WARM_UP_EXCHANGES)
        seconds = time.monotonic() - started
        await until(lambda: open_files(daemon) <= files + 5, "all connections are closed")
        growth = daemon.rss_bytes() - memory
        print(
            f"{exchanges} exchanges in {seconds:.1f} s: {dict(sorted(statuses.items()))}; {growth / 1e6:.1f} MB of growth"
        )
        assert sum(statuses.values()) > exchanges / 2, "most are answered; a reset may overtake an answer"
        assert {200, 202, 400, 403, 404, 405, 415, 422} <= statuses.keys()
        ledger = await daemon.ledger()
        assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
        assert ledger["unaccounted"] == 0
        assert growth < 15_000_000 + 1000 * ledger["buffered"]
        async with daemon.http.post(
            f"{daemon.base}/track/event", data=GOOD, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 200
        assert [line for line in daemon.lines if line["level"] == "error"] == []
        assert daemon.process.returncode is None


async def test_damaged_requests_are_answered_or_closed_and_leave_nothing(tmp_path: Path) -> None:
    await assert_it_is_what_it_was(tmp_path, 3000)


@pytest.mark.soak
async def test_so_are_a_hundred_thousand(tmp_path: Path) -> None:
    await assert_it_is_what_it_was(tmp_path, 100_000)


def open_files(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.process.pid}/fd").iterdir())
