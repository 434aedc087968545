"""The connections of lines_socket: each reads lines, has them taken, and writes a line for each that is refused.

Used by `lines` alone, which states the invariants. They use their sockets themselves: a transport that cannot write, as the
client is gone or reads nothing, would also forget what the client wrote before.
"""

import asyncio
import select
import socket
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Literal

from forwarder.growlytics import json_text
from forwarder.intake.line_streams import ErrorLines, Received
from forwarder.intake.taking import Taking
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import IntakeSettings
from forwarder.words import RefusalReason

MAX_BATCH_LINES: Final = 500
MAX_GONE: Final = 100
"""Each keeps a file open; host.open_files has so many to spare."""

_End = Literal["too_slow", "shutting_down"]
"""Why nothing more is read, before the client has ended."""


class LineConnections:
    """Those that are open, at most so many, in the order of their last whole lines; and those that are gone but not done."""

    def __init__(self, max_connections: int, *, telemetry: Telemetry) -> None:
        self.open: OrderedDict[LineConnection, None] = OrderedDict()
        self.gone: set[LineConnection] = set()
        self._max_connections = max_connections
        self._max_gone = min(max_connections, MAX_GONE)
        self._telemetry = telemetry

    def admit(self, connection: "LineConnection") -> bool:
        """Take in a connection, perhaps at the cost of another one; return whether that is possible."""
        if len(self.gone) >= self._max_gone:
            self._telemetry.connection_closed("too_many")
            return False
        if len(self.open) >= self._max_connections:
            oldest, _ = self.open.popitem(last=False)
            self._telemetry.connection_closed("too_many")
            self.gone.add(oldest)
            oldest.drop()
        self.open[connection] = None
        return True

    def spoke(self, connection: "LineConnection") -> None:
        """A whole line came."""
        if connection in self.open:
            self.open.move_to_end(connection)

    def closed(self, connection: "LineConnection") -> None:
        """The connection is no more."""
        if connection in self.open:
            del self.open[connection]
            self.gone.add(connection)
        if connection.done:
            self.gone.discard(connection)


class LineConnection:
    """`space` is what all of them read into, as none keeps anything there."""

    def __init__(
        self,
        client: socket.socket,
        settings: IntakeSettings,
        *,
        taking: Taking,
        connections: LineConnections,
        telemetry: Telemetry,
        space: memoryview,
    ) -> None:
        self.done = False
        """Whether all that was sent is taken, and nothing more is read."""
        self.task: asyncio.Task[None] | None = None
        """Set while lines are being taken."""
        self._client = client
        self._settings = settings
        self._taking = taking
        self._connections = connections
        self._telemetry = telemetry
        self._space = space
        self._loop = asyncio.get_running_loop()
        self._received = Received(settings.max_line_bytes)
        self._lines = 0  # taken so far
        self._reading = False  # when there is something to read
        self._end: _End | None = None
        self._ended = False  # so nothing more is read
        self._errors = ErrorLines(client, telemetry=telemetry, sent=self._close_if_done)
        self._since = 0.0  # since when there is the beginning of a line, or the connection is being closed

    # What the intake calls

    def open(self) -> None:
        """Begin to read, if there may be one more connection."""
        self._client.setblocking(False)
        if self._connections.admit(self):
            self._read_on()
        else:
            self.done = True
            self._client.close()

    def stop(self, end: _End) -> None:
        """Have the client write no more; take what it wrote so far, then close the connection."""
        if self._ended or self._end is not None or self._client_has_ended():
            return
        self._end = end
        self._shut(socket.SHUT_RD)  # what is in the kernel can still be read, and then ends

    def drop(self) -> None:
        """Close the connection for the sake of others; what the client wrote is still taken."""
        self.stop("too_slow")
        while self._reading and self._read():
            pass
        self._errors.give_up()
        if self.done:
            self._close()
        else:
            self._shut(socket.SHUT_RDWR)

    def look(self, now: float) -> None:
        """Close the connection if it is too slow."""
        if now - self._since <= self._settings.body_timeout_seconds:
            return
        if self.done:  # it does not read its last error lines
            self.abort()
        elif self._reading and self._end is None and self._received.has_beginning:
            self._telemetry.connection_closed("body_timeout")
            self.stop("too_slow")

    def abort(self) -> None:
        """Close the connection whatever is not read, by the client or here."""
        self._errors.give_up()
        if not self._ended:
            self._nothing_more()
        self._close()

    # Reading

    def _read_on(self) -> None:
        self._reading = True
        self._loop.add_reader(self._client, self._read)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._client)

    def _read(self) -> bool:
        """Read a chunk; return whether there was one, or the end."""
        try:
            size = self._client.recv_into(self._space)
        except BlockingIOError:
            return False
        except OSError:  # the client is gone, and with it what it was told; all that it wrote has been read
            size = 0
        if size:
            self._add(self._space[:size])
        else:
            self._nothing_more()
        return True

    def _add(self, chunk: memoryview) -> None:
        """Take what was read; while lines are being taken, one chunk ahead."""
        had_beginning = self._received.has_beginning
        ended_line = self._received.add(chunk)
        if ended_line or not had_beginning:
            self._since = self._loop.time()
        if not ended_line:
            return
        self._connections.spoke(self)
        if self.task is None:
            self._start()
        else:
            self._pause()

    def _nothing_more(self) -> None:
        """All that comes was read."""
        self._pause()
        self._ended = True
        if self._end is None:
            self._received.end()
        if self.task is None:
            if self._received.whole_bytes:
                self._start()
            else:
                self._finish()

    def _client_has_ended(self) -> bool:
        """Return whether the client will write no more, so that the last line is whole without a newline."""
        poll = select.poll()
        poll.register(self._client, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # it is no longer connected
            self._client.shutdown(how)

    # Taking lines

    def _start(self) -> None:
        self.task = self._loop.create_task(self._work(), name="lines intake")

    async def _work(self) -> None:
        """Take lines until there are none."""
        try:
            while self._received.whole_bytes:
                text = self._received.take()
                if not self._reading and not self._ended:
                    self._since = self._loop.time()
                    self._read_on()
                while text:
                    *some, text = text.split(b"\n", MAX_BATCH_LINES)
                    await self._take(some)
        except Exception as error:  # noqa: BLE001 - a bug, and only this connection suffers
            self._telemetry.request_failed(error)
            self._pause()
            self._ended = True
        self.task = None
        if self._ended:
            self._finish()

    async def _take(self, texts: Sequence[bytes]) -> None:
        lines = [
            (number, text)
            for number, untrimmed in enumerate(texts, self._lines + 1)
            if (text := json_text.bare(untrimmed))
        ]
        if len(max(texts, key=len)) > self._settings.max_line_bytes:
            too_long = {number for number, text in enumerate(texts, self._lines + 1) if self._is_too_long(text)}
            lines = [line for line in lines if line[0] not in too_long]
            self._taking.refuse([(number, b"") for number in sorted(too_long)], "body_too_large", self._errors.tell)
        self._lines += len(texts)
        if lines:
            await self._taking.take(lines, self._errors.tell)

    def _is_too_long(self, text: bytes) -> bool:
        return len(text.removesuffix(b"\r")) > self._settings.max_line_bytes

    def _finish(self) -> None:
        """Refuse what is only the beginning of a line, and close the connection once the error lines are sent."""
        beginning = self._received.take_beginning()
        if json_text.bare(beginning):
            assert self._end is not None, "where the client has ended, the beginning of a line is a whole one"
            code: RefusalReason = "body_too_large" if self._is_too_long(beginning) else self._end
            self._taking.refuse([(self._lines + 1, beginning)], code, self._errors.tell)
        self.done = True
        self._since = self._loop.time()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.done and not self._errors.unsent:
            self._close()

    def _close(self) -> None:
        self._pause()
        self._client.close()
        self._connections.closed(self)
