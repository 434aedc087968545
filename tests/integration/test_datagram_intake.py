"""The datagram intake over real sockets: it never stops reading, and counts by its reason whatever it cannot take."""

import asyncio
import logging
import socket
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest

from forwarder.buffer.base import Unavailable
from forwarder.intake.datagram import MAX_PENDING_BYTES, MAX_PENDING_EVENTS, DatagramIntake
from forwarder.settings import IntakeSettings
from tests.fakes.http_intake_harness import until
from tests.fakes.passing_time import let_pass
from tests.fakes.ways_in_harness import WayIn, way_in

BOTH_LOOPS: Final = True
MARK: Final = b"\xef\xbb\xbf"
BAD: Final = b'{"customerId":"c","name":"","time":1700000000000,"attributes":{}}'


def numbered(number: int, *, size_bytes: int = 0) -> bytes:
    event = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Number":%d,"Filling":"' % number
    return event + b"x" * (size_bytes - len(event) - 3) + b'"}}'


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every test here fail that makes the intake or the event loop log an error."""
    yield
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record for record in records if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage(), record.exc_info) for record in errors] == []


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[WayIn]:
    async with way_in("datagram", tmp_path / "datagrams") as running:
        yield running


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        yield one


async def settled(served: WayIn, received: int) -> None:
    await until(lambda: served.counts().received >= received, what=f"{received} events are counted")


async def test_each_datagram_is_an_event_byte_for_byte_in_order(served: WayIn, sender: socket.socket) -> None:
    events = [numbered(number).replace(b":1700", b": 1700") for number in range(2000)]
    for event in events:
        await served.send_datagram(event, sender)
    await settled(served, 2000)
    assert await served.take_all() == events
    counts = served.counts()
    assert (counts.received, counts.accepted, counts.rejected) == (2000, 2000, {})
    assert served.sample("events_accepted", intake="datagram") == 2000


async def test_what_is_wrong_is_counted_by_its_reason_and_blank_ones_are_none(
    served: WayIn, sender: socket.socket
) -> None:
    bracketed = b"[" * 100_000
    for one in (BAD, b"{", b"", b" \r\n", b"[]", b"{}", MARK, b"\xff", bracketed, MARK + numbered(1) + b"\r\n"):
        await served.send_datagram(one, sender)
    await settled(served, 7)
    assert await served.take_all() == [numbered(1)]
    assert served.counts().rejected == {"empty": 1, "malformed_json": 3, "not_an_object": 1, "missing_field": 1}


async def test_one_that_exceeds_the_longest_is_refused_however_long_it_is(
    tmp_path: Path, sender: socket.socket
) -> None:
    async with way_in("datagram", tmp_path / "datagrams", max_line_bytes=50_000) as served:
        for size in (50_000, 50_001, 50_002, 200_000):
            await served.send_datagram(numbered(1, size_bytes=size), sender)
        # Cut off where it is too long it would be an event.
        await served.send_datagram(numbered(2, size_bytes=1000) + b" " * 60_000, sender)
        await settled(served, 5)
        assert await served.take_all() == [numbered(1, size_bytes=50_000)]
        assert served.counts().rejected == {"body_too_large": 4}


async def test_wrapped_elements_with_keys_are_taken_once(served: WayIn, sender: socket.socket) -> None:
    for key, number in (("a", 1), ("b", 2), ("a", 1), ("b", 3)):
        await served.send_datagram(b'{"idempotency_key":"%b","event":%b}' % (key.encode(), numbered(number)), sender)
    await settled(served, 4)
    assert await served.take_all() == [numbered(1), numbered(2)]
    assert served.counts().duplicates == 1
    assert served.counts().rejected == {"idempotency_key_reused": 1}


async def test_what_fits_is_taken_and_the_rest_counted(tmp_path: Path, sender: socket.socket) -> None:
    async with way_in("datagram", tmp_path / "datagrams", max_events=100) as served:
        served.buffer.going_on.clear()
        for number in range(500):
            await served.send_datagram(numbered(number), sender)
        await served.send_datagram(BAD, sender)
        served.buffer.going_on.set()
        await settled(served, 501)
        assert await served.take_all() == [numbered(number) for number in range(100)]
        assert served.counts().rejected == {"buffer_full": 400, "empty": 1}
        for number in range(100):
            await served.send_datagram(numbered(number), sender)
        await settled(served, 601)
        assert served.counts().accepted == 200, "there is room again"


async def test_a_full_buffer_costs_one_try_for_each(tmp_path: Path, sender: socket.socket) -> None:
    async with way_in("datagram", tmp_path / "datagrams", max_events=1) as served:
        for number in range(1000):
            await served.send_datagram(numbered(number), sender)
        await settled(served, 1000)
        assert served.counts().rejected == {"buffer_full": 999}
        assert len(served.buffer.puts) < 1100


async def test_an_event_that_could_never_fit_is_refused_alone(tmp_path: Path, sender: socket.socket) -> None:
    async with way_in("datagram", tmp_path / "datagrams", max_bytes=5000) as served:
        served.buffer.going_on.clear()
        for number, size in enumerate((0, 5001, 0, 3000)):
            await served.send_datagram(numbered(number, size_bytes=size), sender)
        served.buffer.going_on.set()
        await settled(served, 4)
        assert await served.take_all() == [numbered(0), numbered(2), numbered(3, size_bytes=3000)]
        assert served.counts().rejected == {"body_too_large": 1}


async def test_while_the_disk_is_full_they_are_refused(served: WayIn, sender: socket.socket) -> None:
    served.buffer.failing = Unavailable()
    for number in range(100):
        await served.send_datagram(numbered(number), sender)
    await settled(served, 100)
    assert served.counts().rejected == {"buffer_unavailable": 100}
    served.buffer.failing = None
    await served.send_datagram(numbered(1), sender)
    await settled(served, 101)
    assert await served.take_all() == [numbered(1)]


async def test_reading_never_stops_and_what_waits_is_bounded_in_number(served: WayIn, sender: socket.socket) -> None:
    served.buffer.going_on.clear()
    await served.send_datagram(numbered(0), sender)
    await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
    sent = MAX_PENDING_EVENTS + 500
    for number in range(1, sent + 1):
        await served.send_datagram(numbered(number), sender)
    await until(lambda: served.counts().rejected == {"buffer_full": 500}, what="what is too much is refused")
    served.buffer.going_on.set()
    await settled(served, sent + 1)
    assert await served.take_all() == [numbered(number) for number in range(1 + MAX_PENDING_EVENTS)]


async def test_what_waits_is_bounded_in_bytes(served: WayIn, sender: socket.socket) -> None:
    served.buffer.going_on.clear()
    await served.send_datagram(numbered(0), sender)
    await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
    for number in range(20):
        await served.send_datagram(numbered(number, size_bytes=100_000), sender)
    kept = MAX_PENDING_BYTES // 100_000
    await until(lambda: served.counts().rejected == {"buffer_full": 20 - kept}, what="what is too much is refused")
    served.buffer.going_on.set()
    await settled(served, 21)
    assert served.counts().accepted == 1 + kept


async def test_a_burst_of_large_ones_is_taken(served: WayIn, sender: socket.socket) -> None:
    at_once = MAX_PENDING_BYTES // 100_000  # as many as may wait, however slow the machine is
    for burst in range(4):
        for number in range(at_once):
            await served.send_datagram(numbered(number, size_bytes=100_000), sender)
        await settled(served, (1 + burst) * at_once)
    assert served.counts().accepted == 4 * at_once


async def test_few_are_put_together_but_do_not_wait_for_long(served: WayIn, sender: socket.socket) -> None:
    for number in range(5):
        await served.send_datagram(numbered(number), sender)
    await let_pass(0.5)
    assert served.counts().received == 5
    assert served.buffer.puts == [5]


async def test_a_thousand_senders_come_and_go(served: WayIn) -> None:
    for number in range(1000):
        await served.send_datagram(numbered(number))
    await settled(served, 1000)
    assert await served.take_all() == [numbered(number) for number in range(1000)]


async def test_others_have_their_turn_in_a_flood(served: WayIn) -> None:
    enough = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(str(served.path))
            while not enough.is_set():
                one.send(numbered(1))

    flooding = asyncio.create_task(asyncio.to_thread(flood))
    try:
        async with asyncio.timeout(10):
            while served.counts().received < 1000:
                await asyncio.sleep(0.01)  # to count takes long enough to keep the other thread waiting
            for _ in range(50):
                await asyncio.sleep(0.001)
    finally:
        enough.set()
        await flooding


async def test_on_close_what_was_sent_is_taken_and_who_sends_later_is_told(
    tmp_path: Path, sender: socket.socket
) -> None:
    async with way_in("datagram", tmp_path / "datagrams") as served:
        served.buffer.going_on.clear()
        await served.send_datagram(numbered(0), sender)
        await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
        sender.setblocking(False)
        sent = 1
        for number in range(1, 8):  # the loop has no turn, so the kernel holds them
            sender.sendto(numbered(number), str(served.path))
            sent += 1
        closing = asyncio.create_task(served.intake.close())
        await asyncio.sleep(0.05)
        with pytest.raises((BrokenPipeError, ConnectionRefusedError)):
            sender.sendto(numbered(9), str(served.path))
        served.buffer.going_on.set()
        await closing
        assert await served.take_all() == [numbered(number) for number in range(sent)]
        await served.intake.close()


async def test_on_close_an_empty_datagram_is_not_the_end(tmp_path: Path, sender: socket.socket) -> None:
    async with way_in("datagram", tmp_path / "datagrams") as served:
        events = [*(numbered(number, size_bytes=100_000) for number in range(3)), numbered(4)]
        for one in (*events[:3], b"", events[3]):  # the first three are as much as is read at once
            sender.sendto(one, str(served.path))
        await served.intake.close()
        assert await served.take_all() == events


async def test_a_sender_that_waits_for_room_when_it_closes_is_told_and_nothing_is_lost_uncounted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "datagrams"

    def send_until_refused() -> int:
        sent = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.connect(str(path))
            try:
                while True:
                    one.send(numbered(sent))
                    sent += 1
            except (BrokenPipeError, ConnectionError):
                return sent

    async with way_in("datagram", path) as served:
        sending = asyncio.create_task(asyncio.to_thread(send_until_refused))
        await until(lambda: served.counts().received > 1000, what="it sends")
        await served.intake.close()
        assert served.counts().received == await sending


async def test_closing_is_bounded_and_what_is_left_is_refused(tmp_path: Path, sender: socket.socket) -> None:
    async with way_in("datagram", tmp_path / "datagrams") as served:
        served.buffer.going_on.clear()
        await served.send_datagram(numbered(0), sender)
        await until(lambda: len(served.buffer.puts) == 1, what="a put is under way")
        for number in range(1, 101):
            await served.send_datagram(numbered(number), sender)
        closing = asyncio.create_task(served.intake.close())
        await let_pass(5)
        async with asyncio.timeout(20):
            await closing
        served.buffer.going_on.set()
        await settled(served, 101)
        assert served.counts().accepted == 1
        assert served.counts().rejected == {"shutting_down": 100}


async def test_the_socket_has_its_mode(served: WayIn) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o660


async def test_an_intake_that_was_never_opened_can_be_closed(served: WayIn) -> None:
    intake = DatagramIntake(IntakeSettings(), acceptor=None, telemetry=served.telemetry)  # type: ignore[arg-type]
    await intake.close()
