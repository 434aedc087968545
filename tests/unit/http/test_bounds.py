"""How much a client may ask for: the edges, and what never ends."""

import tracemalloc
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from tests.fakes.http_site import Site, chunked, get, post
from tests.fakes.http_transport import FakeTransport, turn

KIB = 1024


def refusal_of(client: FakeTransport) -> str | None:
    """Return the last refusal, or None if the last request was answered."""
    return client.bodies[-1] if client.statuses[-1] == 400 else None


def head_of(size: int) -> bytes:
    """Return a request whose target and headers, each with four bytes besides, are so long."""
    request = get("/a", "X: ")
    return request.replace(b"X: ", b"X: " + b"y" * (size - len("/a") - len("Host: x\r\nX: \r\n")))


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        (head_of(32 * KIB), None),
        (head_of(32 * KIB + 1), "headers_too_large"),
        (get("/a", *["A: b"] * 199), None),
        (get("/a", *["A: b"] * 200), "headers_too_large"),
        (get("/" + "a" * (8 * KIB - 1)), None),
        (get("/" + "a" * (8 * KIB)), "uri_too_long"),
    ],
    ids=["head", "head + 1", "headers", "headers + 1", "target", "target + 1"],
)
@pytest.mark.parametrize("before", [b"", get("/b") + post("/c", b"x" * 5000)], ids=["first", "behind others"])
async def test_heads_in_one_piece_have_exact_edges(
    site: Site, request_: bytes, refusal: str | None, before: bytes
) -> None:
    client = site.connect()
    client.send(before + request_ + get("/d"))
    assert refusal_of(client) == refusal
    targets = [request.target[:2] for request in site.application.seen]
    assert targets == (["/b", "/c"] if before else []) + ([] if refusal else ["/a", "/d"])


@pytest.mark.parametrize("size", [1, 100, 4096, 5000])
@pytest.mark.parametrize(
    ("request_", "refusal"),
    [(head_of(32 * KIB), None), (head_of(42 * KIB), "headers_too_large"), (get("/" + "a" * 9 * KIB), "uri_too_long")],
    ids=["head", "long head", "long target"],
)
async def test_heads_in_pieces_have_about_the_same(site: Site, request_: bytes, refusal: str | None, size: int) -> None:
    client = site.connect()
    client.send_in_pieces(request_, *[size] * (len(request_) // size))
    assert refusal_of(client) == refusal


ENDLESS = {
    "method": ([b""], b"M", "malformed_http"),
    "method that begins well": ([b"PO"], b"S", "malformed_http"),
    "target": ([b"GET /"], b"a" * 100, "uri_too_long"),
    "header name": ([b"GET / HTTP/1.1\r\n"], b"a" * 100, "headers_too_large"),
    "header value": ([b"GET / HTTP/1.1\r\nA: "], b"a" * 100, "headers_too_large"),
    "white space before a value": ([b"GET / HTTP/1.1\r\nA:"], b" \t" * 100, "headers_too_large"),
    "spaces in the request line": ([b"GET "], b" " * 100, "headers_too_large"),
    "headers": ([b"GET / HTTP/1.1\r\n"], b"A: b\r\n", "headers_too_large"),
    "headers of one name": ([b"GET / HTTP/1.1\r\n"], b"A:\r\n", "headers_too_large"),
    "chunk size": ([chunked("/a")[:-5]], b"0" * 100, "malformed_body"),
    "chunk extension": ([chunked("/a")[:-5] + b"1;"], b"a" * 100, "malformed_body"),
    "quoted chunk extension": ([chunked("/a")[:-5] + b'1;a="'], b"a" * 100, "malformed_body"),
    "chunk extensions": ([chunked("/a")[:-5]], b"1;" + b"a" * 1000 + b"\r\nx\r\n", "malformed_body"),
    "trailer": ([chunked("/a", b"x")[:-2] + b"A: "], b"a" * 100, "malformed_body"),
    "trailers": ([chunked("/a", b"x")[:-2]], b"A: b\r\n", "malformed_body"),
    "body": ([chunked("/a")[:-5]], b"3e8\r\n" + b"x" * 1000 + b"\r\n", "body_too_large"),
    "small chunks": ([chunked("/a")[:-5]], b"2\r\nxx\r\n", "body_too_large"),
    "unwanted body": ([chunked("/missing")[:-5]], b"3e8\r\n" + b"x" * 1000 + b"\r\n", None),
}


def endless(start: list[bytes], part: bytes, size: int) -> Iterator[bytes]:
    """Give segments of about a size for ever."""
    return chain(start, repeat(part * max(1, size // len(part))))


@pytest.mark.parametrize("size", [1, 1000, 256 * KIB])
@pytest.mark.parametrize(("start", "part", "refusal"), ENDLESS.values(), ids=ENDLESS)
async def test_what_never_ends_is_refused(
    site: Site, start: list[bytes], part: bytes, refusal: str | None, size: int
) -> None:
    site.application.max_body_bytes = 50_000
    client = site.connect()
    sent_bytes = 0
    for segment in endless(start, part, size):
        client.send(segment)
        sent_bytes += len(segment)
        if client.statuses:
            break
        assert sent_bytes < 2_000_000
    assert refusal is None or refusal_of(client) == refusal
    assert b"Connection: close" in client.written
    assert site.application.seen == []


async def test_many_short_headers_are_refused_before_their_end(site: Site) -> None:
    client = site.connect()
    client.send(b"GET / HTTP/1.1\r\n" + b"A:\r\n" * 2000)
    assert client.bodies == ["headers_too_large"]


@pytest.mark.parametrize("before", [b"", get("/a"), post("/a", b"x" * 100_000)], ids=["first", "later", "long after"])
@pytest.mark.parametrize("size", [1, 1000])
async def test_empty_lines_for_ever_are_refused(site: Site, before: bytes, size: int) -> None:
    client = site.connect()
    client.send(before)
    for _ in range(15_000 // size):
        client.send(b"\r\n" * size)
    assert 400 not in client.statuses
    for _ in range(15_000 // size):
        client.send(b"\r\n" * size)
    assert client.bodies[-1] == "malformed_http"


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"2\r\nxx\r\n", b"00000001\r\nx\r\n"])
async def test_the_smallest_chunks_work_up_to_the_longest_body_and_cost_what_they_weigh(
    site: Site, chunk: bytes
) -> None:
    site.application.max_body_bytes = 50_000
    client = site.connect()
    length = len(chunk) - chunk.index(b"\n") - 3
    stream = chunked("/a")[:-5] + chunk * (50_000 // length)
    segments = [stream[start : start + 5000] for start in range(0, len(stream), 5000)]
    tracemalloc.start()
    try:
        for segment in segments:
            client.send(segment)
        assert tracemalloc.get_traced_memory()[1] < 250_000
    finally:
        tracemalloc.stop()
    client.send(b"0\r\n\r\n")
    assert client.bodies == ["/a 50000"]
    assert site.application.seen[0].body == b"x" * 50_000


@pytest.mark.parametrize(("length", "refusal"), [(1000, None), (1001, "body_too_large")])
async def test_bodies_have_an_exact_edge_by_length_and_as_they_come(
    site: Site, length: int, refusal: str | None
) -> None:
    site.application.max_body_bytes = 1000
    for stream in (post("/a", b"x" * length), chunked("/a", b"x" * 500, b"x" * (length - 500))):
        for size in (1, 600, len(stream)):
            client = site.connect()
            client.send_in_pieces(stream, *[size] * (len(stream) // size))
            assert refusal_of(client) == refusal


async def test_a_body_that_is_too_long_is_refused_by_its_head(site: Site) -> None:
    client = site.connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n")
    assert client.bodies == ["body_too_large"]


async def test_a_length_may_have_any_number_of_zeros_before_it(site: Site) -> None:
    client = site.connect()
    client.send(post("/a", b"12345").replace(b"Length: 5", b"Length: " + b"0" * 20_000 + b"5") + get("/b"))
    assert client.bodies == ["/a 5", "/b 0"]


@pytest.mark.parametrize(("length", "is_read"), [(1 << 20, True), ((1 << 20) + 1, False)])
async def test_a_body_that_is_not_wanted_is_read_up_to_a_bound(site: Site, length: int, is_read: bool) -> None:
    client = site.connect()
    client.send(post("/missing", b"x" * length) + get("/a"))
    await turn()
    assert client.statuses == ([404, 200] if is_read else [404])
    assert (b"Connection: close" in client.written) != is_read
