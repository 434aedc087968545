"""Taps in virtual time: what a reader gets, what a slow one loses, and that what nobody reads ends."""

import asyncio
import gc
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from forwarder.event import Event
from forwarder.observing import tap as module
from forwarder.observing.recent import FailureFields
from forwarder.observing.tap import (
    GATHER_SECONDS,
    IDLE_SECONDS,
    LINE_BYTES,
    MAX_ANSWER_BYTES,
    MAX_EVENT_BYTES,
    MAX_TAP_BYTES,
    MAX_TAPS,
    READ_SECONDS,
    Lines,
    Tap,
    TapRequest,
    Taps,
    TooManyTapsError,
)
from forwarder.observing.telemetry import Telemetry
from tests.fakes.virtual_time import in_virtual_time, now

SECRET = "c-secret"
BODY = b'{"name":"Add To Cart","customerId":"c-secret","attributes":{"Price":12345678901234567890}}'


def event(number: int = 1, *, name: str = "Add To Cart", customer: str = SECRET, body: bytes = BODY) -> Event:
    return Event(number, customer, name, body, 1e9)


def taps_of(has_ended: Callable[[Tap], object] = lambda _: None) -> Taps:
    return Taps(clock=lambda: 1e9 + 2, age_seconds=lambda at: 1e9 + 2 - at, has_ended=has_ended)


def as_json(lines: Lines) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(orjson.dumps(list(lines.lines)))
    return found


@in_virtual_time
async def test_a_reader_gets_what_happened_to_an_event_in_order_and_nothing_of_its_values() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    taps.accepted([event()], intake="http")
    failure: FailureFields = {"kind": "status", "status": 503, "error": "503 Service Unavailable", "host": "h:443"}
    taps.attempted(
        event(), "retryable", attempt=1, seconds=0.05123, retry="status_5xx", failure=failure, answer=b"secret"
    )
    taps.attempted(event(), "delivered", attempt=2, seconds=0.25)
    taps.dead_lettered(event(2), reason="expired")
    taps.dropped(event(3), reason="drop_oldest")
    read = await taps.read(tap)
    assert (read.lost, read.ended) == (0, None)
    shared = {"at": 1e9 + 2, "name": "Add To Cart", "age_seconds": 2.0}
    assert as_json(read) == [
        {**shared, "id": "1", "outcome": "accepted", "intake": "http"},
        {
            **shared,
            "id": "1",
            "outcome": "retryable",
            "attempt": 1,
            "attempt_seconds": 0.0512,
            "reason": "status_5xx",
            "failure": failure,
        },
        {**shared, "id": "1", "outcome": "delivered", "attempt": 2, "attempt_seconds": 0.25},
        {**shared, "id": "2", "outcome": "dead_letter", "reason": "expired"},
        {**shared, "id": "3", "outcome": "dropped", "reason": "drop_oldest"},
    ]
    assert SECRET not in repr(read)
    assert b"secret" not in orjson.dumps(list(read.lines))


@in_virtual_time
async def test_with_payloads_a_line_has_the_customer_the_exact_event_and_the_answer() -> None:
    taps = taps_of()
    plain, full = taps.begin(TapRequest()), taps.begin(TapRequest(with_payloads=True))
    taps.attempted(event(), "rejected", attempt=1, seconds=0.1, answer=b"no such \xff customer" + b"x" * 5000)
    text = orjson.dumps(list((await taps.read(full)).lines))
    assert BODY in text
    (line,) = json.loads(text)
    assert line["customer"] == SECRET
    assert line["answer"].startswith("no such \ufffd customer")
    assert len(line["answer"]) == MAX_ANSWER_BYTES
    assert not {"customer", "event", "answer"}.intersection((await taps.read(plain)).lines[0])


@in_virtual_time
async def test_a_very_large_event_is_not_shown_but_its_size_is() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest(with_payloads=True))
    taps.accepted([event(1, body=b"[" + b"1," * 5_000_000 + b"1]"), event(2)], intake="http")
    large, small = as_json(await taps.read(tap))
    assert (large["event"], large["event_bytes"]) == (None, 10_000_003)
    assert small["event"]["name"] == "Add To Cart"


@in_virtual_time
async def test_names_and_customers_that_json_cannot_contain_are_replaced() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest(with_payloads=True))
    taps.accepted([event(name="a\ud800\x1b[31m", customer="\udfff")], intake="unix")
    (line,) = as_json(await taps.read(tap))
    assert (line["name"], line["customer"]) == ("a?\x1b[31m", "?")


@in_virtual_time
async def test_only_the_names_and_customers_that_were_asked_for_are_shown() -> None:
    taps = taps_of()
    events = [event(1, name="a", customer="x"), event(2, name="b", customer="x"), event(3, name="a", customer="y")]
    names, customers = (taps.begin(each) for each in (TapRequest(names={"a"}), TapRequest(customers={"x"})))
    both = taps.begin(TapRequest(names={"a", "b"}, customers={"y"}))
    taps.accepted(events, intake="http")
    found = [[line["id"] for line in (await taps.read(tap)).lines] for tap in (names, customers, both)]
    assert found == [["1", "3"], ["1", "2"], ["3"]]


@in_virtual_time
async def test_a_reader_that_waits_is_answered_with_what_comes_within_a_moment_and_without_lines_after_a_while() -> (
    None
):
    taps = taps_of()
    tap = taps.begin(TapRequest())
    began = now()
    assert await taps.read(tap) == ([], 0, None)
    assert now() == began + READ_SECONDS
    reading = asyncio.create_task(taps.read(tap))
    await asyncio.sleep(1)
    for number in range(10):
        taps.accepted([event(number)], intake="http")
        await asyncio.sleep(GATHER_SECONDS / 20)
    assert not reading.done(), "it gathers, as a read for each line would cost much"
    assert len((await reading).lines) == 10
    assert now() == pytest.approx(began + READ_SECONDS + 1 + GATHER_SECONDS)


@in_virtual_time
async def test_a_slow_reader_loses_the_oldest_lines_and_is_told_how_many() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    room = MAX_TAP_BYTES // LINE_BYTES
    taps.accepted([event(number) for number in range(room + 123)], intake="http")
    read = await taps.read(tap)
    assert (len(read.lines), read.lost) == (room, 123)
    assert [read.lines[0]["id"], read.lines[-1]["id"]] == ["123", str(room + 122)]
    assert (tap.told, tap.lost) == (room + 123, 123)
    taps.accepted([event()], intake="http")
    assert (await taps.read(tap)).lost == 0, "each loss is told once"


@in_virtual_time
async def test_a_flood_does_not_wait_for_the_moment_in_which_others_gather() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    began = now()
    reading = asyncio.create_task(taps.read(tap))
    await asyncio.sleep(0)
    taps.accepted([event(number) for number in range(MAX_TAP_BYTES // LINE_BYTES // 2 + 2)], intake="http")
    await reading
    assert now() == began


@in_virtual_time
async def test_what_waits_takes_no_more_memory_than_its_bound() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    failure: FailureFields = {"kind": "connect", "status": None, "error": "x" * 100, "host": "h" * 50}
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2 * MAX_TAP_BYTES // LINE_BYTES):
            taps.attempted(
                event(10**17 + number, name="ü" * 49),
                "retryable",
                attempt=number,
                seconds=number / 7,
                retry="network",
                failure=failure.copy(),
            )
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert MAX_TAP_BYTES / 4 < used < MAX_TAP_BYTES
    assert tap.lost > 0


@in_virtual_time
async def test_payloads_count_against_the_bound() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest(with_payloads=True))
    body = b'"' + b"x" * (MAX_EVENT_BYTES - 2) + b'"'
    taps.accepted([event(number, body=body) for number in range(100)], intake="http")
    read = await taps.read(tap)
    assert len(read.lines) == MAX_TAP_BYTES // (MAX_EVENT_BYTES + LINE_BYTES + 4 * len(SECRET))
    assert read.lost == 100 - len(read.lines)


@in_virtual_time
async def test_a_tap_that_nobody_reads_ends_and_costs_nothing_from_then_on() -> None:
    ended: list[Tap] = []
    taps = taps_of(ended.append)
    abandoned = taps.begin(TapRequest(user=7))
    taps.accepted([event()], intake="http")
    await asyncio.sleep(IDLE_SECONDS - 1)
    assert taps.find(abandoned.id, user=7) is abandoned
    await taps.read(abandoned)
    await asyncio.sleep(IDLE_SECONDS - 1)
    assert taps.open == [abandoned]
    await asyncio.sleep(2)
    assert taps.open == []
    assert ended == [abandoned]
    assert abandoned.ended == "unread"
    assert taps.find(abandoned.id, user=7) is None


@in_virtual_time
async def test_a_read_whose_client_has_gone_leaves_the_tap_to_the_next_and_then_to_its_end() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    reading = asyncio.create_task(taps.read(tap))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    taps.accepted([event()], intake="http")
    assert len((await taps.read(tap)).lines) == 1
    await asyncio.sleep(IDLE_SECONDS + 1)
    assert tap.ended == "unread"


@in_virtual_time
async def test_a_second_read_of_a_tap_ends_the_first_and_no_timer_is_left() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest())
    first = asyncio.create_task(taps.read(tap))
    await asyncio.sleep(0)
    second = asyncio.create_task(taps.read(tap))
    assert await first == ([], 0, None)
    taps.accepted([event()], intake="http")
    assert len((await second).lines) == 1
    taps.end(tap, "closed")
    await asyncio.sleep(IDLE_SECONDS + 1)
    assert tap.ended == "closed"


@in_virtual_time
async def test_the_end_of_the_daemon_ends_every_tap_and_gives_a_reader_what_there_was() -> None:
    taps = taps_of()
    waiting, idle = taps.begin(TapRequest()), taps.begin(TapRequest())
    reading = asyncio.create_task(taps.read(waiting))
    await asyncio.sleep(0)
    taps.accepted([event()], intake="http")
    taps.close()
    taps.close()
    read = await reading
    assert (len(read.lines), read.ended) == (1, "stopping")
    assert (taps.open, taps.is_closed, idle.ended) == ([], True, "stopping")


@in_virtual_time
async def test_there_are_only_so_many_taps_and_one_that_has_ended_makes_room() -> None:
    taps = taps_of()
    first, *_ = [taps.begin(TapRequest()) for _ in range(MAX_TAPS)]
    with pytest.raises(TooManyTapsError):
        taps.begin(TapRequest())
    taps.end(first, "closed")
    taps.end(first, "closed")
    assert len({taps.begin(TapRequest()).id, *(tap.id for tap in taps.open)}) == MAX_TAPS


@in_virtual_time
async def test_a_tap_is_found_by_its_own_user_only() -> None:
    taps = taps_of()
    tap = taps.begin(TapRequest(user=1000))
    assert taps.find(tap.id, user=1000) is tap
    assert taps.find(tap.id, user=1001) is None
    assert taps.find(tap.id, user=None) is None
    assert taps.find(tap.id + 1, user=1000) is None
    assert 0 <= tap.id < 10**18


@in_virtual_time
async def test_a_tap_with_payloads_is_logged_with_its_user_at_its_beginning_and_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry = Telemetry()
    for with_payloads in (False, True):
        tap = telemetry.taps.begin(TapRequest(with_payloads=with_payloads, user=1000, names={"n"}))
        telemetry.tap_opened(tap)
        telemetry.taps.accepted([event(name="n"), event(name="n")], intake="http")
        await telemetry.taps.read(tap)
        telemetry.taps.accepted([event(name="n")], intake="http")
        telemetry.taps.end(tap, "closed")
    lines = [(record.message, vars(record)["fields"]) for record in caplog.records]
    assert lines == [
        ("a tap with payloads was opened", {"user": 1000}),
        ("a tap with payloads has ended", {"user": 1000, "reason": "closed", "lines": 2, "lines_lost": 1}),
    ]


def test_the_bounds_of_all_taps_are_what_the_daemon_counts_with() -> None:
    assert module.MAX_TAPS * module.MAX_TAP_BYTES == 8 * 1024 * 1024
