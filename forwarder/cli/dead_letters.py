"""`dead-letters`: lists, shows, replays, exports, purges or adds to the dead letters of a running daemon.

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
from forwarder.cli.confirming import add_confirm_arguments, confirmed, demand_terminal
from forwarder.cli.daemon import Daemon, DaemonError
from forwarder.cli.letter_filters import WantedLetters, add_filter_arguments, filter_of
from forwarder.cli.options import Ticker, discard_output, table, utc, whole_number
from forwarder.text import printable

if TYPE_CHECKING:
    from forwarder.cli.dead_letter_requests import DeadLetterRequests, DeadLetterShown

_HEADINGS: Final = ("ID", "NAME", "REASON", "STATUS", "ATTEMPTS", "DIED", "BYTES")
_ANSWER: Final = "ANSWER"
"""Shown where the daemon tells it: to operators."""
_MAX_LISTED_CHARACTERS: Final = 60
_JSON_FIELDS: Final = (
    "id", "name", "reason", "status", "attempts", "accepted_at", "first_attempt_at", "last_attempt_at", "size_bytes",
)  # fmt: skip
_MAX_ANSWER_CHARACTERS: Final = 4096
_positive: Final = whole_number(1, 999_999_999)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    action = actions_of(parser)
    listing = action("list", "list dead letters, the oldest first", _list)
    add_filter_arguments(listing)
    listing.add_argument("--limit", metavar="N", type=_positive, default=100, help="the most to list; by default 100")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    showing = action("show", "show one dead letter with its event and Growlytics' answer", _show)
    showing.add_argument("id", metavar="ID", type=_id)

    replaying = action("replay", "accept the events again, so that they are sent again", _change)
    _add_selection(replaying)
    replaying.add_argument("--dry-run", action="store_true", help="only say what would happen")
    replaying.add_argument("--rate", metavar="N", type=_positive, help="the most events a second")

    exporting = action("export", "write the events to standard output, one a line, for `load`", _export)
    add_filter_arguments(exporting)

    purging = action(
        "purge", "delete dead letters; with --customer alone, all events of the customer, as `erase` does", _change
    )
    _add_selection(purging)
    purging.add_argument("--dry-run", action="store_true", help="only say how many would be deleted")
    add_confirm_arguments(purging)
    purging.set_defaults(rate=None, json=False)

    burying = action(
        "bury", "make an event that waits a dead letter, such as one that is refused again and again", _bury
    )
    burying.add_argument("id", metavar="ID", type=_waiting_id)
    burying.add_argument("--dry-run", action="store_true", help="only say what would happen")
    add_confirm_arguments(burying)


run = run_action


def _add_selection(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--id", metavar="ID", dest="ids", type=_id, nargs="+", action="extend", help="may be repeated")
    which.add_argument("--all", action="store_true", help="all that exist at the start")
    add_filter_arguments(parser)


def _check_selection(args: argparse.Namespace) -> None:
    """Exit with 64 unless the arguments say exactly once which dead letters are meant."""
    is_filtered = not filter_of(args).is_all
    if is_filtered and (args.ids or args.all):
        args.parser.error("--id and --all cannot be combined with --reason, --customer, --name or --since")
    if not (is_filtered or args.ids or args.all):
        args.parser.error("say which are meant: --id, --all, or at least one of --reason, --customer, --name, --since")


def _list(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_requests import Pages

    with daemon_of(args) as daemon:
        pages = Pages(_impatient(daemon), only=filter_of(args), at_most=args.limit)
        letters = pages.all()
    for line in map(as_json, letters) if args.json else rows(letters):
        print(line)
    of_what = "dead letters" if filter_of(args).is_all else "dead letters in all"
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

    _check_selection(args)
    if (
        args.action == "purge"
        and args.customer is not None
        and filter_of(args) == WantedLetters(customer=args.customer)
    ):
        from forwarder.cli import erase

        return erase.run(args)
    asks = args.action == "purge" and args.customer is not None and not args.dry_run
    if asks:
        demand_terminal(args)
    tally = ChangeTally(args.action, dry_run=args.dry_run)
    ticker = Ticker(sys.stderr)
    daemon = daemon_of(args, changes=True)
    changer = Changer(daemon, tally=tally, ticker=ticker, per_second=args.rate)
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell("listing dead letters", note=note))

    stopped = ""
    try:
        with daemon:
            # All ids are listed first: an event that is rejected again meanwhile has a new id.
            requests = DeadLetterRequests(daemon, patience)
            pages = Pages(requests, only=filter_of(args))
            ids = args.ids or [each.id for each in pages.all()]
            if not ids or (args.action == "purge" and args.dry_run):
                # Nothing will be asked that only operators may, so that a stranger would not hear of it.
                Pages(requests, only=filter_of(args), payload=True, at_most=1).next()
            if args.action == "purge" and args.dry_run:
                there = ids if args.ids is None else [each for each in dict.fromkeys(ids) if requests.one(each)]
                events = f"{len(there)} event{'' if len(there) == 1 else 's'}"
                print(f"Would purge {events} of the daemon at {daemon.place}.")
                return EXIT_NO if args.ids and len(there) < len(set(ids)) else EXIT_OK
            question = f"Delete {len(ids)} dead letters of this customer, of the daemon at {daemon.place}, for good?"
            if asks and ids and not confirmed(args, question):
                return EXIT_NO
            changer.change(list(dict.fromkeys(ids)), name_missing=bool(args.ids))
    except DaemonError as error:
        stopped = error.explained
    except KeyboardInterrupt:
        stopped = "interrupted"
    changer.finish(stopped)
    if args.action == "purge" and daemon.was_found:
        tally.where = str(daemon.place)
    print(tally)
    return EXIT_NO if stopped or tally.refused or (args.ids and tally.missing) else EXIT_OK


def _bury(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_requests import bury

    if not args.dry_run:
        demand_terminal(args)
    with daemon_of(args, changes=True) as daemon:
        if not args.dry_run and not args.yes:
            bury(daemon, args.id, dry_run=True)  # so that nobody is asked about an event that is not there
            what = f"event {args.id} of the daemon at {daemon.place}"
            if not confirmed(args, f"Stop trying {what}, and make it a dead letter?"):
                return EXIT_NO
        state = bury(daemon, args.id, dry_run=args.dry_run)
    event = f"event {args.id} of the daemon at {daemon.place}"
    would = "would become" if args.dry_run else "is now"
    if state == "after_attempt":
        would = "would become" if args.dry_run else "becomes"
        print(f"{event} is being sent: unless it arrives, it {would} a dead letter right after that")
    else:
        print(f"{event} {would} a dead letter; `dead-letters show {args.id}` shows it")
    return EXIT_OK


def _export(args: argparse.Namespace) -> int:
    from forwarder.cli.dead_letter_requests import (
        DeadLetterRequests,
        Pages,
        exported_line,
        fit_to_show,
        on_one_line,
    )

    ticker = Ticker(sys.stderr)
    exported = 0
    daemon = daemon_of(args)
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell(f"exported {exported} events", note=note))
    pages = Pages(DeadLetterRequests(daemon, patience), only=filter_of(args), payload=True)
    stopped = ""

    def write(letters: "Iterable[DeadLetterShown]") -> None:
        if sys.stdout.isatty():
            for letter in letters:
                print(fit_to_show(exported_line(letter)))
        else:
            sys.stdout.buffer.write(b"".join(on_one_line(exported_line(letter)) + b"\n" for letter in letters))
            sys.stdout.buffer.flush()

    try:
        with daemon:
            while (letters := pages.next()) is not None:
                write(letters)
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
    with_answers = any(each.answer is not None for each in letters)
    cells = (
        (
            each.id,
            printable(each.name),
            printable(each.reason),
            _or_dash(each.status),
            str(each.attempts),
            utc(each.last_attempt_at),
            str(each.size_bytes),
            *((_in_short(each.answer),) if with_answers else ()),
        )
        for each in letters
    )
    headings = (*_HEADINGS, _ANSWER) if with_answers else _HEADINGS
    return [line.rstrip() for line in table(headings, cells, numbers={"STATUS", "ATTEMPTS", "BYTES"})]


def _in_short(answer: str | None) -> str:
    """Return the beginning of Growlytics' answer, on one line."""
    return printable(" ".join(answer.split()), _MAX_LISTED_CHARACTERS) if answer else "-"


def as_json(letter: "DeadLetterShown") -> str:
    """Return what `list` shows of a dead letter as a JSON object in ASCII."""
    fields = {name: getattr(letter, name) for name in _JSON_FIELDS}
    if letter.kind != "event":
        fields["kind"] = letter.kind
    if letter.answer is not None:
        fields["answer"] = letter.answer
    return json.dumps(fields)


def described(letter: "DeadLetterShown") -> list[str]:
    """Return the lines that show all about a dead letter."""
    from forwarder.cli.dead_letter_requests import fit_to_show

    fields = {
        "id": letter.id,
        **({} if letter.kind == "event" else {"kind": printable(letter.kind)}),
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


def _waiting_id(text: str) -> str:
    try:
        return _id(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            "must be the id of an event that waits, which is digits: the daemon answered it when it accepted the event, and "
            "`status` names one that is refused again and again"
        ) from None
