"""Makes the buffer and the intakes that the settings choose, and opens all listeners. Called by `app.py` alone."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, assert_never

import attrs

from forwarder.admin import Admin
from forwarder.ages import Ages
from forwarder.buffer.base import Buffer, Notes
from forwarder.buffer.disk import DiskBuffer
from forwarder.buffer.memory import MemoryBuffer
from forwarder.buffer.sizes import max_file_bytes
from forwarder.buffer.upkeep import reserve_bytes
from forwarder.control_socket import ControlSocket
from forwarder.database.connection import Database
from forwarder.database.elsewhere import look_elsewhere
from forwarder.event import Clock, EventIds, by_customer, each_alone
from forwarder.host.sockets import (
    bind_tcp,
    bind_unix,
    bind_unix_datagram,
    remove_unix,
)
from forwarder.http.connections import Bodies
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.attribute_type_routes import AttributeTypeRoutes
from forwarder.intake.bodies import ParsingBudget
from forwarder.intake.datagram import MAX_PENDING_BYTES, DatagramIntake
from forwarder.intake.dead_letter_routes import DeadLetterRoutes
from forwarder.intake.erase_routes import EraseRoutes, InDelivery
from forwarder.intake.event_routes import EventRoutes
from forwarder.intake.http import HttpIntake
from forwarder.intake.judging import Knowledge
from forwarder.intake.lines import LinesIntake
from forwarder.intake.operations import Operations
from forwarder.intake.tap_routes import TapRoutes
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import Address, IntakeSettings, Settings
from forwarder.words import Intake

MAX_CONTROL_CONNECTIONS: Final = 32
_HELD_PER_PARSED: Final = 4
"""All large bodies that are coming or waiting to be parsed may take so many times `intake.max_parsing_bytes`."""


BufferMaker = Callable[..., Buffer]
"""Makes the store of events, as `make_buffer` does."""


def make_buffer(
    settings: Settings,
    *,
    telemetry: Telemetry,
    receipts: Receipts,
    clock: Clock,
    ids: EventIds,
    remembered: Callable[[], Notes],
) -> Buffer:
    """Return the buffer that the settings choose, which is not open yet. `clock` is the event loop's, in seconds.

    `remembered` returns what intake remembers; a new file in place of a damaged one must contain it.
    """
    lane_of = by_customer if settings.delivery.order == "customer" else each_alone
    match settings.buffer.kind:
        case "disk":
            return DiskBuffer(
                settings.buffer,
                dead_letters=settings.dead_letters,
                database=_database(settings),
                telemetry=telemetry,
                receipts=receipts,
                clock=clock,
                next_id=ids.__next__,
                lane_of=lane_of,
                remembered=remembered,
            )
        case "memory":
            return MemoryBuffer(
                settings.buffer,
                dead_letters=settings.dead_letters,
                database=Database(None),
                telemetry=telemetry,
                receipts=receipts,
                clock=clock,
                lane_of=lane_of,
            )
        case _:
            assert_never(settings.buffer.kind)


def _database(settings: Settings) -> Database:
    """Return the database of a buffer on disk."""
    return Database(
        Path(settings.buffer.directory),
        fsync=settings.buffer.fsync,
        max_bytes=max_file_bytes(
            settings.buffer,
            settings.dead_letters,
            max_keys=settings.intake.duplicate_max_keys,
            max_types=settings.contract.max_attribute_types,
        ),
        reserve_bytes=reserve_of(settings),
    )


def reserve_of(settings: Settings) -> int:
    """Return how many bytes of its disk a buffer keeps in reserve."""
    return reserve_bytes(
        max_put_bytes=max(settings.intake.max_body_bytes, settings.intake.max_line_bytes + MAX_PENDING_BYTES)
    )


async def tell_of_events_elsewhere(settings: Settings, *, telemetry: Telemetry) -> None:
    """Log which directories contain events that this process will not deliver. Call this before the buffer is opened."""
    for each in await look_elsewhere(settings.buffer):
        telemetry.events_left_behind(str(each.directory), events=each.events, in_use=each.in_use)


class Intakes:
    """All intakes. `open` opens those that the settings name."""

    def __init__(  # noqa: PLR0913 - the composition root names each of them
        self,
        settings: Settings,
        *,
        knowledge: Knowledge,
        buffer: Buffer,
        receipts: Receipts,
        ids: EventIds,
        ages: Ages,
        looking: Operations,
        delivery: InDelivery,
        receipt: Callable[[int], Awaitable[Mapping[str, object] | None]],
        telemetry: Telemetry,
    ) -> None:
        """`looking` are the operations that show the status and receipts; `receipt` returns what is known of an event."""
        self._telemetry = telemetry
        intake = settings.intake
        acceptor = Acceptor(
            knowledge.elements,
            buffer=buffer,
            types=knowledge.types,
            keys=knowledge.keys,
            telemetry=telemetry,
            ids=ids,
            clock=ages.wall,
        )
        dead_letters = DeadLetterRoutes(
            elements=knowledge.elements,
            buffer=buffer,
            receipts=receipts,
            next_id=ids.__next__,
            clock=ages.wall,
            max_replayed_bytes=intake.max_body_bytes,
        )
        self._erasing = EraseRoutes(
            buffer=buffer,
            delivery=delivery,
            receipts=receipts,
            receipt=receipt,
            changing=dead_letters.changing,
            telemetry=telemetry,
        )
        operations = {
            **looking,
            **dead_letters.operations,
            **self._erasing.operations,
            **AttributeTypeRoutes(knowledge.types, buffer.note).operations,
        }
        control_only = {**TapRoutes(telemetry).operations}
        """What can be asked for over the control socket alone."""
        bodies = Bodies(_HELD_PER_PARSED * intake.max_parsing_bytes)
        budget = ParsingBudget(intake.max_parsing_bytes)

        def http(name: Intake, settings_of_it: IntakeSettings, operations: Operations) -> HttpIntake:
            return HttpIntake(
                settings_of_it,
                control=settings.control,
                intake=name,
                events=EventRoutes(intake, intake=name, acceptor=acceptor, budget=budget, telemetry=telemetry),
                bodies=bodies,
                budget=budget,
                telemetry=telemetry,
                operations=operations,
            )

        few = attrs.evolve(intake, max_connections=min(intake.max_connections, MAX_CONTROL_CONNECTIONS))
        over_control = http("unix", few, {**operations, **control_only})
        self._control = ControlSocket(over_control, telemetry=telemetry)
        self._http = http("http", intake, operations), http("unix", intake, operations), over_control
        self._all: dict[str, HttpIntake | LinesIntake | DatagramIntake] = {
            "http": self._http[0],
            "unix": self._http[1],
            "lines": LinesIntake(intake, acceptor=acceptor, telemetry=telemetry),
            "datagram": DatagramIntake(intake, acceptor=acceptor, telemetry=telemetry),
        }
        self._opened: list[HttpIntake | LinesIntake | DatagramIntake] = []
        self._paths: list[Path] = []
        self._addresses: dict[str, str] = {}

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the open intakes, by their names."""
        control = self._control.address
        return {**self._addresses} if control is None else {**self._addresses, "control": control}

    async def open(self, all_settings: Settings) -> None:
        """Open the intakes that the settings name. Call `close` in any case. Raise CannotBindError."""
        settings = all_settings.intake
        if settings.http:
            await self._open("http", listener := bind_tcp(settings.http, setting="intake.http"))
            self._addresses["http"] = _address_text(listener.getsockname())
        for name, path, setting, bind in (
            ("unix", settings.unix_socket, "intake.unix_socket", bind_unix),
            ("lines", settings.lines_socket, "intake.lines_socket", bind_unix),
            ("datagram", settings.datagram_socket, "intake.datagram_socket", bind_unix_datagram),
        ):
            if path:
                listener = bind(Path(path), mode=settings.unix_socket_mode, setting=setting)
                self._paths.append(Path(path))
                await self._open(name, listener)
                self._addresses[name] = path
        await self._control.open(all_settings, taken=self._paths)

    async def serve(self, has_changed: Callable[[], object]) -> None:
        """Keep the control socket in its place, until cancelled; `has_changed` is called when `addresses` have."""
        await self._control.serve(has_changed)

    async def stop(self) -> None:
        """Accept no more events, and return when all that came is answered. The sockets' files stay.

        Operators may still look, over the control socket.
        """
        self._control.refuse_posts()
        await asyncio.gather(*(intake.close() for intake in self._opened))

    async def close(self) -> None:
        """Stop, and remove the sockets' files. May be called again."""
        await self.stop()
        self._telemetry.taps.close()
        await self._erasing.close()
        await self._control.close()
        while self._paths:
            remove_unix(self._paths.pop())

    def use(self, settings: Settings) -> None:
        """Use the access rules of these settings from now on."""
        for intake in self._http:
            intake.use(settings.intake)
            intake.use_control(settings.control)
        self._control.use(settings)

    async def _open(self, name: str, listener: socket.socket) -> None:
        self._opened.append(self._all[name])
        await self._all[name].open(listener)


async def open_admin(admin: Admin, address: Address | None) -> dict[str, str]:
    """Open the admin listener if it has an address. Return the address by the name `admin`. Raise CannotBindError."""
    if address is None:
        return {}
    listener = bind_tcp(address, setting="admin.http")
    await admin.open(listener)
    return {"admin": _address_text(listener.getsockname())}


def _address_text(place: tuple[str, int]) -> str:
    """Return an IP address and a port as text."""
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
