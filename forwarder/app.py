"""The composition root: every part of the daemon is made, wired, opened, drained and closed here, and nowhere else.

Memory bound of the whole process, in sum:

- about 50 MiB for the program;
- 200 bytes for each of `receipts.max_events`, 260 for each of `intake.duplicate_max_keys`, and 500, and twice the names, for
  each of `contract.max_attribute_types`;
- the events in a buffer on disk: 20 MiB for the windows (buffer/disk.py, delivery/lanes.py), 8 bytes for each of
  `buffer.max_events` and 4 MiB for SQLite; in memory: `buffer.max_bytes`, about 600 bytes more for each of
  `buffer.max_events` (at most 2 KiB, with the longest names and customer ids), and `dead_letters.max_bytes`;
- the bodies over 64 KiB of all HTTP requests, from their first bytes to their answers: 4 x `intake.max_parsing_bytes`;
- what these are when inflated: `intake.max_parsing_bytes`; and what is made of a body over 64 KiB, or of very many elements:
  up to forty times `intake.max_body_bytes` (five times for events, the rest for hostile JSON), for one at a time, and for
  each that operators post;
- for each connection of the HTTP intakes, at most `intake.max_connections` on each of the two: requests that wait for
  their answers, 128 KiB and a body of 64 KiB; a head and a body that are not complete, 100 KiB; 256 KiB that came and are
  not read yet; answers that are not sent yet, 128 KiB and one more; and up to ten times the body, below 64 KiB, of one
  small batch that is being taken in. For each of the 64 of the admin listener as much, but for bodies;
- for each connection of lines_socket, of which there are as many, 1 MiB and twice `intake.max_line_bytes` while it has lines
  to take; for the datagrams 8 MiB and `intake.max_line_bytes`;
- for each attempt on the wire as much of its answer as comes, at most 2 MiB.

With default settings that is 190 MiB, and what connections and attempts have under way at the same moment.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from forwarder import __version__
from forwarder.admin import Admin
from forwarder.ages import Ages, machine_seconds
from forwarder.delivery.worker import Delivery
from forwarder.draining import drain
from forwarder.event import Clock, EventIds
from forwarder.growlytics.client import GrowlyticsClient
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


class App:
    """One daemon: `open`, `serve`, `close`. Setting `stop` makes it drain, and setting `force` ends that at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings] | None = None,
        wall: Clock = time.time,
        steady: Clock = machine_seconds,
        make_buffer: BufferMaker = make_buffer,
    ) -> None:
        """`load` reads the settings anew, when somebody asks; it may block, and raises SettingsError.

        `wall` gives seconds since 1970 and may jump, `steady` seconds since any beginning, and may not. `make_buffer`
        makes the store of events.
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
        )
        self._intakes = Intakes(
            settings,
            knowledge=knowledge,
            buffer=self.buffer,
            receipts=self._receipts,
            ids=self._ids,
            ages=self._ages,
            looking=looking(self.status, self._status.receipt),
            telemetry=self.telemetry,
        )
        self._admin = Admin(
            settings.intake,
            own=settings.admin.http,
            telemetry=self.telemetry,
            is_ready=lambda: self.state == "ready",
        )
        self._admin_address: dict[str, str] = {}
        self._opened = AsyncExitStack()
        self.telemetry.daemon_described(
            loop=type(loop).__module__.partition(".")[0],
            max_events=settings.buffer.max_events,
            max_bytes=settings.buffer.max_bytes,
            read=self._status.gauges,
        )

    async def open(self) -> bool:
        """Bind every socket and begin to accept. Return whether it did: not if `stop` was set before.

        `close` is due in any case. Raises CannotBindError, DirectoryError, DirectoryInUseError or TypesFileError.
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
        await self._intakes.open(self._live.now.intake)
        self.state = "ready"
        self.telemetry.daemon_started(version=__version__, pid=os.getpid(), **self.addresses)
        return True

    async def _prepare(self) -> None:
        """Do all that may take long, or fail, before anything can be accepted."""
        self.telemetry.settings_shown(shown(self._live.now), version=__version__)
        # What is opened first is closed last: /metrics shows the drain to its end.
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
            helping = (tasks.create_task(self._sampling.serve(), name="forecast"), *self._live.serve(tasks))
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
        return self._status.ledger()

    def status(self) -> dict[str, object]:
        """Return the content of /v1/status."""
        return self._status.content(self.state)

    def reload(self) -> None:
        """Read all settings again; a signal handler of the loop may call this."""
        self._live.reloading.reload()

    @property
    def addresses(self) -> dict[str, str]:
        """Where it listens, by the names of intakes and `admin`."""
        return self._admin_address | self._intakes.addresses

    @property
    def shutdown(self) -> ShutdownSettings:
        """How long stopping takes, as of now."""
        return self._live.now.shutdown

    def _use_access(self, settings: Settings) -> None:
        self._intakes.use(settings)
        self._admin.use(settings.intake)

    async def _shut_down(self) -> None:
        self.state = "stopping"
        await asyncio.sleep(self._live.now.shutdown.accept_seconds)
        self.state = "draining"
        await self._intakes.stop()
        seconds = self._live.now.shutdown.drain_seconds
        await drain(self.buffer, self.delivery, seconds=seconds, telemetry=self.telemetry, clock=self._clock)
