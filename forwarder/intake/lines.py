"""Events over a Unix stream socket, one JSON element a line; all that is answered is a line for each refused event.

Made for log shippers and very high rates. Invariants: lines are taken in the order in which a connection sent them; none is
refused because the buffer is full, as then nothing more is read until there is room; of a connection at most a chunk, a
line and one put are held, and at most 64 KiB of error lines that it does not read. What was read of a connection that
is gone is still taken: there are at most `max_connections` of those, too.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from forwarder.intake.acceptance import Acceptor
from forwarder.intake.line_connections import Connection, Connections
from forwarder.intake.line_taking import Taking
from forwarder.settings import IntakeSettings
from forwarder.telemetry import Telemetry

CHUNK_BYTES: Final = 64 * 1024
CLOSING_SECONDS: Final = 2
"""How long the lines that were read may take to be put when the intake closes."""
_ENDING_SECONDS: Final = 1
"""How long what is being put then may still take, and after that the last error lines."""
_CLOSING_POLL_SECONDS: Final = 0.01
_BACKLOG: Final = 1024
_MIN_LOOK_SECONDS: Final = 0.01
_MAX_LOOK_SECONDS: Final = 1.0


class LinesIntake:
    """Serves one listening socket."""

    def __init__(self, settings: IntakeSettings, *, acceptor: Acceptor, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._taking = Taking(acceptor, telemetry=telemetry)
        self._connections = Connections(settings.max_connections, telemetry=telemetry)
        self._space = memoryview(b"")
        self._server: asyncio.Server | None = None
        self._look: asyncio.TimerHandle | None = None

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens."""
        loop = asyncio.get_running_loop()
        self._space = memoryview(bytearray(CHUNK_BYTES))
        self._server = await loop.create_unix_server(self._new_connection, sock=listener, backlog=_BACKLOG)
        self._look_soon()

    async def close(self) -> None:
        """Take no more connections and lines; have those stored that were read, for a while. May be called again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._look is not None:
            self._look.cancel()
        self._connections.closing = True
        for connection in list(self._connections.open):
            connection.stop_reading("shutting_down")
        if not await self._all_done(CLOSING_SECONDS):
            self._taking.giving_up = True
            await self._all_done(_ENDING_SECONDS)
        if not await self._until(lambda: not self._connections.open, _ENDING_SECONDS):
            for connection in list(self._connections.open):
                connection.abort()
            await asyncio.sleep(0)

    def _new_connection(self) -> Connection:
        return Connection(
            self._settings,
            taking=self._taking,
            connections=self._connections,
            telemetry=self._telemetry,
            space=self._space,
        )

    def _look_soon(self) -> None:
        seconds = min(max(self._settings.body_timeout_seconds / 10, _MIN_LOOK_SECONDS), _MAX_LOOK_SECONDS)
        self._look = asyncio.get_running_loop().call_later(seconds, self._look_for_slow_ones)

    def _look_for_slow_ones(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections.open):
            connection.look(now)
        self._look_soon()

    async def _all_done(self, seconds: float) -> bool:
        """Wait until all that was read is taken; return whether that is so."""
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
