"""The connections to Growlytics: each carries one request and its answer at a time, and is kept for the next request.

aiohttp makes them (see `connecting`). Its requests, responses and parser are not used: they cost more than all other work
of delivering an event, and they drop an answer of which only the end is malformed. Used by `client`, on the event loop.
"""

import asyncio
import random
import select
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from yarl import URL

from forwarder.growlytics.answer import AnswerReader, ApiAnswer, CutAnswerError, MalformedAnswerError, usual_answer
from forwarder.growlytics.connecting import Connector, Made, Trust
from forwarder.growlytics.deadline import Deadline, Sweep

KEEPALIVE_SECONDS: Final = 15
"""How long an idle connection is kept, below what servers and load balancers commonly allow (60 and more)."""
QUIET_SECONDS: Final = 2.0
"""How long a body may pause if nothing says where it ends."""
_AGE_JITTER: Final = 0.25
"""Each connection is replaced up to this share earlier than its age demands, so that not all are replaced at once."""


class NoAnswerError(Exception):
    """The connection ended before an answer, or what came is no answer: the cause says which, if there is one."""


class ApiConnection(asyncio.Protocol):
    """One connection. Between `exchange` and its answer nothing else may use it."""

    def __init__(self, made: Made, pool: "ApiConnections", *, tls: Trust, share_of_age: float) -> None:
        """Take over a new connection. `share_of_age` is this connection's share of the age that all may reach."""
        self._release = made.release
        self._predecessor = made.transport.get_protocol()
        """aiohttp's protocol, which must be told when the connection is lost."""
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[ApiAnswer] | None = None
        """Set while an answer is awaited."""
        self._reader: AnswerReader | None = None
        """Set when the answer has begun, so nothing that came before the request can begin it."""
        self.transport: Final = made.transport
        self.tls: Final = tls
        self.made_at: Final = self._loop.time()
        self.share_of_age: Final = share_of_age
        self.deadline: Final = Deadline()
        self.is_fit = True
        """Whether the last answer has ended and the far side has neither sent more nor ended the connection."""
        self.expires_at = inf
        """When the connection must not be used again, as a time of the event loop."""
        self.idle_since = inf
        unread = select.poll()
        # The kernel reports an end as readable, and it always reports errors.
        unread.register(made.transport.get_extra_info("socket"), select.POLLIN)
        self.unread: Final = unread
        """Polls for bytes or an end that the loop may not have noticed yet."""
        made.transport.set_protocol(self)

    def exchange(self, request: bytes, deadline: float) -> asyncio.Future[ApiAnswer]:
        """Write a request at once, and return a future of its answer.

        An answer counts once its head is complete. The future has it when the answer has ended; or at `deadline`, a time of
        the event loop, or when the connection ends, with as much of the body as came. Otherwise it fails with TimeoutError
        or NoAnswerError. After an answer `keep` the connection; after a failure, or after cancelling the future, `close` it.
        """
        self._waiter = waiter = self._loop.create_future()
        self.is_fit = False
        self.transport.write(request)
        self.deadline.start(deadline, self._loop.time())
        if deadline < self._pool.sweep.at:
            self._pool.sweep.look_by(deadline)
        return waiter

    def close(self) -> None:
        """Close the connection at once: drop unsent bytes of a request, and do not wait for TLS to end in order."""
        self.is_fit = False
        self.deadline.at = inf
        self._pool.members.discard(self)
        self.transport.abort()
        self._release()

    def end_if_late(self, now: float) -> None:
        """End the exchange if its deadline has passed."""
        if self.deadline.has_passed(now, self._has_unread):
            self._finish(TimeoutError())

    # The event loop calls these.

    def data_received(self, data: bytes) -> None:
        """Read the answer."""
        waiter, reader = self._waiter, self._reader
        if waiter is None:  # nobody asked for it
            self.is_fit = False
            return
        if reader is None:
            if (answer := usual_answer(data)) is not None and not waiter.done():
                self.is_fit, self._waiter, self.deadline.at = True, None, inf
                waiter.set_result(answer)
                return
            reader = self._reader = AnswerReader()
        try:
            if reader.feed(data):
                self.is_fit = reader.is_reusable
                self._finish(None)
            elif reader.end_is_doubtful:
                self.deadline.bring_forward(self._loop.time() + self._pool.quiet_seconds)
                self._pool.sweep.look_by(self.deadline.at)
        except MalformedAnswerError as error:
            self._finish(error)

    def eof_received(self) -> None:
        """End the exchange; the event loop closes the connection."""
        self.is_fit = False
        self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange."""
        self.is_fit = False
        self._finish(exc)
        self._predecessor.connection_lost(exc)

    def _has_unread(self) -> bool:
        return bool(self.unread.poll(0))

    def _finish(self, error: Exception | None) -> None:
        """Hand over the answer as far as it came; if its head did not, the error, or that the far side hung up."""
        waiter, reader = self._waiter, self._reader
        self._waiter = self._reader = None
        self.deadline.at = inf
        if waiter is None or waiter.done():
            return
        if reader is not None and (answer := reader.answer) is not None:
            waiter.set_result(answer)
        elif isinstance(error, TimeoutError) and error.errno is None:  # not the kernel's
            waiter.set_exception(error)
        else:
            no_answer = NoAnswerError()
            no_answer.__cause__ = error or (CutAnswerError() if reader is not None else None)
            waiter.set_exception(no_answer)


class ApiConnections:
    """Makes connections to one URL and keeps the idle ones. The caller decides how many there are."""

    def __init__(
        self,
        url: URL,
        *,
        tls: Trust,
        proxy: URL | None,
        proxy_headers: dict[str, str],
        max_age_seconds: float = 0,
        keepalive_seconds: float = KEEPALIVE_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        random_share: Callable[[], float] = random.random,
    ) -> None:
        """`proxy_headers` are sent to the proxy alone; `random_share` returns numbers from 0 to 1.

        A `max_age_seconds` of 0 is no limit.
        """
        self.time: Final = asyncio.get_running_loop().time
        self._tls = tls
        self._max_age_seconds = max_age_seconds
        self._keepalive_seconds = keepalive_seconds
        self._random_share = random_share
        self._connector = Connector(url, proxy=proxy, proxy_headers=proxy_headers)
        self._idle: deque[ApiConnection] = deque()
        """Those idle for longest come first."""
        self.members: Final[set[ApiConnection]] = set()
        """All that were made and not closed here."""
        self.quiet_seconds: Final = quiet_seconds
        self.sweep: Final = Sweep(self._look)
        """Ends exchanges that are late and connections that were idle for long."""

    def use_tls(self, tls: Trust) -> None:
        """Trust these authorities from now on; connections made before carry no further request."""
        self._tls = tls
        self._set_expiries()
        self._close_idle()

    def use_max_age(self, seconds: float) -> None:
        """Let connections, including those that exist, become this old; 0 is no limit."""
        self._max_age_seconds = seconds
        self._set_expiries()

    def take(self) -> ApiConnection | None:
        """Return an idle connection to which a request may be written at once; None if there is none.

        This closes connections that have ended or expired, or on which something came unasked. The kernel is asked too,
        because the loop may not have noticed yet.
        """
        idle, now = self._idle, self.time()
        while idle:
            connection = idle.pop()
            if (
                connection.is_fit
                and not connection.transport.is_closing()
                and now < connection.expires_at
                and now < connection.idle_since + self._keepalive_seconds  # after a standstill the sweep is late
                and not connection.unread.poll(0)
            ):
                return connection
            connection.close()
        return None

    async def connect(self, *, within_seconds: float) -> ApiConnection:
        """Make a connection. Raises what `Connector.connect` raises."""
        tls = self._tls
        made = await self._connector.connect(tls, within_seconds=within_seconds)
        connection = ApiConnection(made, self, tls=tls, share_of_age=1 - _AGE_JITTER * self._random_share())
        connection.expires_at = self._expiry_of(connection)
        self.members.add(connection)
        return connection

    def keep(self, connection: ApiConnection) -> None:
        """Keep a connection after its answer, or close it if it cannot be used again."""
        now = self.time()
        if connection.is_fit and not connection.transport.is_closing() and now < connection.expires_at:
            connection.idle_since = now
            self._idle.append(connection)
            if now + self._keepalive_seconds < self.sweep.at:
                self.sweep.look_by(now + self._keepalive_seconds)
        else:
            connection.close()

    async def close(self) -> None:
        """Close every connection, which ends the posts under way. May be called again."""
        self._idle.clear()
        for connection in tuple(self.members):
            connection.close()
        self.sweep.cancel()
        await self._connector.close()
        await asyncio.sleep(0)  # in this turn the loop closes the sockets

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _set_expiries(self) -> None:
        for connection in self.members:
            connection.expires_at = self._expiry_of(connection)

    def _expiry_of(self, connection: ApiConnection) -> float:
        """Return when a connection expires: the host's name may mean another address by then."""
        if connection.tls is not self._tls:
            return -inf
        return connection.made_at + self._max_age_seconds * connection.share_of_age if self._max_age_seconds else inf

    def _look(self, now: float) -> float:
        """Handle what is due, and return when the next thing will be."""
        for connection in self.members:
            connection.end_if_late(now)
        while self._idle and now >= self._idle[0].idle_since + self._keepalive_seconds:
            self._idle.popleft().close()
        end_of_idle = self._idle[0].idle_since + self._keepalive_seconds if self._idle else inf
        return min(end_of_idle, inf, *(connection.deadline.at for connection in self.members))
