"""Reads an answer in HTTP/1 from bytes that come in any pieces. No I/O. Used by `connections` alone.

Invariants: the status counts as soon as the head is complete, whatever follows it; a connection is fit for another request
only if the end of the answer is certain; at most `MAX_HEAD_BYTES` and `MAX_ANSWER_BYTES` are held.
"""

import re
from collections.abc import Generator
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeVar

from forwarder.growlytics import json_text
from forwarder.growlytics.answer_body import MAX_ANSWER_BYTES

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 1000

_T = TypeVar("_T")
_Reading = Generator[Literal[False], None, _T]
"""Yields when it needs more bytes, and returns what it has read."""

_SWITCHING_PROTOCOLS: Final = 101
"""The only final status below 200."""
_NO_CONTENT: Final = 204
_BODILESS: Final = frozenset({_SWITCHING_PROTOCOLS, _NO_CONTENT, 304})
_STATUS_LINE: Final = re.compile(r"http/([1-9](?:\.[0-9])?) +([1-9][0-9][0-9])(?: [^\n]*)?\n")
_LENGTH: Final = re.compile("[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_MAX_LINE_BYTES: Final = 16 * 1024
"""Of a line before or after a chunk."""
_SMALL_BODY_BYTES: Final = 4096
"""A body without a known end is tested for being a whole JSON object only up to this size."""
_USUAL_HEAD_BYTES: Final = 1024
_SOUND: Final = re.compile(r"(?:[^\s:]++:[^\n]*+\n)*+\n")
_FOLD: Final = re.compile(r"\n[ \t]+")
"""An obsolete way to continue a header on the next line."""
_FIELD: Final = re.compile(
    r"\n(connection|content-encoding|content-length|content-type|date|retry-after|transfer-encoding)[ \t]*:[ \t]*([^\n]*)"
)


class ApiAnswer(NamedTuple):
    """The status of an answer, its body as far as it was read, and some headers in lower case; None for an absent one."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    content_encoding: str | None = None
    retry_after: str | None = None
    date: str | None = None


class MalformedAnswerError(Exception):
    """The head is not HTTP/1, or is beyond the limits. The message tells a person which."""


class CutAnswerError(Exception):
    """The connection ended in the middle of a head."""


def usual_answer(data: bytes) -> ApiAnswer | None:
    """Return the answer if `data` is a whole success of the usual kind; None otherwise.

    `AnswerReader` would return the same answer and find the connection reusable.
    """
    end = data.find(b"\r\n\r\n", 0, _USUAL_HEAD_BYTES) + 4
    if end < 4 or not data.startswith(b"HTTP/1.1 2"):
        return None
    try:
        head = _usual_head(data[:end])
    except MalformedAnswerError:
        return None
    if head.usual_length != len(data) - end:
        return None
    return ApiAnswer(head.status, data[end:], head.content_type, None, head.retry_after, head.date)


class AnswerReader:
    """Reads one answer."""

    def __init__(self) -> None:
        self._unread = bytearray()
        self._came_bytes = 0
        self._head: _Head | None = None
        self._body = bytearray()
        self._ends_with_connection = False
        self._reading = self._read()
        self.is_reusable = False
        """Whether the answer has ended and its connection may carry another request."""
        self.end_is_doubtful = False
        """Whether the body may have ended although nothing says so and the connection may stay open."""

    @property
    def answer(self) -> ApiAnswer | None:
        """The answer as far as it has come; None until its head is complete."""
        head = self._head
        if head is None:
            return None
        body = bytes(self._body[:MAX_ANSWER_BYTES])
        return ApiAnswer(head.status, body, head.content_type, head.content_encoding, head.retry_after, head.date)

    def feed(self, data: bytes) -> bool:
        """Read `data`; return whether the answer has ended. Raises MalformedAnswerError."""
        self._unread += data
        self._came_bytes += len(data)
        if next(self._reading, True):
            self.is_reusable &= not self._unread  # nobody asked for what is left
            return True
        if self._came_bytes > MAX_HEAD_BYTES + MAX_ANSWER_BYTES:
            if self._head is None:
                raise MalformedAnswerError("interim answers (1xx) came without end, and no final one")
            return True
        return self._ends_with_connection and _is_whole_object(self._body)

    def _read(self) -> _Reading[None]:
        head = yield from self._next_head()
        while head.status < 200 and head.status != _SWITCHING_PROTOCOLS:
            head = yield from self._next_head()
        self._head = head
        is_sound = head.is_sound
        has_no_body = head.status in _BODILESS
        if has_no_body and not (head.status == _NO_CONTENT and (head.is_chunked or head.length)):
            self.is_reusable = head.keeps_alive and is_sound
            return
        self.end_is_doubtful = has_no_body  # a 204 that announces a body
        if head.is_chunked:
            is_sound &= yield from self._chunks()
        elif head.length is not None:
            yield from self._part_of_body(head.length)
        else:
            self.end_is_doubtful |= head.keeps_alive
            self._ends_with_connection = True
            while True:
                self._body += self._unread
                self._unread.clear()
                yield False
        self.is_reusable = head.keeps_alive and is_sound and not has_no_body

    def _next_head(self) -> "_Reading[_Head]":
        unread, searched = self._unread, 0
        while True:
            if unread.startswith((b"\r", b"\n")):  # some servers send empty lines first
                unread[:] = unread.lstrip(b"\r\n")
            if not b"HTTP/".startswith(unread[:5]):
                raise MalformedAnswerError("the answer is not HTTP")
            if end := _end_of_head(unread, searched):
                break
            if len(unread) > MAX_HEAD_BYTES:
                raise MalformedAnswerError("the answer's header is too long")
            searched = max(0, len(unread) - 2)
            yield False
        text = bytes(unread[:end])
        del unread[:end]
        return _usual_head(text) if end < _USUAL_HEAD_BYTES else _Head(text)

    def _chunks(self) -> _Reading[bool]:
        """Return whether all chunks were well-formed; what follows a malformed one cannot be read."""
        while (line := (yield from self._line())) is not None and (size := _CHUNK_SIZE.fullmatch(line)):
            if not (length := int(size[1], 16)):
                while line:
                    line = yield from self._line()
                return line is not None
            yield from self._part_of_body(length)
            if (yield from self._line()) != b"":
                break
        return False

    def _line(self) -> _Reading[bytes | None]:
        """Return a line without its end; None if it is too long."""
        unread = self._unread
        while (end := unread.find(b"\n", 0, _MAX_LINE_BYTES)) < 0:
            if len(unread) >= _MAX_LINE_BYTES:
                return None
            yield False
        line = bytes(unread[:end]).removesuffix(b"\r")
        del unread[: end + 1]
        return line

    def _part_of_body(self, length: int) -> _Reading[None]:
        while True:
            part = self._unread[:length]
            self._body += part
            del self._unread[:length]
            length -= len(part)
            if not length:
                return
            yield False


class _Head:
    """What matters of the head of an answer; values are in lower case."""

    def __init__(self, text: bytes) -> None:
        """Raise MalformedAnswerError."""
        if len(text) > MAX_HEAD_BYTES:
            raise MalformedAnswerError("the answer's header is too long")
        lines = text.decode("latin-1").replace("\r\n", "\n").lower()
        status_line = _STATUS_LINE.match(lines)
        if status_line is None:
            raise MalformedAnswerError("the answer is not HTTP")
        if lines.count("\n") > 2 + MAX_HEADERS:  # the status line and the empty one are no headers
            raise MalformedAnswerError("the answer has too many headers")
        self.status: Final = int(status_line[2])
        is_sound = _SOUND.fullmatch(lines, status_line.end()) is not None
        fields: dict[str, list[str]] = {}
        for name, value in _FIELD.findall(lines if is_sound else _FOLD.sub(" ", lines)):
            fields.setdefault(name, []).append(value.rstrip(" \t"))
        self.retry_after: Final = fields["retry-after"][0] if "retry-after" in fields else None
        self.date: Final = fields["date"][0] if "date" in fields else None
        self.content_type: Final = ", ".join(fields["content-type"]) if "content-type" in fields else None
        options = _tokens(fields, "connection")
        self.keeps_alive: Final = (
            "close" not in options if status_line[1] == "1.1" else status_line[1] == "1.0" and "keep-alive" in options
        ) and self.status != _SWITCHING_PROTOCOLS
        """Whether the far side keeps the connection open."""
        *codings, last = [each for each in _tokens(fields, "transfer-encoding") if each != "identity"] or [""]
        self.is_chunked: Final = last == "chunked"
        lengths = [] if last else _tokens(fields, "content-length")
        self.length: Final = int(lengths[0]) if len(set(lengths)) == 1 and _LENGTH.fullmatch(lengths[0]) else None
        """Of the body, if it is known and there are no chunks."""
        self.is_sound: Final = (
            is_sound and not codings and len(lengths) < 2 and not (last and "content-length" in fields)
        )
        """Whether nothing is malformed or contradictory."""
        codings = fields.get("content-encoding", []) + codings
        self.content_encoding: Final = ", ".join(codings) if codings else None
        is_usual = 200 <= self.status < 300 and self.status != _NO_CONTENT and self.keeps_alive and self.is_sound
        self.usual_length: Final = self.length if is_usual and not codings else None
        """Of the body, if this is a sound success without encoding whose connection stays open; None otherwise."""


@lru_cache(maxsize=16)
def _usual_head(text: bytes) -> _Head:
    """Return a head that may come again: most answers within a second have the same."""
    return _Head(text)


def _tokens(fields: dict[str, list[str]], name: str) -> list[str]:
    return [token.strip(" \t") for token in ",".join(fields[name]).split(",")] if name in fields else []


def _end_of_head(text: bytearray, start: int) -> int:
    """Return where the empty line ends, 0 if there is none. Some servers end lines without a carriage return."""
    end = text.find(b"\n\r\n", start)
    bare_end = text.find(b"\n\n", start, len(text) if end < 0 else end)
    if bare_end >= 0:
        return bare_end + 2
    return end + 3 if end >= 0 else 0


def _is_whole_object(body: bytearray) -> bool:
    text = bytes(body[: _SMALL_BODY_BYTES + 1]).strip()
    if len(text) > _SMALL_BODY_BYTES or not (text.startswith(b"{") and text.endswith(b"}")):
        return False
    try:
        json_text.parse(text)
    except json_text.MalformedJsonError:
        return False
    return True
