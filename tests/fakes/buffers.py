"""A buffer that behaves like the one inside it, and says what was asked of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

from forwarder.attribute import TypeChanges
from forwarder.buffer.base import (
    NO_NOTES,
    Buffer,
    BufferUnavailableError,
    DeadLetters,
    Erased,
    Ledger,
    Notes,
    Occupancy,
    PutAnswer,
)
from forwarder.buffer.fates import Fate
from forwarder.buffer.memory import MemoryBuffer
from forwarder.event import Clock, Event, LaneOf, by_customer
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings, DeadLettersSettings, ReceiptsSettings
from forwarder.words import Intake
from tests.fakes.databases import inline_database


def memory_buffer(
    telemetry: Telemetry, clock: Clock, settings: BufferSettings | None = None, *, lane_of: LaneOf = by_customer
) -> MemoryBuffer:
    """Return a buffer in memory, with room for everything, whose dead letters are written at once."""
    database = inline_database()
    database._open()
    return MemoryBuffer(
        settings or BufferSettings(),
        dead_letters=DeadLettersSettings(),
        database=database,
        telemetry=telemetry,
        receipts=Receipts(ReceiptsSettings(), clock=time.time),
        clock=clock,
        lane_of=lane_of,
    )


@dataclass(frozen=True)
class Release:
    """One event that was given back."""

    event: int
    """Its id."""
    at: float
    not_before: float


class ObservedBuffer:
    """A Buffer around another one, whose acks and releases may take a while to be committed, as those of a disk do.

    It may take a while until the taker is told of what may be taken, as it would with a store that is far away.
    """

    def __init__(self, inner: Buffer, *, commit_seconds: float = 0.0, take_seconds: float = 0.0) -> None:
        self.inner = inner
        self.take_seconds = take_seconds
        self.commit_seconds = commit_seconds
        self.takes = 0
        """How often it was asked for what is ready."""
        self.bug: Exception | None = None
        """What `take_ready` raises."""
        self.bug_of_rests: Exception | None = None
        """What `end_deferrals` raises."""
        self.fails_to_pull = 0
        """How many more pulls the disk cannot read."""
        self.out: set[int] = set()
        """The ids of the events that are taken now."""
        self.acked: list[tuple[int, Fate]] = []
        self.released: list[Release] = []
        self.marked: set[int] = set()
        """The ids of the events that are marked now; ever; and of those that were unmarked, in order."""
        self.ever_marked: set[int] = set()
        self.unmarked: list[int] = []

    async def open(self) -> None:
        await self.inner.open()

    async def serve(self) -> None:
        await self.inner.serve()

    async def contains(self, event_id: int) -> bool:
        return await self.inner.contains(event_id)

    async def pull(self, event_id: int) -> Event | None:
        if self.fails_to_pull:
            self.fails_to_pull -= 1
            raise BufferUnavailableError("disk I/O error")
        return await self.inner.pull(event_id)

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        return await self.inner.erase(customer, up_to=up_to, dry_run=dry_run)

    def use(self, when_full: Literal["reject", "drop_oldest"]) -> None:
        self.inner.use(when_full)

    @property
    def dead_letters(self) -> DeadLetters:
        return self.inner.dead_letters

    @property
    def outlives_process(self) -> bool:
        return self.inner.outlives_process

    @property
    def last_id(self) -> int:
        return self.inner.last_id

    @property
    def available(self) -> bool:
        return self.inner.available

    @property
    def stalled(self) -> bool:
        return self.inner.stalled

    @property
    def dead_letters_lost(self) -> int:
        return self.inner.dead_letters_lost

    async def put(
        self, events: Sequence[Event], *, intake: Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        return await self.inner.put(events, intake=intake, replayed=replayed, notes=notes)

    def begin_put(self, event: Event, *, intake: Intake) -> asyncio.Future[PutAnswer] | None:
        return self.inner.begin_put(event, intake=intake)

    async def recall(self) -> Notes:
        return await self.inner.recall()

    async def note(self, types: TypeChanges) -> None:
        await self.inner.note(types)

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        events = await self.inner.take(
            max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
        )
        self.out.update(event.id for event in events)
        return events

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        self.takes += 1
        if self.bug is not None:
            raise self.bug
        events = self.inner.take_ready(
            max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
        )
        self.out.update(event.id for event in events)
        return events

    @property
    def may_start(self) -> Callable[[Event], bool] | None:
        return self.inner.may_start

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None,
    ) -> None:
        def changed_later() -> None:
            asyncio.get_running_loop().call_later(self.take_seconds, changed)

        self.inner.listen(changed=changed_later if self.take_seconds else changed, left=left, revoked=revoked)

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """Ack it once its commit has taken as long as it takes here."""
        if self.commit_seconds:
            asyncio.get_running_loop().call_later(self.commit_seconds, self._ack_now, event, fate)
        else:
            self._ack_now(event, fate)

    def _ack_now(self, event: Event, fate: Fate) -> None:
        self.acked.append((event.id, fate))
        self.out.discard(event.id)
        self.inner.begin_ack(event, fate)

    def hurry_acks(self) -> None:
        self.inner.hurry_acks()

    async def settle_acks(self) -> None:
        await asyncio.sleep(self.commit_seconds)
        await self.inner.settle_acks()

    async def ack(self, fates: Sequence[tuple[Event, Fate]]) -> None:
        await asyncio.sleep(self.commit_seconds)
        self.acked += [(event.id, fate) for event, fate in fates]
        self.out.difference_update(event.id for event, _ in fates)
        await self.inner.ack(fates)

    async def mark(self, events: Sequence[tuple[Event, int]]) -> None:
        await asyncio.sleep(self.commit_seconds)
        await self.inner.mark(events)
        self.marked.update(event.id for event, _ in events)
        self.ever_marked |= self.marked

    async def unmark(self, events: Sequence[Event]) -> None:
        await asyncio.sleep(self.commit_seconds)
        await self.inner.unmark(events)
        self.unmarked += [event.id for event in events]
        self.marked.difference_update(self.unmarked)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        await asyncio.sleep(self.commit_seconds)
        self.released += [Release(event.id, asyncio.get_running_loop().time(), not_before) for event in events]
        self.out.difference_update(event.id for event in events)
        await self.inner.release(events, not_before=not_before)

    def ledger(self) -> Ledger:
        return self.inner.ledger()

    def end_deferrals(self) -> None:
        if self.bug_of_rests is not None:
            raise self.bug_of_rests
        self.inner.end_deferrals()

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        return self.inner.ready_at(now, skip_lanes=skip_lanes)

    def occupancy(self) -> Occupancy:
        return self.inner.occupancy()

    async def close(self) -> None:
        await self.inner.close()
