"""The composition root: every part of the daemon is made, wired, opened, drained and closed here, and nowhere else.

Memory bound: about 45 MiB for the process; `buffer.max_bytes` for the events; about 600 bytes more for each of
`buffer.max_events`, and at most 2 KiB with the longest names and customer ids (the window holds no copies); and for each
request under way 2 MiB and up to forty times its body (ten for events, the rest for hostile JSON), at most
`intake.max_body_bytes`, while it is split and checked.
"""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal

from forwarder import __version__
from forwarder.admin import Admin
from forwarder.buffer.base import Buffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.delivery.worker import Delivery
from forwarder.event import event_ids
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.http import HttpIntake
from forwarder.intake.sockets import bind_tcp, bind_unix, remove_unix
from forwarder.settings import Settings
from forwarder.telemetry import Gauges, Telemetry

State = Literal["starting", "ready", "draining", "stopped"]

_DRAIN_POLL_SECONDS: Final = 0.1
_DRAIN_LOG_SECONDS: Final = 5.0


class App:
    """One daemon: `open`, `serve`, `close`. Setting `stop` makes it drain, and setting `force` ends that at once."""

    def __init__(self, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._clock = loop.time
        self._started_at = time.time()
        self.state: State = "starting"
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.telemetry = Telemetry()
        self.buffer: Buffer = MemoryBuffer(settings.buffer, telemetry=self.telemetry, clock=loop.time)
        self._client = GrowlyticsClient(settings.growlytics, max_connections=settings.delivery.max_concurrency)
        self.delivery = Delivery(
            settings.delivery, buffer=self.buffer, post=self._client.post, telemetry=self.telemetry
        )
        acceptor = Acceptor(buffer=self.buffer, telemetry=self.telemetry, ids=event_ids(), clock=time.time)
        self._intakes = {
            name: HttpIntake(
                settings.intake, intake=name, acceptor=acceptor, telemetry=self.telemetry, status=self.status
            )
            for name in ("http", "unix")
        }
        self._admin = Admin(telemetry=self.telemetry, is_ready=lambda: self.state == "ready")
        self.addresses: dict[str, str] = {}
        self._opened = AsyncExitStack()
        self.telemetry.daemon_described(
            loop=type(loop).__module__.partition(".")[0],
            max_events=settings.buffer.max_events,
            max_bytes=settings.buffer.max_bytes,
            max_concurrency=settings.delivery.max_concurrency,
            read=self._gauges,
        )

    async def open(self) -> None:
        """Bind every socket and begin to accept. Raises CannotBindError; then `close` is still due."""
        # What is opened first is closed last: /metrics shows the drain to its end.
        await self._open_admin()
        self._opened.push_async_callback(self.buffer.close)
        self._opened.push_async_callback(self._client.close)
        await self._client.open()
        await self._open_tcp_intake()
        await self._open_unix_intake()
        self.state = "ready"
        self.telemetry.daemon_started(version=__version__, pid=os.getpid(), **self.addresses)

    async def serve(self) -> None:
        """Deliver until `stop` is set, then close the intakes and drain."""
        async with asyncio.TaskGroup() as tasks:
            delivering = tasks.create_task(self.delivery.serve(), name="delivery")
            await self.stop.wait()
            shutting_down = tasks.create_task(self._shut_down(), name="shutdown")
            forced = tasks.create_task(self.force.wait(), name="forced shutdown")
            await asyncio.wait({shutting_down, forced}, return_when=asyncio.FIRST_COMPLETED)
            for task in (shutting_down, forced, delivering):
                task.cancel()

    async def close(self) -> int:
        """Close everything and return how many events are lost by it. May be called again."""
        await self._opened.aclose()
        self.state = "stopped"
        return self.buffer.ledger().dropped.get("shutdown", 0)

    def ledger(self) -> dict[str, object]:
        """Return what became of every event since the start."""
        ledger = self.buffer.ledger()
        return {
            **self.telemetry.intake_totals(),
            "accepted": ledger.accepted,
            "delivered": ledger.delivered,
            "dropped": dict(ledger.dropped),
            "buffered": ledger.buffered,
            "unaccounted": ledger.unaccounted,
        }

    def status(self) -> dict[str, object]:
        """Return the content of /v1/status."""
        gauges = self._gauges()
        oldest = gauges.oldest_accepted_at
        return {
            "version": __version__,
            "state": self.state,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "ledger": {"since_start": self.ledger()},
            "buffer": {
                "kind": self._settings.buffer.kind,
                "events": gauges.buffer_events,
                "bytes": gauges.buffer_bytes,
                "max_events": self._settings.buffer.max_events,
                "max_bytes": self._settings.buffer.max_bytes,
                "oldest_event_age_seconds": 0 if oldest is None else round(max(0.0, time.time() - oldest), 1),
            },
            "delivery": {
                "in_flight": gauges.delivery_in_flight,
                "max_concurrency": self._settings.delivery.max_concurrency,
            },
        }

    async def _open_admin(self) -> None:
        if address := self._settings.admin.http:
            listener = bind_tcp(address, setting="admin.http")
            self._opened.push_async_callback(self._admin.close)
            await self._admin.open(listener)
            self.addresses["admin"] = _name(listener.getsockname())

    async def _open_tcp_intake(self) -> None:
        if address := self._settings.intake.http:
            listener = bind_tcp(address, setting="intake.http")
            self._opened.push_async_callback(self._intakes["http"].close)
            await self._intakes["http"].open(listener)
            self.addresses["http"] = _name(listener.getsockname())

    async def _open_unix_intake(self) -> None:
        if name := self._settings.intake.unix_socket:
            path = Path(name)
            listener = bind_unix(path, mode=self._settings.intake.unix_socket_mode, setting="intake.unix_socket")
            self._opened.callback(remove_unix, path)
            self._opened.push_async_callback(self._intakes["unix"].close)
            await self._intakes["unix"].open(listener)
            self.addresses["unix"] = str(path)

    async def _shut_down(self) -> None:
        self.state = "draining"
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        await self.delivery.end_rests()
        deadline = self._clock() + self._settings.shutdown.drain_seconds
        next_log = self._clock() + _DRAIN_LOG_SECONDS
        while (buffered := self.buffer.occupancy().events) and self.delivery.can_move_before(deadline):
            now = self._clock()
            if now >= deadline:
                return
            if now >= next_log:
                self.telemetry.drain_progressed(buffered=buffered, seconds_left=deadline - now)
                next_log += _DRAIN_LOG_SECONDS
            await asyncio.sleep(_DRAIN_POLL_SECONDS)

    def _gauges(self) -> Gauges:
        occupancy = self.buffer.occupancy()
        progress = self.delivery.progress()
        return Gauges(
            buffer_events={
                "ready": max(0, occupancy.events - progress.parked - occupancy.resting - progress.in_flight),
                "parked": progress.parked + occupancy.resting,
                "in_flight": progress.in_flight,
            },
            buffer_bytes=occupancy.bytes,
            oldest_accepted_at=occupancy.oldest_accepted_at,
            delivery_in_flight=progress.attempting,
            unaccounted=self.buffer.ledger().unaccounted,
        )


async def run(settings: Settings) -> int:
    """Run a daemon until a signal stops it, and return its exit code. Raises CannotBindError."""
    app = App(settings)
    _on_signals(app)
    try:
        await app.open()
    except BaseException:
        await app.close()
        raise
    try:
        await app.serve()
    finally:
        lost = await app.close()
        app.telemetry.daemon_stopped(lost=lost, ledger=app.ledger())
    return 75 if lost else 0


def _on_signals(app: App) -> None:
    def stop(name: str) -> None:
        if app.stop.is_set():
            app.force.set()
            return
        app.telemetry.shutdown_began(signal=name, buffered=app.buffer.occupancy().events)
        app.stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


def _name(place: tuple[str, int]) -> str:
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
