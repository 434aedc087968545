"""Lines on their way: cut out of what was read, put with patience, and told of when refused. Used by `lines` alone."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.growlytics.contract import Refused
from forwarder.intake import answers
from forwarder.intake.acceptance import Acceptance, Accepted, Acceptor
from forwarder.telemetry import Telemetry
from forwarder.words import RefusalReason

INTAKE: Final = "lines"
MAX_PENDING_ERROR_BYTES: Final = 64 * 1024
_ERROR_PORTION_BYTES: Final = 16 * 1024
_MIN_POLL_SECONDS: Final = 0.01
_MAX_POLL_SECONDS: Final = 0.1
_CONFLICT: Final = "attribute_type_conflict"
_KEY_REUSED: Final = "idempotency_key_reused"

Line = tuple[int, bytes]
"""Its number within its connection, from 1, and its text, which is not blank."""
Errors = Sequence[answers.Error]
Tell = Callable[[Sequence[Line], Callable[[int], Errors]], None]
"""Takes refused lines, and what tells by its position what is wrong with one of them."""

_MESSAGES: Final[Mapping[RefusalReason, str]] = {
    "body_too_large": "the line exceeds intake.max_line_bytes, or the whole buffer",
    "too_slow": "the rest of the line did not arrive within intake.body_timeout_seconds",
    "shutting_down": "the forwarder is shutting down: send it again, to its successor",
    _CONFLICT: "an attribute has another type than before: see growlytics-forwarder attribute-types list",
    _KEY_REUSED: "the idempotency_key came with another event before: give each event a key of its own",
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

    def tell(self, refused: Sequence[Line], errors_of: Callable[[int], Errors]) -> None:
        """Tell of refused lines, until too much waits to be read."""
        told = 0
        while told < len(refused) and not self._given_up:
            portion: list[bytes] = []
            size = 0
            for index in range(told, len(refused)):
                content = {"line": refused[index][0], "errors": errors_of(index)}
                portion.append(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
                size += len(portion[-1])
                if size > _ERROR_PORTION_BYTES:
                    break
            written = self._write(portion)
            told += written
            if written < len(portion):
                break
        self._telemetry.error_lines_lost(len(refused) - told)

    def give_up(self) -> None:
        """Send no more."""
        self._given_up = True
        self._telemetry.error_lines_lost(self.unsent.count(b"\n"))
        self.unsent.clear()
        self._wait_no_more()

    def _write(self, error_lines: Sequence[bytes]) -> int:
        """Send lines, as long as few enough wait to be read; return how many."""
        room = MAX_PENDING_ERROR_BYTES - len(self.unsent)
        fitting = 0
        for line in error_lines:
            room -= len(line)
            if room < 0:
                break
            fitting += 1
        self.unsent += b"".join(error_lines[:fitting])
        self._send()
        return fitting

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


class Taking:
    """Puts lines into the buffer, with patience; all connections share one."""

    def __init__(self, acceptor: Acceptor, *, telemetry: Telemetry) -> None:
        self.giving_up = False
        """Whether what is not in the buffer yet is refused, as the daemon stops."""
        self._acceptor = acceptor
        self._telemetry = telemetry
        self._queue = asyncio.Lock()
        """Held by who waits for room: one asks for all, first come, first served."""

    async def take(self, lines: Sequence[Line], tell: Tell) -> None:
        """Have lines stored in their order, in parts that fit; `tell` of those that are refused."""
        at, size = 0, len(lines)
        while at < len(lines):
            if self.giving_up:
                self.refuse(lines[at:], "shutting_down", tell)
                return
            part = lines[at : at + size]
            answer = await self._put(part)
            if len(part) == 1 and isinstance(answer, (Full, Unavailable)):
                answer = await self._wait_for_room(part)
            match answer:
                case Accepted():
                    if answer.accepted + answer.duplicates < len(part):
                        self._tell(part, answer, tell)
                    at += len(part)
                    size = 2 * len(part)
                case NeverFits() if len(part) == 1:
                    self.refuse(part, "body_too_large", tell)
                    at += 1
                case _:
                    size = len(part) // 2 or 1

    def refuse(self, lines: Sequence[Line], code: RefusalReason, tell: Tell) -> None:
        """Refuse lines for what the acceptor does not know of."""
        self._telemetry.events_refused(len(lines), intake=INTAKE, reason=code)
        tell(lines, lambda _: errors_for(code))

    async def _put(self, part: Sequence[Line]) -> Acceptance:
        read = self._acceptor.read.line
        return await self._acceptor.accept((read(text) for _, text in part), intake=INTAKE, patient=True)

    async def _wait_for_room(self, part: Sequence[Line]) -> Acceptance:
        """Put one line as soon as there is room, unless that is given up."""
        answer: Acceptance = Full()
        async with self._queue:
            seconds = _MIN_POLL_SECONDS
            while not self.giving_up and isinstance(answer := await self._put(part), (Full, Unavailable)):
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, _MAX_POLL_SECONDS)
        return answer

    def _tell(self, part: Sequence[Line], accepted: Accepted, tell: Tell) -> None:
        listed = dict(accepted.refusals)
        refused = [index for index, event_id in enumerate(accepted.ids) if event_id is None]

        def errors_of(position: int) -> Errors:
            index = refused[position]
            found: object = listed.get(index)
            if index in accepted.reused:
                return errors_for(_KEY_REUSED)
            if found is None:  # there were too many to list them, but a line can be checked again
                found = self._acceptor.read.line(part[index][1])[1]
            return answers.described(found.violations) if isinstance(found, Refused) else errors_for(_CONFLICT)

        tell([part[index] for index in refused], errors_of)


def errors_for(code: RefusalReason) -> Errors:
    """Return what is wrong with a line that was refused for one of these codes."""
    return [{"code": code, "field": None, "message": _MESSAGES[code]}]
