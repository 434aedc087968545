"""How a connection to Growlytics is made: whom to trust, and aiohttp's connector with its proxies, TLS and name resolution.

aiohttp has no function that only connects. Its session does what precedes a connection, and asks the connector's
`connect`, which is documented, for one; ours hands the connection to us there, so the session never sends a request. This
needs no knowledge of how aiohttp builds its requests, which changes between its versions. Used by `connections`.
"""

import asyncio
import hashlib
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from forwarder.growlytics.deadline import Deadline, Sweep
from forwarder.settings import RefusedError, certificates_fault

_RESOLVE_AGAIN_SECONDS: Final = 10
"""How long the addresses of a host are remembered: Growlytics may move while the daemon runs."""

Trust = ssl.SSLContext | Literal[True]
"""Whom to trust; True for those whom the system trusted at the start."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """Authorities, as of when they were read; equal if their files were, byte for byte."""

    digest: bytes
    tls: ssl.SSLContext = field(compare=False, repr=False)


def read_certificates(path: str) -> Certificates:
    """Return the authorities in a file. Blocks. Raises RefusedError with the reason if the file is of no use as a whole."""
    why: str | None = "it changed meanwhile"
    try:
        if Path(path).is_file():  # reading a device or a pipe might never end
            # The digest first: if the file changes in between, it differs from what is found at the next look.
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
    """No name server told the addresses of a host in time."""


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


class _MadeError(Exception):
    """No error: takes a new connection past aiohttp's session, which sends nothing then."""

    def __init__(self, transport: asyncio.Transport | None, release: Callable[[], None]) -> None:
        self.transport = transport
        self.release = release


class _HandingOver(aiohttp.TCPConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> NoReturn:
        made = await super().connect(*args, **kwargs)
        raise _MadeError(made.transport, made.close)


@dataclass(frozen=True, slots=True)
class Made:
    """A new connection."""

    transport: asyncio.Transport
    predecessor: asyncio.BaseProtocol
    """aiohttp's protocol, which must still be told when the connection is lost."""
    release: Callable[[], None]
    """Tells aiohttp that the connection is not needed any more. Closes it too."""


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
        """Make a connection. `tls` holds for a proxy that is reached over TLS, too.

        Raises TimeoutError, aiohttp.ClientError, or OSError or UnicodeError for a host name that is none; of the first,
        NoNameServerError if that is the cause. Takes longer than `within_seconds` only if this process stood still.
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
        except _MadeError as handed_over:
            return _checked(handed_over)
        except TimeoutError as error:
            if self._resolver.pending:
                raise NoNameServerError from error
            raise
        finally:
            sweep.cancel()

    async def close(self) -> None:
        """Close every connection. May be called again."""
        await self._session.close()


def _checked(made: _MadeError) -> Made:
    """Raise ServerDisconnectedError if the far side has closed the connection, or has spoken before it was asked."""
    transport = made.transport
    if transport is not None and not transport.is_closing():
        predecessor = transport.get_protocol()
        # aiohttp sets this where bytes came; it is the one thing here that its documents do not mention.
        if not getattr(predecessor, "should_close", False):
            return Made(transport, predecessor, made.release)
    made.release()
    raise aiohttp.ServerDisconnectedError
