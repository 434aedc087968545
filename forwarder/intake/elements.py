"""Splits what an app posted into elements, and checks each against the contract. Pure except for the clock.

An element is an event, or an event in a wrapper that carries the app's own key: `{"idempotency_key":"…","event":{…}}`. The
bytes of the event stay as they came, unless `contract.fill_missing_time` adds a missing time.

An element is read when the caller asks for it, and nothing is kept of those before. A byte order mark before a body or a
line is ignored.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from forwarder.event import Clock
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused, Violation, check
from forwarder.growlytics.json_text import JsonArray, MalformedJsonError, is_array
from forwarder.intake.duplicates import Key, key_of
from forwarder.settings import ContractSettings

Element = tuple[bytes, Conforming | Refused, Key | None]
"""The bytes of one event, the result of its check, and the app's own key if there is one."""

_WRAPPED: Final = {"idempotency_key", "event"}
_EMPTY_KEY: Final = Refused((Violation("empty", "idempotency_key", "the app's own key must not be empty"),))
_KEY_OF_ANOTHER_TYPE: Final = Refused((Violation("wrong_type", "idempotency_key", "idempotency_key must be a string"),))


@dataclass(frozen=True, slots=True)
class Posted:
    """The elements of one body."""

    elements: Iterator[Element]
    """Raises MalformedJsonError, perhaps after some elements, if the body is refused as a whole."""
    most: int
    """An upper bound of their number."""


class Elements:
    """Reads what was posted. `clock` returns seconds since 1970. `key` is the key of the whole request, from its headers."""

    def __init__(self, settings: ContractSettings, *, clock: Clock) -> None:
        self._clock = clock
        self.use(settings)

    def use(self, settings: ContractSettings) -> None:
        """Use these settings from the next element on."""
        self._fill_missing_time = settings.fill_missing_time

    def one(self, body: bytes, key: str | None = None) -> Element:
        """Read a body that contains one event."""
        body = body.removeprefix(codecs.BOM_UTF8)
        try:
            value = json_text.parse(body)
        except MalformedJsonError as error:
            return body, _malformed(error), None
        if key is None and not self._fill_missing_time:  # the usual case
            return body, check(value), None
        return self._checked(body, value, key)

    def json(self, body: bytes, key: str | None = None) -> Posted:
        """Read a JSON array of elements, or one element; the body is refused as a whole if it is not JSON."""
        body = body.removeprefix(codecs.BOM_UTF8)
        if not is_array(body):
            return Posted(self._single(body, key), 1)
        array = JsonArray(body)
        return Posted(self._array(array, key), array.most)

    def lines(self, body: bytes, key: str | None = None) -> Posted:
        """Read a body with one element a line."""
        found = (self.line(line, _numbered(key, index)) for index, line in enumerate(json_text.lines(body)))
        return Posted(found, body.count(b"\n") + 1)

    def line(self, text: bytes, key: str | None = None) -> Element:
        """Read one element, as `json_text.bare` returns it."""
        try:
            value = json_text.parse(text)
        except MalformedJsonError as error:
            return text, _malformed(error), None
        return self._unwrapped(text, value, key)

    def _single(self, body: bytes, key: str | None) -> Iterator[Element]:
        yield self._unwrapped(body, json_text.parse(body), key)

    def _array(self, array: JsonArray, key: str | None) -> Iterator[Element]:
        for index, (raw, value) in enumerate(array):
            yield self._unwrapped(raw, value, _numbered(key, index))

    def _unwrapped(self, raw: bytes, value: object, key: str | None) -> Element:
        if type(value) is not dict or len(value) != len(_WRAPPED) or value.keys() != _WRAPPED:
            return self._checked(raw, value, key)
        members = json_text.members(raw, most=len(_WRAPPED))
        if members is None:  # a member is there twice, so nobody knows which is meant
            return self._checked(raw, value, key)
        own = value["idempotency_key"]
        if type(own) is not str:
            return raw, _KEY_OF_ANOTHER_TYPE, None
        return self._checked(members["event"], value["event"], own)

    def _checked(self, raw: bytes, value: object, text: str | None) -> Element:
        key = key_of(text, raw, value) if text else None  # before a time is added, so that a repetition matches
        if self._fill_missing_time and type(value) is dict and not any(name.lower() == "time" for name in value):
            value["time"] = int(self._clock() * 1000)
            begin = raw.index(b"{") + 1
            raw = b'%b"time":%d%b%b' % (raw[:begin], value["time"], b"," if len(value) > 1 else b"", raw[begin:])
        return raw, check(value) if text != "" else _EMPTY_KEY, key


def _malformed(error: MalformedJsonError) -> Refused:
    return Refused((Violation("malformed_json", None, f"not valid JSON: {error}"),))


def _numbered(key: str | None, index: int) -> str | None:
    """Return the key of one element, if the whole request has a key."""
    return f"{key}\n{index}" if key else key
