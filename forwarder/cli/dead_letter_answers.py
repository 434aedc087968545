"""What a daemon answers about dead letters, checked and read: text in, values out. Pure; used by `dead-letters` only.

Each event is cut out of the answer as the bytes that came, so that its numbers keep every digit.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from forwarder.cli.daemon import DaemonAnswer, described_errors

END_OF_TIME_SECONDS: Final = 253402300800
"""The year 10000, which no calendar shows."""

_WHITESPACE: Final = b" \t\n\r"
_MEMBER_NAME: Final = re.compile(rb'("(?:[^"\\]++|\\.)*+")[ \t\n\r]*:[ \t\n\r]*')
_BREAKS: Final = bytes.maketrans(b"\t\n\r", b"   ")
_Value = TypeVar("_Value")


class StrangeAnswerError(Exception):
    """It is not what a forwarder answers."""


@dataclass(frozen=True)
class Payload:
    """What is only told to those who may see it. All of it was written by strangers."""

    customer: str
    answer: str | None
    """The beginning of what Growlytics answered; None if it never did."""
    event: bytes
    """The JSON object that the app sent, as it was."""


@dataclass(frozen=True)
class DeadLetterShown:
    """An event that is kept because it cannot be delivered. Times are in seconds since 1970."""

    id: str
    """Decimal digits."""
    name: str
    """Text from strangers."""
    reason: str
    status: int | None
    attempts: int
    accepted_at: float
    first_attempt_at: float | None
    last_attempt_at: float | None
    size_bytes: int
    payload: Payload | None


class DeadLetterPage(NamedTuple):
    """Some dead letters, the oldest first."""

    letters: Sequence[DeadLetterShown]
    next: str | None
    """The cursor behind the last one; None at the end."""
    held: int
    """How many there are in all, whatever the reason."""


class Decided(NamedTuple):
    """What became of the dead letters that a request named, each of which is counted once."""

    done: int
    refusals: Sequence[tuple[str, Sequence[str]]]
    """The id and the errors of each that stays."""
    missing: Sequence[str]
    """They are no longer dead letters."""


def is_id(text: str) -> bool:
    """Tell whether it can be the id of a dead letter, or a cursor."""
    return re.fullmatch(r"[0-9]{1,40}", text) is not None


def read_page(answer: DaemonAnswer, *, payload: bool) -> DeadLetterPage:
    """Read a page of dead letters. Raises StrangeAnswerError."""
    letters = answer.content.get("dead_letters")
    if not isinstance(letters, list) or answer.text is None:
        raise StrangeAnswerError
    raw = _elements(members(answer.text)["dead_letters"]) if payload else [None] * len(letters)
    read = [_letter(each, raw_each) for each, raw_each in zip(letters, raw, strict=True)]
    cursor = answer.content.get("next")
    return DeadLetterPage(read, None if cursor is None else _id(cursor), _count(answer.content.get("events")))


def read_letter(answer: DaemonAnswer) -> DeadLetterShown:
    """Read one dead letter with its payload. Raises StrangeAnswerError."""
    if not answer.content or answer.text is None:
        raise StrangeAnswerError
    return _letter(answer.content, answer.text)


def read_replay(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of the replay of these. Raises StrangeAnswerError."""
    replayed = [_id(each.get("id")) for each in _objects(answer.content.get("replayed"))]
    refusals = [(_id(each.get("id")), described_errors(each)) for each in _objects(answer.content.get("refused"))]
    missing = _ids(answer.content.get("missing"))
    if sorted([*replayed, *(each for each, _ in refusals), *missing]) != sorted(ids):
        raise StrangeAnswerError
    return Decided(len(replayed), refusals, missing)


def read_purge(answer: DaemonAnswer, ids: Collection[str]) -> Decided:
    """Read what became of the purge of these. Raises StrangeAnswerError."""
    purged, missing = _count(answer.content.get("purged")), _ids(answer.content.get("missing"))
    if len(set(missing) & set(ids)) != len(missing) or purged + len(missing) != len(ids):
        raise StrangeAnswerError
    return Decided(purged, [], missing)


def members(text: bytes) -> dict[str, bytes]:
    """Return the raw bytes of each member of `text`, a JSON object that `json_text.parse` accepted.

    If a name is there twice, the last one counts, as it does for `parse`.
    """
    found = {}
    for member in _elements(b"[%b]" % text.strip(_WHITESPACE)[1:-1]):
        name = _MEMBER_NAME.match(member)
        assert name is not None, "the object was parsed before"
        found[json.loads(name[1])] = member[name.end() :]
    return found


def on_one_line(event: bytes) -> bytes:
    """Return JSON without raw line breaks and tabs, which can only be between its values: strings hold none."""
    return event.translate(_BREAKS)


def fit_to_show(event: bytes) -> str:
    """Return JSON of the same value that cannot play with a terminal."""
    text = on_one_line(event).decode()
    # Whatever is not printable is inside a string now, where JSON has an escape for it.
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _elements(array: bytes) -> list[bytes]:
    from forwarder.growlytics import json_text

    return list(json_text.elements(array))


def _letter(content: object, raw: bytes | None) -> DeadLetterShown:
    if not isinstance(content, dict):
        raise StrangeAnswerError
    return DeadLetterShown(
        id=_id(content.get("id")),
        name=_exactly(str, content.get("name")),
        reason=_exactly(str, content.get("reason")),
        status=None if content.get("status") is None else _count(content.get("status")),
        attempts=_count(content.get("attempts")),
        accepted_at=_time(content.get("accepted_at")),
        first_attempt_at=_time_or_none(content.get("first_attempt_at")),
        last_attempt_at=_time_or_none(content.get("last_attempt_at")),
        size_bytes=_count(content.get("size_bytes")),
        payload=None if raw is None else _payload(content, raw),
    )


def _payload(content: Mapping[str, object], raw: bytes) -> Payload:
    if not isinstance(content.get("event"), dict):
        raise StrangeAnswerError
    answer = content.get("answer")
    return Payload(
        customer=_exactly(str, content.get("customer")),
        answer=None if answer is None else _exactly(str, answer),
        event=members(raw)["event"],
    )


def _exactly(kind: type[_Value], value: object) -> _Value:
    # Not isinstance: True is an int.
    if type(value) is not kind:
        raise StrangeAnswerError
    return value


def _id(value: object) -> str:
    text = _exactly(str, value)
    if not is_id(text):
        raise StrangeAnswerError
    return text


def _ids(value: object) -> list[str]:
    return [_id(each) for each in _exactly(list, value)]


def _objects(value: object) -> list[dict[str, object]]:
    return [_exactly(dict, each) for each in _exactly(list, value)]


def _count(value: object) -> int:
    number = _exactly(int, value)
    if number < 0:
        raise StrangeAnswerError
    return number


def _time(value: object) -> float:
    seconds = value if type(value) is int else _exactly(float, value)
    if not 0 <= seconds < END_OF_TIME_SECONDS:
        raise StrangeAnswerError
    return seconds


def _time_or_none(value: object) -> float | None:
    return None if value is None else _time(value)
