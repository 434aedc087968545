"""Events over a Unix stream socket, one JSON element a line; all that is answered is a line for each refused event.

Made for log shippers and very high rates. Invariants: lines are taken in the order in which a connection sent them; none is
refused because the buffer is full, as then nothing more is read until there is room; of a connection at most a chunk, a
line and one put are held, and at most 64 KiB of error lines that it does not read. What a client wrote is taken, also when
it is gone or is closed here, in which case its next write fails. Of those closed for others that are not done yet there are
at most `max_connections` too, and at most MAX_GONE.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from forwarder.intake.acceptance import Acceptor
from forwarder.intake.line_connections import LineConnection, LineConnections
from forwarder.intake.taking import Taking
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings

CHUNK_BYTES: Final = 64 * 1024
CLOSING_SECONDS: Final = 2
"""How long the lines that were sent may take to be put when the intake closes."""
_ENDING_SECONDS: Final = 1
"""How long what is being put then may still take, and after that the last error lines."""
_CLOSING_POLL_SECONDS: Final = 0.01
_ACCEPTED_PER_TURN: Final = 100
_MAX_BACKLOG: Final = 5000
"""More than any backlog (net.core.somaxconn), so that those who go on connecting cannot keep it from closing."""
_ACCEPT_AGAIN_SECONDS: Final = 1
_MIN_LOOK_SECONDS: Final = 0.01
_MAX_LOOK_SECONDS: Final = 1.0


class LinesIntake:
    """Serves one listening socket."""

    def __init__(self, settings: IntakeSettings, *, acceptor: Acceptor, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._taking = Taking(acceptor, intake="lines", is_patient=True, telemetry=telemetry)
        self._connections = LineConnections(settings.max_connections, telemetry=telemetry)
        self._space = memoryview(b"")
        self._listener: socket.socket | None = None
        self._look: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound, listens, and does not block."""
        self._space = memoryview(bytearray(CHUNK_BYTES))
        self._listener = listener
        self._accept_on(listener)

    async def close(self) -> None:
        """Take no more connections and lines; have those stored that were sent, for a while. May be called again."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        asyncio.get_running_loop().remove_reader(listener)
        # Whoever connects from now on is told that nobody listens; who did before is accepted.
        listener.shutdown(socket.SHUT_RD)
        with suppress(OSError):
            self._accept(listener, at_most=_MAX_BACKLOG)
        listener.close()
        for timer in (self._look, self._pause):
            if timer is not None:
                timer.cancel()
        for connection in list(self._connections.open):
            connection.stop("shutting_down")
        if not await self._all_done(CLOSING_SECONDS):
            self._taking.giving_up = True
            await self._all_done(_ENDING_SECONDS)
        if not await self._until(lambda: not self._connections.open, _ENDING_SECONDS):
            for connection in [*self._connections.open, *self._connections.gone]:
                connection.abort()

    def _accept_on(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept_some, listener)

    def _accept_some(self, listener: socket.socket) -> None:
        try:
            self._accept(listener, at_most=_ACCEPTED_PER_TURN)
        except OSError as error:  # there are no more files
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "lines_socket cannot accept connections", "exception": error})
            loop.remove_reader(listener)
            self._pause = loop.call_later(_ACCEPT_AGAIN_SECONDS, self._accept_on, listener)

    def _accept(self, listener: socket.socket, *, at_most: int) -> None:
        """Accept those that wait for it."""
        for _ in range(at_most):
            try:
                client, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            LineConnection(
                client,
                self._settings,
                taking=self._taking,
                connections=self._connections,
                telemetry=self._telemetry,
                space=self._space,
            ).open()
            if self._look is None:
                self._look_soon()

    def _look_soon(self) -> None:
        seconds = min(max(self._settings.body_timeout_seconds / 10, _MIN_LOOK_SECONDS), _MAX_LOOK_SECONDS)
        self._look = asyncio.get_running_loop().call_later(seconds, self._look_for_slow_ones)

    def _look_for_slow_ones(self) -> None:
        self._look = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections.open):
            connection.look(now)
        if self._connections.open:
            self._look_soon()

    async def _all_done(self, seconds: float) -> bool:
        """Wait until all that was sent is taken; return whether that is so."""
        connections = self._connections

        def done() -> bool:
            return not connections.gone and all(connection.done for connection in connections.open)

        return await self._until(done, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = asyncio.get_running_loop().time() + seconds
        while not condition():
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(_CLOSING_POLL_SECONDS)
        return True
