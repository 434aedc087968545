"""`send`: sends one event to a running daemon, for example to test that everything is connected."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from typing import Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments, daemon_of
from forwarder.cli.daemon import (
    AnswerLostError,
    Daemon,
    DaemonAnswer,
    DaemonError,
    not_a_forwarder,
    shown_errors,
)
from forwarder.cli.options import print_json
from forwarder.text import printable

_UNANSWERED: Final[dict[str, object]] = {
    "accepted": None, "id": None, "status": None, "errors": [], "retry_after_seconds": None, "error": None,
}  # fmt: skip
"""What `--json` prints, without an answer. `accepted` is null where nobody knows, as the answer was lost."""
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    parser.add_argument("--customer", metavar="ID", type=_text, required=True, help="the customerId")
    parser.add_argument("--name", metavar="NAME", type=_text, required=True, help="the event's name")
    parser.add_argument(
        "--attribute",
        metavar="K=V",
        dest="attributes",
        action=_AddAttribute,
        type=attribute,
        default=[],
        help="may be repeated; V is a number, true or false if it looks like one and is not in double quotes, else a string",
    )
    parser.add_argument(
        "--time",
        metavar="MILLISECONDS",
        dest="time_milliseconds",
        type=_milliseconds,
        help="the time of the event, since 1970; by default now",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Post the event and say what became of it."""
    time_milliseconds = time.time_ns() // 1_000_000 if args.time_milliseconds is None else args.time_milliseconds
    body = event_json(args.customer, args.name, time_milliseconds, args.attributes)
    daemon = daemon_of(args, changes=True)
    try:
        with daemon:
            answer = daemon.post("/track/event", body, content_type="application/json")
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        if args.json:
            is_known = not isinstance(error, AnswerLostError)
            print_json(_UNANSWERED | {"accepted": False if is_known else None, "error": str(error)})
        return EXIT_NO
    return _report(daemon, answer, as_json=args.json)


def attribute(text: str) -> tuple[str, str]:
    """Read `K=V`; return the attribute's name and its value as JSON, with all digits that were typed."""
    name, equals, value = _text(text).partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError("must be written K=V, with a name before the =")
    return name, _as_json(value)


def event_json(customer: str, name: str, time_milliseconds: int, attributes: Sequence[tuple[str, str]]) -> bytes:
    """Return the event as JSON; the values of `attributes` already are JSON."""
    members = ", ".join(f"{_string(key)}: {value}" for key, value in attributes)
    head = f'"name": {_string(name)}, "customerId": {_string(customer)}, "time": {time_milliseconds}'
    return f'{{{head}, "attributes": {{{members}}}}}'.encode()


class _AddAttribute(argparse.Action):
    """Collects attributes, each only once: in JSON with a repeated name it is not defined which value counts."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: object = None
    ) -> None:
        so_far: list[tuple[str, str]] = getattr(namespace, self.dest)
        assert isinstance(values, tuple), "its type gives a name and a value"
        if any(name == values[0] for name, _ in so_far):
            parser.error(f"argument {option}: an attribute is given twice")
        setattr(namespace, self.dest, [*so_far, values])


def _text(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError("is not valid UTF-8")
    return text


def _milliseconds(text: str) -> int:
    if re.fullmatch(r"-?[0-9]{1,18}", text) is None:
        raise argparse.ArgumentTypeError("must be an integer, milliseconds since 1970")
    return int(text)


def _as_json(value: str) -> str:
    if value in {"true", "false"} or _NUMBER.fullmatch(value) or _is_json_string(value):
        return value
    return _string(value)


def _is_json_string(value: str) -> bool:
    try:
        return value.startswith('"') and isinstance(json.loads(value), str)
    except ValueError:
        return False


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _report(daemon: Daemon, answer: DaemonAnswer, *, as_json: bool) -> int:
    event_id = answer.content.get("id")
    is_accepted = answer.status == 200 and isinstance(event_id, str)
    errors = [] if is_accepted else shown_errors(answer.content)
    strange = "" if is_accepted or errors else not_a_forwarder(daemon.place, answer.status)
    if as_json:
        shown: dict[str, object] = {
            "accepted": is_accepted,
            "id": printable(str(event_id)) if is_accepted else None,
            "status": answer.status,
            "errors": [each._asdict() for each in errors],
            "retry_after_seconds": answer.retry_after_seconds,
            "error": strange or None,
        }
        print_json(shown)
    elif is_accepted:
        print(f"accepted, id {printable(str(event_id))}")
    if is_accepted:
        return EXIT_OK
    for line in [*map(str, errors)] or [strange]:
        print(line, file=sys.stderr)
    if fix := daemon.fix_for(answer.status):
        print(fix, file=sys.stderr)
    if answer.retry_after_seconds is not None:
        print(f"try again in {answer.retry_after_seconds} s", file=sys.stderr)
    return EXIT_NO
