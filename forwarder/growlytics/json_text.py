"""JSON taken apart without changing it: parsed for checking, split into the raw bytes of its elements for sending.

Invariants: what `parse` accepts is JSON by RFC 8259, whatever its numbers; raw bytes are the app's own, without the white
space around them; a `JsonArray` is read to its end exactly if `parse` accepts the whole text, unless it is nested so deeply
that splitting it would take long. No I/O. Used by the contract, intake and commands.

msgspec splits arrays: it looks at everything but the content of strings, in a tenth of the time of the regular expressions
here. These split what msgspec refuses although it is JSON: lone surrogates and great depth.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Final

import msgspec
import orjson


class MalformedJsonError(ValueError):
    """The text is not JSON. The message says what is wrong and where, and quotes nothing of the text."""


class TooDeepError(ValueError):
    """The text is nested more deeply than can be encoded."""


class OutOfRange:
    """Stands for a number beyond the finite doubles, which no JavaScript program could hold."""


OUT_OF_RANGE: Final = OutOfRange()

_WHITESPACE: Final = b" \t\n\r"
_LONGEST_FINITE_INTEGER: Final = 310  # digits of the largest double, and a sign

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN: Final = re.compile(rb'[^"\[\]{},]*+(%b|[\[\]{},])' % _STRING, re.DOTALL)
_WHOLE_STRING: Final = re.compile(_STRING, re.DOTALL)
_SPACE: Final = re.compile(rb"[ \t\n\r]*+")
_LINE: Final = re.compile(rb"[^ \t\n\r][^\n]*+")
"""The rest of a line from its first character that is not white space."""
_MAX_DEPTH: Final = 10_000
"""No parser of any Python goes deeper; deeper text would be searched bracket by bracket."""
_RAW_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])


def _nested(levels: int) -> bytes:
    """Return a pattern for an object or array with at most so many levels, itself included, in valid JSON."""
    inner = b"|" + _nested(levels - 1) if levels > 1 else b""
    return rb'[\[{](?:[^\[\]{}"]++|%b%b)*+[\]}]' % (_STRING, inner)


# Deep enough for whatever is meant as an event, so an element is mostly found in one step; a deeper one takes a few.
# Possessive throughout, so it takes linear time.
_CONTAINER: Final = re.compile(_nested(5), re.DOTALL)


def parse(text: bytes) -> object:
    """Return the value of `text`, with `OUT_OF_RANGE` in place of each number beyond the finite doubles.

    The values serve for checking only: integers beyond 64 bits may become floats. Raises MalformedJsonError.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        refused = str(error)
    # orjson also refuses some valid JSON: numbers out of range, lone surrogates, depth beyond 1024.
    try:
        return _EXACT.decode(text.decode())
    except RecursionError:
        raise MalformedJsonError("nested too deeply") from None
    except json.JSONDecodeError as error:
        # This parser got past what only orjson refuses, so it knows the real fault; but it ignores byte order marks.
        is_marked = text.startswith(codecs.BOM_UTF8)
        exact = f"{error.msg}: line {error.lineno} column {error.colno}"
        raise MalformedJsonError(refused if is_marked else exact) from None
    except UnicodeDecodeError as error:
        raise MalformedJsonError(f"not UTF-8 at byte {error.start}") from None


def _integer(digits: str) -> object:
    if len(digits) > _LONGEST_FINITE_INTEGER:
        return OUT_OF_RANGE
    value = int(digits)
    try:
        float(value)
    except OverflowError:
        return OUT_OF_RANGE
    return value


def _signed_integer(digits: str) -> object:
    return -0.0 if digits == "-0" else _integer(digits)


def _float(digits: str) -> object:
    value = float(digits)
    return OUT_OF_RANGE if value in (float("inf"), float("-inf")) else value


def _constant(name: str) -> object:
    raise MalformedJsonError(f"{name} is not JSON")


_EXACT: Final = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)
_LOSSLESS: Final = json.JSONDecoder(parse_int=_signed_integer, parse_float=_float, parse_constant=_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))


def parse_exactly(text: bytes) -> object:
    """Return the value of `text`, which `parse` has accepted, so that `encode` loses nothing of it. Raises TooDeepError.

    Integers keep every digit, and other numbers become the doubles that they stand for. Of members with the same name the
    last one is kept, as everywhere.
    """
    try:
        return _LOSSLESS.decode(text.decode())
    except RecursionError:
        raise TooDeepError from None


def encode(value: object) -> bytes:
    """Return a value of `parse_exactly` as JSON in UTF-8, without unnecessary escapes. Raises TooDeepError."""
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise TooDeepError from None
    # Lone surrogates, which can stand in strings only, become JSON's escapes.
    return text.encode(errors="backslashreplace")


class JsonArray:
    """The elements of `text`, for which `is_array` holds. While it exists it takes `most` times 72 bytes."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._split: list[msgspec.Raw] | None
        try:
            self._split = _RAW_ELEMENTS.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            self._split = None
        self.most = text.count(b",") + 1 if self._split is None else len(self._split)
        """How many elements there are at most."""

    def __iter__(self) -> Iterator[tuple[bytes, object]]:
        """Yield the raw bytes of each element and its value, as `parse` returns it.

        Raises MalformedJsonError, perhaps only after some elements, if the array as a whole is not JSON.
        """
        if self._split is None:
            for index, raw in enumerate(elements(self._text)):
                yield raw, _parse_element(raw, index)
            return
        for index, part in enumerate(self._split):
            raw = bytes(part)
            try:
                value = orjson.loads(raw)
            except orjson.JSONDecodeError:
                value = _parse_element(raw, index)
            yield raw, value


def is_array(text: bytes) -> bool:
    """Return whether a text is an array, if it is JSON."""
    return text.lstrip(_WHITESPACE)[:1] == b"["


def _parse_element(raw: bytes, index: int) -> object:
    """Return the value of one element, or raise MalformedJsonError.

    It is parsed inside an array, as it came: that is one level deeper, and parsers limit the depth.
    """
    where = f"in element {index}, counted from 0"
    try:
        array = parse(b"[%b]" % raw)
    except MalformedJsonError as error:
        fault: Exception = error
        try:
            parse(raw)
        except MalformedJsonError as its_own:  # its position counts from the start of the element
            fault = its_own
        raise MalformedJsonError(f"{where}: {fault}") from None
    if not isinstance(array, list) or len(array) != 1:
        raise MalformedJsonError(f"{where}: a value is missing")
    return array[0]


def elements(array: bytes) -> Iterator[bytes]:
    """Yield the raw bytes of each element of `array`, which begins like a JSON array.

    The text is an array if each of them is JSON and none is empty. Raises MalformedJsonError, perhaps only after some
    elements, where brackets, commas or the end are wrong.
    """
    position = _after_space(array, _after_space(array, 0) + 1)
    if array[position : position + 1] == b"]":
        end = position
    else:
        while True:
            end = _end_of_value(array, position)
            yield array[position:end].rstrip(_WHITESPACE)
            end = _after_space(array, end)
            if array[end : end + 1] != b",":
                break
            position = _after_space(array, end + 1)
    if array[end : end + 1] != b"]":
        raise MalformedJsonError(f"expected a comma or the end of the array at byte {end}")
    if (behind := _after_space(array, end + 1)) < len(array):
        raise MalformedJsonError(f"there is more behind the end of the array, at byte {behind}")


def members(text: bytes, *, most: int) -> dict[str, bytes] | None:
    """Return the raw bytes of each member of an object that `parse` has accepted; None if it has more than `most`."""
    found: dict[str, bytes] = {}
    count = 0
    position = _after_space(text, text.index(b"{") + 1)
    while text[position : position + 1] == b'"':
        count += 1
        if count > most:
            return None
        key = _WHOLE_STRING.match(text, position)
        assert key is not None, "the object was parsed before"
        position = _after_space(text, _after_space(text, key.end()) + 1)  # behind the colon
        end = _end_of_value(text, position)
        found[str(parse(key[0]))] = text[position:end].rstrip(_WHITESPACE)
        position = _after_space(text, _after_space(text, end) + 1)  # behind the comma
    return found


def _after_space(text: bytes, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None, "the pattern matches the empty string too"
    return space.end()


def _end_of_value(text: bytes, position: int) -> int:
    """Return the end of the value that starts at `position`, or the position of the `,`, `]` or `}` that follows it.

    Raises MalformedJsonError if it has no end.
    """
    if container := _CONTAINER.match(text, position):
        return container.end()
    depth = 0
    while True:
        token = _TOKEN.match(text, position)
        if token is None:
            raise MalformedJsonError(f"a string, an array or an object has no end, at byte {position}")
        match token[1]:
            case b"[" | b"{":
                depth += 1
                if depth > _MAX_DEPTH:
                    raise MalformedJsonError(f"nested too deeply at byte {position}")
            case b"," | b"]" | b"}" if depth == 0:
                return token.start(1)
            case b"]" | b"}":
                depth -= 1
        position = token.end()
        if container := _CONTAINER.match(text, position):
            position = container.end()


def lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines of `text` that are not blank, each as `bare` returns it."""
    for found in _LINE.finditer(text):
        if line := bare(found[0]):
            yield line


def bare(text: bytes) -> bytes:
    """Return `text` without surrounding white space and without the byte order mark that some editors write."""
    text = text.strip(_WHITESPACE)
    return text[len(codecs.BOM_UTF8) :].lstrip(_WHITESPACE) if text.startswith(codecs.BOM_UTF8) else text
