"""How lines and datagrams, which come without a request, get into the buffer: in their order, in parts that fit.

Also what the client of a connection of lines is told about those that were refused.
"""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import orjson

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.growlytics.contract import Refused
from forwarder.intake import answers
from forwarder.intake.acceptance import Acceptance, Accepted, Acceptor
from forwarder.observing.telemetry import Telemetry
from forwarder.words import Intake, RefusalReason

MAX_PART: Final = 4000
"""The most lines of one put."""
MAX_PENDING_ERROR_BYTES: Final = 64 * 1024
_MIN_POLL_SECONDS: Final = 0.01
_MAX_POLL_SECONDS: Final = 0.1
_REFUSALS_PER_TURN: Final = 50
_MESSAGES: Final[Mapping[RefusalReason, str]] = {
    "body_too_large": "the line exceeds intake.max_line_bytes, or the whole buffer",
    "too_slow": "the end of the line did not arrive within intake.body_timeout_seconds",
    "shutting_down": "the forwarder is shutting down: connect again and resend the line",
    "attribute_type_conflict": "an attribute has another type than before: see contract.attribute_types of the forwarder",
    "idempotency_key_reused": "this idempotency_key came with another event before: use a new key for each event",
}

Line = tuple[int, bytes]
"""The number of a line in its connection, from 1, and its text, which is not blank."""
ErrorsOf = Callable[[int], Sequence[answers.Error] | RefusalReason]
"""Returns what is wrong with one of several refused lines, by its index: errors, or a code that says it all."""
Tell = Callable[[Sequence[Line], ErrorsOf], None]
"""Tells a client which lines were refused, and why."""


class LineAcceptor:
    """Puts lines into the buffer. All lines of one intake share it.

    If it `is_patient`, a line waits until there is room for it; else the line is refused.
    """

    def __init__(self, acceptor: Acceptor, *, intake: Intake, is_patient: bool, telemetry: Telemetry) -> None:
        self.is_closing = False
        """Whether lines that are not in the buffer yet are refused, because the daemon stops."""
        self._acceptor = acceptor
        self._intake = intake
        self._is_patient = is_patient
        self._telemetry = telemetry
        self._size = MAX_PART
        """How many lines the next put has: fewer while there is little room."""
        self._queue = asyncio.Lock()
        """Held by the one line that polls for room; the others wait for it in their order."""

    async def accept(self, lines: Sequence[Line], tell: Tell) -> None:
        """Store lines in their order, in parts that fit; `tell` of those that are refused."""
        at = 0
        while at < len(lines):
            if self.is_closing:
                self.refuse(lines[at:], "shutting_down", tell)
                return
            part = lines[at : at + self._size]
            answer = await self._put(part)
            if self._is_patient and len(part) == 1 and isinstance(answer, (Full, Unavailable)):
                answer = await self._wait_for_room(part)
            match answer:
                case Accepted():
                    if answer.accepted + answer.duplicates < len(part):
                        self._tell(part, answer, tell)
                    self._size = min(2 * self._size, MAX_PART)
                case Unavailable() if not self._is_patient:
                    self.refuse(part, "buffer_unavailable", tell)
                case NeverFits() if len(part) == 1:
                    self.refuse(part, "body_too_large", tell)
                case Full() if len(part) == 1 and not self._is_patient:
                    self.refuse(part, "buffer_full", tell)
                    if at % _REFUSALS_PER_TURN == 0:
                        await asyncio.sleep(0)
                case _:
                    self._size = len(part) // 2 or 1
                    continue
            at += len(part)

    def refuse(self, lines: Sequence[Line], code: RefusalReason, tell: Tell) -> None:
        """Refuse lines, and count them, for a reason that the acceptor does not know."""
        self._telemetry.events_refused(len(lines), intake=self._intake, reason=code)
        tell(lines, lambda _: code)

    async def _put(self, part: Sequence[Line]) -> Acceptance:
        read = self._acceptor.read.line
        return await self._acceptor.accept((read(text) for _, text in part), intake=self._intake, patient=True)

    async def _wait_for_room(self, part: Sequence[Line]) -> Acceptance:
        """Put one line as soon as there is room, unless the daemon stops."""
        answer: Acceptance = Full()
        async with self._queue:
            seconds = _MIN_POLL_SECONDS
            while not self.is_closing and isinstance(answer := await self._put(part), (Full, Unavailable)):
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, _MAX_POLL_SECONDS)
        return answer

    def _tell(self, part: Sequence[Line], accepted: Accepted, tell: Tell) -> None:
        listed = dict(accepted.refusals)
        refused = [index for index, event_id in enumerate(accepted.ids) if event_id is None]

        def errors_of(position: int) -> Sequence[answers.Error] | RefusalReason:
            index = refused[position]
            if index in accepted.reused:
                return "idempotency_key_reused"
            found: object = listed.get(index)
            if found is None:  # there were too many to list all, but a line can be checked again
                found = self._acceptor.read.line(part[index][1])[1]
            return answers.described(found.violations) if isinstance(found, Refused) else "attribute_type_conflict"

        tell([part[index] for index in refused], errors_of)


class ErrorLines:
    """What one client is told about refused lines, as far as it reads it; the others are counted as lost.

    `sent` is called when all is sent.
    """

    def __init__(self, client: socket.socket, *, telemetry: Telemetry, sent: Callable[[], None]) -> None:
        self.unsent = bytearray()
        """Whole lines, except that the first one may have been sent in part."""
        self._client = client
        self._telemetry = telemetry
        self._sent = sent
        self._loop = asyncio.get_running_loop()
        self._is_waiting = False  # for the client to read
        self._has_stopped = False

    def tell(self, refused: Sequence[Line], errors_of: ErrorsOf) -> None:
        """Tell of refused lines, until the client has too much to read."""
        told = 0
        for number, _ in refused:
            errors = errors_of(told)
            if isinstance(errors, str):
                errors = [{"code": errors, "field": None, "message": _MESSAGES[errors]}]
            line = orjson.dumps({"line": number, "errors": errors}, option=orjson.OPT_APPEND_NEWLINE)
            if len(self.unsent) + len(line) > MAX_PENDING_ERROR_BYTES:
                self._send()
            if self._has_stopped or len(self.unsent) + len(line) > MAX_PENDING_ERROR_BYTES:
                break
            self.unsent += line
            told += 1
        self._telemetry.error_lines_lost(len(refused) - told)
        self._send()

    def stop(self) -> None:
        """Send no more."""
        self._has_stopped = True
        self._telemetry.error_lines_lost(self.unsent.count(b"\n"))
        self.unsent.clear()
        self._stop_waiting()

    def _send(self) -> None:
        """Send as much as the client has room for, and more as soon as it has read that."""
        try:
            del self.unsent[: self._client.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the client has gone, or reads no more; what it wrote is accepted all the same
            self.stop()
        if not self.unsent:
            self._stop_waiting()
            self._sent()
        elif not self._is_waiting:
            self._is_waiting = True
            self._loop.add_writer(self._client, self._send)

    def _stop_waiting(self) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._loop.remove_writer(self._client)
