"""What an answer means, for every status there is; and that telemetry has a series for everything that can be said."""

import gzip
import json
import math
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.growlytics.answer_body import MAX_ANSWER_BYTES
from forwarder.growlytics.outcome import (
    MAX_RETRY_AFTER_SECONDS,
    Blocked,
    Delivered,
    Failure,
    Outcome,
    Rejected,
    Retryable,
    of_answer,
    of_proxy_refusal,
)
from forwarder.words import RetryableReason

EVERY_STATUS = range(100, 600)

SILENT = [
    b"",
    b"OK",
    b"200: OK",
    b"{}",
    b'{"success":true}',
    b'{"success":null}',
    b'{"Success":false}',
    b'{"data":{"success":false}}',
    b'[{"success":false}]',
    b'"success"',
    b'{"message":"\\"success\\":false"}',
    b'{"success":fal',
    b"\xff\x00",
    b'{"success":false,"success":true}',
]
"""Bodies that do not say success:false."""

FAILURE = [
    b'{"success":false}',
    b' {\r\n "success" :\tfalse }\n',
    b'{"error":"no","success":false}',
    b'{"success":false,"errors":[{"success":true}]}',
    b'{"success":true,"success":false}',
    '{"success":false,"message":"gefällt nicht \U0001f600"}'.encode(),
    '\ufeff{"success":"False"}'.encode("utf-16"),
    b'{"success":0,"message":"cut',
]
"""Bodies that say it."""

PAGES = [b'<html>"success":false</html>', b"\r\n <!DOCTYPE html>", "\ufeff<?xml".encode("utf-16")]
"""Bodies that are no answer of Growlytics."""


def expected(status: int, *, says_failure: bool) -> Outcome:
    """Judge by the words of the task."""
    if status // 100 == 2:
        return Rejected(status) if says_failure else Delivered()
    if status in (400, 409, 413, 422):
        return Rejected(status)
    if status in (408, 425, 429):
        reasons: dict[int, RetryableReason] = {408: "status_408", 425: "status_425", 429: "status_429"}
        return Retryable(reasons[status], maybe_delivered=False)
    if status // 100 == 5:
        return Retryable("status_5xx", maybe_delivered=status in (502, 504))
    return blocked(status)


def blocked(status: int) -> Blocked:
    """Say whom a refusal is about, as far as its status tells."""
    match status:
        case 401 | 407:
            return Blocked(status, "key")
        case _:
            return Blocked(status, "refusal")


@pytest.mark.parametrize("body", SILENT)
def test_every_status_comes_to_the_outcome_the_task_names(body: bytes) -> None:
    for status in EVERY_STATUS:
        assert of_answer(status, body) == expected(status, says_failure=False), status


@pytest.mark.parametrize("body", FAILURE)
def test_success_false_turns_a_2xx_and_nothing_else_into_a_refusal(body: bytes) -> None:
    for status in EVERY_STATUS:
        assert of_answer(status, body) == expected(status, says_failure=True), status


@pytest.mark.parametrize(
    "status", [HTTPStatus.UNAUTHORIZED, 402, 403, 404, 405, 407, 301, 302, 304, 307, 308, 410, 451]
)
def test_what_is_no_events_fault_blocks_and_keeps_the_event(status: int) -> None:
    assert of_answer(status, b'{"success":false}') == blocked(status)


@pytest.mark.parametrize("body", PAGES)
def test_a_page_turns_a_2xx_and_nothing_else_into_no_answer_of_growlytics(body: bytes) -> None:
    for status in EVERY_STATUS:
        stranger = Blocked(status, "not_growlytics")
        assert of_answer(status, body) == (stranger if status // 100 == 2 else expected(status, says_failure=False)), (
            status
        )


def test_a_page_is_told_from_a_refusal_by_its_cause() -> None:
    decided = of_answer(200, b"<p>Log in", host="dc.test:443")
    assert isinstance(decided, Blocked)
    text = "200 OK, with a page instead of Growlytics' answer"
    assert decided.failure == Failure("status", text, "dc.test:443", 200)


def test_the_headers_of_a_2xx_and_of_nothing_else_say_how_to_read_its_body() -> None:
    for status in EVERY_STATUS:
        is_good = status // 100 == 2
        plain = expected(status, says_failure=False)
        assert of_answer(status, b"OK", content_type="Text/HTML; charset=x") == (
            Blocked(status, "not_growlytics") if is_good and status not in (204, 205) else plain
        )
        refusal = gzip.compress(b'{"success":false}')
        assert of_answer(status, refusal, content_encoding="gzip") == expected(status, says_failure=True)
        assert of_answer(status, refusal, content_encoding="br") == plain


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_body_at_all_is_decided_upon(status: int, body: bytes) -> None:
    possible = [expected(status, says_failure=says_failure) for says_failure in (False, True)]
    possible += [Blocked(status, "not_growlytics")] if status // 100 == 2 else []
    assert of_answer(status, body) in possible


JSON_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
        st.text(st.sampled_from("a\ud800\udc00")),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


def says_no(success: object) -> bool:
    """Say whether a `success` is no, in words that are not those of the code."""
    return str(success).strip().lower() in {"false", "0", "0.0", "-0.0", "no"}


@given(
    st.dictionaries(st.one_of(st.just("success"), st.text()), JSON_VALUES, max_size=4),
    st.one_of(st.none(), st.booleans()),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_an_answer_in_json_says_success_false_or_does_not_whatever_else_it_says(
    answer: dict[str, object], success: bool | None, indent: int | None, is_ascii: bool
) -> None:
    if success is not None:
        answer = {"success": success} | answer
    text = json.dumps(answer, indent=indent)
    try:
        body = json.dumps(answer, indent=indent, ensure_ascii=is_ascii).encode()
    except UnicodeEncodeError:
        body = text.encode()
    assert of_answer(200, body) == expected(200, says_failure=says_no(json.loads(text).get("success")))


@pytest.mark.parametrize(
    "text", ['"unknown event \\ud83d"', '{"limit":1e400}', "1" + "0" * 400, "18446744073709551616"]
)
def test_an_answer_in_json_of_an_unusual_kind_still_says_success_false(text: str) -> None:
    # JavaScript's JSON.stringify writes a lone surrogate so, as when it quotes a name that was cut within an emoji.
    assert of_answer(200, f'{{"success":false,"message":{text}}}'.encode()) == Rejected(200)


def test_an_answer_cut_at_the_limit_of_what_is_read_is_decided_upon() -> None:
    body = b'{"message":"' + b"x" * MAX_ANSWER_BYTES
    assert of_answer(200, body[:MAX_ANSWER_BYTES]) == Delivered()
    assert of_answer(422, body[:MAX_ANSWER_BYTES]) == Rejected(422)


# Retry-After

NOW = datetime(2026, 12, 1, 12, 0, 0, tzinfo=UTC).timestamp()


def retry_after(text: str | None, *, status: int = 503, date: str | None = None) -> float | None:
    outcome = of_answer(status, b"", retry_after=text, date=date, now=NOW)
    assert isinstance(outcome, Retryable)
    return outcome.retry_after_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120\t", 120.0),
        ("007", 7.0),
        ("-0", 0.0),
        ("-30", 0.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("0.0", 0.0),
        ("-1.5", 0.0),
        ("86400.5", 86_400.0),
        ("86400", 86_400.0),
        ("86401", 86_400.0),
        ("9" * 8000, 86_400.0),
        ("-" + "9" * 8000, 0.0),
        ("Tue, 01 Dec 2026 12:01:30 GMT", 90.0),
        ("Tuesday, 01-Dec-26 12:01:30 GMT", 90.0),
        ("Tue Dec  1 12:01:30 2026", 90.0),
        ("Tue, 01 Dec 2026 14:01:30 +0200", 90.0),
        ("Tue, 01 Dec 2026 12:01:30 -0000", 90.0),
        ("Tue, 01 Dec 2026 12:00:00 GMT", 0.0),
        ("Tue, 01 Dec 2026 11:00:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86_400.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_negative_nor_endless(text: str, seconds: float) -> None:
    assert retry_after(text) == seconds
    assert math.copysign(1.0, seconds) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        " ",
        "soon",
        "1e3",
        "1,5",
        "1.5.5",
        ".",
        "-",
        "+5",
        "5 seconds",
        "5, 5",
        "0x10",
        "٣",
        "--1",
        "inf",
        "nan",
        "Tue, 01 Dec 2026",
        "Tue, 32 Dec 2026 12:01:30 GMT",
        "Tue, 01 Dec 2026 25:01:30 GMT",
        "Tue, 01 Dec 99999999999999999999 12:01:30 GMT",
        "Tue, 01 Dec 2026 12:01:30 +99999999999999999999",
        "2026-12-01T12:01:30Z",
        "\udcff\x00",
    ],
)
def test_a_retry_after_that_makes_no_sense_is_none(text: str | None) -> None:
    assert retry_after(text) is None


@given(st.one_of(st.text(), st.text("0123456789 :,+-GMTDecTue/."), st.integers().map(str)))
def test_any_retry_after_at_all_is_decided_upon(text: str) -> None:
    seconds = retry_after(text)
    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_SECONDS


@given(st.integers(0, 4_000_000_000))
def test_a_date_is_that_far_from_now(date: int) -> None:
    assert retry_after(formatdate(date, usegmt=True)) == min(max(0.0, date - NOW), MAX_RETRY_AFTER_SECONDS)


@pytest.mark.parametrize("behind_seconds", [-86_400, -3600, -1, 0, 1, 3600, 1_000_000_000])
@pytest.mark.parametrize("wait_seconds", [0, 2, 600])
def test_a_date_is_that_far_from_the_answers_own_date_whatever_our_clock_says(
    behind_seconds: int, wait_seconds: int
) -> None:
    there = NOW - behind_seconds
    date = formatdate(there + wait_seconds, usegmt=True)
    assert retry_after(date, date=formatdate(there, usegmt=True)) == wait_seconds
    assert retry_after("7", date=formatdate(there, usegmt=True)) == 7.0


@pytest.mark.parametrize(
    "date", ["Tuesday, 01-Dec-26 12:00:00 GMT", "Tue Dec  1 12:00:00 2026", "Tue, 01 Dec 2026 14:00:00 +0200"]
)
def test_the_answers_own_date_may_have_any_format_too(date: str) -> None:
    assert retry_after("Tue, 01 Dec 2026 12:00:02 GMT", date=date) == 2.0


@pytest.mark.parametrize("date", [None, "", "0", "now", "Tue, 32 Dec 2026 12:01:30 GMT"])
def test_a_date_is_compared_with_our_clock_where_the_answer_has_none_that_can_be_read(date: str | None) -> None:
    assert retry_after("Tue, 01 Dec 2026 12:00:02 GMT", date=date) == 2.0


def test_every_answer_that_may_pass_says_when_to_retry() -> None:
    for status in EVERY_STATUS:
        decided = of_answer(status, b"", retry_after="5", now=NOW)
        assert isinstance(decided, Retryable) == (status in (408, 413, 425, 429) or status // 100 == 5), status
        if isinstance(decided, Retryable):
            assert decided.retry_after_seconds == 5.0


@pytest.mark.parametrize("retry_after", [None, "", "soon", "-", "5, 5"])
def test_too_large_is_final_unless_the_answer_says_when_to_retry(retry_after: str | None) -> None:
    assert of_answer(413, b"", retry_after=retry_after) == Rejected(413)
    assert of_answer(413, b"", retry_after="2") == Retryable("status_413", maybe_delivered=False, retry_after_seconds=2)


# Why, for people


@given(st.integers(100, 599), st.sampled_from([*SILENT, *FAILURE]))
def test_every_answer_that_delivers_nothing_says_why_by_its_status_and_never_by_its_body(
    status: int, body: bytes
) -> None:
    outcome = of_answer(status, body, host="dc.growlytics.in:443")
    if isinstance(outcome, Delivered):
        return
    failure = outcome.failure
    assert (failure.kind, failure.host, failure.status) == ("status", "dc.growlytics.in:443", status)
    assert failure.text.startswith(str(status))
    assert failure == of_failure(status, says_failure=status // 100 == 2)


def of_failure(status: int, *, says_failure: bool) -> Failure:
    """Return what another answer of that status says."""
    outcome = of_answer(status, b'{"success":false}' if says_failure else b"", host="dc.growlytics.in:443")
    assert not isinstance(outcome, Delivered)
    return outcome.failure


@pytest.mark.parametrize("status", [407, 403, 502, 299])
def test_a_proxys_refusal_says_that_it_was_the_proxy(status: int) -> None:
    outcome = of_proxy_refusal(status, host="proxy.example:3128")
    assert not isinstance(outcome, Delivered)
    assert (outcome.failure.kind, outcome.failure.host, outcome.failure.status) == (
        "proxy", "proxy.example:3128", status,
    )  # fmt: skip
    assert outcome.failure.text.startswith(f"the proxy refused: {status}")


def test_a_failure_decides_nothing() -> None:
    assert of_answer(503, b"", host="a") == of_answer(503, b"", host="b")


# A proxy that refuses


def test_a_proxys_refusal_is_never_the_events_fault_and_no_byte_of_it_left() -> None:
    for status in EVERY_STATUS:
        may_pass = status // 100 == 5 or status in (408, 425, 429)
        never_sent = Retryable("network", maybe_delivered=False)
        assert of_proxy_refusal(status) == (never_sent if may_pass else Blocked(status, "proxy")), status


def test_a_proxy_that_may_change_its_mind_says_when() -> None:
    for status in EVERY_STATUS:
        decided = of_proxy_refusal(
            status,
            retry_after="Tue, 01 Dec 2026 11:00:09 GMT",
            date="Tue, 01 Dec 2026 11:00:00 GMT",
            now=NOW,
        )
        if not isinstance(decided, Blocked):
            assert decided == Retryable("network", maybe_delivered=False, retry_after_seconds=9.0), status
