"""The answers of the HTTP intake: JSON, of one shape for every error. Pure but for aiohttp's response objects."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import orjson
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from forwarder.growlytics.contract import Refused, Violation
from forwarder.intake.acceptance import Accepted
from forwarder.intake.bodies import ENCODINGS
from forwarder.intake.parsing import RETRY_AFTER_SECONDS as RETRY_AFTER_BUSY_SECONDS

RETRY_AFTER_SHUTDOWN_SECONDS: Final = 5
RETRY_AFTER_UNAVAILABLE_SECONDS: Final = 5
_MESSAGES: Final = {
    "body_too_large": (413, "the body exceeds intake.max_body_bytes, or the whole buffer: send less at a time"),
    "buffer_full": (429, "the buffer is full: nothing of this request was taken; send it again later"),
    "busy": (
        429,
        "other requests' bodies take all of intake.max_parsing_bytes: nothing was taken; send it again later",
    ),
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
    "too_slow": (408, "the body did not arrive within intake.body_timeout_seconds"),
}

_SERVER: Final = SERVER_SOFTWARE.encode()
_RETRY_AFTER_SECONDS: Final = {
    "buffer_unavailable": RETRY_AFTER_UNAVAILABLE_SECONDS,
    "busy": RETRY_AFTER_BUSY_SECONDS,
    "shutting_down": RETRY_AFTER_SHUTDOWN_SECONDS,
}


def refusal(code: str, *, allow: str | None = None, retry_after_seconds: int | None = None) -> web.Response:
    """Refuse a request as a whole; the caller knows when it may come again, or else the code says it."""
    status, message = _MESSAGES[code]
    headers = {}
    if (seconds := retry_after_seconds or _RETRY_AFTER_SECONDS.get(code)) is not None:
        headers["Retry-After"] = str(seconds)
    if allow is not None:
        headers["Allow"] = allow
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    response = _errors(status, [{"code": code, "field": None, "message": message}], headers)
    if status in (400, 401, 403, 408, 413, 415) or code == "shutting_down":
        response.force_close()  # the rest of the body is not read, or no more requests are wanted
    return response


def preflight(headers: Mapping[str, str]) -> web.Response:
    """Tell a browser what it may send."""
    return web.Response(status=204, headers=headers)


def too_slow_headers() -> bytes:
    """Return a whole response, raw, for a client whose request never began, as its headers did not end."""
    message = "the request's headers did not arrive within intake.header_timeout_seconds"
    errors = [{"code": "too_slow", "field": None, "message": message}]
    body = orjson.dumps({"success": False, "errors": errors})
    head = "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def violations(refused: Refused) -> web.Response:
    """Refuse a single event, with all that is wrong with it."""
    malformed = refused.violations[0].code == "malformed_json"
    return _errors(400 if malformed else 422, described(refused.violations))


def malformed_json(message: str) -> web.Response:
    """Refuse a body that is not JSON as a whole."""
    return _errors(400, [{"code": "malformed_json", "field": None, "message": message}])


def malformed_http(message: str) -> web.Response:
    """Refuse what is not HTTP, and close the connection, as nobody knows where the next request would begin."""
    response = _errors(400, [{"code": "malformed_http", "field": None, "message": message}])
    response.force_close()
    return response


def internal_error() -> web.Response:
    """Own up to a bug."""
    message = "the forwarder failed at this request, which was not taken; its log says more"
    response = _errors(500, [{"code": "internal_error", "field": None, "message": message}])
    response.force_close()
    return response


def accepted_one(event_id: int) -> web.Response:
    """Confirm a single event."""
    return _json(200, b'{"success":true,"id":"%d"}' % event_id)


def accepted_one_raw(event_id: int) -> bytes:
    """The same as a whole response, raw."""
    body = b'{"success":true,"id":"%d"}' % event_id
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
        len(body),
        _general_headers(),
        body,
    )


def raw(response: web.Response) -> bytes:
    """Return a whole response, raw, as aiohttp would write it."""
    body = response.body
    assert isinstance(body, bytes), "the answers here are"
    fields = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
    head = f"HTTP/1.1 {response.status} {response.reason}\r\n{fields}Content-Length: {len(body)}\r\n".encode()
    closes = b"Connection: close\r\n" if response.keep_alive is False else b""
    return b"%b%b%b\r\n%b" % (head, _general_headers(), closes, body)


def _general_headers() -> bytes:
    """Return what every response has."""
    return b"Date: %b\r\nServer: %b\r\n" % (rfc822_formatted_time().encode(), _SERVER)


def accepted_batch(accepted: Accepted, *, with_ids: bool) -> web.Response:
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


def content(answer: Mapping[str, object]) -> web.Response:
    """Show what was asked for."""
    return _json(200, orjson.dumps(answer))


@cache
def _document() -> bytes:
    return Path(__file__).with_name("openapi.yaml").read_bytes()


def document() -> web.Response:
    """Show the OpenAPI document."""
    return web.Response(body=_document(), content_type="application/yaml")


def wrong_request(message: str) -> web.Response:
    """Refuse a request that is not for an event, and is not understood."""
    return _errors(422, [{"code": "wrong_type", "field": None, "message": message}])


def text(value: str) -> str:
    """Return text that may hold lone surrogates as what JSON can carry."""
    return value.encode(errors="replace").decode()


def described(found: Sequence[Violation]) -> list[dict[str, object]]:
    """Return violations as they stand in an answer."""
    return [{"code": one.code, "field": one.field, "message": one.message} for one in found]


def _errors(
    http_status: int, errors: Sequence[Mapping[str, object]], headers: Mapping[str, str] | None = None
) -> web.Response:
    return _json(http_status, orjson.dumps({"success": False, "errors": errors}), headers)


def _json(http_status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=http_status, body=body, content_type="application/json", headers=headers)
