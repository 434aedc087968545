"""What strangers do to the daemon: it stays quick for others, small, truthful in its books and in its log."""

import asyncio
import gzip
import importlib
import json
import os
import socket
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.system.attackers import attacking
from tests.system.processes import Daemon, running_daemon, until

NOWHERE = "http://127.0.0.1:9/track/event"
MIB = 1 << 20
GOOD = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
FAR_P99_SECONDS = 0.05
"""What is promised on a machine that does nothing else: the soak form checks it, the short form prints what it was."""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon that has done a little of everything, so that what grows later is due to an attack."""
    async with running_daemon(tmp_path, NOWHERE, intake__body_timeout_seconds=5) as running:
        await asyncio.to_thread(_warm_up, running)
        yield running
        assert running.process.returncode is None, "it lives"
        await assert_well(running)


def _warm_up(daemon: Daemon) -> None:
    for path in ("/track/event", "/v1/events"):
        for body in (GOOD, b"[", b"[%b]" % GOOD, b"{}"):
            ask(daemon, path, body)
            ask(daemon, path, gzip.compress(body), "Content-Encoding: gzip")


async def assert_well(daemon: Daemon) -> None:
    """Check that a good post works and the books balance."""
    answer = await asyncio.to_thread(ask, daemon, "/track/event", GOOD)
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    ledger = await daemon.ledger()
    assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
    assert ledger["unaccounted"] == 0
    assert all(isinstance(line, dict) for line in daemon.lines)
    assert [line for line in daemon.lines if line["level"] == "error"] == []


def connect(daemon: Daemon) -> socket.socket:
    host, _, port = daemon.ready["http"].rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(path: str, body: bytes, *headers: str) -> bytes:
    fields = "".join(f"{each}\r\n" for each in headers)
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def read_answer(connection: socket.socket) -> bytes:
    """Read one answer, which has a length; what an early end leaves."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        if not part:
            return answer
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length and (part := connection.recv(65536)):
        body += part
    return head + b"\r\n\r\n" + body


def ask(daemon: Daemon, path: str, body: bytes, *headers: str) -> bytes:
    """Post over a connection of its own and return the whole answer."""
    with connect(daemon) as connection:
        connection.sendall(request(path, body, *headers))
        return read_answer(connection)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def memory_bytes(daemon: Daemon, what: str) -> int:
    for line in Path(f"/proc/{daemon.process.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"the kernel does not tell {what}")


def open_files(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.process.pid}/fd").iterdir())


@contextmanager
def growing_less_than(daemon: Daemon, limit_bytes: int, what: str) -> Iterator[None]:
    """Check how much the process's memory grows at most meanwhile, as the kernel notes it."""
    Path(f"/proc/{daemon.process.pid}/clear_refs").write_text("5", encoding="ascii")  # forget the highest so far
    before = memory_bytes(daemon, "VmRSS")
    yield
    growth = memory_bytes(daemon, "VmHWM") - before
    print(f"{what}: {growth / 1e6:.1f} MB of growth at most")
    assert growth < limit_bytes


@contextmanager
def costing_less_than(daemon: Daemon, seconds: float) -> Iterator[None]:
    """Check how long the processor works for the process meanwhile, whatever else the machine does."""
    before = cpu_seconds(daemon)
    yield
    assert cpu_seconds(daemon) - before < seconds


def cpu_seconds(daemon: Daemon) -> float:
    _, _, fields = Path(f"/proc/{daemon.process.pid}/stat").read_text(encoding="ascii").rpartition(")")
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


# Slow clients


@asynccontextmanager
async def slowloris(daemon: Daemon, *, connections: int, pause_seconds: float) -> AsyncIterator[None]:
    port = int(daemon.ready["http"].rpartition(":")[2])
    async with attacking(port, connections=connections, pause_seconds=pause_seconds) as attacked:
        yield
    print(f"attackers: {attacked.still_open} connected, {attacked.closed} times closed by the daemon")
    assert attacked.closed > 0


def post_steadily(daemon: Daemon, seconds: float, *, is_kept: bool) -> list[float]:
    """Post every few ms, on one connection or each on another, and return how long each took."""
    taken = []
    data = request("/track/event", GOOD, "Content-Type: application/json")
    ends = time.monotonic() + seconds
    connection = connect(daemon)
    while time.monotonic() < ends:
        started = time.monotonic()
        if not is_kept:
            connection.close()
            connection = connect(daemon)
        connection.sendall(data)
        answer = read_answer(connection)
        taken.append(time.monotonic() - started)
        assert status_of(answer) == 200, answer
        time.sleep(0.004)
    connection.close()
    return sorted(taken)


async def assert_served_under_slowloris(
    daemon: Daemon, *, seconds: float, pause_seconds: float, quickly: bool = True
) -> None:
    async with slowloris(daemon, connections=2000, pause_seconds=pause_seconds):
        await asyncio.sleep(1)
        kept, fresh = await asyncio.gather(
            asyncio.to_thread(post_steadily, daemon, seconds, is_kept=True),
            asyncio.to_thread(post_steadily, daemon, seconds, is_kept=False),
        )
        files = open_files(daemon)
    for name, taken in (("a kept connection", kept), ("a new one each", fresh)):
        p50, p99, longest = (1000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99, 1))
        print(f"good client, {name}: {len(taken)} posts, p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms")
        assert p99 < 1000 * FAR_P99_SECONDS or not quickly
    assert files < 1024 + 256, "the cap holds"
    metrics = await daemon.metrics()
    assert metrics['growlytics_forwarder_connections_closed_total{reason="too_many"}'] > 0


async def test_two_thousand_slow_connections_are_not_in_the_way_of_a_good_client(daemon: Daemon) -> None:
    await assert_served_under_slowloris(daemon, seconds=2, pause_seconds=1, quickly=False)


@pytest.mark.soak
@pytest.mark.timeout(180)
async def test_so_it_is_for_longer_and_with_quicker_attackers(daemon: Daemon) -> None:
    await assert_served_under_slowloris(daemon, seconds=60, pause_seconds=1)
    await assert_served_under_slowloris(daemon, seconds=20, pause_seconds=0.3)


async def test_half_sent_bodies_end_and_are_counted(daemon: Daemon) -> None:
    before = await daemon.ledger()
    files = open_files(daemon)
    data = request("/v1/events", GOOD)[:-10]

    def send_halves() -> list[bytes]:
        connections = [connect(daemon) for _ in range(500)]
        for connection in connections:
            connection.sendall(data)
        answers = [read_answer(connection) for connection in connections]
        for connection in connections:
            connection.close()
        return answers

    sending = asyncio.create_task(asyncio.to_thread(send_halves))
    latencies = await asyncio.to_thread(post_steadily, daemon, 1.5, is_kept=True)
    answers = await sending
    print(f"good client meanwhile: p99 {1000 * latencies[int(0.99 * len(latencies))]:.1f} ms")
    assert {status_of(answer) for answer in answers} == {408}
    ledger = await daemon.ledger()
    assert ledger["rejected"] - before["rejected"] == 500
    metrics = await daemon.metrics()
    assert metrics['growlytics_forwarder_connections_closed_total{reason="body_timeout"}'] == 500
    await until(lambda: open_files(daemon) <= files + 5, "they are closed")


async def test_ten_thousand_pipelined_requests_of_a_client_that_reads_nothing(daemon: Daemon) -> None:
    def pipeline() -> int:
        with connect(daemon) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            sent, data = 0, memoryview(request("/track/event", b"{") * 10_000)
            try:
                while sent < len(data):
                    sent += connection.send(data[sent:])
                connection.settimeout(0.1)
            except (TimeoutError, ConnectionError):
                pass
            time.sleep(1)
            return sent

    files = open_files(daemon)
    with growing_less_than(daemon, 20_000_000, "pipelining"):
        sending = asyncio.create_task(asyncio.to_thread(pipeline))
        latencies = await asyncio.to_thread(post_steadily, daemon, 3, is_kept=True)
        sent = await sending
    p99 = latencies[int(0.99 * len(latencies))]
    print(f"sent {sent} bytes of pipelined requests; good client meanwhile: p99 {1000 * p99:.1f} ms")
    await until(lambda: open_files(daemon) <= files + 5, "the connection is closed")


@pytest.mark.parametrize("at_unix_socket", [False, True])
async def test_five_thousand_connections_that_come_and_go_leave_nothing(daemon: Daemon, at_unix_socket: bool) -> None:
    data = request("/track/event", GOOD)

    def churn(connections: int) -> None:
        for number in range(connections):
            if at_unix_socket:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(str(daemon.unix_socket))
            else:
                connection = connect(daemon)
            with connection:
                connection.sendall((b"", b"P", data[:-4], b"\x00\r\n\r\n", data[:40])[number % 5])

    await asyncio.to_thread(churn, 1000)
    await until(lambda: open_files(daemon) < 100, "they are closed")
    files, memory = open_files(daemon), daemon.rss_bytes()
    await asyncio.to_thread(churn, 5000)
    await until(lambda: open_files(daemon) <= files + 3, "they are closed")
    growth = daemon.rss_bytes() - memory
    print(f"5,000 connections: {growth / 1e6:.1f} MB of growth")
    assert growth < 10_000_000


# Bodies


def bomb(encoding: str) -> bytes:
    """Return what inflates to 1 GiB, of 1 MiB at most."""
    if encoding == "zstd":
        name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        try:
            compressor = importlib.import_module(name).ZstdCompressor()
        except ImportError:
            pytest.skip("no library for zstd is installed")
        return b"".join(compressor.compress(bytes(16 * MIB)) for _ in range(64)) + bytes(compressor.flush())
    packer = zlib.compressobj(9, wbits=31 if encoding == "gzip" else 15)
    start = packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(64 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + again * 15  # each repetition is complete in itself; the check sum is never reached


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
async def test_a_mebibyte_that_inflates_to_a_gibibyte_takes_less_than_ten_megabytes(
    daemon: Daemon, encoding: str
) -> None:
    body = bomb(encoding)
    assert len(body) <= MIB
    if encoding != "zstd":
        inflater = zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)
        assert len(inflater.decompress(body[: len(body) // 16], 100 * MIB)) > 60 * MIB
    with growing_less_than(daemon, 10_000_000, f"a bomb of {len(body)} bytes of {encoding}"):
        for path in ("/track/event", "/v1/events"):
            with costing_less_than(daemon, 2):
                answer = await asyncio.to_thread(ask, daemon, path, body, f"Content-Encoding: {encoding}")
            assert status_of(answer) == 413, answer
            assert b"body_too_large" in answer


async def test_a_body_cut_short_is_refused_and_counted(daemon: Daemon) -> None:
    before = await daemon.ledger()
    lines = b"\n".join([GOOD] * 50)
    packed = gzip.compress(lines)
    bodies = [packed[:-8], packed[:-1], packed[: len(packed) // 2], packed[:12], packed + packed[:20], b""]
    for body in bodies:
        for path in ("/track/event", "/v1/events"):
            headers = ("Content-Encoding: gzip", "Content-Type: application/x-ndjson")
            answer = await asyncio.to_thread(ask, daemon, path, body, *headers)
            assert status_of(answer) == 400, answer
            assert b"malformed_body" in answer

    def hang_up() -> None:
        for half in (
            request("/track/event", GOOD)[:-10],
            request("/v1/events", packed, "Content-Encoding: gzip")[:-10],
        ):
            with connect(daemon) as connection:
                connection.sendall(half)
                connection.shutdown(socket.SHUT_WR)
                answer = read_answer(connection)
                assert not answer or status_of(answer) == 400, answer

    await asyncio.to_thread(hang_up)

    async def counted() -> bool:
        return bool((await daemon.ledger())["rejected"] - before["rejected"] == 2 * len(bodies) + 2)

    await until(counted, "all are counted")
    assert (await daemon.ledger())["accepted"] == before["accepted"]


DEPTH = 100_000
NESTED: dict[str, Callable[[], bytes]] = {
    "brackets": lambda: b"[" * DEPTH,
    "brackets that close": lambda: b"[" * DEPTH + b"]" * DEPTH,
    "objects": lambda: b'{"a":' * DEPTH,
    "objects that close": lambda: b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "an unknown field": lambda: GOOD[:-1] + b',"x":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    "an attribute": lambda: GOOD.replace(b"1.50", b"[" * DEPTH + b"]" * DEPTH),
    "an element among good ones": lambda: b"[%b,%b%b,%b]" % (GOOD, b"[" * DEPTH, b"]" * DEPTH, GOOD),
    "arrays and objects": lambda: b'[{"a":' * (DEPTH // 2) + b"1" + b"}]" * (DEPTH // 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", NESTED)
async def test_a_hundred_thousand_nested_brackets_are_refused(daemon: Daemon, kind: str) -> None:
    body = NESTED[kind]()
    with growing_less_than(daemon, 40 * len(body) + 2_000_000, kind):
        for path in ("/track/event", "/v1/events"):
            for content_type in ("application/json", "application/x-ndjson"):
                with costing_less_than(daemon, 2):
                    answer = await asyncio.to_thread(ask, daemon, path, body, f"Content-Type: {content_type}")
                assert status_of(answer) in (400, 422), answer


@pytest.mark.parametrize("where", ["event", "attributes"])
async def test_a_hundred_thousand_keys_in_one_object_are_refused(daemon: Daemon, where: str) -> None:
    keys = b",".join(b'"%05x":1' % number for number in range(80_000 if where == "attributes" else 100_000))
    body = b"{" + keys + b"}"
    if where == "attributes":
        body = GOOD.replace(b'{"Price":1.50}', body)
    assert len(body) <= MIB + MIB // 4
    body = body if len(body) <= MIB else gzip.compress(body)
    with growing_less_than(daemon, 40 * MIB + 2_000_000, f"keys in {where}"):
        for path in ("/track/event", "/v1/events"):
            with costing_less_than(daemon, 3):
                answer = await asyncio.to_thread(ask, daemon, path, body)
            assert status_of(answer) in (413, 422), answer[:300]
            assert len(answer) < 4 * MIB


# Locks


RAW_ATTACKS: dict[str, tuple[str, int]] = {
    "a rebound name": ("Host: evil.example:8920\r\nContent-Type: application/json", 403),
    "a name like ours": ("Host: localhost.evil.example\r\nContent-Type: application/json", 403),
    "a user before the host": ("Host: localhost@evil.example\r\nContent-Type: application/json", 403),
    "two hosts": ("Host: localhost\r\nHost: evil.example\r\nContent-Type: application/json", 400),
    "no host": ("Content-Type: application/json", 400),
    "a folded host": ("Host: localhost\r\n evil.example\r\nContent-Type: application/json", 400),
    "another origin": ("Host: localhost\r\nOrigin: https://evil.example\r\nContent-Type: application/json", 403),
    "an origin like ours": ("Host: localhost\r\nOrigin: http://localhost:8920\r\nContent-Type: application/json", 403),
    "no origin to speak of": ("Host: localhost\r\nOrigin: null\r\nContent-Type: application/json", 403),
    "an empty origin": ("Host: localhost\r\nOrigin:\r\nContent-Type: application/json", 403),
    "a simple request": ("Host: localhost\r\nContent-Type: text/plain;charset=UTF-8", 415),
    "a form": ("Host: localhost\r\nContent-Type: application/x-www-form-urlencoded", 415),
    "a form with files": ("Host: localhost\r\nContent-Type: multipart/form-data; boundary=x", 415),
    "two types": ("Host: localhost\r\nContent-Type: application/json, text/plain", 415),
    "no type, of a browser": ("Host: localhost\r\nSec-Fetch-Site: same-site", 415),
}


@pytest.mark.parametrize("kind", RAW_ATTACKS)
async def test_what_a_page_in_a_browser_might_send_is_refused(daemon: Daemon, kind: str) -> None:
    headers, status = RAW_ATTACKS[kind]
    before = await daemon.ledger()

    def send() -> list[bytes]:
        answers = []
        for path in ("/track/event", "/v1/events"):
            with connect(daemon) as connection:
                head = f"POST {path} HTTP/1.1\r\n{headers}\r\nContent-Length: {len(GOOD)}\r\n\r\n"
                connection.sendall(head.encode() + GOOD)
                answers.append(read_answer(connection))
        return answers

    for answer in await asyncio.to_thread(send):
        assert status_of(answer) == status, answer
        assert b"access-control" not in answer.lower()
    ledger = await daemon.ledger()
    assert ledger["accepted"] == before["accepted"]
    assert ledger["rejected"] - before["rejected"] == (0 if status == 400 else 2)


# The log


HOSTILE = [
    'x"}\n{"level":"error","message":"forged"}',
    "x\r\nforged",
    "\x1b[2J\x1b[31mforged\x1b]0;forged\x07",
    "\u009b31mforged",
    "\u2028forged\u2029\u0085\x0b\x0c",
    "\u202eforged\u2066",
    "<script>alert('forged')</script>",
    "\x00forged\x7f",
    "%s%n%(levelname)s{0}",
]


async def test_hostile_names_never_forge_a_log_line(tmp_path: Path) -> None:
    settings = {"contract__attribute_types": "observe", "log__level": "debug", "shutdown__drain_seconds": 0}
    async with running_daemon(tmp_path, NOWHERE, loop="asyncio", **settings) as daemon:
        for number, text in enumerate([*HOSTILE, "\ud800lone\udfff"]):
            for value in (1, "text", True):
                event: dict[str, Any] = {
                    "customerId": text,
                    "name": f"{number}{text}",
                    "time": 1700000000000,
                    "attributes": {text: value, "Second": value},
                }
                body = json.dumps(event).encode()  # escaped, so that it also holds what UTF-8 cannot
                for path in ("/track/event", "/v1/events"):
                    answer = await asyncio.to_thread(ask, daemon, path, body)
                    assert status_of(answer) in (200, 202, 422), answer
                event["attributes"] = {text: [text]}
                await asyncio.to_thread(ask, daemon, "/track/event", json.dumps(event).encode())
            raw = text.encode("utf-8", "surrogatepass")
            for target in (b"/" + raw, b"/track/event?" + raw):
                await asyncio.to_thread(
                    _send_raw, daemon, b"POST " + target + b" HTTP/1.1\r\nHost: " + raw + b"\r\n\r\n"
                )
            await asyncio.to_thread(
                _send_raw, daemon, b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nOrigin: " + raw + b"\r\n\r\n"
            )
        await assert_well(daemon)
        assert await daemon.stop() in (0, 75)
        lines = list(daemon.lines)
    # That each line is JSON was seen when it was read; here, that nobody else wrote one or plays with a terminal.
    assert len(lines) > 5
    for line in lines:
        assert line.keys() >= {"level", "message"}
        assert "forged" not in line["message"]
        for value in line.values():
            assert not isinstance(value, str) or value.isprintable(), line


def _send_raw(daemon: Daemon, data: bytes) -> None:
    with connect(daemon) as connection:
        connection.sendall(data)
        read_answer(connection)
