"""`diagnose`: finds out why nothing arrives at Growlytics: name, connection, proxy, TLS, clock, disk, open files, daemon."""

import argparse
import json
import os
import sys
from typing import Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments
from forwarder.cli.options import discard_output, whole_number

DEFAULT_SECONDS: Final = 5
"""Of one check."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    add_timeout_argument(parser)


def add_timeout_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--timeout`, the time of one attempt."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=whole_number(1, 60),
        default=DEFAULT_SECONDS,
        help=f"the longest that one attempt of a check may take (default: {DEFAULT_SECONDS})",
    )


def run(args: argparse.Namespace) -> int:
    """Make every check, and return 0 if none failed, else 1."""
    from forwarder.cli.checks import Checked, counted, described, together_if_skipped
    from forwarder.cli.diagnosis import ask_daemon, diagnose, read_settings

    read = read_settings(args, os.environ, seconds=args.timeout)
    daemon = ask_daemon(args, os.environ, seconds=args.timeout)
    found: list[Checked] = []
    try:
        shown = together_if_skipped(diagnose(read, daemon, seconds=args.timeout), into=found)
        for lines in shown:
            if not args.json:
                print("\n".join(lines), flush=True)
        if args.json:
            print(json.dumps(described(found), indent=2, default=lambda _: None))
        else:
            failed = sum(each.result == "fail" for each in found)
            print(f"{counted(failed, 'check')} failed" if failed else "nothing failed")
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
    return EXIT_NO if any(each.result == "fail" for each in found) else EXIT_OK
