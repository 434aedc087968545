"""The composition root: every part of the daemon is made, wired, opened, drained and closed here, and nowhere else.

Memory bound: about 50 MiB for the process; the events, by the kind of buffer; 200 bytes for each of `receipts.max_events`;
and for each request under way 2 MiB and up to forty times its body (ten for events, the rest for hostile JSON), at most
`intake.max_body_bytes`, while it is split and checked. The events are, in a buffer on disk, 20 MiB for the windows
(buffer/disk.py, delivery/lanes.py), 8 bytes for each of `buffer.max_events` and 4 MiB for SQLite; in memory,
`buffer.max_bytes`, about 600 bytes more for each of `buffer.max_events` (at most 2 KiB, with the longest names and customer
ids), and `dead_letters.max_bytes`.
"""

import asyncio
import gc
import math
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Literal, assert_never

from forwarder import __version__
from forwarder.admin import Admin
from forwarder.buffer.base import Buffer, Ledger
from forwarder.buffer.disk import DiskBuffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.buffer.space import max_file_bytes, reserve_bytes
from forwarder.database.connection import Database
from forwarder.dead_letters import DeadLetters
from forwarder.delivery.worker import Delivery
from forwarder.event import EventIds, by_customer, each_alone
from forwarder.forecast import Forecast, Sample
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.dead_letter_routes import DeadLetterRoutes
from forwarder.intake.http import HttpIntake
from forwarder.intake.replay import Replayer
from forwarder.intake.sockets import bind_tcp, bind_unix, remove_unix
from forwarder.key_file import KeyFile
from forwarder.receipts import Receipts
from forwarder.settings import Secret, Settings
from forwarder.telemetry import Gauges, Telemetry

State = Literal["starting", "ready", "stopping", "draining", "stopped"]

_DRAIN_POLL_SECONDS: Final = 0.1
_DRAIN_LOG_SECONDS: Final = 5.0
_SAMPLE_SECONDS: Final = 2.0


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
        self._receipts = Receipts(settings.receipts, clock=time.time)
        self._ids = EventIds()
        self._database = _database_of(settings)
        self.buffer = self._make_buffer()
        self.dead_letters = DeadLetters(self._database, telemetry=self.telemetry)
        self._client = GrowlyticsClient(settings.growlytics, max_connections=settings.delivery.max_concurrency)
        self.delivery = Delivery(
            settings.delivery, buffer=self.buffer, post=self._client.post, telemetry=self.telemetry
        )
        self.key_file = self._watch_key_file()
        self._forecast = Forecast(max_events=settings.buffer.max_events, max_bytes=settings.buffer.max_bytes)
        self._intakes = self._make_intakes()
        self._admin = Admin(telemetry=self.telemetry, is_ready=lambda: self.state == "ready")
        self.addresses: dict[str, str] = {}
        self._opened = AsyncExitStack()
        self._ledger_at_start = self.buffer.ledger()
        self.telemetry.daemon_described(
            loop=type(loop).__module__.partition(".")[0],
            max_events=settings.buffer.max_events,
            max_bytes=settings.buffer.max_bytes,
            read=self._gauges,
        )

    async def open(self) -> None:
        """Bind every socket and begin to accept.

        Raises CannotBindError, DirectoryError or DirectoryInUseError; then `close` is still due.
        """
        # What is opened first is closed last: /metrics shows the drain to its end.
        await self._open_admin()
        self._opened.push_async_callback(self._database.close)
        await self._database.open()
        self._opened.push_async_callback(self.buffer.close)
        await self.buffer.open()
        self._ids.rise_above(self._database.ledger["last_id"])
        self._ledger_at_start = self.buffer.ledger()
        self._opened.push_async_callback(self._client.close)
        await self._client.open()
        await self._open_tcp_intake()
        await self._open_unix_intake()
        self.state = "ready"
        self.telemetry.daemon_started(version=__version__, pid=os.getpid(), **self.addresses)

    async def serve(self) -> None:
        """Deliver until `stop` is set, then close the intakes and drain."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self.buffer.serve(), name="buffer")
            delivering = tasks.create_task(self.delivery.serve(), name="delivery")
            helping = (
                tasks.create_task(self._sample(), name="forecast"),
                tasks.create_task(self.key_file.serve(), name="key file"),
            )
            await self.stop.wait()
            shutting_down = tasks.create_task(self._shut_down(), name="shutdown")
            forced = tasks.create_task(self.force.wait(), name="forced shutdown")
            await asyncio.wait({shutting_down, forced}, return_when=asyncio.FIRST_COMPLETED)
            for task in (shutting_down, forced, delivering, *helping):
                task.cancel()
            # Delivery's last acks are committed by a buffer that still serves.
            await asyncio.wait({delivering})
            keeping.cancel()

    async def close(self) -> tuple[int, int]:
        """Close everything and return how many events, and dead letters, are lost by it. May be called again."""
        await self._opened.aclose()
        self.state = "stopped"
        return self.buffer.ledger().dropped.get("shutdown", 0), self.buffer.dead_letters_lost

    def ledger(self) -> dict[str, object]:
        """Return what became of every event since the start, and how many are buffered, also of earlier ones."""
        now, start = self.buffer.ledger(), self._ledger_at_start
        return _described(
            Ledger(
                received=now.received - start.received,
                accepted=now.accepted - start.accepted,
                duplicates=now.duplicates - start.duplicates,
                rejected=now.rejected - start.rejected,
                delivered=now.delivered - start.delivered,
                dead_lettered={
                    why: number - start.dead_lettered.get(why, 0) for why, number in now.dead_lettered.items()
                },
                dropped={why: number - start.dropped.get(why, 0) for why, number in now.dropped.items()},
                buffered=now.buffered,
            )
        ) | {"unaccounted": now.unaccounted}

    async def receipt(self, event_id: int) -> dict[str, object] | None:
        """Return where an event is, or what became of it; None if nobody knows. Times are in seconds since 1970.

        Raises UnavailableError or DamagedError when the disk fails.
        """
        if (ended := self._receipts.find(event_id)) is not None:
            return dict(ended)
        if (until := self.delivery.parked_until(event_id)) is not None:
            return {"state": "parked", "until": time.time() + until - self._clock()}
        if await self.buffer.holds(event_id):
            return {"state": "buffered"}
        found = await self.dead_letters.find([event_id])
        return {"state": "dead_letter", "at": found[0].last_attempt_at, "reason": found[0].reason} if found else None

    def status(self) -> dict[str, object]:
        """Return the content of /v1/status."""
        gauges = self._gauges()
        oldest = gauges.oldest_accepted_at
        return {
            "version": __version__,
            "state": self.state,
            "uptime_seconds": round(time.time() - self._started_at, 1),
            "ledger": {"since_start": self.ledger(), "for_ever": _described(self.buffer.ledger())},
            "buffer": {
                "kind": self._settings.buffer.kind,
                "available": self.buffer.available,
                "events": gauges.buffer_events,
                "bytes": gauges.buffer_bytes,
                "max_events": self._settings.buffer.max_events,
                "max_bytes": self._settings.buffer.max_bytes,
                "oldest_event_age_seconds": 0 if oldest is None else round(max(0.0, time.time() - oldest), 1),
            },
            "delivery": {
                "in_flight": gauges.delivery_in_flight,
                "concurrency_limit": gauges.concurrency_limit,
                "max_concurrency": self._settings.delivery.max_concurrency,
            },
            "holds": {cause: {"seconds": round(seconds, 1)} for cause, seconds in self.delivery.holds().items()},
            "dead_letters": {
                "events": self.dead_letters.events,
                "bytes": self.dead_letters.bytes,
                "max_events": self._settings.dead_letters.max_events,
                "max_bytes": self._settings.dead_letters.max_bytes,
            },
            "forecasts": {
                "accepted_per_second": round(self._forecast.in_per_second, 1),
                "done_with_per_second": round(self._forecast.out_per_second, 1),
                "full_in_seconds": _finite(gauges.full_seconds),
                "drained_in_seconds": _finite(gauges.drain_seconds),
            },
        }

    def _watch_key_file(self) -> KeyFile:
        settings = self._settings.growlytics
        assert settings.api_key is not None, "settings demand a key"

        def use(key: Secret) -> None:
            self._client.use_key(key)
            self.delivery.use_new_key()

        return KeyFile(settings.api_key_file, current=settings.api_key, on_new_key=use, telemetry=self.telemetry)

    def _make_buffer(self) -> Buffer:
        settings = self._settings
        lane_of = by_customer if settings.delivery.order == "customer" else each_alone
        match settings.buffer.kind:
            case "disk":
                return DiskBuffer(
                    settings.buffer,
                    dead_letters=settings.dead_letters,
                    database=self._database,
                    telemetry=self.telemetry,
                    receipts=self._receipts,
                    clock=self._clock,
                    next_id=self._ids.__next__,
                    lane_of=lane_of,
                )
            case "memory":
                return MemoryBuffer(
                    settings.buffer,
                    dead_letters=settings.dead_letters,
                    database=self._database,
                    telemetry=self.telemetry,
                    receipts=self._receipts,
                    clock=self._clock,
                    lane_of=lane_of,
                )
            case _:
                assert_never(settings.buffer.kind)

    def _make_intakes(self) -> dict[str, HttpIntake]:
        acceptor = Acceptor(buffer=self.buffer, telemetry=self.telemetry, ids=self._ids, clock=time.time)
        replayer = Replayer(
            dead_letters=self.dead_letters,
            buffer=self.buffer,
            receipts=self._receipts,
            next_id=self._ids.__next__,
            clock=time.time,
            max_bytes=self._settings.intake.max_body_bytes,
        )
        return {
            name: HttpIntake(
                self._settings.intake,
                intake=name,
                acceptor=acceptor,
                telemetry=self.telemetry,
                status=self.status,
                receipt=self.receipt,
                dead_letters=DeadLetterRoutes(self.dead_letters, replayer),
                guarded=name == "unix",
            )
            for name in ("http", "unix")
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

    async def _sample(self) -> None:
        while True:
            occupancy = self.buffer.occupancy()
            accepted = self.buffer.ledger().accepted
            self._forecast.add(Sample(self._clock(), occupancy.events, occupancy.bytes, accepted))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _shut_down(self) -> None:
        self.state = "stopping"
        await asyncio.sleep(self._settings.shutdown.accept_seconds)
        self.state = "draining"
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        await self.delivery.end_waits()
        forgetful = self._settings.buffer.kind == "memory"  # so a probe may be the last chance
        deadline = self._clock() + self._settings.shutdown.drain_seconds
        next_log = self._clock() + _DRAIN_LOG_SECONDS
        while (buffered := self.buffer.occupancy().events) and self.delivery.can_move_before(
            deadline, count_probes=forgetful
        ):
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
        parked = progress.parked + occupancy.resting
        # Events whose acks have been committed are in flight until their workers have heard of it.
        in_flight = min(progress.in_flight, occupancy.events - parked)
        return Gauges(
            buffer_events={
                "ready": occupancy.events - parked - in_flight,
                "parked": parked,
                "in_flight": in_flight,
            },
            buffer_bytes=occupancy.bytes,
            oldest_accepted_at=occupancy.oldest_accepted_at,
            delivery_in_flight=progress.attempting,
            concurrency_limit=self.delivery.limit,
            holds=self.delivery.holds(),
            full_seconds=self._forecast.full_seconds,
            drain_seconds=self._forecast.drain_seconds,
            unaccounted=self.buffer.ledger().unaccounted,
            dead_letters=self.dead_letters.events,
        )


async def run(settings: Settings) -> int:
    """Run a daemon until a signal stops it, and return its exit code. Raises as App.open does."""
    app = App(settings)
    _on_signals(app)
    try:
        await app.open()
    except BaseException:
        await app.close()
        raise
    _spare_the_garbage_collector()
    try:
        await app.serve()
    finally:
        lost_events, lost_letters = await app.close()
        app.telemetry.daemon_stopped(lost_events=lost_events, lost_dead_letters=lost_letters, ledger=app.ledger())
    return 75 if lost_events or lost_letters else 0


def _spare_the_garbage_collector() -> None:
    """Look for cycles seldom: events and answers make none, and looking costs a tenth of the intake's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


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
    loop.add_signal_handler(signal.SIGHUP, app.key_file.reload)


def _database_of(settings: Settings) -> Database:
    if settings.buffer.kind == "memory":
        return Database(None)
    return Database(
        Path(settings.buffer.directory),
        fsync=settings.buffer.fsync,
        max_bytes=max_file_bytes(settings.buffer, settings.dead_letters),
        reserve_bytes=reserve_bytes(max_put_bytes=settings.intake.max_body_bytes),
    )


def _described(ledger: Ledger) -> dict[str, object]:
    return {
        "received": ledger.received,
        "accepted": ledger.accepted,
        "duplicates": ledger.duplicates,
        "rejected": ledger.rejected,
        "delivered": ledger.delivered,
        "dead_lettered": dict(ledger.dead_lettered),
        "dropped": dict(ledger.dropped),
        "buffered": ledger.buffered,
        "unaccounted": ledger.unaccounted,
    }


def _finite(seconds: float) -> float | None:
    """Return a time as JSON has it: null for never."""
    return round(seconds, 1) if math.isfinite(seconds) else None


def _name(place: tuple[str, int]) -> str:
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
