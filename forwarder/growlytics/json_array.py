"""A posted JSON array, taken apart element by element, so that never more than one of them is Python objects.

Invariants: the raw bytes of an element are those of the array, without the white space around them; an array is read to its
end exactly if `json_text.parse` accepts it as a whole, and it is not nested beyond all reason, which would take long to
split. Used by the ways in. No I/O.

The array is split by msgspec, which looks at everything but the content of strings, at a tenth of what the regular
expressions of `json_text` take. What it refuses, though it is JSON (lone surrogates, great depth), these split.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import orjson

from forwarder.growlytics import json_text
from forwarder.growlytics.json_text import MalformedJsonError

_DECODER: Final = msgspec.json.Decoder(list[msgspec.Raw])


class JsonArray:
    """The elements of `text`, for which `is_array` holds. While this lives, `most` times 72 bytes are held."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._split: list[msgspec.Raw] | None
        try:
            self._split = _DECODER.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            self._split = None
        self.most = text.count(b",") + 1 if self._split is None else len(self._split)
        """How many elements there are at most."""

    def __iter__(self) -> Iterator[tuple[bytes, object]]:
        """Yield the raw bytes of each element and its value, as `json_text.parse` returns it.

        Raises MalformedJsonError, perhaps only behind some elements, if the array as a whole is not JSON.
        """
        if self._split is None:
            for index, raw in enumerate(json_text.elements(self._text)):
                yield raw, _parse_carefully(raw, index)
            return
        for index, part in enumerate(self._split):
            raw = bytes(part)
            try:
                value = orjson.loads(raw)
            except orjson.JSONDecodeError:
                value = _parse_carefully(raw, index)
            yield raw, value


def is_array(text: bytes) -> bool:
    """Return whether a text is an array, if it is JSON."""
    return text.lstrip(b" \t\r\n")[:1] == b"["


def _parse_carefully(raw: bytes, index: int) -> object:
    """Return the value of one element, or raise MalformedJsonError.

    It is parsed inside of an array, as it came: that is one level deeper, which the parsers bound.
    """
    where = f"in element {index}, counted from 0"
    try:
        array = json_text.parse(b"[%b]" % raw)
    except MalformedJsonError as error:
        raise MalformedJsonError(f"{where}: {_fault(raw) or error}") from None
    if not isinstance(array, list) or len(array) != 1:
        raise MalformedJsonError(f"{where}: a value is missing")
    return array[0]


def _fault(raw: bytes) -> str:
    """Return what is wrong with an element, with the place in it; empty if nothing is wrong with it alone."""
    try:
        json_text.parse(raw)
    except MalformedJsonError as error:
        return str(error)
    return ""
