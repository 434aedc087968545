"""One POST to Growlytics: the event's bytes out, an Outcome in.

Invariants: `post` never raises for anything that the far side or the network does. It follows no redirect, and a proxy only
learns where to make a tunnel, so the key goes to Growlytics alone. `post` sends an event at most once: it skips kept
connections that the far side has closed before it writes a byte, and never sends again after a failure. Used by delivery's
workers, each of which holds a permit, so no post waits for a connection of another.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal, overload

import aiohttp
from yarl import URL

from forwarder import __version__
from forwarder.growlytics import failures, outcome
from forwarder.growlytics.connecting import Certificates, read_certificates
from forwarder.growlytics.connections import ApiConnection, ApiConnections, NoAnswerError
from forwarder.growlytics.outcome import CancelledUnsentError, Delivered, Outcome, Retryable
from forwarder.settings import GrowlyticsSettings, Secret

_CONNECT_SHARE: Final = 0.9
"""The share of the timeout for connecting: a connection that hangs is thus told apart from an answer that hangs."""
_LARGE_REQUEST_BYTES: Final = 64 * 1024
"""The far side may refuse a larger request before it has read all of it, and take the rest for the next request."""
_USER_AGENT: Final = f"growlytics-forwarder/{__version__}"


class GrowlyticsClient:
    """Posts events over kept connections, one for each post under way."""

    def __init__(self, settings: GrowlyticsSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._url = URL(settings.url)
        self._host = failures.host_and_port(self._url)
        self._timeout_seconds = settings.timeout_seconds
        self._max_age_seconds = settings.connection_max_age_seconds
        self._head = memoryview(b"")
        """The start of each request, up to the value of Content-Length; a view, so that no repr() shows the key."""
        self._ca_file = settings.ca_file
        self._proxy, self._proxy_authorization = _proxy_of(settings.proxy)
        self._clock = clock
        self._connections: ApiConnections | None = None
        self.certificates: Certificates | None = None
        """The authorities to trust; None before `open`, or for those that the system trusted at the start."""
        if settings.api_key is not None:
            self.use_key(settings.api_key)

    async def open(self) -> None:
        """Prepare, without connecting. Raises RefusedError if the file of certificates has become unusable."""
        if self._ca_file is not None:
            self.certificates = read_certificates(self._ca_file)
        authorization = self._proxy_authorization
        self._connections = ApiConnections(
            self._url,
            tls=True if self.certificates is None else self.certificates.tls,
            proxy=self._proxy,
            proxy_headers={"User-Agent": _USER_AGENT}
            | ({"Proxy-Authorization": authorization.reveal()} if authorization else {}),
            max_age_seconds=self._max_age_seconds,
        )

    async def close(self) -> None:
        """Close every connection. May be called again."""
        if self._connections is not None:
            await self._connections.close()

    def use(self, settings: GrowlyticsSettings) -> None:
        """Take the timeout and the age of connections from these settings, from the next post on."""
        self._timeout_seconds = settings.timeout_seconds
        self._max_age_seconds = settings.connection_max_age_seconds
        if self._connections is not None:
            self._connections.use_max_age(self._max_age_seconds)

    def use_key(self, key: Secret) -> None:
        """Send this key from the next post on; a post that has begun keeps its key."""
        head = (
            f"POST {self._url.raw_path_qs} HTTP/1.1\r\n"
            f"Host: {self._url.host_port_subcomponent}\r\n"
            f"x-growlytics-key: {key.reveal()}\r\n"
            "Accept: application/json\r\n"
            "Accept-Encoding: identity\r\n"
            f"User-Agent: {_USER_AGENT}\r\n"
            "Content-Type: application/json\r\n"
            "Content-Length: "
        )
        self._head = memoryview(head.encode())

    def use_certificates(self, certificates: Certificates) -> None:
        """Trust these authorities from the next post on; a post that has begun is not affected."""
        self.certificates = certificates
        if self._connections is not None:
            self._connections.use_tls(certificates.tls)

    @overload
    async def post(self, body: bytes, /) -> Outcome: ...

    @overload
    async def post(self, body: bytes, may_leave: Callable[[], bool] | None, /) -> Outcome | None: ...

    async def post(self, body: bytes, may_leave: Callable[[], bool] | None = None, /) -> Outcome | None:
        """Make one attempt to deliver one event, the bytes of its JSON, within the timeout.

        It takes longer only if this process stood still meanwhile, as in a paused container. `may_leave` is asked right
        before the first byte leaves; if it says no, nothing is sent, and this returns None. When cancelled it raises
        CancelledUnsentError if no byte of the event has left.
        """
        connections = self._connections
        assert connections is not None, "open() comes first"
        assert self._head, "settings demand a key"
        request = b"".join((self._head, b"%d\r\n\r\n" % len(body), body))
        clock = connections.time
        began, connecting_seconds, timeout_seconds = clock(), 0.0, self._timeout_seconds
        connection = connections.take()
        if connection is None:
            within_seconds = timeout_seconds * _CONNECT_SHARE
            connected = await self._connect(connections, within_seconds)
            if not isinstance(connected, ApiConnection):
                return connected
            connection, connecting_seconds = connected, clock() - began
            if connecting_seconds > within_seconds:  # this process stood still: the answer gets the whole timeout
                began = clock()
        try:
            if may_leave is not None and not may_leave():
                connections.keep(connection)
                return None
            answer = await connection.exchange(request, began + timeout_seconds)
        except (NoAnswerError, OSError) as error:
            connection.close()
            failure = failures.of_answering(error, url=self._url, within_seconds=timeout_seconds)
            return Retryable(_reason(error), maybe_delivered=True, failure=failure)
        except BaseException:
            connection.close()
            raise
        if len(request) > _LARGE_REQUEST_BYTES and not 200 <= answer.status < 300:
            connection.close()
        else:
            connections.keep(connection)
        result = outcome.of_answer(
            answer.status,
            answer.body,
            content_type=answer.content_type,
            content_encoding=answer.content_encoding,
            retry_after=answer.retry_after,
            date=answer.date,
            now=self._clock(),
            host=self._host,
        )
        return Delivered(connecting_seconds) if connecting_seconds and isinstance(result, Delivered) else result

    async def _connect(self, connections: ApiConnections, within_seconds: float) -> ApiConnection | Outcome:
        """Return a new connection, or the outcome if there is none."""
        try:
            return await connections.connect(within_seconds=within_seconds)
        except asyncio.CancelledError as cancelled:
            raise CancelledUnsentError from cancelled
        except aiohttp.ClientHttpProxyError as refusal:
            assert self._proxy is not None, "the proxy refused"
            headers: Mapping[str, str] = refusal.headers or {}
            return outcome.of_proxy_refusal(
                refusal.status,
                retry_after=headers.get("Retry-After"),
                date=headers.get("Date"),
                now=self._clock(),
                host=failures.host_and_port(self._proxy),
            )
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # UnicodeError: not a host name
            failure = failures.of_connecting(error, url=self._url, proxy=self._proxy, within_seconds=within_seconds)
            return Retryable(_reason(error), maybe_delivered=False, failure=failure)


def _reason(error: Exception) -> Literal["timeout", "network"]:
    return "timeout" if isinstance(error, TimeoutError) else "network"


def _proxy_of(url: Secret | None) -> tuple[URL | None, Secret | None]:
    """Return a proxy's URL without user and password, and the header that tells them to the proxy alone."""
    if url is None:
        return None, None
    proxy = URL(url.reveal())
    if proxy.user is None and proxy.password is None:
        return proxy, None
    return proxy.with_user(None), Secret(aiohttp.encode_basic_auth(proxy.user or "", proxy.password or ""))
