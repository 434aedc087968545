"""Answers in pieces of any size: which status they have, what of the body came, and whether the connection is kept."""

from collections.abc import Iterable
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.growlytics.answer import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    AnswerReader,
    ApiAnswer,
    MalformedAnswerError,
    usual_answer,
)
from forwarder.growlytics.answer_body import MAX_ANSWER_BYTES

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def reader_of(*pieces: bytes) -> AnswerReader:
    """Return a reader to which all of these came, although it had enough before."""
    reader = AnswerReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def read(*pieces: bytes) -> tuple[ApiAnswer | None, bool, bool]:
    """Return the answer, whether it has ended, and whether its connection may be used again."""
    reader, has_ended = AnswerReader(), False
    for piece in pieces:
        assert not has_ended, "there was more to read"
        has_ended = reader.feed(piece)
    return reader.answer, has_ended, reader.is_reusable


def answer_of(*pieces: bytes) -> ApiAnswer:
    answer = reader_of(*pieces).answer
    assert answer is not None
    return answer


def with_length(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{line}\r\n" for line in [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, ""])
    return head.encode("latin-1") + body


WHOLE = {
    "length": with_length(b'{"success":true}'),
    "no body": with_length(b""),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "204 with a length of 0": b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    "205": with_length(b"", status="205 Reset Content"),
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    "chunks": CHUNKED + b"2\r\nok\r\n0a\r\n0123456789\r\n0\r\n\r\n",
    "no chunks": CHUNKED + b"0\r\n\r\n",
    "chunks with extensions and a trailer": CHUNKED + b'2;a=b;c="d"\r\nok\r\n000;e\r\nX: y\r\nZ: \r\n\r\n',
    "chunks that end lines without a carriage return": CHUNKED + b"2\nok\n0\n\n",
    "1xx before": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + with_length(b"ok"),
    "no coding of the transfer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
    "1.0 that is kept": b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
    "lines without a carriage return": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "empty lines before": b"\r\n\r\n" + with_length(b"ok"),
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
    "a reason in Latin-1": b"HTTP/1.1 200 \xe4\xff\r\nContent-Length: 2\r\n\r\nok",
    "names in any case and much space": b"HTTP/1.1 200 OK\r\ncOnTeNt-LeNgTh: \t2 \r\nX:\r\n\r\nok",
}
"""Answers with an end that is beyond doubt, so that their connection is kept."""

ENDED = {
    "close": (with_length(b"ok", "Connection: close"), 200),
    "close among others": (with_length(b"ok", "Connection: x, Close"), 200),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
    "another version": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200),
    "length and chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        200,
    ),
    "the length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", 200),
    "the length twice in one": (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", 200),
    "a header that goes on": (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", 200),
    "a line without a colon": (b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\nok", 200),
    "space before the colon": (b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", 200),
    "more than was announced": (with_length(b"ok") + b"x", 200),
    "another answer behind": (with_length(b"ok") + with_length(b"ok"), 200),
    "a body for a 204": (b"HTTP/1.1 204 No Content\r\n\r\nok", 204),
    "a length for a 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", 204),
    "an upgrade": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101),
    "an upgrade and more": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + with_length(b"ok"), 101),
    "a chunk of no size": (CHUNKED + b"zz\r\nhello\r\n", 200),
    "a chunk of a negative size": (CHUNKED + b"-5\r\nhello\r\n", 200),
    "a chunk that does not end": (CHUNKED + b"5\r\nhelloXX\r\n", 200),
    "a chunk of a size without end": (CHUNKED + b"0" * 20_000, 200),
    "an endless trailer": (CHUNKED + b"0\r\nX: " + b"y" * 20_000, 200),
}
"""Answers that end, after which their connection is not used again; and their status."""


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_connection_is_kept_after_an_answer_whose_end_is_beyond_doubt(data: bytes) -> None:
    answer, has_ended, is_reusable = read(data)
    assert answer is not None
    assert answer.status in {200, 204, 205, 304}
    assert (has_ended, is_reusable) == (True, True)


@pytest.mark.parametrize(("data", "status"), ENDED.values(), ids=ENDED)
def test_the_status_counts_and_the_connection_is_not_kept_where_anything_is_odd(data: bytes, status: int) -> None:
    answer, has_ended, is_reusable = read(data)
    assert answer is not None
    assert answer.status == status
    assert (has_ended, is_reusable) == (True, False)


EVERYTHING = [*WHOLE.values(), *(data for data, _ in ENDED.values())]


def fed(pieces: Iterable[bytes]) -> tuple[ApiAnswer | None, bool]:
    """Feed until there is nothing more to read; what is left was asked for by nobody."""
    reader, pieces = AnswerReader(), iter(pieces)
    has_ended = any(reader.feed(piece) for piece in pieces)
    is_left = any(pieces)
    return reader.answer, has_ended and reader.is_reusable and not is_left


@given(st.sampled_from(EVERYTHING), st.sets(st.integers(1, 200), max_size=12))
def test_an_answer_means_the_same_however_it_is_split(data: bytes, cuts: set[int]) -> None:
    ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    answer, is_reusable = fed(pieces)
    assert (answer, is_reusable) == fed([data]) == fed(data[at : at + 1] for at in range(len(data)))


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(EVERYTHING)), max_size=4))
def test_nothing_that_comes_makes_it_raise_anything_else(pieces: list[bytes]) -> None:
    reader = AnswerReader()
    try:
        for piece in pieces:
            reader.feed(piece)
    except MalformedAnswerError:
        assert reader.answer is None, "once there is a status, it counts"


@given(st.sampled_from(EVERYTHING), st.integers(0, 200), st.binary(max_size=10))
def test_a_complete_head_counts_whatever_follows_it(data: bytes, at: int, damage: bytes) -> None:
    head = max(data.rfind(b"\r\n\r\nHTTP/1.1 200") + 4, 0)
    end = min(end for end in (data.find(b"\r\n\r\n", head) + 4, data.find(b"\n\n", head) + 2) if end > 3)
    reader = AnswerReader()
    if not reader.feed(data[:end]):
        reader.feed(data[end : end + at] + damage)
    assert reader.answer is not None


# The usual answer, which is read in one step

HEADERS = [
    "Content-Type: application/json",
    "Date: Tue, 01 Dec 2026 12:01:30 GMT",
    "Retry-After: 5",
    "Connection: keep-alive",
    "Connection: close",
    "Content-Length: 2",
    "Content-Length: 3",
    "content-length:\t2 ",
    "Content-Length : 2",
    "Content-Length: 2, 2",
    "Content-Length: x",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: gzip",
    "Content-Encoding: identity",
    "Content-Encoding: gzip",
    " goes on",
    "no colon here",
    "",
    "X: " + "y" * 1100,
    "X: \xe4",
]
STATUS_LINES = [
    "HTTP/1.1 200 OK",
    "HTTP/1.1 201",
    "HTTP/1.1  202 two spaces",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 205 Reset Content",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 2xx",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 503 Busy",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 103 Early Hints",
    "http/1.1 200 OK",
    "\r\nHTTP/1.1 200 OK",
]
LINE_ENDS = st.sampled_from(["\r\n"] * 6 + ["\n", "\r\r\n", "\n\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return an answer that may be the usual one, or differ from it in a few ways."""
    lines = [
        draw(st.sampled_from(STATUS_LINES[:1] * len(STATUS_LINES) + STATUS_LINES)),
        *draw(st.sampled_from([["Content-Length: 2"], []])),
        *draw(st.lists(st.sampled_from(HEADERS), max_size=3)),
        "",
    ]
    head = "".join(line + draw(LINE_ENDS) for line in lines).encode("latin-1")
    return head + draw(st.sampled_from([b"ok"] * 4 + [b"", b"o", b"{}", b"okay", b"ok\r\n\r\n", *EVERYTHING]))


@given(st.one_of(answers(), st.sampled_from(EVERYTHING), st.binary(max_size=40)))
@example(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok\r\n\r\nok")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok\r\n\r\nok")
def test_the_usual_answer_is_what_the_reader_makes_of_it_and_its_connection_is_kept(data: bytes) -> None:
    answer = usual_answer(data)
    if answer is not None:
        assert (answer, True, True) == read(data)
        assert answer.status // 100 == 2


@pytest.mark.parametrize("status_line", STATUS_LINES)
def test_no_two_headers_make_the_usual_answer_another_than_the_reader_has_it(status_line: str) -> None:
    usual = 0
    for first, second in product(HEADERS, HEADERS):
        head = f"{status_line}\r\nContent-Length: 2\r\n{first}\r\n{second}\r\n\r\n".encode("latin-1")
        if (answer := usual_answer(head + b"ok")) is not None:
            assert (answer, True, True) == read(head + b"ok")
            usual += 1
    assert usual == (36 if status_line in {"HTTP/1.1 200 OK", "HTTP/1.1 201", "HTTP/1.1 205 Reset Content"} else 0)


@given(st.sets(st.sampled_from(HEADERS[:4])), st.binary(max_size=100))
def test_most_answers_are_usual(headers: set[str], body: bytes) -> None:
    answer = usual_answer(with_length(body, *sorted(headers)))
    assert answer is not None
    assert (answer.status, answer.body, answer.content_encoding) == (200, body, None)


@given(st.sampled_from(EVERYTHING), st.integers(1, 200))
def test_a_part_of_an_answer_is_never_the_usual_one(data: bytes, at: int) -> None:
    whole = usual_answer(data)
    assert whole is None or all(usual_answer(data[:end]) is None for end in range(len(data)))
    assert usual_answer(data + data[:at]) is None


# The body


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((with_length(b"0123456789")[:-4],), b"012345"),
        ((CHUNKED + b"5\r\nhel",), b"hel"),
        ((CHUNKED + b"5\r\nhello\r\n", b"5\r\nwor"), b"hellowor"),
        ((CHUNKED + b"5\r\nhello\r\n", b"zz"), b"hello"),
        ((b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo"), b"hello"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello",), b"hello"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhello",), b"hello"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",), b"hello"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello",), b"hello"),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",), b"hello"),
    ],
)
def test_what_came_of_a_body_is_there_before_it_ends(pieces: tuple[bytes, ...], body: bytes) -> None:
    reader = reader_of(*pieces)
    assert reader.answer is not None
    assert (reader.answer.status, reader.answer.body) == (200, body)
    assert not reader.is_reusable


@pytest.mark.parametrize(
    ("head", "is_doubtful"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 205 Reset Content\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False),
        (CHUNKED, False),
    ],
)
def test_the_end_is_in_doubt_where_nothing_says_that_more_comes_and_the_connection_may_stay(
    head: bytes, is_doubtful: bool
) -> None:
    reader = AnswerReader()
    assert not reader.feed(head)
    assert reader.end_is_doubtful == is_doubtful


@pytest.mark.parametrize("connection", [b"", b"Connection: close\r\n"])
def test_a_whole_object_is_a_body_that_has_ended_although_nothing_says_so(connection: bytes) -> None:
    reader = AnswerReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n" + connection + b'\r\n {"success":{"a":1}')
    assert reader.feed(b"}\r\n")
    assert reader.answer == ApiAnswer(200, b' {"success":{"a":1}}\r\n')
    assert not reader.is_reusable


@pytest.mark.parametrize("body", [b"", b"OK", b"{", b'{"a":"}', b"[1]", b'{"a":"' + b"x" * 5000 + b'"}'])
def test_a_body_that_is_no_whole_object_or_a_long_one_may_go_on(body: bytes) -> None:
    reader = AnswerReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n\r\n" + body)


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked\r\n\r\nfffffff\r\n", b"Content-Length: 1000000000000\r\n\r\n", b"\r\n"]
)
def test_no_more_of_a_body_is_read_than_its_most(framing: bytes) -> None:
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK\r\n" + framing)
    came = 0
    while not reader.feed(b"x" * 65536):
        came += 65536
        assert came < MAX_ANSWER_BYTES + 2 * MAX_HEAD_BYTES
    assert reader.answer is not None
    assert len(reader.answer.body) == MAX_ANSWER_BYTES
    assert not reader.is_reusable


def test_tiny_chunks_count_as_what_they_are_on_the_wire() -> None:
    reader = AnswerReader()
    reader.feed(CHUNKED)
    came = 0
    while not reader.feed(b"1\r\nx\r\n" * 40_000):
        came += 240_000
    assert came < MAX_ANSWER_BYTES + 2 * MAX_HEAD_BYTES


# The head


def test_what_matters_of_the_headers_is_told() -> None:
    answer = answer_of(
        with_length(
            b"",
            "content-type: text/HTML",
            "Content-Type: application/json",
            "CONTENT-ENCODING: gzip",
            "Content-Encoding: br",
            "Retry-After:  5 ",
            "Retry-After: 7",
            "Date: Tue, 01 Dec 2026 12:01:30 GMT",
            "X-Date: never",
            status="503 Busy",
        )
    )
    assert answer == ApiAnswer(
        503, b"", "text/html, application/json", "gzip, br", "5", "tue, 01 dec 2026 12:01:30 gmt"
    )


def test_a_header_that_goes_on_in_the_next_line_is_read_as_one() -> None:
    answer = answer_of(b"HTTP/1.1 200 OK\r\nContent-Type:\r\n\ttext/html\r\n ;a=b\r\nContent-Length: 0\r\n\r\n")
    assert answer.content_type == "text/html ;a=b"


def test_the_headers_of_a_1xx_are_not_those_of_the_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nContent-Type: text/html\r\nRetry-After: 5\r\nContent-Length: 9\r\n\r\n"
    assert answer_of(hints + with_length(b"ok")) == ApiAnswer(200, b"ok")


def test_a_coding_of_the_transfer_is_one_of_the_body() -> None:
    answer = answer_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert (answer.body, answer.content_encoding) == (b"ok", "gzip")


@pytest.mark.parametrize("size", [9_000, 60_000, MAX_HEAD_BYTES - 60])
def test_a_header_of_up_to_64_kib_is_read(size: int) -> None:
    assert read(with_length(b"ok", f"X: {'a' * size}")) == (ApiAnswer(200, b"ok"), True, True)


@pytest.mark.parametrize("count", [130, MAX_HEADERS - 1])
def test_up_to_1000_headers_are_read(count: int) -> None:
    assert read(with_length(b"ok", *(f"X-{number}: a" for number in range(count)))) == (
        ApiAnswer(200, b"ok"),
        True,
        True,
    )


MALFORMED = {
    "another protocol": b"220 mail.example ESMTP\r\n\r\n",
    "a few bytes of one": b"SS",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "no status": b"HTTP/1.1\r\n\r\n",
    "words for a status": b"HTTP/1.1 two hundred\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "a header that is too long": with_length(b"ok", f"X: {'a' * MAX_HEAD_BYTES}"),
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_HEAD_BYTES,
    "too many headers": with_length(b"ok", *["X: a"] * MAX_HEADERS),
    "heads without end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_head_or_beyond_the_limits_is_malformed_at_once(data: bytes) -> None:
    reader = AnswerReader()
    with pytest.raises(MalformedAnswerError):
        reader.feed(data)
    assert reader.answer is None


def test_a_head_that_comes_byte_by_byte_takes_no_longer_the_longer_it_is() -> None:
    """It is searched once: otherwise this would take minutes."""
    reader = AnswerReader()
    for byte in with_length(b"ok", f"X: {'a' * 60_000}"):
        reader.feed(bytes([byte]))
    assert reader.answer == ApiAnswer(200, b"ok")
