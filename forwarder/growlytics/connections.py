"""The connections to Growlytics: each carries one request and its answer at a time, and is kept for the next.

aiohttp's connector makes them, through proxies and TLS, and its protocol parses what comes. Its sessions, requests and
responses are left out: what they do for the general case costs a post more than all the rest of delivering an event. Used
by `client` alone, on the event loop.
"""

import asyncio
import select
import socket
import ssl
from collections import deque
from typing import Final, Literal, NamedTuple

import aiohttp
from aiohttp import StreamReader
from aiohttp.abc import ResolveResult
from aiohttp.connector import Connection as MadeConnection
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

KEEPALIVE_SECONDS: Final = 15
"""How long an idle connection is kept, below what servers and load balancers commonly allow (60 and more)."""
_RESOLVE_AGAIN_SECONDS: Final = 10
"""How long the addresses of a host are remembered: Growlytics may move while the daemon runs."""
_SWITCHING_PROTOCOLS: Final = 101
"""The one status below 200 that is final."""


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    retry_after: str | None
    """Its Retry-After header, if there is one."""
    body: bytes
    """Its beginning."""


class NoAnswerError(Exception):
    """The connection was lost instead, or what came is no answer."""


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


class Connection:
    """One connection; nothing else may use it between `exchange` and what follows from that."""

    def __init__(self, made: MadeConnection, made_for: aiohttp.ClientRequest) -> None:
        assert made.protocol is not None, "it was just made"
        assert made.transport is not None, "it was just made"
        self.made_for: Final = made_for
        """What says whom to trust, as of when it was asked for."""
        self._made = made
        self._protocol = made.protocol
        self._transport = made.transport
        self._came = select.poll()
        # An end can be read, and errors are always told.
        self._came.register(made.transport.get_extra_info("socket"), select.POLLIN)

    @property
    def is_reusable(self) -> bool:
        """Whether its answer has ended and nothing more is said to come or to end."""
        return not (self._protocol.should_close or self._transport.is_closing())

    @property
    def is_untouched(self) -> bool:
        """Whether it is as it was left: neither ended nor reset, and nothing came that nobody asked for.

        The kernel is asked too, because the loop may not have come round to what has arrived.
        """
        return self.is_reusable and not self._came.poll(0)

    async def exchange(self, request: bytes, *, deadline: float, max_body_bytes: int) -> Answer:
        """Write a request at once, and wait for its answer; read `max_body_bytes` of the body, or a little more.

        `deadline` is a time of the event loop. Raises TimeoutError, or NoAnswerError; after these, or when it is cancelled,
        the connection must be closed. It must be too if it is not reusable.
        """
        protocol = self._protocol
        # A new parser each time, so that nothing that came before the request can be the beginning of the answer.
        protocol.set_response_params(read_until_eof=True, auto_decompress=False)
        self._transport.write(request)
        timer = asyncio.get_running_loop().call_at(deadline, self._give_up)
        try:
            message, body = await protocol.read()
            while message.code < 200 and message.code != _SWITCHING_PROTOCOLS:
                message, body = await protocol.read()
            if body.is_eof():
                content = body.read_nowait()
            else:
                async with asyncio.timeout_at(deadline):  # giving up may have come between the head and here
                    content = await _read(body, max_body_bytes)
        except (aiohttp.ClientError, HttpProcessingError) as error:
            raise NoAnswerError from error
        finally:
            timer.cancel()
        return Answer(message.code, message.headers.get("Retry-After"), content)

    def close(self) -> None:
        """Close it."""
        self._made.close()

    def _give_up(self) -> None:
        """Have TimeoutError raised where `exchange` waits for the head of an answer."""
        self._protocol.set_exception(TimeoutError())


async def _read(body: StreamReader, max_bytes: int) -> bytes:
    """Read a body to its end, so that its connection can be used again, or as much of it as is wanted."""
    content = b""
    while len(content) < max_bytes and not body.at_eof():
        content += await body.read(max_bytes - len(content))
    return content


class Connections:
    """Makes connections to `url`, and keeps those that are idle. How many there are is up to who asks for them."""

    def __init__(
        self,
        url: URL,
        *,
        tls: ssl.SSLContext | Literal[True],
        proxy: URL | None,
        proxy_headers: dict[str, str],
        keepalive_seconds: float = KEEPALIVE_SECONDS,
    ) -> None:
        """`proxy_headers` are told to the proxy alone."""
        self._keepalive_seconds = keepalive_seconds
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
            if connection.is_untouched:
                return connection
            connection.close()
        return None

    async def connect(self, *, within_seconds: float) -> Connection:
        """Make one.

        Raises TimeoutError, aiohttp.ClientError, or OSError or UnicodeError for no name of a host; of the first,
        NoNameServerError if it is known.
        """
        timeout = aiohttp.ClientTimeout(total=within_seconds, connect=within_seconds, ceil_threshold=float("inf"))
        request = self._request
        try:
            made = await self._connector.connect(request, [], timeout)
        except TimeoutError as error:
            if self._resolver.pending:
                raise NoNameServerError from error
            raise
        return Connection(made, request)

    def keep(self, connection: Connection) -> None:
        """Take back a connection whose answer was read; it is closed if it cannot be used again."""
        if not connection.is_reusable or connection.made_for is not self._request:
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

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()

    def _sweep(self) -> None:
        """Close those that were idle for long, and come again when the next one may be."""
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() >= self._idle[0][1] + self._keepalive_seconds:
            self._idle.popleft()[0].close()
        self._timer = loop.call_at(self._idle[0][1] + self._keepalive_seconds, self._sweep) if self._idle else None
