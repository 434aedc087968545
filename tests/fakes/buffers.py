"""A buffer that behaves like the one inside it, and says what was asked of it."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from forwarder.buffer.base import Buffer, Ledger, Occupancy, PutAnswer
from forwarder.buffer.fates import Fate
from forwarder.event import Event


@dataclass(frozen=True)
class Release:
    """One event that was given back."""

    event: int
    """Its id."""
    at: float
    not_before: float


class ObservedBuffer:
    """A Buffer around another one, whose acks and releases may take a while to be committed, as those of a disk do."""

    def __init__(self, inner: Buffer, *, commit_seconds: float = 0.0) -> None:
        self.inner = inner
        self.commit_seconds = commit_seconds
        self.asked: list[tuple[int, int]] = []
        """The `max_events` and `max_bytes` of every take."""
        self.out: set[int] = set()
        """The ids of the events that are taken now."""
        self.acked: list[tuple[int, Fate]] = []
        self.released: list[Release] = []

    async def put(self, events: Sequence[Event], *, intake: str) -> PutAnswer:
        return await self.inner.put(events, intake=intake)

    async def take(self, *, max_events: int, max_bytes: int, skip_lanes: AbstractSet[str] = frozenset()) -> list[Event]:
        self.asked.append((max_events, max_bytes))
        events = await self.inner.take(max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes)
        self.out.update(event.id for event in events)
        return events

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        await asyncio.sleep(self.commit_seconds)
        self.acked += [(event.id, fate) for event, fate in fates]
        self.out.difference_update(event.id for event, _ in fates)
        await self.inner.ack(fates)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        await asyncio.sleep(self.commit_seconds)
        self.released += [Release(event.id, asyncio.get_running_loop().time(), not_before) for event in events]
        self.out.difference_update(event.id for event in events)
        await self.inner.release(events, not_before=not_before)

    def ledger(self) -> Ledger:
        return self.inner.ledger()

    async def end_rests(self) -> None:
        await self.inner.end_rests()

    def ready_at(self, now: float) -> float | None:
        return self.inner.ready_at(now)

    def occupancy(self) -> Occupancy:
        return self.inner.occupancy()

    async def close(self) -> None:
        await self.inner.close()
