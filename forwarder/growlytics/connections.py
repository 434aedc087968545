"""The connections to Growlytics: each carries one request and its answer at a time, and is kept for the next.

aiohttp's connector makes them, through proxies and TLS. Its sessions, requests, responses and parser are left out: what
they do for the general case costs a post more than all the rest of delivering an event, and they throw away an answer of
which only the end is not as it should be. Used by `client` alone, on the event loop.
"""

import asyncio
import random
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection as MadeConnection
from multidict import CIMultiDict
from yarl import URL

from forwarder.growlytics.answer import Answer, AnswerReader, CutAnswerError, MalformedAnswerError
from forwarder.growlytics.deadline import Deadline

KEEPALIVE_SECONDS: Final = 15
"""How long an idle connection is kept, below what servers and load balancers commonly allow (60 and more)."""
QUIET_SECONDS: Final = 2.0
"""How long a body may pause of which nobody knows where it ends."""
_RESOLVE_AGAIN_SECONDS: Final = 10
"""How long the addresses of a host are remembered: Growlytics may move while the daemon runs."""
_AGE_JITTER: Final = 0.25
"""By up to this share each connection is replaced before the most that its age may be, so that not all are at once."""
_UNLIMITED: Final = aiohttp.ClientTimeout(total=None)


class NoAnswerError(Exception):
    """The connection was lost instead, or what came is no answer: its cause says which."""


class NoNameServerError(TimeoutError):
    """Nobody told the addresses of a host in time."""


class _Resolver(aiohttp.ThreadedResolver):
    """Knows whether somebody waits for addresses."""

    pending = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.pending += 1
        try:
            return await super().resolve(host, port, family)
        finally:
            self.pending -= 1


class Connection(asyncio.Protocol):
    """One connection; nothing else may use it between `exchange` and what follows from that."""

    def __init__(
        self,
        made: MadeConnection,
        handler: ResponseHandler,
        transport: asyncio.Transport,
        *,
        made_for: aiohttp.ClientRequest,
        share_of_age: float,
        quiet_seconds: float,
    ) -> None:
        """Take over a connection from the one who made it, `handler`, who is only told when it is lost.

        `made_for` says whom to trust, as of when it was asked for; `share_of_age` is how much of the age that connections
        may reach this one may.
        """
        self.made_for: Final = made_for
        self._made = made
        self._handler = handler
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._came = select.poll()
        # An end can be read, and errors are always told.
        self._came.register(transport.get_extra_info("socket"), select.POLLIN)
        self._reader: AnswerReader | None = None
        """Set while an answer is awaited."""
        self._waiter: asyncio.Future[Answer]
        self._deadline: Deadline
        self._is_fit = True
        self._made_at = self._loop.time()
        self._share_of_age = share_of_age
        self._quiet_seconds = quiet_seconds
        transport.set_protocol(self)

    @property
    def is_reusable(self) -> bool:
        """Whether its answer has ended and nothing more is said to come or to end."""
        return self._is_fit and not self._transport.is_closing()

    @property
    def is_untouched(self) -> bool:
        """Whether it is as it was left: neither ended nor reset, and nothing came that nobody asked for.

        The kernel is asked too, because the loop may not have come round to what has arrived.
        """
        return self.is_reusable and not self._came.poll(0)

    def is_older_than(self, seconds: float) -> bool:
        """Return whether it has reached its own share of an age."""
        return self._loop.time() - self._made_at >= seconds * self._share_of_age

    async def exchange(self, request: bytes, *, deadline: float) -> Answer:
        """Write a request at once, and wait for its answer.

        An answer counts from the moment that its head is complete. It is returned when it has ended; or at `deadline`, a
        time of the event loop, or where the connection ends, with what has come of its body. Raises TimeoutError, or
        NoAnswerError; after these, or when it is cancelled, the connection must be closed. It must be too if it is not
        reusable.
        """
        # A new reader each time, so that nothing that came before the request can be the beginning of the answer.
        self._reader = AnswerReader()
        self._is_fit = False
        self._waiter = self._loop.create_future()
        self._transport.write(request)
        self._deadline = Deadline(deadline, self._give_up, something_came=self._has_come)
        try:
            return await self._waiter
        finally:
            self._reader = None
            self._deadline.cancel()

    def close(self) -> None:
        """End it at once. Nothing of a request that was given up is sent any more, and TLS waits for no farewell."""
        self._transport.abort()
        self._made.close()

    # What the event loop tells

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        reader = self._reader
        if reader is None:  # nobody asked for it
            self._is_fit = False
            return
        try:
            if reader.feed(data):
                self._is_fit = reader.is_reusable
                self._finish(None)
            elif reader.end_is_doubtful:
                self._deadline.bring_forward(self._loop.time() + self._quiet_seconds)
        except MalformedAnswerError as error:
            self._finish(error)

    def eof_received(self) -> None:
        """Go by what has come; the event loop closes the connection."""
        self._is_fit = False
        self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Go by what has come."""
        self._is_fit = False
        self._finish(exc)
        self._handler.connection_lost(exc)

    def _give_up(self) -> None:
        self._finish(TimeoutError())

    def _has_come(self) -> bool:
        return bool(self._came.poll(0))

    def _finish(self, error: Exception | None) -> None:
        """Wake `exchange`, if it waits, with the answer; if there is none, with the error, or that the far side hung up."""
        reader, self._reader = self._reader, None
        if reader is None or self._waiter.done():
            return
        if (answer := reader.answer) is not None:
            self._waiter.set_result(answer)
        elif isinstance(error, TimeoutError) and error.errno is None:  # not the kernel's
            self._waiter.set_exception(error)
        else:
            no_answer = NoAnswerError()
            no_answer.__cause__ = error or (CutAnswerError() if reader.has_begun else aiohttp.ServerDisconnectedError())
            self._waiter.set_exception(no_answer)


class Connections:
    """Makes connections to `url`, and keeps those that are idle. How many there are is up to who asks for them."""

    def __init__(
        self,
        url: URL,
        *,
        tls: ssl.SSLContext | Literal[True],
        proxy: URL | None,
        proxy_headers: dict[str, str],
        max_age_seconds: float = 0,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """`proxy_headers` are told to the proxy alone; `random_share` gives numbers from 0 to 1.

        `max_age_seconds` may be changed at any time; 0 is no limit.
        """
        self.max_age_seconds = max_age_seconds
        self._random_share = random_share
        self._keepalive_seconds = keepalive_seconds
        self._quiet_seconds = quiet_seconds
        self._url = url
        self._proxy = proxy
        self._proxy_headers = CIMultiDict(proxy_headers) if proxy else None
        self._request = self._trusting(tls)
        self._resolver = _Resolver()
        self._connector = aiohttp.TCPConnector(
            limit=0, force_close=True, ttl_dns_cache=_RESOLVE_AGAIN_SECONDS, resolver=self._resolver
        )
        self._idle: deque[tuple[Connection, float]] = deque()
        """With the times from when on they are, the longest first."""
        self._timer: asyncio.TimerHandle | None = None

    def use_tls(self, tls: ssl.SSLContext) -> None:
        """Trust whom this trusts from now on; a connection that was made before carries no further request."""
        self._request = self._trusting(tls)
        self._close_idle()

    def _trusting(self, tls: ssl.SSLContext | Literal[True]) -> aiohttp.ClientRequest:
        """Return what connections are made for; this says it of a proxy that is reached over TLS, too."""
        return aiohttp.ClientRequest(
            "POST",
            self._url,
            loop=asyncio.get_running_loop(),
            ssl=tls,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
        )

    def take(self) -> Connection | None:
        """Return a kept connection that is fit for a request to be written to it at once; None if there is none."""
        while self._idle:
            connection, _ = self._idle.pop()
            if connection.is_untouched and not self._is_old(connection):
                return connection
            connection.close()
        return None

    async def connect(self, *, within_seconds: float) -> Connection:
        """Make one.

        Raises TimeoutError, aiohttp.ClientError, or OSError or UnicodeError for no name of a host; of the first,
        NoNameServerError if it is known. It takes longer only if this process stood still meanwhile.
        """
        request = self._request
        try:
            made = await self._make(request, within_seconds)
        except TimeoutError as error:
            if self._resolver.pending:
                raise NoNameServerError from error
            raise
        handler, transport = made.protocol, made.transport
        if handler is None or transport is None or handler.should_close or transport.is_closing():
            made.close()
            raise aiohttp.ServerDisconnectedError  # or it spoke before it was asked
        share_of_age = 1 - _AGE_JITTER * self._random_share()
        return Connection(
            made, handler, transport, made_for=request, share_of_age=share_of_age, quiet_seconds=self._quiet_seconds
        )

    async def _make(self, request: aiohttp.ClientRequest, within_seconds: float) -> MadeConnection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            deadline = Deadline(
                loop.time() + within_seconds,
                lambda: limit.reschedule(loop.time()),
                something_came=lambda: False,
            )
            try:
                return await self._connector.connect(request, [], _UNLIMITED)
            finally:
                deadline.cancel()

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose answer was read; it is closed if it cannot be used again, or is old."""
        is_of_before = connection.made_for is not self._request
        if not connection.is_reusable or is_of_before or self._is_old(connection):
            connection.close()
            return
        now = asyncio.get_running_loop().time()
        self._idle.append((connection, now))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._keepalive_seconds, self._sweep)

    async def close(self) -> None:
        """Close every connection. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
        self._close_idle()
        await self._connector.close()
        await asyncio.sleep(0)  # the loop lets go of the sockets

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()

    def _is_old(self, connection: Connection) -> bool:
        """Return whether it is time for another connection, perhaps to another address of that name."""
        return self.max_age_seconds > 0 and connection.is_older_than(self.max_age_seconds)

    def _sweep(self) -> None:
        """Close those that were idle for long, and come again when the next one may be."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() >= self._idle[0][1] + self._keepalive_seconds:
            self._idle.popleft()[0].close()
        self._timer = loop.call_at(self._idle[0][1] + self._keepalive_seconds, self._sweep) if self._idle else None
