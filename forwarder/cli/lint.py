"""`lint`: checks a file of events against the contract, without a daemon.

It uses the daemon's own check, and sends nothing anywhere. With `--types FILE` it also compares attributes with the types
that a team fixed. A date instead of another string, or the reverse, is no violation; a note on standard error names it.
`event_files` says what files there may be.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.event_files import Entry, UnreadableError, entries, file_name, open_file
from forwarder.cli.options import ErrorShown, discard_output, print_json
from forwarder.text import printable
from forwarder.words import AttributeType

if TYPE_CHECKING:
    from forwarder.attribute import Place
    from forwarder.growlytics.contract import Conforming, Violation

FILE_HELP: Final = "events as JSON: one a line, or an array, or over several lines; also gzip; - is standard input"
MAX_LISTED: Final = 1000
"""The most problems, and the most notes, in the JSON object that `--json` prints."""

_POSITION: Final = re.compile(r"line ([0-9]+) column ([0-9]+)(?: \(char [0-9]+\))?")


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("file", metavar="FILE", help=FILE_HELP)
    parser.add_argument(
        "--types", metavar="FILE", help="a file of attribute types, as `attribute-types export` writes it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, event by event, and return 1 if anything is."""
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
    findings = (_Findings if args.json else _PrintedFindings)(name)
    ended = ""
    try:
        with open_file(args.file) as file:
            for entry in entries(file, name=name):
                findings.add(entry, *checker.check(entry))
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()  # its reader has seen enough
        ended = "then the reader of the output left"
    except UnreadableError as error:
        ended = f"then stopped: {error}"
    except KeyboardInterrupt:
        ended = "then interrupted"
    findings.finish(ended)
    return EXIT_NO if findings.invalid or ended else EXIT_OK


class _Findings:
    """Collects what is wrong, and prints it at the end as one JSON object."""

    def __init__(self, name: str) -> None:
        self.events = self.invalid = 0
        self._name = name
        self._listed: dict[str, list[dict[str, object]]] = {"problems": [], "notes": []}
        self._left_out = 0

    def add(self, entry: Entry, problems: list[ErrorShown], notes: list[ErrorShown]) -> None:
        """Take what was found in one event."""
        self.events += 1
        self.invalid += bool(problems)
        for kind, found in (("problems", problems), ("notes", notes)):
            for each in found:
                self._tell(kind, entry, each)

    def finish(self, ended: str) -> None:
        """Print the result. `ended` says why the file was not read to its end, or is empty."""
        content = {"file": self._name, "events": self.events, "invalid": self.invalid, "ended": ended or None}
        print_json({**content, **self._listed, "left_out": self._left_out})

    def _tell(self, kind: str, entry: Entry, error: ErrorShown) -> None:
        if len(self._listed[kind]) < MAX_LISTED:
            self._listed[kind].append({"line": entry.number, "event": entry.ordinal, **error._asdict()})
        else:
            self._left_out += 1


class _PrintedFindings(_Findings):
    """Prints what is wrong at once, for people."""

    def finish(self, ended: str) -> None:
        violate = f"{self.invalid} {'violates' if self.invalid == 1 else 'violate'} the contract"
        events = f"{self.events} event{'' if self.events == 1 else 's'}"
        print(f"{self._name}: {events}, {violate}{'; ' if ended else ''}{ended}", file=sys.stderr)

    def _tell(self, kind: str, entry: Entry, error: ErrorShown) -> None:
        where = f"{self._name}:{entry.number}: " + (f"event {entry.ordinal}: " if entry.ordinal > 1 else "")
        if kind == "problems":
            print(f"{where}{error}")
        else:
            print(f"{where}note: {error}", file=sys.stderr)


class Checker:
    """Checks lines, and attributes against `types`. It makes one note at most for an attribute."""

    def __init__(self, types: "Mapping[Place, AttributeType]") -> None:
        self._types = types
        self._noted: set[Place] = set()

    def check(self, entry: Entry) -> tuple[list[ErrorShown], list[ErrorShown]]:
        """Return what is wrong with an event, and notes about it."""
        if entry.text is None:
            assert entry.fault is not None, "else there is a text"
            return [entry.fault], []
        checked = _checked(entry, entry.text)
        if isinstance(checked, tuple):
            return list(map(_shown, checked)), []
        problems, notes = [], []
        for is_soft, place, violation in self._conflicts(checked):
            if not is_soft:
                problems.append(_shown(violation))
            elif place not in self._noted:
                self._noted.add(place)
                notes.append(_shown(violation))
        return problems, notes

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


def _shown(violation: "Violation") -> ErrorShown:
    field = printable(violation.field, 200) if violation.field else None
    return ErrorShown(violation.code, field, printable(violation.message, 500))


def _checked(entry: Entry, text: bytes) -> "Conforming | tuple[Violation, ...]":
    """Return what a valid event conforms to, or else its violations."""
    from forwarder.growlytics import json_text
    from forwarder.growlytics.contract import Refused, Violation, check

    try:
        checked = check(json_text.parse(text))
    except json_text.MalformedJsonError as error:
        return (Violation("malformed_json", None, f"not valid JSON: {_placed(str(error), entry, text)}"),)
    return checked.violations if isinstance(checked, Refused) else checked


def _placed(message: str, entry: Entry, text: bytes) -> str:
    """Return a parser's message with the position in the file instead of the one in the event."""

    def position(found: re.Match[str]) -> str:
        line, column = int(found[1]), int(found[2])
        column += entry.column if line == 1 else 0
        return f"column {column}" if b"\n" not in text else f"line {entry.number + line - 1} column {column}"

    return _POSITION.sub(position, message)
