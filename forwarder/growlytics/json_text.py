"""JSON taken apart without changing it: parsed for checking, split into the raw bytes of its elements for sending.

Invariants: what `parse` accepts is JSON by RFC 8259, whatever its numbers; what `elements` yields are the app's own bytes.
No I/O. Used by the contract and by the ways in.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Final

import orjson


class MalformedJsonError(ValueError):
    """The text is not JSON. The message says what and where, and quotes nothing of the text."""


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
"""From the first character of a line that is no white space."""
_MAX_DEPTH: Final = 10_000
"""No parser of any Python goes further; what is behind would be looked at bracket by bracket."""


def _nested(levels: int) -> bytes:
    """Return a pattern for an object or array with so many levels of them, itself included, in JSON that is valid."""
    inner = b"|" + _nested(levels - 1) if levels > 1 else b""
    return rb'[\[{](?:[^\[\]{}"]++|%b%b)*+[\]}]' % (_STRING, inner)


# Deep enough for whatever is meant as an event, so that an element is mostly found in one step; what is deeper takes a few.
# Possessive throughout, so it takes linear time.
_CONTAINER: Final = re.compile(_nested(5), re.DOTALL)


def parse(text: bytes) -> object:
    """Return the value of `text`, with `OUT_OF_RANGE` in place of each number beyond the finite doubles.

    The values serve for checking only: integers beyond 64 bits may come back as floats. Raises MalformedJsonError.
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
        # This one looked past what orjson only seemed to stumble over; but it does not know of byte order marks.
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


def _float(digits: str) -> object:
    value = float(digits)
    return OUT_OF_RANGE if value in (float("inf"), float("-inf")) else value


def _constant(name: str) -> object:
    raise MalformedJsonError(f"{name} is not JSON")


_EXACT: Final = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_constant)


def elements(array: bytes) -> Iterator[bytes]:
    """Yield the raw bytes of each element of `array`, which begins like the text of a JSON array.

    It is an array if each of them is JSON and none is empty. Raises MalformedJsonError, perhaps only behind some of them,
    where brackets, commas or the end are wrong.
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
    assert space is not None, "the pattern matches nothing, too"
    return space.end()


def _end_of_value(text: bytes, position: int) -> int:
    """Return where the value that starts at `position` ends: behind it, or at the `,`, `]` or `}` that follows it.

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
    """Yield the lines of `text` that are not blank, each as `bare` returns it; of the others nothing is kept."""
    for found in _LINE.finditer(text):
        if line := bare(found[0]):
            yield line


def bare(text: bytes) -> bytes:
    """Return `text` without the white space around it and the byte order mark before it, which some editors write."""
    text = text.strip(_WHITESPACE)
    return text[len(codecs.BOM_UTF8) :].lstrip(_WHITESPACE) if text.startswith(codecs.BOM_UTF8) else text


class TooDeepError(ValueError):
    """The text is nested more deeply than can be encoded."""


def parse_exactly(text: bytes) -> object:
    """Return the value of `text`, which `parse` has accepted, so that `encode` loses nothing of it. Raises TooDeepError.

    Integers have every digit, and other numbers are the doubles that they stand for. Of members with the same name the last
    one stays, as everywhere.
    """
    try:
        return _LOSSLESS.decode(text.decode())
    except RecursionError:
        raise TooDeepError from None


def encode(value: object) -> bytes:
    """Return what `parse_exactly` gave as JSON, in UTF-8, with no escape that is not needed. Raises TooDeepError."""
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise TooDeepError from None
    return text.encode(
        errors="backslashreplace"
    )  # of lone surrogates, which are in strings only, it makes JSON's escapes


def _signed_integer(digits: str) -> object:
    return -0.0 if digits == "-0" else _integer(digits)


_LOSSLESS: Final = json.JSONDecoder(parse_int=_signed_integer, parse_float=_float, parse_constant=_constant)
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
