"""What the buffers in memory and on disk share: the order of the events, which are taken, and what is told of both.

Both belong to this process alone, and keep their dead letters in a database. Used on the event loop.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import assert_never

from forwarder.buffer.base import ALL_LETTERS, MAX_PAGE_BYTES, BufferUnavailableError, Ledger
from forwarder.buffer.fates import DeadLettered, Dropped, Fate, HandedOver
from forwarder.buffer.leaving import ERASED, Leaving
from forwarder.buffer.ordering import MAX_STEPS, Ordering
from forwarder.database import dead_letters as stored
from forwarder.database import erasing
from forwarder.database.connection import DamagedError, Database, Job, T, UnavailableError
from forwarder.event import Clock, DeadLetter, DeadLetterPage, Event, LaneOf, LetterFilter
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import BufferSettings
from forwarder.words import DEAD_REASONS, DROP_REASONS, DeadReason, WhenFull


class News:
    """Wakes whoever waits for a buffer, and calls its listener. `clock` gives the event loop's time in seconds.

    A listener that raises is a bug: the event loop's exception handler is told, and the buffer goes on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed: Callable[[], None] | None = None
        self._left: Callable[[Sequence[Event]], None] | None = None
        self._revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None,
    ) -> None:
        """Call these from now on: see Buffer."""
        self._changed, self._left, self._revoked = changed, left, revoked

    def revoke(self, lanes: AbstractSet[str]) -> Sequence[Event] | None:
        """Revoke lanes; return their events of which an attempt is under way, or None if nobody listens.

        Raise what the listener raises: without its answer it is unknown which events may leave.
        """
        return None if self._revoked is None else self._revoked(lanes)

    def tell(self) -> None:
        """Tell that something may be taken now that could not be before."""
        self._event.set()
        if self._changed is not None:
            try:
                self._changed()
            except Exception as error:  # noqa: BLE001 - see above
                _report(error)

    def tell_at(self, at: float | None) -> None:
        """Call `tell` at a time as well; None is never. There is one timer: an earlier time stays set."""
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._tell_now)

    def _tell_now(self) -> None:
        self._timer = None
        self.tell()

    def have_left(self, events: Sequence[Event]) -> None:
        """Tell that the acks of these events are committed."""
        if self._left is not None:
            try:
                self._left(events)
            except Exception as error:  # noqa: BLE001 - see above
                _report(error)

    def wake(self) -> None:
        """Wake those who wait, although there may be nothing to take."""
        self._event.set()

    def expect(self) -> None:
        """Begin to wait: only what is told from now on ends the wait."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until something was told since `expect`."""
        await self._event.wait()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _report(error: Exception) -> None:
    message = "a listener of the buffer failed"
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


class DatabaseDeadLetters:
    """Dead letters in a table of a database. See DeadLetters."""

    def __init__(self, database: Database, *, telemetry: Telemetry) -> None:
        self._database = database
        self._telemetry = telemetry

    @property
    def events(self) -> int:
        """See DeadLetters."""
        return self._database.ledger["dead_letters"]

    @property
    def bytes(self) -> int:
        """See DeadLetters."""
        return self._database.ledger["dead_letters_bytes"]

    @property
    def by_reason(self) -> Mapping[DeadReason, int]:
        """See DeadLetters. In a file of an earlier version too low until the first count, right after the start."""
        ledger = self._database.ledger
        return {reason: max(0, ledger[f"{stored.HELD}{reason}"]) for reason in DEAD_REASONS}

    async def page(self, *, after_place: int, max_letters: int, only: LetterFilter = ALL_LETTERS) -> DeadLetterPage:
        """See DeadLetters."""
        bounded = partial(stored.page, max_letters=max_letters, max_bytes=MAX_PAGE_BYTES)
        return await ask(self._database, partial(bounded, after_place=after_place, only=only))

    async def find(self, ids: Sequence[int], *, max_bytes: int = MAX_PAGE_BYTES) -> list[DeadLetter]:
        """See DeadLetters."""
        return await ask(self._database, partial(stored.find, ids=ids, max_bytes=max_bytes))

    async def purge(self, ids: Sequence[int]) -> list[int]:
        """See DeadLetters."""
        purged = await ask(self._database, partial(erasing.purge, ids=ids))
        self._telemetry.dead_letters_evicted(len(purged), reason="purged")
        return purged


async def ask(database: Database, job: Job[T]) -> T:
    """Return what a job returns. Raise BufferUnavailableError if the disk fails or the file is damaged."""
    try:
        return await database.run(job)
    except (UnavailableError, DamagedError) as error:
        raise BufferUnavailableError(str(error)) from error


def ledger_of(counters: Mapping[str, int], *, received: int, duplicates: int, refused: int, buffered: int) -> Ledger:
    """Return a ledger: how events left is in `counters`."""
    return Ledger(
        received=received,
        accepted=counters["accepted"],
        duplicates=duplicates,
        rejected=refused,
        delivered=counters["delivered"],
        dead_lettered={reason: counters[f"dead_lettered.{reason}"] for reason in DEAD_REASONS},
        dropped={reason: counters[f"dropped.{reason}"] for reason in DROP_REASONS},
        buffered=buffered,
    )


class LocalBuffer:
    """The base of MemoryBuffer and DiskBuffer. The events in `_taken` were taken, and are neither acked nor released.

    `clock` is the event loop's, in seconds; `database` keeps the dead letters. Of the events that were passed over or
    released, at most `max_aside_bytes` are kept in memory.
    """

    may_start = None

    def __init__(
        self,
        settings: BufferSettings,
        *,
        database: Database,
        telemetry: Telemetry,
        receipts: Receipts,
        clock: Clock,
        lane_of: LaneOf,
        max_aside_bytes: float = float("inf"),
    ) -> None:
        self.dead_letters = DatabaseDeadLetters(database, telemetry=telemetry)
        self._settings = settings
        self._when_full = settings.when_full
        self._database = database
        self._telemetry = telemetry
        self._receipts = receipts
        self._clock = clock
        self._ordering = Ordering(max_aside_bytes=max_aside_bytes, lane_of=lane_of)
        self._taken: dict[int, Event] = {}
        self._leaving = Leaving()
        self._news = News(clock)

    async def take(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """See Buffer."""
        while True:
            self._news.expect()
            events = self.take_ready(
                max_events=max_events, max_bytes=max_bytes, skip_lanes=skip_lanes, max_lane_events=max_lane_events
            )
            if events:
                return events
            await self._news.wait()

    def take_ready(
        self,
        *,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
    ) -> list[Event]:
        """See Buffer."""
        ordering = self._ordering
        events = ordering.hand_out(
            now=self._clock(),
            max_events=max_events,
            max_bytes=max_bytes,
            skip_lanes=skip_lanes,
            max_lane_events=max_lane_events,
            max_steps=MAX_STEPS,
        )
        for event in events:
            self._taken[event.id] = event
        if ordering.more_fresh or not ordering.nothing_aside:
            self._read_ahead()
        if ordering.unfinished:
            asyncio.get_running_loop().call_soon(self._news.tell)
        elif len(events) < max_events and not ordering.nothing_aside:
            self._news.tell_at(ordering.next_change())
        return events

    def _read_ahead(self) -> None:
        """Begin to read what may be handed out next, if it is not in memory."""

    def listen(
        self,
        *,
        changed: Callable[[], None],
        left: Callable[[Sequence[Event]], None],
        revoked: Callable[[AbstractSet[str]], Sequence[Event]] | None = None,
    ) -> None:
        """See Buffer."""
        self._news.listen(changed=changed, left=left, revoked=revoked)

    async def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """See Buffer."""
        leaving = self._leaving
        if leaving.has_revoked:
            ours = [event for event in events if self._taken.get(event.id) is event]
            events = [event for event in ours if event.id not in leaving.events]
            for event in leaving.drop(ours):
                self.begin_ack(event, ERASED)
        for event in events:
            del self._taken[event.id]
        self._unmark_soon(events)
        self._ordering.release(events, not_before=not_before)
        self._news.tell()

    def begin_ack(self, event: Event, fate: Fate) -> None:
        """See Buffer."""
        raise NotImplementedError

    def _leave(self, customer: str, is_meant: Callable[[Event], bool], acked: set[int]) -> list[Event]:
        """Remove from memory what is meant of a customer, but not what has an attempt under way; return it."""
        gone, back = self._leaving.leave(customer, is_meant, taken=self._taken, acked=acked, revoke=self._news.revoke)
        gone += self._ordering.discard(is_meant)
        if back:
            self._ordering.release(back, not_before=0.0)
            self._news.tell()
        return gone

    def _unmark_soon(self, events: Sequence[Event]) -> None:
        """Unmark events without waiting until that is committed."""

    def _check_taken(self, events: Iterable[Event]) -> None:
        """Raise KeyError if one of the events is not taken, unless it may have been erased meanwhile."""
        for event in events:
            if event.id not in self._taken and not self._leaving.has_revoked:
                raise KeyError(event.id)

    def end_deferrals(self) -> None:
        """See Buffer."""
        self._ordering.end_deferrals()
        self._news.tell()

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        """See Buffer."""
        return self._ordering.ready_at(now, skip_lanes=skip_lanes)

    def use(self, when_full: WhenFull) -> None:
        """See Buffer."""
        self._when_full = when_full

    def _tell_fates(self, fates: Iterable[tuple[Event, Fate]]) -> None:
        """Tell metrics and receipts of events that have left."""
        for event, fate in fates:
            match fate:
                case HandedOver():
                    self._telemetry.event_delivered(accepted_at=event.accepted_at)
                    self._receipts.ended(event.id, "delivered", None, event.customer)
                case DeadLettered(reason=reason, status=status):
                    if self._telemetry.taps.open:
                        self._telemetry.taps.dead_lettered(event, reason=reason)
                    self._telemetry.event_dead_lettered(event.id, reason=reason, status=status, name=event.name)
                    self._receipts.ended(event.id, "dead_letter", reason, event.customer)
                case Dropped(reason):
                    if self._telemetry.taps.open:
                        self._telemetry.taps.dropped(event, reason=reason)
                    self._telemetry.events_dropped(1, reason=reason)
                    if reason != "erased":
                        self._receipts.ended(event.id, "dropped", reason, event.customer)
                case _:
                    assert_never(fate)
