"""Splits a file of events: one JSON object a line, objects over several lines, or one array of them. `lint` and `load` read
files so, also gzip (see `inflating`), and from a pipe.

The file is read once, piece by piece; no more than one event is held. What is no event is found, too, so that its reader
can say what is wrong with it and where: a line is judged for itself, so a wrong one does no harm to others. Where an array
is broken, nothing tells where the next event begins, so reading ends there with an error.
"""

import codecs
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from forwarder.cli.inflating import PIECE_BYTES, Source, UnusableFileError
from forwarder.cli.options import ErrorShown
from forwarder.text import printable

MAX_EVENT_BYTES: Final = 64 * 1024 * 1024
"""The most that intake.max_body_bytes can be; no daemon accepts a longer event."""
TOO_LONG: Final = ErrorShown("body_too_large", None, "the event is longer than 64 MiB, which no daemon accepts")

_COMMA: Final = ErrorShown(
    "malformed_json", None, "a comma stands between events that have no brackets around all of them"
)
_SPACE: Final = re.compile(rb"[ \t\r\n]*+")
_WHITESPACE: Final = b" \t\r\n"
_TOKEN: Final = re.compile(rb'[^"\[\]{}:,\s]++|["\[\]{}:,]')
_STRING: Final = re.compile(rb'"(?:[^"\\\r\n]++|\\[^\r\n])*+')
"""A string without its closing quote, which is missing where a line or the window ends."""
_SCALAR: Final = re.compile(rb"[^,\[\]{}\s]++")
_QUOTE: Final = ord('"')
_OPENING: Final = {ord("{"): ord("}"), ord("["): ord("]")}
_MAX_DEPTH: Final = 100
"""No event is nested so deeply; it bounds how often a hostile file is looked at again."""


class UnreadableError(Exception):
    """A file cannot be read, or no further; the message says which, how far and why."""


class Entry(NamedTuple):
    """What should be an event."""

    number: int
    """The number of the line on which it begins, from 1."""
    text: bytes | None
    """Without white space and a byte-order mark around it; it may have several lines. None if there is a fault."""
    end_bytes: int
    """How much of the file was read for it and what is before it."""
    fault: ErrorShown | None = None
    """Why it has no text."""
    column: int = 0
    """How many bytes are before it on its line."""
    ordinal: int = 1
    """The how many-th it is of those that begin on its line."""

    @property
    def where(self) -> str:
        """The place as text."""
        return f"line {self.number}" + (f", event {self.ordinal}" if self.ordinal > 1 else "")

    @property
    def on_one_line(self) -> bytes:
        """The text without newlines; if it has some, they are between its values."""
        assert self.text is not None, "there is a fault"
        return self.text.replace(b"\n", b" ")


def file_name(file: str) -> str:
    """Return the name of the file for messages."""
    return "<stdin>" if file == "-" else printable(file, 500)


def open_file(file: str) -> AbstractContextManager[BinaryIO]:
    """Open the file, or standard input for `-`. Raises UnreadableError."""
    if file == "-":
        if sys.stdin is None:
            raise UnreadableError("cannot read <stdin>: it is closed")
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableError(f"cannot read {file_name(file)}: {getattr(error, 'strerror', None) or error}") from None


def entries(file: BinaryIO, *, name: str, max_event_bytes: int = MAX_EVENT_BYTES) -> Iterator[Entry]:
    """Yield what should be events; read no further than necessary. Raises UnreadableError, which calls the file `name`."""
    splitter = _Splitter(Source(file), max_event_bytes)
    try:
        yield from splitter.split()
    except (OSError, UnusableFileError) as error:
        beyond = f" beyond line {splitter.line}" if splitter.line > 1 or splitter.is_within_a_line else ""
        why = getattr(error, "strerror", None) or error
        raise UnreadableError(f"cannot read {name}{beyond}: {why}") from None
    except _BrokenError as error:
        raise UnreadableError(f"cannot read {name} beyond line {splitter.line_at(error.at)}: {error}") from None


class _BrokenError(Exception):
    """A value is not JSON, whatever follows; the message says why. `at` is where in the window."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class _Nesting:
    """The brackets that are open within a value."""

    def __init__(self) -> None:
        self.closing = bytearray()
        """The brackets that are to come, the last one first."""
        self._before = ord("[")

    def take(self, token: int) -> str:
        """Take the first byte of the next token; return why it cannot be there, if that is so."""
        if token in _OPENING:
            if self._before not in b"[:" and not (self._before == ord(",") and self.closing.endswith(b"]")):
                return "a comma or a closing bracket is missing"
            if len(self.closing) == _MAX_DEPTH:
                return f"it is nested more than {_MAX_DEPTH} levels deep"
            self.closing.append(_OPENING[token])
        elif token in b"]}" and (not self.closing or self.closing.pop() != token):
            return "a bracket is closed that was not opened"
        self._before = token
        return ""


class _Splitter:
    def __init__(self, source: Source, max_event_bytes: int) -> None:
        self.line = 1
        """The line of what is read next."""
        self._source = source
        self._max_event_bytes = max_event_bytes
        self._window = bytearray()
        """What was read and not yet split."""
        self._at = 0
        self._before_bytes = 0
        """How long all is that was before the window."""
        self._line_bytes = 0
        """How long all is that is before the current line."""
        self._last_line = 0
        self._ordinal = 1

    @property
    def is_within_a_line(self) -> bool:
        """Whether there was something on this line."""
        return self._before_bytes + self._at > self._line_bytes or bool(self._window)

    def line_at(self, at: int) -> int:
        """Return the line of a position in the window."""
        return self.line + self._window.count(b"\n", self._at, at)

    def split(self) -> Iterator[Entry]:
        while self._reaches_text():
            match self._window[self._at]:
                case 0x5B:  # [
                    yield from self._array()
                case 0x2C:  # ,
                    yield self._entry(self._at + 1, None, _COMMA)
                case _:
                    yield self._line_or_object()

    # One object, on one line or on several

    def _line_or_object(self) -> Entry:
        if (end := self._end_of_line()) is None:
            return self._too_long_line()
        text = bytes(self._window[self._at : end]).rstrip(_WHITESPACE)
        with_newline = min(end + 1, len(self._window))
        if not text.startswith(b"{") or (text.endswith(b"}") and text.count(b"{") == text.count(b"}")):
            return self._entry(with_newline, text)
        try:
            behind = self._end_of_value()
        except _BrokenError as broken:
            if not self._window[end : broken.at].strip(_WHITESPACE):  # only this line: the parser says it better
                return self._entry(with_newline, text)
            line = self.line_at(broken.at)
            why = f"the JSON object that begins here is broken at line {line}: {broken}"
            entry = self._entry(end, None, ErrorShown("malformed_json", None, why))
            self._pass_over_the_rest()
            return entry
        if behind <= end:  # with something behind it on this line, or a brace in a string
            return self._entry(with_newline, text)
        return self._entry(behind, bytes(self._window[self._at : behind]))

    def _pass_over_the_rest(self) -> None:
        """Go to the next line that begins like an event."""
        while self._reaches_text() and self._window[self._at] not in b"{[":
            self._pass_over_line()

    def _too_long_line(self) -> Entry:
        number = self.line
        self._pass_over_line()
        return Entry(number, None, self._end_bytes, TOO_LONG)

    def _pass_over_line(self) -> None:
        begin = self._before_bytes + self._at
        while (end := self._window.find(b"\n", self._at)) < 0:
            self._advance(len(self._window))
            self._check_inflated(since=begin)
            if not self._more():
                return
        self._advance(end + 1)

    def _check_inflated(self, *, since: int) -> None:
        """Stop where there is no event in very much. A few bytes of gzip can become more than anybody would wait for."""
        if self._source.is_inflated and self._before_bytes + self._at - since > self._max_event_bytes:
            mib = self._max_event_bytes >> 20
            raise UnusableFileError(f"more than {mib} MiB of it are no event, although it is much smaller as gzip")

    # An array

    def _array(self) -> Iterator[Entry]:
        begin = self.line
        self._advance(self._at + 1)
        needs_comma = is_after_comma = False
        while self._reaches_text():
            match self._window[self._at]:
                case 0x5D if not is_after_comma:  # ]
                    self._advance(self._at + 1)
                    return
                case 0x2C if needs_comma:  # ,
                    self._advance(self._at + 1)
                    needs_comma, is_after_comma = False, True
                case 0x5D | 0x2C:
                    raise _BrokenError("an event is missing after a comma of the array", self._at)
                case _ if needs_comma:
                    raise _BrokenError("a comma is missing between two events of the array", self._at)
                case _:
                    try:
                        end = self._end_of_value()
                    except _BrokenError as broken:
                        why = f"the event that begins at line {self.line} is broken: {broken}"
                        raise _BrokenError(why, broken.at) from None
                    yield self._entry(end, bytes(self._window[self._at : end]))
                    needs_comma, is_after_comma = True, False
        raise _BrokenError(f"the array that begins at line {begin} has no end: was the file cut off?", self._at)

    # Values

    def _end_of_value(self) -> int:
        """Return where the value ends that begins at the current position. Raises _BrokenError.

        Only what tells where it ends is checked; a parser checks the rest.
        """
        if self._window[self._at] not in b'{["':
            while (
                (found := _SCALAR.match(self._window, self._at)) and found.end() == len(self._window) and self._more()
            ):
                self._check_length(len(self._window))
            return found.end() if found else self._at + 1
        nesting = _Nesting()
        at = self._at
        while True:
            found = _TOKEN.search(self._window, at)
            if found is None:
                at = len(self._window)
                self._grow(at)
                continue
            token = self._window[found.start()]
            if fault := nesting.take(token):
                raise _BrokenError(fault, found.start())
            at = self._end_of_string(found.start()) if token == _QUOTE else found.end()
            if not nesting.closing:
                return at
            self._check_length(at)

    def _end_of_string(self, at: int) -> int:
        """Return where the string ends that begins at `at`."""
        while True:
            found = _STRING.match(self._window, at)
            assert found is not None, "it begins with a quote"
            end = found.end()
            if self._window[end : end + 1] == b'"':
                return end + 1
            if not {*self._window[end : end + 2]}.isdisjoint(b"\r\n"):
                raise _BrokenError("a string has no end on its line", end)
            size = len(self._window)
            self._grow(end)
            # A long string that comes in small pieces is not looked at again for each of them.
            while self._window.find(b'"', size) < 0 and self._window.find(b"\n", size) < 0:
                size = len(self._window)
                self._grow(end)

    def _grow(self, at: int) -> None:
        self._check_length(len(self._window))
        if not self._more():
            raise _BrokenError("the file ends within it", at)

    def _check_length(self, at: int) -> None:
        if at - self._at > self._max_event_bytes:
            raise _BrokenError(f"it is longer than {self._max_event_bytes >> 20} MiB, which no daemon accepts", at)

    # The window

    def _reaches_text(self) -> bool:
        """Go on to what is not white space; return False at the end of the file."""
        begin = self._before_bytes + self._at
        while True:
            self._check_inflated(since=begin)
            found = _SPACE.match(self._window, self._at)
            assert found is not None, "the pattern matches the empty string, too"
            self._advance(found.end())
            rest = bytes(self._window[self._at : self._at + len(codecs.BOM_UTF8)])
            if (
                rest == codecs.BOM_UTF8
            ):  # some editors write it before the first line; joined files have it elsewhere, too
                self._advance(self._at + len(rest))
            elif rest and not codecs.BOM_UTF8.startswith(rest):
                return True
            elif not self._more():
                return bool(rest)

    def _end_of_line(self) -> int | None:
        """Return where the current line ends, without its newline; None if it is too long."""
        searched = self._at
        while (end := self._window.find(b"\n", searched)) < 0:
            searched = len(self._window)
            if searched - self._at > self._max_event_bytes:
                return None
            if not self._more():
                return len(self._window)
        return end if end - self._at <= self._max_event_bytes else None

    def _entry(self, end: int, text: bytes | None, fault: ErrorShown | None = None) -> Entry:
        """Return what is at the current position, and go on to `end`."""
        number, column = self.line, self._before_bytes + self._at - self._line_bytes
        self._ordinal = self._ordinal + 1 if number == self._last_line else 1
        self._last_line = number
        self._advance(end)
        return Entry(number, text, self._end_bytes, fault, column, self._ordinal)

    @property
    def _end_bytes(self) -> int:
        return self._source.read_bytes if self._source.is_inflated else self._before_bytes + self._at

    def _advance(self, to: int) -> None:
        """Go to a position in the window; all positions but the current one are wrong after that."""
        if lines := self._window.count(b"\n", self._at, to):
            self.line += lines
            self._line_bytes = self._before_bytes + self._window.rfind(b"\n", self._at, to) + 1
        self._at = to
        if to >= PIECE_BYTES:
            del self._window[:to]
            self._before_bytes += to
            self._at = 0

    def _more(self) -> bool:
        """Read more into the window; return False at the end of the file."""
        piece = self._source.read()
        self._window += piece
        return bool(piece)
