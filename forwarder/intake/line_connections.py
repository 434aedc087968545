"""One connection of lines_socket: it reads lines, has them accepted, and writes a line for each that is refused.

Used by `lines` alone, which states the invariants. A connection uses its socket itself: if the client has gone, or reads
nothing, a transport that cannot write would also forget what the client wrote before.
"""

import asyncio
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal

from forwarder.growlytics import json_text
from forwarder.intake.line_acceptor import ErrorLines
from forwarder.words import RefusalReason

if TYPE_CHECKING:
    from forwarder.intake.lines import LinesIntake

MAX_BATCH_LINES: Final = 500


class Received:
    """What was read from a connection and not accepted yet: whole lines, and the beginning of one. Pure.

    Of a line that is too long, only enough is kept to tell that it is.
    """

    __slots__ = ("_bytes", "_max_beginning_bytes", "whole_bytes")

    def __init__(self, max_line_bytes: int) -> None:
        self._bytes = bytearray()
        self._max_beginning_bytes = max_line_bytes + len("\r") + 1
        self.whole_bytes = 0
        """The size of the whole lines."""

    @property
    def has_beginning(self) -> bool:
        """Whether there is the beginning of a line."""
        return len(self._bytes) > self.whole_bytes

    def add(self, data: memoryview) -> bool:
        """Add what was read. Return whether it ended a line."""
        searched = len(self._bytes)
        self._bytes += data
        end = self._bytes.rfind(b"\n", searched) + 1
        if end:
            self.whole_bytes = end
        if len(self._bytes) - self.whole_bytes > self._max_beginning_bytes:
            del self._bytes[self.whole_bytes + self._max_beginning_bytes :]
        return end > 0

    def end(self) -> None:
        """Treat the beginning of a line as a whole line."""
        if self.has_beginning:
            self._bytes += b"\n"
            self.whole_bytes = len(self._bytes)

    def take(self) -> bytes:
        """Remove and return all whole lines."""
        whole = bytes(memoryview(self._bytes)[: self.whole_bytes])
        del self._bytes[: self.whole_bytes]
        self.whole_bytes = 0
        return whole

    def take_beginning(self) -> bytes:
        """Remove and return the beginning of a line; there must be no whole line."""
        beginning, self._bytes = bytes(self._bytes), bytearray()
        return beginning


class LineConnection:
    """One connection, which `keeper` keeps and closes."""

    def __init__(self, client: socket.socket, keeper: "LinesIntake") -> None:
        self.done = False
        """Whether all that was sent is accepted or refused, and nothing more is read."""
        self.task: asyncio.Task[None] | None = None
        """Set while lines are being accepted."""
        self._client = client
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._received = Received(keeper.settings.max_line_bytes)
        self._lines = 0  # accepted or refused so far
        self._is_reading = False  # whenever the client has sent something
        self._end: Literal["too_slow", "shutting_down"] | None = None  # why reading ends before the client does
        self._has_ended = False  # nothing more is read
        self._errors = ErrorLines(client, telemetry=keeper.telemetry, sent=self._close_if_done)
        self._since = 0.0  # when the beginning of a line came, or the connection began to close

    # From the keeper

    def open(self) -> None:
        """Begin to read, if there may be one more connection."""
        self._client.setblocking(False)
        if self._keeper.admit(self):
            self._read_on()
        else:
            self.done = True
            self._client.close()

    def stop(self, end: Literal["too_slow", "shutting_down"]) -> None:
        """Stop the client from writing more; accept what it wrote so far, then close the connection."""
        if self._has_ended or self._end is not None or self._client_has_ended():
            return
        self._end = end
        self._shut(socket.SHUT_RD)  # what the kernel holds can still be read, then the end

    def drop(self) -> None:
        """Close the connection to make room for others; what the client wrote is still accepted."""
        self.stop("too_slow")
        while self._is_reading and self._read():
            pass
        self._errors.stop()
        if self.done:
            self._close()
        else:
            self._shut(socket.SHUT_RDWR)

    def check_time(self, now: float) -> None:
        """Close the connection if its client is too slow."""
        if now - self._since <= self._keeper.settings.body_timeout_seconds:
            return
        if self.done:  # the client does not read its last error lines
            self.abort()
        elif self._is_reading and self._end is None and self._received.has_beginning:
            self._keeper.telemetry.connection_closed("body_timeout")
            self.stop("too_slow")

    def abort(self) -> None:
        """Close the connection, whatever was not read or not sent yet."""
        self._errors.stop()
        if not self._has_ended:
            self._end_reading()
        self._close()

    # Reading

    def _read_on(self) -> None:
        self._is_reading = True
        self._loop.add_reader(self._client, self._read)

    def _pause(self) -> None:
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._client)

    def _read(self) -> bool:
        """Read a chunk. Return False if nothing is there."""
        try:
            size = self._client.recv_into(self._keeper.space)
        except BlockingIOError:
            return False
        except OSError:  # the client has gone; all that it wrote has been read
            size = 0
        if size:
            self._add(self._keeper.space[:size])
        else:
            self._end_reading()
        return True

    def _add(self, chunk: memoryview) -> None:
        """Add a chunk. While lines are being accepted, one chunk is read ahead."""
        had_beginning = self._received.has_beginning
        ended_line = self._received.add(chunk)
        if ended_line or not had_beginning:
            self._since = self._loop.time()
        if not ended_line:
            return
        self._keeper.received_line(self)
        if self.task is None:
            self._start()
        else:
            self._pause()

    def _end_reading(self) -> None:
        self._pause()
        self._has_ended = True
        if self._end is None:
            self._received.end()
        if self.task is None:
            if self._received.whole_bytes:
                self._start()
            else:
                self._finish()

    def _client_has_ended(self) -> bool:
        """Return whether the client will write no more, so that its last line is whole even without a newline."""
        poll = select.poll()
        poll.register(self._client, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # it is no longer connected
            self._client.shutdown(how)

    # Accepting lines

    def _start(self) -> None:
        self.task = self._loop.create_task(self._work(), name="lines intake")

    async def _work(self) -> None:
        """Accept lines until there are none."""
        try:
            while self._received.whole_bytes:
                text = self._received.take()
                if not self._is_reading and not self._has_ended:
                    self._since = self._loop.time()
                    self._read_on()
                while text:
                    *some, text = text.split(b"\n", MAX_BATCH_LINES)
                    await self._accept(some)
        except Exception as error:  # noqa: BLE001 - a bug; only this connection must suffer
            self._keeper.telemetry.request_failed(error)
            self._pause()
            self._has_ended = True
            self._received = Received(self._keeper.settings.max_line_bytes)  # nothing more is accepted
        self.task = None
        if self._has_ended:
            self._finish()

    async def _accept(self, texts: Sequence[bytes]) -> None:
        lines = [
            (number, text)
            for number, untrimmed in enumerate(texts, self._lines + 1)
            if (text := json_text.bare(untrimmed))
        ]
        if len(max(texts, key=len)) > self._keeper.settings.max_line_bytes:
            too_long = {number for number, text in enumerate(texts, self._lines + 1) if self._is_too_long(text)}
            lines = [line for line in lines if line[0] not in too_long]
            refused = [(number, b"") for number in sorted(too_long)]
            self._keeper.acceptor.refuse(refused, "body_too_large", self._errors.tell)
        self._lines += len(texts)
        if lines:
            await self._keeper.acceptor.accept(lines, self._errors.tell)

    def _is_too_long(self, text: bytes) -> bool:
        return len(text.removesuffix(b"\r")) > self._keeper.settings.max_line_bytes

    def _finish(self) -> None:
        """Refuse a line of which only the beginning came; close the connection when the error lines are sent."""
        beginning = self._received.take_beginning()
        if json_text.bare(beginning):
            assert self._end is not None, "where the client has ended, the beginning of a line is a whole one"
            code: RefusalReason = "body_too_large" if self._is_too_long(beginning) else self._end
            self._keeper.acceptor.refuse([(self._lines + 1, beginning)], code, self._errors.tell)
        self.done = True
        self._since = self._loop.time()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.done and not self._errors.unsent:
            self._close()

    def _close(self) -> None:
        self._pause()
        self._client.close()
        self._keeper.closed(self)
