"""Shows each event that arrives at the sandbox, one line each, for whoever watches an app being made.

A thread reads the events and writes the lines, so that a terminal that is slow, stopped or gone never holds up the sandbox.
What waits for it is bounded in bytes; events beyond that are not shown, and counted.
"""

import os
import re
import select
import threading
from collections import deque
from datetime import UTC, datetime
from typing import Final, NamedTuple

from forwarder.growlytics import json_text
from forwarder.text import printable

MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
CLOSING_SECONDS: Final = 1.0
_ARRIVAL_BYTES: Final = 500
"""What an event takes in memory besides its body and its answer."""
_MAX_SHOWN_CHARACTERS: Final = 300
"""Of the attributes, or of a body that is no event."""
_MAX_MEMBERS: Final = 1000
"""An object with more is shown as it came."""
_TOKENS: Final = re.compile(rb'("(?:[^"\\]++|\\.)*+")|[ \t\r\n]+', re.DOTALL)
"""Strings, and the white space between values."""
_PLAIN: Final = re.compile(r"[^\W\d_](?:[^\s\"]| (?! ))*(?<! )")
"""Begins with a letter, and has no spaces at its end nor two in a row."""


class Arrival(NamedTuple):
    """One request for an event, and how it was answered."""

    at: float
    """Seconds since 1970."""
    status: str
    """That of the answer, or what was done in its place."""
    body: bytes
    """As far as it was read."""
    answer: bytes
    """The body of the answer."""

    @property
    def size_bytes(self) -> int:
        """About how much memory it takes."""
        return _ARRIVAL_BYTES + len(self.body) + len(self.answer)


class EventPrinter:
    """Writes to a descriptor, such as that of standard output, until `close` or until its reader has left."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waiting: deque[Arrival] = deque()
        self._bytes = 0
        self._lost = 0
        self._ends = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="event printer", daemon=True)
        self._thread.start()

    def show(self, arrival: Arrival) -> None:
        """Show it soon. Never waits."""
        with self._change:
            if self._ends:
                return
            if self._bytes + arrival.size_bytes > MAX_WAITING_BYTES:
                self._lost += 1
                return
            self._waiting.append(arrival)
            self._bytes += arrival.size_bytes
            self._change.notify()

    def close(self) -> None:
        """Write what waits, for a moment; the rest is not shown. May be called again."""
        with self._change:
            self._ends = True
            self._change.notify()
        self._thread.join(CLOSING_SECONDS)

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._write(taken if isinstance(taken, str) else described(taken))
        except OSError:  # its reader has left
            with self._change:
                self._ends = True
                self._waiting.clear()

    def _take(self) -> Arrival | str | None:
        """Wait for what is to be written next, an event or a line; None at the end."""
        with self._change:
            while not (self._waiting or self._lost or self._ends):
                self._change.wait()
            if self._waiting:
                arrival = self._waiting.popleft()
                self._bytes -= arrival.size_bytes
                return arrival
            if self._lost:
                lost, self._lost = self._lost, 0
                return f"... {lost} more, not shown: the output was not read in time"
            return None

    def _write(self, line: str) -> None:
        rest = line.encode() + b"\n"
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the file made it non-blocking
                select.select([], [self._descriptor], [])


def described(arrival: Arrival) -> str:
    """Return an arrival as a line: its time, the status, customer, name, attributes, and what was wrong."""
    parts = [f"{datetime.fromtimestamp(arrival.at, UTC):%H:%M:%S.%f}"[:-3] + "Z", arrival.status, *_event(arrival.body)]
    if wrong := _errors(arrival.answer):
        parts.append(f"({wrong})")
    return "  ".join(parts)


def _event(body: bytes) -> list[str]:
    """Return customer, name and attributes as far as a body has them; else the body."""
    try:
        is_object = isinstance(json_text.parse(body), dict)
        members = json_text.members(body, most=_MAX_MEMBERS) if is_object else None
    except (json_text.MalformedJsonError, json_text.TooDeepError):
        members = None
    if members is None:
        return [_shown(body)] if body else []
    customer, name = (_column(members.get(each, b"null")) for each in ("customerId", "name"))
    return [customer, name, _shown(_compact(members["attributes"]))] if "attributes" in members else [customer, name]


def _column(raw: bytes) -> str:
    """Return a value; a text without its quotes, unless it is empty or could be read as two columns or another type."""
    value = json_text.parse(raw)
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return printable(value)
    return _shown(_compact(raw))


def _shown(raw: bytes) -> str:
    return printable(raw[: 4 * _MAX_SHOWN_CHARACTERS].decode(errors="replace"), _MAX_SHOWN_CHARACTERS)


def _compact(raw: bytes) -> bytes:
    """Return JSON without the white space between its values."""
    return _TOKENS.sub(lambda found: found[1] or b"", raw)


def _errors(answer: bytes) -> str:
    """Return what an answer says is wrong: each code with its field."""
    try:
        content = json_text.parse(answer)
    except json_text.MalformedJsonError:
        return ""
    errors = content.get("errors", []) if isinstance(content, dict) else []
    found = [f"{one['code']}: {one['field']}" if one.get("field") else str(one["code"]) for one in errors]
    return printable(", ".join(found), _MAX_SHOWN_CHARACTERS)
