"""The connections of one listener: how many there are, and how long a client may take; else they are closed, and counted.

Invariants: at most `intake.max_connections` are kept; at the cap the one goes whose last complete request, or whose
connecting, is longest ago, so that clients which post are never in danger from those which do not. Headers must come, and
answers be taken, in time. A request costs this a few attributes and one move in an ordered dict; times are looked at by
one sweep over all connections, about every second.
"""

import asyncio
import resource
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from forwarder.intake.peers import Peer, peer_of
from forwarder.settings import IntakeSettings
from forwarder.telemetry import Telemetry

KEEPALIVE_SECONDS: Final = 75
SWEEP_SECONDS: Final = 1.0
LINGERING_SECONDS: Final = 2
"""How long the rest of a refused body is read and thrown away, or its client could not read why it is refused."""
_RESERVED_FILES: Final = 256
"""For all that is no connection of an intake: the buffer, delivery's own connections beside `others`, metrics, the log."""
_LEAST_FILES: Final = 32
"""With fewer, not even the buffer and the listeners can be opened."""
_ACCEPTED_AT_ONCE: Final = 128
"""As many as an event loop may accept of each listener before anything here can close others."""

Refuse = Callable[[web.BaseRequest, BaseException | None, int], web.Response]
"""Answers in place of aiohttp, by a status, what it could not make a request of or what a handler raised."""


class Connections:
    """Keeps the connections of one listener within bounds. `too_slow` is written, raw, to who sends headers too slowly."""

    def __init__(self, settings: IntakeSettings, *, telemetry: Telemetry, too_slow: bytes) -> None:
        self._max_connections = settings.max_connections
        self._header_seconds = settings.header_timeout_seconds
        self._answer_seconds = settings.body_timeout_seconds
        self._telemetry = telemetry
        self._too_slow = too_slow
        self._open: OrderedDict[Connection, None] = OrderedDict()
        """Who completed a request longest ago, or connected, comes first."""
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Begin to sweep."""
        seconds = min(SWEEP_SECONDS, self._header_seconds / 4, self._answer_seconds / 4)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def stop(self) -> None:
        """Sweep no more. May be called again."""
        if self._timer is not None:
            self._timer.cancel()

    def add(self, connection: "Connection") -> None:
        """Take in a connection, and close another if they are too many."""
        self._open[connection] = None
        if len(self._open) > self._max_connections:
            oldest, _ = self._open.popitem(last=False)
            oldest.abort()
            self._telemetry.connection_closed("too_many")

    def used(self, connection: "Connection") -> None:
        """Note that a connection has completed a request just now."""
        if connection in self._open:
            self._open.move_to_end(connection)

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that is closed. May be called again."""
        self._open.pop(connection, None)

    def _sweep(self) -> None:
        self.start()
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            if connection.unread_seconds(now) > self._answer_seconds:
                connection.abort()
                self._telemetry.connection_closed("answer_timeout")
            elif connection.head_seconds(now) > self._header_seconds and connection.turn_away(self._too_slow):
                self._telemetry.connection_closed("header_timeout")


class Connection(web.RequestHandler):
    """One connection, which tells what it is waiting for, and answers in JSON also what never becomes a request."""

    __slots__ = ("_begun", "_connections", "_head_since", "_held", "_is_busy",
                 "_peer", "_refuse", "_silent", "_taken", "_unread_since", "_wire")  # fmt: skip

    def __init__(self, manager: web.Server, *, connections: Connections, refuse: Refuse, **options: Any) -> None:
        super().__init__(manager, **options)
        self._connections = connections
        self._refuse = refuse
        self._peer: tuple[Peer | None] | None = None
        """Who connected, once somebody has asked."""
        self._wire: asyncio.Transport | None = None
        """The transport, which aiohttp forgets when it closes it, while it may have much to write yet."""
        self._head_since: float | None = None
        """When the headers that are awaited began; None if none are."""
        self._silent = True
        """Whether nothing at all has come of the headers that are awaited."""
        self._begun = False
        """Whether what came ends within headers, those of a next request if one is being handled."""
        self._held = b""
        """The end of what came, while aiohttp keeps some of that back."""
        self._is_busy = False
        self._taken: tuple[Any, StreamReader] | None = None
        """The last message that aiohttp has made a request of, and its body."""
        self._unread_since: float | None = None
        """Since when the client does not take what is written, though much is, or though all should be over."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)
        self._head_since = self._loop.time()
        self._connections.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._connections.remove(self)
        super().connection_lost(exc)
        self._wire = None

    def data_received(self, data: bytes) -> None:
        """Take in what came, which may begin another request's headers, also behind a whole request."""
        # aiohttp tells not where one ends. So the last byte goes alone: it ends headers, is of a body, or of begun headers.
        data, self._held, again = self._held + data, b"", not data
        if data and self._head_since is not None:
            self._silent = False
        count, was_between = self._request_count, self._is_between()
        if again or len(data) > 1:
            super().data_received(data[:-1])
        if not data:  # aiohttp went on with what it kept back
            return
        if (self._reading_paused or len(self._messages) >= self._max_msg_queue_size) and not self._upgraded:
            self._held = data[-1:]  # aiohttp keeps back some of what came before, and calls this again when it goes on
            return
        is_between = self._is_between()
        self._begun = False
        if is_between and (self._request_count != count or not was_between) and self._is_rest_lost():
            return
        count = self._request_count
        super().data_received(data[-1:])
        self._begun = is_between and self._request_count == count
        if self._head_since is None and not self._is_busy:
            self._await_head()

    def _is_between(self) -> bool:
        latest = self._messages[-1] if self._messages else self._taken
        return latest is None or latest[1].is_eof()

    def _is_rest_lost(self) -> bool:
        # It loses what comes in one segment after what is no request, or (3.14.5) after one that offers, say, h2c.
        message, _ = self._messages[-1] if self._messages else self._taken or (None, None)
        return not self._upgraded and getattr(message, "upgrade", True) is True

    def _await_head(self) -> None:
        if self._begun and not self._messages:
            self._head_since = self._loop.time()
            self._silent = False

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp names it
        """Go on reading; where it was not paused, aiohttp would parse nothing once more for each body that is read."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Note that the client leaves much unread."""
        super().pause_writing()
        self._unread_since = self._loop.time()

    def resume_writing(self) -> None:
        """Note that the client has read most of it."""
        super().resume_writing()
        self._unread_since = None

    def took(self, message: Any, body: StreamReader) -> None:
        """Note what aiohttp makes a request of."""
        self._taken = message, body

    def request_began(self, request: web.BaseRequest) -> None:
        """Note that the headers of a request are complete."""
        self._is_busy = True
        self._head_since = None
        if request.content.is_eof():
            self._connections.used(self)

    def request_ended(self, request: web.BaseRequest) -> None:
        """Note that a request was handled, so that what comes next is another."""
        self._is_busy = False
        self._await_head()
        if "Upgrade" in request.headers and self._head_since is None:
            # See `_is_rest_lost`. Closed soon, a client that has sent more learns that it must send it again.
            self._head_since = self._loop.time()
            self._silent = True

    def request_completed(self) -> None:
        """Note that a body that came slowly has ended."""
        self._connections.used(self)

    def peer(self) -> Peer | None:
        """Return who connected, over a Unix socket; None if that is not known."""
        if self._peer is None:
            self._peer = (None if self._wire is None else peer_of(self._wire.get_extra_info("socket")),)
        return self._peer[0]

    def head_seconds(self, now: float) -> float:
        """Return for how long headers have been awaited; 0 if none are, or if they wait for answers to be read."""
        return 0 if self._head_since is None or self._unread_since is not None else now - self._head_since

    def unread_seconds(self, now: float) -> float:
        """Return for how long the client has not taken what was written to it; 0 if it does."""
        if self._unread_since is None and self._wire is not None and self._wire.is_closing():
            self._unread_since = now
        return 0 if self._unread_since is None else now - self._unread_since

    def turn_away(self, answer: bytes) -> bool:
        """Close, and return whether that is worth a word, as it is unless the client is just idle.

        It is answered only if it has begun to ask: else it would take that for the answer to what it asks later.
        """
        if self._wire is not None and not self._wire.is_closing() and not self._silent:
            self._wire.write(answer)
        self._head_since = None
        self.force_close()
        return not self._silent or self._taken is None

    def abort(self) -> None:
        """Close at once, whatever is still to be written."""
        if self._wire is not None:
            self._wire.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp names it
    ) -> web.StreamResponse:
        """Answer in place of aiohttp, which would send text and log what strangers send as errors."""
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer has been sent already")
        return self._refuse(request, exc, status)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Leave out what a client did: a body in broken chunks, or a connection that it closed."""
        if not isinstance(options.get("exc_info"), (web.RequestPayloadError, ConnectionError)):
            super().log_exception(*args, **options)


class Server(web.Server):
    """Has `make` make connections, which `connections` keeps."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        connections: Connections,
        refuse: Refuse,
        make: Callable[..., Connection] = Connection,
    ) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,  # as bodies.py does that
            request_factory=self._request_of,
        )
        self._refuse = refuse
        self._make = make
        self._bounds = connections

    def __call__(self) -> web.RequestHandler:
        return self._make(self, connections=self._bounds, refuse=self._refuse, loop=self._loop, **self._kwargs)

    def _request_of(
        self,
        message: Any,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        cast("Connection", protocol).took(message, payload)
        # Of some garbage, aiohttp 3.14.5 makes a message without a target, and fails over it in a task that nobody awaits.
        if message.path is None or message.url is None:
            message = message._replace(path="/", url=URL("/"), should_close=True)
        return web.BaseRequest(message, payload, protocol, writer, task, self._loop)


def too_few_files() -> str | None:
    """Return why the process cannot be a daemon, with as few files open as it may have; None if it can.

    The soft limit is raised to the least that a daemon needs, if it is lower and the hard limit allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_FILES, hard))
        except (ValueError, OSError):
            return (
                f"the limit of open files (RLIMIT_NOFILE) is {soft}, and the daemon needs {_LEAST_FILES} at least: raise "
                "it, with ulimit -n 4096, LimitNOFILE=4096 in a unit of systemd, or --ulimit nofile=4096 of docker run"
            )
    return None


def affordable(max_connections: int, *, listeners: int, others: int = 0) -> int:
    """Return how many connections each of `listeners` can have before file descriptors run out, at most `max_connections`.

    The process's soft limit is raised as far as that takes, and the hard limit allows. `others` are descriptors that are
    wanted for something else, such as delivery's connections.
    """
    beside = _RESERVED_FILES + others + listeners * _ACCEPTED_AT_ONCE
    wanted = beside + listeners * max_connections
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # some systems have a lower limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, (soft - beside) // max(1, listeners)))
