"""The connections of lines_socket: each reads lines, has them taken, and writes a line for each that is refused.

Used by `lines` alone, which states the invariants.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Literal, cast

import orjson

from forwarder.intake.line_taking import INTAKE, WHITESPACE, Errors, Line, Received, Taking, errors_for
from forwarder.settings import IntakeSettings
from forwarder.telemetry import Telemetry

MAX_BATCH_LINES: Final = 500
MAX_PENDING_ERROR_BYTES: Final = 64 * 1024
_ERROR_PORTION_BYTES: Final = 16 * 1024

_End = Literal["end_of_input", "too_slow", "shutting_down"]
"""Why nothing more is read."""


class Connections:
    """Those that are open, at most so many, in the order of their last whole lines; and those that are gone but not done."""

    def __init__(self, max_connections: int, *, telemetry: Telemetry) -> None:
        self.open: OrderedDict[Connection, None] = OrderedDict()
        self.gone: set[Connection] = set()
        self.closing = False
        self._max_connections = max_connections
        self._telemetry = telemetry

    def admit(self, connection: "Connection") -> bool:
        """Take in a connection, perhaps at the cost of another one; return whether that is possible."""
        if self.closing or len(self.gone) >= self._max_connections:
            if not self.closing:
                self._telemetry.connection_closed("too_many")
            return False
        if len(self.open) >= self._max_connections:
            oldest, _ = self.open.popitem(last=False)
            self._telemetry.connection_closed("too_many")
            if not oldest.done:
                self.gone.add(oldest)
            oldest.drop()
        self.open[connection] = None
        return True

    def spoke(self, connection: "Connection") -> None:
        """A whole line came."""
        if connection in self.open:
            self.open.move_to_end(connection)

    def lost(self, connection: "Connection") -> None:
        """The connection is no more."""
        if connection in self.open:
            del self.open[connection]
            if not connection.done:
                self.gone.add(connection)

    def finished(self, connection: "Connection") -> None:
        """All that was read of it is taken."""
        self.gone.discard(connection)


class Connection(asyncio.BufferedProtocol):
    """`space` is what all of them read into, as none keeps anything there."""

    def __init__(
        self,
        settings: IntakeSettings,
        *,
        taking: Taking,
        connections: Connections,
        telemetry: Telemetry,
        space: memoryview,
    ) -> None:
        self.done = False
        """Whether all that was read is taken, and nothing more is read."""
        self.task: asyncio.Task[None] | None = None
        """Set while lines are being taken."""
        self._settings = settings
        self._taking = taking
        self._connections = connections
        self._telemetry = telemetry
        self._space = space
        self._loop = asyncio.get_running_loop()
        self._received = Received(settings.max_line_bytes)
        self._lines = 0  # taken so far
        self._paused = False
        self._end: _End | None = None
        self._since = 0.0  # since when there is the beginning of a line, or the connection is being closed

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.BaseProtocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        if not self._connections.admit(self):
            self.done = True
            self._transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio names it
        """See asyncio.BufferedProtocol."""
        return self._space

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read; while lines are being taken, one chunk ahead."""
        had_beginning = self._received.has_beginning
        ended_line = self._received.add(self._space[:nbytes])
        if ended_line or not had_beginning:
            self._since = self._loop.time()
        if not ended_line:
            return
        self._connections.spoke(self)
        if self.task is None:
            self._start()
        else:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """End, and keep the connection open for error lines."""
        self.stop_reading("end_of_input")
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        """See asyncio.BaseProtocol."""
        self._connections.lost(self)
        self.stop_reading("end_of_input")

    # What the intake calls

    def stop_reading(self, end: _End) -> None:
        """Read no more, take what was read, and close the connection."""
        if self._end is not None:
            return
        self._end = end
        if end == "end_of_input":
            self._received.end()
        elif not self._paused:
            self._transport.pause_reading()
        if self.task is None:
            if self._received.whole_bytes:
                self._start()
            else:
                self._finish()

    def drop(self) -> None:
        """Close the connection for the sake of others; what was read of it is still taken."""
        self.stop_reading("too_slow")
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()

    def look(self, now: float) -> None:
        """Close the connection if it is too slow."""
        if now - self._since <= self._settings.body_timeout_seconds:
            return
        if self.done:  # it does not read its last error lines
            self._transport.abort()
        elif self._end is None and not self._paused and self._received.has_beginning:
            self._telemetry.connection_closed("body_timeout")
            self.stop_reading("too_slow")

    def abort(self) -> None:
        """Close the connection whatever it did not read."""
        self._transport.abort()

    # Taking lines

    def _start(self) -> None:
        self.task = self._loop.create_task(self._work(), name="lines intake")

    async def _work(self) -> None:
        """Take lines until there are none."""
        try:
            while self._received.whole_bytes:
                text = self._received.take()
                if self._paused and self._end is None:
                    self._paused = False
                    self._since = self._loop.time()
                    self._transport.resume_reading()
                while text:
                    *some, text = text.split(b"\n", MAX_BATCH_LINES)
                    await self._take(some)
        except Exception as error:  # noqa: BLE001 - a bug, and only this connection suffers
            self._telemetry.request_failed(error)
            self._end = self._end or "end_of_input"
        self.task = None
        if self._end is not None:
            self._finish()

    async def _take(self, texts: Sequence[bytes]) -> None:
        lines = [
            (number, text)
            for number, untrimmed in enumerate(texts, self._lines + 1)
            if (text := untrimmed.strip(WHITESPACE))
        ]
        if len(max(texts, key=len)) > self._settings.max_line_bytes:
            too_long = {number for number, text in enumerate(texts, self._lines + 1) if self._is_too_long(text)}
            lines = [line for line in lines if line[0] not in too_long]
            await self._taking.refuse([(number, b"") for number in sorted(too_long)], "body_too_large", self._tell)
        self._lines += len(texts)
        if lines:
            await self._taking.take(lines, self._tell)

    def _is_too_long(self, text: bytes) -> bool:
        return len(text.removesuffix(b"\r")) > self._settings.max_line_bytes

    def _finish(self) -> None:
        """Refuse what is only the beginning of a line, and close the connection once the error lines are sent."""
        assert self._end is not None
        beginning = self._received.take_beginning()
        if beginning.strip(WHITESPACE):
            code = "body_too_large" if self._is_too_long(beginning) else self._end
            self._telemetry.events_refused(1, intake=INTAKE, reason=code)
            self._telemetry.error_lines_lost(1 - self._write([_error_line(self._lines + 1, errors_for(code))]))
        self.done = True
        self._since = self._loop.time()
        self._connections.finished(self)
        self._transport.close()

    async def _tell(self, refused: Sequence[Line], errors_of: Callable[[int], Errors]) -> None:
        """Tell the client of refused events, as far as it reads what it is told."""
        told = 0
        while told < len(refused):
            portion: list[bytes] = []
            size = 0
            for index in range(told, len(refused)):
                portion.append(_error_line(refused[index][0], errors_of(index)))
                size += len(portion[-1])
                if size > _ERROR_PORTION_BYTES:
                    break
            if size > self._room():
                await asyncio.sleep(0)  # uvloop sends in the next turn only
            written = self._write(portion)
            told += written
            if written < len(portion):
                break
        self._telemetry.error_lines_lost(len(refused) - told)

    def _room(self) -> int:
        """Return how many bytes of error lines may wait, beyond those that do."""
        return MAX_PENDING_ERROR_BYTES - self._transport.get_write_buffer_size()

    def _write(self, error_lines: Sequence[bytes]) -> int:
        """Send lines, as long as few enough wait to be read; return how many."""
        if self._transport.is_closing():
            return 0
        room = self._room()
        fitting = 0
        for line in error_lines:
            room -= len(line)
            if room < 0:
                break
            fitting += 1
        self._transport.write(b"".join(error_lines[:fitting]))
        return fitting


def _error_line(number: int, errors: Errors) -> bytes:
    return orjson.dumps({"line": number, "errors": errors}, option=orjson.OPT_APPEND_NEWLINE)
