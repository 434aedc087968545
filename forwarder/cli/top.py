"""`top`: a live view of a running daemon in the terminal, until Ctrl-C, SIGTERM or the key q.

Without a terminal, or with --once, it prints one view and ends. It needs rich, which the daemon does not need; rich is
imported when the command runs.
"""

import argparse
import os
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from queue import SimpleQueue
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments, daemon_of
from forwarder.cli.daemon import Daemon, DaemonError, StoppedError
from forwarder.cli.options import discard_output, print_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

    from forwarder.cli.answers import StatusAnswer
    from forwarder.cli.top_rows import Row, Tone

ANSWER_SECONDS: Final = 5
"""The longest that the daemon may take to answer: a status is small, and a viewer wants to see that the daemon hangs."""

_MAX_ANSWER_BYTES: Final = 1024 * 1024
_MIN_INTERVAL_SECONDS: Final = 0.1
_MAX_INTERVAL_SECONDS: Final = 3600.0
_END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STYLES: Final["dict[Tone, str]"] = {
    "plain": "",
    "good": "green",
    "warning": "yellow",
    "bad": "bold red",
    "dim": "dim",
}
_MIN_LINES_WITH_KEYS: Final = 5
_LOCAL_FLAGS: Final = 3
"""Where termios keeps ECHO and ICANON."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    parser.add_argument(
        "--interval", type=_interval, default=2.0, metavar="SECONDS", help="the time between two views (2)"
    )
    parser.add_argument("--once", action="store_true", help="print one view and end, as without a terminal")
    parser.add_argument(
        "--json", action="store_true", help="print the daemon's whole status as one JSON object and end, for programs"
    )


def run(args: argparse.Namespace) -> int:
    """Show the daemon until interrupted, and return 0; 1 if there is no daemon at the start."""
    if not args.json and find_spec("rich") is None:
        print("top: rich is not installed; pip install 'growlytics-forwarder[top]'", file=sys.stderr)
        return EXIT_CONFIGURATION
    is_live = not args.once and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        with daemon_of(args) as daemon:
            if args.json:
                print_json(_status(daemon))
            else:
                _top(daemon, interval_seconds=args.interval if is_live else None)
        sys.stdout.flush()
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        return EXIT_NO
    except OSError as error:
        discard_output()  # its reader has seen enough, or the terminal is gone
        if not isinstance(error, BrokenPipeError):
            print(f"top: standard output cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_NO
    return EXIT_OK


def _top(daemon: Daemon, *, interval_seconds: float | None) -> None:
    found = _ask(daemon)
    view = _View(str(daemon.place))
    view.take(found)
    to = _console()
    if interval_seconds is None:
        to.print(_table(view.rows(to.size.width)))
        return
    _until_told_to_end(view, _Screen(to), _Asker(daemon, interval_seconds))


def _until_told_to_end(view: "_View", screen: "_Screen", asker: "_Asker") -> None:
    """Draw whatever comes. Signals and answers come as bytes through one pipe, so that none can be missed."""
    woken, waking = os.pipe()
    os.set_blocking(waking, False)
    for number in (*_END_SIGNALS, signal.SIGWINCH, signal.SIGTSTP):
        signal.signal(number, _only_wake)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)

    def suspend() -> None:
        screen.close()
        # As if the signal were not handled: without a shell, as in a container, it does nothing.
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, _only_wake)
        screen.open()

    with screen:  # on any signal from here on, the terminal is restored
        screen.draw(view.rows)
        asker.start(waking)
        keys = [sys.stdin.fileno()] if screen.reads_keys else []
        while True:
            readable, _, _ = select.select([woken, *keys], [], [])
            came = os.read(woken, 1024) if woken in readable else b""
            typed = os.read(keys[0], 1024) if keys and keys[0] in readable else None
            if not {*_END_SIGNALS}.isdisjoint(came) or typed == b"" or b"q" in (typed or b"").lower():
                return
            if signal.SIGTSTP in came:
                suspend()
            while not asker.answers.empty():
                view.take(asker.answers.get())
            if came:
                screen.draw(view.rows)


def _only_wake(*_: object) -> None:
    """Handle a signal: its number is in the pipe already."""


class Snapshot(NamedTuple):
    """An answer, and when it came."""

    at: float
    """Seconds of any clock."""
    status: "StatusAnswer"


class _Asker:
    """Asks the daemon again and again, in a thread, as an answer may take long while keys are typed."""

    def __init__(self, daemon: Daemon, interval_seconds: float) -> None:
        self.answers: Final[SimpleQueue[Snapshot | Exception]] = SimpleQueue()
        self._daemon = daemon
        self._interval_seconds = interval_seconds

    def start(self, waking: int) -> None:
        """Begin, and write a zero byte to a pipe for each of the answers."""
        threading.Thread(target=self._run, args=(waking,), name="asker", daemon=True).start()

    def _run(self, waking: int) -> None:
        while True:
            time.sleep(self._interval_seconds)
            try:
                self.answers.put(_ask(self._daemon))
            except Exception as error:  # noqa: BLE001 - the main thread raises it
                self.answers.put(error)
            os.write(waking, b"\0")


class _View:
    """The last answer of the daemon, and why there is no newer one."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._now: Snapshot | None = None
        self._why = ""
        """Why the last request failed; empty if it did not."""

    def take(self, found: Snapshot | Exception) -> None:
        """Show a new answer. If there is none, keep the last one; raise what is no DaemonError."""
        if isinstance(found, DaemonError):
            self._why = str(found)
        elif isinstance(found, Exception):
            raise found
        else:
            self._now = found
            self._why = ""

    def rows(self, columns: int) -> "list[Row]":
        """Return the rows to show."""
        from forwarder.cli.top_rows import Trouble, rows

        assert self._now is not None, "ask first"
        return rows(
            self._now.status,
            place=self._place,
            trouble=Trouble(monotonic() - self._now.at, self._why) if self._why else None,
            unix_seconds=time.time(),
            columns=columns,
        )


def _ask(daemon: Daemon) -> Snapshot:
    """Ask once. Raises DaemonError."""
    from forwarder.cli.answers import StrangeStatusError, read_status

    content = _status(daemon)
    try:
        return Snapshot(monotonic(), read_status(content))
    except StrangeStatusError as error:
        raise StoppedError(f"{daemon.place} has a status that cannot be shown: {error}") from error


def _status(daemon: Daemon) -> Mapping[str, object]:
    """Ask once, and return the content of the status, of which nothing is checked. Raises DaemonError."""
    from forwarder.cli.answers import is_status

    answer = daemon.get("/v1/status", max_answer_bytes=_MAX_ANSWER_BYTES, answer_seconds=ANSWER_SECONDS)
    if answer.status != 200 or not is_status(answer.content):
        raise daemon.refused(answer)
    return answer.content


def _console() -> "Console":
    """Return a console for standard output, whatever its encoding; NO_COLOR and the terminal decide about colours."""
    from rich.console import Console

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, markup=False, emoji=False)


def _table(rows: "Sequence[Row]") -> "Table":
    """Return the rows as a table of rich."""
    from rich.table import Table
    from rich.text import Text

    from forwarder.cli.top_rows import LABEL_COLUMNS

    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(width=LABEL_COLUMNS - 1, no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    for row in rows:
        # Text, not a string: nothing in it is markup.
        grid.add_row(Text(row.label, style="bold"), Text(row.text, style=_STYLES[row.tone]))
    return grid


class _WithKeys:
    """A view with the keys on the last line; without them where there is hardly room for the view."""

    def __init__(self, view: "Table", *, reads_keys: bool) -> None:
        self._view = view
        self._keys = f"{'q quit   ' if reads_keys else ''}Ctrl-C quit   Ctrl-Z suspend"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """Return what rich is to draw."""
        from rich.segment import Segment, Segments
        from rich.text import Text

        height = options.size.height
        if height < _MIN_LINES_WITH_KEYS:
            yield self._view
            return
        for line in console.render_lines(self._view, options.update_height(height - 1)):
            yield Segments([*line, Segment.line()])
        yield Text(self._keys, style="dim", no_wrap=True, overflow="crop")


class _Screen:
    """The terminal while `top` uses it: the alternate screen, no cursor, keys neither echoed nor kept for the shell.

    Standard output must be a terminal; if standard input is one too, keys can be read. `close` undoes everything.
    """

    def __init__(self, to: "Console") -> None:
        self._console = to
        self._modes: list[Any] | None = None
        self._is_open = False

    @property
    def reads_keys(self) -> bool:
        """Whether typed keys can be read."""
        return sys.stdin.isatty()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Change the terminal."""
        self._is_open = True
        if self.reads_keys:
            self._modes = termios.tcgetattr(sys.stdin)
            ours = list(self._modes)
            ours[_LOCAL_FLAGS] &= ~(termios.ECHO | termios.ICANON)  # Ctrl-C and Ctrl-Z stay signals
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, ours)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def close(self) -> None:
        """Restore the terminal. May be called again."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        finally:
            if self._modes is not None:
                # Discard typed keys, which were not meant for the shell.
                termios.tcsetattr(sys.stdin, termios.TCSAFLUSH, self._modes)

    def draw(self, rows: "Callable[[int], Sequence[Row]]") -> None:
        """Fill the screen with the rows for its width; the bottom is cut if they do not fit."""
        # The current size of the terminal: rich would believe COLUMNS and LINES, which do not change.
        size = os.get_terminal_size(sys.stdout.fileno())
        self._console.size = (size.columns or 80, size.lines or 24)
        self._console.update_screen(_WithKeys(_table(rows(self._console.size.width)), reads_keys=self.reads_keys))


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_INTERVAL_SECONDS <= seconds <= _MAX_INTERVAL_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be a number from {_MIN_INTERVAL_SECONDS:g} to {_MAX_INTERVAL_SECONDS:g}"
        )
    return seconds
