"""Heads have bounds: 32 KiB, 200 headers, a target of 8 KiB. What is beyond is refused by name, counted and logged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import BATCH, GOOD, ONE, cut, event, get, in_chunks, post, wire_to

KIB = 1024


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as running:
        yield running


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


def refused(served: Served, reason: str) -> float | None:
    return served.telemetry.registry.get_sample_value(
        "growlytics_forwarder_http_requests_refused_total", {"reason": reason}
    )


def headers(count: int) -> list[str]:
    return [f"X-{i}: y" for i in range(count)]


def target(path: str, length: int) -> str:
    return path + "?" + "q" * (length - len(path) - 1)


FINE: dict[str, bytes] = {
    "a cookie of 8 KiB": post(ONE, GOOD, "Cookie: " + "x" * 8 * KIB),
    "a header of 31 KiB": post(ONE, GOOD, "X: " + "x" * 31 * KIB),
    "31 headers of 1 KiB": post(ONE, GOOD, *["X: " + "x" * (KIB - 5)] * 31),
    "a name of 4 KiB": post(ONE, GOOD, "X" * 4 * KIB + ": y"),
    "130 headers": post(ONE, GOOD, *headers(130)),
    "200 headers": post(ONE, GOOD, *headers(198)),
    "a target of 8 KiB": post(target(ONE, 8 * KIB)),
    "a whole URL of 8 KiB": post(target("http://localhost/track/event", 8 * KIB)),
    "all of it": post(target(ONE, 8 * KIB), GOOD, *headers(190), "X: " + "x" * 20 * KIB),
    "a target of 8 KiB and chunks": in_chunks(target(ONE, 8 * KIB), [GOOD], *headers(198)),
    "an upgrade with a cookie": post(
        ONE, GOOD, "Connection: Upgrade", "Upgrade: h2c", "Cookie: " + "x" * 16 * KIB, *headers(100)
    ),
}

TOO_LARGE: dict[str, tuple[bytes, int, str]] = {
    "a cookie of 33 KiB": (post(ONE, GOOD, "Cookie: " + "x" * 33 * KIB), 431, "headers_too_large"),
    "34 headers of 1 KiB": (post(ONE, GOOD, *["X: " + "x" * KIB] * 34), 431, "headers_too_large"),
    "a name of 33 KiB": (post(ONE, GOOD, "X" * 33 * KIB + ": y"), 431, "headers_too_large"),
    "201 headers": (post(ONE, GOOD, *headers(199)), 431, "headers_too_large"),
    "5,000 headers": (post(ONE, GOOD, *headers(2500)), 431, "headers_too_large"),
    "200 headers, and two that matter": (in_chunks(ONE, [GOOD], *headers(200)), 431, "headers_too_large"),
    "33 KiB with an expectation": (
        post(ONE, GOOD, "X: " + "x" * 33 * KIB, "Expect: 100-continue"),
        431,
        "headers_too_large",
    ),
    "33 KiB with an upgrade": (
        post(ONE, GOOD, "X: " + "x" * 33 * KIB, "Connection: Upgrade", "Upgrade: h2c"),
        431,
        "headers_too_large",
    ),
    "33 KiB in HTTP/1.0": (post(ONE, GOOD, "X: " + "x" * 33 * KIB, version="1.0"), 431, "headers_too_large"),
    "a target of a byte more": (post(target(ONE, 8 * KIB + 1)), 414, "uri_too_long"),
    "a target of 9 KiB": (post(target(ONE, 9 * KIB)), 414, "uri_too_long"),
    "a target of 100 KiB": (post(target(ONE, 100 * KIB)), 414, "uri_too_long"),
    "a whole URL of 9 KiB": (post(target("http://localhost/track/event", 9 * KIB)), 414, "uri_too_long"),
    "a batch's target": (post(target(BATCH, 9 * KIB)), 414, "uri_too_long"),
    "a batch's headers": (post(BATCH, GOOD, *headers(300)), 431, "headers_too_large"),
}


@pytest.mark.parametrize("data", FINE.values(), ids=FINE)
async def test_a_head_within_the_bounds_is_read_however_it_is_cut(served: Served, data: bytes) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(data + data)
        assert [reply.status for reply in await wire.replies(2)] == [200, 200]
        await wire.send(*cut(data, *range(500, len(data), 500)))
        assert (await wire.reply()).status == 200
    assert [event.body for event in await served.take_all()] == [GOOD] * 3


@pytest.mark.parametrize(("data", "status", "code"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_head_beyond_a_bound_is_refused_by_name_counted_and_logged(
    served: Served, caplog: pytest.LogCaptureFixture, data: bytes, status: int, code: str
) -> None:
    with caplog.at_level(logging.INFO):
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(data + post(ONE, event(666)))
            assert [(each.status, each.code, each.closes) for each in await wire.rest()] == [(status, code, True)]
    counts = served.counts()
    assert (counts.received, counts.accepted, counts.rejected) == (1, 0, {code: 1})
    assert refused(served, code) == 1
    assert len([record for record in caplog.records if record.name.startswith("forwarder")]) == 1


@pytest.mark.parametrize(("data", "status", "code"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_a_head_beyond_a_bound_is_refused_behind_good_ones_and_in_any_segments(
    served: Served, data: bytes, status: int, code: str
) -> None:
    async with wire_to(served.place) as wire:
        whole = post(ONE, event(1)) + post(BATCH, event(2)) + data
        await wire.send_what_is_taken(*cut(whole, 100, *range(300, len(whole), 3000)))
        replies = await wire.rest()
        assert [reply.status for reply in replies] == [200, 202, status]
    assert [event.body for event in await served.take_all()] == [event(1), event(2)]
    assert served.counts().rejected == {code: 1}


NO_EVENT: dict[str, tuple[bytes, str]] = {
    "another path": (post("/nothing", GOOD, *headers(300)), "headers_too_large"),
    "a path like ours": (post("/track/event/" + "x" * 9 * KIB), "uri_too_long"),
    "a path that only begins as ours": (post("/track/event" + "x" * 9 * KIB), "uri_too_long"),
    "another path's query": (post(target("/v1/status", 9 * KIB)), "uri_too_long"),
    "a question": (get("/v1/status", *headers(300)), "headers_too_large"),
    "the page": (get("/", "Cookie: " + "x" * 40 * KIB), "headers_too_large"),
    "HEAD": (get("/", *headers(300), method="HEAD"), "headers_too_large"),
}


@pytest.mark.parametrize(("data", "code"), NO_EVENT.values(), ids=NO_EVENT)
async def test_what_is_no_event_is_refused_so_and_counted_apart(served: Served, data: bytes, code: str) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(data)
        reply = await wire.reply(to=data.partition(b" ")[0].decode())
        assert reply.status == (414 if code == "uri_too_long" else 431)
        assert await wire.rest() == []
    assert served.counts().received == 0
    assert refused(served, code) == 1


ENDLESS: dict[str, tuple[bytes, bytes, set[int]]] = {
    "target": (b"POST /track/event?", b"x" * KIB, {414}),
    "target without a query": (b"POST /", b"x" * KIB, {414}),
    "value": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX: ", b"x" * KIB, {431}),
    "name": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX", b"x" * KIB, {431}),
    "headers": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 50, {431}),
    "spaces before a value": (b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX:", b" " * KIB, {431}),
    "empty lines": (b"", b"\r\n" * 512, {400, 431}),
    "method": (b"P", b"O" * KIB, {400, 431}),
    "version": (b"POST /track/event HTTP/", b"1" * KIB, {400}),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(("start", "more", "statuses"), ENDLESS.values(), ids=ENDLESS)
async def test_a_head_without_an_end_is_refused_when_a_bound_is_passed_and_can_be_read_while_sending(
    served: Served, start: bytes, more: bytes, statuses: set[int], place: int
) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(post(ONE) * place + start, *[more] * 600)
        *before, last = await wire.rest()
        assert [reply.status for reply in before] == [200] * place
        assert last.status in statuses
        assert last.closes
    assert served.counts().accepted == place


async def test_a_client_that_never_stops_to_send_a_refused_head_is_ended(served: Served) -> None:
    async def send_for_ever() -> None:
        async with wire_to(served.place) as wire:
            while True:
                await wire.send(b"POST /" + b"x" * KIB)
                await asyncio.sleep(0.001)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(send_for_ever(), 20)


async def test_many_refused_heads_are_all_counted_and_do_not_fill_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for number in range(100):
            path = BATCH if number % 2 else ONE
            async with wire_to(served.place) as wire:
                await wire.send_what_is_taken(post(path, GOOD, *headers(300)))
                assert [reply.status for reply in await wire.rest()] == [431]
    assert served.counts().rejected == {"headers_too_large": 100}
    assert refused(served, "headers_too_large") == 100
    assert len([record for record in caplog.records if record.name.startswith("forwarder")]) < 10


async def test_reasons_of_refusals_are_there_from_the_start_at_zero(served: Served) -> None:
    for reason in ("headers_too_large", "uri_too_long", "malformed_http", "unsupported_transfer_encoding"):
        assert refused(served, reason) == 0, reason


async def test_what_is_malformed_is_counted_among_the_refusals(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(b"}\r\n\r\n")
        assert [reply.code for reply in await wire.rest()] == ["malformed_http"]
    assert refused(served, "malformed_http") == 1
    assert served.counts().received == 0
