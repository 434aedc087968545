"""Events over a Unix stream socket, one JSON element a line; the only answers are lines about refused events.

Made for log shippers and very high rates. Invariants: the lines of a connection are accepted in their order; none is refused
because the buffer is full, as nothing more is read until there is room; a connection holds at most a chunk, a line and one
put, and at most 64 KiB of error lines that its client does not read. What a client wrote is accepted even if the client has
gone or its connection is closed here; then its next write fails. At most `max_connections` are open. As many more, at most
MAX_GONE, may be closed while their lines still wait for the buffer.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from forwarder.intake.acceptance import Acceptor
from forwarder.intake.line_acceptor import LineAcceptor
from forwarder.intake.line_connections import LineConnection
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings

CHUNK_BYTES: Final = 64 * 1024
MAX_GONE: Final = 100
"""Each keeps a file open; `host.open_files` reserves enough for these."""
CLOSING_SECONDS: Final = 2
"""How long it may take to store the lines that were sent before the intake closes."""
_ENDING_SECONDS: Final = 1
"""How long a put that is under way then may still take, and after that the last error lines."""
_CLOSING_POLL_SECONDS: Final = 0.01
_ACCEPTED_PER_TURN: Final = 100
_MAX_BACKLOG: Final = 5000
"""More than any backlog (net.core.somaxconn), so that closing ends even if clients go on connecting."""
_ACCEPT_AGAIN_SECONDS: Final = 1
_MIN_SWEEP_SECONDS: Final = 0.01
_MAX_SWEEP_SECONDS: Final = 1.0


class LinesIntake:
    """Serves one listening socket."""

    def __init__(self, settings: IntakeSettings, *, acceptor: Acceptor, telemetry: Telemetry) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.acceptor = LineAcceptor(acceptor, intake="lines", is_patient=True, telemetry=telemetry)
        self.connections: OrderedDict[LineConnection, None] = OrderedDict()
        """Those that are open, ordered by their last whole lines."""
        self.gone: set[LineConnection] = set()
        """Those that are closed while some of their lines still wait for the buffer."""
        self.space = memoryview(b"")
        """All connections read into it, as none keeps anything there."""
        self._listener: socket.socket | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._accept_timer: asyncio.TimerHandle | None = None

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound, listens, and does not block."""
        self.space = memoryview(bytearray(CHUNK_BYTES))
        self._listener = listener
        self._accept_on(listener)

    async def close(self) -> None:
        """Accept no more connections and lines; wait a while until what was sent is stored. May be called again."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        asyncio.get_running_loop().remove_reader(listener)
        # Clients that connect from now on are refused; those that connected before are still accepted.
        listener.shutdown(socket.SHUT_RD)
        with suppress(OSError):
            self._accept(listener, at_most=_MAX_BACKLOG)
        listener.close()
        for timer in (self._sweep_timer, self._accept_timer):
            if timer is not None:
                timer.cancel()
        for connection in list(self.connections):
            connection.stop("shutting_down")
        if not await self._until(self._is_all_done, CLOSING_SECONDS):
            self.acceptor.is_closing = True
            await self._until(self._is_all_done, _ENDING_SECONDS)
        if not await self._until(lambda: not self.connections, _ENDING_SECONDS):
            for connection in [*self.connections, *self.gone]:
                connection.abort()

    # From the connections

    def admit(self, connection: LineConnection) -> bool:
        """Add a connection, and close the oldest one if there are too many. Return False if it cannot be added."""
        max_connections = self.settings.max_connections
        if len(self.gone) >= min(max_connections, MAX_GONE):
            self.telemetry.connection_closed("too_many")
            return False
        if len(self.connections) >= max_connections:
            oldest, _ = self.connections.popitem(last=False)
            self.telemetry.connection_closed("too_many")
            self.gone.add(oldest)
            oldest.drop()
        self.connections[connection] = None
        return True

    def received_line(self, connection: LineConnection) -> None:
        """Note that a whole line came."""
        if connection in self.connections:
            self.connections.move_to_end(connection)

    def closed(self, connection: LineConnection) -> None:
        """Note that a connection is closed, or that a closed one is done."""
        if connection in self.connections:
            del self.connections[connection]
            self.gone.add(connection)
        if connection.done:
            self.gone.discard(connection)

    # Accepting connections

    def _accept_on(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept_some, listener)

    def _accept_some(self, listener: socket.socket) -> None:
        try:
            self._accept(listener, at_most=_ACCEPTED_PER_TURN)
        except OSError as error:  # the limit of open files is reached
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "lines_socket cannot accept connections", "exception": error})
            loop.remove_reader(listener)
            self._accept_timer = loop.call_later(_ACCEPT_AGAIN_SECONDS, self._accept_on, listener)

    def _accept(self, listener: socket.socket, *, at_most: int) -> None:
        for _ in range(at_most):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            LineConnection(client, self).open()
            if self._sweep_timer is None:
                self._sweep_soon()

    def _sweep_soon(self) -> None:
        seconds = min(max(self.settings.body_timeout_seconds / 10, _MIN_SWEEP_SECONDS), _MAX_SWEEP_SECONDS)
        self._sweep_timer = asyncio.get_running_loop().call_later(seconds, self._sweep)

    def _sweep(self) -> None:
        """Close the connections that are too slow."""
        self._sweep_timer = None
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.check_time(now)
        if self.connections:
            self._sweep_soon()

    def _is_all_done(self) -> bool:
        return not self.gone and all(connection.done for connection in self.connections)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition, at most so long. Return whether it holds."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_CLOSING_POLL_SECONDS)
        return True
