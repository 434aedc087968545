"""The answers of the HTTP intake: JSON, with one shape for all errors; and the OpenAPI document. Pure."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, TypedDict, assert_never

import orjson

from forwarder import words
from forwarder.buffer.base import Full, NeverFits, Unavailable
from forwarder.growlytics.contract import Refused, Violation
from forwarder.http.messages import Answer
from forwarder.intake.acceptance import Accepted
from forwarder.intake.bodies import ENCODINGS
from forwarder.words import Code, EventCode, RequestCode

_MESSAGES: Final[Mapping[RequestCode, tuple[int, str]]] = {
    "malformed_http": (400, "this is not a valid HTTP/1.1 request"),
    "body_too_large": (413, "the body exceeds intake.max_body_bytes, or the whole buffer: send less at a time"),
    "buffer_full": (429, "the buffer is full, and nothing of this request was accepted: send it again later"),
    "buffer_unavailable": (
        503,
        "the buffer's disk is full, fails or is gone, and nothing of this request was stored: send it again later",
    ),
    "unauthorized": (
        401,
        "over TCP this needs intake.token, as x-growlytics-key or Authorization: Bearer; or use intake.unix_socket",
    ),
    "forbidden_user": (
        403,
        "over a Unix socket this is for the daemon's own user, root, members of control.group, or with intake.token",
    ),
    "forbidden_host": (403, "the Host is not in intake.allowed_hosts: use a name that is, or add this one"),
    "forbidden_origin": (
        403,
        "a web page sent this, and its Origin is not in intake.allowed_origins: add it if its pages may post",
    ),
    "shutting_down": (503, "the forwarder is shutting down: send it again after its restart"),
    "not_found": (
        404,
        "nothing is here: POST to /track/event or /v1/events, GET / or /v1/status; an id may be unknown by now",
    ),
    "method_not_allowed": (405, "this path does not support this method: see the Allow header"),
    "unsupported_encoding": (
        415,
        f"this Content-Encoding is not supported: use {', '.join(ENCODINGS[:-1])} or {ENCODINGS[-1]}, only one, or none",
    ),
    "unsupported_content_type": (
        415,
        "any web page could send this Content-Type, or none: use JSON's, as in curl -H 'Content-Type: application/json'",
    ),
    "malformed_body": (400, "the body does not match its headers: it is cut short, or not compressed as they say"),
    "headers_too_large": (
        431,
        "the headers are too many or too large: leave out those that the forwarder does not need",
    ),
    "uri_too_long": (414, "the path and query are too long: send events in the body"),
    "unsupported_transfer_encoding": (
        501,
        "Transfer-Encoding may only be chunked: use that or a Content-Length, and compress with Content-Encoding",
    ),
    "too_slow": (408, "the body did not arrive within intake.body_timeout_seconds"),
    "busy": (
        429,
        "too much is being parsed at once (intake.max_parsing_bytes), so this was not accepted: send it again later",
    ),
    "too_many_taps": (429, "as many taps are open as may be: end another one, or wait until it has ended"),
    "internal_error": (500, "the forwarder failed, and this request was not accepted; the log says more"),
}
_CLOSING: Final = frozenset({400, 401, 403, 408, 413, 414, 415, 431, 500, 501})
"""After an answer with one of these the connection is closed: the rest of the request is not read, or its end is unknown."""
_RETRY_AFTER_SECONDS: Final[Mapping[RequestCode, int]] = {
    "busy": 1,
    "too_many_taps": 10,
    "buffer_unavailable": 5,
    "shutting_down": 5,
}
_SAFE: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_JSON: Final = {"Content-Type": "application/json", **_SAFE}
_FILES: Final = Path(__file__).parent


class Error(TypedDict):
    """One thing that is wrong with a request or an event."""

    code: Code
    field: str | None
    """Where it is, such as `name` or `attributes.Price`; None for the whole."""
    message: str


def refusal(
    code: RequestCode, *, allow: str | None = None, retry_after_seconds: int | None = None, why: str | None = None
) -> Answer:
    """Refuse a request as a whole.

    Without `retry_after_seconds` the code decides when the client may try again, and without `why` what is said.
    """
    status, usual = _MESSAGES[code]
    message = why or usual
    headers = {}
    if (seconds := retry_after_seconds or _RETRY_AFTER_SECONDS.get(code)) is not None:
        headers["Retry-After"] = str(seconds)
    if allow is not None:
        headers["Allow"] = allow
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    answer = _errors(status, [_error(code, message)], headers)
    answer.closes = status in _CLOSING or code == "shutting_down"
    return answer


def too_slow_headers() -> Answer:
    """Refuse a client that sends its headers too slowly."""
    message = "the request's headers did not arrive within intake.header_timeout_seconds"
    return _errors(408, [_error("too_slow", message)])


def wrong(code: EventCode, message: str) -> Answer:
    """Refuse a request that cannot be understood."""
    return _errors(_status_of(code), [_error(code, message)])


def violations(refused: Refused) -> Answer:
    """Refuse a single event, with all that is wrong with it."""
    return _errors(_status_of(refused.violations[0].code), described(refused.violations))


def no_room(stored: Full | NeverFits | Unavailable) -> Answer:
    """Refuse what the buffer did not store."""
    match stored:
        case Full():
            return refusal("buffer_full", retry_after_seconds=stored.retry_after_seconds)
        case Unavailable():
            return refusal("buffer_unavailable")
        case NeverFits():
            return refusal("body_too_large")
        case _:
            assert_never(stored)


def accepted_one(event_id: int) -> Answer:
    """Confirm a single event."""
    return Answer(200, _JSON, b'{"success":true,"id":"%d"}' % event_id)


def accepted_batch(accepted: Accepted, *, with_ids: bool) -> Answer:
    """Confirm a batch: 202, or 422 if all of its elements were refused."""
    content: dict[str, object] = {
        "accepted": accepted.accepted,
        "duplicates": accepted.duplicates,
        "rejected": [{"index": index, "errors": described(refused.violations)} for index, refused in accepted.refusals],
    }
    if accepted.not_listed:
        content["rejected_not_listed"] = accepted.not_listed
    if with_ids:
        content["ids"] = [None if event_id is None else str(event_id) for event_id in accepted.ids]
    any_good = accepted.accepted or accepted.duplicates
    return _json(422 if accepted.refusals and not any_good else 202, orjson.dumps(content))


def content(answer: Mapping[str, object] | bytes, *, status: int = 200) -> Answer:
    """Show what was asked for; bytes are JSON already."""
    return _json(status, answer if isinstance(answer, bytes) else orjson.dumps(answer))


def text(value: str) -> str:
    """Return a text in which lone surrogates, which JSON cannot contain, are replaced."""
    return value.encode(errors="replace").decode()


def described(found: Sequence[Violation]) -> list[Error]:
    """Return violations in the shape of an answer's errors."""
    return [_error(one.code, one.message, one.field) for one in found]


def _status_of(code: EventCode) -> int:
    return 400 if code == "malformed_json" else 422


def _error(code: Code, message: str, field: str | None = None) -> Error:
    return {"code": code, "field": field, "message": message}


def _errors(http_status: int, errors: Sequence[Error], headers: Mapping[str, str] | None = None) -> Answer:
    """Return all that is wrong; the first error also stands by itself, for simple clients."""
    first = errors[0]
    content = {"success": False, "code": first["code"], "message": first["message"], "errors": errors}
    return _json(http_status, orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), headers)


def _json(http_status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(http_status, _JSON if headers is None else {**_JSON, **headers}, body)


def document() -> Answer:
    """Show the OpenAPI document."""
    return Answer(200, {**_JSON, "Content-Type": "application/yaml"}, _document())


@cache
def _document() -> bytes:
    return words.put_into((_FILES / "openapi.yaml").read_text(encoding="utf-8")).encode()
