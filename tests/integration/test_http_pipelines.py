"""Requests that do not wait for answers, and clients that say they send no more: all are answered, in order, however cut."""

import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import BATCH, GOOD, ONE, by_bytes, cut, event, get, in_chunks, post, wire_to

BOTH_LOOPS = True
PLACES = ["tcp", "unix"]


@pytest.fixture(params=PLACES)
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    unix = tmp_path / "s" if request.param == "unix" else None
    async with serving(unix=unix, header_timeout_seconds=60, body_timeout_seconds=60) as running:
        yield running


def mixed(count: int) -> bytes:
    """Write so many posts, of both paths in turn."""
    return b"".join(post(BATCH if i % 2 else ONE, event(i)) for i in range(count))


async def assert_stored(served: Served, count: int) -> None:
    assert [event.body for event in await served.take_all()] == [event(i) for i in range(count)]
    served.counts().assert_balanced()


async def test_150_posts_of_both_paths_in_one_write_are_answered_in_order(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(mixed(150))
        assert [reply.status for reply in await wire.replies(150)] == [200, 202] * 75
    await assert_stored(served, 150)


async def test_a_pipeline_behind_a_post_in_two_segments_is_answered(served: Served) -> None:
    async with wire_to(served.place) as wire:
        head, _, body = post(ONE, event(0)).partition(b"\r\n\r\n")
        await wire.send(head + b"\r\n\r\n", body)
        assert (await wire.reply()).status == 200
        await wire.send(b"".join(post(ONE, event(i)) for i in range(1, 101)))
        assert {reply.status for reply in await wire.replies(100)} == {200}
    await assert_stored(served, 101)


@pytest.mark.parametrize("segments", [1, 7, 150, 400])
async def test_a_pipeline_may_be_cut_anywhere(served: Served, segments: int) -> None:
    data = mixed(150)
    places = random.Random(segments).sample(range(1, len(data)), segments - 1)
    async with wire_to(served.place) as wire:
        await wire.send(*cut(data, *places))
        assert [reply.status for reply in await wire.replies(150)] == [200, 202] * 75
    await assert_stored(served, 150)


async def test_every_cut_of_two_posts_makes_the_same_two_events(served: Served) -> None:
    data = mixed(2)
    async with wire_to(served.place) as wire:
        for place in range(1, len(data)):
            await wire.send(*cut(data, place))
            assert [reply.status for reply in await wire.replies(2)] == [200, 202], place
    assert [event.body for event in await served.take_all()] == [event(0), event(1)] * (len(data) - 1)


async def test_a_client_that_reads_nothing_until_it_has_sent_a_thousand_posts_gets_all_answers(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(*[mixed(100)] * 10)
        assert len(await wire.replies(1000)) == 1000
    assert served.counts().accepted == 1000


async def test_large_bodies_in_a_pipeline_are_answered_in_order(served: Served) -> None:
    large = event(0) + b" " * 900_000
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(post(ONE, large) + in_chunks(ONE, [large]) + post(ONE, event(1)))
        assert [reply.status for reply in await wire.replies(3)] == [200] * 3
    assert [event.body.strip() for event in await served.take_all()] == [event(0), event(0), event(1)]


async def test_answers_of_every_kind_keep_their_order(served: Served) -> None:
    asked = [
        (post(ONE, event(0)), "POST", 200),
        (post("/nothing", GOOD), "POST", 404),
        (get("/v1/status"), "GET", 200),
        (post(ONE, b"{"), "POST", 400),
        (get("/v1/status", method="HEAD"), "HEAD", 200),
        (in_chunks(BATCH, [event(1)]), "POST", 202),
        (post(ONE, b"{}"), "POST", 422),
        (get(ONE), "GET", 405),
        (post("/v1/status", GOOD, method="GET"), "GET", 200),
        (in_chunks("/v1/status", [GOOD]).replace(b"POST", b"GET", 1), "GET", 200),
        (post("/v1/status", GOOD, method="HEAD"), "HEAD", 200),
        (post(ONE, event(2)), "POST", 200),
    ]
    for segment in (1, 2, 3, 50, 100_000):
        async with wire_to(served.place) as wire:
            data = b"".join(each for each, _, _ in asked) * 20
            await wire.send(*[data[i : i + segment * 40] for i in range(0, len(data), segment * 40)])
            for _ in range(20):
                assert [(await wire.reply(to=method)).status for _, method, _ in asked] == [each for *_, each in asked]
        assert [event.body for event in await served.take_all()] == [event(i) for i in range(3)] * 20


async def test_the_kernel_does_not_hold_back_an_answer_until_another_was_read() -> None:
    """As it would, for 40 ms: asyncio turns that off only for sockets that say they are of TCP, not for all that are."""
    async with serving() as served, wire_to(served.place) as wire:
        await wire.send(post(ONE))
        assert (await wire.reply()).status == 200
        with other_side(wire.socket) as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def other_side(connection: socket.socket) -> socket.socket:
    """Return the server's socket of a connection within this process."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile, as the one of this very directory
            number = os.dup(int(entry.name))
            try:
                found = socket.socket(fileno=number)
            except OSError:  # no socket
                os.close(number)
                continue
            if found.family == socket.AF_INET and found.getsockname() == connection.getpeername():
                with suppress(OSError):  # the listener's own
                    if found.getpeername() == connection.getsockname():
                        return found
            found.close()
    raise AssertionError("the server has no such connection")


LAST: dict[str, tuple[bytes, int]] = {
    "a wish to close": (post(ONE, event(1), "Connection: close"), 200),
    "a wish to close among others": (post(ONE, event(1), "Connection: TE, Close"), 200),
    "a wish to close, in chunks": (in_chunks(ONE, [event(1)], "Connection: close"), 200),
    "HTTP/1.0": (post(ONE, event(1), version="1.0"), 200),
    "a request that is refused and closed": (post(ONE, b"x", "Content-Encoding: rot13"), 415),
}


@pytest.mark.parametrize(("last", "status"), LAST.values(), ids=LAST)
async def test_what_follows_the_last_request_of_a_connection_is_neither_answered_nor_stored(
    served: Served, last: bytes, status: int
) -> None:
    for behind in (post(ONE, event(2)), post(ONE, event(2)) * 100, b"garbage\r\n\r\n"):
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(post(ONE, event(0)) + last + behind)
            first, second, *others = await wire.rest()
            assert (first.status, second.status, others) == (200, status, [])
            assert second.closes
        bodies = [event.body for event in await served.take_all()]
        assert bodies == [event(0), event(1)][: 2 if status == 200 else 1]


# Half-closed


WHOLE: dict[str, tuple[bytes, int]] = {
    "a post": (post(ONE), 1),
    "a batch": (post(BATCH), 1),
    "a post in chunks": (in_chunks(ONE, [GOOD[:9], GOOD[9:]], trailers=b"X: y\r\n"), 1),
    "a question": (get("/v1/status"), 1),
    "a refusal": (post("/nothing"), 1),
    "HTTP/1.0": (post(ONE, version="1.0"), 1),
    "a wish to close": (post(ONE, GOOD, "Connection: close"), 1),
    "a pipeline": (mixed(150), 150),
    "a large body": (post(ONE, GOOD + b" " * 900_000), 1),
    "a batch of 3,000": (post(BATCH, b"[" + b",".join([GOOD] * 3000) + b"]"), 1),
    "an expectation": (post(ONE, GOOD, "Expect: 100-continue"), 1),
    "an upgrade": (post(ONE, GOOD, "Connection: Upgrade", "Upgrade: h2c"), 1),
    "an empty line behind": (post(ONE) + b"\r\n", 1),
}


@pytest.mark.parametrize(("data", "count"), WHOLE.values(), ids=WHOLE)
async def test_a_client_that_half_closes_gets_every_answer_and_then_the_end(
    served: Served, data: bytes, count: int
) -> None:
    for segments in ([data], cut(data, 40, len(data) - 20)):
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(*segments)
            wire.half_close()
            replies = [reply for reply in await wire.rest() if reply.status != 100]
            assert len(replies) == count
            assert {reply.status for reply in replies} <= {200, 202, 404}
    served.counts().assert_balanced()


async def test_a_client_that_half_closes_later_gets_its_answers_too(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(post(ONE, event(0)))
        assert (await wire.reply()).status == 200
        await wire.send(post(ONE, event(1)))
        wire.half_close()
        assert [reply.status for reply in await wire.rest()] == [200]
    await assert_stored(served, 2)


@pytest.mark.parametrize("before", [b"", post(ONE), b"\r\n"])
async def test_a_client_that_half_closes_between_requests_is_closed_without_a_word(
    served: Served, before: bytes
) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(before)
        if before.strip():
            assert (await wire.reply()).status == 200
        wire.half_close()
        assert await wire.rest() == []
    served.counts().assert_balanced()


HEAD_PLACES = [1, 4, 12, 22, 28, 34, 60, 64, 65]
CUT_BODIES: dict[str, bytes] = {
    "nothing of it": post(ONE).partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "a byte of it": post(ONE)[: -len(GOOD) + 1],
    "all but a byte": post(ONE)[:-1],
    "a batch": post(BATCH, b"[%b]" % GOOD)[:-1],
    "much of it": post(ONE, GOOD + b" " * 900_000)[:-9],
    "no chunk": in_chunks(ONE, [GOOD]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
    "a size": in_chunks(ONE, [GOOD]).partition(GOOD)[0],
    "half of a size": in_chunks(ONE, [GOOD]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n4",
    "some of a chunk": in_chunks(ONE, [GOOD])[:-20],
    "all but the last chunk": in_chunks(ONE, [GOOD])[:-5],
    "all but the last line": in_chunks(ONE, [GOOD])[:-2],
    "all but the last byte": in_chunks(ONE, [GOOD])[:-1],
    "half of a trailer": in_chunks(ONE, [GOOD])[:-2] + b"X: ",
    "a trailer, but not the last line": in_chunks(ONE, [GOOD])[:-2] + b"X: y\r\n",
    "nothing of it, with an upgrade": post(ONE, GOOD, "Connection: Upgrade", "Upgrade: h2c")[:-9],
    "nothing of it, in HTTP/1.0": post(ONE, version="1.0")[:-9],
}


@pytest.mark.parametrize("behind", [b"", post(ONE, event(1)), mixed(40)], ids=["alone", "behind one", "behind many"])
async def test_a_head_that_a_half_close_cuts_short_is_malformed(served: Served, behind: bytes) -> None:
    count = behind.count(b"POST ")
    for place in HEAD_PLACES:
        async with wire_to(served.place) as wire:
            await wire.send(behind + post(ONE)[:place])
            wire.half_close()
            *before, last = await wire.rest()
            assert len(before) == count
            assert (last.status, last.code, last.closes) == (400, "malformed_http", True), place
        assert len(await served.take_all()) == count


@pytest.mark.parametrize("behind", [0, 1, 40])
@pytest.mark.parametrize("data", CUT_BODIES.values(), ids=CUT_BODIES)
async def test_a_body_that_a_half_close_cuts_short_is_malformed(served: Served, data: bytes, behind: int) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(mixed(behind) + data)
        wire.half_close()
        *before, last = await wire.rest()
        assert len(before) == behind
        assert (last.status, last.code, last.closes) == (400, "malformed_body", True)
    await assert_stored(served, behind)
    assert served.counts().rejected == {"malformed_body": 1}


async def test_a_body_that_is_waited_for_and_never_comes_is_malformed(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(post(ONE, GOOD, "Expect: 100-continue")[: -len(GOOD)])
        assert (await wire.reply()).status == 100
        wire.half_close()
        assert [(reply.status, reply.code) for reply in await wire.rest()] == [(400, "malformed_body")]


async def test_posts_byte_by_byte_and_a_half_close(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(*by_bytes(mixed(3)))
        wire.half_close()
        assert [reply.status for reply in await wire.rest()] == [200, 202, 200]
    await assert_stored(served, 3)


async def test_ids_of_a_pipeline_are_those_of_its_events_in_order(served: Served) -> None:
    async with wire_to(served.place) as wire:
        await wire.send(b"".join(post(ONE, event(i)) for i in range(200)))
        ids = [int(reply.content["id"]) for reply in await wire.replies(200)]
    assert all(first < second for first, second in pairwise(ids))
    assert [event.id for event in await served.take_all()] == ids
