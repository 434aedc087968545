"""Posts events to the growlytics-forwarder beside this app. Copy this file into your app: it needs only Python 3.8 or newer.

    forwarder = Forwarder()  # or Forwarder("unix:/run/growlytics-forwarder/intake.sock")
    result = forwarder.track("Add To Cart", customer_id="c-1", attributes={"Quantity": 3})
    if not result.ok:
        logging.warning("event not tracked: %s", result.error)

A call ends within `timeout_seconds`, whatever the other side does. Until then it tries again where that may help: if there
is no connection, if it breaks, and after 429 and 503, when these ask to wait no longer. All attempts carry the same
Idempotency-Key, so the event counts once. A call does not raise, whatever it is given; with `raise_errors=True` it raises
`ForwarderError` alone.

A Forwarder keeps no connection, starts no thread and never changes, so threads and forked processes may share one. A call
blocks: in asyncio, use `await asyncio.to_thread(forwarder.track, ...)`. How long the system takes to look up a host is not
bounded; an address or a socket needs no lookup.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import time
import uuid
from dataclasses import dataclass
from typing import Any, List, Mapping, Tuple
from urllib.parse import urlsplit

__all__ = ["Forwarder", "ForwarderError", "Result"]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_MAX_TIMEOUT_SECONDS = 3600.0
_MAX_ANSWER_BYTES = 65536
_MAX_UNIX_PATH_BYTES = 107
_MAX_ERROR_LENGTH = 300


@dataclass(frozen=True)
class Result:
    """What became of one event."""

    ok: bool
    """Whether the forwarder has the event, which it then delivers."""
    id: str
    """The event's id in the forwarder, for GET /v1/events/{id}; empty if it is not ok."""
    status: int | None
    """The status of the last answer; None if there was none."""
    error: str
    """Why it is not ok; else empty."""
    retry_later: bool
    """Whether posting it again may help. Use the same `idempotency_key`, as the forwarder may have it already."""
    attempts: int
    idempotency_key: str


class ForwarderError(Exception):
    """An event was not tracked, and the caller asked to hear of it so."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.error)
        self.result = result


class Forwarder:
    """Where the forwarder is, and how long a call may take."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8920",
        *,
        timeout_seconds: float = 2.0,
        token: str | None = None,
        raise_errors: bool = False,
    ) -> None:
        """`address` is http://HOST:PORT or unix:PATH, `token` the forwarder's intake.token, if it has one."""
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._token = token
        self._raise_errors = raise_errors

    def track(
        self,
        name: str,
        customer_id: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        time_ms: int | None = None,
        idempotency_key: str | None = None,
    ) -> Result:
        """Post an event. `time_ms` is when it happened, in milliseconds since 1970: now, unless given."""
        event = {
            "name": name,
            "customerId": customer_id,
            "time": int(time.time() * 1000) if time_ms is None else time_ms,
            "attributes": {} if attributes is None else attributes,
        }
        return self.post(event, idempotency_key=idempotency_key)

    def post(self, event: Mapping[str, Any], *, idempotency_key: str | None = None) -> Result:
        """Post an event as it is. A key of the app's own makes it safe to post the same event in another call."""
        key = str(uuid.uuid4()) if idempotency_key is None else idempotency_key
        try:
            result = self._post(event, key)
        except Exception as error:  # noqa: BLE001 - an app must not fail for its events, whatever it was that failed
            result = Result(
                ok=False, id="", status=None, error=_text(error), retry_later=False, attempts=0, idempotency_key=key
            )
        if self._raise_errors and not result.ok:
            raise ForwarderError(result)
        return result

    def _post(self, event: Mapping[str, Any], key: str) -> Result:
        deadline = _Deadline(self._timeout_seconds)
        target = _Target(self._address)
        body = json.dumps(event, allow_nan=False, separators=(",", ":")).encode("ascii")
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Connection": "close"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            # http.client says so, too, but quotes the token.
            raise ValueError("the token and the idempotency key must be printable ASCII")
        attempts, pause = 0, _FIRST_PAUSE_SECONDS
        while True:
            attempts += 1
            found = _attempt(target, body, headers, deadline)
            # Half of it is chance, so that many apps do not come back at the same moment.
            wait = max(found.wait_seconds, pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            if found.again and wait < deadline.left():
                time.sleep(wait)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                if deadline.left() > 0:
                    continue
            return Result(
                ok=found.ok,
                id=found.id,
                status=found.status,
                error=found.error[:_MAX_ERROR_LENGTH],
                retry_later=found.again,
                attempts=attempts,
                idempotency_key=key,
            )


@dataclass(frozen=True)
class _Attempt:
    """What one attempt came to."""

    ok: bool = False
    id: str = ""
    status: int | None = None
    error: str = ""
    again: bool = False
    wait_seconds: float = 0.0


def _attempt(target: _Target, body: bytes, headers: Mapping[str, str], deadline: _Deadline) -> _Attempt:
    connection = _Connection(target, deadline)
    try:
        try:
            connection.request("POST", "/track/event", body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            if connection.sock is None:
                raise
            # It may have answered before it had read all, as with 413.
        response = connection.getresponse()
        answer = response.read(_MAX_ANSWER_BYTES)
        # http.client takes headers that end too early for all of them: then there is no length, and nothing follows.
        is_cut = not answer if response.length is None else response.length > 0
        if is_cut and len(answer) < _MAX_ANSWER_BYTES:
            raise http.client.IncompleteRead(answer)
        return _judge(response.status, response.getheader("Retry-After", ""), answer)
    except OSError as error:
        if isinstance(error, socket.timeout):
            return _Attempt(error="no answer in time", again=True)
        return _Attempt(error=f"the connection failed: {_text(error)}", again=_may_pass(error))
    except http.client.HTTPException as error:
        if isinstance(error, http.client.IncompleteRead) or _is_cut(error):
            return _Attempt(error="the connection ended within the answer", again=True)
        return _Attempt(error="the answer is not HTTP: something else is at this address")
    finally:
        connection.close()


def _judge(status: int, retry_after: str, answer: bytes) -> _Attempt:
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        said = {}
    if status == http.client.OK:
        if said.get("success") is True:
            return _Attempt(ok=True, id=str(said.get("id", "")), status=status)
        return _Attempt(error="answered 200, but not as the forwarder does", status=status)
    errors = said.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    error = f"answered {status}: {first.get('message') or http.client.responses.get(status, 'unknown')}"
    again = status in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
    is_seconds = again and len(retry_after) < 10 and retry_after.isascii() and retry_after.isdigit()
    return _Attempt(error=error, status=status, again=again, wait_seconds=float(retry_after) if is_seconds else 0.0)


def _is_cut(error: http.client.HTTPException) -> bool:
    """Return whether there was only the beginning of a status line."""
    line = str(error.args[0]) if isinstance(error, http.client.BadStatusLine) else "\n"
    return line.startswith("HTTP/1.1 "[: len(line)]) and not line.endswith("\n")


def _may_pass(error: OSError) -> bool:
    """Return whether it may be otherwise in a moment, as when the forwarder is started anew."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    return not isinstance(error, PermissionError)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_MAX_ERROR_LENGTH]


class _Deadline:
    """The end of a call."""

    def __init__(self, seconds: float) -> None:
        if not 0 < seconds <= _MAX_TIMEOUT_SECONDS:
            raise ValueError(f"timeout_seconds must be above 0 and at most {_MAX_TIMEOUT_SECONDS:.0f}")
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def bound(self, connection: socket.socket, *, parts: int = 1) -> None:
        """Have the next operation of a socket end in time, if `parts` of them are to."""
        left = self.left()
        if left <= 0:
            raise socket.timeout("timed out")
        connection.settimeout(left / parts)


class _Target:
    """An address, taken apart."""

    def __init__(self, address: str) -> None:
        self.path, self.host, self.port = "", "localhost", 80
        if address.startswith("unix:"):
            self.path = address[len("unix:") :]
            if not self.path:
                raise ValueError("the address unix: lacks the path of the socket")
            if len(os.fsencode(self.path)) > _MAX_UNIX_PATH_BYTES:
                raise ValueError(f"the socket's path has more than {_MAX_UNIX_PATH_BYTES} bytes, which no system takes")
            return
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/", "/track/event"):
            raise ValueError("the address must be http://HOST:PORT or unix:PATH")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("the address must be http://HOST:PORT alone; give a token as token=")
        self.host, self.port = parts.hostname, parts.port or 80

    def candidates(self) -> List[Tuple[int, Any]]:
        """Return the addresses to try, each with its family."""
        if self.path:
            return [(socket.AF_UNIX, self.path)]
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]


class _Connection(http.client.HTTPConnection):
    """One request and its answer, over TCP or a Unix socket, until a deadline."""

    def __init__(self, target: _Target, deadline: _Deadline) -> None:
        super().__init__(target.host, target.port)
        self._target = target
        self._deadline = deadline

    def connect(self) -> None:
        candidates = self._target.candidates()
        failure: OSError | None = None
        for number, (family, address) in enumerate(candidates):
            connection = _Socket(family, socket.SOCK_STREAM)
            connection.deadline = self._deadline
            try:
                self._deadline.bound(connection, parts=len(candidates) - number)
                connection.connect(address)
                if not self._target.path:
                    # Else the body waits for the other side to confirm the headers.
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                self.sock = connection
                return
        raise failure or ConnectionError("the host has no address")


class _Socket(socket.socket):
    """A socket whose sends and reads together end by a deadline: the timeout of a socket is for each of them anew."""

    deadline: _Deadline

    def sendall(self, data: Any, flags: int = 0) -> None:
        self.deadline.bound(self)
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.deadline.bound(self)
        return super().recv_into(buffer, nbytes, flags)
