"""What the body of a 2xx says, in whatever encoding it came: success, failure, or a page of somebody else. Pure.

Growlytics documents `200: OK`, and `{"success": true}` elsewhere. So a body is a success unless it is of one of two kinds.
An object whose `success` means no is a failure. A page is HTML, or is declared as HTML and has no `success`. Used by
`outcome`.
"""

import json
import re
import zlib
from typing import Final, Literal

import orjson

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""How much of a body is read, and how much it may inflate to; what Growlytics documents is far shorter."""

Said = Literal["success", "failure", "page"]

_PAGE_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
_NO: Final = frozenset({"false", "0", "no"})
_BLANK: Final = "\ufeff\0 \t\r\n\f\v"
_SPACE: Final = re.compile(r"[ \t\r\n]*")
# Integers as floats, as some have thousands of digits; control characters in strings, as they make no difference here.
_LENIENT: Final = json.JSONDecoder(parse_int=float, strict=False)
_MAX_CODINGS: Final = 4
_MAX_GZIP_MEMBERS: Final = 16


def said(body: bytes, *, content_type: str | None = None, content_encoding: str | None = None) -> Said:
    """Return what a body says, judged by as much of it as came, at most its first `MAX_ANSWER_BYTES`."""
    is_page = content_type is not None and "html" in content_type.lower() and _is_page_type(content_type)
    if not body:
        return "page" if is_page else "success"
    if content_encoding is None and body.startswith(b"{"):  # as nearly always
        try:
            success = orjson.loads(body).get("success")
        except orjson.JSONDecodeError:
            pass
        else:
            return "success" if success is True else _said_by(success, is_page=is_page)
    text = _text(_decoded(body, content_encoding)).lstrip(_BLANK)
    return "page" if text.startswith("<") else _said_by(_success_of(text), is_page=is_page)


def _said_by(success: object, *, is_page: bool) -> Said:
    """Decide from the value of `success`, which counts more than the declared type of the body."""
    if _is_no(success):
        return "failure"
    return "page" if is_page and success is not True else "success"


def _is_page_type(content_type: str) -> bool:
    return any(each.partition(";")[0].strip().lower() in _PAGE_TYPES for each in content_type.split(","))


def _is_no(value: object) -> bool:
    """Return whether a value of `success` means no. One that means neither yes nor no, such as null, does not."""
    if isinstance(value, str):
        return value.strip().lower() in _NO
    return value is False or (isinstance(value, int | float) and not isinstance(value, bool) and value == 0)


def _success_of(text: str) -> object:
    """Return the value of an object's own `success`, the last if there are several; None if it has none.

    The text may be cut, or go on after the object.
    """
    if not text.startswith("{") or ('"success"' not in text and "\\u" not in text):
        return None
    found = None
    position = 0
    try:
        while text[position : position + 1] in {"{", ","}:
            name, position = _LENIENT.raw_decode(text, _after_space(text, position + 1))
            position = _after_space(text, position)
            if text[position : position + 1] != ":":
                break
            value, position = _LENIENT.raw_decode(text, _after_space(text, position + 1))
            if name == "success" and (position < len(text) or not isinstance(value, float)):  # a number may be cut
                found = value
            position = _after_space(text, position)
    except (ValueError, RecursionError):
        pass
    return found


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None, "the pattern matches the empty string too"
    return space.end()


def _text(data: bytes) -> str:
    """Decode characters: UTF-8, unless a byte order mark or the places of NULs show UTF-16 or UTF-32."""
    return data.decode(json.detect_encoding(data), errors="replace")


def _decoded(data: bytes, content_encoding: str | None) -> bytes:
    """Undo the encodings that are named, and one that is not named but shows in the first bytes.

    Data that are not in the named encoding count as they are. Return nothing if an encoding cannot be undone.
    """
    codings = [coding for each in (content_encoding or "").split(",") if (coding := each.strip().lower())]
    if len(codings) > _MAX_CODINGS:
        return b""
    for coding in reversed(codings):
        match coding:
            case "gzip" | "x-gzip":
                data = _inflated(data, zlib.MAX_WBITS + 16) or data
            case "deflate":  # with a frame by its definition; some servers send none
                data = _inflated(data, zlib.MAX_WBITS) or _inflated(data, -zlib.MAX_WBITS) or data
            case "identity":
                pass
            case _:
                return b""
    if data.startswith(b"\x1f\x8b"):
        return _inflated(data, zlib.MAX_WBITS + 16) or data
    if data.startswith(b"x") and int.from_bytes(data[:2]) % 31 == 0:
        return _inflated(data, zlib.MAX_WBITS) or data
    return data


def _inflated(data: bytes, window_bits: int) -> bytes:
    """Return at most the first `MAX_ANSWER_BYTES` of the inflated data, which may be cut; nothing if they are malformed."""
    inflated = b""
    for _ in range(_MAX_GZIP_MEMBERS):
        inflater = zlib.decompressobj(window_bits)
        try:
            inflated += inflater.decompress(data, MAX_ANSWER_BYTES - len(inflated))
        except zlib.error:
            break
        data = inflater.unused_data
        if not data or len(inflated) >= MAX_ANSWER_BYTES:
            break
    return inflated
