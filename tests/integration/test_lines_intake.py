"""The lines intake over real sockets: in order, never more than it can hold, and every refused line told or counted."""

import asyncio
import gc
import json
import logging
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.buffer.base import Unavailable
from forwarder.intake.line_acceptor import MAX_PENDING_ERROR_BYTES
from forwarder.intake.line_connections import Received
from forwarder.intake.lines import CHUNK_BYTES, LinesIntake
from tests.fakes.http_intake_harness import until
from tests.fakes.passing_time import let_pass
from tests.fakes.ways_in_harness import IDLE_SECONDS, WayIn, way_in

BOTH_LOOPS: Final = True
BAD: Final = b'{"customerId":"c","name":"","time":1700000000000,"attributes":{}}'


def numbered(number: int, *, size_bytes: int = 0) -> bytes:
    event = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Number":%d,"Filling":"' % number
    return event + b"x" * (size_bytes - len(event) - 3) + b'"}}'


def keyed(key: str, event: bytes) -> bytes:
    return b'{"idempotency_key":"%b","event":%b}' % (key.encode(), event)


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every test here fail that makes the intake or the event loop log an error."""
    yield
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record for record in records if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage(), record.exc_info) for record in errors] == []


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[WayIn]:
    async with way_in("lines", tmp_path / "lines") as running:
        yield running


def write(path: Path, text: bytes, *, closing: bool = True) -> socket.socket:
    """Write lines as one that never reads does, with all of them in the kernel at the end."""
    raw = socket.socket(socket.AF_UNIX)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    raw.connect(str(path))
    raw.settimeout(30)
    raw.sendall(text)
    if closing:
        raw.close()
    return raw


def write_until_refused(path: Path, line: bytes) -> int:
    """Return how many bytes the intake let one write."""
    text = line * 1000
    written = 0
    with socket.socket(socket.AF_UNIX) as raw, suppress(BrokenPipeError, ConnectionError):
        raw.connect(str(path))
        raw.settimeout(10)
        while True:
            written += raw.send(text[written % len(line) :])
    return written


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled(served: WayIn, received: int) -> None:
    await until(lambda: served.counts().received >= received, what=f"{received} events are counted")


async def test_a_bug_closes_the_connection_even_in_the_middle_of_another_line(
    served: WayIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(served.intake, LinesIntake)

    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(served.intake.acceptor, "accept", broken)
    client = await served.connect()
    client.writer.write(numbered(1) + b"\n" + numbered(2))
    assert await client.reader.read() == b"", "the connection is closed"
    assert not served.intake.connections
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    caplog.clear()


# What is a line


async def test_lines_arrive_in_order_byte_for_byte_and_nothing_is_answered(served: WayIn) -> None:
    client = await served.connect()
    events = [numbered(number).replace(b":1700", b": 1700") for number in range(2000)]
    await client.send(*events)
    client.end()
    assert await client.errors() == {}
    assert await served.take_all() == events
    counts = served.counts()
    assert (counts.received, counts.accepted, counts.rejected) == (2000, 2000, {})
    assert served.sample("events_accepted", intake="lines") == 2000


async def test_each_refused_line_is_told_by_its_number_with_all_that_is_wrong(served: WayIn) -> None:
    client = await served.connect()
    await client.send(numbered(1), b"", BAD, b"   ", b"{", numbered(2), b"[]", b"{}")
    client.end()
    assert await client.errors() == {
        3: ["empty"],
        5: ["malformed_json"],
        7: ["not_an_object"],
        8: ["missing_field"] * 4,
    }
    assert await served.take_all() == [numbered(1), numbered(2)]
    assert served.counts().rejected == {"empty": 1, "malformed_json": 1, "not_an_object": 1, "missing_field": 1}
    assert served.counts().received == 6, "blank lines are no events"


async def test_an_error_is_described_as_over_http(served: WayIn) -> None:
    client = await served.connect()
    await client.send(BAD)
    line = await client.reader.readline()
    assert json.loads(line) == {
        "line": 1,
        "errors": [{"code": "empty", "field": "name", "message": "name must not be empty"}],
    }


async def test_carriage_returns_and_white_space_are_not_part_of_an_event(served: WayIn) -> None:
    client = await served.connect()
    client.send_soon(b"\r\n" + numbered(1) + b"\r\n\t " + numbered(2) + b" \r\n\r\n")
    client.end()
    assert await client.errors() == {}
    assert await served.take_all() == [numbered(1), numbered(2)]


async def test_a_byte_order_mark_before_a_line_is_no_part_of_it(served: WayIn) -> None:
    client = await served.connect()
    mark = b"\xef\xbb\xbf"
    await client.send(mark + numbered(1), numbered(2), mark, mark + b" " + numbered(3), b"{" + mark, mark * 2)
    await client.send(mark, end=b"")
    client.end()
    assert await client.errors() == {5: ["malformed_json"], 6: ["malformed_json"]}
    assert await served.take_all() == [numbered(1), numbered(2), numbered(3)]


async def test_the_last_line_needs_no_newline(served: WayIn) -> None:
    client = await served.connect()
    client.send_soon(numbered(1) + b"\n" + numbered(2))
    client.end()
    assert await client.errors() == {}
    assert await served.take_all() == [numbered(1), numbered(2)]


async def test_a_last_line_that_was_cut_off_is_malformed(served: WayIn) -> None:
    client = await served.connect()
    client.send_soon(numbered(1) + b"\n" + numbered(2)[:-5])
    client.end()
    assert await client.errors() == {2: ["malformed_json"]}
    assert await served.take_all() == [numbered(1)]


async def test_bytes_that_come_one_by_one_make_lines(served: WayIn) -> None:
    client = await served.connect()
    events = [numbered(number) for number in range(3)]
    for byte in b"\n".join(events) + b"\n":
        await client.send(bytes([byte]), end=b"")
        await asyncio.sleep(0)
    await settled(served, 3)
    assert await served.take_all() == events


async def test_100000_nested_brackets_are_one_refused_line(served: WayIn) -> None:
    client = await served.connect()
    await client.send(b"[" * 100_000, numbered(1))
    assert await client.error() == (1, ["malformed_json"])
    await settled(served, 2)
    assert await served.take_all() == [numbered(1)]


async def test_lines_of_every_kind_in_pieces_of_every_size_come_to_the_same(served: WayIn) -> None:
    chance = random.Random(5)
    sent = [
        chance.choice([numbered(number), BAD, b"", b" ", b"{", numbered(number, size_bytes=chance.randrange(90_000))])
        for number in range(300)
    ]
    client = await served.connect()
    text = b"\n".join(sent)
    while text:
        size = chance.choice([1, 10, 1000, 65_536, 100_000])
        await client.send(text[:size], end=b"")
        text = text[size:]
        if chance.random() < 0.2:
            await asyncio.sleep(0.001)
    client.end()
    assert await client.errors() == {
        number: ["empty" if line == BAD else "malformed_json"]
        for number, line in enumerate(sent, 1)
        if line in (BAD, b"{")
    }
    assert await served.take_all() == [line for line in sent if line.startswith(b'{"') and line != BAD]


async def test_wrapped_elements_with_keys_are_taken_once(served: WayIn) -> None:
    client = await served.connect()
    await client.send(keyed("a", numbered(1)), keyed("b", numbered(2)), keyed("a", numbered(1)))
    await settled(served, 3)
    other = await served.connect()
    await other.send(keyed("b", numbered(2)), b'{"idempotency_key":"","event":{}}')
    assert await other.error() == (2, ["empty"])
    assert await served.take_all() == [numbered(1), numbered(2)]
    counts = served.counts()
    assert (counts.received, counts.accepted, counts.duplicates) == (5, 2, 2)


async def test_a_key_that_comes_again_with_another_event_is_told_of_also_where_very_many_are(served: WayIn) -> None:
    client = await served.connect()
    await client.send(keyed("a", numbered(0)))
    await settled(served, 1)
    await client.send(*(keyed("a", numbered(number)) for number in range(1, 1101)), keyed("a", numbered(0)))
    await settled(served, 1102)
    client.end()
    assert await client.errors() == {number + 1: ["idempotency_key_reused"] for number in range(1, 1101)}
    counts = served.counts()
    assert (counts.accepted, counts.duplicates, counts.rejected) == (1, 1, {"idempotency_key_reused": 1100})


async def test_a_line_of_the_longest_length_passes_and_a_longer_one_is_refused_once(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_line_bytes=100_000) as served:
        client = await served.connect()
        longest = numbered(1, size_bytes=100_000)
        for one in (longest, numbered(2, size_bytes=100_001), b"x" * 5_000_000, longest + b"\r", numbered(3)):
            await client.send(one)
        client.end()
        assert await client.errors() == {2: ["body_too_large"], 3: ["body_too_large"]}
        assert await served.take_all() == [longest, longest, numbered(3)]
        assert served.counts().rejected == {"body_too_large": 2}


async def test_a_line_that_is_too_long_and_never_ends_is_refused_once(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_line_bytes=1024) as served:
        client = await served.connect()
        await client.send(numbered(1), b"x" * 1_000_000)
        client.send_soon(b"y" * 3000)
        client.end()
        assert await client.errors() == {2: ["body_too_large"], 3: ["body_too_large"]}
        assert served.counts().rejected == {"body_too_large": 2}


async def test_a_line_too_long_is_found_also_among_short_ones(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_line_bytes=1024) as served:
        client = await served.connect()
        await client.send(numbered(1), numbered(2, size_bytes=1025), b"{", numbered(3, size_bytes=1024))
        client.end()
        assert await client.errors() == {2: ["body_too_large"], 3: ["malformed_json"]}
        assert await served.take_all() == [numbered(1), numbered(3, size_bytes=1024)]


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\r", b"\n")), max_size=30))
def test_what_was_read_is_whole_lines_and_a_beginning(chunks: list[bytes]) -> None:
    received = Received(max_line_bytes=1000)
    found = b""
    for chunk in chunks:
        assert received.add(memoryview(chunk)) is (b"\n" in chunk)
        found += received.take()
    sent = b"".join(chunks)
    whole, newline, beginning = sent.rpartition(b"\n")
    assert found == whole + newline
    assert received.has_beginning is bool(beginning)
    received.end()
    assert found + received.take() == (sent + b"\n" if beginning else sent)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_of_a_long_line_only_its_beginning_is_kept(sizes: list[int]) -> None:
    received = Received(max_line_bytes=20)
    for size in sizes:
        received.add(memoryview(b"x" * size))
        assert len(received._bytes) <= 22
    received.add(memoryview(b"\nnext\n"))
    first, second, rest = received.take().split(b"\n")
    assert (len(first) > 20) is (sum(sizes) > 20)
    assert (second, rest) == (b"next", b"")


# Error lines that nobody reads


async def test_a_client_that_never_reads_loses_error_lines_counted_and_nothing_grows(served: WayIn) -> None:
    client = await served.connect()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed gives it the wrong class
    for _ in range(40):
        await client.send(*[BAD] * 500)
        await asyncio.sleep(0)
    await client.send(numbered(1))
    await settled(served, 20_001)
    assert await served.take_all() == [numbered(1)], "reading goes on"
    assert served.counts().rejected == {"empty": 20_000}
    (connection,) = served.intake.connections  # type: ignore[union-attr]
    await until(lambda: connection.task is None, what="it has been told")
    lost = served.sample("error_lines_lost")
    assert 10_000 < lost < 20_000
    assert len(connection._errors.unsent) <= MAX_PENDING_ERROR_BYTES
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    client.end()
    told = await client.errors()
    assert len(told) == 20_000 - lost
    assert list(told) == list(range(1, len(told) + 1)), "the first ones were kept"


async def test_a_client_that_reads_misses_none(served: WayIn) -> None:
    client = await served.connect()
    bad = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{%b}}' % b",".join(
        b'"a%d":null' % number for number in range(20)
    )
    for first in range(1, 500, 60):
        await client.send(*[bad] * 60)  # more violations than are listed of one request
        told = [await client.error() for _ in range(60)]
        assert told == [(number, ["attribute_type_not_allowed"] * 20) for number in range(first, first + 60)]
    assert served.sample("error_lines_lost") == 0


async def test_error_lines_that_nobody_reads_at_the_end_hold_no_connection_for_long(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", body_timeout_seconds=2) as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(10):
            await client.send(*[BAD] * 500)
        client.end()
        await settled(served, 5000)
        await until(lambda: not served.intake.connections, what="it is closed")  # type: ignore[union-attr]


# Clients that do not wait


async def test_who_writes_and_closes_without_reading_loses_nothing(served: WayIn) -> None:
    text = b"\n".join(BAD if one % 10 == 0 else numbered(one) for one in range(3000)) + b"\n"
    for _ in range(10):  # the loop has no turn, so the kernel holds it all
        write(served.path, text)
    await settled(served, 30_000)
    counts = served.counts()
    assert (counts.received, counts.accepted, counts.rejected) == (30_000, 27_000, {"empty": 3000})
    assert served.sample("error_lines_lost") > 0


async def test_who_closes_without_reading_is_held_back_by_a_full_buffer_and_loses_nothing(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=100) as served:
        events = [numbered(number) for number in range(3000)]
        await asyncio.to_thread(write, served.path, b"\n".join([BAD, *events]))
        await until(lambda: served.counts().accepted == 100, what="the buffer is full")
        await let_pass(IDLE_SECONDS)
        (connection,) = served.intake.connections  # type: ignore[union-attr]
        assert connection._received.whole_bytes <= CHUNK_BYTES + len(events[-1])
        taken: list[bytes] = []
        while len(taken) < len(events):
            taken += [event.body for event in await served.take(max_events=100)]
        assert taken == events
        assert served.counts().rejected == {"empty": 1}


async def test_who_reads_no_error_lines_may_go_on_writing(served: WayIn) -> None:
    with write(served.path, BAD + b"\n", closing=False) as raw:
        raw.shutdown(socket.SHUT_RD)
        for number in range(100):
            raw.sendall(numbered(number) + b"\n" + BAD + b"\n")
            await settled(served, 3 + 2 * number)
    assert await served.take_all() == [numbered(number) for number in range(100)]
    assert served.counts().rejected == {"empty": 101}
    assert served.sample("error_lines_lost") > 90


# A full buffer


async def test_a_full_buffer_stops_reading_and_nothing_is_refused(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=100) as served:
        client = await served.connect()
        events = [numbered(number) for number in range(20_000)]
        client.send_soon(b"\n".join(events) + b"\n")
        client.end()
        await until(lambda: served.counts().accepted == 100, what="the buffer is full")
        await let_pass(IDLE_SECONDS)
        assert client.writer.transport.get_write_buffer_size() > 1_000_000, "the client is held back"
        (connection,) = served.intake.connections  # type: ignore[union-attr]
        assert connection._received.whole_bytes <= CHUNK_BYTES + len(events[-1])
        taken: list[bytes] = []
        while len(taken) < len(events):
            taken += [event.body for event in await served.take(max_events=100)]
        assert taken == events
        assert await client.errors() == {}
        counts = served.counts()
        assert (counts.received, counts.accepted, counts.rejected) == (20_000, 20_000, {})


async def test_waiting_for_room_costs_little(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=10) as served:
        clients = [await served.connect() for _ in range(50)]
        for client in clients:
            await client.send(*(numbered(number) for number in range(20)))
        await until(lambda: served.counts().accepted == 10, what="the buffer is full")
        await let_pass(IDLE_SECONDS)
        served.buffer.puts.clear()
        await let_pass(1)
        assert 5 <= len(served.buffer.puts) <= 20, "one asks for all, every tenth of a second"
        assert set(served.buffer.puts) == {1}
        taken = 0
        while taken < 1000:
            taken += len(await served.take())
        assert served.counts().accepted == 1000


async def test_a_batch_that_fits_in_part_goes_in_part_and_in_order(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=37) as served:
        client = await served.connect()
        await client.send(*(numbered(number) for number in range(100)))
        await until(lambda: served.counts().accepted == 37, what="all that fits is in")
        assert [event.body for event in await served.take(7)] == [numbered(number) for number in range(7)]
        await until(lambda: served.counts().accepted == 44, what="as many as were taken are in")


async def test_an_event_that_could_never_fit_is_refused_alone(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_bytes=5000) as served:
        client = await served.connect()
        sent = [numbered(1), numbered(2, size_bytes=5001), numbered(3), numbered(4, size_bytes=5000), numbered(5)]
        await client.send(*sent)
        client.end()
        taken: list[bytes] = []
        while len(taken) < 4:
            taken += [event.body for event in await served.take()]
        assert taken == [sent[0], sent[2], sent[3], sent[4]]
        assert await client.errors() == {2: ["body_too_large"]}
        assert served.counts().rejected == {"body_too_large": 1}


async def test_what_is_refused_while_the_buffer_is_full_is_told_once(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=2) as served:
        client = await served.connect()
        await client.send(BAD, numbered(1), numbered(2), BAD, numbered(3), BAD, keyed("k", numbered(4)))
        client.end()
        taken: list[bytes] = []
        while len(taken) < 4:
            taken += [event.body for event in await served.take(1)]
        assert taken == [numbered(number) for number in (1, 2, 3, 4)]
        assert await client.errors() == {1: ["empty"], 4: ["empty"], 6: ["empty"]}
        assert served.counts().rejected == {"empty": 3}


async def test_while_the_disk_is_full_lines_wait(served: WayIn) -> None:
    served.buffer.failing = Unavailable()
    client = await served.connect()
    await client.send(*(numbered(number) for number in range(10)))
    await let_pass(IDLE_SECONDS)
    assert served.counts().received == 0
    served.buffer.failing = None
    await settled(served, 10)
    assert await served.take_all() == [numbered(number) for number in range(10)]


async def test_others_go_on_while_one_waits(served: WayIn) -> None:
    served.buffer.going_on.clear()
    slow = await served.connect()
    await slow.send(numbered(1))
    await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
    other = await served.connect()
    await other.send(BAD)
    assert await other.error() == (1, ["empty"])
    served.buffer.going_on.set()
    await settled(served, 2)


async def test_of_one_connection_one_put_is_under_way_and_one_chunk_is_read_ahead(served: WayIn) -> None:
    served.buffer.going_on.clear()
    client = await served.connect()
    events = [numbered(number) for number in range(20_000)]
    client.send_soon(b"\n".join(events) + b"\n")
    await let_pass(IDLE_SECONDS)
    assert len(served.buffer.puts) == 1
    (connection,) = served.intake.connections  # type: ignore[union-attr]
    assert 0 < connection._received.whole_bytes <= CHUNK_BYTES + len(events[-1])
    served.buffer.going_on.set()
    await settled(served, 20_000)
    assert await served.take_all() == events


# Connections


async def test_at_the_cap_the_one_without_a_line_for_longest_is_closed(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_connections=3) as served:
        first, second, third = [await served.connect() for _ in range(3)]
        await until(lambda: len(served.intake.connections) == 3, what="all are there")  # type: ignore[union-attr]
        await first.send(numbered(1))
        await settled(served, 1)
        await second.send(b"{", end=b"")  # not a whole line
        await asyncio.sleep(0.05)
        fourth = await served.connect()
        assert await second.errors() == {1: ["too_slow"]}
        fifth = await served.connect()
        assert await third.has_ended()
        for client in (first, fourth, fifth):
            await client.send(BAD)
            assert (await client.error())[1] == ["empty"]
        assert served.closed() == {"too_many": 2}
        assert served.counts().rejected == {"empty": 3, "too_slow": 1}


async def test_what_was_read_of_a_connection_closed_for_others_is_taken(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_connections=1, max_events=1) as served:
        first = await served.connect()
        await first.send(*(numbered(number) for number in range(50)))
        await until(lambda: served.counts().accepted == 1, what="the buffer is full")
        second = await served.connect()
        assert await first.has_ended()
        await second.send(numbered(50))
        taken: list[bytes] = []
        while len(taken) < 51:
            taken += [event.body for event in await served.take()]
        assert sorted(taken) == sorted(numbered(number) for number in range(51))


async def test_what_the_kernel_holds_of_a_connection_closed_for_others_is_taken(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_connections=1, max_events=1000) as served:
        events = [numbered(number) for number in range(3000)]
        with write(served.path, b"\n".join(events) + b"\n{", closing=False) as raw:
            await until(lambda: served.counts().accepted == 1000, what="the buffer is full")
            await served.connect()
            await until(lambda: served.closed() == {"too_many": 1}, what="it is closed")
            with pytest.raises(BrokenPipeError):
                raw.sendall(b"{")
        await let_pass(IDLE_SECONDS)
        assert isinstance(served.intake, LinesIntake)
        (connection,) = served.intake.gone
        assert connection._received.whole_bytes <= CHUNK_BYTES + len(events[-1])
        taken: list[bytes] = []
        while len(taken) < len(events):
            taken += [event.body for event in await served.take()]
        assert taken == events
        await until(lambda: served.counts().rejected == {"too_slow": 1}, what="the rest is refused")
        assert not served.intake.gone
        assert connection._client.fileno() < 0


async def test_those_that_are_gone_and_wait_for_room_are_bounded_too(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_connections=5, max_events=1) as served:
        assert isinstance(served.intake, LinesIntake)
        for number in range(40):
            client = await served.connect()
            with suppress(ConnectionError):
                await client.send(numbered(number))
            await client.close()
            await asyncio.sleep(0.005)
        intake = served.intake
        assert len(intake.gone) <= 10
        await until(lambda: served.closed().get("too_many", 0) > 20, what="they are refused")
        while intake.connections or intake.gone:
            if served.buffer.occupancy().events:
                await served.take()
            await asyncio.sleep(0.01)
        client = await served.connect()
        await client.send(BAD)
        assert await client.error() == (1, ["empty"])


async def test_a_client_that_is_gone_has_what_was_read_taken(served: WayIn) -> None:
    served.buffer.going_on.clear()
    client = await served.connect()
    await client.send(*(numbered(number) for number in range(100)), BAD)
    await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
    await client.close()
    await asyncio.sleep(0.05)
    served.buffer.going_on.set()
    await settled(served, 101)
    assert await served.take_all() == [numbered(number) for number in range(100)]
    assert served.counts().rejected == {"empty": 1}


async def test_a_client_that_ends_while_the_buffer_is_full_has_all_taken(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=100) as served:
        client = await served.connect()
        await client.send(*(numbered(number) for number in range(600)))
        await client.close()
        taken = 0
        while taken < 600:
            taken += len(await served.take())
        assert served.counts().accepted == 600


async def test_a_thousand_connections_come_and_go(served: WayIn) -> None:
    files = open_files()

    async def visit(number: int) -> None:
        client = await served.connect()
        await client.send(numbered(number), end=b"" if number % 3 else b"\n")
        if number % 2:
            client.end()
            assert await client.errors() == {}
        await client.close()

    for some in range(0, 1000, 100):
        await asyncio.gather(*(visit(number) for number in range(some, some + 100)))
    await settled(served, 1000)
    assert sorted(await served.take_all()) == sorted(numbered(number) for number in range(1000))
    assert isinstance(served.intake, LinesIntake)
    intake = served.intake
    await until(lambda: not intake.connections and not intake.gone, what="none is left")
    gc.collect()
    assert open_files() <= files + 2


async def test_a_thousand_connections_at_once_are_served(served: WayIn) -> None:
    clients = [await served.connect() for _ in range(500)]
    for number, client in enumerate(clients):
        client.send_soon(b"".join(numbered(number * 10 + one) + b"\n" for one in range(10)))
    await settled(served, 5000)
    assert sorted(await served.take_all()) == sorted(numbered(number) for number in range(5000))


# Slow clients


async def test_half_a_line_that_stays_half_is_refused_and_the_connection_closed(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", body_timeout_seconds=30) as served:
        client = await served.connect()
        await client.send(numbered(1))
        await client.send(numbered(2)[:20], end=b"")
        await let_pass(25)
        assert served.closed() == {}
        await let_pass(10)
        assert await client.errors() == {2: ["too_slow"]}
        assert served.closed() == {"body_timeout": 1}
        assert served.counts().rejected == {"too_slow": 1}
        assert await served.take_all() == [numbered(1)]


async def test_a_line_may_not_be_dribbled_for_longer(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", body_timeout_seconds=30) as served:
        client = await served.connect()
        seconds = 0
        while not served.closed():
            await client.send(b"x", end=b"")
            await let_pass(1)
            seconds += 1
            assert seconds <= 35
        assert await client.errors() == {1: ["too_slow"]}
        assert served.closed() == {"body_timeout": 1}


async def test_silence_between_lines_may_last(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", body_timeout_seconds=10) as served:
        client = await served.connect()
        await let_pass(30)
        await client.send(BAD)
        assert await client.error() == (1, ["empty"])
        await let_pass(30)
        await client.send(BAD)
        assert await client.error() == (2, ["empty"])
        assert served.closed() == {}


async def test_who_waits_for_room_is_not_too_slow(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", body_timeout_seconds=20, max_events=1) as served:
        client = await served.connect()
        events = [numbered(number, size_bytes=1000) for number in range(2000)]
        client.send_soon(b"\n".join(events) + b"\n")
        client.end()
        await let_pass(60)
        taken: list[bytes] = []
        served.buffer._settings = type(served.buffer._settings)(max_events=1_000_000)
        while len(taken) < len(events):
            taken += [event.body for event in await served.take()]
        assert taken == events
        assert served.closed() == {}


async def test_slow_clients_are_not_in_the_way_of_a_good_one(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_connections=300) as served:
        slow = [await served.connect() for _ in range(290)]
        for client in slow:
            await client.send(b"{", end=b"")
        good = await served.connect()
        for number in range(100):
            await good.send(BAD)
            assert await good.error() == (number + 1, ["empty"])
        assert served.closed() == {}


# Closing


async def close_while_time_passes(served: WayIn, *, seconds: float, not_before: float = 0.0) -> None:
    """Close the intake, which must take no longer, and no less."""
    closing = asyncio.create_task(served.intake.close())
    if not_before:
        await let_pass(not_before)
        assert not closing.done()
    await let_pass(seconds - not_before)
    async with asyncio.timeout(20):
        await closing


async def test_on_close_whole_lines_are_put_and_half_ones_refused(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines") as served:
        served.buffer.going_on.clear()
        client = await served.connect()
        await client.send(numbered(1))
        await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
        await client.send(numbered(2), numbered(3)[:30], end=b"\n")
        await client.send(numbered(4)[:10], end=b"")
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(served.intake.close())
        await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, FileNotFoundError)):
            await served.connect()
        served.buffer.going_on.set()
        await closing
        assert await client.errors() == {3: ["malformed_json"], 4: ["shutting_down"]}
        assert await served.take_all() == [numbered(1), numbered(2)]
        assert served.counts().rejected == {"malformed_json": 1, "shutting_down": 1}
        await served.intake.close()


async def test_on_close_all_that_was_written_is_taken_also_of_those_not_accepted_yet(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines") as served:
        text = b"\n".join(numbered(number) for number in range(100))  # a busy machine, too, takes them in time
        accepted = [write(served.path, b"", closing=False) for _ in range(10)]
        await let_pass(IDLE_SECONDS)
        for raw in accepted:  # the loop has no turn until it closes, so the kernel holds it all
            raw.sendall(text + b"\n")
        waiting = [write(served.path, text, closing=number % 2 == 0) for number in range(10)]
        await served.intake.close()
        for raw in (*accepted, *waiting):
            raw.close()
        counts = served.counts()
        assert (counts.received, counts.accepted, counts.rejected) == (2000, 1995, {"shutting_down": 5})


async def test_who_goes_on_writing_does_not_keep_it_from_closing_and_all_is_counted(tmp_path: Path) -> None:
    line = numbered(1) + b"\n"
    async with way_in("lines", tmp_path / "lines") as served:
        writing = [asyncio.create_task(asyncio.to_thread(write_until_refused, served.path, line)) for _ in range(3)]
        await until(lambda: served.counts().received > 5000, what="they write")
        async with asyncio.timeout(10):
            await served.intake.close()
        written = await asyncio.gather(*writing)
        counts = served.counts()
        assert counts.accepted == sum(size // len(line) for size in written)
        assert counts.rejected.get("shutting_down", 0) == sum(size % len(line) > 0 for size in written)


async def test_on_close_what_the_kernel_holds_is_refused_where_there_is_no_room(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=10) as served:
        text = b"\n".join(numbered(number) for number in range(3000)) + b"\n"
        for _ in range(5):
            write(served.path, text)
        await until(lambda: served.counts().accepted == 10, what="the buffer is full")
        await close_while_time_passes(served, seconds=4)
        counts = served.counts()
        assert (counts.received, counts.accepted) == (15_000, 10)
        assert counts.rejected == {"shutting_down": 14_990}


async def test_on_close_what_finds_no_room_is_refused_in_time(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines", max_events=10) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            await client.send(*(numbered(number) for number in range(100)))
        await until(lambda: served.counts().accepted == 10, what="the buffer is full")
        await let_pass(0.05)
        await close_while_time_passes(served, seconds=3, not_before=1.5)
        told = [await client.errors() for client in clients]
        counts = served.counts()
        assert (counts.received, counts.accepted) == (300, 10)
        assert counts.rejected == {"shutting_down": 290}
        assert sum(map(len, told)) == 290
        assert {code for errors in told for codes in errors.values() for code in codes} == {"shutting_down"}


async def test_closing_is_bounded_where_a_put_hangs(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines") as served:
        served.buffer.going_on.clear()
        client = await served.connect()
        await client.send(numbered(1))
        await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
        await client.send(numbered(2))
        await let_pass(IDLE_SECONDS)
        await close_while_time_passes(served, seconds=5)
        served.buffer.going_on.set()
        await settled(served, 2)
        assert served.counts().accepted == 1
        assert served.counts().rejected == {"shutting_down": 1}


async def test_closing_does_not_wait_for_clients_that_do_not_read(tmp_path: Path) -> None:
    async with way_in("lines", tmp_path / "lines") as served:
        client = await served.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(10):
            await client.send(*[BAD] * 500)
        await settled(served, 5000)
        await close_while_time_passes(served, seconds=3)


async def test_an_intake_that_was_never_opened_can_be_closed(served: WayIn) -> None:
    intake = LinesIntake(served.intake.settings, acceptor=None, telemetry=served.telemetry)  # type: ignore[arg-type, union-attr]
    await intake.close()


async def test_a_raw_socket_that_resets_is_harmless(served: WayIn) -> None:
    for number in range(50):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(served.path))
            raw.sendall(BAD + b"\n" + numbered(number) + b"\n")
            await asyncio.sleep(0)
        # It is closed with what it was told unread, which resets the connection.
    await settled(served, 100)
    assert len(await served.take_all()) == 50
