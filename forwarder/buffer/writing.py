"""What a batch changes in the database, in one transaction: events, dead letters, notes, the ledger. Runs on its thread."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from forwarder.buffer.base import NO_NOTES
from forwarder.buffer.batch import Batch, Noted, Put
from forwarder.buffer.fates import DeadLettered, Delivered, Dropped, Fate
from forwarder.database import attribute_types, dead_letters, duplicate_keys, events, marks, salvage
from forwarder.database.connection import Transaction
from forwarder.event import DeadLetter, Event
from forwarder.settings import DeadLettersSettings


def write(transaction: Transaction, batch: Batch, *, count: events.RowCount, bounds: DeadLettersSettings) -> int:
    """Write a batch, but for overdue puts, and return how many dead letters were evicted by it.

    Raises MovedError, so that it is tried without the puts, where what is put would be gone with the process.
    """
    puts = batch.puts_to_write()
    if transaction.moved and puts:
        raise transaction.moved
    removed = batch.acks
    for put in puts:
        if put.dropped:
            removed = [*removed, *((event, Dropped("drop_oldest")) for event in put.dropped)]
    evicted = _remove(transaction, removed, count=count, bounds=bounds)
    if batch.corrupt:
        count.removing(transaction, [(event_id, 0) for event_id in batch.corrupt])
        transaction.count("buffered", -len(batch.corrupt))
        transaction.count("dropped.corrupt", len(batch.corrupt))
    if puts:
        _insert(transaction, puts)
        for put in puts:
            if put.ended:
                evicted += _remove(transaction, put.ended, count=count, bounds=bounds)
    if batch.marks:
        marks.write(transaction, batch.marks)
    _note(transaction, batch.noted, puts)
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
    ledger = transaction.ledger
    letters: Sequence[DeadLetter] = ()
    if fates:
        removals = [(event.id, len(event.body)) for event, _ in fates]
        count.removing(transaction, removals)
        ledger["buffered"] = ledger.get("buffered", 0) - len(removals)
        ledger["buffered_bytes"] = ledger.get("buffered_bytes", 0) - sum([size for _, size in removals])
        died = False
        for _, fate in fates:
            died |= type(fate) is DeadLettered
            name = "delivered" if type(fate) is Delivered else counter_of(fate)
            ledger[name] = ledger.get(name, 0) + 1
        if died:
            letters = list(letters_of(fates))
    max_events, max_bytes = bounds.max_events, bounds.max_bytes
    # The bounds may be lower than they were when the last dead letter was written.
    if letters or ledger.get("dead_letters", 0) > max_events or ledger.get("dead_letters_bytes", 0) > max_bytes:
        return dead_letters.insert(transaction, letters, max_events=max_events, max_bytes=max_bytes)
    return 0


def _insert(transaction: Transaction, puts: Sequence[Put]) -> None:
    added: list[Event] = []
    size = 0
    for put in puts:
        if put.salvaged is None:
            added += put.events
            size += put.size_bytes
            if put.replayed:
                dead_letters.remove(transaction, put.replayed)
        else:
            salvage.bring_events(transaction, put.salvaged.file, put.events, events_after=put.salvaged.events_after)
        if put.events:
            transaction.ledger["last_id"] = max(transaction.ledger.get("last_id", 0), put.events[-1].id)
    if added:
        events.insert(transaction, added)
        ledger = transaction.ledger
        for name in ("received", "accepted", "buffered"):
            ledger[name] = ledger.get(name, 0) + len(added)
        ledger["buffered_bytes"] = ledger.get("buffered_bytes", 0) + size


def _note(transaction: Transaction, noted: Noted, puts: Sequence[Put]) -> None:
    """Write what is noted, and then what goes with the puts, of which the first one's type of an attribute counts."""
    if noted.types:
        attribute_types.write(transaction, noted.types)
    keys = list(noted.keys.values())
    forgotten_to = 0
    for put in puts:
        notes = put.notes
        if notes is NO_NOTES:
            continue
        if notes.changed_types:
            attribute_types.write(transaction, notes.changed_types)
        if notes.types:
            attribute_types.add(transaction, notes.types)
        keys += notes.keys
        forgotten_to = max(forgotten_to, notes.keys_forgotten_to)
    if keys:
        duplicate_keys.insert(transaction, keys)
    if forgotten_to:  # perhaps some of those
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
