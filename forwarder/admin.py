"""The admin listener: `/metrics`, `/livez`, `/readyz`, `/healthz`. Nothing here shows a payload or changes anything.

Readiness is about this process alone: Growlytics being down or a full buffer must not take the app's pod out of service.
"""

import socket
from collections.abc import Callable

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from forwarder.telemetry import Telemetry


class Admin:
    """Serves one listening socket; `is_ready` is asked at every `/readyz`."""

    def __init__(self, *, telemetry: Telemetry, is_ready: Callable[[], bool]) -> None:
        self._telemetry = telemetry
        self._is_ready = is_ready
        self._runner: web.AppRunner | None = None

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and listens."""
        app = web.Application()
        app.router.add_get("/metrics", make_aiohttp_handler(self._telemetry.registry))
        app.router.add_get("/livez", self._alive)
        app.router.add_get("/healthz", self._alive)
        app.router.add_get("/readyz", self._ready)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=75, shutdown_timeout=1)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Stop serving. May be called again."""
        if self._runner:
            await self._runner.cleanup()

    async def _alive(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's shape
        return web.Response(text="ok\n")

    async def _ready(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's shape
        return web.Response(text="ok\n") if self._is_ready() else web.Response(status=503, text="not ready\n")
