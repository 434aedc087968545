"""Crowds at the door: none of them takes more memory than is stated, nor the place of who comes beside them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.system.crowds import (
    DESCRIPTORS,
    KINDS,
    LIMITED,
    MIB,
    ROOM_FOR_BATCHES,
    TRIES,
    UNTIL_THEN,
    Served,
    address_of,
    growth_by_bodies_in_part,
    large_batch,
    posting_batches,
    serve_beside_silence,
)
from tests.system.processes import COMMAND, Daemon, example_event, running_daemon, running_sandbox, starting_daemon

NOWHERE = "http://127.0.0.1:9/track/event"
MOST_BYTES = 256 * MIB
BATCHES = 40
HELD = 300


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    async with running_daemon(tmp_path, NOWHERE, shutdown__drain_seconds=0, **ROOM_FOR_BATCHES) as running:
        yield running
        assert running.process.returncode is None, "it lives"
        assert [line for line in running.lines if line["level"] == "error"] == []


async def post_one(daemon: Daemon, number: int) -> None:
    async with daemon.http.post(f"{daemon.base}/track/event", json=example_event(number)) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize("kind", KINDS)
async def test_forty_large_batches_at_once_all_get_in_and_single_posts_do_not_wait_behind_them(
    daemon: Daemon, kind: str
) -> None:
    events = large_batch().count(b'"customerId"')
    daemon.forget_peak()
    async with posting_batches(daemon, kind, batches=BATCHES) as posting:
        singles = 0
        while not posting.done():
            await post_one(daemon, singles)
            singles += 1
        posted = await posting
    print(f"{posted}, {singles} single posts beside them, at most {daemon.peak_bytes() / MIB:.0f} MiB")
    assert (posted.accepted, posted.broken, posted.refused) == (BATCHES, 0, [])
    assert daemon.peak_bytes() < MOST_BYTES
    assert singles > BATCHES, "none waits for more than about one batch"
    ledger = await daemon.ledger()
    assert ledger["accepted"] == BATCHES * events + singles
    assert ledger["unaccounted"] == 0


@pytest.mark.parametrize("until_then", UNTIL_THEN)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_three_hundred_bodies_that_end_early_one_after_the_other_leave_no_memory_taken(
    daemon: Daemon, until_then: str, is_reset: bool
) -> None:
    grown = await growth_by_bodies_in_part(daemon, until_then, is_reset=is_reset)
    print(f"{until_then}: {grown / 1e6:.1f} MB of growth at most")
    assert grown < 20_000_000


async def test_bodies_that_are_all_but_complete_at_once_are_within_a_bound_and_not_in_the_way(daemon: Daemon) -> None:
    body = large_batch()
    data = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body[:-1])
    daemon.forget_peak()

    def send(connection: socket.socket) -> None:
        connection.settimeout(0.01)
        with suppress(TimeoutError, ConnectionError):  # it may be read later, or refused at once
            connection.sendall(data)

    with ExitStack() as held:
        for number in range(HELD):
            connection = held.enter_context(socket.create_connection(address_of(daemon.base), timeout=30))
            await asyncio.to_thread(send, connection)
            await post_one(daemon, number)
        print(f"at most {daemon.peak_bytes() / MIB:.0f} MiB")
        assert daemon.peak_bytes() < MOST_BYTES


async def served_beside_silence(directory: Path, listener: str, loop: str) -> Served:
    settings = {"loop": loop, "shutdown__drain_seconds": 0}
    async with (
        running_sandbox() as sandbox,
        starting_daemon(directory, sandbox.url, [*LIMITED, *COMMAND], **settings) as daemon,
    ):
        assert await daemon.until_ready(), daemon.lines

        async def delivered() -> int:
            return int((await sandbox.counters())["stored"])

        base = daemon.admin if listener == "admin" else daemon.base
        served = await serve_beside_silence(daemon, base, delivered)
        assert [line for line in daemon.lines if line["level"] == "error"] == []
    return served


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("listener", ["admin", "intake"])
async def test_more_silent_connections_than_descriptors_are_in_the_way_of_nobody(
    tmp_path: Path, listener: str, loop: str
) -> None:
    served = await served_beside_silence(tmp_path, listener, loop)
    assert (served.posts, served.lives, served.delivered) == (TRIES, TRIES, TRIES), served
    assert served.silent > DESCRIPTORS, served
