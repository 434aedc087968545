"""`dead-letters`: what Growlytics refused for good, of a running daemon: list, show, replay, export or purge it.

Names, answers and events are text from strangers and are escaped, but for `export` to a file or a pipe, which gives the
events as they were.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.daemon import Daemon, DaemonError
from forwarder.cli.daemon_arguments import add_daemon_arguments, daemon_of
from forwarder.cli.dead_letter_answers import DeadLetterShown, fit_to_show, is_id, on_one_line
from forwarder.cli.dead_letter_changes import Changer, ChangeTally
from forwarder.cli.dead_letter_requests import Action, DeadLetterRequests, Pages
from forwarder.cli.output import discard_output
from forwarder.cli.patience import Patience, StoppedError
from forwarder.cli.progress import Ticker
from forwarder.text import printable
from forwarder.words import DEAD_REASONS

_HEADINGS: Final = ("ID", "NAME", "REASON", "STATUS", "ATTEMPTS", "DIED", "BYTES")
_NUMBERS: Final = frozenset({"STATUS", "ATTEMPTS", "BYTES"})
_REASON_HELP: Final = f"only those of one reason: {', '.join(DEAD_REASONS)}"
_MAX_ANSWER_CHARACTERS: Final = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str, run_action: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        found = actions.add_parser(name, help=summary, description=summary)
        add_daemon_arguments(found)
        found.set_defaults(run_action=run_action)
        return found

    listing = action("list", "show what there is, the oldest first", _list)
    listing.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)
    listing.add_argument("--limit", metavar="N", type=_positive, default=100, help="how many at most; by default 100")
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    showing = action("show", "show one with its event and Growlytics' answer", _show)
    showing.add_argument("id", metavar="ID", type=_id)

    replaying = action("replay", "accept events anew, to be sent once more", _change)
    _add_selection(replaying)
    replaying.add_argument("--dry-run", action="store_true", help="only say what would become of them")
    replaying.add_argument("--rate", metavar="N", type=_positive, help="at most so many events a second")

    exporting = action("export", "write the events to standard output, one a line, as `load` reads them", _export)
    exporting.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)

    purging = action("purge", "throw events away, without asking", _change)
    _add_selection(purging)
    purging.set_defaults(dry_run=False, rate=None)


def run(args: argparse.Namespace) -> int:
    """Do what the action says, and return 0 if all that was asked for was done."""
    action: Callable[[argparse.Namespace], int] = args.run_action
    try:
        code = action(args)
        sys.stdout.flush()
    except (DaemonError, StoppedError) as error:
        print(_why(error), file=sys.stderr)
        return EXIT_NO
    except BrokenPipeError:
        discard_output()  # whoever read it has seen enough
        return EXIT_NO
    return code


def _add_selection(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--id", metavar="ID", dest="ids", type=_id, nargs="+", action="extend", help="may be repeated")
    which.add_argument("--reason", metavar="R", choices=DEAD_REASONS, help=_REASON_HELP)
    which.add_argument("--all", action="store_true", help="all that there are at the start")


def _list(args: argparse.Namespace) -> int:
    letters, held = asyncio.run(_listed(args))
    if args.json:
        for letter in letters:
            print(as_json(letter))
    else:
        for line in table(letters):
            print(line)
    of_what = "dead letters of all reasons" if args.reason else "dead letters"
    # A program that reads JSON would stumble over it.
    print(f"shown {len(letters)} of {held} {of_what}", file=sys.stderr if args.json else sys.stdout)
    return EXIT_OK


async def _listed(args: argparse.Namespace) -> tuple[list[DeadLetterShown], int]:
    async with daemon_of(args) as daemon:
        pages = Pages(_impatient(daemon), reason=args.reason, at_most=args.limit)
        found: list[DeadLetterShown] = []
        while (letters := await pages.next()) is not None:
            found += letters
        return found, pages.held or 0


def _show(args: argparse.Namespace) -> int:
    letter = asyncio.run(_one(args))
    if letter is None:
        print(f"no dead letter has the id {args.id}, or no longer", file=sys.stderr)
        return EXIT_NO
    for line in described(letter):
        print(line)
    return EXIT_OK


async def _one(args: argparse.Namespace) -> DeadLetterShown | None:
    async with daemon_of(args) as daemon:
        return await _impatient(daemon).one(args.id)


def _change(args: argparse.Namespace) -> int:
    action: Action = args.action
    tally = ChangeTally("replayed" if action == "replay" else "purged", dry_run=args.dry_run)
    ticker = Ticker(sys.stderr)
    daemon = daemon_of(args)
    changer = Changer(daemon, action, tally=tally, ticker=ticker, per_second=args.rate)
    stopped = ""
    try:
        asyncio.run(_changed(daemon, changer, ticker, args))
    except (DaemonError, StoppedError) as error:
        stopped = _why(error)
    except KeyboardInterrupt:
        stopped = "interrupted"
    changer.finish(stopped)
    print(tally)
    return EXIT_NO if stopped or tally.refused or (args.ids and tally.missing) else EXIT_OK


async def _changed(daemon: Daemon, changer: Changer, ticker: Ticker, args: argparse.Namespace) -> None:
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell("listing dead letters", note=note))
    async with daemon:
        # All ids come first: an event that dies again meanwhile has a new one.
        pages = Pages(DeadLetterRequests(daemon, patience), reason=args.reason)
        ids = list(dict.fromkeys(args.ids)) if args.ids else await pages.ids()
        await changer.change(ids, name_missing=bool(args.ids))


def _export(args: argparse.Namespace) -> int:
    ticker = Ticker(sys.stderr)
    exported = 0
    daemon = daemon_of(args)
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell(f"exported {exported} events", note=note))
    pages = Pages(DeadLetterRequests(daemon, patience), reason=args.reason, payload=True)
    write = _write_shown if sys.stdout.isatty() else _write_raw
    stopped = ""
    # It is written outside the event loop, so that Ctrl-C also ends the wait for a pipe that nobody reads.
    with asyncio.Runner() as runner:
        try:
            runner.run(daemon.open())
            while (letters := runner.run(pages.next())) is not None:
                write([each.payload.event for each in letters if each.payload])
                exported += len(letters)
        except (DaemonError, StoppedError) as error:
            stopped = _why(error)
        except BrokenPipeError:
            discard_output()
            stopped = "the reader of the output left"
        except KeyboardInterrupt:
            stopped = "interrupted"
        runner.run(daemon.close())
    ticker.clear()
    if stopped:
        ticker.say(stopped)
    ticker.say(f"exported {exported} event{'' if exported == 1 else 's'}")
    return EXIT_NO if stopped else EXIT_OK


def _write_raw(events: Sequence[bytes]) -> None:
    sys.stdout.buffer.write(b"".join(on_one_line(event) + b"\n" for event in events))
    sys.stdout.buffer.flush()


def _write_shown(events: Sequence[bytes]) -> None:
    for event in events:
        print(fit_to_show(event))


def table(letters: Sequence[DeadLetterShown]) -> list[str]:
    """Return the lines of a table for people, with its headings; none if there are no dead letters."""
    if not letters:
        return []
    rows = [_HEADINGS, *map(_row, letters)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if heading in _NUMBERS else cell.ljust(width)
            for heading, cell, width in zip(_HEADINGS, row, widths, strict=True)
        )
        for row in rows
    ]


def _row(letter: DeadLetterShown) -> tuple[str, ...]:
    return (
        letter.id,
        printable(letter.name),
        printable(letter.reason),
        _or_dash(letter.status),
        str(letter.attempts),
        _utc(letter.last_attempt_at),
        str(letter.size_bytes),
    )


def as_json(letter: DeadLetterShown) -> str:
    """Return what `list` shows of it as a JSON object, in ASCII."""
    return json.dumps(
        {
            "id": letter.id,
            "name": letter.name,
            "reason": letter.reason,
            "status": letter.status,
            "attempts": letter.attempts,
            "accepted_at": letter.accepted_at,
            "first_attempt_at": letter.first_attempt_at,
            "last_attempt_at": letter.last_attempt_at,
            "size_bytes": letter.size_bytes,
        }
    )


def described(letter: DeadLetterShown) -> list[str]:
    """Return the lines that show all there is about it."""
    payload = letter.payload
    assert payload is not None, "one that is asked for by its id comes with it"
    fields = {
        "id": letter.id,
        "name": printable(letter.name),
        "customer": printable(payload.customer, 500),
        "reason": printable(letter.reason),
        "status": _or_dash(letter.status),
        "attempts": str(letter.attempts),
        "accepted": _utc(letter.accepted_at),
        "first attempt": _utc(letter.first_attempt_at),
        "last attempt": _utc(letter.last_attempt_at),
        "size": f"{letter.size_bytes} bytes",
        "answer": "-" if payload.answer is None else printable(payload.answer, _MAX_ANSWER_CHARACTERS),
        "event": fit_to_show(payload.event),
    }
    return [f"{f'{name}:':<15}{text}".rstrip() for name, text in fields.items()]


def _utc(seconds: float | None) -> str:
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _impatient(daemon: Daemon) -> DeadLetterRequests:
    """Return the dead letters for somebody who waits for a single answer, and can ask again."""
    ticker = Ticker(sys.stderr)
    return DeadLetterRequests(daemon, Patience(say=ticker.say, note=ticker.say, retry_seconds=()))


def _why(error: DaemonError | StoppedError) -> str:
    return f"{error}; {error.mend}" if isinstance(error, DaemonError) else str(error)


def _id(text: str) -> str:
    if not is_id(text):
        raise argparse.ArgumentTypeError("must be the id of a dead letter, decimal digits, as `list` shows it")
    return text.lstrip("0") or "0"  # as the daemon names it


def _positive(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None or int(text) == 0:
        raise argparse.ArgumentTypeError("must be an integer from 1")
    return int(text)
