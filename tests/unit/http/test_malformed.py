"""Requests that are refused by their form, and that nothing behind them is seen: no request is smuggled."""

import pytest

from forwarder.http.messages import Refusal, State
from tests.fakes.http_site import Site, chunked, connection_of, get
from tests.fakes.http_transport import turn

HIDDEN = get("/hidden")
CHUNKS = b"0\r\n\r\n"


def with_lines(*lines: str, body: bytes = b"", request_line: str = "POST /a HTTP/1.1", host: str = "Host: x") -> bytes:
    """Return a request with these headers."""
    return "\r\n".join([request_line, *([host] if host else []), *lines, "", ""]).encode("latin-1") + body


MALFORMED_HTTP = {
    # Which body it has would be a question.
    "a length and chunks": with_lines("Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKS),
    "chunks and a length": with_lines("Transfer-Encoding: chunked", "Content-Length: 5", body=CHUNKS),
    "an empty length and chunks": with_lines("Content-Length: 0", "Transfer-Encoding: chunked", body=CHUNKS),
    "two lengths": with_lines("Content-Length: 5", "Content-Length: 6", body=b"12345"),
    "one length twice": with_lines("Content-Length: 5", "Content-Length: 5", body=b"12345"),
    "a list of lengths": with_lines("Content-Length: 5, 5", body=b"12345"),
    "a length with a plus": with_lines("Content-Length: +5", body=b"12345"),
    "a length with a minus": with_lines("Content-Length: -5", body=b"12345"),
    "a hexadecimal length": with_lines("Content-Length: 0x5", body=b"12345"),
    "a length with a space": with_lines("Content-Length: 1 5", body=b"12345"),
    "a length with a point": with_lines("Content-Length: 5.0", body=b"12345"),
    "a length with an underscore": with_lines("Content-Length: 1_0", body=b"12345"),
    "a length in other digits": with_lines("Content-Length: \xb2", body=b"12345"),
    "no number as length": with_lines("Content-Length:", body=b"12345"),
    "a length beyond 64 bits": with_lines("Content-Length: 18446744073709551621", body=b"12345"),
    "a length far beyond": with_lines("Content-Length: " + "9" * 500, body=b"12345"),
    "a space before a length's colon": with_lines("Content-Length : 5", body=b"12345"),
    "chunks twice": with_lines("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKS),
    "chunks twice in a list": with_lines("Transfer-Encoding: chunked, chunked", body=CHUNKS),
    "chunks, then nothing": with_lines("Transfer-Encoding: chunked", "Transfer-Encoding: identity", body=CHUNKS),
    "chunks not last": with_lines("Transfer-Encoding: chunked, gzip", body=CHUNKS),
    "chunks with a parameter": with_lines("Transfer-Encoding: chunked;q=1", body=CHUNKS),
    "almost chunks": with_lines("Transfer-Encoding: xchunked", body=CHUNKS),
    "quoted chunks": with_lines('Transfer-Encoding: "chunked"', body=CHUNKS),
    "chunks behind a control byte": with_lines("Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "an empty coding": with_lines("Transfer-Encoding:", body=CHUNKS),
    "identity": with_lines("Transfer-Encoding: identity", body=CHUNKS),
    "only gzip": with_lines("Transfer-Encoding: gzip", body=CHUNKS),
    "folded chunks": with_lines("Transfer-Encoding:", " chunked", body=CHUNKS),
    "a space before the coding's colon": with_lines("Transfer-Encoding : chunked", body=CHUNKS),
    "chunks in HTTP/1.0": with_lines("Transfer-Encoding: chunked", request_line="POST /a HTTP/1.0", body=CHUNKS),
    "gzip in HTTP/1.0": with_lines("Transfer-Encoding: gzip, chunked", request_line="POST /a HTTP/1.0", body=CHUNKS),
    "an upgrade with a length and chunks": with_lines(
        "Connection: Upgrade", "Upgrade: x", "Content-Length: 5", "Transfer-Encoding: chunked", body=CHUNKS
    ),
    # Where a line ends would be one.
    "a bare CR": with_lines("A: b\rContent-Length: 5"),
    "a bare LF": with_lines("A: b\nContent-Length: 5"),
    "a bare LF at the end": b"GET /a HTTP/1.1\r\nHost: x\n\n",
    "a bare LF behind the first line": b"GET /a HTTP/1.1\nHost: x\r\n\r\n",
    "a bare CR at the end": b"GET /a HTTP/1.1\r\nHost: x\r\r\n\r\n",
    "a folded line": with_lines("A: b", " c"),
    "a folded line with a tab": with_lines("A: b", "\tc"),
    "a folded first line": with_lines(" A: b", host=""),
    "a space before a colon": with_lines("A : b"),
    "a tab before a colon": with_lines("A\t: b"),
    "no name": with_lines(": b"),
    "no colon": with_lines("A"),
    "a NUL in a name": with_lines("A\0: b"),
    "a NUL in a value": with_lines("A: b\0c"),
    "a control byte in a value": with_lines("A: b\x01c"),
    "DEL in a value": with_lines("A: b\x7fc"),
    "a byte above ASCII in a name": with_lines("\xc4: b"),
    # Who is meant would be one.
    "no Host": with_lines(host=""),
    "two Hosts": with_lines("Host: y"),
    "one Host twice": with_lines("Host: x"),
    "a list of Hosts": with_lines(host="Host: x, y"),
    "two Hosts in HTTP/1.0": with_lines("Host: y", request_line="POST /a HTTP/1.0"),
    # What is spoken.
    "HTTP/2.0": with_lines(request_line="POST /a HTTP/2.0"),
    "HTTP/0.9": with_lines(request_line="POST /a HTTP/0.9"),
    "HTTP/1.2": with_lines(request_line="POST /a HTTP/1.2"),
    "HTTP/1.10": with_lines(request_line="POST /a HTTP/1.10"),
    "http/1.1": with_lines(request_line="POST /a http/1.1"),
    "no version": b"GET /a\r\n\r\n",
    "HTTP/2 with prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": with_lines(request_line="FOO /a HTTP/1.1"),
    "a method in lower case": with_lines(request_line="post /a HTTP/1.1"),
    "a target with a space": with_lines(request_line="POST /a b HTTP/1.1"),
    "a target with a tab": with_lines(request_line="POST /a\tb HTTP/1.1"),
    "a target with a NUL": with_lines(request_line="POST /a\0b HTTP/1.1"),
    "a target with bytes above ASCII": with_lines(request_line="POST /\xc3\xa4 HTTP/1.1"),
    "no target": with_lines(request_line="POST HTTP/1.1"),
}
MALFORMED_BODY = {
    "a size with a sign": b"+1\r\nx\r\n0\r\n\r\n",
    "a size with a prefix": b"0x1\r\nx\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"10000000000000001\r\nx\r\n0\r\n\r\n",
    "a negative size": b"-1\r\nx\r\n0\r\n\r\n",
    "no size": b"\r\nx\r\n0\r\n\r\n",
    "a space before a size": b" 1\r\nx\r\n0\r\n\r\n",
    "a space behind a size": b"1 \r\nx\r\n0\r\n\r\n",
    "a bare LF behind a size": b"1\nx\r\n0\r\n\r\n",
    "a bare LF behind a chunk": b"1\r\nx\n0\r\n\r\n",
    "a bare CR behind a size": b"1\rx\r\n0\r\n\r\n",
    "more than its size": b"1\r\nxy\r\n0\r\n\r\n",
    "less than its size": b"3\r\nx\r\n0\r\n\r\n",
    "a bare LF in an extension": b"1;a\nb\r\nx\r\n0\r\n\r\n",
    "a bare LF at the end": b"1\r\nx\r\n0\r\n\n",
    "a trailer named Content-Length": b"1\r\nx\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a trailer named Transfer-Encoding": b"1\r\nx\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a folded trailer": b"1\r\nx\r\n0\r\nA: b\r\n c\r\n\r\n",
    "a trailer without a colon": b"1\r\nx\r\n0\r\nA\r\n\r\n",
    "a NUL in a trailer": b"1\r\nx\r\n0\r\nA: \0\r\n\r\n",
}
UPGRADES = ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"]


async def refused_alone(site: Site, stream: bytes) -> str:
    """Return why a stream is refused, whole and in single bytes; only what comes before it may be seen."""
    for size in (len(stream) + len(HIDDEN) * 3, 1):
        client = site.connect()
        client.send_in_pieces(get("/before") + stream + HIDDEN * 2, *[size] * (len(stream) + len(HIDDEN)))
        await turn()
        client.send(HIDDEN)
        assert [request.target for request in site.application.seen] == ["/before"]
        assert client.statuses == [200, 400]
        assert connection_of(client).state is State.LINGERING
        site.application.seen.clear()
    first, second = (refusal for refusal, _ in site.application.refusals)
    assert first == second
    return first


@pytest.mark.parametrize("request_", MALFORMED_HTTP.values(), ids=MALFORMED_HTTP)
async def test_a_malformed_head_is_refused_and_nothing_behind_it_is_seen(site: Site, request_: bytes) -> None:
    assert await refused_alone(site, request_) == "malformed_http"


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["plain", "upgrade"])
@pytest.mark.parametrize("chunks", MALFORMED_BODY.values(), ids=MALFORMED_BODY)
async def test_a_malformed_body_is_refused_and_nothing_behind_it_is_seen(
    site: Site, chunks: bytes, upgrade: str
) -> None:
    assert await refused_alone(site, chunked("/a", headers=upgrade)[: -len(CHUNKS)] + chunks) == "malformed_body"


@pytest.mark.parametrize("coding", ["gzip, chunked", "GZIP,Chunked", "deflate,\tchunked"])
async def test_a_coding_that_is_not_spoken_is_refused_as_such(site: Site, coding: str) -> None:
    refusal = await refused_alone(site, with_lines(f"Transfer-Encoding: {coding}", body=CHUNKS))
    assert refusal == "unsupported_transfer_encoding"


async def test_trailers_are_no_headers_of_the_next_request(site: Site) -> None:
    client = site.connect()
    client.send(chunked("/a", b"x", trailers="Host: y\r\nX-A: 1\r\nUpgrade: x\r\nConnection: upgrade\r\n") + get("/b"))
    first, second = site.application.seen
    assert first.headers == {"host": "x", "transfer-encoding": "chunked"}
    assert second.headers == {"host": "x"}


async def test_a_trailer_named_connection_has_nothing_taken_behind_it(site: Site) -> None:
    client = site.connect()
    client.send(chunked("/a", b"x", trailers="Connection: close\r\n") + get("/b"))
    assert [request.target for request in site.application.seen] == ["/a"]


async def test_names_like_those_of_the_framing_are_others(site: Site) -> None:
    client = site.connect()
    client.send(with_lines("Content_Length: 5", "Transfer_Encoding: chunked", "Content-Lengt: 5") + get("/b"))
    assert [request.target for request in site.application.seen] == ["/a", "/b"]


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED", "  chunked  "])
async def test_chunks_may_be_written_in_any_case(site: Site, value: str) -> None:
    client = site.connect()
    client.send(with_lines(f"Transfer-Encoding:{value}", body=b"5\r\n12345\r\n0\r\n\r\n") + get("/b"))
    assert client.bodies == ["/a 5", "/b 0"]


async def test_a_refusal_says_of_which_target_it_is_if_that_is_known(site: Site) -> None:
    for stream in (
        b"\x16\x03",
        b"GET /a\tb",
        b"GET /a HTTP/1.1\r\nA : b",
        with_lines(host=""),
        chunked("/a")[:-5] + b"Z",
    ):
        site.connect().send(stream)
    assert [target for _, target in site.application.refusals] == [None, None, "/a", "/a", "/a"]


HEADS = {
    "malformed": ("HEAD /a HTTP/1.1\r\nHost: x\r\nA : b", "malformed_http"),
    "without a Host": ("HEAD /a HTTP/1.1\r\n\r\n", "malformed_http"),
    "of another version": ("HEAD /a HTTP/2.0\r\n\r\n", "malformed_http"),
    "with a long target": ("HEAD /" + "a" * 9000 + " HTTP/1.1\r\nHost: x\r\n\r\n", "uri_too_long"),
    "with a target without an end": ("HEAD /" + "a" * 9000, "uri_too_long"),
    "with large headers": ("HEAD /a HTTP/1.1\r\nHost: x\r\nA: " + "b" * 40_000 + "\r\n\r\n", "headers_too_large"),
    "with a header without an end": ("HEAD /a HTTP/1.1\r\nHost: x\r\nA: " + "b" * 40_000, "headers_too_large"),
    "with a coding": ("HEAD /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                      "unsupported_transfer_encoding"),
    "with a long body": ("HEAD /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", "body_too_large"),
}  # fmt: skip


@pytest.mark.parametrize("before", ["", "GET"])
@pytest.mark.parametrize(("head", "refusal"), HEADS.values(), ids=HEADS)
async def test_a_refused_head_request_gets_no_body_either(site: Site, head: str, refusal: Refusal, before: str) -> None:
    client = site.connect()
    client.send((get("/before") if before else b"") + head.encode())
    assert [what for what, _ in site.application.refusals] == [refusal]
    assert client.statuses == ([200, 400] if before else [400])
    assert f"Content-Length: {len(refusal)}\r\n".encode() in client.written
    assert client.written.endswith(b"\r\n\r\n")


async def test_a_head_request_that_comes_too_slowly_gets_no_body_either(site: Site) -> None:
    client = site.connect()
    client.send(b"HEAD /a HTTP/1.1\r\nHost")
    await site.pass_time(11)
    assert client.statuses == [400]
    assert client.written.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("garbage", [b"}", b"HEAD", b"HEAD }"])
async def test_what_is_no_request_behind_a_head_request_is_refused_with_a_body(site: Site, garbage: bytes) -> None:
    client = site.connect()
    client.send(get("/a").replace(b"GET", b"HEAD") + garbage)
    client.end()
    await turn()
    assert client.statuses == [200, 400]
    assert client.written.endswith(b"malformed_http")
    assert site.application.refusals == [("malformed_http", None)]
