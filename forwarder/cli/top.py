"""`top`: a live view of a running daemon in the terminal, until Ctrl-C, SIGTERM or the key q.

Where there is no terminal, or with --once, it prints what it sees once. It needs rich, which the daemon does not.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments, daemon_of
from forwarder.cli.daemon import AnswerLostError, Daemon, DaemonError, StoppedError
from forwarder.cli.options import discard_output

if TYPE_CHECKING:
    from forwarder.cli.top_rows import Row, Snapshot
    from forwarder.cli.top_screen import Screen

ANSWER_SECONDS: Final = 5
"""The longest that the daemon may take: a status is small, and whoever watches wants to see that it hangs."""

_MAX_ANSWER_BYTES: Final = 1024 * 1024
_MIN_INTERVAL_SECONDS: Final = 0.1
_MAX_INTERVAL_SECONDS: Final = 3600.0
_END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="SECONDS", help="how long until it is asked again (2)"
    )
    parser.add_argument("--once", action="store_true", help="print what there is to see and end, as without a terminal")


def run(args: argparse.Namespace) -> int:
    """Show the daemon until interrupted, and return 0; 1 if there is no daemon at the start."""
    if find_spec("rich") is None:
        print("top: rich is not installed; pip install 'growlytics-forwarder[top]'", file=sys.stderr)
        return EXIT_CONFIGURATION
    is_live = not args.once and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        asyncio.run(_top(daemon_of(args), interval_seconds=args.interval if is_live else None))
        sys.stdout.flush()
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        return EXIT_NO
    except OSError as error:
        discard_output()  # whoever read it has seen enough, or the terminal is gone
        if not isinstance(error, BrokenPipeError):
            print(f"top: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_NO
    return EXIT_OK


async def _top(daemon: Daemon, *, interval_seconds: float | None) -> None:
    from forwarder.cli.top_screen import Screen, console, table

    async with daemon:
        view = _View(daemon)
        await view.ask()
        to = console()
        if interval_seconds is None:
            to.print(table(view.rows(to.size.width)))
            return
        await _until_told_to_end(view, Screen(to), interval_seconds)


async def _until_told_to_end(view: "_View", screen: "Screen", interval_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    watching = asyncio.create_task(_watch(view, screen, interval_seconds), name="watch")

    def draw() -> None:
        screen.draw(view.rows)

    def suspend() -> None:
        screen.close()
        # As if nobody handled it: where there is no shell to go on with, as in a container, it does nothing.
        loop.remove_signal_handler(signal.SIGTSTP)
        signal.raise_signal(signal.SIGTSTP)
        loop.add_signal_handler(signal.SIGTSTP, suspend)
        screen.open()
        draw()

    def typed() -> None:
        keys = os.read(sys.stdin.fileno(), 1024)
        if not keys or b"q" in keys.lower():
            watching.cancel()

    for number in _END_SIGNALS:
        loop.add_signal_handler(number, watching.cancel)
    loop.add_signal_handler(signal.SIGWINCH, draw)
    loop.add_signal_handler(signal.SIGTSTP, suspend)
    with screen:  # from here on a signal has somebody to undo it
        if screen.reads_keys:
            loop.add_reader(sys.stdin.fileno(), typed)
        await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()  # it ends by an error only


async def _watch(view: "_View", screen: "Screen", interval_seconds: float) -> None:
    while True:
        screen.draw(view.rows)
        await asyncio.sleep(interval_seconds)
        await view.ask_again()


class _View:
    """What is known of the daemon: the last two answers, and since when there have been no newer ones."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._now: Snapshot | None = None
        self._earlier: Snapshot | None = None
        self._why = ""
        """Why there is no newer answer; empty if there is."""

    async def ask(self) -> None:
        """Ask once. Raises DaemonError."""
        found = await _ask(self._daemon)
        self._earlier, self._now = self._now, found
        self._why = ""

    async def ask_again(self) -> None:
        """Ask once; if that comes to nothing, what was known is kept."""
        try:
            await self.ask()
        except DaemonError as error:
            self._why = str(error)

    def rows(self, columns: int) -> "list[Row]":
        """Return what is to be shown."""
        from forwarder.cli.top_rows import Trouble, rows

        assert self._now is not None, "ask first"
        return rows(
            self._now,
            self._earlier,
            place=str(self._daemon.place),
            trouble=Trouble(monotonic() - self._now.at, self._why) if self._why else None,
            unix_seconds=time.time(),
            columns=columns,
        )


async def _ask(daemon: Daemon) -> "Snapshot":
    from forwarder.cli.answers import StrangeStatusError, is_status, read_status
    from forwarder.cli.top_rows import Snapshot

    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await daemon.get("/v1/status", max_answer_bytes=_MAX_ANSWER_BYTES)
    except TimeoutError as error:
        message = f"{daemon.place} gave no answer within {ANSWER_SECONDS} s"
        raise AnswerLostError(message, fix="try again; if it stays so, the daemon hangs") from error
    if answer.status != 200 or not is_status(answer.content):
        raise daemon.refused(answer)
    try:
        return Snapshot(monotonic(), read_status(answer.content))
    except StrangeStatusError as error:
        raise StoppedError(f"{daemon.place} has a status that cannot be shown: {error}") from error


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_INTERVAL_SECONDS <= seconds <= _MAX_INTERVAL_SECONDS:
        raise argparse.ArgumentTypeError(f"a number from {_MIN_INTERVAL_SECONDS:g} to {_MAX_INTERVAL_SECONDS:g}")
    return seconds
