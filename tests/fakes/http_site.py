"""A server of HTTP without sockets, in virtual time: its connections, a clock that tests move, and who answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from forwarder.http.connections import Bodies, Connections
from forwarder.http.messages import Answer, CloseReason, Later, Limits, Refusal, Reply, Request, Resource
from forwarder.http.protocol import Connection
from tests.fakes.http_transport import FakeTransport, turn

LIMITS: Final = Limits(head_seconds=10, body_seconds=20, answer_seconds=30, idle_seconds=75, lingering_seconds=2)


class Clock:
    """Says what time it is, in seconds; tests move it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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
                return Resource(self.answer, self.max_body_bytes, is_lasting=True)

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
            case "/page":
                return Answer(200, {}, f"{request.target} {0:050000}".encode())
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

    def _later(self, request: Request) -> Later:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        return Later(future, lambda answer: answer)

    def _coroutine(self, request: Request) -> Coroutine[Any, Any, Answer]:
        async def wait() -> Answer:
            return await self._later(request).done  # type: ignore[no-any-return]

        return wait()


def answer_to(request: Request) -> Answer:
    """Return the usual answer, which shows what was asked."""
    return Answer(200, {"Content-Type": "text/plain"}, f"{request.target} {len(request.body)}".encode())


class Site:
    """A server with its clients."""

    def __init__(
        self,
        *,
        limits: Limits = LIMITS,
        max_connections: int = 1024,
        max_held_bytes: int = 4 << 20,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock = Clock()
        self.application = FakeApplication()
        self.bodies = Bodies(max_held_bytes)
        self.connections = Connections(
            self.application, limits, max_connections=max_connections, bodies=self.bodies, clock=clock or self.clock
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
