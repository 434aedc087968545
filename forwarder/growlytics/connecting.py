"""How a connection to Growlytics is made: whom to trust, and aiohttp with its proxies, TLS and name resolution.

aiohttp has no function that only connects. Its session prepares a request, and then calls the documented `connect` of its
connector. Our connector raises the new connection as an exception there, so the session never sends the request. This way
nothing here depends on how aiohttp builds requests, which changes between versions. Used by `connections`, `client` and
`reload`.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from forwarder.growlytics.deadline import Deadline, Sweep
from forwarder.settings import RefusedError, certificates_fault

_RESOLVE_AGAIN_SECONDS: Final = 10
"""How long the addresses of a host are remembered: Growlytics may move while the daemon runs."""

Trust = ssl.SSLContext | Literal[True]
"""The authorities to trust; True for those that the system trusted at the start."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The authorities of a file when it was read; two are equal if the files were the same, byte for byte."""

    digest: bytes
    tls: ssl.SSLContext = field(compare=False, repr=False)


def read_certificates(path: str) -> Certificates:
    """Return the authorities in a file. Blocks. Raises RefusedError with the reason if the file as a whole is unusable."""
    why: str | None = "it changed meanwhile"
    try:
        if Path(path).is_file():  # reading a device or a pipe may never end
            # The digest first: if the file changes in between, the next look finds another digest.
            with Path(path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
            context = ssl.create_default_context(cafile=path)
            if context.cert_store_stats()["x509"]:
                return Certificates(digest, _for_http(context))
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror
    raise RefusedError(certificates_fault(path) or f"names a file that cannot be read: {why}")


def system_certificates() -> Certificates:
    """Return the authorities that the system trusts now. Blocks."""
    return Certificates(b"", _for_http(ssl.create_default_context()))


def _for_http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context


class NoNameServerError(TimeoutError):
    """No name server told the host's addresses in time."""


class _Resolver(aiohttp.ThreadedResolver):
    """Counts who waits for addresses."""

    pending = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.pending += 1
        try:
            return await super().resolve(host, port, family)
        finally:
            self.pending -= 1


class Made(NamedTuple):
    """A new connection."""

    transport: asyncio.Transport
    release: Callable[[], None]
    """Tells aiohttp that the connection is no longer needed, and closes it."""


class _HandedOverError(Exception):
    """Not an error: its argument is a new connection, which leaves aiohttp's session this way."""


class _HandingOver(aiohttp.TCPConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise _HandedOverError(await super().connect(*args, **kwargs))


class Connector:
    """Makes connections to `url`."""

    def __init__(self, url: URL, *, proxy: URL | None, proxy_headers: Mapping[str, str]) -> None:
        """`proxy_headers` are sent to the proxy alone."""
        self._url = url
        self._proxy = proxy
        self._proxy_headers = proxy_headers if proxy else None
        self._resolver = _Resolver()
        self._session = aiohttp.ClientSession(
            connector=_HandingOver(
                limit=0, force_close=True, ttl_dns_cache=_RESOLVE_AGAIN_SECONDS, resolver=self._resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def connect(self, tls: Trust, *, within_seconds: float) -> Made:
        """Make a connection. `tls` is also for a proxy that is reached over TLS.

        Raises TimeoutError (NoNameServerError if that is the cause), aiohttp.ClientError, or OSError or UnicodeError for
        an invalid host name. Takes longer than `within_seconds` only if this process stood still.
        """
        loop = asyncio.get_running_loop()
        deadline = Deadline()

        def look(now: float) -> float:
            if deadline.has_passed(now, lambda: False):
                limit.reschedule(now)
            return deadline.at

        sweep = Sweep(look)
        try:
            async with asyncio.timeout(None) as limit:
                deadline.start(loop.time() + within_seconds, loop.time())
                sweep.look_by(deadline.at)
                await self._session.post(self._url, ssl=tls, proxy=self._proxy, proxy_headers=self._proxy_headers)
                raise AssertionError("the connector never hands a connection to the session")
        except _HandedOverError as handed_over:
            return _checked(handed_over.args[0])
        except TimeoutError as error:
            if self._resolver.pending:
                raise NoNameServerError from error
            raise
        finally:
            sweep.cancel()

    async def close(self) -> None:
        """Close every connection. May be called again."""
        await self._session.close()


def _checked(made: Any) -> Made:
    """Raise ServerDisconnectedError if the far side has closed the connection or has sent something unasked."""
    transport = made.transport
    # aiohttp's protocol sets `should_close` when bytes came. aiohttp does not document this; a test watches it.
    if transport is None or transport.is_closing() or getattr(transport.get_protocol(), "should_close", False):
        made.close()
        raise aiohttp.ServerDisconnectedError
    return Made(transport, made.close)
