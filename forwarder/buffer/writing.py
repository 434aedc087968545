"""What a batch changes in the database, in one transaction: events, dead letters, notes, the ledger. Runs on its thread."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from forwarder.buffer.batch import Batch
from forwarder.buffer.fates import DeadLettered, Delivered, Dropped, Fate
from forwarder.database import attribute_types, dead_letters, duplicate_keys, events, marks, salvage
from forwarder.database.connection import Transaction
from forwarder.database.dead_letters import DeadLetter
from forwarder.event import Event
from forwarder.settings import DeadLettersSettings


def write(transaction: Transaction, batch: Batch, *, count: events.RowCount, bounds: DeadLettersSettings) -> int:
    """Write a batch, but for overdue puts, and return how many dead letters were evicted by it.

    Raises MovedError, so that it is tried without the puts, where what is put would be gone with the process.
    """
    batch = batch.without_overdue()
    if transaction.moved and batch.puts:
        raise transaction.moved
    removed = list(batch.acks)
    removed += [(event, Dropped("drop_oldest")) for put in batch.puts for event in put.dropped]
    evicted = _remove(transaction, removed, count=count, bounds=bounds)
    count.removing(transaction, [(event_id, 0) for event_id in batch.corrupt])
    transaction.count("buffered", -len(batch.corrupt))
    transaction.count("dropped.corrupt", len(batch.corrupt))
    _insert(transaction, batch)
    if ended := [each for put in batch.puts for each in put.ended]:
        evicted += _remove(transaction, ended, count=count, bounds=bounds)
    marks.write(transaction, batch.marks)
    _note(transaction, batch)
    for name, number in batch.declined.items():
        transaction.count("received", number)
        transaction.count(name, number)
    return evicted


def _remove(
    transaction: Transaction,
    fates: Sequence[tuple[Event, Fate]],
    *,
    count: events.RowCount,
    bounds: DeadLettersSettings,
) -> int:
    """Remove events, and return how many dead letters were evicted for those that became some."""
    count.removing(transaction, [(event.id, event.size_bytes) for event, _ in fates])
    transaction.count("buffered", -len(fates))
    transaction.count("buffered_bytes", -sum(event.size_bytes for event, _ in fates))
    for _, fate in fates:
        transaction.count(counter_of(fate))
    letters = list(letters_of(fates))
    return dead_letters.insert(transaction, letters, max_events=bounds.max_events, max_bytes=bounds.max_bytes)


def _insert(transaction: Transaction, batch: Batch) -> None:
    added: list[Event] = []
    for put in batch.puts:
        if put.salvaged is None:
            added += put.events
            dead_letters.remove(transaction, put.replayed)
        else:
            salvage.bring_events(transaction, put.salvaged.file, put.events, events_after=put.salvaged.events_after)
        if put.events:
            transaction.ledger["last_id"] = max(transaction.ledger.get("last_id", 0), put.events[-1].id)
    events.insert(transaction, added)
    for name in ("received", "accepted", "buffered"):
        transaction.count(name, len(added))
    transaction.count("buffered_bytes", sum(event.size_bytes for event in added))


def _note(transaction: Transaction, batch: Batch) -> None:
    """Write what is noted, and then what goes with the puts, of which the first one's type of an attribute counts."""
    noted = batch.noted
    if noted.types:
        attribute_types.write(transaction, noted.types)
    for put in batch.puts:
        if put.notes.changed_types:
            attribute_types.write(transaction, put.notes.changed_types)
        if put.notes.types:
            attribute_types.add(transaction, put.notes.types)
    duplicate_keys.insert(transaction, [*noted.keys.values(), *(key for put in batch.puts for key in put.notes.keys)])
    if forgotten_to := max((put.notes.keys_forgotten_to for put in batch.puts), default=0):  # perhaps some of those
        duplicate_keys.forget(transaction, forgotten_to)
    if noted.complete:
        transaction.ledger["notes_brought"] = 1


def letters_of(fates: Iterable[tuple[Event, Fate]]) -> Iterable[DeadLetter]:
    """Yield the dead letters among events with their fates."""
    for event, fate in fates:
        if isinstance(fate, DeadLettered):
            yield DeadLetter(
                event, fate.reason, fate.status, fate.answer, fate.attempts, fate.first_attempt_at, fate.last_attempt_at
            )


def counter_of(fate: Fate) -> str:
    """Return the name of a fate's counter in the ledger."""
    match fate:
        case Delivered():
            return "delivered"
        case DeadLettered(reason=reason):
            return f"dead_lettered.{reason}"
        case Dropped(reason):
            return f"dropped.{reason}"
        case _:
            assert_never(fate)
