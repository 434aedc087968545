"""A file of events, one JSON object a line, as `lint` and `load` read it.

It is streamed, and lines are counted from 1 with the blank ones, which hold no event.
"""

import argparse
import codecs
import itertools
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""As much as intake.max_body_bytes can be; no daemon takes a longer line."""
TOO_LONG_MESSAGE: Final = "the line is longer than 64 MiB, more than any daemon takes (body_too_large)"

_WHITESPACE: Final = b" \t\r\n"


class Line(NamedTuple):
    """One line that is not blank."""

    number: int
    """Where it is in the file, from 1."""
    text: bytes | None
    """Without the white space around it and the byte order mark before it; None if it is longer than MAX_LINE_BYTES."""
    end_bytes: int
    """Where in the file it ends."""


class UnreadableError(Exception):
    """A file cannot be read; the message says which and why."""


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """Add `FILE`, which may be `-`."""
    parser.add_argument("file", metavar="FILE", help="events, one JSON object a line; - is standard input")


def file_name(file: str) -> str:
    """Return what messages call the file."""
    from forwarder.text import printable

    return "<stdin>" if file == "-" else printable(file, 500)


def open_lines(file: str) -> AbstractContextManager[BinaryIO]:
    """Open the file, or standard input for `-`. Raises UnreadableError."""
    if file == "-":
        if sys.stdin is None:
            raise UnreadableError("cannot read <stdin>: it is closed")
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableError(_unreadable(file_name(file), error)) from None


def numbered_lines(file: BinaryIO, *, name: str, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """Yield the lines that are not blank, reading no further than asked for. Raises UnreadableError.

    `name` is what the error calls the file. Of a line that is too long, no more than the bound is held.
    """
    end_bytes = 0
    for number in itertools.count(1):
        try:
            text, size_bytes = _read_line(file, max_line_bytes)
        except OSError as error:
            raise UnreadableError(_unreadable(name, error)) from None
        if not size_bytes:
            return
        end_bytes += size_bytes
        if text is not None:
            text = text.strip(_WHITESPACE)
            if text.startswith(
                codecs.BOM_UTF8
            ):  # as some editors write before the first line; files may be joined, too
                text = text[len(codecs.BOM_UTF8) :].lstrip(_WHITESPACE)
        if text != b"":
            yield Line(number, text, end_bytes)


def _read_line(file: BinaryIO, max_bytes: int) -> tuple[bytes | None, int]:
    """Return one line, or None if it is too long, and its size in bytes, which is 0 only at the end."""
    line = piece = file.readline(max_bytes)
    size_bytes = len(line)
    while len(piece) == max_bytes and not piece.endswith(b"\n"):
        piece = file.readline(max_bytes)
        size_bytes += len(piece)
    return (line if size_bytes == len(line) else None), size_bytes


def _unreadable(name: str, error: Exception) -> str:
    return f"cannot read {name}: {getattr(error, 'strerror', None) or error}"
