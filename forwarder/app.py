"""The composition root: the only place where the parts of the daemon are made, wired, opened, drained and closed.

The memory of the whole process is at most the sum of:

- about 50 MiB for the program; 1 MiB for the last lines of the log (observing/logs.py); 200 bytes for each of
  `receipts.max_events`; 260 for each of `intake.duplicate_max_keys`; 500 and twice the names for each of
  `contract.max_attribute_types`;
- a buffer on disk: 20 MiB for the windows (buffer/disk.py, delivery/lanes.py), 8 bytes for each of `buffer.max_events` and
  4 MiB for SQLite; a buffer in memory: `buffer.max_bytes`, `dead_letters.max_bytes` and about 600 bytes for each of
  `buffer.max_events` (at most 2 KiB, with the longest names and customer ids);
- all HTTP bodies over 64 KiB until they are answered: 4 x `intake.max_parsing_bytes`, and once more inflated;
- parsed: one body at a time that is over 64 KiB or has very many elements, and each body from an operator: up to forty times
  `intake.max_body_bytes` (five times for events, the rest for hostile JSON);
- for each connection of the two HTTP intakes, at most `intake.max_connections` each: requests that wait for answers, 128 KiB
  and a body of 64 KiB; an incomplete head and body, 100 KiB; data that is not read yet, 256 KiB; answers that are not sent
  yet, 128 KiB and one more; one small batch, up to ten times its body below 64 KiB. For each of the 64 connections of the
  admin listener the same, without bodies;
- for each connection of lines_socket, at most as many, 1 MiB and twice `intake.max_line_bytes` while it has lines to accept;
  for the datagrams 8 MiB and `intake.max_line_bytes`; for each attempt its answer as far as it came, at most 2 MiB;
- for each of the four taps that may be open, 2 MiB, and once more while its reader is answered.

With default settings that is 190 MiB, and what connections, attempts and taps use at the same moment.
"""

import asyncio
import os
import platform
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from forwarder import __version__
from forwarder.admin import Admin
from forwarder.ages import Ages, machine_seconds
from forwarder.database.schema import SQLITE_VERSION
from forwarder.debug import Debug
from forwarder.delivery.worker import Delivery
from forwarder.event import Clock, EventIds
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.intake.debug_routes import debugging
from forwarder.intake.judging import Knowledge
from forwarder.intake.operations import looking
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.parts import BufferMaker, Intakes, make_buffer, open_admin, tell_of_events_elsewhere
from forwarder.reload import LiveSettings
from forwarder.sampling import Sampling
from forwarder.settings import Settings, ShutdownSettings, shown
from forwarder.status import Status
from forwarder.words import DaemonState

_DRAIN_POLL_SECONDS: Final = 0.1
_DRAIN_LOG_SECONDS: Final = 5.0


class App:
    """One daemon: `open`, `serve`, `close`. Set `stop` to drain it, and `force` to end the drain at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings] | None = None,
        wall: Clock = time.time,
        steady: Clock = machine_seconds,
        make_buffer: BufferMaker = make_buffer,
    ) -> None:
        """`load` reads the settings again for a reload; it may block, and raises SettingsError.

        `wall` returns seconds since 1970 and may jump; `steady` returns seconds since any start and never jumps.
        `make_buffer` makes the store of events.
        """
        loop = asyncio.get_running_loop()
        self._ages = Ages(wall=wall, steady=steady)
        self._clock = loop.time
        self.state: DaemonState = "starting"
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.telemetry = Telemetry(clock=wall, age_seconds=self._ages.age_seconds)
        self._receipts = Receipts(settings.receipts, clock=wall)
        self._ids = EventIds()
        self._knowledge = knowledge = Knowledge(settings, wall=wall, ages=self._ages, telemetry=self.telemetry)
        self.buffer = make_buffer(
            settings,
            telemetry=self.telemetry,
            receipts=self._receipts,
            clock=self._clock,
            ids=self._ids,
            remembered=knowledge.remembered,
        )
        self._client = GrowlyticsClient(settings.growlytics)
        self.delivery = Delivery(
            settings.delivery,
            buffer=self.buffer,
            post=self._client.post,
            telemetry=self.telemetry,
            clock=wall,
            age_seconds=self._ages.age_seconds,
            buffer_events=settings.buffer.max_events,
            buffer_bytes=settings.buffer.max_bytes,
        )
        self._sampling = Sampling(settings.buffer, buffer=self.buffer, telemetry=self.telemetry, clock=self._clock)
        self._live = LiveSettings(
            settings,
            load=load or (lambda: settings),
            client=self._client,
            delivery=self.delivery,
            buffer=self.buffer,
            knowledge=knowledge,
            use_access=self._use_access,
            telemetry=self.telemetry,
        )
        self._status = Status(
            reloading=self._live.reloading,
            buffer=self.buffer,
            delivery=self.delivery,
            types=knowledge.types,
            sampling=self._sampling,
            receipts=self._receipts,
            wall=wall,
            clock=self._clock,
            telemetry=self.telemetry,
            addresses=lambda: self.addresses,
            versions={"python": platform.python_version(), "sqlite": SQLITE_VERSION, "loop": _name_of(loop)},
        )
        self._intakes = Intakes(
            settings,
            knowledge=knowledge,
            buffer=self.buffer,
            receipts=self._receipts,
            ids=self._ids,
            ages=self._ages,
            looking={
                **looking(self.status, self._status.receipt),
                **debugging(Debug(lambda: self._live.now, telemetry=self.telemetry, loop=_name_of(loop)).content),
            },
            delivery=self.delivery,
            receipt=self._status.receipt,
            telemetry=self.telemetry,
        )
        self._admin = Admin(
            settings.intake,
            admin=settings.admin,
            telemetry=self.telemetry,
            is_ready=lambda: self.state == "ready",
            status=lambda: self._status.without_names(self.state),
        )
        self._admin_address: dict[str, str] = {}
        self._opened = AsyncExitStack()
        self.telemetry.daemon_described(
            loop=_name_of(loop),
            max_events=settings.buffer.max_events,
            max_bytes=settings.buffer.max_bytes,
            read=self._status.gauges,
        )

    async def open(self) -> bool:
        """Bind every socket and begin to accept. Return False if `stop` was set before that.

        Call `close` in any case. Raise CannotBindError, DirectoryError, DirectoryInUseError or TypesFileError.
        """
        preparing = asyncio.create_task(self._prepare(), name="prepare")
        stopped = asyncio.create_task(self.stop.wait(), name="stop while starting")
        try:
            await asyncio.wait({preparing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            preparing.cancel()
        await asyncio.wait({preparing})
        if preparing.cancelled():
            return False
        preparing.result()
        if self.stop.is_set():
            return False
        self._opened.push_async_callback(self._intakes.close)
        await self._intakes.open(self._live.now)
        self.state = "ready"
        self._use_door()
        self.telemetry.daemon_started(version=__version__, pid=os.getpid(), **self.addresses)
        return True

    async def _prepare(self) -> None:
        """Do all that may take long or fail, before anything is accepted."""
        self.telemetry.settings_shown(shown(self._live.now), version=__version__)
        # The admin listener is opened first and closed last: /metrics shows the whole drain.
        self._opened.push_async_callback(self._admin.close)
        self._admin_address = await open_admin(self._admin, self._live.now.admin.http)
        await tell_of_events_elsewhere(self._live.now, telemetry=self.telemetry)
        self._opened.push_async_callback(self.buffer.close)
        try:
            await self.buffer.open()
        finally:
            self._status.begin()
        self._ids.rise_above(self.buffer.last_id)
        await self._knowledge.recall(self.buffer)
        self._opened.push_async_callback(self._client.close)
        await self._client.open()
        self._live.begin()

    async def serve(self) -> None:
        """Deliver until `stop` is set, then close the intakes and drain."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self.buffer.serve(), name="buffer")
            delivering = tasks.create_task(self.delivery.serve(), name="delivery")
            helping = (
                tasks.create_task(self._sampling.serve(), name="forecast"),
                tasks.create_task(self._intakes.serve(self._use_door), name="control socket"),
                *self._live.serve(tasks),
            )
            await self.stop.wait()
            shutting_down = tasks.create_task(self._shut_down(), name="shutdown")
            forced = tasks.create_task(self.force.wait(), name="forced shutdown")
            await asyncio.wait({shutting_down, forced}, return_when=asyncio.FIRST_COMPLETED)
            for task in (shutting_down, forced, delivering, *helping):
                task.cancel()
            # The buffer must still serve to commit delivery's last acks.
            await asyncio.wait({delivering})
            keeping.cancel()

    async def close(self) -> tuple[int, int]:
        """Close everything. Return how many events and dead letters are lost by that. May be called again."""
        await self._opened.aclose()
        self.state = "stopped"
        return self.buffer.ledger().dropped.get("shutdown", 0), self.buffer.dead_letters_lost

    def ledger(self) -> dict[str, object]:
        """Return the ledger of events since the start; its `buffered` includes older events."""
        return self._status.ledger()

    def status(self) -> dict[str, object]:
        """Return the content of /v1/status."""
        return self._status.content(self.state)

    def reload(self) -> None:
        """Read all settings again. A signal handler of the loop may call this."""
        self._live.reloading.reload()

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the open intakes and of `admin`, by their names."""
        return self._admin_address | self._intakes.addresses

    @property
    def shutdown(self) -> ShutdownSettings:
        """The present settings of stopping."""
        return self._live.now.shutdown

    def _use_door(self) -> None:
        self.telemetry.recommend_as(*self._status.typed(self.state))

    def _use_access(self, settings: Settings) -> None:
        self._intakes.use(settings)
        self._admin.use(settings.intake, settings.admin)

    async def _shut_down(self) -> None:
        self.state = "stopping"
        await asyncio.sleep(self._live.now.shutdown.accept_seconds)
        self.state = "draining"
        await self._intakes.stop()
        await self.delivery.end_waits()
        # Until the buffer is empty, nothing more can be delivered in time, or the time is over.
        deadline = self._clock() + self._live.now.shutdown.drain_seconds
        next_log = self._clock() + _DRAIN_LOG_SECONDS
        while (buffered := self.buffer.occupancy().events) and self.delivery.can_move_before(deadline):
            now = self._clock()
            if now >= deadline:
                return
            if now >= next_log:
                self.telemetry.drain_progressed(buffered=buffered, seconds_left=deadline - now)
                next_log += _DRAIN_LOG_SECONDS
            await asyncio.sleep(_DRAIN_POLL_SECONDS)


def _name_of(loop: asyncio.AbstractEventLoop) -> str:
    return type(loop).__module__.partition(".")[0]
