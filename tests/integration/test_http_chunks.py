"""Bodies in chunks: what is one is stored byte for byte, however it is cut; what is none is refused when that is seen."""

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import GOOD, ONE, by_bytes, cut, event, in_chunks, post, wire_to

HEAD = b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZE = b"%x" % len(GOOD)
END = b"\r\n0\r\n\r\n"
WHOLE = SIZE + b"\r\n" + GOOD
AFTER = post(ONE, event(2))

VALID: dict[str, bytes] = {
    "one": WHOLE + END,
    "two": b"a\r\n" + GOOD[:10] + b"\r\n%X\r\n" % (len(GOOD) - 10) + GOOD[10:] + END,
    "one for each byte": b"".join(b"1\r\n%b\r\n" % GOOD[i : i + 1] for i in range(len(GOOD))) + b"0\r\n\r\n",
    "capitals": SIZE.upper() + b"\r\n" + GOOD + END,
    "zeros before a size": b"0000" + SIZE + b"\r\n" + GOOD + END,
    "many zeros at the end": WHOLE + b"\r\n000000\r\n\r\n",
    "an extension": SIZE + b";name=value\r\n" + GOOD + b"\r\n0;x\r\n\r\n",
    "an extension in quotes": SIZE + b';name="a; b"\r\n' + GOOD + END,
    "an extension with an escaped quote": SIZE + b';name="a\\"b"\r\n' + GOOD + END,
    "two extensions": SIZE + b";a;b=c\r\n" + GOOD + END,
    "a trailer": WHOLE + b"\r\n0\r\nX-Checksum: 1\r\n\r\n",
    "trailers": WHOLE + b"\r\n0\r\n" + b"".join(b"X-%d: y\r\n" % i for i in range(20)) + b"\r\n",
    "an empty trailer": WHOLE + b"\r\n0\r\nX:\r\n\r\n",
}

BROKEN: dict[str, bytes] = {
    "no size": b"\r\n" + GOOD,
    "letters for a size": b"xyz\r\n" + GOOD,
    "a letter too many": b"4eg\r\n" + GOOD,
    "0x before a size": b"0x" + SIZE + b"\r\n" + GOOD,
    "a plus before a size": b"+" + SIZE + b"\r\n" + GOOD,
    "a minus before a size": b"-" + SIZE + b"\r\n" + GOOD,
    "an underscore in a size": b"4_e\r\n" + GOOD,
    "a space before a size": b" " + SIZE + b"\r\n" + GOOD,
    "an empty line before a size": b"\r\n" + WHOLE + END,
    "a size beyond 64 bits": b"1" + b"0" * 16 + b"\r\n" + GOOD,
    "a size beyond all bounds": b"f" * 60 + b"\r\n" + GOOD,
    "a bare line feed after a size": SIZE + b"\n" + GOOD + END,
    "a bare carriage return after a size": SIZE + b"\r" + GOOD + END,
    "a bare line feed after an extension": SIZE + b";a\n" + GOOD + END,
    "a carriage return in an extension": SIZE + b";a\rb\r\n" + GOOD + END,
    "a null in an extension": SIZE + b";a\x00b\r\n" + GOOD + END,
    "a word after a size": SIZE + b" word\r\n" + GOOD + END,
    "a bare line feed after data": WHOLE + b"\n0\r\n\r\n",
    "nothing after data": WHOLE + b"0\r\n\r\n",
    "a size too small": b"3\r\n" + GOOD + END,
    "letters after data": WHOLE + b"xx0\r\n\r\n",
    "a broken second chunk": WHOLE + b"\r\nzz\r\n",
    "a minus at the end": WHOLE + b"\r\n-0\r\n\r\n",
    "a bare line feed after the last size": WHOLE + b"\r\n0\n\r\n",
    "a bare line feed for a trailer's end": WHOLE + b"\r\n0\r\nX: y\n\r\n",
    "a bare line feed as the last line": WHOLE + b"\r\n0\r\n\n",
    "a space before the colon of a trailer": WHOLE + b"\r\n0\r\nX : y\r\n\r\n",
    "a trailer without a colon": WHOLE + b"\r\n0\r\nXYZ\r\n\r\n",
    "a folded trailer": WHOLE + b"\r\n0\r\nX: y\r\n z\r\n\r\n",
    "a null in a trailer": WHOLE + b"\r\n0\r\nX: \x00\r\n\r\n",
    "a request at once after the last size": WHOLE + b"\r\n0\r\n" + AFTER,
}

EITHER: dict[str, bytes] = {
    "a space behind a size": SIZE + b" \r\n" + GOOD + END,
    "a tab behind a size": SIZE + b"\t\r\n" + GOOD + END,
    "a space before an extension": SIZE + b" ;a=b\r\n" + GOOD + END,
    "spaces within an extension": SIZE + b";a = b\r\n" + GOOD + END,
    "an extension of nothing": SIZE + b";\r\n" + GOOD + END,
    "a semicolon too many": SIZE + b";;\r\n" + GOOD + END,
    "an extension without its second quote": SIZE + b';a="b\r\n' + GOOD + END,
    "a length as a trailer": WHOLE + b"\r\n0\r\nContent-Length: 3\r\n\r\n",
    "a coding as a trailer": WHOLE + b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a host as a trailer": WHOLE + b"\r\n0\r\nHost: evil.example\r\n\r\n",
    "a wish to close as a trailer": WHOLE + b"\r\n0\r\nConnection: close\r\n\r\n",
    "an upgrade as a trailer": WHOLE + b"\r\n0\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "an extension of 1,000 bytes": SIZE + b";a=" + b"b" * 1000 + b"\r\n" + GOOD + END,
}


@pytest.mark.parametrize("body", VALID.values(), ids=VALID)
async def test_a_body_in_chunks_is_put_together_and_what_follows_is_a_request(body: bytes) -> None:
    async with serving() as served, wire_to(served.place) as wire:
        await wire.send(HEAD + body + AFTER)
        await wire.send(HEAD, *by_bytes(body), AFTER)
        assert [reply.status for reply in await wire.replies(4)] == [200] * 4
        assert [event.body for event in await served.take_all()] == [GOOD, event(2)] * 2


async def assert_noticed(served: Served, *segments: bytes) -> None:
    """Check that it is refused now, and not when the time for the body ends."""
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(*segments)
        reply, *others = await wire.rest()
        assert (reply.status, reply.closes, others) == (400, True, [])
        assert reply.code in ("malformed_body", "malformed_http")


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_chunks_are_noticed_at_once_wherever_the_segments_end(body: bytes) -> None:
    async with serving(body_timeout_seconds=60) as served:
        await assert_noticed(served, HEAD + body)
        await assert_noticed(served, HEAD + body + AFTER)
        await assert_noticed(served, HEAD, body)
        await assert_noticed(served, HEAD + b"1\r\n \r\n", body)
        await assert_noticed(served, HEAD, *by_bytes(body))
        await assert_noticed(served, HEAD + b"8000\r\n", b" " * 0x8000 + b"\r\n", body)
        counts = served.counts()
        counts.assert_balanced()
        assert counts.accepted == 0
        assert counts.rejected.keys() <= {"malformed_body"}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_chunks_behind_good_requests_are_refused_after_those_are_answered(body: bytes) -> None:
    async with serving(body_timeout_seconds=60) as served:
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(post(ONE, event(1)) * 2 + HEAD + body)
            assert [reply.status for reply in await wire.rest()] == [200, 200, 400]
        assert [event.body for event in await served.take_all()] == [event(1)] * 2


@pytest.mark.parametrize("body", EITHER.values(), ids=EITHER)
async def test_what_one_may_be_strict_about_is_taken_as_it_is_meant_or_refused(body: bytes) -> None:
    for segments in ([HEAD + body + AFTER], [HEAD, *by_bytes(body), AFTER]):
        async with serving(body_timeout_seconds=60) as served, wire_to(served.place) as wire:
            await wire.send_what_is_taken(*segments)
            wire.half_close()
            replies = await wire.rest()
            if replies[0].status == 200:
                # Who takes a wish to close from a trailer may refuse what follows.
                assert [reply.status for reply in replies] in ([200, 200], [200, 400], [200])
                stored = [GOOD] if [reply.status for reply in replies] != [200, 200] else [GOOD, event(2)]
                assert len(stored) == 2 or b"close" in body
                assert [event.body for event in await served.take_all()] == stored
            else:
                assert [(reply.status, reply.closes) for reply in replies] == [(400, True)]
                assert served.buffer.occupancy().events == 0


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "extension": (HEAD + b"1;", b"x" * 4096),
    "size": (HEAD, b"0" * 4096),
    "trailer": (HEAD + WHOLE + b"\r\n0\r\nX: ", b"x" * 4096),
    "trailers": (HEAD + WHOLE + b"\r\n0\r\n", b"X: y\r\n" * 800),
    "extensions of tiny chunks": (HEAD, b"1;%b\r\n \r\n" % (b"x" * 4000)),
}


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
async def test_what_goes_on_without_end_around_a_body_is_refused_at_a_bound_and_not_at_the_timeout(
    start: bytes, more: bytes
) -> None:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as served:
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(start, *[more] * 500)  # 2 MB
            reply, *others = await wire.rest()
            assert (reply.closes, others) == (True, [])
            assert reply.status in (400, 413, 431)
        assert served.counts().accepted == 0


async def test_a_body_in_chunks_is_too_large_when_it_has_become_so() -> None:
    async with serving(max_body_bytes=1000, body_timeout_seconds=60) as served:
        for end in (b"", b" " * 4_000_000):
            async with wire_to(served.place) as wire:
                await wire.send_what_is_taken(HEAD + b"3e8\r\n", b" " * 1000)
                assert await wire.is_silent()
                await wire.send_what_is_taken(b"\r\n3d0900\r\n ", end)
                reply, *others = await wire.rest()
                assert (reply.status, reply.code, reply.closes, others) == (413, "body_too_large", True, [])
        assert served.counts().rejected == {"body_too_large": 2}


async def test_a_body_that_has_become_too_large_is_refused_before_the_end_of_its_chunk() -> None:
    async with serving(max_body_bytes=1000, body_timeout_seconds=60) as served, wire_to(served.place) as wire:
        await wire.send(HEAD + b"100000\r\n" + b" " * 1001)
        assert [(reply.status, reply.code) for reply in await wire.rest()] == [(413, "body_too_large")]


async def test_every_cut_of_two_requests_in_chunks_makes_the_same_two_events() -> None:
    data = in_chunks(ONE, [event(1)[:30], event(1)[30:]], trailers=b"X: y\r\n") + in_chunks(ONE, [event(2)])
    async with serving() as served, wire_to(served.place) as wire:
        for place in range(1, len(data)):
            await wire.send(*cut(data, place))
            assert [reply.status for reply in await wire.replies(2)] == [200, 200], place
        assert [event.body for event in await served.take_all()] == [event(1), event(2)] * (len(data) - 1)
