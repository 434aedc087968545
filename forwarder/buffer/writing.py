"""Writes a batch to the database, in one transaction: events, dead letters, marks, notes, counters. Runs on its thread."""

from collections.abc import Sequence

from forwarder.buffer.base import NO_NOTES, Notes
from forwarder.buffer.batch import Batch, Noted, Put
from forwarder.buffer.fates import DeadLettered, Dropped, Fate, HandedOver, counter_of, letters_of
from forwarder.database import attribute_types, dead_letters, duplicate_keys, events, marks, salvage
from forwarder.database.connection import Transaction
from forwarder.event import DeadLetter, Event
from forwarder.settings import DeadLettersSettings


def write(
    transaction: Transaction,
    batch: Batch,
    *,
    count: events.RowCount,
    bounds: DeadLettersSettings,
    overwrites: bool = False,
) -> int:
    """Write a batch, without its overdue puts, and return how many dead letters that evicted.

    With `overwrites`, what is removed is overwritten in the file.
    Raise MovedError if the file is not in its place and there are puts: the caller tries again without them.
    """
    puts: list[Put] = []
    for put in batch.puts:
        put.written = not put.overdue
        if put.written:
            puts.append(put)
    if puts and transaction.moved:
        raise transaction.moved
    letters = _remove(transaction, batch.acks, count=count, overwrites=overwrites) if batch.acks else ()
    if batch.corrupt:
        _drop_corrupt(transaction, batch.corrupt, count=count)
    if batch.noted is not None:
        _note(transaction, batch.noted)
    if puts:
        letters = [*letters, *_insert(transaction, puts, count=count)]
    if batch.marks:
        marks.write(transaction, batch.marks)
    if batch.refused or batch.duplicates:
        _count_tally(transaction, batch)
    if letters or "dead_letters" in transaction.ledger:  # the bounds may be lower than they were
        return dead_letters.insert(transaction, letters, max_events=bounds.max_events, max_bytes=bounds.max_bytes)
    return 0


def _remove(
    transaction: Transaction,
    fates: Sequence[tuple[Event, Fate]],
    *,
    count: events.RowCount,
    overwrites: bool = False,
) -> Sequence[DeadLetter]:
    """Remove events, and return the dead letters that some of them are to be."""
    if overwrites:
        transaction.overwrite()
    ledger = transaction.ledger
    removals: list[tuple[int, int]] = []
    dead = False
    size = 0
    for event, fate in fates:
        size_bytes = len(event.body)
        removals.append((event.id, size_bytes))
        size += size_bytes
        if type(fate) is HandedOver:
            name = "delivered"
        else:
            name = counter_of(fate)
            dead = dead or type(fate) is DeadLettered
        ledger[name] = ledger.get(name, 0) + 1
    count.removing(transaction, removals)
    ledger["buffered"] = ledger.get("buffered", 0) - len(removals)
    ledger["buffered_bytes"] = ledger.get("buffered_bytes", 0) - size
    return list(letters_of(fates)) if dead else ()


def _drop_corrupt(transaction: Transaction, ids: Sequence[int], *, count: events.RowCount) -> None:
    count.removing(transaction, [(event_id, 0) for event_id in ids])
    transaction.count("buffered", -len(ids))
    transaction.count("dropped.corrupt", len(ids))


def _count_tally(transaction: Transaction, batch: Batch) -> None:
    transaction.count("received", batch.refused + batch.duplicates)
    transaction.count("rejected", batch.refused)
    transaction.count("duplicates", batch.duplicates)


def _insert(transaction: Transaction, puts: Sequence[Put], *, count: events.RowCount) -> Sequence[DeadLetter]:
    """Add events, drop what makes room for them, and return the dead letters that some of them are to be at once."""
    ledger = transaction.ledger
    added: list[Event] = []
    letters: list[DeadLetter] = []
    size = 0
    for put in puts:
        if put.dropped:
            _remove(transaction, [(event, Dropped("drop_oldest")) for event in put.dropped], count=count)
        if put.salvaged is None:
            added += put.events
            size += put.size_bytes
            if put.replayed:
                dead_letters.remove(transaction, put.replayed)
            if put.notes is not NO_NOTES:
                _note_with_events(transaction, put.notes)
        else:
            salvage.restore_events(transaction, put.salvaged.file, put.events, events_after=put.salvaged.events_after)
            letters += _remove(transaction, put.ended, count=count)
        if put.events:
            ledger["last_id"] = max(ledger.get("last_id", 0), put.events[-1].id)
    if added:
        events.insert(transaction, added)
        number = len(added)
        ledger["received"] = ledger.get("received", 0) + number
        ledger["accepted"] = ledger.get("accepted", 0) + number
        ledger["buffered"] = ledger.get("buffered", 0) + number
        ledger["buffered_bytes"] = ledger.get("buffered_bytes", 0) + size
    return letters


def _note(transaction: Transaction, noted: Noted) -> None:
    if noted.types:
        attribute_types.write(transaction, noted.types)
    if noted.keys:
        duplicate_keys.insert(transaction, list(noted.keys.values()))
    if noted.complete:
        transaction.ledger["notes_brought"] = 1


def _note_with_events(transaction: Transaction, notes: Notes) -> None:
    """Write what is noted with a put; of several types of an attribute, the first counts."""
    if notes.changed_types:
        attribute_types.write(transaction, notes.changed_types)
    if notes.types:
        attribute_types.add(transaction, notes.types)
    if notes.keys:
        duplicate_keys.insert(transaction, notes.keys)
    if notes.keys_forgotten_to:  # perhaps some of those
        duplicate_keys.forget(transaction, notes.keys_forgotten_to)
