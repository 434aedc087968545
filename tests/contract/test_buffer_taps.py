"""What every Buffer tells the taps that are open."""

from forwarder.buffer.base import Buffer
from forwarder.buffer.fates import Dropped, Fate, HandedOver
from forwarder.observing.tap import TapRequest
from forwarder.observing.telemetry import Telemetry
from tests.contract.conftest import OpenBuffer
from tests.contract.steps import REJECTED, ack, put, take
from tests.fakes.events import EventMaker


async def test_a_tap_sees_events_come_in_and_leave_undelivered_each_once_and_in_that_order(
    buffer: Buffer, make: EventMaker, telemetry: Telemetry
) -> None:
    await put(buffer, make.of("a"))
    tap = telemetry.taps.begin(TapRequest())
    await put(buffer, make.of("bcd"))
    delivered, *_ = taken = await take(buffer)
    fates: tuple[Fate, ...] = (REJECTED, Dropped("shutdown"), HandedOver())
    for event, fate in zip(taken[1:], fates, strict=True):
        await ack(buffer, [event], fate)
    await ack(buffer, [delivered])
    read = await telemetry.taps.read(tap)
    assert [(line["id"], line["outcome"], line.get("intake") or line.get("reason")) for line in read.lines] == [
        ("2", "accepted", "http"),
        ("3", "accepted", "http"),
        ("4", "accepted", "http"),
        ("2", "dead_letter", "rejected"),
        ("3", "dropped", "shutdown"),
    ]
    telemetry.taps.end(tap, "closed")


async def test_a_tap_sees_what_is_dropped_to_make_room(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    buffer = await open_buffer(max_events=2, when_full="drop_oldest")
    await put(buffer, make.of("ab"))
    tap = telemetry.taps.begin(TapRequest())
    await put(buffer, make.of("c"))
    read = await telemetry.taps.read(tap)
    assert {(line["id"], line["outcome"]) for line in read.lines} == {("1", "dropped"), ("3", "accepted")}
    telemetry.taps.end(tap, "closed")


async def test_a_put_that_finds_no_room_is_not_shown(
    open_buffer: OpenBuffer, make: EventMaker, telemetry: Telemetry
) -> None:
    buffer = await open_buffer(max_events=1)
    await put(buffer, make.of("a"))
    tap = telemetry.taps.begin(TapRequest())
    await buffer.put(make.of("b"), intake="http")
    assert tap.told == 0
    telemetry.taps.end(tap, "closed")
