"""A server of HTTP/1.1 on a listening socket."""

import asyncio
import socket
from typing import Final

from forwarder.http.connections import Bodies, Connections
from forwarder.http.messages import Application, Limits

_ACCEPTED_PER_TURN: Final = 32
"""How many connections are accepted before others get a turn of the event loop: each costs it some 0.1 ms."""
_BACKLOG: Final = 1024
"""How many may wait for that; a client that finds no room there tries again only after a second."""


class Server:
    """Serves one listening socket."""

    def __init__(self, application: Application, limits: Limits, *, max_connections: int, bodies: Bodies) -> None:
        loop = asyncio.get_running_loop()
        self.connections = Connections(
            application, limits, max_connections=max_connections, bodies=bodies, clock=loop.time
        )
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        """Serve a socket, which is bound and listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.connections.make, sock=listener, backlog=_ACCEPTED_PER_TURN)
        listener.listen(_BACKLOG)  # the event loop made the queue as short as that

    async def close(self, *, seconds: float) -> None:
        """Take no more connections and requests; let those under way end, for so long. May be called again."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.connections.close()
        try:
            async with asyncio.timeout(seconds):
                await self.connections.emptied.wait()
        except TimeoutError:
            self.connections.abort()
            await self.connections.emptied.wait()
