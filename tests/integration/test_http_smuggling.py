"""What could be read in two ways, or is not HTTP/1.1, is refused as a whole: 400 and the end, and nothing of it is stored.

However it comes: at once, byte by byte, or behind a good request, which is answered first. Another request lies behind each,
as an attacker would have it, and must never be taken for one.
"""

import pytest

from tests.fakes.http_intake_harness import Served, serving
from tests.fakes.wire import GOOD, ONE, by_bytes, event, post, wire_to

BEFORE = event(1)
SMUGGLED = post(ONE, event(666))
LENGTH = b"Content-Length: %d" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
FIRST = b"POST /track/event HTTP/1.1"
HOST = b"Host: localhost"


def asking(*lines: bytes, body: bytes = GOOD) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def framed(*lines: bytes) -> bytes:
    """Return a good request but for these lines of its head."""
    return asking(FIRST, HOST, *lines, LENGTH)


def encoded(*values: bytes, body: bytes = CHUNKS) -> bytes:
    """Return a request with these Transfer-Encodings."""
    return asking(FIRST, HOST, *(b"Transfer-Encoding: " + value for value in values), body=body)


def long(*values: bytes) -> bytes:
    """Return a request with these Content-Lengths."""
    return asking(FIRST, HOST, *(b"Content-Length: " + value for value in values))


def begun(first: bytes) -> bytes:
    return asking(first, HOST, LENGTH)


SIZE = b"%d" % len(GOOD)
MALFORMED: dict[str, bytes] = {
    # Two ways to tell where the body ends.
    "length and chunks": asking(FIRST, HOST, LENGTH, CHUNKED, body=CHUNKS),
    "chunks and length": asking(FIRST, HOST, CHUNKED, LENGTH, body=CHUNKS),
    "a length of nothing and chunks": asking(FIRST, HOST, b"Content-Length: 0", CHUNKED, body=CHUNKS),
    "length, and an unknown coding": asking(FIRST, HOST, LENGTH, b"Transfer-Encoding: x"),
    "the same length twice": long(SIZE, SIZE),
    "two lengths": long(SIZE, b"0"),
    "two lengths, the other way round": long(b"0", SIZE),
    "two lengths in one line": long(SIZE + b", " + SIZE),
    "two lengths apart by a space": long(SIZE + b" " + SIZE),
    "a length with a plus": long(b"+" + SIZE),
    "a length with a minus": long(b"-" + SIZE),
    "a length in hex": long(b"0x4e"),
    "a length with an underscore": long(b"7_8"),
    "a length with a point": long(SIZE + b".0"),
    "a length with a comma": long(SIZE + b","),
    "a length in other digits": long("٧٨".encode()),
    "a length of letters": long(b"all"),
    "no length": long(b""),
    "a length beyond 64 bits": long(b"18446744073709551694"),
    "a length beyond all bounds": long(b"9" * 100),
    "a length with a vertical tab": long(b"\x0b" + SIZE),
    # Codings.
    "an unknown coding": encoded(b"zip"),
    "a known coding alone": encoded(b"gzip"),
    "chunked is not last": encoded(b"chunked, gzip"),
    "chunked is not last, in two lines": encoded(b"chunked", b"gzip"),
    "identity": encoded(b"identity"),
    "chunked, then identity": encoded(b"chunked", b"identity"),
    "no coding": encoded(b""),
    "nearly chunked": encoded(b"xchunked"),
    "chunked and more": encoded(b"chunkedx"),
    "chunked in quotes": encoded(b'"chunked"'),
    "chunked in single quotes": encoded(b"'chunked'"),
    "chunked with a parameter": encoded(b"chunked;q=1"),
    "chunked after a vertical tab": encoded(b"\x0bchunked"),
    "chunked before a form feed": encoded(b"chunked\x0c"),
    "chunked before a no-break space": encoded(b"chunked\xa0"),
    "chunked after a control character of latin-1": encoded(b"\x85chunked"),
    "chunked with a null": encoded(b"chunked\x00"),
    "chunked in HTTP/1.0": asking(b"POST /track/event HTTP/1.0", HOST, CHUNKED, body=CHUNKS),
    "chunked and kept, in HTTP/1.0": asking(
        b"POST /track/event HTTP/1.0", HOST, b"Connection: keep-alive", CHUNKED, body=CHUNKS
    ),
    # Names.
    "a space before the colon of the length": asking(FIRST, HOST, b"Content-Length : " + SIZE),
    "a tab before the colon of the length": asking(FIRST, HOST, b"Content-Length\t: " + SIZE),
    "a space before the colon of the coding": asking(FIRST, HOST, b"Transfer-Encoding : chunked", body=CHUNKS),
    "a space before the colon of the host": asking(FIRST, b"Host : localhost", LENGTH),
    "a space before any other colon": framed(b"X : y"),
    "a space in a name": framed(b"X Y: z"),
    "a no-break space behind a name": asking(FIRST, HOST, LENGTH, b"Transfer-Encoding\xa0: chunked"),
    "a control character behind a name": asking(FIRST, HOST, b"Content-Length\x85: " + SIZE),
    "a name with a null": framed(b"X\x00Y: z"),
    "a name with a bracket": framed(b"X(Y: z"),
    "a name with letters beyond ASCII": framed("Ü: z".encode()),
    "a name with a carriage return": framed(b"X\rY: z"),
    "no name": framed(b": z"),
    "no colon": framed(b"XYZ"),
    "only spaces": framed(b"  "),
    "a first header that begins with a space": asking(FIRST, b" X: y", HOST, LENGTH),
    # Folding.
    "a folded value": framed(b"X: y", b" z"),
    "a value folded by a tab": framed(b"X: y", b"\tz"),
    "a folded length": asking(FIRST, HOST, b"Content-Length:", b" " + SIZE),
    "a folded coding": asking(FIRST, HOST, b"Transfer-Encoding:", b" chunked", body=CHUNKS),
    "a coding that is folded away": asking(FIRST, HOST, b"X: y", b" Transfer-Encoding: chunked", LENGTH),
    "a folded host": asking(FIRST, b"Host: localhost", b" evil.example", LENGTH),
    # Ends of lines.
    "a bare line feed after the request line": FIRST + b"\n" + HOST + b"\r\n" + LENGTH + b"\r\n\r\n" + GOOD,
    "a bare line feed after a header": FIRST + b"\r\n" + HOST + b"\n" + LENGTH + b"\r\n\r\n" + GOOD,
    "a bare line feed after the last header": FIRST + b"\r\n" + HOST + b"\r\n" + LENGTH + b"\n\r\n" + GOOD,
    "a bare line feed as the empty line": FIRST + b"\r\n" + HOST + b"\r\n" + LENGTH + b"\r\n\n" + GOOD,
    "line feeds only": b"\n".join([FIRST, HOST, LENGTH, b"", GOOD]),
    "a bare line feed in a value": framed(b"X: y\nTransfer-Encoding: chunked"),
    "a bare carriage return after the request line": FIRST + b"\r" + HOST + b"\r\n" + LENGTH + b"\r\n\r\n" + GOOD,
    "a bare carriage return after a header": FIRST + b"\r\n" + HOST + b"\r" + LENGTH + b"\r\n\r\n" + GOOD,
    "a bare carriage return in a value": framed(b"X: y\rTransfer-Encoding: chunked"),
    "a bare carriage return before an end of line": framed(b"X: y\r"),
    "a bare carriage return as the empty line": FIRST + b"\r\n" + HOST + b"\r\n" + LENGTH + b"\r\n\r" + GOOD,
    "carriage returns only": b"\r".join([FIRST, HOST, LENGTH, b"", GOOD]),
    # Values.
    "a null in a value": framed(b"X: y\x00z"),
    "a control character in a value": framed(b"X: y\x01z"),
    "a delete in a value": framed(b"X: y\x7fz"),
    # Hosts.
    "no host": asking(FIRST, LENGTH),
    "two hosts": asking(FIRST, HOST, b"Host: evil.example", LENGTH),
    "the same host twice": asking(FIRST, HOST, HOST, LENGTH),
    "two hosts in other cases": asking(FIRST, HOST, b"hOST: evil.example", LENGTH),
    # The request line.
    "HTTP/2.0": begun(b"POST /track/event HTTP/2.0"),
    "HTTP/2": begun(b"POST /track/event HTTP/2"),
    "HTTP/3.0": begun(b"POST /track/event HTTP/3.0"),
    "HTTP/0.9": begun(b"POST /track/event HTTP/0.9"),
    "HTTP/1": begun(b"POST /track/event HTTP/1"),
    "HTTP/1.": begun(b"POST /track/event HTTP/1."),
    "HTTP/1.10": begun(b"POST /track/event HTTP/1.10"),
    "HTTP/01.1": begun(b"POST /track/event HTTP/01.1"),
    "HTTP/1,1": begun(b"POST /track/event HTTP/1,1"),
    "a version in lower case": begun(b"POST /track/event http/1.1"),
    "a version and more": begun(b"POST /track/event HTTP/1.1 x"),
    "a space behind the version": begun(b"POST /track/event HTTP/1.1 "),
    "another protocol": begun(b"POST /track/event HTCP/1.1"),
    "no version": begun(b"POST /track/event"),
    "no version, and a space": begun(b"POST /track/event "),
    "no version, and a bare line feed": b"POST /track/event\n" + asking(HOST, LENGTH),
    "no target": begun(b"POST HTTP/1.1"),
    "no target, and a space": begun(b"POST  HTTP/1.1"),
    "a tab for a space": begun(b"POST\t/track/event\tHTTP/1.1"),
    "a space before the method": begun(b" POST /track/event HTTP/1.1"),
    "a space in the target": begun(b"POST /track /event HTTP/1.1"),
    "a null in the target": begun(b"POST /track/event\x00 HTTP/1.1"),
    "a control character in the target": begun(b"POST /track/event?\x01 HTTP/1.1"),
    "a carriage return in the target": begun(b"POST /track\r/event HTTP/1.1"),
    "a null in the method": begun(b"PO\x00ST /track/event HTTP/1.1"),
    "a method with a bracket": begun(b"PO{ST /track/event HTTP/1.1"),
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a hello of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 40,
    "a header of a proxy": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + framed(),
    "a binary header of a proxy": b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00\x0c" + b"x" * 12 + framed(),
    "an answer": b"HTTP/1.1 200 OK\r\n" + asking(HOST, LENGTH),
    "JSON alone": GOOD + b"\r\n\r\n",
}


async def assert_refused(served: Served, *segments: bytes, behind: int = 0) -> None:
    async with wire_to(served.place) as wire:
        await wire.send_what_is_taken(*segments)
        *before, last = await wire.rest()
        assert [reply.status for reply in before] == [200] * behind
        assert (last.status, last.code, last.closes) == (400, "malformed_http", True)


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_malformed_is_refused_and_nothing_behind_it_is_a_request(data: bytes) -> None:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as served:
        await assert_refused(served, data + SMUGGLED)
        await assert_refused(served, *by_bytes(data), SMUGGLED)
        assert served.buffer.occupancy().events == 0
        served.counts().assert_balanced()


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_a_good_request_before_what_is_malformed_is_stored_and_answered_first(data: bytes) -> None:
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as served:
        await assert_refused(served, post(ONE, BEFORE) + data + SMUGGLED, behind=1)
        assert [event.body for event in await served.take_all()] == [BEFORE]
        served.counts().assert_balanced()


DEFLATED: dict[str, bytes] = {
    "gzip": encoded(b"gzip, chunked"),
    "gzip in two lines": encoded(b"gzip", b"chunked"),
    "deflate, without a space": encoded(b"deflate,chunked"),
    "upper case": encoded(b"GZIP, Chunked"),
    "compress": encoded(b"compress, chunked"),
    "three": encoded(b"deflate, gzip, chunked"),
    "one nobody knows": encoded(b"rot13, chunked"),
}


@pytest.mark.parametrize("data", DEFLATED.values(), ids=DEFLATED)
async def test_a_coding_of_the_transfer_beside_chunked_is_not_implemented(data: bytes) -> None:
    async with serving(body_timeout_seconds=60) as served:
        for segments in ([data], by_bytes(data)):
            async with wire_to(served.place) as wire:
                await wire.send_what_is_taken(*segments)
                reply = await wire.reply()
                assert (reply.status, reply.code) == (501, "unsupported_transfer_encoding")
                if not reply.closes:
                    await wire.send(post(ONE))
                    assert (await wire.reply()).status == 200
        bodies = [event.body for event in await served.take_all()]
        assert bodies in ([], [GOOD, GOOD])
        assert served.counts().accepted == len(bodies)
        refused = served.telemetry.registry.get_sample_value(
            "growlytics_forwarder_http_requests_refused_total", {"reason": "unsupported_transfer_encoding"}
        )
        assert refused == 2


EITHER: dict[str, tuple[bytes, set[int]]] = {
    "chunked twice": (encoded(b"chunked, chunked"), {400, 501}),
    "chunked twice, in two lines": (encoded(b"chunked", b"chunked"), {400, 501}),
    "a coding among tabs": (encoded(b"\tchunked\t"), {200, 400}),
    # The parser does not tell the protocol's name, and knows these two; what it takes for HTTP is one request, as framed.
    "a post of RTSP": (begun(b"POST /track/event RTSP/1.0"), {200, 400}),
    "a post of RTSP/1.1": (begun(b"POST /track/event RTSP/1.1"), {200, 400}),
    "a question of RTSP": (asking(b"GET /v1/status RTSP/1.0", HOST, body=b""), {200, 400}),
    "a post of ICE": (begun(b"POST /track/event ICE/1.0"), {200, 400}),
    "a method of RTSP": (begun(b"ANNOUNCE /track/event RTSP/1.0"), {400, 405, 501}),
    "a method of ICE": (begun(b"SOURCE /track/event ICE/1.0"), {400, 405, 501}),
    "HTTP/1.2": (begun(b"POST /track/event HTTP/1.2"), {200, 400}),
    "two spaces before the version": (begun(b"POST /track/event  HTTP/1.1"), {200, 400}),
    "an empty element before chunked": (encoded(b", chunked"), {200, 400, 501}),
    "an empty element after chunked": (encoded(b"chunked,"), {200, 400, 501}),
    "a length with a zero before it": (long(b"0" + SIZE), {200, 400}),
    "no host's name": (asking(FIRST, b"Host:", LENGTH), {400, 403}),
    "two hosts in one line": (asking(FIRST, b"Host: localhost, localhost", LENGTH), {400, 403}),
    "a method in lower case": (begun(b"post /track/event HTTP/1.1"), {400, 405, 501}),
    "a method nobody knows": (begun(b"FROB /track/event HTTP/1.1"), {400, 405, 501}),
    "a method of WebDAV": (begun(b"PROPFIND /track/event HTTP/1.1"), {400, 405, 501}),
    "a tunnel": (begun(b"CONNECT localhost:80 HTTP/1.1"), {400, 404, 405, 501}),
    "a tunnel without a body": (asking(b"CONNECT localhost:80 HTTP/1.1", HOST, body=b""), {400, 404, 405, 501}),
    "all there is": (asking(b"OPTIONS * HTTP/1.1", HOST, body=b""), {200, 204, 400, 403, 404, 405}),
    "a target without a slash": (begun(b"POST track/event HTTP/1.1"), {400, 404}),
    "a fragment": (begun(b"POST /track/event#x HTTP/1.1"), {200, 400, 404}),
    "letters beyond ASCII in the target": (begun("POST /träck HTTP/1.1".encode()), {400, 404}),
}


@pytest.mark.parametrize(("data", "statuses"), EITHER.values(), ids=EITHER)
async def test_what_may_be_read_in_one_way_is_answered_once_and_never_makes_two_of_one(
    data: bytes, statuses: set[int]
) -> None:
    """Either way is right, as long as what follows is a request of its own, or nothing is."""
    async with serving(header_timeout_seconds=60, body_timeout_seconds=60) as served:
        async with wire_to(served.place) as wire:
            await wire.send_what_is_taken(data + post(ONE, event(2), "Connection: close"))
            first, *others = await wire.rest()
        assert first.status in statuses
        assert [reply.status for reply in others] == ([] if first.closes else [200])
        wanted = [GOOD] * (first.status == 200 and GOOD in data) + [event(2)] * len(others)
        assert [event.body for event in await served.take_all()] == wanted


ODD: dict[str, bytes] = {
    "an empty line before": b"\r\n" + framed(),
    "two empty lines before": b"\r\n\r\n" + framed(),
    "a whole URL": begun(b"POST http://localhost/track/event HTTP/1.1"),
    "a query": begun(b"POST /track/event?a=b&c=%00 HTTP/1.1"),
    "no space behind the colon": asking(FIRST, b"Host:localhost", b"Content-Length:" + SIZE),
    "spaces around a value": asking(FIRST, b"Host: \t localhost \t ", b"Content-Length: \t" + SIZE + b" "),
    "a coding in capitals": encoded(b"CHUNKED"),
    "a coding among spaces": encoded(b"  chunked  "),
    "an empty value": framed(b"X:"),
    "a tab in a value": framed(b"X: y\tz"),
    "letters beyond ASCII in a value": framed("X: ÿü".encode("latin-1")),
    "every letter that a name may have": framed(b"!#$%&'*+-.^_`|~aA9: z"),
    "colons in a value": framed(b"X: y: z:"),
    "the same header often": framed(*[b"X: y"] * 20),
    "names of the framing within values": framed(b"X: Transfer-Encoding: chunked"),
    "names like those of the framing": framed(b"Content_Length: 3", b"Transfer_Encoding: chunked", b"X-Content-Length: 1"),
    "a wish for trailers": framed(b"TE: trailers", b"Connection: TE"),
}  # fmt: skip


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
async def test_what_is_odd_but_plain_is_served(data: bytes) -> None:
    async with serving() as served, wire_to(served.place) as wire:
        await wire.send(data + data)
        assert [reply.status for reply in await wire.replies(2)] == [200, 200]
        await wire.send(*by_bytes(data))
        assert (await wire.reply()).status == 200
        assert [event.body for event in await served.take_all()] == [GOOD] * 3
