"""Who sends the events to a system, as a process: over HTTP, a lines or a datagram socket, or TCP, as fast as it takes them.

Over HTTP so many connections each post the next when the last is answered; over sockets one connection sends an event at a
time. It writes a line when it is connected, begins when it reads one, and then writes what it came to; it stays, with its
connections, until it is ended.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import cast

from tests.bench.events import CUSTOMERS, EVENTS, event
from tests.bench.helpers import fast_loop, line_of, running, tell
from tests.bench.machine import OTHER_CORE
from tests.bench.rows import percentile

BATCH = 100


@dataclass(frozen=True)
class Feed:
    """What to send, and where to."""

    way: str
    """`http`, `batches`, `lines`, `datagram` or `tcp`."""
    address: str
    """`host:port`, or the path of a socket."""
    events: int = EVENTS
    seconds: float = 10.0
    """The end even when fewer were sent."""
    connections: int = 64
    per_second: int = 0
    """A limit to the rate, over sockets; 0 is none."""


@dataclass(frozen=True)
class Fed:
    """What it came to: events that were taken, and what one call took: a request, or a `send`."""

    events: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, events: int, seconds: float, taken: list[float]) -> "Fed":
        """Make it of what each call took, in seconds."""
        ordered = sorted(taken)
        return cls(events, seconds, percentile(ordered, 50) * 1e3, percentile(ordered, 99) * 1e3)


class _Posts:
    def __init__(self, feed: Feed) -> None:
        batch = BATCH if feed.way == "batches" else 1
        self._requests = [_request(number * batch, batch) for number in range(CUSTOMERS // batch)]
        self._most, self._batch = feed.events // batch, batch
        self._deadline = time.perf_counter() + feed.seconds
        self._begun = 0
        self.taken: list[float] = []
        self.ended = asyncio.Event()
        self.refused: bytes | None = None

    def next(self) -> bytes | None:
        if self._begun >= self._most or time.perf_counter() > self._deadline:
            return None
        self._begun += 1
        return self._requests[self._begun % len(self._requests)]

    def answered(self, seconds: float) -> None:
        self.taken.append(seconds)

    def end_if_done(self) -> None:
        if len(self.taken) == self._begun:
            self.ended.set()

    @property
    def events(self) -> int:
        return len(self.taken) * self._batch


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def begin(self, posts: _Posts) -> None:
        self._posts = posts
        self._go_on()

    def _go_on(self) -> None:
        if (request := self._posts.next()) is None:
            self._posts.end_if_done()
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not data.endswith(b"}"):  # of the answer's JSON, whose only end that is, as nothing is refused
            return
        if not self._received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 202 ")):
            self._posts.refused = self._received
        self._received = b""
        self._posts.answered(time.perf_counter() - self._began)
        self._go_on()


def _request(first: int, batch: int) -> bytes:
    if batch > 1:
        path, body = "/v1/events", b"[" + b",".join(event(first + number) for number in range(batch)) + b"]"
    else:
        path, body = "/track/event", event(first)
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\n{head}".encode() + body


async def _post(feed: Feed) -> Fed:
    loop = asyncio.get_running_loop()
    host, _, port = feed.address.rpartition(":")
    connections = [(await loop.create_connection(_Connection, host, int(port)))[1] for _ in range(feed.connections)]
    await _until_told()
    posts = _Posts(feed)
    started = time.perf_counter()
    for connection in connections:
        connection.begin(posts)
    await posts.ended.wait()
    fed = Fed.of(posts.events, time.perf_counter() - started, posts.taken)
    assert posts.refused is None, posts.refused
    return fed


async def _until_told() -> None:
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


def _send(feed: Feed) -> tuple[Fed, socket.socket]:
    kind = socket.SOCK_DGRAM if feed.way == "datagram" else socket.SOCK_STREAM
    if feed.way == "tcp":
        host, _, port = feed.address.rpartition(":")
        connected = socket.create_connection((host, int(port)))
    else:
        connected = socket.socket(socket.AF_UNIX, kind)
        connected.connect(feed.address)
    end = b"" if feed.way == "datagram" else b"\n"
    events = [event(number) + end for number in range(CUSTOMERS)]
    print("ready", flush=True)
    sys.stdin.readline()
    taken = _send_all(connected.sendall, events, feed)
    return taken, connected


def _send_all(send: Callable[[bytes], object], events: list[bytes], feed: Feed) -> Fed:
    taken: list[float] = []
    started = before = time.perf_counter()
    for number in range(feed.events):
        send(events[number % CUSTOMERS])
        now = time.perf_counter()
        taken.append(now - before)
        before = now
        if now - started > feed.seconds:
            break
        if feed.per_second and (ahead := started + number / feed.per_second - now) > 0.001:
            time.sleep(ahead)
            before = time.perf_counter()
    return Fed.of(len(taken), time.perf_counter() - started, taken)


def _main(feed: Feed) -> None:
    if feed.way in ("http", "batches"):
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            print(json.dumps(asdict(runner.run(_post(feed)))), flush=True)
            sys.stdin.readline()
    else:
        fed, connected = _send(feed)
        print(json.dumps(asdict(fed)), flush=True)
        sys.stdin.readline()
        connected.close()


@asynccontextmanager
async def driving(feed: Feed) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run it, connected, on the core that is not measured; `fed` lets it begin."""
    async with running("driver", json.dumps(asdict(feed)), core=OTHER_CORE) as process:
        assert await line_of(process) == "ready"
        yield process


async def fed(process: asyncio.subprocess.Process, *, seconds: float) -> Fed:
    """Let a driver begin, and return what it came to."""
    await tell(process, "go")
    return Fed(**json.loads(await line_of(process, seconds=seconds)))


if __name__ == "__main__":
    _main(Feed(**json.loads(sys.argv[1])))
