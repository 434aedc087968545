"""The real endpoints of attribute types behind a server of their own: what clients see of a daemon, as far as types go."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from forwarder.attribute import Place, TypeChanges
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import BufferUnavailableError
from forwarder.intake.attribute_type_routes import NOTE_SECONDS, AttributeTypeRoutes
from forwarder.intake.operations import Asked
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings
from forwarder.words import AttributeType
from tests.fakes.attribute_events import conforming, event

NOW = 1_700_000_000.0

Step = Callable[[web.BaseRequest], web.StreamResponse]


@dataclass
class AttributeTypeDaemon:
    """It knows the `fixed` types and what `accept` taught it."""

    types: AttributeTypes
    allowed: bool = True
    disk_fails: bool = False
    room: asyncio.Event | None = None
    """If set, the disk is full until it is."""
    note_seconds: float = NOTE_SECONDS
    noted: list[TypeChanges] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    step: Step | None = None
    """Gives the answers in the daemon's place."""
    url: str = ""

    def accept(self, attributes: object, name: str = "Buy") -> None:
        """Accept an event, whatever is wrong with its attributes."""
        body = event(attributes, name)
        judged = self.types.judge(body, conforming(body), None)
        self.types.settled([] if judged is None else [judged])

    def learned(self) -> dict[Place, str]:
        return {place: learned.type for place, learned in self.types.remembered().items()}

    async def note(self, changes: TypeChanges) -> None:
        await asyncio.sleep(0)
        if self.room is not None:
            await self.room.wait()
        if self.disk_fails:
            raise BufferUnavailableError("the disk is full")
        self.noted.append(changes)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.asked.append(f"{request.method} {request.path_qs}")
        routes = AttributeTypeRoutes(self.types, self.note, note_seconds=self.note_seconds)
        if self.step is not None:
            return self.step(request)
        operation = routes.operations.get(request.path)
        if operation is None or operation.method != request.method:
            return web.Response(status=404, body=b"{}", content_type="application/json")
        asked = Asked(0, request.query, body, lambda: None if self.allowed else "unauthorized")
        answer = await operation.ask(asked)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


@asynccontextmanager
async def attribute_type_daemon(
    unix_socket: str | None = None, *, fixed: Mapping[Place, AttributeType] | None = None, max_types: int = 10_000
) -> AsyncIterator[AttributeTypeDaemon]:
    """Serve while the block runs."""
    settings = ContractSettings(max_attribute_types=max_types)
    daemon = AttributeTypeDaemon(AttributeTypes(settings, telemetry=Telemetry(), clock=lambda: NOW))
    daemon.types.fix(fixed or {})
    runner = web.ServerRunner(web.Server(daemon.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0) if unix_socket is None else web.UnixSite(runner, unix_socket)
        await site.start()
        if unix_socket is None:
            host, port = runner.addresses[0][:2]
            daemon.url = f"http://{host}:{port}"
        yield daemon
    finally:
        await runner.cleanup()
