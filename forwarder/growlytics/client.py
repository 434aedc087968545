"""One POST to Growlytics: the event's bytes out, an Outcome in.

Invariants: `post` never raises for anything that the far side or the network does; it follows no redirect, and a proxy sees
no more than where to make a tunnel, so the key goes nowhere else. An event is sent at most once: only if no byte of it left,
because a kept connection turned out to have been ended by the far side, is it sent on another connection, at once. Used by
the delivery's workers, each of which waits for its own permit, so the pool of connections is never waited for.
"""

import asyncio
import io
import select
import ssl
import time
from collections.abc import Callable
from typing import Final, Literal

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_middlewares import ClientHandlerType
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from forwarder import __version__
from forwarder.growlytics import outcome
from forwarder.growlytics.outcome import CancelledUnsentError, Outcome, Retryable
from forwarder.settings import GrowlyticsSettings, Secret

_CONNECT_SHARE: Final = 0.9
"""Of the timeout, for connecting: so a connection that hangs is told apart from an answer that hangs."""
_KEEPALIVE_SECONDS: Final = 15
"""How long an idle connection is kept, below what servers and load balancers commonly allow (60 and more)."""
_RESOLVE_AGAIN_SECONDS: Final = 10
"""How long the addresses of a host are remembered: Growlytics may move while the daemon runs."""
_MAX_BYTES_AT_ONCE: Final = 1024 * 1024


class GrowlyticsClient:
    """Posts events over kept-alive connections, at most `max_connections` at a time."""

    def __init__(
        self, settings: GrowlyticsSettings, *, max_connections: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._url = URL(settings.url)
        self._timeout = _timeout(settings.timeout_seconds)
        self._key = settings.api_key
        self._ca_file = settings.ca_file
        self._proxy, self._proxy_authorization = _proxy_of(settings.proxy)
        self._max_connections = max_connections
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; nothing is connected yet. Raises OSError if the file of certificates has become unusable."""
        assert self._key is not None, "settings demand a key"
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=0,  # permits are what limits them
                keepalive_timeout=_KEEPALIVE_SECONDS,
                ttl_dns_cache=_RESOLVE_AGAIN_SECONDS,
                ssl=_tls(self._ca_file),
            ),
            request_class=_Request,
            # A proxy is told these too, so nothing secret may be among them.
            headers={"User-Agent": f"growlytics-forwarder/{__version__}"},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nothing encoded is asked for; what comes so all the same must not make a known status count as no answer.
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection. May be called again."""
        if self._session is not None:
            await self._session.close()

    def use(self, settings: GrowlyticsSettings, *, max_connections: int) -> None:
        """Take the timeout from these settings, and another limit, from the next post on."""
        self._timeout = _timeout(settings.timeout_seconds)
        self._max_connections = max_connections

    def use_key(self, key: Secret) -> None:
        """Send this key from the next post on; a post that has begun keeps the one it began with."""
        self._key = key

    async def post(self, body: bytes) -> Outcome:
        """Make one attempt to deliver one event, given as the bytes of its JSON; takes at most the timeout.

        Where it is cancelled it raises CancelledUnsentError if no byte of the event left.
        """
        assert self._key is not None, "settings demand a key"
        headers = {
            "x-growlytics-key": self._key.reveal(),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        for _ in range(self._max_connections + 1):  # each but the last uses up a connection that was kept
            sending = _Sending()
            result = await self._send(body, headers, sending)
            # Whatever came instead, it is no answer to a request of which no byte left.
            if not sending.kept_back:
                return result
        return Retryable("network", maybe_delivered=False)

    async def _send(self, body: bytes, headers: dict[str, str], sending: "_Sending") -> Outcome:
        assert self._session is not None, "open() comes first"
        authorization = self._proxy_authorization
        try:
            async with self._session.post(
                self._url,
                data=_payload(body),
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                proxy=self._proxy,
                proxy_headers={"Proxy-Authorization": authorization.reveal()} if authorization else None,
                middlewares=(sending,),
            ) as response:
                return outcome.of_answer(
                    response.status,
                    await _read_bounded(response),
                    retry_after=response.headers.get("Retry-After"),
                    now=self._clock(),
                )
        except asyncio.CancelledError as cancelled:
            if sending.may_have_left:
                raise
            raise CancelledUnsentError from cancelled
        except aiohttp.ConnectionTimeoutError:
            return Retryable("timeout", maybe_delivered=False)
        except aiohttp.ClientHttpProxyError as refusal:
            return outcome.of_proxy_refusal(refusal.status)
        except TimeoutError:
            return Retryable("timeout", maybe_delivered=sending.may_have_left)
        except (aiohttp.ClientError, OSError, UnicodeError):  # UnicodeError: no name of a host
            return Retryable("network", maybe_delivered=sending.may_have_left)


class _Sending:
    """What is known of the bytes of one request; handed to aiohttp as the request's middleware, it finds the request."""

    def __init__(self) -> None:
        self.on_kept_connection = True
        self.kept_back = False
        """The connection it was to take was ended while idle, so nothing was written to it."""
        self.may_have_left = False

    async def __call__(self, request: aiohttp.ClientRequest, handler: ClientHandlerType) -> aiohttp.ClientResponse:
        assert isinstance(request, _Request)
        request.sending = self
        return await handler(request)


class _Request(aiohttp.ClientRequest):
    """Writes nothing to a kept connection that the far side has ended."""

    sending: _Sending

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Write headers and body. aiohttp has a connection then; before Python 3.12, since a turn of the loop ago."""
        if self.sending.on_kept_connection and not _is_untouched(conn):
            self.sending.kept_back = True
            if conn.protocol is not None:
                conn.protocol.set_exception(ConnectionResetError("ended while idle"))
            return
        self.sending.may_have_left = True
        await super().write_bytes(writer, conn, content_length)


class _Connector(aiohttp.TCPConnector):
    """Takes no connection from the pool that was ended, or on which something came, while it was idle.

    What came would pass for the next answer; and of what is written to a connection that was ended, nobody can tell whether
    it was read.
    """

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if _is_untouched(connection):
                break
            connection.close()
        return connection

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        assert isinstance(req, _Request), "the session makes them"
        req.sending.on_kept_connection = False
        return await super()._create_connection(req, traces, timeout)


def _is_untouched(connection: Connection) -> bool:
    """Whether a kept connection is as it was left: neither ended nor reset, and nothing came that nobody asked for.

    The kernel is asked too, because the loop may not have come round to what has arrived.
    """
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or protocol.should_close or transport is None or transport.is_closing():
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)  # an end can be read, and errors are always told
    return not poll.poll(0)


def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, connect=seconds * _CONNECT_SHARE, ceil_threshold=float("inf"))


def _tls(ca_file: str | None) -> ssl.SSLContext | Literal[True]:
    """Return how to verify the far side, and a proxy that is reached over TLS."""
    if ca_file is None:
        return True
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _proxy_of(url: Secret | None) -> tuple[URL | None, Secret | None]:
    """Return a proxy's URL without user and password, and the header that says them to it alone."""
    if url is None:
        return None, None
    proxy = URL(url.reveal())
    if proxy.user is None and proxy.password is None:
        return proxy, None
    return proxy.with_user(None), Secret(aiohttp.encode_basic_auth(proxy.user or "", proxy.password or ""))


def _payload(body: bytes) -> bytes | io.BytesIO:
    """Return what aiohttp wants: above this size it writes bytes in one go, and warns of that."""
    return body if len(body) <= _MAX_BYTES_AT_ONCE else io.BytesIO(body)


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Read the answer to its end, so that its connection can be used again, unless it is unreasonably long."""
    body = await response.content.read(outcome.MAX_ANSWER_BYTES)
    while not response.content.at_eof():
        if len(body) >= outcome.MAX_ANSWER_BYTES:
            response.close()
            break
        body += await response.content.read(outcome.MAX_ANSWER_BYTES - len(body))
    return body
