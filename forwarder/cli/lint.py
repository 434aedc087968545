"""`lint`: checks a file of events, one JSON object a line, against the contract, without a daemon.

It uses the daemon's own check, and sends nothing anywhere. With `--types FILE` it also compares attributes with the types
that a team fixed. A date instead of another string, or the reverse, is no violation; a note on standard error names it.
`load` reads files as `lint` does.
"""

import argparse
import codecs
import itertools
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.options import discard_output
from forwarder.text import printable
from forwarder.words import AttributeType

if TYPE_CHECKING:
    from forwarder.attribute import Place
    from forwarder.growlytics.contract import Conforming, Violation

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
"""The most that intake.max_body_bytes can be; no daemon accepts a longer line."""
TOO_LONG_MESSAGE: Final = "the line is longer than 64 MiB, which no daemon accepts (body_too_large)"

_WHITESPACE: Final = b" \t\r\n"
_NOT_AN_OBJECT_MESSAGE: Final = (
    "an event must be a JSON object on one line, not an array; `jq -c '.[]'` makes lines of an array"
)


# A file of events. It is streamed. Lines are numbered from 1; blank ones, which hold no event, count too.


class Line(NamedTuple):
    """One line that is not blank."""

    number: int
    """Its number in the file, from 1."""
    text: bytes | None
    """Without white space around it and a byte-order mark before it; None if it is longer than MAX_LINE_BYTES."""
    end_bytes: int
    """Where in the file it ends."""


class UnreadableError(Exception):
    """A file cannot be read; the message says which and why."""


def add_file_argument(parser: argparse.ArgumentParser) -> None:
    """Add `FILE`, which may be `-`."""
    parser.add_argument("file", metavar="FILE", help="events, one JSON object a line; - is standard input")


def file_name(file: str) -> str:
    """Return the name of the file for messages."""
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
    """Yield the lines that are not blank; read no further than necessary. Raises UnreadableError.

    The error calls the file `name`. No more than `max_line_bytes` of a line are held.
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
            # Some editors write it before the first line; joined files have it elsewhere, too.
            text = text.removeprefix(codecs.BOM_UTF8).lstrip(_WHITESPACE)
        if text != b"":
            yield Line(number, text, end_bytes)


def _read_line(file: BinaryIO, max_bytes: int) -> tuple[bytes | None, int]:
    """Return one line, None if it is too long, and its size in bytes, which is 0 only at the end of the file."""
    line = piece = file.readline(max_bytes)
    size_bytes = len(line)
    while len(piece) == max_bytes and not piece.endswith(b"\n"):
        piece = file.readline(max_bytes)
        size_bytes += len(piece)
    return (line if size_bytes == len(line) else None), size_bytes


def _unreadable(name: str, error: Exception) -> str:
    return f"cannot read {name}: {getattr(error, 'strerror', None) or error}"


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file_argument(parser)
    parser.add_argument(
        "--types", metavar="FILE", help="a file of attribute types, as `attribute-types export` writes it"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, line by line, and return 1 if anything is."""
    types: Mapping[Place, AttributeType] = {}
    if args.types is not None:
        from forwarder.attribute_types import types_file

        try:
            types = types_file.read(args.types)
        except types_file.TypesFileError as error:
            print(*error.problems, sep="\n", file=sys.stderr)
            return EXIT_CONFIGURATION
    checker = Checker(types)
    name = file_name(args.file)
    events = bad = 0
    ended = ""
    try:
        with open_lines(args.file) as file:
            for line in numbered_lines(file, name=name):
                events += 1
                messages, notes = checker.check(line)
                bad += bool(messages)
                for message in messages:
                    print(f"{name}:{line.number}: {message}")
                for note in notes:
                    print(f"{name}:{line.number}: note: {note}", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()  # its reader has seen enough
        ended = "; then the reader of the output left"
    except UnreadableError as error:
        ended = f"; then stopped: {error}"
    except KeyboardInterrupt:
        ended = "; then interrupted"
    violate = "violates" if bad == 1 else "violate"
    print(f"{name}: {events} event{'' if events == 1 else 's'}, {bad} {violate} the contract{ended}", file=sys.stderr)
    return EXIT_NO if bad or ended else EXIT_OK


class Checker:
    """Checks lines, and attributes against `types`. It makes one note at most for an attribute."""

    def __init__(self, types: "Mapping[Place, AttributeType]") -> None:
        self._types = types
        self._noted: set[Place] = set()

    def check(self, line: Line) -> tuple[list[str], list[str]]:
        """Return what is wrong with a line, and notes about it, each as `field: message (code)`."""
        if line.text is None:
            return [TOO_LONG_MESSAGE], []
        checked = _checked(line.text)
        if isinstance(checked, tuple):
            return list(map(_told, checked)), []
        messages, notes = [], []
        for is_soft, place, violation in self._conflicts(checked):
            if not is_soft:
                messages.append(_told(violation))
            elif place not in self._noted:
                self._noted.add(place)
                notes.append(_told(violation))
        return messages, notes

    def _conflicts(self, event: "Conforming") -> "Iterator[tuple[bool, Place, Violation]]":
        if not self._types:
            return
        from forwarder.attribute import is_soft, type_of
        from forwarder.growlytics.contract import Violation

        for attribute, value in event.attributes.items():
            place = event.name, attribute
            expected, found = self._types.get(place), type_of(value)
            if expected is not None and expected != found:
                message = f"the attribute is a {found}, but in {printable(event.name)} events it must be a {expected}"
                field = f"attributes.{printable(attribute)}"
                yield is_soft(expected, found), place, Violation("attribute_type_conflict", field, message)


def check_line(line: Line) -> list[str]:
    """Return all that is wrong with a line, each as `field: message (code)`; nothing if it is a valid event."""
    return Checker({}).check(line)[0]


def _told(violation: "Violation") -> str:
    field = f"{printable(violation.field, 200)}: " if violation.field else ""
    return f"{field}{printable(violation.message, 500)} ({violation.code})"


def _checked(text: bytes) -> "Conforming | tuple[Violation, ...]":
    """Return what a valid event conforms to, or else its violations."""
    from forwarder.growlytics import json_text
    from forwarder.growlytics.contract import Refused, Violation, check

    if text.startswith(b"["):
        return (Violation("not_an_object", None, _NOT_AN_OBJECT_MESSAGE),)
    try:
        checked = check(json_text.parse(text))
    except json_text.MalformedJsonError as error:
        return (Violation("malformed_json", None, f"not valid JSON: {error}"),)
    return checked.violations if isinstance(checked, Refused) else checked
