"""What every Buffer promises of what it keeps for intake: the types of attributes, and the apps' keys of events."""

import asyncio
from dataclasses import replace

import pytest

from forwarder.attribute import LearnedType, TypeChanges
from forwarder.buffer.base import NO_NOTES, Buffer, Full, NeverFits, Notes, Stored
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeadLettersSettings
from tests.contract.conftest import Kind, OpenBuffer, database_of
from tests.contract.steps import ack, release, take
from tests.fakes.events import EventMaker, counted, keys_of, learned, notes_of

X, Y = ("n", "x"), ("n", "y")


async def recalled(kind: Kind, buffer: Buffer, open_buffer: OpenBuffer) -> Notes:
    """Close the buffer, open it again, and return what is recalled."""
    if not kind.outlives_close:
        pytest.skip("it keeps nothing")
    await buffer.close()
    return await (await open_buffer(telemetry=Telemetry())).recall()


async def test_there_is_nothing_to_recall_at_first_nor_ever_in_memory(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    assert await buffer.recall() == NO_NOTES
    events = make.of("ab")
    assert await buffer.put(events, intake="http", notes=notes_of(events, x=learned())) == Stored()
    await buffer.note({Y: learned("date")})
    await buffer.close()
    again = await open_buffer(telemetry=Telemetry())
    assert (await again.recall() == NO_NOTES) == (not kind.outlives_close)


async def test_what_went_with_puts_is_recalled_whatever_became_of_the_events(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    events = make.of("ab")
    await buffer.put(events, intake="http", notes=notes_of(events, x=learned("number")))
    later = make.of("ac")
    await buffer.put(later, intake="http", notes=notes_of(later[1:], y=learned("boolean", 2e9)))
    taken = await take(buffer)
    await ack(buffer, taken[:2])
    await release(buffer, taken[2:])
    found = await recalled(kind, buffer, open_buffer)
    assert found == Notes(
        {X: learned("number"), Y: learned("boolean", 2e9)}, (*keys_of(events), *keys_of(later[1:])), 0
    )


async def test_names_may_be_any_text(kind: Kind, open_buffer: OpenBuffer, buffer: Buffer) -> None:
    types = {
        ("\ud800", "ä\udfff"): learned("date"),
        ("", "\0"): learned("string"),
        ("\U0001f600", "'"): learned("number"),
    }
    await buffer.note(types)
    await buffer.note({("\ud800", "ä\udfff"): None})
    found = await recalled(kind, buffer, open_buffer)
    assert found.types == {place: each for place, each in types.items() if place[0] != "\ud800"}


async def test_of_types_that_come_with_puts_the_first_counts_and_what_is_noted_comes_before(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    one, two = make.of("ab")
    z = ("n", "z")
    await asyncio.gather(
        buffer.put([one], intake="http", notes=notes_of([one], x=learned("number"), y=learned("number"))),
        buffer.note({z: learned("boolean")}),
        buffer.put([two], intake="http", notes=notes_of([two], y=learned("date"), z=learned("date"))),
    )
    expected = {X: learned("number"), Y: learned("number"), z: learned("boolean")}
    (three,) = make.of("c")
    await buffer.put([three], intake="http", notes=notes_of([three], x=learned("string")))
    await buffer.note({("n", "never there"): None})
    assert (await recalled(kind, buffer, open_buffer)).types == expected


async def test_what_changes_of_types_with_a_put_comes_before_what_is_learned_with_it(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    one, two = make.of("ab")
    z, again = ("n", "z"), LearnedType("number", 2e9, seen_again=True)
    await buffer.put([one], intake="http", notes=notes_of([one], x=learned(), y=learned(), z=learned()))
    changed: TypeChanges = {X: None, Y: again, z: None, ("n", "never there"): None}
    await buffer.put([two], intake="http", notes=replace(notes_of([two], x=learned("date")), changed_types=changed))
    assert (await recalled(kind, buffer, open_buffer)).types == {X: learned("date"), Y: again}


async def test_what_changes_of_types_with_a_put_that_is_not_stored_does_not_change(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(max_events=1)
    await buffer.put(one := make.of("a"), intake="http", notes=notes_of(one, x=learned()))
    more = make.of("b")
    assert await buffer.put(more, intake="http", notes=Notes(changed_types={X: None})) == Full()
    assert (await recalled(kind, buffer, open_buffer)).types == {X: learned()}


async def test_the_last_that_is_noted_counts_and_what_is_forgotten_can_come_again(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    await asyncio.gather(buffer.note({X: learned("number")}), buffer.note({X: learned("date"), Y: learned()}))
    await buffer.note({Y: None})
    (one,) = make.of("a")
    await buffer.put([one], intake="http", notes=notes_of([one], y=learned("boolean")))
    assert (await recalled(kind, buffer, open_buffer)).types == {X: learned("date"), Y: learned("boolean")}


async def test_keys_are_forgotten_up_to_an_id(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    first, second, third = make.of("aa"), make.of("bbb"), make.of("c")
    await asyncio.gather(
        buffer.put(first, intake="http", notes=notes_of(first)),
        buffer.put(second, intake="http", notes=notes_of(second, keys_forgotten_to=4)),
        buffer.put(third, intake="http", notes=notes_of(third, keys_forgotten_to=1)),
    )
    assert (await recalled(kind, buffer, open_buffer)).keys == keys_of([second[2], *third])


async def test_nothing_is_kept_of_what_is_not_stored(kind: Kind, open_buffer: OpenBuffer, make: EventMaker) -> None:
    buffer = await open_buffer(max_events=2)
    events = make.of("ab")
    assert await buffer.put(events, intake="http", notes=notes_of(events)) == Stored()
    for more, answer in ((make.of("c"), Full()), (make.of("ccc"), NeverFits())):
        assert await buffer.put(more, intake="http", notes=notes_of(more, x=learned())) == answer
    assert await recalled(kind, buffer, open_buffer) == Notes({}, keys_of(events))


async def test_keys_of_what_was_dropped_or_is_a_dead_letter_are_kept(
    kind: Kind, open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(max_events=2, when_full="drop_oldest", dead_letters=DeadLettersSettings(max_events=1))
    events = make.of("abcd")
    for event in events:
        await buffer.put([event], intake="http", notes=notes_of([event]))
    assert (await recalled(kind, buffer, open_buffer)).keys == keys_of(events)


async def test_notes_at_the_same_time_share_their_commits(buffer: Buffer) -> None:
    database = database_of(buffer)
    before = database.jobs
    await asyncio.gather(*(buffer.note({("n", f"{number}"): learned()}) for number in range(100)))
    assert database.jobs - before <= 2
    await buffer.note({})
    assert database.jobs - before <= 2, "there is nothing to commit"


async def test_duplicates_are_in_the_ledger_at_once_and_when_it_is_opened_again(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    telemetry.events_duplicate(3, intake="http")
    telemetry.events_refused(2, intake="http", reason="empty")
    assert (buffer.ledger().received, buffer.ledger().duplicates, buffer.ledger().rejected) == (5, 3, 2)
    await buffer.put(make.of("ab"), intake="http")
    telemetry.events_duplicate(1, intake="http")
    before = buffer.ledger()
    assert (before.received, before.accepted, before.duplicates, before.rejected) == (8, 2, 4, 2)
    assert counted(telemetry, "events_duplicate_total") == 4
    await buffer.close()
    if kind.outlives_close:
        assert buffer.ledger() == before
        assert (await open_buffer(telemetry=Telemetry())).ledger() == before
