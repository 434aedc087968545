"""The sandbox's connections: reset one, wait until its client has gone, close idle ones.

Only the sandbox imports this module.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from forwarder.sandbox.store import RequestCounts

_KEEPALIVE_SECONDS: Final = 75
"""How long a silent connection stays open if no fault asks for less."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""`SO_LINGER` on, for 0 seconds: the kernel then closes the connection with a reset."""


class SandboxConnection:
    """One connection of a client."""

    __slots__ = ("gone", "has_served", "idle_since", "transport")

    def __init__(self, transport: asyncio.Transport | None) -> None:
        self.transport = transport
        """None if the connection was closed before its request was handled."""
        self.gone = asyncio.Event()
        """Set when either side has closed the connection, or when the sandbox closes."""
        self.has_served = False
        """Whether the connection carried an event request."""
        self.idle_since: float | None = None
        """When the last event request was answered, by the loop's clock; None: busy, unused, or used for control."""

    def reset(self) -> None:
        """Close the connection at once with a TCP reset. Do nothing if it is closed already."""
        if self.transport is None or self.transport.is_closing():
            return
        connected: socket.socket = self.transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()


class SandboxConnections(web.Server):
    """An aiohttp server that knows its connections. Must be made within a running loop."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], counters: RequestCounts
    ) -> None:
        super().__init__(handler, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS)
        self._open: dict[web.RequestHandler, SandboxConnection] = {}
        self._counters = counters
        self._close_idle_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Note a new connection; called by aiohttp."""
        super().connection_made(handler, transport)
        self._open[handler] = SandboxConnection(transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Note that a connection is closed; called by aiohttp."""
        self._open.pop(handler).gone.set()
        super().connection_lost(handler, exc)

    def of(self, request: web.BaseRequest) -> SandboxConnection:
        """Return the connection of `request`; if it is closed already, one that is marked as gone."""
        if (connection := self._open.get(request.protocol)) is None:
            connection = SandboxConnection(None)
            connection.gone.set()
        return connection

    def close_idle(self, after_seconds: float) -> None:
        """From now on close connections that have been idle for so many seconds; 0: never."""
        self._close_idle_seconds = after_seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if after_seconds:
            self._close_those_due()

    def stop(self) -> None:
        """Stop closing idle connections, and end every wait for a client to go."""
        self.close_idle(0)
        for connection in self._open.values():
            connection.gone.set()

    def _close_those_due(self) -> None:
        """Close the connections that are due, and call this again when the next one is."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        next_due = now + self._close_idle_seconds
        for connection in self._open.values():
            if connection.transport is None or connection.idle_since is None:
                continue
            due = connection.idle_since + self._close_idle_seconds
            if due > now:
                next_due = min(next_due, due)
            else:
                connection.idle_since = None
                connection.transport.close()
                self._counters.count("idle_connections_closed")
        self._timer = loop.call_at(next_due, self._close_those_due)
