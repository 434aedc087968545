"""Events over a Unix datagram socket, one JSON element a datagram; nothing is answered.

The cheapest way for an app to send an event. Reading never stops, as a full queue in the kernel would block the apps; what
cannot be accepted is refused and counted. At most `MAX_PENDING_EVENTS` and `MAX_PENDING_BYTES`, or one datagram, wait to be
put, and as many are being put.
"""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from forwarder.growlytics import json_text
from forwarder.intake.acceptance import Acceptor
from forwarder.intake.line_acceptor import MAX_PART, ErrorsOf, Line, LineAcceptor
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings
from forwarder.words import RefusalReason

INTAKE: Final = "datagram"
MAX_PENDING_EVENTS: Final = MAX_PART
MAX_PENDING_BYTES: Final = 1024 * 1024
CLOSING_SECONDS: Final = 2
"""How long it may take to store the datagrams that were sent before the intake closes."""
_ENDING_SECONDS: Final = 1
"""How long a put that is under way then may still take."""
_DATAGRAMS_PER_TURN: Final = 32
_GATHERING_SECONDS: Final = 0.01
"""How long a few events wait for more, as an event costs less in a larger put."""
_ENOUGH_EVENTS: Final = 250
_ENOUGH_BYTES: Final = 256 * 1024


class DatagramIntake:
    """Serves one socket."""

    def __init__(self, settings: IntakeSettings, *, acceptor: Acceptor, telemetry: Telemetry) -> None:
        self._max_bytes = settings.max_line_bytes
        self._acceptor = LineAcceptor(acceptor, intake=INTAKE, is_patient=False, telemetry=telemetry)
        self._telemetry = telemetry
        self._space = memoryview(b"")
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Set while a few events wait for more."""
        self._putting: asyncio.Task[None] | None = None

    async def open(self, listener: socket.socket) -> None:
        """Start to serve `listener`, which is bound and does not block."""
        self._socket = listener
        # One byte more than is allowed, so that a datagram that the kernel cuts off is too long.
        self._space = memoryview(bytearray(self._max_bytes + 1))
        asyncio.get_running_loop().add_reader(listener, self._read, listener)

    async def close(self) -> None:
        """Accept, for a while, what was sent before, and no more. May be called again."""
        if self._socket is None:
            return
        listener, self._socket = self._socket, None
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        deadline = loop.time() + CLOSING_SECONDS
        self._read(listener)
        # Senders fail from now on; what was sent before can still be read.
        listener.shutdown(socket.SHUT_RD)
        while self._read(listener):
            await self._until_put(deadline)
        listener.close()
        await self._until_put(deadline)
        self._acceptor.is_closing = True
        await self._until_put(deadline + _ENDING_SECONDS)

    async def _until_put(self, deadline: float) -> None:
        self._put_soon()
        while self._putting is not None and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait({self._putting}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))

    def _read(self, listener: socket.socket) -> bool:
        """Read as many datagrams as one turn of the event loop allows. Return whether there may be more."""
        more = True
        too_large = beyond = total = 0
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                size = listener.recv_into(self._space)
            except BlockingIOError:
                more = False
                break
            if size > self._max_bytes:
                too_large += 1
            elif not self._add(json_text.bare(self._space[:size].tobytes())):
                beyond += 1
            total += size
            if total >= _ENOUGH_BYTES:
                break
        self._refuse(too_large, "body_too_large")
        self._refuse(beyond, "buffer_full")
        self._put_soon()
        return more

    def _add(self, datagram: bytes) -> bool:
        """Add a datagram to those that wait to be put; ignore a blank one. Return False if too many wait."""
        if not datagram:
            return True
        size = self._pending_bytes + len(datagram)
        if self._pending and (len(self._pending) >= MAX_PENDING_EVENTS or size > MAX_PENDING_BYTES):
            return False
        self._pending.append(datagram)
        self._pending_bytes = size
        return True

    def _put_soon(self) -> None:
        """Begin to put what waits, once it is enough or has waited long enough."""
        if not self._pending or self._putting is not None:
            return
        enough = len(self._pending) >= _ENOUGH_EVENTS or self._pending_bytes >= _ENOUGH_BYTES
        if enough or self._socket is None:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_GATHERING_SECONDS, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._putting = asyncio.create_task(self._put_all(), name="datagram intake")

    async def _put_all(self) -> None:
        datagrams, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            await self._acceptor.accept(list(enumerate(datagrams, 1)), _tell_nobody)
        except Exception as error:  # noqa: BLE001 - a bug; only these events must suffer
            self._telemetry.request_failed(error)
        self._putting = None
        self._put_soon()

    def _refuse(self, number: int, reason: RefusalReason) -> None:
        if number:
            self._telemetry.events_refused(number, intake=INTAKE, reason=reason)


def _tell_nobody(refused: Sequence[Line], errors_of: ErrorsOf) -> None:
    """Only count refused datagrams: their senders wait for no answer."""
