"""What a stream of requests has, judged by h11: of nearly valid requests, and of any bytes changed in them.

We never see a request that h11 does not see, but for what `lenient` undoes; and we see each as h11 does, or refuse it for
one of `STRICTER`. Where one parser sees a request in what another takes for a body, requests can be smuggled.
"""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.http_oracle import ours, theirs

METHODS = (
    b"DELETE|GET|HEAD|POST|PUT|CONNECT|OPTIONS|TRACE|COPY|LOCK|MKCOL|MOVE|PROPFIND|PROPPATCH|SEARCH|UNLOCK|BIND|REBIND|UNBIND"
    b"|ACL|REPORT|MKACTIVITY|CHECKOUT|MERGE|M-SEARCH|NOTIFY|SUBSCRIBE|UNSUBSCRIBE|PATCH|PURGE|MKCALENDAR|LINK|UNLINK|SOURCE"
    b"|QUERY"
)
STRICTER = {
    "a line that ends with LF alone can hide a header from others": rb"(?<!\r)\n",
    "a folded header is obsolete, and means other things to others": rb"\n[ \t]",
    "llhttp knows methods by name": rb"^(?:\r\n)?(?!(?:%b) )" % METHODS,
    "only HTTP/1.0 and 1.1 are spoken": rb"^(?:\r\n)?\S+ \S+ HTTP/(?!1\.[01]\r\n)",
    "a target is a path, an asterisk, or begins with a scheme": rb"^(?:\r\n)?\S+ (?![/*]|[A-Za-z]+://)",
    "CONNECT names a host": rb"^(?:\r\n)?CONNECT (?=[/*])",
    "a length is said once": rb"(?is)\ncontent-length:(?:[^\r]*,|.*\ncontent-length:)",
    "trailers say nothing of the framing": rb"(?i)\n0+[^\r]*\r\n(?:[^\r]+\r\n)*(?:content-length|transfer-encoding):",
    "control characters in a header": rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]",
    "either a length or chunks": rb"(?is)^(?=.*\ncontent-length:)(?=.*\ntransfer-encoding:)",
    "HTTP/1.0 has no chunks": rb"(?i)^[^\r]* HTTP/1\.0\r\n(?:[^\r]+\r\n)*transfer-encoding:",
    "there is one Host, without a comma": rb"(?i)\nhost:[^\r]*,",
    "a body has its longest length": rb"(?i)\ncontent-length:[ \t]*\d{7,}",
    "chunk extensions have their grammar, and no white space": rb"\r\n[0-9a-fA-F]+[ \t]*(?:;|[ \t]\r)",
    "white space before a chunk's end": rb"(?i)\r\n[0-9a-f]+[ \t]+\r\n",
}
"""Why we may refuse what h11 takes, and what a request has then."""


def lenient(stream: bytes) -> bytes:
    """Return what h11 would be sent if llhttp said it more plainly.

    It skips line breaks before a request and spaces in its first line, and takes RTSP/1.1 and ICE/1.1 for HTTP/1.1. None
    of these changes where a request begins or ends.
    """
    line, end, rest = stream.lstrip(b"\r\n").partition(b"\r\n")
    return re.sub(rb" (?:RTSP|ICE)/", b" HTTP/", re.sub(rb" +", b" ", line)) + end + rest


def judge(stream: bytes) -> None:
    """Fail if we see other requests than h11."""
    mine, its = ours(stream), theirs(stream)
    seen = 0
    while mine.requests[seen : seen + 1] == its.requests[seen : seen + 1] != []:
        seen += 1
    if seen == len(mine.requests) == len(its.requests):
        return
    one, other = (*mine.requests[seen:], None)[0], (*its.requests[seen:], None)[0]
    if other is None:
        rest = stream[its.starts[seen] :]
        assert lenient(rest) != rest, f"we see {one} in {rest!r}, which h11 refuses: {its.refusal}"
        assert ours(lenient(rest)).requests == mine.requests[seen:]
        judge(lenient(rest))
    else:
        assert one is None or one == other._replace(body=None), f"we see {one}, h11 {other}"
        raw = stream[its.starts[seen] : (*its.starts, None)[seen + 1]]
        assert mine.refusal is not None, f"{raw!r} waits for more"
        assert any(re.search(pattern, raw) for pattern in STRICTER.values()), f"{raw!r} is {mine.refusal}"


def mostly(usual: str, *odd: str) -> st.SearchStrategy[str]:
    """Give the usual text half the time."""
    return st.one_of(st.just(usual), st.sampled_from(odd))


LINES = st.builds(
    lambda before, method, space, target, other_space, version: (
        f"{before}{method}{space}{target}{other_space}{version}"
    ),
    mostly("", "\r\n", "\n", "\r", " ", "\r\n\r\n"),
    mostly("POST", "GET", "HEAD", "OPTIONS", "CONNECT", "NONE", "PRI", "SOURCE", "get", "M-SEARCH"),
    mostly(" ", "  ", "\t", ""),
    mostly("/", "/a?b=c", "*", "x:1", "http://x/y", "/a#b", "/%41", "/\xe9", "a", "/a\tb", '/"<>\\^`{|}', ""),
    mostly(" ", "  ", "\t", ""),
    mostly(
        "HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "RTSP/1.0", "ICE/1.1", "http/1.1", "HTTP/01.1", ""
    ),
)
HEADERS = st.sampled_from(
    [
        "Host: x", "Host:", "Host: a, b", "HOST: y", "A: b", "A:", "A: b, c", "a: \xe9\xff", "A : b", " A: b", "A:\tb\t",
        "A: b\r\n c", "A: b\r\n\tc", ": x", "A", "A: b\rB: c", "A: b\nB: c", "A: b\0c", "A\0: b",
        "Content-Length: 3", "Content-Length: +3", "Content-Length: 3 ", "Content-Length: 03", "Content-Length: 0x3",
        "Content-Length: 3, 3", "Content-Length: 3,4", "Content-Length: -3", "Content-Length:", "Content-Length: 0",
        "Content-Length: 3 3", "Content-Length: 99999999999999999999999", "Content-Length: 18446744073709551619",
        "Content_Length: 3", "Content-Length : 3", "Content-Length: 3\r\n 4", "Content-Length\x0b: 3",
        "Transfer-Encoding: chunked", "Transfer-Encoding: Chunked", "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked", "Transfer-Encoding:", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked;a=b", "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:\r\n chunked", "Transfer_Encoding: chunked",
        "Connection: close", "Connection: keep-alive", "Connection: Upgrade\r\nUpgrade: h2c", "Upgrade: h2c",
        "Connection: close, Upgrade\r\nUpgrade: x", "Connection: Transfer-Encoding", "Expect: 100-continue",
    ]
)  # fmt: skip
CHUNKS = st.sampled_from(
    [
        "3\r\nabc\r\n0\r\n\r\n", "3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", "3\r\nabc\r\n0\r\nContent-Length: 3\r\n\r\n",
        "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", "03\r\nabc\r\n00\r\n\r\n", "3 \r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0;\r\n\r\n", "0x3\r\nabc\r\n0\r\n\r\n", "+3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n",
        "3\r\nabcd\r\n0\r\n\r\n", "3\r\nab\r\n0\r\n\r\n", '3;a="\r\nabc\r\n0\r\n\r\n', '3;a="b;c"\r\nabc\r\n0\r\n\r\n',
        "0\r\n\r\n", "fffffffffffffffff\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n", "3; a=b\r\nabc\r\n0\r\n\r\n",
        "3;a\r\nabc\r\n0\r\n\r\n", " 3\r\nabc\r\n0\r\n\r\n", "\r\n3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nA\r\n\r\n",
        "3\r\nabc\r\n0\r\nA: b\r\n c\r\n\r\n", "3\r\nabc\r\n0\n\n", "3\r\nabc\r\n-1\r\n\r\n",
        "3\r\nabc0\r\n\r\n", "3\nabc\r\n0\r\n\r\n",
    ]
)  # fmt: skip
FRAMED: st.SearchStrategy[tuple[list[str], str]] = st.one_of(
    st.just((["Content-Length: 3"], "abc")),
    st.just((["Content-Length: 21"], "GET /b HTTP/1.1\r\n\r\n ")),
    st.tuples(st.just(["Transfer-Encoding: chunked"]), CHUNKS),
    st.tuples(st.just([]), st.one_of(st.just(""), CHUNKS)),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Give a request that is nearly valid."""
    headers, body = draw(FRAMED)
    others = draw(st.lists(HEADERS, max_size=2))
    host = draw(st.sampled_from([["Host: x"]] * 9 + [[]]))
    lines = draw(st.permutations([*host, *headers, *others]))
    return "\r\n".join([draw(LINES), *lines, "", body]).encode("latin-1")


CHANGES = st.tuples(
    st.sampled_from(["drop", "replace", "insert", "repeat", "cut"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(b'\r\n \t:;,\0\x01\x0b\x0c\x7f\x80\xff01+-aAzX/"=*%\\'),
)


def changed(stream: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """Return a stream with some of its bytes changed."""
    for kind, where, byte in changes:
        at = int(where * len(stream))
        middle = {"drop": b"", "replace": bytes([byte]), "insert": bytes([byte]) + stream[at : at + 1]}
        middle |= {"repeat": stream[at : at + byte] * 2, "cut": b""}
        after = {"repeat": at + byte, "cut": at + byte % 8}.get(kind, at + 1)
        stream = stream[:at] + middle[kind] + stream[after:]
    return stream


STREAMS = st.builds(changed, st.lists(requests(), min_size=1, max_size=4).map(b"".join), st.lists(CHANGES, max_size=3))


@given(STREAMS, st.integers(1, 60))
def test_we_see_the_requests_that_h11_sees(stream: bytes, segment_bytes: int) -> None:
    judge(stream)
    assert ours(stream, segment_bytes=segment_bytes) == ours(stream)


@pytest.mark.soak
@settings(max_examples=40_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(STREAMS)
def test_we_see_the_requests_that_h11_sees_in_a_hundred_thousand(stream: bytes) -> None:
    judge(stream)


VALID = st.tuples(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.text("abcXYZ0189-._~!$&'()*+,;=:@%/?", max_size=40),
    st.dictionaries(
        st.text("abXY09!#$%&'*+.^_`|~-", min_size=1, max_size=9), st.text('ab \t,:;"=é€😀', max_size=30), max_size=5
    ),
    st.binary(max_size=80),
    st.booleans(),
)


@given(st.lists(VALID, max_size=5), st.integers(1, 100))
def test_what_is_valid_is_read_as_it_was_meant(
    meant: list[tuple[str, str, dict[str, str], bytes, bool]], segment_bytes: int
) -> None:
    stream = b""
    for method, path, headers, body, comes_in_chunks in meant:
        framing = "Transfer-Encoding: chunked" if comes_in_chunks else f"Content-Length: {len(body)}"
        others = [f"X-{name}: {value}" for name, value in headers.items()]
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        stream += "\r\n".join([f"{method} /{path} HTTP/1.1", "Host: x", framing, *others, "", ""]).encode()
        stream += chunk + b"0\r\n\r\n" if comes_in_chunks else body
    reading = ours(stream, segment_bytes=segment_bytes)
    assert reading.refusal is None
    assert [(seen.method, seen.target, seen.body) for seen in reading.requests] == [
        (method, f"/{path}", body) for method, path, _, body, _ in meant
    ]
    judge(stream)


def test_the_oracle_sees_more_requests_where_one_is_hidden() -> None:
    """If we took a body for a request, this is how it would be found."""
    with pytest.raises(AssertionError):
        judge(b"POST / HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
