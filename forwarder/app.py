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
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, assert_never

import attrs

from forwarder import __version__
from forwarder.admin import Admin
from forwarder.ages import Ages, machine_seconds
from forwarder.attribute_types import types_file
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import Buffer, Notes
from forwarder.buffer.disk import DiskBuffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.buffer.space import max_file_bytes, reserve_bytes
from forwarder.database.connection import Database
from forwarder.database.duplicate_keys import DuplicateKey
from forwarder.database.elsewhere import LeftBehind, left_behind
from forwarder.dead_letters import DeadLetters
from forwarder.delivery.worker import Delivery
from forwarder.event import Clock, EventIds, by_customer, each_alone
from forwarder.growlytics import certificates
from forwarder.growlytics.certificates import Certificates
from forwarder.growlytics.client import GrowlyticsClient
from forwarder.host.secret_file import WatchedFile
from forwarder.host.sockets import bind_tcp, bind_unix, bind_unix_datagram, remove_unix
from forwarder.host.threads import NoThreadError, in_own_thread
from forwarder.http.connections import Bodies
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.attribute_type_routes import AttributeTypeRoutes
from forwarder.intake.datagram import MAX_PENDING_BYTES, DatagramIntake
from forwarder.intake.dead_letter_routes import DeadLetterRoutes
from forwarder.intake.duplicates import DuplicateKeys
from forwarder.intake.elements import Elements
from forwarder.intake.event_routes import EventRoutes
from forwarder.intake.http import HttpIntake
from forwarder.intake.lines import LinesIntake
from forwarder.intake.operations import looking
from forwarder.intake.parsing import ParsingBudget
from forwarder.intake.replay import Replayer
from forwarder.observing import logs
from forwarder.observing.forecast import Forecast, Sample
from forwarder.observing.history import History
from forwarder.observing.receipts import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.reload import Reloading
from forwarder.settings import (
    Problem,
    Secret,
    Settings,
    SettingsError,
    ShutdownSettings,
    read_secret_file,
    shown,
)
from forwarder.status import Status
from forwarder.words import DaemonState, Intake

_HELD_PER_PARSED: Final = 4
"""The large bodies that come, or wait to be parsed, may take so many times what may be parsed at the same time."""
_DRAIN_POLL_SECONDS: Final = 0.1
_DRAIN_LOG_SECONDS: Final = 5.0
_SAMPLE_SECONDS: Final = 2.0
_ELSEWHERE_SECONDS: Final = 2.0


class App:
    """One daemon: `open`, `serve`, `close`. Setting `stop` makes it drain, and setting `force` ends that at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        load: Callable[[], Settings] | None = None,
        wall: Clock = time.time,
        steady: Clock = machine_seconds,
    ) -> None:
        """`load` reads the settings anew, when somebody asks; it may block, and raises SettingsError.

        `wall` gives seconds since 1970 and may jump, `steady` seconds since any beginning, and may not.
        """
        loop = asyncio.get_running_loop()
        self._wall, self._ages = wall, Ages(wall=wall, steady=steady)
        self._settings = settings
        self._clock = loop.time
        self.state: DaemonState = "starting"
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        self.telemetry = Telemetry(clock=wall, age_seconds=self._ages.age_seconds)
        self._receipts = Receipts(settings.receipts, clock=wall)
        self._ids = EventIds()
        self._types = AttributeTypes(settings.contract, telemetry=self.telemetry, clock=wall)
        self._elements = Elements(settings.contract, clock=wall)
        self._keys = DuplicateKeys(settings.intake, clock=self._ages.even)
        self._database = _database_of(settings)
        self.buffer = self._make_buffer()
        self.dead_letters = DeadLetters(self._database, telemetry=self.telemetry)
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
        self._forecast = Forecast(max_events=settings.buffer.max_events, max_bytes=settings.buffer.max_bytes)
        self._reloading = Reloading(
            lambda: self._settings,
            load=load or (lambda: settings),
            use=self._use,
            reread=self._reread_certificates,
            telemetry=self.telemetry,
        )
        self._history = History(clock=self._clock)
        self._status = Status(
            reloading=self._reloading,
            buffer=self.buffer,
            delivery=self.delivery,
            dead_letters=self.dead_letters,
            types=self._types,
            forecast=self._forecast,
            history=self._history,
            telemetry=self.telemetry,
        )
        self._intakes = self._make_intakes()
        self._key_file, self._token_file = self._watched_key(), self._watched_token()
        self._ca_file = self._watched_certificates()
        self._admin = Admin(
            settings.intake,
            own=settings.admin.http,
            telemetry=self.telemetry,
            is_ready=lambda: self.state == "ready",
        )
        self.addresses: dict[str, str] = {}
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
        await self._open_tcp_intake()
        await self._open_unix_intakes()
        self.state = "ready"
        self.telemetry.daemon_started(version=__version__, pid=os.getpid(), **self.addresses)
        return True

    async def _prepare(self) -> None:
        """Do all that may take long, or fail, before anything can be accepted."""
        self.telemetry.settings_shown(shown(self._settings), version=__version__)
        # What is opened first is closed last: /metrics shows the drain to its end.
        await self._open_admin()
        await self._look_elsewhere()
        self._opened.push_async_callback(self._database.close)
        await self._database.open()
        self._opened.push_async_callback(self.buffer.close)
        try:
            await self.buffer.open()
        finally:
            self._status.begin()
        self._ids.rise_above(self._database.ledger["last_id"])
        await self._recall()
        self._opened.push_async_callback(self._client.close)
        await self._client.open()
        self._ca_file.use(self._settings.growlytics.ca_file, self._client.certificates)

    async def serve(self) -> None:
        """Deliver until `stop` is set, then close the intakes and drain."""
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(self.buffer.serve(), name="buffer")
            delivering = tasks.create_task(self.delivery.serve(), name="delivery")
            helping = (
                tasks.create_task(self._sample(), name="forecast"),
                tasks.create_task(self._reloading.serve(), name="settings"),
                tasks.create_task(self._key_file.serve(), name="key's file"),
                tasks.create_task(self._token_file.serve(), name="token's file"),
                tasks.create_task(self._ca_file.serve(), name="certificates' file"),
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
        return self._status.ledger()

    async def receipt(self, event_id: int) -> dict[str, object] | None:
        """Return where an event is, or what became of it; None if nobody knows. Times are in seconds since 1970.

        Raises UnavailableError or DamagedError when the disk fails.
        """
        if (ended := self._receipts.find(event_id)) is not None:
            return dict(ended)
        if (until := self.delivery.parked_until(event_id)) is not None:
            return {"state": "parked", "until": self._wall() + until - self._clock()}
        if await self.buffer.holds(event_id):
            return {"state": "buffered"}
        found = await self.dead_letters.find([event_id])
        return {"state": "dead_letter", "at": found[0].last_attempt_at, "reason": found[0].reason} if found else None

    def status(self) -> dict[str, object]:
        """Return the content of /v1/status."""
        return self._status.content(self.state)

    def reload(self) -> None:
        """Have all settings read again; a signal handler of the loop may call this."""
        self._reloading.reload()

    @property
    def shutdown(self) -> ShutdownSettings:
        """How long stopping takes, as of now."""
        return self._settings.shutdown

    def _use(self, settings: Settings) -> None:
        """Go by these settings from now on, as far as a running daemon can."""
        before, self._settings = self._settings, settings
        growlytics, intake = settings.growlytics, settings.intake
        self._client.use(growlytics)
        if growlytics.api_key is not None and growlytics.api_key != before.growlytics.api_key:
            self._use_key(growlytics.api_key)
        self._key_file.use(growlytics.api_key_file, growlytics.api_key)
        self._use_access()
        self._token_file.use(intake.token_file, intake.token)
        self._elements.use(settings.contract)
        self._types.use(settings.contract)
        self.buffer.use(settings.buffer.when_full)
        self.delivery.use(settings.delivery)
        logs.use_level(settings.log)

    def _use_key(self, key: Secret) -> None:
        growlytics = attrs.evolve(self._settings.growlytics, api_key=key)
        self._settings = attrs.evolve(self._settings, growlytics=growlytics)
        self._client.use_key(key)
        self.delivery.use_new_key()

    def _use_token(self, token: Secret) -> None:
        intake = attrs.evolve(self._settings.intake, token=token)
        self._settings = attrs.evolve(self._settings, intake=intake)
        self._use_access()

    def _use_access(self) -> None:
        for intake in self._http:
            intake.use(self._settings.intake)
            intake.use_control(self._settings.control)
        self._admin.use(self._settings.intake)

    def _use_certificates(self, new: Certificates) -> None:
        self._client.use_certificates(new)
        self.delivery.try_soon()

    async def _reread_certificates(self) -> tuple[str, ...]:
        """Read whom to trust again: the file, if it changed, or what the system trusts, whether that changed or not."""
        if self._settings.growlytics.ca_file is not None:
            return ("growlytics.ca_file",) if await self._ca_file.poll() else ()
        try:
            self._use_certificates(await in_own_thread(certificates.of_system, name="certificates"))
        except OSError as error:
            message = f"is not set, and the system's certificates cannot be read: {error.strerror}"
            raise SettingsError([Problem("growlytics.ca_file", message)]) from None
        return ()

    def _watched_certificates(self) -> WatchedFile[Certificates]:
        return WatchedFile(
            None,
            setting="growlytics.ca_file",
            read=certificates.read,
            current=None,
            on_new=self._use_certificates,
            telemetry=self.telemetry,
        )

    def _watched_key(self) -> WatchedFile[Secret]:
        growlytics = self._settings.growlytics
        return WatchedFile(
            growlytics.api_key_file,
            setting="growlytics.api_key_file",
            read=read_secret_file,
            current=growlytics.api_key,
            on_new=self._use_key,
            telemetry=self.telemetry,
        )

    def _watched_token(self) -> WatchedFile[Secret]:
        intake = self._settings.intake
        return WatchedFile(
            intake.token_file,
            setting="intake.token_file",
            read=read_secret_file,
            current=intake.token,
            on_new=self._use_token,
            telemetry=self.telemetry,
        )

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
                    remembered=lambda: Notes(self._types.remembered(), self._keys.remembered()),
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

    def _make_intakes(self) -> dict[str, HttpIntake | LinesIntake | DatagramIntake]:
        settings = self._settings.intake
        elements = self._elements
        acceptor = Acceptor(
            elements,
            buffer=self.buffer,
            types=self._types,
            keys=self._keys,
            telemetry=self.telemetry,
            ids=self._ids,
            clock=self._ages.wall,
        )
        replayer = Replayer(
            dead_letters=self.dead_letters,
            elements=elements,
            buffer=self.buffer,
            receipts=self._receipts,
            next_id=self._ids.__next__,
            clock=self._ages.wall,
            max_bytes=settings.max_body_bytes,
        )

        operations = {
            **looking(self.status, self.receipt),
            **DeadLetterRoutes(self.dead_letters, replayer).operations,
            **AttributeTypeRoutes(self._types, self.buffer.note).operations,
        }
        bodies = Bodies(_HELD_PER_PARSED * settings.max_parsing_bytes)
        budget = ParsingBudget(settings.max_parsing_bytes)

        def http(name: Intake) -> HttpIntake:
            return HttpIntake(
                settings,
                control=self._settings.control,
                intake=name,
                events=EventRoutes(settings, intake=name, acceptor=acceptor, budget=budget, telemetry=self.telemetry),
                bodies=bodies,
                budget=budget,
                telemetry=self.telemetry,
                operations=operations,
            )

        self._http = http("http"), http("unix")
        return {
            "http": self._http[0],
            "unix": self._http[1],
            "lines": LinesIntake(settings, acceptor=acceptor, telemetry=self.telemetry),
            "datagram": DatagramIntake(settings, acceptor=acceptor, telemetry=self.telemetry),
        }

    async def _look_elsewhere(self) -> None:
        """Tell of events that wait where this daemon will not find them."""
        state_directory = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        look = partial(left_behind, self._settings.buffer, state_directory=state_directory)
        found: list[LeftBehind] = []
        with suppress(TimeoutError, NoThreadError):  # a file system that does not answer must not keep this one waiting
            async with asyncio.timeout(_ELSEWHERE_SECONDS):
                found = await in_own_thread(look, name="events elsewhere")
        for each in found:
            self.telemetry.events_left_behind(str(each.directory), events=each.events, in_use=each.in_use)

    async def _recall(self) -> None:
        """Have intake remember what earlier processes noted, and what the team fixed."""
        if self._settings.contract.types_file is not None:
            self._types.fix(await asyncio.to_thread(types_file.read, self._settings.contract.types_file))
        notes = await self.buffer.recall()
        self._types.load(notes.types)
        self._keys.load([self._as_old(key) for key in notes.keys])
        self._types.warn_if_unfixed()

    def _as_old(self, key: DuplicateKey) -> DuplicateKey:
        """Return the key of an earlier process with the even time at which it would have the age that it has."""
        remembered_at = self._ages.even() - self._ages.age_seconds(key.accepted_at)
        return key if abs(remembered_at - key.accepted_at) < 1 else replace(key, accepted_at=remembered_at)

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

    async def _open_unix_intakes(self) -> None:
        settings = self._settings.intake
        for name, path, setting, bind in (
            ("unix", settings.unix_socket, "intake.unix_socket", bind_unix),
            ("lines", settings.lines_socket, "intake.lines_socket", bind_unix),
            ("datagram", settings.datagram_socket, "intake.datagram_socket", bind_unix_datagram),
        ):
            if path:
                listener = bind(Path(path), mode=settings.unix_socket_mode, setting=setting)
                self._opened.callback(remove_unix, Path(path))
                self._opened.push_async_callback(self._intakes[name].close)
                await self._intakes[name].open(listener)
                self.addresses[name] = path

    async def _sample(self) -> None:
        while True:
            self.telemetry.holds_last()
            occupancy = self.buffer.occupancy()
            ledger = self.buffer.ledger()
            self._forecast.add(Sample(self._clock(), occupancy.events, occupancy.bytes, ledger.accepted))
            self._history.add(
                accepted=ledger.accepted,
                delivered=ledger.delivered,
                refused=ledger.rejected,
                buffered=occupancy.events,
            )
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def _shut_down(self) -> None:
        self.state = "stopping"
        await asyncio.sleep(self._settings.shutdown.accept_seconds)
        self.state = "draining"
        await asyncio.gather(*(intake.close() for intake in self._intakes.values()))
        await self.delivery.end_waits()
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


def _database_of(settings: Settings) -> Database:
    if settings.buffer.kind == "memory":
        return Database(None)
    return Database(
        Path(settings.buffer.directory),
        fsync=settings.buffer.fsync,
        max_bytes=max_file_bytes(
            settings.buffer,
            settings.dead_letters,
            max_keys=settings.intake.duplicate_max_keys,
            max_types=settings.contract.max_attribute_types,
        ),
        reserve_bytes=reserve_bytes(
            max_put_bytes=max(settings.intake.max_body_bytes, settings.intake.max_line_bytes + MAX_PENDING_BYTES)
        ),
    )


def _name(place: tuple[str, int]) -> str:
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
