"""`erase`: removes all events of one customer from a running daemon: buffer, dead letters, receipts, damaged files.

An erasure may take long, so the daemon says after a while that it is not complete, and is asked again. To be cut off does no
harm: the daemon goes on, and to erase a customer twice is the same as once. No message shows the customer.
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import Patience, add_daemon_arguments, daemon_of
from forwarder.cli.confirming import add_confirm_arguments, confirmed, demand_terminal
from forwarder.cli.daemon import Daemon, DaemonError
from forwarder.cli.letter_filters import not_empty
from forwarder.cli.options import Ticker, print_json

if TYPE_CHECKING:
    from forwarder.cli.erasures import ErasureShown

_PATH: Final = "/v1/erase"
_AGAIN: Final = "run it again: to erase a customer twice does no harm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    add = parser.add_argument
    add("--customer", metavar="ID", type=not_empty, required=True, help="the customerId of the events, exactly")
    add("--dry-run", action="store_true", help="only say what would be removed")
    add_confirm_arguments(parser)
    add("--json", action="store_true", help="one JSON object, for programs")


def run(args: argparse.Namespace) -> int:
    """Erase, and return the exit code."""
    if not args.dry_run:
        demand_terminal(args)
    try:
        with daemon_of(args, changes=True) as daemon:
            return _erase(daemon, args)
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        if not args.dry_run:
            print(_AGAIN, file=sys.stderr)
    except KeyboardInterrupt:
        print(f"interrupted; the daemon may go on; {_AGAIN}", file=sys.stderr)
    return EXIT_NO


def _erase(daemon: Daemon, args: argparse.Namespace) -> int:
    ticker = Ticker(sys.stderr)
    # A person waits, and can ask again: only what the daemon itself says to wait for is waited for.
    patience = Patience(say=ticker.say, note=lambda note: ticker.tell("erasing", note=note), retry_seconds=())
    if args.dry_run or not args.yes:
        found = _asked(daemon, patience, args.customer, dry_run=True)
        if args.dry_run:
            _show(found, daemon, args)
            return EXIT_OK
        if not confirmed(args, f"{found.would(daemon.place)}\nErase them for good?"):
            return EXIT_NO
    while True:
        erased = _asked(daemon, patience, args.customer, dry_run=False)
        if erased.complete:
            ticker.clear()
            _show(erased, daemon, args)
            return EXIT_OK
        ticker.tell("erasing", note="not complete yet")


def _asked(daemon: Daemon, patience: Patience, customer: str, *, dry_run: bool) -> "ErasureShown":
    from forwarder.cli.erasures import ErasureShown

    # ASCII, so that any id that a shell can pass on can be sent.
    body = json.dumps({"customer": customer, "dry_run": dry_run}).encode()
    answer = patience.answer(
        lambda: daemon.post(_PATH, body, content_type="application/json"), doing="asking to erase"
    ).answer
    if answer.status not in {200, 202}:
        raise daemon.refused(answer)
    return daemon.read(answer, ErasureShown)


def _show(erased: "ErasureShown", daemon: Daemon, args: argparse.Namespace) -> None:
    if args.json:
        print_json({**erased.described(), "daemon": str(daemon.place)})
    else:
        print(erased.would(daemon.place) if args.dry_run else erased.done(daemon.place))
