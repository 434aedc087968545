"""What every Buffer promises of the kind of an event: it stays with the event, and nothing is counted by it."""

from msgspec.structs import replace

from forwarder.buffer.base import Buffer, Occupancy, Stored
from forwarder.event import Event
from forwarder.observing.telemetry import Telemetry
from tests.contract.conftest import Kind, OpenBuffer
from tests.contract.steps import REJECTED, ack, ledger_of, put, release, take, take_all
from tests.contract.test_buffer_commits import letters
from tests.fakes.events import EventMaker


def of_both_kinds(make: EventMaker, number: int = 3) -> list[Event]:
    """Return events of one customer, every other one of which is an update of it."""
    return [replace(event, kind="event" if event.id % 2 else "customer") for event in make.of("a" * number)]


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


async def test_a_kind_comes_with_each_take_and_stays_with_a_dead_letter(buffer: Buffer, make: EventMaker) -> None:
    events = of_both_kinds(make, 40)
    alone = replace(make("a"), kind="customer")
    await put(buffer, events)
    stored = buffer.begin_put(alone, intake="http")
    assert await (stored or buffer.put([alone], intake="http")) == Stored()
    taken = await take(buffer)
    assert kinds(taken) == ["event", "customer"] * 20 + ["customer"]
    await release(buffer, taken)
    again = await take_all(buffer)
    assert kinds(again) == kinds(taken)
    await ack(buffer, again[:3], REJECTED)
    assert [letter.event.kind for letter in await letters(buffer)] == ["event", "customer", "event"]
    (found,) = await buffer.dead_letters.find([again[1].id])
    assert found.event.kind == "customer"
    anew = replace(make("a"), kind=found.event.kind)
    assert await buffer.put([anew], intake="replay", replayed=[found.event.id]) == Stored()
    assert [letter.event.kind for letter in await letters(buffer)] == ["event", "event"]
    assert kinds(await take(buffer)) == ["customer"]


async def test_a_kind_is_the_same_when_the_buffer_is_opened_again(
    kind: Kind, open_buffer: OpenBuffer, buffer: Buffer, make: EventMaker
) -> None:
    if not kind.outlives_close:
        return
    await put(buffer, of_both_kinds(make, 5))
    marked, dead, *_ = await take(buffer, 4)
    await buffer.mark([(marked, 1)])
    await ack(buffer, [dead], REJECTED)
    await buffer.close()
    again = await open_buffer(telemetry=Telemetry())
    assert kinds(await take_all(again)) == ["event", "customer", "event"]
    assert {letter.event.id: letter.event.kind for letter in await letters(again)} == {1: "event", 2: "customer"}


async def test_an_event_counts_the_same_whatever_its_kind(buffer: Buffer, make: EventMaker) -> None:
    events = of_both_kinds(make, 4)
    await put(buffer, events)
    oldest = events[0].accepted_at
    assert buffer.occupancy() == Occupancy(events=4, bytes=80, deferred=0, oldest_accepted_at=oldest)
    taken = await take(buffer)
    await ack(buffer, taken[:2], REJECTED)
    await ack(buffer, taken[2:3])
    assert buffer.ledger() == ledger_of(accepted=4, delivered=1, dead_lettered=2, buffered=1)
    assert (buffer.dead_letters.events, buffer.dead_letters.bytes) == (2, 2 * (20 + len(REJECTED.answer)))
