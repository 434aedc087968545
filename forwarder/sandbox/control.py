"""The sandbox's control endpoints, below `/_sandbox/`: read what was stored and counted, change faults and key.

Pure but for the sandbox that they act upon: a request's parts in, an `Answer` out. Faults and the key check never apply to
them. Every answer is JSON. Only the sandbox imports this module.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import orjson

from forwarder.growlytics import json_text
from forwarder.sandbox.faults import Faults, as_json, merged
from forwarder.sandbox.store import Store

PREFIX: Final = "/_sandbox/"

_DEFAULT_EVENTS_LIMIT: Final = 1000


class Controlled(Protocol):
    """The sandbox, as far as the control endpoints know it."""

    key: str

    @property
    def faults(self) -> Faults: ...
    @faults.setter
    def faults(self, faults: Faults) -> None: ...
    @property
    def start_faults(self) -> Faults: ...
    @property
    def store(self) -> Store: ...

    def counters(self) -> dict[str, int]: ...
    def forget(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """One control request."""

    method: str
    path: str
    """Starts with `PREFIX`."""
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """A status, a JSON body, and headers besides those that every answer has."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def error(status: int, code: str, message: str, *, field: str | None = None, allow: str | None = None) -> ControlAnswer:
    """Return an answer with one error; `allow` names the methods of the path where the method is what is wrong."""
    return errors(status, [{"code": code, "field": field, "message": message}], allow=allow)


def errors(status: int, described: list[dict[str, Any]], *, allow: str | None = None) -> ControlAnswer:
    """Return an answer with errors, each of them `{"code", "field", "message"}`."""
    headers = {} if allow is None else {"Allow": allow}
    return ControlAnswer(status, encoded({"success": False, "errors": described}), headers)


def encoded(value: object) -> bytes:
    """Return `value` as JSON."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate or an integer beyond 64 bits, which the standard library takes
        return json.dumps(value).encode()


def answer(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    """Carry out one control request."""
    endpoints = {endpoint.method: endpoint for endpoint in _ENDPOINTS if endpoint.path == request.path}
    if not endpoints:
        return error(404, "not_found", f"there is no such control endpoint: GET {PREFIX} lists them")
    if request.method not in endpoints:
        allow = ", ".join(endpoints)
        return error(405, "method_not_allowed", f"this path takes {allow}", allow=allow)
    return endpoints[request.method].carry_out(sandbox, request)


def _list_endpoints(_sandbox: Controlled, _request: ControlRequest) -> ControlAnswer:
    lines = [f"{each.method} {each.path}{each.parameters}: {each.purpose}" for each in _ENDPOINTS]
    return ControlAnswer(200, encoded({"endpoints": lines}))


def _events(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    try:
        offset, limit = _page(request, default_limit=_DEFAULT_EVENTS_LIMIT)
    except ValueError as wrong:
        return error(400, "invalid_parameter", str(wrong))
    stored = sandbox.store.events(offset, limit)
    return ControlAnswer(200, encoded({"events": [event.as_json() for event in stored]}))


def _raw(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    try:
        offset, limit = _page(request, default_limit=None)
    except ValueError as wrong:
        return error(400, "invalid_parameter", str(wrong))
    return ControlAnswer(200, encoded(sandbox.store.raw_texts(offset, limit)))


def _counters(sandbox: Controlled, _request: ControlRequest) -> ControlAnswer:
    return ControlAnswer(200, encoded(sandbox.counters()))


def _forget(sandbox: Controlled, _request: ControlRequest) -> ControlAnswer:
    sandbox.forget()
    return ControlAnswer(200, encoded({"success": True}))


def _faults(sandbox: Controlled, _request: ControlRequest) -> ControlAnswer:
    return ControlAnswer(200, encoded(as_json(sandbox.faults)))


def _change_faults(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    try:
        changes = _object(request)
    except json_text.MalformedJsonError as wrong:
        return error(400, "malformed_json", str(wrong))
    match merged(sandbox.faults, changes):
        case Faults() as faults:
            sandbox.faults = faults
            return _faults(sandbox, request)
        case invalid:
            return errors(400, [each._asdict() for each in invalid])


def _reset_faults(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    sandbox.faults = sandbox.start_faults
    return _faults(sandbox, request)


def _change_key(sandbox: Controlled, request: ControlRequest) -> ControlAnswer:
    try:
        key = _object(request).get("key")
    except json_text.MalformedJsonError as wrong:
        return error(400, "malformed_json", str(wrong))
    if type(key) is not str or not key:
        return error(400, "invalid_key", "key must be a string, and not empty", field="key")
    sandbox.key = key
    return ControlAnswer(200, encoded({"success": True}))


def _page(request: ControlRequest, *, default_limit: int | None) -> tuple[int, int | None]:
    offset, limit = _count(request, "offset"), _count(request, "limit")
    return offset or 0, default_limit if limit is None else limit


def _count(request: ControlRequest, name: str) -> int | None:
    if (text := request.query.get(name)) is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{name} must be a whole number, 0 or more")
    return int(text)


def _object(request: ControlRequest) -> dict[str, object]:
    value = json_text.parse(request.body)
    if type(value) is not dict:
        raise json_text.MalformedJsonError("the body must be a JSON object")
    return value


@dataclass(frozen=True, slots=True)
class _Endpoint:
    method: str
    path: str
    carry_out: Callable[[Controlled, ControlRequest], ControlAnswer]
    purpose: str
    parameters: str = ""


_ENDPOINTS: Final = (
    _Endpoint("GET", PREFIX, _list_endpoints, "this list"),
    _Endpoint(
        "GET",
        PREFIX + "events",
        _events,
        f"what was stored, {_DEFAULT_EVENTS_LIMIT} events by default: the body as it came, the attributes kept, "
        "the names of those dropped",
        "?offset=&limit=",
    ),
    _Endpoint("DELETE", PREFIX + "events", _forget, "forget events, attribute types and counters"),
    _Endpoint(
        "GET",
        PREFIX + "raw",
        _raw,
        "the bodies alone, all by default: an array of strings, so that a body may hold line breaks",
        "?offset=&limit=",
    ),
    _Endpoint("GET", PREFIX + "counters", _counters, "what happened to the requests"),
    _Endpoint("GET", PREFIX + "faults", _faults, "the faults in force"),
    _Endpoint("PATCH", PREFIX + "faults", _change_faults, "change some of them, an object of names and values"),
    _Endpoint("DELETE", PREFIX + "faults", _reset_faults, "back to the faults the sandbox was started with"),
    _Endpoint("PUT", PREFIX + "key", _change_key, 'change the key that events need: {"key": "..."}'),
)
