"""The buffer in memory: what it holds is lost when the process ends.

An event is either in `_ordering`, waiting to be taken, or in `_taken`, until it is acked or released.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import assert_never

from forwarder.buffer.base import Full, Ledger, NeverFits, Occupancy, PutAnswer, Stored
from forwarder.buffer.fates import Delivered, Dropped, DropReason, Fate
from forwarder.buffer.ordering import Ordering
from forwarder.event import Clock, Event
from forwarder.settings import BufferSettings
from forwarder.telemetry import Telemetry


class MemoryBuffer:
    """A Buffer in memory. `clock` is the event loop's, in seconds."""

    def __init__(self, settings: BufferSettings, *, telemetry: Telemetry, clock: Clock) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._ordering = Ordering()
        self._taken: dict[int, Event] = {}
        self._changed = asyncio.Event()
        self._events = 0
        self._bytes = 0
        self._accepted = 0
        self._delivered = 0
        self._dropped: Counter[DropReason] = Counter()

    async def put(self, events: Sequence[Event], *, intake: str) -> PutAnswer:
        """See Buffer. Full until something is acked."""
        size = sum(event.size_bytes for event in events)
        if len(events) > self._settings.max_events or size > self._settings.max_bytes:
            return NeverFits()
        if self._events + len(events) > self._settings.max_events or self._bytes + size > self._settings.max_bytes:
            return Full()
        self._ordering.add(events)
        self._events += len(events)
        self._bytes += size
        self._accepted += len(events)
        self._telemetry.events_accepted(len(events), intake=intake)
        self._changed.set()
        return Stored()

    async def take(self, *, max_events: int, max_bytes: int, skip_lanes: AbstractSet[str] = frozenset()) -> list[Event]:
        """See Buffer."""
        while True:
            self._changed.clear()
            events = self._ordering.hand_out(
                now=self._clock(), max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes
            )
            if events:
                self._taken.update((event.id, event) for event in events)
                return events
            await self._wait_for_change()

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        """See Buffer."""
        for event, fate in fates:
            del self._taken[event.id]
            self._settle(event, fate)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """See Buffer."""
        for event in events:
            del self._taken[event.id]
        self._ordering.give_back(events, not_before=not_before)
        self._changed.set()

    async def end_rests(self) -> None:
        """See Buffer."""
        self._ordering.end_rests()
        self._changed.set()

    def ledger(self) -> Ledger:
        """See Buffer."""
        return Ledger(
            accepted=self._accepted,
            delivered=self._delivered,
            dropped=dict(self._dropped),
            buffered=len(self._ordering) + len(self._taken),
        )

    def occupancy(self) -> Occupancy:
        """See Buffer."""
        firsts = chain(self._ordering.first_of_each_place(), self._taken.values())
        oldest = min((event.accepted_at for event in firsts), default=None)
        resting = self._ordering.resting(self._clock())
        return Occupancy(events=self._events, bytes=self._bytes, resting=resting, oldest_accepted_at=oldest)

    def ready_at(self, now: float) -> float | None:
        """See Buffer."""
        return self._ordering.ready_at(now)

    async def close(self) -> None:
        """See Buffer."""
        for event in chain(self._ordering, self._taken.values()):
            self._settle(event, Dropped("shutdown"))
        self._ordering = Ordering()
        self._taken.clear()

    def _settle(self, event: Event, fate: Fate) -> None:
        self._events -= 1
        self._bytes -= event.size_bytes
        match fate:
            case Delivered():
                self._delivered += 1
                self._telemetry.event_delivered(accepted_at=event.accepted_at)
            case Dropped(reason):
                self._dropped[reason] += 1
                self._telemetry.event_dropped(reason)
            case _:
                assert_never(fate)

    async def _wait_for_change(self) -> None:
        """Wait until something is put or released, or a lane ends its rest."""
        rest_ends = self._ordering.next_change()
        seconds = None if rest_ends is None else max(0.0, rest_ends - self._clock())
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
