"""What an answer means, for every status there is; and that telemetry has a series for everything that can be said."""

import json
from http import HTTPStatus
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder import telemetry
from forwarder.buffer.fates import DropReason
from forwarder.growlytics import outcome
from forwarder.growlytics.contract import Code
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable, RetryReason, of_answer
from forwarder.intake import answers

EVERY_STATUS = range(100, 600)

SILENT = [
    b"",
    b"OK",
    b"200: OK",
    b"{}",
    b'{"success":true}',
    b'{"success":null}',
    b'{"success":0}',
    b'{"success":"false"}',
    b'{"Success":false}',
    b'{"data":{"success":false}}',
    b'[{"success":false}]',
    b'"success"',
    b'{"message":"\\"success\\":false"}',
    b'{"success":fal',
    b'<html>"success":false</html>',
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
]
"""Bodies that say it."""


def expected(status: int, *, says_failure: bool) -> Outcome:
    """Judge by the words of the task."""
    if status // 100 == 2:
        return Rejected(status) if says_failure else Delivered()
    if status in (400, 409, 413, 422):
        return Rejected(status)
    if status in (408, 425, 429):
        reasons: dict[int, RetryReason] = {408: "status_408", 425: "status_425", 429: "status_429"}
        return Retryable(reasons[status], maybe_delivered=False)
    if status // 100 == 5:
        return Retryable("status_5xx", maybe_delivered=status in (502, 504))
    return Blocked(status)


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
    assert of_answer(status, b'{"success":false}') == Blocked(status)


@given(st.integers(100, 599), st.binary(max_size=60))
def test_any_body_at_all_is_decided_upon(status: int, body: bytes) -> None:
    assert of_answer(status, body) in (expected(status, says_failure=False), expected(status, says_failure=True))


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
    assert of_answer(200, body) == expected(200, says_failure=json.loads(text).get("success") is False)


@pytest.mark.parametrize(
    "text", ['"unknown event \\ud83d"', '{"limit":1e400}', "1" + "0" * 400, "18446744073709551616"]
)
def test_an_answer_in_json_of_an_unusual_kind_still_says_success_false(text: str) -> None:
    # JavaScript's JSON.stringify writes a lone surrogate so, as when it quotes a name that was cut within an emoji.
    assert of_answer(200, f'{{"success":false,"message":{text}}}'.encode()) == Rejected(200)


def test_an_answer_cut_at_the_limit_of_what_is_read_is_decided_upon() -> None:
    body = b'{"message":"' + b"x" * outcome.MAX_ANSWER_BYTES
    assert of_answer(200, body[: outcome.MAX_ANSWER_BYTES]) == Delivered()
    assert of_answer(422, body[: outcome.MAX_ANSWER_BYTES]) == Rejected(422)


# Telemetry's labels


def test_every_code_of_the_contract_has_a_series() -> None:
    assert set(get_args(Code)) <= set(telemetry.REJECTION_REASONS)
    assert len(set(telemetry.REJECTION_REASONS)) == len(telemetry.REJECTION_REASONS)


def test_every_refusal_of_the_http_intake_that_counts_an_event_has_a_series() -> None:
    uncounted = {"not_found", "method_not_allowed"}
    assert set(answers._MESSAGES) - uncounted <= set(telemetry.REJECTION_REASONS)


def test_the_series_of_outcomes_retries_and_drops_are_those_that_occur() -> None:
    assert set(telemetry.OUTCOMES) == {kind.__name__.lower() for kind in get_args(Outcome)}
    assert set(telemetry.RETRY_REASONS) == {*get_args(RetryReason), "blocked"}
    assert set(telemetry.DROP_REASONS) == set(get_args(DropReason))
