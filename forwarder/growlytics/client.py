"""One POST to Growlytics: the event's bytes out, an Outcome in.

Invariants: `post` never raises for anything that the far side or the network does; it never retries; it follows no
redirect, so the key goes nowhere else. Used by the delivery's workers, each of which waits for its own permit, so the pool
of connections is never waited for.
"""

import io
from typing import Final

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from forwarder import __version__
from forwarder.growlytics import outcome
from forwarder.growlytics.outcome import Outcome, Retryable
from forwarder.settings import GrowlyticsSettings

_CONNECT_SHARE: Final = 0.9
"""Of the timeout, for connecting: so a connection that hangs is told apart from an answer that hangs."""
_KEEPALIVE_SECONDS: Final = 15
"""How long an idle connection is kept, below what servers and load balancers commonly allow (60 and more)."""
_MAX_BYTES_AT_ONCE: Final = 1024 * 1024


class GrowlyticsClient:
    """Posts events over kept-alive connections, at most `max_connections` at a time."""

    def __init__(self, settings: GrowlyticsSettings, *, max_connections: int) -> None:
        self._url = URL(settings.url)
        self._timeout_seconds = settings.timeout_seconds
        self._key = settings.api_key
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make ready; nothing is connected yet."""
        assert self._key is not None, "settings demand a key"
        total = self._timeout_seconds
        self._session = aiohttp.ClientSession(
            connector=_Connector(
                limit=self._max_connections,
                limit_per_host=self._max_connections,
                keepalive_timeout=_KEEPALIVE_SECONDS,
            ),
            timeout=aiohttp.ClientTimeout(total=total, connect=total * _CONNECT_SHARE, ceil_threshold=float("inf")),
            headers={
                "x-growlytics-key": self._key.reveal(),
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": f"growlytics-forwarder/{__version__}",
            },
            cookie_jar=aiohttp.DummyCookieJar(),
            # Nothing encoded is asked for; what comes so all the same must not make a known status count as no answer.
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close every connection. May be called again."""
        if self._session is not None:
            await self._session.close()

    async def post(self, body: bytes) -> Outcome:
        """Make one attempt to deliver one event, given as the bytes of its JSON; takes at most the timeout."""
        assert self._session is not None, "open() comes first"
        try:
            async with self._session.post(self._url, data=_payload(body), allow_redirects=False) as response:
                return outcome.of_answer(response.status, await _read_bounded(response))
        except aiohttp.ConnectionTimeoutError:
            return Retryable("timeout", maybe_delivered=False)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL, UnicodeError):  # UnicodeError: no name of a host
            return Retryable("network", maybe_delivered=False)
        except TimeoutError:
            return Retryable("timeout", maybe_delivered=True)
        except (aiohttp.ClientError, ConnectionError):
            return Retryable("network", maybe_delivered=True)


class _Connector(aiohttp.TCPConnector):
    """Never uses a connection again on which something came while it was idle: it would pass for the next answer."""

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                break
            connection.close()
        return connection


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
