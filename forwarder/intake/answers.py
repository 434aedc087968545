"""The answers of the HTTP intake: JSON, of one shape for every error. Pure."""

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
    "malformed_http": (400, "this is not a request of HTTP/1.1 that the forwarder understands"),
    "body_too_large": (413, "the body exceeds intake.max_body_bytes, or the whole buffer: send less at a time"),
    "buffer_full": (429, "the buffer is full: nothing of this request was taken; send it again later"),
    "buffer_unavailable": (
        503,
        "the disk of the buffer is full, fails or is gone: nothing of this request was done; send it again later",
    ),
    "unauthorized": (
        401,
        "over TCP this needs intake.token, as x-growlytics-key or Authorization: Bearer; or use intake.unix_socket",
    ),
    "forbidden_user": (
        403,
        "over a Unix socket this is for the daemon's own user, root, members of control.group, or who sends intake.token",
    ),
    "forbidden_host": (
        403,
        "the Host is none of intake.allowed_hosts: call the forwarder by one of them, or add the one that you use",
    ),
    "forbidden_origin": (
        403,
        "a page in a browser sent this, and its Origin is none of intake.allowed_origins: add it if its pages may post",
    ),
    "shutting_down": (503, "the forwarder is shutting down: send it again, to its successor"),
    "not_found": (
        404,
        "there is nothing here: POST to /track/event or /v1/events, GET / or /v1/status; what has an id may be gone",
    ),
    "method_not_allowed": (405, "this path does not take this method: see the Allow header"),
    "unsupported_encoding": (
        415,
        f"the Content-Encoding is not understood: send one of {', '.join(ENCODINGS)}, and it alone, or none",
    ),
    "unsupported_content_type": (
        415,
        "any page could send this Content-Type, or none: send JSON's, as in curl -H 'Content-Type: application/json'",
    ),
    "malformed_body": (400, "the body is not what its headers say: cut short, or not the compression that it claims"),
    "headers_too_large": (431, "the headers are too many, or too large: leave out what the forwarder does not need"),
    "uri_too_long": (414, "the path and query are too long: events belong in the body"),
    "unsupported_transfer_encoding": (
        501,
        "the Transfer-Encoding is not chunked alone: send that or a Content-Length, and compress with Content-Encoding",
    ),
    "too_slow": (408, "the body did not arrive within intake.body_timeout_seconds"),
    "busy": (
        429,
        "too much is being parsed at once (intake.max_parsing_bytes), so this request was not taken: send it again later",
    ),
    "internal_error": (500, "the forwarder failed at this request, which was not taken; its log says more"),
}
_CLOSING: Final = frozenset({400, 401, 403, 408, 413, 414, 415, 431, 500, 501})
"""Statuses after which the connection is closed: the rest of the request is not read, or nobody knows where it ends."""


_JSON: Final = {
    "Content-Type": "application/json",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_RETRY_AFTER_SECONDS: Final[Mapping[RequestCode, int]] = {
    "busy": 1,
    "buffer_unavailable": 5,
    "shutting_down": 5,
}


class Error(TypedDict):
    """One thing that is wrong with a request or an event."""

    code: Code
    field: str | None
    """Where: `name`, `attributes.Price`; None when it is the whole."""
    message: str


def refusal(code: RequestCode, *, allow: str | None = None, retry_after_seconds: int | None = None) -> Answer:
    """Refuse a request as a whole; the caller knows when it may come again, or else the code says it."""
    status, message = _MESSAGES[code]
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
    """Refuse who sends the headers too slowly."""
    message = "the request's headers did not arrive within intake.header_timeout_seconds"
    return _errors(408, [_error("too_slow", message)])


def wrong(code: EventCode, message: str) -> Answer:
    """Refuse what cannot be understood, and is wrong as a whole."""
    return _errors(_status_of(code), [_error(code, message)])


def violations(refused: Refused) -> Answer:
    """Refuse a single event, with all that is wrong with it."""
    return _errors(_status_of(refused.violations[0].code), described(refused.violations))


def no_room(stored: Full | NeverFits | Unavailable) -> Answer:
    """Refuse what the buffer did not take."""
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
    """Confirm a batch: 202, or 422 if every one of its elements was refused."""
    content: dict[str, object] = {
        "accepted": accepted.accepted,
        "duplicates": accepted.duplicates,
        "rejected": [{"index": index, "errors": described(refused.violations)} for index, refused in accepted.refusals],
    }
    if accepted.not_listed:
        content["rejected_not_listed"] = accepted.not_listed
    if with_ids:
        content["ids"] = [None if event_id is None else str(event_id) for event_id in accepted.ids]
    taken = accepted.accepted or accepted.duplicates
    return _json(422 if accepted.refusals and not taken else 202, orjson.dumps(content))


def content(answer: Mapping[str, object] | bytes) -> Answer:
    """Show what was asked for, which may be JSON already."""
    return _json(200, answer if isinstance(answer, bytes) else orjson.dumps(answer))


@cache
def _document() -> bytes:
    return words.put_into(Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")).encode()


def document() -> Answer:
    """Show the OpenAPI document."""
    return Answer(200, {**_JSON, "Content-Type": "application/yaml"}, _document())


def text(value: str) -> str:
    """Return text that may hold lone surrogates as what JSON can carry."""
    return value.encode(errors="replace").decode()


def described(found: Sequence[Violation]) -> list[Error]:
    """Return violations as they stand in an answer."""
    return [_error(one.code, one.message, one.field) for one in found]


def _status_of(code: EventCode) -> int:
    """Return the status of an answer whose first error is one event's."""
    return 400 if code == "malformed_json" else 422


def _error(code: Code, message: str, field: str | None = None) -> Error:
    return {"code": code, "field": field, "message": message}


def _errors(http_status: int, errors: Sequence[Error], headers: Mapping[str, str] | None = None) -> Answer:
    """Return any error: all that is wrong, and what is wrong first once more for simple clients."""
    first = errors[0]
    content = {"success": False, "code": first["code"], "message": first["message"], "errors": errors}
    return _json(http_status, orjson.dumps(content), headers)


def _json(http_status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(http_status, _JSON if headers is None else {**_JSON, **headers}, body)
