"""A server of HTTP without sockets, in virtual time: a transport, a clock that tests move, and who answers.

A test plays the client: it sends bytes, reads or leaves what was written, ends its half, or resets the connection.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from forwarder.http.connections import Bodies, Connections
from forwarder.http.messages import Answer, CloseReason, Limits, Refusal, Reply, Request, Resource
from forwarder.http.protocol import Connection

LIMITS: Final = Limits(head_seconds=10, body_seconds=20, answer_seconds=30, idle_seconds=75, lingering_seconds=2)


class Clock:
    """Says what time it is, in seconds; tests move it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def turn() -> None:
    """Let all callbacks of the event loop run that wait, and those that they call soon."""
    for _ in range(4):
        await asyncio.sleep(0)


class FakeTransport(asyncio.Transport):
    """One connection, seen from its client. It calls its protocol as the loop would; what that raises fails the test."""

    def __init__(self, protocol: asyncio.Protocol, *, high_water_bytes: int = 64 * 1024, is_tls: bool = False) -> None:
        super().__init__({"socket": self, "ssl_object": object() if is_tls else None})
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.unread_bytes = 0
        """What the client left, if it does not read."""
        self.client_reads = True
        self.is_lost = False
        self.has_written_eof = False
        self._is_reading = True
        self._is_tls = is_tls
        self._high_water_bytes = high_water_bytes
        self._inbox: list[bytes | None] = []
        self._is_closing = self._is_paused = False
        self._loop = asyncio.get_running_loop()
        protocol.connection_made(self)

    # The client's side

    def send(self, data: bytes) -> None:
        """Have data come, now or as soon as it is read."""
        self._inbox.append(data)
        self._deliver()

    def send_in_pieces(self, data: bytes, *sizes: int) -> None:
        """Have data come in pieces, the last of which has what is left."""
        for size in sizes:
            self.send(data[:size])
            data = data[size:]
        if data:
            self.send(data)

    def end(self) -> None:
        """Have the client send no more; it still reads."""
        self._inbox.append(None)
        self._deliver()

    def reset(self) -> None:
        """Have the client hang up."""
        self._is_closing = True
        self._lose(ConnectionResetError())

    def read_all(self) -> None:
        """Have the client read what it left, and all that follows."""
        self.client_reads, self.unread_bytes = True, 0
        if self._is_paused:
            self._is_paused = False
            self.protocol.resume_writing()
        if self._is_closing:
            self._lose(None)

    @property
    def written(self) -> bytes:
        """What was written, without the times in it."""
        return re.sub(rb"Date: [^\r]*\r\n", b"", b"".join(self.writes))

    @property
    def statuses(self) -> list[int]:
        """Of the answers; no body may contain `HTTP/1.1`."""
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", self.written)]

    @property
    def bodies(self) -> list[str]:
        """The bodies of the answers, which must have no line breaks."""
        return [part.decode() for part in re.split(rb"HTTP/1\.1 \d+ [^\n]*\n(?:[^\r\n]+\r\n)*\r\n", self.written)[1:]]

    # The server's side

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        assert data, "nothing is written for nothing"
        assert not self.has_written_eof, "the end was written already"
        if self.is_lost or self._is_closing:
            return
        self.writes.append(bytes(data))
        if not self.client_reads:
            self.unread_bytes += len(data)
            if self.unread_bytes > self._high_water_bytes and not self._is_paused:
                self._is_paused = True
                self.protocol.pause_writing()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self.unread_bytes:
                self._lose(None)

    def abort(self) -> None:
        self._is_closing = True
        self._lose(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._deliver)

    def can_write_eof(self) -> bool:
        return not self._is_tls

    def write_eof(self) -> None:
        self.has_written_eof = True

    def _deliver(self) -> None:
        while self._inbox and self._is_reading and not self._is_closing:
            data = self._inbox.pop(0)
            if data is not None:
                self.protocol.data_received(data)
            elif not self.protocol.eof_received():
                self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._loop.call_soon(self.protocol.connection_lost, error)


class FakeApplication:
    """Answers each request with its target, in a way that its path says."""

    def __init__(self) -> None:
        self.max_body_bytes = 1 << 20
        self.began: list[str] = []
        """The targets of requests, by their heads."""
        self.seen: list[Request] = []
        """Those that were asked for an answer, with their bodies."""
        self.waiting: list[tuple[Request, asyncio.Future[Answer]]] = []
        """What is not answered yet: the paths /future and /coroutine."""
        self.refusals: list[tuple[Refusal, str | None]] = []
        """Each with the target, where that was known."""
        self.failures: list[tuple[str, BaseException]] = []
        self.closed: list[CloseReason] = []

    def begin(self, request: Request) -> Resource | Answer:
        self.began.append(request.target)
        match request.path:
            case "/begin-raises":
                raise ZeroDivisionError
            case "/missing":
                return Answer(404, {}, request.target.encode())
            case "/forbidden":
                return Answer(403, {}, request.target.encode(), closes=True)
            case _:
                return Resource(self.answer, self.max_body_bytes)

    def answer(self, request: Request) -> Reply:
        self.seen.append(replace(request))
        match request.path:
            case "/raises":
                raise ZeroDivisionError
            case "/future":
                return self._later(request)
            case "/coroutine":
                return self._coroutine(request)
            case "/large":
                return Answer(200, {}, b"-" * 100_000)
            case "/closes":
                return Answer(200, {}, request.target.encode(), closes=True)
            case _:
                return answer_to(request)

    def refuse(self, refusal: Refusal, request: Request | None) -> Answer:
        self.refusals.append((refusal, None if request is None else request.target))
        return Answer(400, {}, refusal.encode())

    def fail(self, error: BaseException, request: Request) -> Answer:
        self.failures.append((request.target, error))
        return Answer(500, {}, request.target.encode())

    def connection_closed(self, reason: CloseReason) -> None:
        self.closed.append(reason)

    def end_all(self) -> None:
        """Answer all that waits, the last one first."""
        while self.waiting:
            request, future = self.waiting.pop()
            if not future.done():
                future.set_result(answer_to(request))

    def _later(self, request: Request) -> asyncio.Future[Answer]:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        return future

    def _coroutine(self, request: Request) -> Coroutine[Any, Any, Answer]:
        async def wait() -> Answer:
            return await self._later(request)

        return wait()


def answer_to(request: Request) -> Answer:
    """Return the usual answer, which shows what was asked."""
    return Answer(200, {"Content-Type": "text/plain"}, f"{request.target} {len(request.body)}".encode())


class Site:
    """A server with its clients."""

    def __init__(self, *, limits: Limits = LIMITS, max_connections: int = 1024, max_held_bytes: int = 4 << 20) -> None:
        self.clock = Clock()
        self.application = FakeApplication()
        self.bodies = Bodies(max_held_bytes)
        self.connections = Connections(
            self.application, limits, max_connections=max_connections, bodies=self.bodies, clock=self.clock
        )

    def connect(self, *, high_water_bytes: int = 64 * 1024, is_tls: bool = False) -> FakeTransport:
        """Return a new connection."""
        return FakeTransport(self.connections.make(), high_water_bytes=high_water_bytes, is_tls=is_tls)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, look for what took too long, and let that happen."""
        self.clock.now += seconds
        self.connections.sweep()
        await turn()


@asynccontextmanager
async def a_site(**settings: Any) -> AsyncIterator[Site]:
    """Give a server; at the end all is closed, nothing may be held, and no callback may have failed."""
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    site = Site(**settings)
    yield site
    site.connections.abort()
    await turn()
    site.application.end_all()
    await turn()
    site.application.end_all()  # those of coroutines that began only now
    await turn()
    assert len(site.connections) == 0
    assert site.connections.emptied.is_set()
    assert site.bodies.held_bytes == 0
    assert not site.connections.tasks
    assert errors == []


def connection_of(transport: FakeTransport) -> Connection:
    """Return the protocol of a connection."""
    assert isinstance(transport.protocol, Connection)
    return transport.protocol


def post(target: str = "/sync", body: bytes = b"", *headers: str, version: str = "1.1") -> bytes:
    """Return a request with a body whose length it says."""
    return (
        b"".join(
            line.encode("latin-1") + b"\r\n"
            for line in (f"POST {target} HTTP/{version}", "Host: x", *headers, f"Content-Length: {len(body)}", "")
        )
        + body
    )


def get(target: str = "/sync", *headers: str, version: str = "1.1") -> bytes:
    """Return a request without a body."""
    lines = (f"GET {target} HTTP/{version}", "Host: x", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


def chunked(target: str, *chunks: bytes, trailers: str = "", headers: str = "") -> bytes:
    """Return a request whose body comes in chunks."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + f"0\r\n{trailers}\r\n".encode()
