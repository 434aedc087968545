"""One connection of lines: what was read, cut into lines, and what is told of those refused. Used by `lines` alone."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from forwarder.intake.taking import ErrorsOf, Line
from forwarder.observing.telemetry import Telemetry
from forwarder.words import RefusalReason

MAX_PENDING_ERROR_BYTES: Final = 64 * 1024
_MESSAGES: Final[Mapping[RefusalReason, str]] = {
    "body_too_large": "the line exceeds intake.max_line_bytes, or the whole buffer",
    "too_slow": "the rest of the line did not arrive within intake.body_timeout_seconds",
    "shutting_down": "the forwarder is shutting down: send it again, to its successor",
    "attribute_type_conflict": "an attribute has another type than before: see growlytics-forwarder attribute-types list",
    "idempotency_key_reused": "the idempotency_key came with another event before: give each event a key of its own",
}


class Received:
    """What was read of a connection and not taken yet: whole lines, and the beginning of one.

    Of a line that is too long only so much is kept that it can be told. Pure.
    """

    __slots__ = ("_bytes", "_max_beginning_bytes", "whole_bytes")

    def __init__(self, max_line_bytes: int) -> None:
        self._bytes = bytearray()
        self._max_beginning_bytes = max_line_bytes + len("\r") + 1
        self.whole_bytes = 0
        """Of whole lines."""

    @property
    def has_beginning(self) -> bool:
        """Whether there is more than whole lines."""
        return len(self._bytes) > self.whole_bytes

    def add(self, data: memoryview) -> bool:
        """Add what was read, and return whether that ended a line."""
        searched = len(self._bytes)
        self._bytes += data
        end = self._bytes.rfind(b"\n", searched) + 1
        if end:
            self.whole_bytes = end
        if len(self._bytes) - self.whole_bytes > self._max_beginning_bytes:
            del self._bytes[self.whole_bytes + self._max_beginning_bytes :]
        return end > 0

    def end(self) -> None:
        """Make a line of the beginning of one."""
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
        """Remove and return the beginning of a line, when there is no whole one."""
        beginning, self._bytes = bytes(self._bytes), bytearray()
        return beginning


class ErrorLines:
    """What one client is told of refused lines, as far as it reads it; what it does not read is counted as lost.

    `sent` is called when nothing waits to be sent any more.
    """

    def __init__(self, client: socket.socket, *, telemetry: Telemetry, sent: Callable[[], None]) -> None:
        self.unsent = bytearray()
        """Whole lines, but for the first one, which may have been sent in part."""
        self._client = client
        self._telemetry = telemetry
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._waiting = False  # for the client to read
        self._given_up = False

    def tell(self, refused: Sequence[Line], errors_of: ErrorsOf) -> None:
        """Tell of refused lines, until too much waits to be read."""
        told = 0
        for number, _ in refused:
            errors = errors_of(told)
            if isinstance(errors, str):
                errors = [{"code": errors, "field": None, "message": _MESSAGES[errors]}]
            line = orjson.dumps({"line": number, "errors": errors}, option=orjson.OPT_APPEND_NEWLINE)
            if len(self.unsent) + len(line) > MAX_PENDING_ERROR_BYTES:
                self._send()
            if self._given_up or len(self.unsent) + len(line) > MAX_PENDING_ERROR_BYTES:
                break
            self.unsent += line
            told += 1
        self._telemetry.error_lines_lost(len(refused) - told)
        self._send()

    def give_up(self) -> None:
        """Send no more."""
        self._given_up = True
        self._telemetry.error_lines_lost(self.unsent.count(b"\n"))
        self.unsent.clear()
        self._wait_no_more()

    def _send(self) -> None:
        """Send as much as the client has room for, and the rest once it has."""
        try:
            del self.unsent[: self._client.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:  # it is gone, or reads no more; what it wrote, or writes, is nevertheless taken
            self.give_up()
        if not self.unsent:
            self._wait_no_more()
            self._sent()
        elif not self._waiting:
            self._waiting = True
            self._loop.add_writer(self._client, self._send)

    def _wait_no_more(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._client)
