"""The sandbox's control endpoints, below `/_sandbox/`: read what was stored and counted, change faults and key.

They do no I/O: a request's parts come in, a `SandboxAnswer` goes out. Faults and the key check never apply to them. Every
answer is JSON. Only the sandbox imports this module.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from forwarder.growlytics import json_text
from forwarder.sandbox.faults import Faults, as_json, merged

if TYPE_CHECKING:
    from forwarder.sandbox.server import Sandbox

PREFIX: Final = "/_sandbox/"

_DEFAULT_EVENTS_LIMIT: Final = 1000


class ControlRequest(NamedTuple):
    """One control request."""

    method: str
    path: str
    """Starts with `PREFIX`."""
    query: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class SandboxAnswer:
    """A status, a JSON body, and headers besides those that every answer has."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class _InvalidError(Exception):
    """A control request asks for something impossible; has the errors that its answer lists."""

    def __init__(self, *described: dict[str, Any]) -> None:
        super().__init__()
        self.described = described


def error(status: int, code: str, message: str, *, allow: str | None = None) -> SandboxAnswer:
    """Return an answer with one error; a 405 names the methods that the path allows."""
    answered = errors(status, _described(code, message))
    return answered if allow is None else SandboxAnswer(status, answered.body, {"Allow": allow})


def errors(status: int, *described: Mapping[str, Any]) -> SandboxAnswer:
    """Return an answer with errors, each of them `{"code", "field", "message"}`."""
    return SandboxAnswer(status, _encoded({"success": False, "errors": described}))


def answer(sandbox: "Sandbox", request: ControlRequest) -> SandboxAnswer:
    """Carry out one control request."""
    methods = [method for method, path in _ENDPOINTS if path == request.path]
    if not methods:
        return error(404, "not_found", f"there is no such control endpoint; GET {PREFIX} lists them")
    if request.method not in methods:
        allow = ", ".join(methods)
        return error(405, "method_not_allowed", f"this path allows {allow}", allow=allow)
    carry_out, _ = _ENDPOINTS[request.method, request.path]
    try:
        return SandboxAnswer(200, _encoded(carry_out(sandbox, request)))
    except _InvalidError as invalid:
        return errors(400, *invalid.described)
    except json_text.MalformedJsonError as malformed:
        return error(400, "malformed_json", str(malformed))


def _described(code: str, message: str, field: str | None = None) -> dict[str, Any]:
    return {"code": code, "field": field, "message": message}


def _encoded(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # a lone surrogate or an integer beyond 64 bits, which the standard library encodes
        return json.dumps(value).encode()


def _list_endpoints(_sandbox: "Sandbox", _request: ControlRequest) -> object:
    return {"endpoints": [f"{method} {path}{purpose}" for (method, path), (_, purpose) in _ENDPOINTS.items()]}


def _events(sandbox: "Sandbox", request: ControlRequest) -> object:
    limit = _count(request, "limit", _DEFAULT_EVENTS_LIMIT)
    return {"events": [event.as_json() for event in sandbox.store.events(_count(request, "offset", 0) or 0, limit)]}


def _raw(sandbox: "Sandbox", request: ControlRequest) -> object:
    return sandbox.store.raw_texts(_count(request, "offset", 0) or 0, _count(request, "limit", None))


def _counters(sandbox: "Sandbox", _request: ControlRequest) -> object:
    return sandbox.counters()


def _forget(sandbox: "Sandbox", _request: ControlRequest) -> object:
    sandbox.forget()
    return {"success": True}


def _faults(sandbox: "Sandbox", _request: ControlRequest) -> object:
    return as_json(sandbox.faults)


def _change_faults(sandbox: "Sandbox", request: ControlRequest) -> object:
    changed = merged(sandbox.faults, _object(request))
    if not isinstance(changed, Faults):
        raise _InvalidError(*(each._asdict() for each in changed))
    sandbox.faults = changed
    return as_json(changed)


def _reset_faults(sandbox: "Sandbox", _request: ControlRequest) -> object:
    sandbox.faults = sandbox.start_faults
    return as_json(sandbox.faults)


def _change_key(sandbox: "Sandbox", request: ControlRequest) -> object:
    key = _object(request).get("key")
    if type(key) is not str or not key:
        raise _InvalidError(_described("invalid_key", "key must be a string that is not empty", "key"))
    sandbox.key = key
    return {"success": True}


def _count(request: ControlRequest, name: str, default: int | None) -> int | None:
    if (text := request.query.get(name)) is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _InvalidError(_described("invalid_parameter", f"{name} must be a whole number, 0 or more"))
    return int(text)


def _object(request: ControlRequest) -> dict[str, object]:
    value = json_text.parse(request.body)
    if type(value) is not dict:
        raise json_text.MalformedJsonError("the body must be a JSON object")
    return value


_ENDPOINTS: Final[Mapping[tuple[str, str], tuple[Callable[["Sandbox", ControlRequest], object], str]]] = {
    ("GET", PREFIX): (_list_endpoints, ": this list"),
    ("GET", PREFIX + "events"): (
        _events,
        f"?offset=&limit=: the events stored, {_DEFAULT_EVENTS_LIMIT} by default, with what rule 5 kept and dropped",
    ),
    ("DELETE", PREFIX + "events"): (_forget, ": forget events, attribute types and counters"),
    ("GET", PREFIX + "raw"): (
        _raw,
        "?offset=&limit=: the bodies alone, all by default: an array of strings, as a body may hold line breaks",
    ),
    ("GET", PREFIX + "counters"): (_counters, ": what happened to the requests"),
    ("GET", PREFIX + "faults"): (_faults, ": the faults in force"),
    ("PATCH", PREFIX + "faults"): (_change_faults, ": change some faults, with an object of names and values"),
    ("DELETE", PREFIX + "faults"): (_reset_faults, ": return to the faults that the sandbox was started with"),
    ("PUT", PREFIX + "key"): (_change_key, ': change the key that events need: {"key": "..."}'),
}
"""By method and path: what carries a request out, and its parameters and purpose for the list. A result becomes JSON."""
