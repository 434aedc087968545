"""`dead-letters`: lists, shows, replays, exports or purges the dead letters of a running daemon.

Names, answers and events are strangers' text, so they are escaped. Only `export` to a file or a pipe writes events as they
were.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import Patience, actions_of, daemon_of, run_action
from forwarder.cli.daemon import Daemon, DaemonError
from forwarder.cli.options import Ticker, discard_output, table, utc, whole_number
from forwarder.text import printable
from forwarder.words import DEAD_REASONS

if TYPE_CHECKING:
    from forwarder.cli.dead_letter_requests import DeadLetterRequests, DeadLetterShown

_HEADINGS: Final = ("ID", "NAME", "REASON", "STATUS", "ATTEMPTS", "DIED", "BYTES")
_JSON_FIELDS: Final = (
    "id", "name", "reason", "status", "attempts", "accepted_at", "first_attempt_at", "last_attempt_at", "size_bytes",
)  # fmt: skip
_REASON_HELP: Final = f"only dead letters with this reason: {', '.join(DEAD_REASONS)}"
_MAX_ANSWER_CHARACTERS: Final = 4096
_positive: Final = whole_number(1, 999_999_999)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    action = actions_of(parser)
    listing = action("list", "list dead letters, the oldest first", _list)
    listing.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)
    listing.add_argument("--limit", metavar="N", type=_positive, default=100, help="the most to list; by default 100")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    showing = action("show", "show one dead letter with its event and Growlytics' answer", _show)
    showing.add_argument("id", metavar="ID", type=_id)

    replaying = action("replay", "accept the events again, so that they are sent again", _change)
    _add_selection(replaying)
    replaying.add_argument("--dry-run", action="store_true", help="only say what would happen")
    replaying.add_argument("--rate", metavar="N", type=_positive, help="the most events a second")

    exporting = action("export", "write the events to standard output, one a line, for `load`", _export)
    exporting.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)

    purging = action("purge", "delete dead letters, without asking", _change)
    _add_selection(purging)
    purging.set_defaults(dry_run=False, rate=None)


run = run_action


def _add_selection(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", metavar="ID", dest="ids", type=_id, nargs="+", action="extend", help="may be repeated")
    which.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)
    which.add_argument("--all", action="store_true", help="all that exist at the start")


def _list(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_requests import Pages

    with daemon_of(args) as daemon:
        pages = Pages(_impatient(daemon), reason=args.reason, at_most=args.limit)
        letters = pages.all()
    for line in map(as_json, letters) if args.json else rows(letters):
        print(line)
    of_what = "dead letters of all reasons" if args.reason else "dead letters"
    # Not among the JSON, which a program reads.
    print(f"shown {len(letters)} of {pages.held or 0} {of_what}", file=sys.stderr if args.json else sys.stdout)
    return EXIT_OK


def _show(args: argparse.Namespace) -> int:
    with daemon_of(args) as daemon:
        letter = _impatient(daemon).one(args.id)
    if letter is None:
        print(f"there is no dead letter with the id {args.id}, or no longer; `list` shows the ids", file=sys.stderr)
        return EXIT_NO
    for line in described(letter):
        print(line)
    return EXIT_OK


def _change(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_changes import Changer, ChangeTally
    from forwarder.cli.dead_letter_requests import DeadLetterRequests, Pages

    tally = ChangeTally(args.action, dry_run=args.dry_run)
    ticker = Ticker(sys.stderr)
    daemon = daemon_of(args)
    changer = Changer(daemon, tally=tally, ticker=ticker, per_second=args.rate)
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell("listing dead letters", note=note))

    stopped = ""
    try:
        with daemon:
            # All ids are listed first: an event that is rejected again meanwhile has a new id.
            pages = Pages(DeadLetterRequests(daemon, patience), reason=args.reason)
            ids = args.ids or [each.id for each in pages.all()]
            changer.change(list(dict.fromkeys(ids)), name_missing=bool(args.ids))
    except DaemonError as error:
        stopped = error.explained
    except KeyboardInterrupt:
        stopped = "interrupted"
    changer.finish(stopped)
    print(tally)
    return EXIT_NO if stopped or tally.refused or (args.ids and tally.missing) else EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_requests import DeadLetterRequests, Pages, fit_to_show, on_one_line

    ticker = Ticker(sys.stderr)
    exported = 0
    daemon = daemon_of(args)
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell(f"exported {exported} events", note=note))
    pages = Pages(DeadLetterRequests(daemon, patience), reason=args.reason, payload=True)
    stopped = ""

    def write(events: Iterable[bytes]) -> None:
        if sys.stdout.isatty():
            for event in events:
                print(fit_to_show(event))
        else:
            sys.stdout.buffer.write(b"".join(on_one_line(event) + b"\n" for event in events))
            sys.stdout.buffer.flush()

    try:
        with daemon:
            while (letters := pages.next()) is not None:
                write(each.event for each in letters)
                exported += len(letters)
    except DaemonError as error:
        stopped = error.explained
    except BrokenPipeError:
        discard_output()
        stopped = "the reader of the output left"
    except KeyboardInterrupt:
        stopped = "interrupted"
    ticker.clear()
    if stopped:
        ticker.say(stopped)
    ticker.say(f"exported {exported} event{'' if exported == 1 else 's'}")
    return EXIT_NO if stopped else EXIT_OK


def rows(letters: "Sequence[DeadLetterShown]") -> list[str]:
    """Return the lines of a table with headings; none if there are no dead letters."""
    cells = (
        (
            each.id,
            printable(each.name),
            printable(each.reason),
            _or_dash(each.status),
            str(each.attempts),
            utc(each.last_attempt_at),
            str(each.size_bytes),
        )
        for each in letters
    )
    return table(_HEADINGS, cells, numbers={"STATUS", "ATTEMPTS", "BYTES"})


def as_json(letter: "DeadLetterShown") -> str:
    """Return what `list` shows of a dead letter as a JSON object in ASCII."""
    return json.dumps({name: getattr(letter, name) for name in _JSON_FIELDS})


def described(letter: "DeadLetterShown") -> list[str]:
    """Return the lines that show all about a dead letter."""
    from forwarder.cli.dead_letter_requests import fit_to_show

    fields = {
        "id": letter.id,
        "name": printable(letter.name),
        "customer": printable(letter.customer, 500),
        "reason": printable(letter.reason),
        "status": _or_dash(letter.status),
        "attempts": str(letter.attempts),
        "accepted": utc(letter.accepted_at),
        "first attempt": utc(letter.first_attempt_at),
        "last attempt": utc(letter.last_attempt_at),
        "size": f"{letter.size_bytes} bytes",
        "answer": "-" if letter.answer is None else printable(letter.answer, _MAX_ANSWER_CHARACTERS),
        "event": fit_to_show(letter.event),
    }
    return [f"{f'{name}:':<15}{text}".rstrip() for name, text in fields.items()]


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _impatient(daemon: Daemon) -> "DeadLetterRequests":
    """Return what asks once only: a person waits for a single answer, and can ask again."""
    from forwarder.cli.dead_letter_requests import DeadLetterRequests

    ticker = Ticker(sys.stderr)
    return DeadLetterRequests(daemon, Patience(say=ticker.say, note=ticker.say, retry_seconds=()))


def _id(text: str) -> str:
    if re.fullmatch(r"[0-9]{1,40}", text) is None:
        raise argparse.ArgumentTypeError("must be the id of a dead letter, which is digits; `list` shows the ids")
    return text.lstrip("0") or "0"  # as the daemon names it
