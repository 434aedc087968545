"""The installed command's HTTP on both event loops, over TCP and its Unix socket: pipelines, half-closed clients, bounds."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.wire import BATCH, GOOD, ONE, Wire, cut, event, get, in_chunks, post, wire_to
from tests.system.processes import Daemon, running_daemon

NOWHERE = "http://127.0.0.1:9/track/event"
MB = 1_000_000
LOOPS = ["uvloop", "asyncio"]


@pytest.fixture(params=LOOPS)
async def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Daemon]:
    settings = {"intake__header_timeout_seconds": 60, "intake__body_timeout_seconds": 60}
    async with running_daemon(tmp_path, NOWHERE, loop=request.param, shutdown__drain_seconds=0, **settings) as running:
        yield running
        await assert_well(running)
        assert [line for line in running.lines if line["level"] == "error"] == []


async def assert_well(daemon: Daemon) -> None:
    ledger = await daemon.ledger()
    assert ledger["received"] == ledger["accepted"] + ledger["duplicates"] + ledger["rejected"]
    assert ledger["unaccounted"] == 0


def places(daemon: Daemon) -> list[object]:
    return [daemon.ready["http"], daemon.unix_socket]


async def refused(daemon: Daemon, reason: str) -> float:
    return (await daemon.metrics())[f'growlytics_forwarder_http_requests_refused_total{{reason="{reason}"}}']


def mixed(count: int) -> bytes:
    return b"".join(post(BATCH if i % 2 else ONE, event(i)) for i in range(count))


async def test_pipelines_of_both_paths_are_answered_in_order_however_deep_and_however_cut(daemon: Daemon) -> None:
    for place in places(daemon):
        before = (await daemon.ledger())["accepted"]
        async with wire_to(place) as wire:
            await wire.send(mixed(150))
            assert [reply.status for reply in await wire.replies(150)] == [200, 202] * 75
            for seed in range(5):
                data = mixed(150)
                await wire.send(*cut(data, *random.Random(seed).sample(range(1, len(data)), 10 ** (seed % 3))))
                assert [reply.status for reply in await wire.replies(150)] == [200, 202] * 75, seed
        assert (await daemon.ledger())["accepted"] - before == 900


async def test_5000_posts_in_a_few_writes_are_answered_while_they_are_sent(daemon: Daemon) -> None:
    async with asyncio.TaskGroup() as tasks:
        for place in places(daemon):
            tasks.create_task(pipeline(place, 5000))
    assert (await daemon.ledger())["accepted"] == 10_000


async def pipeline(place: object, count: int) -> None:
    data = mixed(count)
    async with wire_to(place) as wire, asyncio.TaskGroup() as tasks:
        tasks.create_task(wire.send(*cut(data, *range(200_001, len(data), 200_001))))
        statuses = [(await wire.reply()).status for _ in range(count)]
        assert statuses == [200, 202] * (count // 2)


async def test_a_pipeline_behind_a_post_in_two_segments_is_answered(daemon: Daemon) -> None:
    for place in places(daemon):
        async with wire_to(place) as wire:
            await wire.send(post(ONE)[: -len(GOOD)])
            await daemon.ledger()  # so that the daemon has seen the head alone
            await wire.send(GOOD)
            assert (await wire.reply()).status == 200
            await wire.send(post(ONE) * 100)
            assert {reply.status for reply in await wire.replies(100)} == {200}


async def test_a_client_that_half_closes_gets_all_its_answers_and_the_end(daemon: Daemon) -> None:
    asked: dict[str, tuple[bytes, list[int]]] = {
        "one": (post(ONE), [200]),
        "a batch": (post(BATCH, b"[" + b",".join([GOOD] * 2000) + b"]"), [202]),
        "chunks": (in_chunks(ONE, [GOOD]), [200]),
        "a question": (get("/v1/status"), [200]),
        "HTTP/1.0": (post(ONE, version="1.0"), [200]),
        "a pipeline": (mixed(150), [200, 202] * 75),
        "half a head": (mixed(2) + post(ONE)[:20], [200, 202, 400]),
        "half a body": (mixed(2) + post(ONE)[:-9], [200, 202, 400]),
        "half a body in chunks": (in_chunks(ONE, [GOOD])[:-9], [400]),
        "nothing": (b"", []),
    }
    for place in places(daemon):
        for name, (data, statuses) in asked.items():
            async with wire_to(place) as wire:
                await wire.send_what_is_taken(data)
                wire.half_close()
                replies = await wire.rest()
                assert [reply.status for reply in replies] == statuses, (name, place)
                if 400 in statuses:
                    assert replies[-1].code == ("malformed_http" if name == "half a head" else "malformed_body")
    assert (await daemon.ledger())["rejected"] == 2 * 2


async def test_heads_beyond_a_bound_are_refused_by_name_and_counted_and_logged(daemon: Daemon) -> None:
    heads = {
        "a cookie of 8 kB": (post(ONE, GOOD, "Cookie: " + "x" * 8000), 200, ""),
        "130 headers": (post(ONE, GOOD, *[f"X-{i}: y" for i in range(130)]), 200, ""),
        "a target of 8 kB": (post(ONE + "?" + "x" * 8000), 200, ""),
        "a cookie of 40 kB": (post(ONE, GOOD, "Cookie: " + "x" * 40_000), 431, "headers_too_large"),
        "300 headers": (post(BATCH, GOOD, *["X: y"] * 300), 431, "headers_too_large"),
        "a target of 9 kB": (post(ONE + "?" + "x" * 9000), 414, "uri_too_long"),
        "headers without an end": (
            post(ONE).partition(b"\r\n\r\n")[0] + b"\r\nX: y" * 50_000,
            431,
            "headers_too_large",
        ),
        "a target without an end": (b"POST /track/event?" + b"x" * 300_000, 414, "uri_too_long"),
    }
    for number, place in enumerate(places(daemon), start=1):
        for name, (data, status, code) in heads.items():
            async with wire_to(place) as wire:
                await wire.send_what_is_taken(data)
                reply = await wire.reply()
                assert reply.status == status, name
                assert status == 200 or (reply.code, reply.closes) == (code, True), name
        ledger = await daemon.ledger()
        assert (ledger["accepted"], ledger["rejected"]) == (3 * number, 5 * number)
    assert await refused(daemon, "headers_too_large") == 6
    assert await refused(daemon, "uri_too_long") == 4
    for code in ("headers_too_large", "uri_too_long"):
        assert 1 <= len([line for line in daemon.lines if code in str(line)]) <= 10, daemon.lines


async def test_an_offer_to_upgrade_is_served_without_it(daemon: Daemon) -> None:
    offer = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"]
    data = (
        post(ONE, GOOD, *offer) + post(BATCH) + in_chunks(BATCH, [GOOD], *offer) + get("/v1/status", *offer) + post(ONE)
    )
    for place in places(daemon):
        for segments in ([data], cut(data, *range(0, len(data), 13))):
            async with wire_to(place) as wire:
                await wire.send(*segments)
                assert [reply.status for reply in await wire.replies(5)] == [200, 202, 202, 200, 200]
    assert (await daemon.ledger())["accepted"] == 16


async def test_broken_chunks_and_codings_are_answered_at_once(daemon: Daemon) -> None:
    start = in_chunks(ONE, [GOOD[:9]])[:-5]
    for place in places(daemon):
        async with wire_to(place) as wire:
            await wire.send(start)
            await daemon.ledger()  # so that what is broken is in a later segment
            await wire.send(b"zz\r\n")
            assert [reply.status for reply in await wire.rest()] == [400]
        async with wire_to(place) as wire:
            await wire.send_what_is_taken(in_chunks(ONE, [GOOD]).replace(b": chunked", b": gzip, chunked"))
            assert (await wire.reply()).status == 501
    assert (await daemon.ledger())["accepted"] == 0


@pytest.mark.parametrize("loop", LOOPS)
async def test_heads_and_bodies_that_are_too_slow_are_told_so_and_ended(tmp_path: Path, loop: str) -> None:
    settings = {"intake__header_timeout_seconds": 4, "intake__body_timeout_seconds": 4}
    async with running_daemon(tmp_path, NOWHERE, loop=loop, **settings) as daemon, AsyncExitStack() as stack:
        begun = {
            "half a head": post(ONE)[:20],
            "half a head behind a post": post(ONE) + post(ONE)[:20],
            "half a body": post(ONE)[:-9],
            "half a body in chunks": in_chunks(BATCH, [GOOD])[:-9],
            "an expectation": post(ONE, GOOD, "Expect: 100-continue")[: -len(GOOD)],
        }
        wires: list[tuple[str, Wire]] = []
        for place in places(daemon):
            for name, data in begun.items():
                wire = await stack.enter_async_context(wire_to(place))
                await wire.send(data)
                wires.append((name, wire))
        for name, wire in wires:
            statuses = [reply.status for reply in await wire.rest()]
            assert statuses[-1] == 408, name
        ledger = await daemon.ledger()
        assert (ledger["accepted"], ledger["rejected"]) == (2, 6)


ABORTED: dict[str, bytes] = {
    "a length": post(ONE, b" " * MB)[: -100_000],
    "chunks": in_chunks(BATCH, [b" " * 100_000] * 10)[:-100_000],
    "compressed": post(BATCH, gzip.compress(random.Random(0).randbytes(900_000)), "Content-Encoding: gzip")[:-100_000],
    "behind a post": post(ONE) + post(ONE, b" " * MB)[: -100_000],
    "with an upgrade": post(ONE, b" " * MB, "Connection: Upgrade", "Upgrade: h2c")[: -100_000],
}  # fmt: skip


async def test_bodies_of_clients_that_hang_up_are_given_back(daemon: Daemon) -> None:
    async def abort(count: int) -> None:
        for number in range(count):
            place = places(daemon)[number % 2]
            async with wire_to(place) as wire:
                await wire.send_what_is_taken(list(ABORTED.values())[number % len(ABORTED)])
                if number % 3 == 0:
                    wire.half_close()

    await abort(20)
    await daemon.ledger()
    before = daemon.rss_bytes()
    await abort(150)
    await daemon.ledger()
    assert daemon.rss_bytes() - before < 20 * MB


async def test_clients_that_post_are_not_pushed_out_by_silent_ones(tmp_path: Path) -> None:
    async with (
        running_daemon(tmp_path, NOWHERE, intake__max_connections=16) as daemon,
        AsyncExitStack() as stack,
    ):
        for place in places(daemon):
            wires = [await stack.enter_async_context(wire_to(place)) for _ in range(15)]
            for _ in range(3):
                for wire in wires:
                    await wire.send(post(ONE))
                    assert (await wire.reply()).status == 200
                for number in range(50):
                    silent = await stack.enter_async_context(wire_to(place))
                    await silent.send_what_is_taken(b"" if number % 2 else post(ONE)[:20])
        assert (await daemon.ledger())["accepted"] == 90
