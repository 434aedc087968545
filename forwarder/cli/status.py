"""`status`: how a running daemon is, on one screen: what is wrong, why, and what to do; or as JSON for programs."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments, daemon_of
from forwarder.cli.daemon import DaemonError, StoppedError
from forwarder.cli.options import discard_output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forwarder.cli.daemon import Daemon, DaemonAnswer
    from forwarder.cli.status_screen import Line
    from forwarder.cli.top_rows import Tone

ANSWER_SECONDS: Final = 10
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_COLOURS: Final["Mapping[Tone, str]"] = {"good": "32", "warning": "33", "bad": "1;31", "dim": "2"}
_USUAL_COLUMNS: Final = 80
_DESCRIPTION: Final = """\
Show how a running daemon is: what is wrong, why, and what to do; then the numbers.
On a terminal it fills one screen at most; elsewhere it shows every problem in full.

Exit code: 0 if nothing is bad; 1 if something is, or if no daemon answers."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = _DESCRIPTION
    add_daemon_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the daemon's /v1/status as it is, for programs")


def run(args: argparse.Namespace) -> int:
    """Show the status once. Return 0 if nothing is bad, else 1."""
    try:
        with daemon_of(args) as daemon:
            answer = _ask(daemon)
            code = EXIT_NO if _is_bad(answer) else EXIT_OK
            if args.json:
                _print_json(answer)
            else:
                _print_screen(daemon, answer)
        sys.stdout.flush()
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        return EXIT_NO
    except OSError as error:
        discard_output()  # its reader has seen enough
        if not isinstance(error, BrokenPipeError):
            print(f"status: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_NO
    return code


def _ask(daemon: "Daemon") -> "DaemonAnswer":
    """Return an answer that is a forwarder's status. Raises DaemonError."""
    from forwarder.cli.answers import is_status

    answer = daemon.get("/v1/status", max_answer_bytes=_MAX_ANSWER_BYTES, answer_seconds=ANSWER_SECONDS)
    if answer.status != 200 or answer.text is None or not is_status(answer.content):
        raise daemon.refused(answer)
    return answer


def _is_bad(answer: "DaemonAnswer") -> bool:
    headline = answer.content.get("headline")
    return isinstance(headline, dict) and headline.get("mood") == "bad"


def _print_json(answer: "DaemonAnswer") -> None:
    text = answer.text or b""
    sys.stdout.buffer.write(text if text.endswith(b"\n") else text + b"\n")


def _print_screen(daemon: "Daemon", answer: "DaemonAnswer") -> None:
    from forwarder.cli.answers import StrangeStatusError, read_status
    from forwarder.cli.status_screen import screen

    try:
        status = read_status(answer.content)
    except StrangeStatusError as error:
        raise StoppedError(f"{daemon.place} has a status that cannot be shown: {error}") from error
    columns, rows = _size()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    _print(screen(status, place=str(daemon.place), columns=columns, rows=rows))


def _size() -> tuple[int, int | None]:
    """Return the columns, and the rows but the one for the prompt; no number of rows if it is not a terminal."""
    if not sys.stdout.isatty():
        return _USUAL_COLUMNS, None
    size = os.get_terminal_size(sys.stdout.fileno())
    return size.columns or _USUAL_COLUMNS, max(1, (size.lines or 24) - 1)


def _print(lines: "Sequence[Line]") -> None:
    has_colours = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
    for line in lines:
        colour = _COLOURS.get(line.tone) if has_colours else None
        print(line.text if colour is None else f"\x1b[{colour}m{line.text}\x1b[0m")
