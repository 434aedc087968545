"""However a stream is cut into segments, the application sees the same requests, and the client the same answers."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.http_site import a_site, chunked, get, post
from tests.fakes.http_transport import turn

UPGRADE = "Connection: Upgrade\r\nUpgrade: h2c\r\n"

STREAMS = {
    "lengths": post("/a", b"12345") + post("/b") + post("/c", b"x" * 40) + get("/d"),
    "chunks": chunked("/a", b"abc", b"d" * 20) + chunked("/b") + get("/c"),
    "chunks with extensions": chunked("/a").replace(b"0\r\n", b'3;a=b;c="d e"\r\nxyz\r\n0;q\r\n') + get("/b"),
    "trailers": chunked("/a", b"abc", trailers="X-Sum: 1\r\nHost: y\r\n") + chunked("/b", b"d") + get("/c"),
    "no bodies": get("/a") + get("/b", "A:", "B: \t", "A: c") + b"HEAD /c HTTP/1.1\r\nHost: x\r\n\r\n" + get("/d"),
    "empty lines between": get("/a") + b"\r\n" + post("/b", b"1") + b"\r\n\r\n" + get("/c"),
    "HTTP/1.0": get("/a", "Connection: keep-alive", version="1.0") + post("/b", b"x", version="1.0"),
    "HTTP/1.0 with more behind": get("/a", version="1.0") + get("/b"),
    "the last one": post("/a", b"x", "Connection: close") + get("/b"),
    "upgrade without a body": get("/a", UPGRADE.strip()) + get("/b") + post("/c", b"d"),
    "upgrade with a length": post("/a", b"GET /no HTTP/1.1\r\n\r\n", UPGRADE.strip()) + get("/b") + post("/c", b"d"),
    "upgrade with chunks": chunked("/a", b"GET /no", b"x", headers=UPGRADE, trailers="T: u\r\n") + get("/b"),
    "upgrades": post("/a", b"1", UPGRADE.strip()) + chunked("/b", b"2", headers=UPGRADE) + get("/c", UPGRADE.strip()),
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + get("/b"),
    "unwanted bodies": post("/missing", b"x" * 30) + chunked("/missing", b"y") + get("/b"),
    "refused by the head": post("/forbidden", b"x" * 30) + get("/b"),
    "refused by its start": get("/a") + b"GET / HTTP/1.1\r\nA : b\r\n\r\n" + get("/b"),
    "a broken chunk": chunked("/a", b"x").replace(b"1\r\n", b"1\n\r\n") + get("/b"),
    "errors": get("/raises") + post("/begin-raises", b"x") + get("/b"),
    "bytes above ASCII": get("/a", "A: \xfc\xff") + get("/b", "\tUser-Agent: \xe2\x82\xac".strip()),
}
EXPECTED = {
    "Expect with a length": post("/a", b"12345", "Expect: 100-continue") + get("/b"),
    "Expect with chunks": chunked("/a", b"12345", b"6", headers="Expect: 100-Continue\r\n") + get("/b"),
    "Expect without a body": post("/a", b"", "Expect: 100-continue") + get("/b"),
    "Expect in HTTP/1.0": post("/a", b"1", "Expect: 100-continue", version="1.0"),
    "Expect with an upgrade": post("/a", b"12345", "Expect: 100-continue", UPGRADE.strip()) + get("/b"),
}
CLOSING = {
    "an answer that closes": get("/closes") + get("/b"),
    "one behind another": get("/a") + get("/closes") + get("/b"),
}
ALL = STREAMS | EXPECTED | CLOSING
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def outcome(stream: bytes, *sizes: int) -> tuple[object, ...]:
    """Return all that can be seen of a stream that is cut so."""
    async with a_site() as site:
        client = site.connect()
        client.send_in_pieces(stream, *sizes)
        await turn()
        requests = [(r.method, r.target, dict(r.headers), r.body) for r in site.application.seen]
        application = site.application
        assert client.written.count(CONTINUE) <= 1
        failures = sorted(target for target, _ in application.failures)
        ends = (client.has_written_eof, client.is_lost)
        return requests, application.refusals, failures, application.closed, client.written.replace(CONTINUE, b""), ends


@pytest.mark.parametrize("stream", ALL.values(), ids=ALL)
async def test_any_cut_into_two_changes_nothing(stream: bytes) -> None:
    whole = await outcome(stream)
    for size in range(1, len(stream)):
        assert await outcome(stream, size) == whole, f"cut at {size}"


@pytest.mark.parametrize("stream", ALL.values(), ids=ALL)
async def test_single_bytes_change_nothing(stream: bytes) -> None:
    assert await outcome(stream, *[1] * len(stream)) == await outcome(stream)


@given(
    st.lists(st.sampled_from(sorted(STREAMS)), min_size=1, max_size=4),
    st.lists(st.integers(1, 200), max_size=60),
)
def test_any_cuts_of_any_streams_change_nothing(names: list[str], sizes: list[int]) -> None:
    stream = b"".join(STREAMS[name] for name in names)

    async def both() -> None:
        assert await outcome(stream, *sizes) == await outcome(stream)

    asyncio.run(both())


@pytest.mark.parametrize("size", [16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 40_000])
async def test_bodies_longer_than_a_slice_come_whole(size: int) -> None:
    body = bytes(range(256)) * 400
    stream = post("/a", body) + chunked("/b", body, body[:7]) + post("/c", body, UPGRADE.strip()) + get("/d")
    requests, *_ = whole = await outcome(stream)
    assert [request[3] for request in requests] == [body, body + body[:7], body, b""]  # type: ignore[attr-defined]
    assert await outcome(stream, *[size] * (len(stream) // size)) == whole


async def test_every_stream_is_what_it_says() -> None:
    async def targets(name: str) -> list[str]:
        requests = (await outcome(STREAMS[name]))[0]
        return [f"{target} {body.decode()}".strip() for _, target, _, body in requests]  # type: ignore[attr-defined]

    assert await targets("lengths") == ["/a 12345", "/b", "/c " + "x" * 40, "/d"]
    assert await targets("chunks with extensions") == ["/a xyz", "/b"]
    assert await targets("trailers") == ["/a abc", "/b d", "/c"]
    assert await targets("upgrade with a length") == ["/a GET /no HTTP/1.1\r\n\r\n".strip(), "/b", "/c d"]
    assert await targets("upgrade with chunks") == ["/a GET /nox", "/b"]
    assert await targets("upgrades") == ["/a 1", "/b 2", "/c"]
    assert await targets("HTTP/1.0 with more behind") == ["/a"]
    assert await targets("the last one") == ["/a x"]
    assert await targets("CONNECT") == ["a:1 abc", "/b"]
    assert await targets("unwanted bodies") == ["/b"]


async def test_leave_to_send_a_body_is_given_once_the_head_is_there_and_not_with_the_body() -> None:
    async with a_site() as site:
        client = site.connect()
        stream = post("/a", b"12345", "Expect: 100-continue")
        client.send(stream[:-5])
        assert client.writes == [CONTINUE]
        client.send(stream[-5:])
        assert client.statuses == [100, 200]
        client.send(stream[:-2])
        client.send(stream[-2:])
        assert client.statuses == [100, 200, 200]


async def test_leave_waits_for_the_answers_before_it() -> None:
    async with a_site() as site:
        client = site.connect()
        client.send(post("/future", b"1") + post("/a", b"12345", "Expect: 100-continue")[:-5])
        assert client.statuses == []
        site.application.end_all()
        await turn()
        assert client.statuses == [200, 100]
        client.send(b"12345")
        assert client.statuses == [200, 100, 200]


@pytest.mark.parametrize("target", ["/missing", "/forbidden"])
async def test_who_asks_for_leave_and_gets_an_answer_is_not_understood_further(target: str) -> None:
    async with a_site() as site:
        client = site.connect()
        client.send(post(target, b"12345", "Expect: 100-continue")[:-5])
        assert len(client.statuses) == 1
        assert b"Connection: close\r\n" in client.written
        client.send(b"12345" + get("/b"))
        assert site.application.seen == []
        assert client.has_written_eof
        client.end()
        await turn()
        assert client.is_lost


async def test_a_body_that_is_too_long_by_its_head_gets_no_leave() -> None:
    async with a_site() as site:
        site.application.max_body_bytes = 4
        client = site.connect()
        client.send(post("/a", b"12345", "Expect: 100-continue")[:-5])
        assert client.statuses == [400]
        assert site.application.refusals == [("body_too_large", "/a")]


async def test_head_is_answered_like_get_without_the_body() -> None:
    async with a_site() as site:
        client = site.connect()
        client.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.written == b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n"
        assert site.application.seen[0].method == "GET"


@pytest.mark.parametrize(
    ("headers", "version", "expected"),
    [
        ([], "1.1", b""),
        (["Connection: close"], "1.1", b"close"),
        (["Connection: keep-alive"], "1.1", b""),
        ([], "1.0", b"close"),
        (["Connection: keep-alive"], "1.0", b"keep-alive"),
        (["Connection: Upgrade", "Upgrade: x"], "1.0", b"close"),
        (["Connection: close, Upgrade", "Upgrade: x"], "1.1", b"close"),
        (["Connection: keep-alive, Upgrade", "Upgrade: x"], "1.0", b"keep-alive"),
    ],
)
async def test_a_connection_stays_open_as_its_client_asks(headers: list[str], version: str, expected: bytes) -> None:
    async with a_site() as site:
        client = site.connect()
        client.send(get("/a", *headers, version=version))
        await turn()
        assert (
            b"".join(line[12:] for line in client.written.split(b"\r\n") if line.startswith(b"Connection: "))
            == expected
        )
        assert client.is_lost == (expected == b"close")
