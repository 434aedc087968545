"""`lint`: a file of events, one JSON object a line, checked against the contract without a daemon.

It is the daemon's own check, and nothing is sent anywhere. With `--types FILE` attributes are compared with the types that a
team fixed, too; what only differs as a date and another string do is told on standard error, and is no violation.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.lines import (
    TOO_LONG_MESSAGE,
    Line,
    UnreadableError,
    add_file_argument,
    file_name,
    numbered_lines,
    open_lines,
)
from forwarder.cli.options import discard_output
from forwarder.words import AttributeType

if TYPE_CHECKING:
    from forwarder.attribute import Place
    from forwarder.growlytics.contract import Conforming, Violation

_NOT_AN_OBJECT_MESSAGE: Final = (
    "an event must be a JSON object on one line, not an array; `jq -c '.[]'` makes such lines of an array"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file_argument(parser)
    parser.add_argument(
        "--types", metavar="FILE", help="the types of attributes, as attribute-types export writes them"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, line by line, and return 1 if anything is."""
    try:
        checker = Checker({} if args.types is None else _types(args.types))
    except _TypesError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
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
        discard_output()  # whoever read it has seen enough
        ended = ", then the reader of the output left"
    except UnreadableError as error:
        ended = f", then: {error}"
    except KeyboardInterrupt:
        ended = ", then interrupted"
    violate = "violates" if bad == 1 else "violate"
    print(f"{name}: {events} event{'' if events == 1 else 's'}, {bad} {violate} the contract{ended}", file=sys.stderr)
    return EXIT_NO if bad or ended else EXIT_OK


class _TypesError(Exception):
    """The file of types cannot be used; the message is all that is wrong with it, line by line."""


def _types(file: str) -> "dict[Place, AttributeType]":
    from forwarder.attribute_types import types_file

    try:
        return types_file.read(file)
    except types_file.TypesFileError as error:
        raise _TypesError("\n".join(error.problems)) from None


class Checker:
    """Checks lines, and attributes against `types`. Notes are told once for each attribute."""

    def __init__(self, types: "Mapping[Place, AttributeType]") -> None:
        self._types = types
        self._noted: set[Place] = set()

    def check(self, line: Line) -> tuple[list[str], list[str]]:
        """Return what is wrong with a line, each as `field: message (code)`, and what is worth a note, likewise."""
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
        from forwarder.text import printable

        for attribute, value in event.attributes.items():
            place = event.name, attribute
            expected, found = self._types.get(place), type_of(value)
            if expected is not None and expected != found:
                message = f"the attribute is a {found}, and of events {printable(event.name)} it must be a {expected}"
                field = f"attributes.{printable(attribute)}"
                yield is_soft(expected, found), place, Violation("attribute_type_conflict", field, message)


def check_line(line: Line) -> list[str]:
    """Return all that is wrong with a line, each as `field: message (code)`; nothing if it is a good event."""
    return Checker({}).check(line)[0]


def _told(violation: "Violation") -> str:
    from forwarder.text import printable

    field = f"{printable(violation.field, 200)}: " if violation.field else ""
    return f"{field}{printable(violation.message, 500)} ({violation.code})"


def _checked(text: bytes) -> "Conforming | tuple[Violation, ...]":
    """Return what is to be known of a good event, or else what is wrong with it."""
    from forwarder.growlytics import json_text
    from forwarder.growlytics.contract import Refused, Violation, check

    if text.startswith(b"["):
        return (Violation("not_an_object", None, _NOT_AN_OBJECT_MESSAGE),)
    try:
        checked = check(json_text.parse(text))
    except json_text.MalformedJsonError as error:
        return (Violation("malformed_json", None, f"not valid JSON: {error}"),)
    return checked.violations if isinstance(checked, Refused) else checked
