"""Replaying dead letters: a way in for events that were given up, through the contract and the buffer like any other.

What is replayed is moved in one transaction, so that none is lost if it is interrupted and none is sent twice if it is
repeated. It gets a new id, as it takes its place behind the events of its customer that came meanwhile. The types of its
attributes were judged when it was first accepted, and are not judged again.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forwarder.buffer.base import Buffer, Full, NeverFits, Stored, Unavailable
from forwarder.event import Clock, Event
from forwarder.growlytics.contract import Conforming, Refused
from forwarder.intake.elements import Elements
from forwarder.observing.recent import Receipts


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the dead letters that were asked for."""

    moved: Sequence[tuple[int, int | None]]
    """The ids that are dead letters no more, and the new ones; these are None if it was tried only."""
    refused: Sequence[tuple[int, Refused]]
    """The contract does not allow these, so they stay."""
    missing: Sequence[int]
    """These are no dead letters, or not any more."""


class Replayer:
    """Moves dead letters back into the buffer, at most `max_bytes` at once, or one that is larger.

    `next_id` gives rising ids; `clock` seconds since 1970.
    """

    def __init__(
        self,
        *,
        elements: Elements,
        buffer: Buffer,
        receipts: Receipts,
        next_id: Callable[[], int],
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._max_bytes = max_bytes
        self.changing = asyncio.Lock()
        """Held by who reads dead letters in order to change them."""
        self._elements = elements
        self._buffer = buffer
        self._receipts = receipts
        self._next_id = next_id
        self._clock = clock

    async def replay(self, ids: Sequence[int], *, dry_run: bool) -> Replayed | Full | NeverFits | Unavailable:
        """Move the dead letters with these ids, all that can be or none. Raise BufferUnavailableError.

        Being cancelled does not stop it: until it is known what was moved, nobody else may try.
        """
        return await asyncio.shield(asyncio.create_task(self._replay(ids, dry_run=dry_run), name="replay"))

    async def _replay(self, ids: Sequence[int], *, dry_run: bool) -> Replayed | Full | NeverFits | Unavailable:
        async with self.changing:
            letters = await self._buffer.dead_letters.find(ids, max_bytes=self._max_bytes)
            if len(letters) > 1 and sum(letter.event.size_bytes for letter in letters) > self._max_bytes:
                return NeverFits()
            good: list[tuple[Event, Conforming]] = []
            refused: list[tuple[int, Refused]] = []
            for letter in letters:
                checked = self._elements.one(letter.event.body)[1]
                if isinstance(checked, Conforming):
                    good.append((letter.event, checked))
                else:
                    refused.append((letter.event.id, checked))
            found = {letter.event.id for letter in letters}
            missing = [letter_id for letter_id in ids if letter_id not in found]
            if dry_run or not good:
                return Replayed([(event.id, None) for event, _ in good], refused, missing)
            now = self._clock()
            new = [
                Event(self._next_id(), check.customer, check.name, event.body, now, event.kind) for event, check in good
            ]
            replayed = [event.id for event, _ in good]
            answer = await self._buffer.put(new, intake="replay", replayed=replayed)
            if not isinstance(answer, Stored):
                return answer
            moved = [(old, event.id) for old, event in zip(replayed, new, strict=True)]
            for old, event_id in moved:
                self._receipts.ended(old, "replaced", event_id)
            return Replayed(moved, refused, missing)
