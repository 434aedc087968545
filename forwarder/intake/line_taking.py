"""Lines on their way into the buffer: cut out of what was read, and put with patience. Used by `lines` alone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.growlytics.contract import Refused
from forwarder.intake import answers
from forwarder.intake.acceptance import Acceptance, Accepted, Acceptor
from forwarder.telemetry import Telemetry

INTAKE: Final = "lines"
WHITESPACE: Final = b" \t\r\n"
_MIN_POLL_SECONDS: Final = 0.01
_MAX_POLL_SECONDS: Final = 0.1
_CONFLICT: Final = "attribute_type_conflict"

Line = tuple[int, bytes]
"""Its number within its connection, from 1, and its text, which is not blank."""
Errors = Sequence[Mapping[str, object]]
Tell = Callable[[Sequence[Line], Callable[[int], Errors]], Awaitable[None]]
"""Takes refused lines, and what tells by its position what is wrong with one of them."""

_MESSAGES: Final = {
    "body_too_large": "the line exceeds intake.max_line_bytes, or the whole buffer",
    "too_slow": "the rest of the line did not arrive within intake.body_timeout_seconds",
    "shutting_down": "the forwarder is shutting down: send it again, to its successor",
    _CONFLICT: "an attribute has another type than before: see growlytics-forwarder attribute-types list",
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
                await self.refuse(lines[at:], "shutting_down", tell)
                return
            part = lines[at : at + size]
            answer = await self._put(part)
            if len(part) == 1 and isinstance(answer, (Full, Unavailable)):
                answer = await self._wait_for_room(part)
            match answer:
                case Accepted():
                    if answer.accepted + answer.duplicates < len(part):
                        await self._tell(part, answer, tell)
                    at += len(part)
                    size = 2 * len(part)
                case NeverFits() if len(part) == 1:
                    await self.refuse(part, "body_too_large", tell)
                    at += 1
                case _:
                    size = len(part) // 2 or 1

    async def refuse(self, lines: Sequence[Line], code: str, tell: Tell) -> None:
        """Refuse lines for what the acceptor does not know of."""
        self._telemetry.events_refused(len(lines), intake=INTAKE, reason=code)
        await tell(lines, lambda _: errors_for(code))

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

    async def _tell(self, part: Sequence[Line], accepted: Accepted, tell: Tell) -> None:
        listed = dict(accepted.refusals)
        refused = [index for index, event_id in enumerate(accepted.ids) if event_id is None]

        def errors_of(position: int) -> Errors:
            index = refused[position]
            found: object = listed.get(index)
            if found is None:  # there were too many to list them, but a line can be checked again
                found = self._acceptor.read.line(part[index][1])[1]
            return answers.described(found.violations) if isinstance(found, Refused) else errors_for(_CONFLICT)

        await tell([part[index] for index in refused], errors_of)


def errors_for(code: str) -> Errors:
    """Return what is wrong with a line that was refused for one of these codes."""
    return [{"code": code, "field": None, "message": _MESSAGES[code]}]
