"""The HTTP intake over real sockets: whatever is sent, it answers in its documented words and counts every event once."""

import asyncio
import codecs
import gc
import gzip
import importlib
import json
import logging
import os
import re
import socket
import stat
import sys
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forwarder.host.sockets import CannotBindError, bind_tcp, bind_unix, bind_unix_datagram, remove_unix
from forwarder.http.messages import State
from forwarder.intake import answers
from forwarder.intake.bodies import ENCODINGS
from forwarder.settings import Address
from tests.fakes.contract_oracle import ANYTHING, events, read, render, wrongs
from tests.fakes.http_intake_harness import Answer, Connection, Served, code_of, request_bytes, serving, until
from tests.fakes.passing_time import let_pass

ONE: Final = "/track/event"
BATCH: Final = "/v1/events"
NDJSON: Final = "application/x-ndjson"

GOOD: Final = b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Price":1.50}}'
BAD: Final = b'{"customerId":"c","name":"","time":1700000000000,"attributes":{}}'


def numbered(number: int) -> bytes:
    return b'{"customerId":"c","name":"n","time":1700000000000,"attributes":{"Number":%d}}' % number


def array(*elements: bytes) -> bytes:
    return b"[" + b",".join(elements) + b"]"


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every test here fail that makes the intake or the event loop log an error."""
    yield
    records = caplog.get_records("call") + caplog.get_records("teardown")
    errors = [record for record in records if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage(), record.exc_info) for record in errors] == []


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as running:
        yield running


@pytest.fixture
async def connection(served: Served) -> AsyncIterator[Connection]:
    async with served.connection() as opened:
        yield opened


async def assert_usable(connection: Connection) -> None:
    assert (await connection.request(ONE, GOOD)).status == 200


def assert_refused(answer: Answer, status: int, *codes: str) -> None:
    assert (answer.status, answer.codes) == (status, list(codes))


# Any bytes at all

PIECES = st.sampled_from([*'{}[],:"\\ \t\r\n019.eE-', "null", "true", "NaN", "1e400", '"\\ud800"', "\ufeff"])
ELEMENTS = st.one_of(events(), events(), ANYTHING).map(lambda value: render(value).encode())
BODIES = st.one_of(
    st.binary(max_size=200),
    st.lists(PIECES, max_size=15).map(lambda pieces: "".join(pieces).encode()),
    ELEMENTS,
    st.lists(ELEMENTS, max_size=4).map(lambda elements: array(*elements)),
    st.lists(st.one_of(ELEMENTS, st.binary(max_size=10)), max_size=4).map(b"\r\n".join),
)


@st.composite
def damaged_bodies(draw: st.DrawFn) -> bytes:
    """Draw a body with a few bytes missing or put in."""
    body = draw(BODIES)
    start = draw(st.integers(0, len(body)))
    return body[:start] + draw(st.binary(max_size=2)) + body[start + draw(st.integers(0, 3)) :]


def judge(element: bytes) -> set[str]:
    """Return the codes of what is wrong with the text of an event."""
    try:
        value = read(element)
    except (ValueError, RecursionError):
        return {"malformed_json"}
    return {code for code, _ in wrongs(value)}


def judge_batch(body: bytes, *, as_lines: bool) -> list[set[str]] | None:
    """Return what is wrong with each element; None if it is not JSON as a whole."""
    if as_lines:
        lines = body.removeprefix(codecs.BOM_UTF8).split(b"\n")  # a byte-order mark alone is an empty body
        return [judge(line) for line in lines if line.strip(b" \t\r\n")]
    try:
        value = read(body)
    except (ValueError, RecursionError):
        return None
    elements = value if isinstance(value, list) else [value]
    return [{code for code, _ in wrongs(element)} for element in elements]


def assert_batch_answer(answer: Answer, wanted: list[set[str]]) -> None:
    good = [index for index, wrong in enumerate(wanted) if not wrong]
    content = answer.content
    assert answer.status == (422 if wanted and not good else 202)
    assert content.keys() == {"accepted", "duplicates", "rejected", "ids"}
    assert (content["accepted"], content["duplicates"]) == (len(good), 0)
    assert [refusal["index"] for refusal in content["rejected"]] == [i for i, wrong in enumerate(wanted) if wrong]
    for refusal in content["rejected"]:
        assert refusal.keys() == {"index", "errors"}
        assert {code_of(error) for error in refusal["errors"]} == wanted[refusal["index"]]
    assert [event_id is not None for event_id in content["ids"]] == [not wrong for wrong in wanted]
    assert all(re.fullmatch("[0-9]+", event_id) for event_id in content["ids"] if event_id is not None)


@given(
    body=st.one_of(BODIES, damaged_bodies()),
    cuts=st.one_of(st.none(), st.lists(st.integers(1, 200), max_size=3)),
    content_type=st.sampled_from(["application/json", NDJSON, "application/octet-stream"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_bytes_at_all_as_a_body_are_taken_or_refused_with_reasons_and_counted(
    served: Served, connection: Connection, body: bytes, cuts: list[int] | None, content_type: str
) -> None:
    before = served.counts()
    payload: bytes | list[bytes] = body
    if cuts is not None:
        edges = [0, *sorted(cuts), len(body)]
        payload = [body[start:end] for start, end in pairwise(edges)]

    wrong = judge(body)
    single = await connection.request(ONE, payload, Content_Type=content_type)
    if wrong:
        assert single.status == (400 if wrong == {"malformed_json"} else 422)
        assert set(single.codes) == wrong
    else:
        assert single.status == 200
        assert single.content == {"success": True, "id": single.content["id"]}
        assert re.fullmatch("[0-9]+", single.content["id"])

    wanted = judge_batch(body, as_lines=content_type == NDJSON)
    batch = await connection.request(f"{BATCH}?ids=true", payload, Content_Type=content_type)
    if wanted is None:
        assert_refused(batch, 400, "malformed_json")
    else:
        assert_batch_answer(batch, wanted)

    after = served.counts()
    after.assert_balanced()
    events_posted = 1 + (1 if wanted is None else len(wanted))
    taken = [] if wrong else [single.content["id"]]
    taken += [] if wanted is None else [event_id for event_id in batch.content["ids"] if event_id is not None]
    assert after.received - before.received == events_posted
    assert after.accepted - before.accepted == len(taken)
    stored = await served.take_all()
    assert [str(event.id) for event in stored] == taken
    assert all(judge(event.body) == set() for event in stored)
    if not wrong:
        assert stored[0].body == body


@given(st.binary(max_size=80), st.binary(max_size=80))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_bytes_that_are_not_http_are_answered_400_in_json_and_the_connection_is_closed(
    served: Served, garbage: bytes, more: bytes
) -> None:
    if not garbage.strip(b"\r\n"):
        garbage += b"\xff"
    async with served.connection() as connection:
        await connection.send(garbage + b"\r\n\r\n" + more)
        assert_refused(await connection.answer(), 400, "malformed_http")
        assert await connection.has_ended()
    served.counts().assert_balanced()


NOT_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "JSON": GOOD + b"\r\n\r\n",
    "HTTP/9.9": b"POST /track/event HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "no Host": b"POST /track/event HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "two Hosts": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n{}",
    "an absurd length": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    + b"9" * 50
    + b"\r\n\r\n{}",
    "length and chunks": (
        b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a header without a name": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\n: b\r\n\r\n",
    "a header with a NUL": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    "a very long header": b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "a very long path": b"POST /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "very many headers": b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    + b"".join(b"X%d: 1\r\n" % i for i in range(5000))
    + b"\r\n",
    "a space in the path": b"POST /track event HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that is no path": b"POST //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method that is none": b"P@ST /track/event HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP.keys())
async def test_what_is_not_quite_http_is_answered_in_json_too(served: Served, data: bytes) -> None:
    async with served.connection() as connection:
        await connection.send(data)
        answer = await connection.answer()
        codes = {400: "malformed_http", 404: "not_found", 414: "uri_too_long", 431: "headers_too_large"}
        assert answer.codes == [codes[answer.status]]
        assert answer.status == 404 or await connection.has_ended()
    assert served.counts().accepted == 0


async def test_a_good_request_before_garbage_is_taken_and_acknowledged_or_neither(served: Served) -> None:
    for garbage in (b"\xff\xfe garbage\r\n\r\n", b"}\r\n\r\n", b"\x00" * 100):
        async with served.connection() as connection:
            await connection.send(request_bytes(ONE, GOOD) + garbage)
            answer = await connection.answer()
            acknowledged = []
            if answer.status == 200:
                acknowledged.append(answer.content["id"])
                answer = await connection.answer()
            assert_refused(answer, 400, "malformed_http")
            assert await connection.has_ended()
        assert [str(event.id) for event in await served.take_all()] == acknowledged


LINES_TYPES = {"application/x-ndjson", "application/ndjson", "application/jsonl"}
ODD_PIECES = st.sampled_from([*';,="/*\\ ()<>@[]?.%', "a", "charset", "*0*=", "utf-8''", "\xe9"])
HEADER_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30)


@given(
    name=st.sampled_from(
        ["Content-Type", "Expect", "Accept", "Cookie", "Connection", "Upgrade", "If-Match", "Referer"]
    ),
    value=st.one_of(
        HEADER_VALUES,
        st.lists(ODD_PIECES, max_size=12).map("".join),
        st.sampled_from(["APPLICATION/JSONL", "application/ndjson ; x"]),
    ),
    body=st.sampled_from([GOOD, b"x"]),
    path=st.sampled_from([ONE, BATCH]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_odd_headers_change_nothing(served: Served, name: str, value: str, body: bytes, path: str) -> None:
    async with served.connection() as connection:
        await connection.send(request_bytes(path, body, **{name: value}))
        answer = await connection.answer()
    media_type = value.partition(";")[0].strip().lower()
    is_lines = (name, path) == ("Content-Type", BATCH) and media_type in LINES_TYPES
    bad = 422 if is_lines else 400  # one bad line of a batch, or a bad body
    assert answer.status == {(GOOD, ONE): 200, (GOOD, BATCH): 202}.get((body, path), bad)
    served.counts().assert_balanced()


ODD_TAILS = st.sampled_from(
    [
        "%",
        "%2",
        "%zz",
        "%ff",
        "?%ff",
        "?ids=%ff&ids=true",
        "#",
        "?#",
        "//",
        "\\",
        "..",
        "%00",
        "?a=1&a=2&=",
        ";",
        "[::1]",
    ]
)


@given(
    st.one_of(st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=20), ODD_TAILS),
    st.sampled_from(["/", "/v1/events", "/track/event", "http://localhost/v1/events", "http://[::1", "*", "//"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_odd_paths_are_answered_in_json(served: Served, tail: str, start: str) -> None:
    async with served.connection() as connection:
        await connection.send(request_bytes(start + tail, GOOD))
        answer = await connection.answer()
    codes = {400: "malformed_http", 403: "forbidden_host", 404: "not_found", 405: "method_not_allowed"}
    if answer.status not in (200, 202, 422):
        assert answer.codes == [codes[answer.status]]
    served.counts().assert_balanced()


async def test_nothing_of_a_malformed_body_is_quoted_in_the_answer(served: Served, connection: Connection) -> None:
    for path in (ONE, BATCH):
        for body in (b'{"a":"SECRET"', b'{"SECRET', b"SECRET", b'["\\ud800",SECRET]', b'{"a":"SECRET\x01"}'):
            for content_type in ("application/json", NDJSON):
                answer = await connection.request(path, body, Content_Type=content_type)
                assert answer.status in (400, 422)
                assert b"SECRET" not in answer.body


# The bytes arrive as they came

NUMBERS: Final = (
    b"[9007199254740993,18446744073709551617,123456789012345678901234567890,0.1,1e22,1.50,-0.0,1E+2,-0,1e-400]"
)
DIGITS: Final = [
    b'{"customerId":"c","name":"n","time":1.7e12,"attributes":{"Number":%b}}' % number
    for number in NUMBERS.strip(b"[]").split(b",")
]
SPACED: Final = [
    b'{ "customerId" : "c\\u0041\\/","name":"\\ud800",\r\n"time":1700000000000.0,\t"attributes":{"}":"]","[":"\\"{,"} }',
    b'{"x":{"y":[{"z":[1,{}]}]},"time":100000000000,"name":"n","customerId":"\xe2\x98\x83","attributes":{}, "n":null }',
    b'{"name":"a","name":"b","customerId":"c","time":1700000000000,"attributes":{"a":1,"a":2}}',
]


async def test_a_single_event_is_stored_byte_for_byte(served: Served, connection: Connection) -> None:
    bodies = [*DIGITS, *SPACED, b" \r\n\t" + GOOD + b"\n "]
    for body in bodies:
        assert (await connection.request(ONE, body)).status == 200
        assert (await connection.request(BATCH, body)).status == 202
        assert [event.body for event in await served.take_all()] == [body, body]


@pytest.mark.parametrize("between", [b",", b" ,\t", b"\r\n,\r\n\r\n", b" \n , \n "])
async def test_an_array_is_stored_as_the_bytes_of_its_elements(served: Served, between: bytes) -> None:
    bodies = DIGITS + SPACED
    answer = await served.post(BATCH, b"\r\n [\t" + between.join(bodies) + b"\n]\r\n")
    assert (answer.status, answer.content) == (202, {"accepted": len(bodies), "duplicates": 0, "rejected": []})
    assert [event.body for event in await served.take_all()] == bodies


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b" \n\n\t\n", b"\r\n\r\n"])
@pytest.mark.parametrize("content_type", [NDJSON, "application/x-ndjson; charset=utf-8", "Application/X-NDJSON"])
async def test_lines_are_stored_as_the_bytes_of_each(served: Served, ending: bytes, content_type: str) -> None:
    bodies = [body for body in DIGITS + SPACED if b"\n" not in body]
    for body in (ending.join(bodies), ending.join(bodies) + ending):
        answer = await served.post(BATCH, body, Content_Type=content_type)
        assert (answer.status, answer.content) == (202, {"accepted": len(bodies), "duplicates": 0, "rejected": []})
        assert [event.body for event in await served.take_all()] == bodies


async def test_customer_and_name_are_known_of_what_is_stored(served: Served) -> None:
    await served.post(BATCH, array(*SPACED))
    stored = await served.take_all()
    assert [(event.customer, event.name) for event in stored] == [("cA/", "\ud800"), ("☃", "n"), ("c", "b")]
    ids = [event.id for event in stored]
    assert ids == sorted(set(ids))


# Elements fail alone

BAD_ELEMENTS = [BAD, b"7", b"null", b"[]", b"[%b]" % GOOD, b"{}", b'"{"', GOOD.replace(b"1.50", b"1e400")]


@pytest.mark.parametrize("bad", BAD_ELEMENTS)
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("as_lines", [False, True])
async def test_a_bad_element_spoils_none_of_its_neighbours(
    served: Served, bad: bytes, position: int, as_lines: bool
) -> None:
    elements = [numbered(0), numbered(1)]
    elements.insert(position, bad)
    body, content_type = (b"\n\n".join(elements), NDJSON) if as_lines else (array(*elements), "application/json")
    answer = await served.post(f"{BATCH}?ids=true", body, Content_Type=content_type)
    assert_batch_answer(answer, [judge(element) for element in elements])
    stored = await served.take_all()
    assert [event.body for event in stored] == [numbered(0), numbered(1)]
    assert [event_id for event_id in answer.content["ids"] if event_id] == [str(event.id) for event in stored]
    assert served.counts().rejected == {answer.content["rejected"][0]["errors"][0]["code"]: 1}


async def test_a_line_that_is_not_json_spoils_none_of_its_neighbours(served: Served) -> None:
    lines = [numbered(0), b'{"customerId":', numbered(1), b"\xff", b"[" * 100_000, numbered(2)]
    answer = await served.post(f"{BATCH}?ids=true", b"\r\n".join(lines), Content_Type=NDJSON)
    assert_batch_answer(answer, [judge(line) for line in lines])
    assert [event.body for event in await served.take_all()] == [numbered(0), numbered(1), numbered(2)]


async def test_if_every_element_is_refused_the_answer_is_422_of_the_same_shape(served: Served) -> None:
    for body, content_type in ((array(BAD, b"1"), "application/json"), (BAD + b"\n}", NDJSON)):
        answer = await served.post(f"{BATCH}?ids=true", body, Content_Type=content_type)
        assert answer.status == 422
        assert answer.content["ids"] == [None, None]
        assert [refusal["index"] for refusal in answer.content["rejected"]] == [0, 1]
    assert served.counts().rejected == {"empty": 2, "not_an_object": 1, "malformed_json": 1}


async def test_an_object_is_a_batch_of_one(served: Served) -> None:
    answer = await served.post(BATCH, GOOD)
    assert (answer.status, answer.content) == (202, {"accepted": 1, "duplicates": 0, "rejected": []})
    refused = await served.post(BATCH, BAD)
    assert refused.status == 422
    assert refused.content["accepted"] == 0
    assert [refusal["index"] for refusal in refused.content["rejected"]] == [0]


async def test_ids_are_given_only_when_asked_for(served: Served) -> None:
    for query in ("", "?ids=false", "?ids", "?other=true"):
        assert "ids" not in (await served.post(BATCH + query, array(GOOD, BAD))).content


@pytest.mark.parametrize(("body", "content_type"), [(b"[]", "application/json"), (b"", NDJSON), (b"\n\r\n", NDJSON)])
async def test_a_batch_of_nothing_is_taken(served: Served, body: bytes, content_type: str) -> None:
    answer = await served.post(BATCH, body, Content_Type=content_type)
    assert (answer.status, answer.content) == (202, {"accepted": 0, "duplicates": 0, "rejected": []})
    assert served.counts().received == 0


async def test_a_single_event_is_told_all_that_is_wrong_at_once(served: Served) -> None:
    answer = await served.post(ONE, b'{"customerId":1,"name":"","time":1700000000,"attributes":{"a":null}}')
    assert_refused(answer, 422, "wrong_type", "empty", "time_not_milliseconds", "attribute_type_not_allowed")
    assert [error["field"] for error in answer.content["errors"]] == ["customerId", "name", "time", "attributes.a"]
    assert served.counts().rejected == {"wrong_type": 1}


async def test_lines_sent_without_saying_so_are_refused_with_the_mend(served: Served) -> None:
    answer = await served.post(BATCH, GOOD + b"\n" + GOOD)
    assert_refused(answer, 400, "malformed_json")
    assert NDJSON in answer.content["errors"][0]["message"]


@pytest.mark.parametrize("path", [ONE, BATCH])
async def test_a_request_without_a_body_is_malformed(served: Served, connection: Connection, path: str) -> None:
    assert_refused(await connection.request(path), 400, "malformed_json")
    await connection.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert_refused(await connection.answer(), 400, "malformed_json")
    await assert_usable(connection)


MARK: Final = b"\xef\xbb\xbf"


@pytest.mark.parametrize("encoding", ["identity", "gzip, identity"])
async def test_a_byte_order_mark_before_a_body_is_no_part_of_it(
    served: Served, connection: Connection, encoding: str
) -> None:
    compress = gzip.compress if "gzip" in encoding else bytes
    for path, body, content_type in (
        (ONE, GOOD, "application/json"),
        (BATCH, GOOD, "application/json"),
        (BATCH, array(GOOD), "application/json"),
        (BATCH, b"\n" + GOOD + b"\n", NDJSON),
        (BATCH, b" \r\n" + MARK + b"\r\n" + MARK + GOOD, NDJSON),
    ):
        answer = await connection.request(
            path, compress(MARK + body), Content_Type=content_type, Content_Encoding=encoding
        )
        assert answer.status in (200, 202)
    assert [event.body for event in await served.take_all()] == [GOOD] * 5
    for wrong in (MARK, MARK * 2 + GOOD, b"[" + MARK + GOOD + b"]", b" " + MARK + GOOD):
        assert_refused(await served.post(BATCH, wrong), 400, "malformed_json")
    assert (await served.post(ONE, MARK + GOOD, Idempotency_Key="k")).status == 200
    assert (await served.post(ONE, GOOD, Idempotency_Key="k")).status == 200
    assert served.counts().duplicates == 1


@pytest.mark.parametrize(
    "body",
    [
        *(b"[%b,]", b"[,%b]", b"[%b]]", b"[%b} ", b"[%b", b"[%b x]", b'[%b,"\xff"]', b'["\\ud800",%b,]', b"[%b]\x00"),
        b"[%b," + b"[" * 100_000 + b"]" * 100_000 + b"]",
        b"[%b," * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
async def test_an_array_that_is_not_json_is_refused_whole_however_far_behind_the_fault_is(
    served: Served, body: bytes
) -> None:
    for many in (1, 2000):
        answer = await served.post(BATCH, body.replace(b"%b", array(*[GOOD] * many)[1:-1], 1).replace(b"%b", b"1"))
        assert_refused(answer, 400, "malformed_json")
    assert served.counts().received == 2
    assert served.counts().rejected == {"malformed_json": 2}


# No room


async def test_what_finds_no_room_to_be_parsed_within_a_second_is_busy_and_small_ones_need_none() -> None:
    large = array(*[GOOD] * 2000)
    async with serving(max_parsing_bytes=1 << 20, max_body_bytes=1 << 20) as served, AsyncExitStack() as stack:
        with await served.budget.reserve(1 << 20):
            busy = await served.post(BATCH, large)
            assert_refused(busy, 429, "busy")
            assert busy.headers["retry-after"] == "1"
            assert_refused(await served.post(ONE, gzip.compress(GOOD), Content_Encoding="gzip"), 429, "busy")
            assert (await served.post(ONE, GOOD)).status == 200
            waiting = asyncio.create_task(served.post(BATCH, large))
            await asyncio.sleep(0)
        assert (await waiting).status == 202
        assert (await served.post(ONE, gzip.compress(GOOD), Content_Encoding="gzip")).status == 200
        for _ in range(3):
            leaving = await stack.enter_async_context(served.connection())
            await leaving.send(request_bytes(BATCH, large)[:-1])
            await leaving.reset()
        await until(lambda: served.budget.reserved_bytes == 0, what="everything comes back")
        assert (await served.post(BATCH, large)).status == 202
        assert served.counts().rejected.pop("busy") == 2


async def test_a_buffer_full_of_events_takes_all_of_a_batch_or_nothing() -> None:
    async with serving(max_events=3) as served, served.connection() as connection:
        assert (await connection.request(BATCH, array(numbered(0), numbered(1)))).status == 202
        for path, body in ((BATCH, array(numbered(2), numbered(3))), (BATCH, array(numbered(2), BAD, numbered(3)))):
            answer = await connection.request(path, body)
            assert_refused(answer, 429, "buffer_full")
            assert re.fullmatch("[1-9][0-9]*", answer.headers["retry-after"])
        assert (await connection.request(ONE, numbered(4))).status == 200
        answer = await connection.request(ONE, numbered(5))
        assert_refused(answer, 429, "buffer_full")
        assert re.fullmatch("[1-9][0-9]*", answer.headers["retry-after"])
        counts = served.counts()
        counts.assert_balanced()
        assert (counts.received, counts.rejected) == (9, {"buffer_full": 6})
        assert [event.body for event in await served.take_all()] == [numbered(0), numbered(1), numbered(4)]
        assert (await connection.request(BATCH, array(numbered(6), numbered(7), numbered(8)))).status == 202


@pytest.mark.parametrize("seconds", [1, 7])
def test_a_request_that_finds_no_room_is_told_what_the_buffer_says_of_when_to_come_again(seconds: int) -> None:
    assert answers.refusal("buffer_full", retry_after_seconds=seconds).headers["Retry-After"] == str(seconds)


async def test_a_buffer_full_of_bytes_takes_all_of_a_batch_or_nothing() -> None:
    size = len(numbered(0))
    async with serving(max_bytes=3 * size) as served, served.connection() as connection:
        assert (await connection.request(BATCH, array(numbered(0), numbered(1)))).status == 202
        answer = await connection.request(BATCH, array(numbered(2), numbered(3)))
        assert_refused(answer, 429, "buffer_full")
        assert re.fullmatch("[1-9][0-9]*", answer.headers["retry-after"])
        assert (await connection.request(BATCH, array(BAD, numbered(4), b"7"))).status == 202
        assert_refused(await connection.request(ONE, numbered(5)), 429, "buffer_full")
        served.counts().assert_balanced()
        assert [event.body for event in await served.take_all()] == [numbered(0), numbered(1), numbered(4)]


async def test_a_batch_with_nothing_good_is_judged_even_by_a_full_buffer() -> None:
    async with serving(max_events=1) as served:
        await served.post(ONE, GOOD)
        assert (await served.post(BATCH, array(BAD, BAD))).status == 422
        assert (await served.post(BATCH, b"[]")).status == 202


async def test_a_batch_that_could_never_fit_is_too_large() -> None:
    size = len(numbered(0))
    for max_events, max_bytes in ((2, 1 << 20), (100, 2 * size)):
        async with serving(max_events=max_events, max_bytes=max_bytes) as served:
            answer = await served.post(BATCH, array(numbered(0), numbered(1), numbered(2)))
            assert_refused(answer, 413, "body_too_large")
            counts = served.counts()
            counts.assert_balanced()
            assert (counts.accepted, sum(counts.rejected.values())) == (0, 3)
            assert (await served.post(BATCH, array(numbered(0), numbered(1)))).status == 202
            assert len(await served.take_all()) == 2


# Bodies that cannot be had


@pytest.mark.parametrize("path", [ONE, BATCH])
async def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_is_too_large(path: str) -> None:
    limit = 2000
    fitting = GOOD + b" " * (limit - len(GOOD))
    async with serving(max_body_bytes=limit) as served:
        for body in (fitting, [fitting], [fitting[:7], fitting[7:]]):
            assert (await served.post(path, body)).status in (200, 202)
        assert (await served.post(path, gzip.compress(fitting), Content_Encoding="gzip")).status in (200, 202)
        before = served.counts()
        for over in (fitting + b" ", [fitting, b" "], [b"x"] * (limit + 1)):
            assert_refused(await served.post(path, over), 413, "body_too_large")
        assert_refused(
            await served.post(path, gzip.compress(fitting + b" "), Content_Encoding="gzip"), 413, "body_too_large"
        )
        counts = served.counts()
        counts.assert_balanced()
        assert (counts.received - before.received, counts.rejected) == (4, {"body_too_large": 4})
        assert len(await served.take_all()) == before.accepted == 4


async def test_a_body_whose_length_says_it_is_too_large_is_refused_before_it_is_sent() -> None:
    async with serving(max_body_bytes=2000) as served, served.connection() as connection:
        await connection.send(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n[")
        answer = await connection.answer()
        assert_refused(answer, 413, "body_too_large")
        assert answer.announces_close


async def test_a_client_that_sends_far_too_much_can_still_read_why_it_is_refused() -> None:
    async with serving(max_body_bytes=2000) as served:
        for head in (b"Content-Length: 8000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n7a1200\r\n"):
            async with served.connection() as connection:
                await connection.send(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n" + head + b" " * 8_000_000)
                assert_refused(await connection.answer(), 413, "body_too_large")
        assert served.counts().rejected == {"body_too_large": 2}


@pytest.mark.parametrize(
    "encoding",
    [
        *("br", "compress", "gzip, gzip", "gzip, br", "identity, br", "gzip, x-gzip", "rot13", "*", "\xe9"),
        *([] if "zstd" in ENCODINGS else ["zstd"]),
    ],
)
async def test_a_content_encoding_that_is_not_understood_is_refused(served: Served, encoding: str) -> None:
    for path in (ONE, BATCH):
        assert_refused(await served.post(path, GOOD, Content_Encoding=encoding), 415, "unsupported_encoding")
        assert_refused(await served.post(path, [GOOD], Content_Encoding=encoding), 415, "unsupported_encoding")
        assert_refused(await served.post(path, b"", Content_Encoding=encoding), 415, "unsupported_encoding")
    assert served.counts().rejected == {"unsupported_encoding": 6}


def _raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize(
    ("encoding", "compressed"),
    [
        ("gzip", gzip.compress(GOOD)),
        ("GZip", gzip.compress(GOOD)),
        ("gzip", gzip.compress(GOOD[:10]) + gzip.compress(GOOD[10:])),
        ("x-gzip", gzip.compress(GOOD)),
        ("identity, gzip", gzip.compress(GOOD)),
        ("deflate", zlib.compress(GOOD)),
        ("deflate", _raw_deflate(GOOD)),
        ("identity", GOOD),
        ("", GOOD),
    ],
)
async def test_a_compressed_body_is_stored_inflated(
    served: Served, connection: Connection, encoding: str, compressed: bytes
) -> None:
    for payload in (compressed, [compressed], [compressed[i : i + 1] for i in range(len(compressed))]):
        assert (await connection.request(ONE, payload, Content_Encoding=encoding)).status == 200
    batch = {b"{": array(GOOD), b"\x1f": gzip.compress(array(GOOD))}.get(compressed[:1], zlib.compress(array(GOOD)))
    assert (await connection.request(BATCH, batch, Content_Encoding=encoding)).status == 202
    assert [event.body for event in await served.take_all()] == [GOOD] * 4


async def test_zstd_is_inflated_where_it_is_available(served: Served, connection: Connection) -> None:
    if "zstd" not in ENCODINGS:
        assert sys.version_info < (3, 14)
        pytest.skip("no library for zstd is installed")
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    compress = importlib.import_module(name).compress
    frames = compress(GOOD[:10]) + compress(GOOD[10:])
    for payload in (compress(GOOD), frames, [frames[i : i + 1] for i in range(len(frames))]):
        assert (await connection.request(ONE, payload, Content_Encoding="zstd")).status == 200
    assert [event.body for event in await served.take_all()] == [GOOD] * 3
    for broken in (GOOD, compress(GOOD)[:-3], compress(GOOD) + b"x", b""):
        assert_refused(await served.post(ONE, broken, Content_Encoding="zstd"), 400, "malformed_body")
    bomb = compress(bytes(50 << 20))
    assert_refused(await served.post(ONE, bomb, Content_Encoding="zstd"), 413, "body_too_large")


async def test_several_headers_of_encoding_are_refused(served: Served) -> None:
    for names in (("gzip", "gzip"), ("identity", "gzip"), ("gzip", "deflate")):
        async with served.connection() as connection:
            headers = "".join(f"Content-Encoding: {name}\r\n" for name in names)
            await connection.send(
                f"POST {ONE} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 1\r\n\r\nx".encode()
            )
            answer = await connection.answer()
            assert answer.status in (400, 415)
    assert served.counts().accepted == 0


async def test_very_many_members_of_gzip_are_refused_without_much_ado(served: Served) -> None:
    member = gzip.compress(b"")
    started = time.process_time()
    answer = await served.post(ONE, member * ((1 << 20) // len(member)), Content_Encoding="gzip")
    assert_refused(answer, 400, "malformed_body")
    assert time.process_time() - started < 0.5
    assert (await served.post(ONE, member * 900 + gzip.compress(GOOD), Content_Encoding="gzip")).status == 200


BROKEN_GZIP = {
    "not gzip": ("gzip", GOOD),
    "garbage": ("gzip", b"\x1f\x8b" + b"\xff" * 20),
    "cut short": ("gzip", gzip.compress(GOOD * 10)[:-20]),
    "a wrong check sum": ("gzip", gzip.compress(GOOD)[:-8] + b"\x00" * 8),
    "only a header": ("gzip", gzip.compress(GOOD)[:10]),
    "without its end": ("gzip", gzip.compress(GOOD)[:-8]),
    "without its last byte": ("gzip", gzip.compress(GOOD)[:-1]),
    "something after it": ("gzip", gzip.compress(GOOD) + b"\n"),
    "a second member cut short": ("gzip", gzip.compress(GOOD) + gzip.compress(GOOD)[:-4]),
    "nothing": ("gzip", b""),
    "not deflate": ("deflate", b"\xff" * 20),
    "deflate cut short": ("deflate", zlib.compress(GOOD)[:-10]),
}


@pytest.mark.parametrize(("encoding", "body"), BROKEN_GZIP.values(), ids=BROKEN_GZIP.keys())
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_that_is_not_the_compression_it_claims_is_malformed(
    served: Served, encoding: str, body: bytes, is_chunked: bool
) -> None:
    answer = await served.post(ONE, [body] if is_chunked else body, Content_Encoding=encoding)
    assert_refused(answer, 400, "malformed_body")
    counts = served.counts()
    assert (counts.received, counts.rejected) == (1, {"malformed_body": 1})
    assert counts.accepted == 0


def _bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_gzip_bomb_is_refused_without_being_held(served: Served, is_chunked: bool) -> None:
    bomb = _bomb(200)
    assert len(bomb) < 1 << 20
    payload = [bomb[i : i + 10_000] for i in range(0, len(bomb), 10_000)] if is_chunked else bomb
    data = request_bytes(BATCH, payload, Content_Encoding="gzip")
    async with served.connection() as connection:
        tracemalloc.start()
        try:
            await connection.send(data)
            answer = await connection.answer()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert_refused(answer, 413, "body_too_large")
        assert peak < 5 << 20
    assert (await served.post(ONE, GOOD)).status == 200


BROKEN_CHUNKS = {
    "no size": b"xyz\r\n",
    "a size too short": b"3\r\nabcdef\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n",
    "an absurd size": b"f" * 40 + b"\r\n",
    "good, then bad": b"%x\r\n%b\r\nzz\r\n" % (len(GOOD), GOOD),
}


@pytest.mark.parametrize("chunks", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS.keys())
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_body_in_broken_chunks_is_malformed(served: Served, chunks: bytes, is_late: bool) -> None:
    head = b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served.connection() as connection:
        if is_late:
            await connection.send(head + b"1\r\n \r\n")
            await asyncio.sleep(0)
            await connection.send(chunks)
        else:
            await connection.send(head + chunks)
        answer = await connection.answer()
        assert answer.status == 400
        assert answer.codes in (["malformed_body"], ["malformed_http"])
        assert await connection.has_ended()
    counts = served.counts()
    counts.assert_balanced()
    assert counts.accepted == 0


@pytest.mark.parametrize("head", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_arrive_in_time_is_too_slow(head: str) -> None:
    async with serving(body_timeout_seconds=20) as served, served.connection() as connection:
        await connection.send(f"POST {BATCH} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + b"2\r\n[ \r\n")
        await let_pass(15)
        assert served.counts().rejected == {}
        await let_pass(10)
        answer = await connection.answer()
        assert_refused(answer, 408, "too_slow")
        assert answer.announces_close
        assert served.counts().rejected == {"too_slow": 1}


async def test_a_body_that_trickles_is_too_slow_however_steadily_it_comes() -> None:
    async with serving(body_timeout_seconds=30) as served, served.connection() as connection:
        await connection.send(b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        seconds = 0
        while not served.counts().rejected:
            await connection.send(b" ")
            await let_pass(1)
            seconds += 1
            assert seconds <= 35
        assert_refused(await connection.answer(), 408, "too_slow")


PARTS_OF_BODIES = {
    "plain": ("", [b"", GOOD[:10], GOOD]),
    "gzip": (
        "Content-Encoding: gzip\r\n",
        [b"", gzip.compress(GOOD)[:5], gzip.compress(GOOD)[:40], gzip.compress(GOOD)],
    ),
    "waiting for leave": ("Expect: 100-continue\r\n", [b"", GOOD[:10]]),
}


@pytest.mark.parametrize("framing", ["Content-Length: 1000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n1000\r\n"])
@pytest.mark.parametrize(("header", "parts"), PARTS_OF_BODIES.values(), ids=PARTS_OF_BODIES.keys())
@pytest.mark.parametrize("leave", [Connection.close, Connection.reset])
async def test_a_client_that_leaves_in_the_middle_of_a_body_leaves_no_trace(
    served: Served, framing: str, header: str, parts: list[bytes], leave: Callable[[Connection], Awaitable[None]]
) -> None:
    for path in (ONE, BATCH):
        for part in parts:
            connection = await served.connect()
            await connection.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}{framing}".encode() + part)
            await until(lambda: served.awaiting(State.BODY) == 1, what="its head has come")
            await leave(connection)
            await until(lambda: not served.intake.connections, what="the connection has ended")
    counts = served.counts()
    counts.assert_balanced()
    assert counts.accepted == 0
    assert served.buffer.occupancy().events == 0


async def test_a_client_that_leaves_at_once_leaves_no_trace(served: Served) -> None:
    head = b"POST /track/event HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n"
    for data in (head, head[:20], head + GOOD, b""):
        for leave in (Connection.close, Connection.reset):
            connection = await served.connect()
            await connection.send(data)
            await leave(connection)
    await until(lambda: not served.intake.connections, what="the connections have ended")
    counts = served.counts()
    counts.assert_balanced()
    assert counts.accepted == 0


# Routes and connections


async def test_unknown_paths_and_methods_are_refused_in_json(served: Served, connection: Connection) -> None:
    for path in (
        "/track/event/",
        "/track",
        "/v1/events/",
        "/V1/EVENTS",
        "/v1/status/x",
        "/metrics",
        "//track/event",
    ):
        assert_refused(await connection.request(path, GOOD), 404, "not_found")
        assert_refused(await connection.request(path, method="GET"), 404, "not_found")
    for path, allowed, methods in (
        (ONE, "POST", ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
        (BATCH, "POST", ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")),
        ("/v1/status", "GET, HEAD", ("POST", "PUT", "DELETE")),
        ("/", "GET, HEAD", ("POST", "PUT", "DELETE", "OPTIONS")),
    ):
        for method in methods:
            answer = await connection.request(path, GOOD, method=method)
            assert_refused(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == allowed
    assert served.counts().received == 0
    await assert_usable(connection)


async def test_head_is_answered_without_a_body(connection: Connection) -> None:
    assert (await connection.request(ONE, method="HEAD")).status == 405
    await assert_usable(connection)


async def test_the_status_is_shown(served: Served, connection: Connection) -> None:
    answer = await connection.request("/v1/status", method="GET")
    assert (answer.status, answer.content) == (200, {"state": "ready"})
    assert served.counts().received == 0


REFUSED_AND_KEPT: dict[str, tuple[str, bytes, int]] = {
    "malformed": (ONE, b"{", 400),
    "malformed batch": (BATCH, b"{", 400),
    "contract": (ONE, BAD, 422),
    "all refused": (BATCH, array(BAD), 422),
    "not found": ("/nothing", GOOD * 1000, 404),
    "full": (BATCH, array(GOOD, GOOD), 429),
}


@pytest.mark.parametrize(("path", "body", "status"), REFUSED_AND_KEPT.values(), ids=REFUSED_AND_KEPT.keys())
async def test_a_connection_is_usable_after_a_refusal_that_does_not_close_it(
    path: str, body: bytes, status: int
) -> None:
    async with serving(max_events=2) as served, served.connection() as connection:
        await assert_usable(connection)
        for payload in (body, [body]):
            answer = await connection.request(path, payload)
            assert answer.status == status
            assert not answer.announces_close
        await assert_usable(connection)


async def test_a_refusal_that_announces_the_close_closes(served: Served) -> None:
    for headers, body in (
        ({"Content_Encoding": "rot13"}, GOOD),
        ({"Content_Encoding": "gzip"}, GOOD),
        ({}, b" " * (1 << 21)),
    ):
        async with served.connection() as connection:
            answer = await connection.request(ONE, body, **headers)
            assert answer.status in (400, 413, 415)
            assert answer.announces_close
            assert await connection.has_ended()


async def test_pipelined_requests_are_answered_in_order(served: Served, connection: Connection) -> None:
    total = 100
    await connection.send(b"".join(request_bytes(ONE, numbered(i) if i % 2 else b"{") for i in range(total)))
    answers = [await connection.answer() for _ in range(total)]
    assert [answer.status for answer in answers] == [200 if i % 2 else 400 for i in range(total)]
    stored = await served.take_all()
    assert [event.body for event in stored] == [numbered(i) for i in range(1, total, 2)]
    assert [answer.content["id"] for answer in answers if answer.status == 200] == [str(event.id) for event in stored]


async def test_a_client_that_waits_for_leave_is_told_to_go_on(served: Served, connection: Connection) -> None:
    for path, wanted in ((ONE, 200), (BATCH, 202)):
        data = request_bytes(path, GOOD, Expect="100-continue")
        head, _, body = data.partition(b"\r\n\r\n")
        await connection.send(head + b"\r\n\r\n")
        assert (await connection.answer()).status == 100
        await connection.send(body)
        assert (await connection.answer()).status == wanted
    await connection.send(request_bytes(ONE, [GOOD], Expect="100-Continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert (await connection.answer()).status == 100
    await connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD))
    assert (await connection.answer()).status == 200
    await assert_usable(connection)
    assert [event.body for event in await served.take_all()] == [GOOD] * 4


async def test_a_client_that_waits_for_leave_is_refused_without_sending(served: Served) -> None:
    for path, headers, status in (
        (ONE, {"Content_Encoding": "rot13"}, 415),
        (ONE, {"Content_Length": "99999999"}, 413),
        ("/nothing", {}, 404),
    ):
        async with served.connection() as connection:
            data = request_bytes(path, GOOD, Expect="100-continue", **headers)
            await connection.send(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            assert (await connection.answer()).status == status


async def test_a_client_that_waits_for_leave_and_then_is_too_slow_is_told_so() -> None:
    async with serving(body_timeout_seconds=1) as served, served.connection() as connection:
        head = request_bytes(ONE, GOOD, Expect="100-continue").partition(b"\r\n\r\n")[0]
        await connection.send(head + b"\r\n\r\n")
        assert (await connection.answer()).status == 100
        assert_refused(await connection.answer(), 408, "too_slow")


async def test_a_client_of_http_1_0_is_answered_and_closed(served: Served) -> None:
    async with served.connection() as connection:
        await connection.send(
            b"POST /track/event HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(GOOD), GOOD)
        )
        assert (await connection.answer()).status == 200
        assert await connection.has_ended()


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "foo"])
async def test_a_request_that_offers_an_upgrade_is_served_without_it(served: Served, upgrade: str) -> None:
    # curl --http2 offers h2c with every request.
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": upgrade,
        "HTTP2_Settings": "AAMAAABkAAQCAAAAAAIAAAAA",
    }
    answer = await served.post(ONE, GOOD, **headers)
    assert answer.status == 200
    assert [event.body for event in await served.take_all()] == [GOOD]


# Closing


async def test_closing_answers_503_or_closes_an_idle_connection_and_stores_nothing() -> None:
    async with serving() as served, served.connection() as connection:
        await assert_usable(connection)
        await served.take_all()
        await served.intake.close()
        await _assert_turned_away(connection, request_bytes(ONE, GOOD))
        assert served.buffer.occupancy().events == 0
        with pytest.raises(ConnectionError):
            await served.connect()
        await served.intake.close()


async def _assert_turned_away(connection: Connection, data: bytes) -> None:
    try:
        await connection.send(data)
        answer = await connection.answer()
    except (ConnectionError, asyncio.IncompleteReadError):
        return
    assert_refused(answer, 503, "shutting_down")
    assert re.fullmatch("[1-9][0-9]*", answer.headers["retry-after"])
    assert await connection.has_ended()


async def test_requests_that_come_when_the_closing_has_begun_are_told_so_and_not_stored() -> None:
    async with serving() as served, AsyncExitStack() as opened:
        connections = [await opened.enter_async_context(served.connection()) for _ in range(30)]
        for connection in connections:
            assert_refused(await connection.request(ONE, BAD), 422, "empty")
        for connection in connections:
            await connection.send(request_bytes(ONE, GOOD))
        closing = asyncio.create_task(served.intake.close())  # runs before the intake looks at its sockets again
        for connection in connections:
            await _assert_turned_away(connection, b"")
        await closing
        served.counts().assert_balanced()
        assert served.counts().accepted == 0


@pytest.mark.parametrize("turns", range(6))
async def test_a_request_that_meets_the_closing_is_stored_and_acknowledged_or_turned_away(turns: int) -> None:
    async with serving() as served, served.connection() as connection:
        await assert_usable(connection)
        await served.take_all()
        await connection.send(request_bytes(ONE, GOOD))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(served.intake.close())
        try:
            answer = await connection.answer()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        else:
            if answer.status == 200:
                assert [str(event.id) for event in await served.take_all()] == [answer.content["id"]]
            else:
                assert_refused(answer, 503, "shutting_down")
                assert re.fullmatch("[1-9][0-9]*", answer.headers["retry-after"])
                assert served.buffer.occupancy().events == 0
        await closing
        served.counts().assert_balanced()


async def test_a_body_that_is_on_its_way_when_the_closing_begins_is_still_taken() -> None:
    async with serving() as served, served.connection() as connection:
        data = request_bytes(ONE, GOOD)
        await connection.send(data[:-10])
        await until(lambda: served.awaiting(State.BODY) == 1, what="its head has come")
        closing = asyncio.create_task(served.intake.close())
        await until(lambda: not _is_listening(served), what="no more connections are taken")
        await connection.send(data[-10:])
        answer = await connection.answer()
        assert answer.status == 200
        assert [str(event.id) for event in await served.take_all()] == [answer.content["id"]]
        await closing


def _is_listening(served: Served) -> bool:
    assert isinstance(served.place, Address)
    with socket.socket() as probe:
        return probe.connect_ex((served.place.host, served.place.port)) == 0


async def test_a_body_that_never_comes_does_not_hold_up_the_closing() -> None:
    async with serving(body_timeout_seconds=60) as served, served.connection() as connection:
        await connection.send(request_bytes(ONE, GOOD)[:-10])
        await until(lambda: served.awaiting(State.BODY) == 1, what="its head has come")
        closing = asyncio.create_task(served.intake.close())
        await let_pass(6)
        async with asyncio.timeout(20):
            await closing
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await connection.answer()
        assert served.buffer.occupancy().events == 0
        served.counts().assert_balanced()


async def test_whatever_is_acknowledged_while_the_intake_closes_is_stored() -> None:
    async with serving() as served:
        acknowledged: list[str] = []
        numbers = count()

        async def post_until_refused() -> None:
            connection = await served.connect()
            try:
                while True:
                    answer = await connection.request(ONE, numbered(next(numbers)))
                    if answer.status != 200:
                        assert_refused(answer, 503, "shutting_down")
                        return
                    acknowledged.append(answer.content["id"])
            except (ConnectionError, asyncio.IncompleteReadError):
                return
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(post_until_refused())
            await until(lambda: len(acknowledged) > 300, what="events are flowing")
            await served.intake.close()
        served.counts().assert_balanced()
        stored = Counter(str(event.id) for event in await served.take_all())
        assert Counter(acknowledged) <= stored
        assert max(stored.values()) == 1


# Fairness and bounds

MEBIBYTE: Final = 1 << 20
MAX_TURN_SECONDS: Final = 0.5
"""Of the processor, at a stretch, for one request: so long everybody else waits, on a machine of their own."""
REQUEST_MEMORY_FACTOR: Final = 40
"""app.py promises: for the one that is being split and checked up to forty times its body."""


def _fill(element: bytes, size: int, *, as_lines: bool = False) -> bytes:
    """Make a body of nearly `size` bytes out of one element repeated."""
    total = (size - 2) // (len(element) + 1)
    return b"\n".join([element] * total) if as_lines else array(*[element] * total)


MANY_BAD: Final = b'{"attributes":{' + b",".join(b'"%x":[]' % i for i in range(100)) + b"}}"
MANY_HUGE: Final = b"{" + b",".join(b'"%x":1e400' % i for i in range(100)) + b"}"
HUGE_BODIES: dict[str, tuple[Callable[[int], bytes], str]] = {
    "zeros": (lambda size: _fill(b"0", size), "application/json"),
    "empty objects": (lambda size: _fill(b"{}", size), "application/json"),
    "lines of zeros": (lambda size: _fill(b"0", size, as_lines=True), NDJSON),
    "lines that are not JSON": (lambda size: _fill(b"}", size, as_lines=True), NDJSON),
    "empty lines": (lambda size: b"\n" * size, NDJSON),
    "events with a hundred bad attributes each": (lambda size: _fill(MANY_BAD, size), "application/json"),
    "events with a hundred numbers out of range each": (lambda size: _fill(MANY_HUGE, size), "application/json"),
    "an array of empty arrays": (lambda size: array(_fill(b"[]", size - 2)), "application/json"),
    "good events": (lambda size: _fill(GOOD, size), "application/json"),
}


async def _longest_turn() -> float:
    """Return, when cancelled, the most processor time between two of its turns of the event loop."""
    longest = 0.0
    before = time.thread_time()
    try:
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now
    except asyncio.CancelledError:
        return longest


@pytest.mark.parametrize(
    "name",
    [
        "zeros",
        "empty lines",
        "events with a hundred bad attributes each",
        "events with a hundred numbers out of range each",
        "an array of empty arrays",
        "good events",
    ],
)
async def test_while_a_huge_batch_is_handled_others_are_served_and_its_answer_is_bounded(
    served: Served, name: str
) -> None:
    make, content_type = HUGE_BODIES[name]
    data = request_bytes(f"{BATCH}?ids=true", make(MEBIBYTE // 2), Content_Type=content_type)
    statuses = []
    async with served.connection() as slow, served.connection() as quick:
        gc.collect()
        gc.freeze()  # or the heap of the whole test run would be measured, whenever it is collected
        await slow.send(data)
        measuring = asyncio.create_task(_longest_turn())
        answering = asyncio.create_task(slow.answer())
        while not answering.done():
            statuses.append((await quick.request(ONE, BAD)).status)
        measuring.cancel()
        answer = await answering
        gc.unfreeze()
    assert answer.status in (202, 422)
    assert statuses == [422] * len(statuses)
    assert len(statuses) > 1, "another's request is answered before the huge one"
    counts = served.counts()
    counts.assert_balanced()
    content = answer.content
    assert content["accepted"] == counts.accepted
    refused = len(content["rejected"]) + content.get("rejected_not_listed", 0)
    assert refused + len(statuses) == sum(counts.rejected.values())
    assert len(answer.body) <= 4 * MEBIBYTE
    assert await measuring < MAX_TURN_SECONDS


@pytest.mark.parametrize("name", HUGE_BODIES.keys())
async def test_a_batch_takes_no_more_memory_than_promised_for_its_size(served: Served, name: str) -> None:
    make, content_type = HUGE_BODIES[name]
    body = make(MEBIBYTE // 16)
    data = request_bytes(BATCH, body, Content_Type=content_type)
    async with served.connection() as connection:
        await assert_usable(connection)
        tracemalloc.start()
        try:
            await connection.send(data)
            answer = await connection.answer()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert answer.status in (202, 422)
    occupancy = served.buffer.occupancy()
    beside = 2 * MEBIBYTE + 600 * occupancy.events + occupancy.bytes + len(data)
    assert peak - beside < REQUEST_MEMORY_FACTOR * len(body), f"{(peak - beside) / len(body):.0f} times the body"


# Unix sockets


async def test_a_unix_socket_serves_and_counts_apart(tmp_path: Path) -> None:
    async with serving(unix=tmp_path / "s") as served, served.connection() as connection:
        assert (await connection.request(ONE, GOOD)).status == 200
        assert (await connection.request(BATCH, array(GOOD, BAD))).status == 202
        assert (await connection.request("/v1/status", method="GET")).status == 200
        assert [event.body for event in await served.take_all()] == [GOOD, GOOD]
        sample = served.telemetry.registry.get_sample_value
        assert sample("growlytics_forwarder_events_received_total", {"intake": "unix"}) == 3
        assert sample("growlytics_forwarder_events_received_total", {"intake": "http"}) == 0


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_a_unix_socket_has_the_mode_that_is_set_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    old = os.umask(0o077)
    try:
        with bind_unix(tmp_path / "s", mode=mode, setting="intake.unix_socket"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    finally:
        os.umask(old)


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    bind_unix(path, mode=0o600, setting="intake.unix_socket").close()
    assert path.is_socket()
    with bind_unix(path, mode=0o600, setting="intake.unix_socket"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_socket_that_somebody_listens_on_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path, mode=0o600, setting="intake.unix_socket"):
        before = path.lstat()
        with pytest.raises(CannotBindError, match=re.escape(str(path))) as refused:
            bind_unix(path, mode=0o666, setting="intake.unix_socket")
        assert str(refused.value).startswith("intake.unix_socket: ")
        remove_unix(path)
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.fixture
def busy_path(tmp_path: Path) -> Iterator[Path]:
    """The path of a socket whose owner is too busy to accept, so that its backlog is full."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        clients: list[socket.socket] = []
        try:
            while True:
                clients.append(socket.socket(socket.AF_UNIX))
                clients[-1].setblocking(False)
                clients[-1].connect(str(path))
        except BlockingIOError:
            yield path
        finally:
            for client in clients:
                client.close()


def test_a_socket_whose_backlog_is_full_is_refused_and_left_alone(busy_path: Path) -> None:
    with pytest.raises(CannotBindError, match=re.escape(str(busy_path))):
        bind_unix(busy_path, mode=0o600, setting="intake.unix_socket")
    assert busy_path.is_socket()


def test_closing_leaves_the_socket_of_a_successor_whose_backlog_is_full(busy_path: Path) -> None:
    remove_unix(busy_path)
    assert busy_path.is_socket()


def test_closing_leaves_the_socket_of_a_successor_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(CannotBindError, match=re.escape(str(path))):
            bind_unix(path, mode=0o600, setting="intake.unix_socket")
        remove_unix(path)
        assert path.is_socket()


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_datagram_socket_is_bound_like_the_others(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "d"
    bind_unix(path, mode=0o600, setting="intake.unix_socket").close()
    bind_unix_datagram(path, mode=mode, setting="intake.datagram_socket").close()
    with bind_unix_datagram(path, mode=mode, setting="intake.datagram_socket") as receiver:
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert not receiver.getblocking()
        with pytest.raises(CannotBindError, match=r"^intake\.datagram_socket: another process listens"):
            bind_unix_datagram(path, mode=mode, setting="intake.datagram_socket")
        remove_unix(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(GOOD, str(path))
        assert receiver.recv(1000) == GOOD
    remove_unix(path)
    assert not path.exists()
    with pytest.raises(CannotBindError, match=r"^intake\.datagram_socket: cannot listen on"):
        bind_unix_datagram(tmp_path / "missing" / "d", mode=mode, setting="intake.datagram_socket")


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file", "dangling link", "fifo"])
def test_what_is_no_socket_is_refused_and_left_untouched(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "s", tmp_path / "other"
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "link to a file":
            other.write_text("precious")
            path.symlink_to(other)
        case "dangling link":
            path.symlink_to(other)
        case _:
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(CannotBindError, match=re.escape(str(path))):
        bind_unix(path, mode=0o600, setting="intake.unix_socket")
    remove_unix(path)
    assert path.lstat() == before
    if kind in ("file", "link to a file"):
        assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/s", "x" * 200])
def test_a_path_that_cannot_be_listened_on_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CannotBindError, match=re.escape(str(tmp_path / name))) as refused:
        bind_unix(tmp_path / name, mode=0o600, setting="intake.unix_socket")
    assert str(refused.value).startswith("intake.unix_socket: ")
    remove_unix(tmp_path / name)


async def test_the_socket_file_is_removed_on_closing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serving(unix=path):
        assert path.is_socket()
    remove_unix(path)
    assert not path.exists()
    remove_unix(path)


def test_a_tcp_address_that_is_taken_is_named() -> None:
    with bind_tcp(Address("127.0.0.1", 0), setting="intake.http") as first:
        taken = Address(*first.getsockname())
        with pytest.raises(CannotBindError, match=f"^intake.http: .*{taken}"):
            bind_tcp(taken, setting="intake.http")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 64, "a..b"])
def test_a_tcp_address_that_cannot_be_had_is_named(host: str) -> None:
    with pytest.raises(CannotBindError, match=f"^intake.http: .*{host}"):
        bind_tcp(Address(host, 0), setting="intake.http")


def test_an_answer_has_the_shape_that_is_documented() -> None:
    """Guard the guard: a wrong shape is noticed."""
    wrong: Any = {"code": "a", "field": None}
    with pytest.raises(AssertionError):
        code_of(wrong)
    assert json.loads(Answer(200, {}, b"{}").body) == {}
