"""`lint`: a file of events, one JSON object a line, checked against the contract without a daemon.

It is the daemon's own check, and nothing is sent anywhere.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.lines import (
    TOO_LONG_MESSAGE,
    Line,
    UnreadableError,
    add_file_argument,
    file_name,
    numbered_lines,
    open_lines,
)
from forwarder.cli.output import discard_output

if TYPE_CHECKING:
    from forwarder.growlytics.contract import Violation

_NOT_AN_OBJECT_MESSAGE: Final = (
    "an event must be a JSON object on one line, not an array; `jq -c '.[]'` makes such lines of an array"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_file_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print what is wrong, line by line, and return 1 if anything is."""
    name = file_name(args.file)
    events = bad = 0
    ended = ""
    try:
        with open_lines(args.file) as file:
            for line in numbered_lines(file, name=name):
                events += 1
                messages = check_line(line)
                bad += bool(messages)
                for message in messages:
                    print(f"{name}:{line.number}: {message}")
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


def check_line(line: Line) -> list[str]:
    """Return all that is wrong with a line, each as `field: message (code)`; nothing if it is a good event."""
    if line.text is None:
        return [TOO_LONG_MESSAGE]
    from forwarder.event import printable

    return [
        f"{f'{printable(one.field, 200)}: ' if one.field else ''}{printable(one.message, 500)} ({one.code})"
        for one in _violations(line.text)
    ]


def _violations(text: bytes) -> "tuple[Violation, ...]":
    from forwarder.growlytics import json_text
    from forwarder.growlytics.contract import Refused, Violation, check

    if text.startswith(b"["):
        return (Violation("not_an_object", None, _NOT_AN_OBJECT_MESSAGE),)
    try:
        checked = check(json_text.parse(text))
    except json_text.MalformedJsonError as error:
        return (Violation("malformed_json", None, f"not valid JSON: {error}"),)
    return checked.violations if isinstance(checked, Refused) else ()
