"""A server of HTTP/1.1: the connections of one listener, with bounds for their number and their times.

Invariants: at most `max_connections` are kept, and at this limit one more that is new, so that a client that has completed a
request is never closed to make room for one that has not. One sweep over all connections checks their times; it runs only
while there are connections.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Final

from forwarder.http.messages import STATUS_LINES, Answer, Application, Limits, State
from forwarder.http.protocol import Connection
from forwarder.http.reading import KnownHeads

_ACCEPTED_PER_TURN: Final = 32
"""How many connections are accepted before other tasks get a turn of the event loop: each takes about 0.1 ms."""
_BACKLOG: Final = 1024
"""How many clients may wait for that; the kernel lets a client that finds no room try again after a second."""
_NO_CONTENT: Final = 204


class Bodies:
    """The large bodies of all listeners whose requests are not answered yet: together they take at most `max_bytes`.

    If they would take more, the oldest incomplete body is refused, as it is the slowest.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._incomplete: OrderedDict[Connection, None] = OrderedDict()
        self.held_bytes = 0

    def count(self, connection: Connection, more_bytes: int, *, is_complete: bool) -> bool:
        """Count more bytes of a body, which may be the last ones. Return whether there is room."""
        if is_complete:
            self._incomplete.pop(connection, None)
        else:
            self._incomplete.setdefault(connection)
        self.held_bytes += more_bytes
        while self.held_bytes > self._max_bytes and self._incomplete:
            first, _ = self._incomplete.popitem(last=False)
            first.refuse("busy")
        return self.held_bytes <= self._max_bytes

    def drop(self, connection: Connection, held_bytes: int) -> None:
        """Forget a body, because its request is answered or never will be."""
        self._incomplete.pop(connection, None)
        self.held_bytes -= held_bytes


class Connections:
    """Makes the connections of one listener and keeps them within bounds.

    `clock` returns rising seconds; by default it is the event loop's.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        max_connections: int,
        bodies: Bodies,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.application = application
        self.limits = limits
        self.bodies = bodies
        self.known_heads = KnownHeads()
        self.clock = clock or asyncio.get_running_loop().time
        self.closing = False
        """Whether no more requests are answered."""
        self.tasks: set[asyncio.Task[object]] = set()
        """The tasks that answer requests."""
        self._max_connections = max_connections
        self._new: OrderedDict[Connection, None] = OrderedDict()
        """Connections that have not completed a request, the oldest first."""
        self._used: OrderedDict[Connection, None] = OrderedDict()
        """The others, ordered by their last requests, the oldest first."""
        self._quiet_seconds = min(limits.head_seconds, limits.body_seconds, limits.answer_seconds)
        self._sweep_seconds = min(1.0, self._quiet_seconds / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._dated, self._date = 0, ""
        self._server: asyncio.Server | None = None
        self.emptied = asyncio.Event()
        """Set while there are no connections."""
        self.emptied.set()

    def __len__(self) -> int:
        return len(self._new) + len(self._used)

    def __iter__(self) -> Iterator[Connection]:
        return iter((*self._new, *self._used))

    async def open(self, listener: socket.socket) -> None:
        """Serve a socket that is bound and listens; from now on in place of the one before, if there was one."""
        loop = asyncio.get_running_loop()
        if self._server is not None:
            self._server.close()  # its connections stay
        self._server = await loop.create_server(self.make, sock=listener, backlog=_ACCEPTED_PER_TURN)
        listener.listen(_BACKLOG)  # the event loop made the queue as short as that

    async def close(self, *, seconds: float) -> None:
        """Accept no more connections and requests, and wait so long for those that are being answered. May be called again.

        On return all tasks have ended, including those that answer clients that have left.
        """
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.finish()
        try:
            async with asyncio.timeout(seconds):
                await self._ended()
        except TimeoutError:
            self.abort()
            await self._ended()

    async def _ended(self) -> None:
        await self.emptied.wait()
        while self.tasks:
            await asyncio.wait(self.tasks)

    def make(self) -> Connection:
        """Return the protocol of a new connection, which adds itself once it is connected."""
        return Connection(self)

    def add(self, connection: Connection) -> None:
        """Add a connection, and close another if there are too many."""
        self._new[connection] = None
        self.emptied.clear()
        if self._timer is None:
            self._sweep_later()
        if len(self._new) > max(1, self._max_connections - len(self._used)):
            self._close_oldest(self._new)

    def used(self, connection: Connection) -> None:
        """Note that a connection has completed a request."""
        if connection in self._used:
            self._used.move_to_end(connection)
        elif connection in self._new:
            del self._new[connection]
            self._used[connection] = None
            if len(self._used) > self._max_connections:
                self._close_oldest(self._used)

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed. May be called again."""
        self._new.pop(connection, None)
        self._used.pop(connection, None)
        if not self:
            self.emptied.set()

    def finish(self) -> None:
        """Accept no more requests: close idle connections now, and the others after their answers."""
        self.closing = True
        for connection in self:
            connection.close_if_idle()

    def abort(self) -> None:
        """Close all connections at once, cancel the tasks that answer requests, and stop the sweep."""
        for connection in self:
            connection.abort()
        for task in self.tasks:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def sweep(self) -> None:
        """Close connections whose time is up."""
        now = self.clock()
        for connection in self:
            connection.check_time(now)

    def encode(self, answer: Answer, *, connection: str, with_body: bool) -> bytes:
        """Return an answer as bytes. `connection` is the value of the Connection header, empty for none."""
        head = STATUS_LINES[answer.status]
        for name, value in answer.headers.items():
            head += f"{name}: {value}\r\n"
        if answer.status != _NO_CONTENT:
            head += f"Content-Length: {len(answer.body)}\r\n"
        if connection:
            head += f"Connection: {connection}\r\n"
        now = int(time.time())
        if now != self._dated:
            self._dated, self._date = now, f"Date: {formatdate(now, usegmt=True)}\r\n\r\n"
        return (head + self._date).encode("ascii") + (answer.body if with_body else b"")

    def _close_oldest(self, connections: OrderedDict[Connection, None]) -> None:
        """Close the first idle connection; if none is idle, the first one."""
        idle = (one for one in connections if one.state is State.IDLE)
        oldest = next(idle, None) or next(iter(connections))
        del connections[oldest]
        oldest.abort()
        self.application.connection_closed("too_many")

    def _sweep_later(self) -> None:
        """Sweep soon; while all are idle, only when the first may be idle for too long, or a new request too slow."""
        seconds = self._sweep_seconds
        if not self._new and all(each.state is State.IDLE for each in self._used):
            idle_seconds = self.clock() - min((each.since for each in self._used), default=0.0)
            seconds = max(seconds, min(self._quiet_seconds, self.limits.idle_seconds - idle_seconds))
        self._timer = asyncio.get_running_loop().call_later(seconds, self._sweep_again)

    def _sweep_again(self) -> None:
        self._timer = None
        if self:
            try:
                self.sweep()
            finally:  # it may raise
                self._sweep_later()
