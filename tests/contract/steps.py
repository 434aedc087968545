"""What the contract tests do with a buffer, in short words."""

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from forwarder.buffer.base import Buffer, Ledger, Occupancy, Stored
from forwarder.buffer.fates import DeadLettered, Fate, HandedOver
from forwarder.event import Event
from forwarder.words import DEAD_REASONS, DROP_REASONS, DropReason
from tests.contract.conftest import Kind

REJECTED = DeadLettered("rejected", 422, b"no", attempts=1, first_attempt_at=1e9, last_attempt_at=1e9)

DEADLINE_SECONDS = 30.0
"""How long a test waits for what must happen."""
SILENCE_SECONDS = 0.02
"""How long a test watches that something does not happen."""
PATIENCE = 10
"""How often as long it watches where the buffer says that there is something to take: it may have to be read."""
REST_SECONDS = 0.06
"""A rest that a test waits for."""
LONG_REST_SECONDS = 3600.0


async def put(buffer: Buffer, events: Sequence[Event]) -> None:
    assert await buffer.put(events, intake="http") == Stored()


async def take(
    buffer: Buffer,
    max_events: int = 1000,
    *,
    max_bytes: int = 1_000_000,
    skip: AbstractSet[str] = frozenset(),
) -> list[Event]:
    """Take what must be there, in several takes if not all of it is in memory."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        events = await buffer.take(max_events=max_events, max_bytes=max_bytes, skip_lanes=skip)
    now = loop_time()
    if len(events) < max_events and buffer.ready_at(now, skip_lanes=skip) == now:
        events += await take_all(buffer, batch=1, most=max_events - len(events), skip=skip)
    return events


async def expect(buffer: Buffer, events: Sequence[Event], *, max_bytes: int) -> None:
    """Take just these within `max_bytes`, in several takes if not all of them are in memory."""
    found: list[Event] = []
    while len(found) < len(events):
        async with asyncio.timeout(DEADLINE_SECONDS):
            found += await buffer.take(max_events=1000, max_bytes=max_bytes - sizes(found))
    assert found == events


async def take_all(
    buffer: Buffer, *, batch: int = 1000, most: int = 1_000_000, skip: AbstractSet[str] = frozenset()
) -> list[Event]:
    """Take until nothing more may be had, or as many events as wanted."""
    events: list[Event] = []
    patience = PATIENCE
    while len(events) < most and patience:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                events += await buffer.take(max_events=batch, max_bytes=1_000_000, skip_lanes=skip)
            patience = PATIENCE
        except TimeoutError:
            now = loop_time()
            patience = patience - 1 if buffer.ready_at(now, skip_lanes=skip) == now else 0
    return events


def ledger_of(
    *,
    accepted: int,
    delivered: int = 0,
    dead_lettered: int = 0,
    dropped: Mapping[DropReason, int] | None = None,
    buffered: int,
) -> Ledger:
    """Return a ledger in which everything received was accepted, and whatever became a dead letter was rejected."""
    return Ledger(
        received=accepted,
        accepted=accepted,
        duplicates=0,
        rejected=0,
        delivered=delivered,
        dead_lettered=dict.fromkeys(DEAD_REASONS, 0) | {"rejected": dead_lettered},
        dropped=dict.fromkeys(DROP_REASONS, 0) | dict(dropped or {}),
        buffered=buffered,
    )


async def nothing_to_take(buffer: Buffer, *, skip: AbstractSet[str] = frozenset()) -> bool:
    return await take_all(buffer, skip=skip) == []


async def waiting_taker(
    buffer: Buffer, max_events: int = 1000, *, skip: AbstractSet[str] = frozenset()
) -> asyncio.Task[list[Event]]:
    """Return a task that has begun to take and found nothing."""
    task = asyncio.create_task(buffer.take(max_events=max_events, max_bytes=1_000_000, skip_lanes=skip))
    done, _ = await asyncio.wait({task}, timeout=SILENCE_SECONDS)
    assert not done, "a take found something where nothing should be"
    return task


async def ack(buffer: Buffer, events: Sequence[Event], fate: Fate | None = None) -> None:
    await buffer.ack([(event, fate or HandedOver()) for event in events])


async def release(buffer: Buffer, events: Sequence[Event], *, rest_seconds: float = 0.0) -> float:
    """Release events to rest from now on, and return the end of the rest."""
    not_before = loop_time() + rest_seconds
    await buffer.release(events, not_before=not_before)
    return not_before


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def sizes(events: Sequence[Event]) -> int:
    return sum(event.size_bytes for event in events)


def is_oldest(kind: Kind, occupancy: Occupancy, accepted_at: float | None) -> bool:
    """Whether that is the time of the oldest event, or where that may be on disk only an earlier one."""
    said = occupancy.oldest_accepted_at
    if accepted_at is None or said is None or not kind.outlives_close:
        return said == accepted_at
    return accepted_at - 10 < said <= accepted_at
