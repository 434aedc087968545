"""One POST to Growlytics: the event's bytes out, an Outcome in.

Invariants: `post` never raises for anything that the far side or the network does; it follows no redirect, and a proxy sees
no more than where to make a tunnel, so the key goes nowhere else. An event is sent at most once: a kept connection that the
far side has ended is passed over before a byte leaves, and nothing is sent again because of how that ended. Used by the
delivery's workers, each of which waits for its own permit, so the pool of connections is never waited for.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final, Literal

import aiohttp
from yarl import URL

from forwarder import __version__
from forwarder.growlytics import certificates, failures, outcome
from forwarder.growlytics.certificates import Certificates
from forwarder.growlytics.connections import Connection, Connections, NoAnswerError
from forwarder.growlytics.outcome import CancelledUnsentError, Delivered, Outcome, Retryable
from forwarder.settings import GrowlyticsSettings, Secret

_CONNECT_SHARE: Final = 0.9
"""Of the timeout, for connecting: so a connection that hangs is told apart from an answer that hangs."""
_LARGE_REQUEST_BYTES: Final = 64 * 1024
"""A larger one may be refused before all of it was read, and what is left of it be taken for the next request."""
_USER_AGENT: Final = f"growlytics-forwarder/{__version__}"


class GrowlyticsClient:
    """Posts events over kept-alive connections, as many as there are posts at a time."""

    def __init__(self, settings: GrowlyticsSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._url = URL(settings.url)
        self._host = failures.host_and_port(self._url)
        self._timeout_seconds = settings.timeout_seconds
        self._max_age_seconds = settings.connection_max_age_seconds
        self._key = settings.api_key
        self._ca_file = settings.ca_file
        self._proxy, self._proxy_authorization = _proxy_of(settings.proxy)
        self._clock = clock
        self._connections: Connections | None = None
        self.certificates: Certificates | None = None
        """Whom to trust; None before `open`, or for those whom the system trusted at the start."""

    async def open(self) -> None:
        """Make ready; nothing is connected yet. Raises RefusedError if the file of certificates has become unusable."""
        if self._ca_file is not None:
            self.certificates = certificates.read(self._ca_file)
        authorization = self._proxy_authorization
        self._connections = Connections(
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
            self._connections.max_age_seconds = self._max_age_seconds

    def use_key(self, key: Secret) -> None:
        """Send this key from the next post on; a post that has begun keeps the one it began with."""
        self._key = key

    def use_certificates(self, certificates: Certificates) -> None:
        """Trust these authorities from the next post on; one that has begun goes on as it began."""
        self.certificates = certificates
        if self._connections is not None:
            self._connections.use_tls(certificates.tls)

    async def post(self, body: bytes) -> Outcome:
        """Make one attempt to deliver one event, given as the bytes of its JSON; takes at most the timeout.

        It takes longer only if this process stood still meanwhile, such as a paused container.

        Where it is cancelled it raises CancelledUnsentError if no byte of the event left.
        """
        assert self._connections is not None, "open() comes first"
        request = self._request(body)
        clock = asyncio.get_running_loop().time
        connecting_seconds, within_seconds = 0.0, self._timeout_seconds * _CONNECT_SHARE
        try:
            await asyncio.sleep(0)  # the loop hears first which kept connections are just ending
            began = clock()
            connection = self._connections.take()
            if connection is None:
                connection = await self._connections.connect(within_seconds=within_seconds)
                connecting_seconds = clock() - began
                if connecting_seconds > within_seconds:  # this process stood still: the answer gets all of its time
                    began = clock()
        except asyncio.CancelledError as cancelled:
            raise CancelledUnsentError from cancelled
        except aiohttp.ClientHttpProxyError as refusal:
            assert self._proxy is not None, "it refused"
            headers: Mapping[str, str] = refusal.headers or {}
            return outcome.of_proxy_refusal(
                refusal.status,
                retry_after=headers.get("Retry-After"),
                date=headers.get("Date"),
                now=self._clock(),
                host=failures.host_and_port(self._proxy),
            )
        except (aiohttp.ClientError, OSError, UnicodeError) as error:  # UnicodeError: no name of a host
            failure = failures.of_connecting(error, url=self._url, proxy=self._proxy, within_seconds=within_seconds)
            reason: Literal["timeout", "network"] = "timeout" if isinstance(error, TimeoutError) else "network"
            return Retryable(reason, maybe_delivered=False, failure=failure)
        result = await self._send(request, connection, began + self._timeout_seconds)
        return Delivered(connecting_seconds) if connecting_seconds and isinstance(result, Delivered) else result

    async def _send(self, request: bytes, connection: Connection, deadline: float) -> Outcome:
        assert self._connections is not None, "open() comes first"
        try:
            answer = await connection.exchange(request, deadline=deadline)
        except (NoAnswerError, OSError) as error:
            connection.close()
            failure = failures.of_answering(error, url=self._url, within_seconds=self._timeout_seconds)
            reason: Literal["timeout", "network"] = "timeout" if isinstance(error, TimeoutError) else "network"
            return Retryable(reason, maybe_delivered=True, failure=failure)
        except BaseException:
            connection.close()
            raise
        if len(request) > _LARGE_REQUEST_BYTES and not 200 <= answer.status < 300:
            connection.close()
        else:
            self._connections.keep(connection)
        return outcome.of_answer(
            answer.status,
            answer.body,
            content_type=answer.content_type,
            content_encoding=answer.content_encoding,
            retry_after=answer.retry_after,
            date=answer.date,
            now=self._clock(),
            host=self._host,
        )

    def _request(self, body: bytes) -> bytes:
        assert self._key is not None, "settings demand a key"
        return (
            f"POST {self._url.raw_path_qs} HTTP/1.1\r\n"
            f"Host: {self._url.host_port_subcomponent}\r\n"
            f"x-growlytics-key: {self._key.reveal()}\r\n"
            "Accept: application/json\r\n"
            "Accept-Encoding: identity\r\n"
            f"User-Agent: {_USER_AGENT}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def _proxy_of(url: Secret | None) -> tuple[URL | None, Secret | None]:
    """Return a proxy's URL without user and password, and the header that says them to it alone."""
    if url is None:
        return None, None
    proxy = URL(url.reveal())
    if proxy.user is None and proxy.password is None:
        return proxy, None
    return proxy.with_user(None), Secret(aiohttp.encode_basic_auth(proxy.user or "", proxy.password or ""))
