"""The lines that `tap` shows: read from the daemon's answers, and written for people or for programs. Pure.

Names, values and answers are strangers' text. For people all that is not printable is escaped, and each name has the same
width on the terminal, whatever its letters are.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from unicodedata import combining, east_asian_width

import msgspec

from forwarder.cli.daemon import DaemonAnswer
from forwarder.cli.dead_letter_requests import fit_to_show, on_one_line
from forwarder.growlytics import json_text
from forwarder.text import printable

NAME_COLUMNS: Final = 24
_MAX_MEMBERS: Final = 50
"""Of an answer or a line."""
_MAX_ANSWER_CHARACTERS: Final = 2048
_MAX_CUSTOMER_CHARACTERS: Final = 500
_WIDE: Final = frozenset("WF")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class _Failed(msgspec.Struct):
    error: str
    host: str | None = None


class TapLine(msgspec.Struct):
    """What happened to one event."""

    at: float
    """Seconds since 1970."""
    id: str
    name: str
    age_seconds: float
    outcome: str
    kind: str = "event"
    intake: str | None = None
    reason: str | None = None
    attempt: int | None = None
    attempt_seconds: float | None = None
    failure: _Failed | None = None
    customer: str | None = None
    event_bytes: int | None = None
    answer: str | None = None


class TapRead(NamedTuple):
    """One answer of the daemon to a read."""

    lines: Sequence[TapLine]
    raw: Sequence[bytes]
    """The JSON of each line."""
    lost: int
    ended: str | None
    """Why there are no more lines; None while there may be."""


class _Content(msgspec.Struct):
    lines: list[TapLine]
    lost: int
    ended: str | None


def read(answer: DaemonAnswer) -> TapRead:
    """Read an answer. Raise msgspec.ValidationError if it is none to a read of a tap."""
    content = msgspec.convert(answer.content, _Content)
    raw = [*json_text.elements(_members(answer.text)["lines"])]
    return TapRead(content.lines, raw, content.lost, content.ended)


HEADINGS: Final = f"{'TIME (UTC)':<13} {'ID':<16} {'NAME':<{NAME_COLUMNS}} {'AGE':>8} {'OUTCOME':<11} CAUSE"


def for_people(line: TapLine, raw: bytes) -> Iterator[str]:
    """Yield a line in columns, and then its values if it has them."""
    # An id from this machine's clock, as all are by default, has 16 digits for the next two hundred years.
    yield (
        f"{_time(line.at)} {printable(line.id):<16} {_fitted(line.name)} {_age(line.age_seconds):>8} "
        f"{printable(line.outcome):<11} {_cause(line)}"
    ).rstrip()
    if line.customer is not None:
        yield f"    customer: {printable(line.customer, _MAX_CUSTOMER_CHARACTERS)}"
        if line.event_bytes is not None:
            yield f"    event:    {line.event_bytes} bytes, too many to show"
        elif (event := _members(raw).get("event")) is not None:
            yield f"    event:    {fit_to_show(event)}"
    if line.answer is not None:
        yield f"    answer:   {printable(line.answer, _MAX_ANSWER_CHARACTERS)}"


def for_programs(raw: bytes, *, on_terminal: bool) -> bytes:
    """Return the JSON of a line on one line, as the daemon wrote it; on a terminal, safe to show."""
    return fit_to_show(raw).encode() if on_terminal else on_one_line(raw)


def _members(text: bytes | None) -> dict[str, bytes]:
    if text is None or (found := json_text.members(text, most=_MAX_MEMBERS)) is None:
        raise msgspec.ValidationError("an object has too many members")
    return found


def _time(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3] + "Z"
    except (ValueError, OverflowError, OSError):
        return "?"


def _age(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.2f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h" if seconds < _DAY else f"{seconds / _DAY:.1f} d"


def _cause(line: TapLine) -> str:
    parts = []
    if line.failure is not None:
        host = f" ({printable(line.failure.host)})" if line.failure.host else ""
        parts.append(f"{printable(line.failure.error, 200)}{host}")
    if line.attempt_seconds is not None:
        number = f"attempt {line.attempt}, " if line.attempt != 1 else ""
        parts.append(f"{number}{line.attempt_seconds * 1000:.0f} ms")
    if line.reason is not None:
        is_retried = line.attempt is not None
        parts.append(f"will be tried again ({printable(line.reason)})" if is_retried else printable(line.reason))
    if line.intake is not None:
        parts.append(f"from {printable(line.intake)}")
    if line.kind != "event":
        parts.append(f"a {printable(line.kind)}")
    return "; ".join(parts)


def _fitted(name: str) -> str:
    """Return a name, escaped, with as many columns on a terminal as every other name: cut, or with spaces."""
    shown, left = "", NAME_COLUMNS
    text = printable(name)
    for position, character in enumerate(text):
        columns = _columns(character)
        is_last = position == len(text) - 1
        if columns > left or (left - columns < 1 and not is_last):
            return f"{shown}…{' ' * (left - 1)}"
        shown += character
        left -= columns
    return shown + " " * left


def _columns(character: str) -> int:
    if combining(character):
        return 0
    return 2 if east_asian_width(character) in _WIDE else 1
