"""Puts what came without a request of its own, lines and datagrams, into the buffer in its order, in parts that fit."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.growlytics.contract import Refused
from forwarder.intake import answers
from forwarder.intake.acceptance import Acceptance, Accepted, Acceptor
from forwarder.observing.telemetry import Telemetry
from forwarder.words import Intake, RefusalReason

MAX_PART: Final = 4000
"""The most that are put together."""
_MIN_POLL_SECONDS: Final = 0.01
_MAX_POLL_SECONDS: Final = 0.1
_REFUSALS_PER_TURN: Final = 50

Line = tuple[int, bytes]
"""Its number within its connection, from 1, and its text, which is not blank."""
ErrorsOf = Callable[[int], Sequence[answers.Error] | RefusalReason]
"""Gives what is wrong with one of several refused lines, by its position: errors, or a code that says it all."""
Tell = Callable[[Sequence[Line], ErrorsOf], None]
"""Takes refused lines, and what is wrong with them."""


class Taking:
    """Puts lines into the buffer; all that come in one way share it.

    With `is_patient` a line waits until there is room for it; else it is refused where there is none.
    """

    def __init__(self, acceptor: Acceptor, *, intake: Intake, is_patient: bool, telemetry: Telemetry) -> None:
        self.giving_up = False
        """Whether what is not in the buffer yet is refused, as the daemon stops."""
        self._acceptor = acceptor
        self._intake = intake
        self._is_patient = is_patient
        self._telemetry = telemetry
        self._size = MAX_PART
        """How many are put together: fewer while there is little room."""
        self._queue = asyncio.Lock()
        """Held by who waits for room: one asks for all, first come, first served."""

    async def take(self, lines: Sequence[Line], tell: Tell) -> None:
        """Have lines stored in their order, in parts that fit; `tell` of those that are refused."""
        at = 0
        while at < len(lines):
            if self.giving_up:
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
        """Refuse lines for what the acceptor does not know of."""
        self._telemetry.events_refused(len(lines), intake=self._intake, reason=code)
        tell(lines, lambda _: code)

    async def _put(self, part: Sequence[Line]) -> Acceptance:
        read = self._acceptor.read.line
        return await self._acceptor.accept((read(text) for _, text in part), intake=self._intake, patient=True)

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

        def errors_of(position: int) -> Sequence[answers.Error] | RefusalReason:
            index = refused[position]
            found: object = listed.get(index)
            if index in accepted.reused:
                return "idempotency_key_reused"
            if found is None:  # there were too many to list them, but a line can be checked again
                found = self._acceptor.read.line(part[index][1])[1]
            return answers.described(found.violations) if isinstance(found, Refused) else "attribute_type_conflict"

        tell([part[index] for index in refused], errors_of)
