"""`tap`: shows events as they pass through a running daemon, until Ctrl-C, or until the reader of its output leaves.

It asks the daemon again and again for what has happened, over the control socket. If it is too slow, the daemon throws the
oldest lines away and counts them. It exits with 0 if it was told to end, and with 1 if the daemon stopped or was lost.
"""

import argparse
import json
import select
import signal
import sys
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from forwarder.cli import EXIT_NO, EXIT_OK
from forwarder.cli.clients import add_daemon_arguments, daemon_of
from forwarder.cli.daemon import AnswerLostError, Daemon, DaemonAnswer, DaemonError, StoppedError
from forwarder.cli.options import discard_output

if TYPE_CHECKING:
    from forwarder.cli.tap_lines import TapRead

_ANSWER_SECONDS: Final = 15
"""The longest that the daemon may take; it answers a read after a few seconds, if nothing happens."""
_CLOSE_SECONDS: Final = 2
_STALLED_SECONDS: Final = 8.0
"""If the read before began so long ago, the daemon may have ended the tap because of us."""
_NOT_HERE_FIX: Final = (
    "taps are on the control socket alone: use --unix-socket with the path of control.socket, as the daemon's user, root or "
    "a member of control.group"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_daemon_arguments(parser)
    add = parser.add_argument
    add(
        "--payloads",
        action="store_true",
        help="show customers, events and Growlytics' answers, too; the daemon's log says that you do",
    )
    add("--json", action="store_true", help="one JSON object a line, for programs")
    add("--name", metavar="NAME", dest="names", action="append", default=[], help="only this event name; repeatable")
    add("--customer", metavar="ID", dest="customers", action="append", default=[], help="only this one; repeatable")


def run(args: argparse.Namespace) -> int:
    """Show events until told to end; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    watching: Watching | None = None
    try:
        with daemon_of(args) as daemon:
            watching = Watching(
                daemon,
                with_payloads=args.payloads,
                names=args.names,
                customers=args.customers,
                as_json=args.json,
            )
            why = watching.watch()
    except DaemonError as error:
        why = error.explained
    except KeyboardInterrupt:
        why = ""
        if not _has(select.POLLOUT):
            discard_output()  # what is still to be written would keep the process from ending
    except OSError as error:
        discard_output()  # its reader has seen enough, or the terminal is gone
        why = "" if isinstance(error, BrokenPipeError) else f"standard output cannot be written: {error.strerror}"
    if watching is not None:
        watching.close()
    if why:
        print(f"tap: {why}", file=sys.stderr)
        return EXIT_NO
    return EXIT_OK


class Watching:
    """One tap of a daemon, or several, one after the other."""

    def __init__(
        self,
        daemon: Daemon,
        *,
        with_payloads: bool = False,
        names: Sequence[str] = (),
        customers: Sequence[str] = (),
        as_json: bool = False,
    ) -> None:
        self._daemon = daemon
        self._request = json.dumps({"payloads": with_payloads, "names": names, "customers": customers})
        self._as_json = as_json
        self._tap = ""
        self._asked_at = monotonic()
        """When the last read began."""
        self._is_terminal = sys.stdout.isatty()

    def watch(self) -> str:
        """Show what happens until the daemon ends it, and return why it did; empty if the reader of the output left.

        Raise DaemonError, OSError or KeyboardInterrupt if something else ends it.
        """
        from forwarder.cli.tap_lines import HEADINGS

        self._open()
        if not self._as_json:
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="backslashreplace")
            print(HEADINGS, flush=True)
        while not _has(select.POLLERR | select.POLLNVAL):
            answer = self._ask()
            if answer.status in {404, 503}:
                self._tap = ""
                return "the daemon has stopped or was restarted, which ended the tap"
            read = self._read(answer)
            self._show(read)
            if read.ended is not None:
                self._tap = ""
                return "the daemon is stopping" if read.ended == "stopping" else "the daemon ended the tap"
        return ""

    def close(self) -> None:
        """Tell the daemon that nobody reads any more; without that it would notice some seconds later."""
        if self._tap:
            body = json.dumps({"id": self._tap}).encode()
            try:
                with self._daemon as daemon:
                    daemon.post("/v1/tap/close", body, content_type="application/json", answer_seconds=_CLOSE_SECONDS)
            except (DaemonError, KeyboardInterrupt):
                pass

    def _ask(self) -> DaemonAnswer:
        """Return the answer to a read. Open another tap if the daemon may have ended ours because nobody read it."""
        began = monotonic()
        was_late = began - self._asked_at > _STALLED_SECONDS
        path = f"/v1/tap/{self._tap}"
        self._asked_at = began
        try:
            answer = self._daemon.get(path, answer_seconds=_ANSWER_SECONDS)
        except AnswerLostError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            # Mostly because this process was stopped meanwhile. If the daemon hangs, it takes too long again.
            was_late = True
            answer = self._daemon.get(path, answer_seconds=_ANSWER_SECONDS)
            if answer.status == 200:
                self._say_not_shown(None)
        if answer.status == 404 and was_late:
            self._open()
            self._say_not_shown(None)
            answer = self._daemon.get(f"/v1/tap/{self._tap}", answer_seconds=_ANSWER_SECONDS)
        return answer

    def _open(self) -> None:
        answer = self._daemon.post("/v1/tap", self._request.encode(), content_type="application/json")
        if answer.status == 404:
            raise StoppedError(f"{self._daemon.place} has no taps", fix=_NOT_HERE_FIX)
        tap = answer.content.get("id")
        if answer.status != 200 or not isinstance(tap, str) or not tap.isdecimal():
            raise self._daemon.refused(answer)
        self._tap = tap

    def _read(self, answer: DaemonAnswer) -> "TapRead":
        import msgspec

        from forwarder.cli.tap_lines import read

        if answer.status != 200:
            raise self._daemon.refused(answer)
        try:
            return read(answer)
        except msgspec.ValidationError:
            raise self._daemon.strange(answer) from None

    def _show(self, read: "TapRead") -> None:
        from forwarder.cli.tap_lines import for_people, for_programs

        if read.lost:
            self._say_not_shown(read.lost)
        if self._as_json:
            sys.stdout.buffer.write(
                b"".join(for_programs(raw, on_terminal=self._is_terminal) + b"\n" for raw in read.raw)
            )
        else:
            for line, raw in zip(read.lines, read.raw, strict=True):
                print(*for_people(line, raw), sep="\n")
        sys.stdout.flush()

    def _say_not_shown(self, lost: int | None) -> None:
        """Say that some lines are not shown, how many if that is known, as this was too slow."""
        if self._as_json:
            sys.stdout.buffer.write(json.dumps({"lost": lost}).encode() + b"\n")
            sys.stdout.buffer.flush()
        else:
            which = "what happened meanwhile is" if lost is None else f"{lost} line{'' if lost == 1 else 's'} "
            which += "" if lost is None else ("is" if lost == 1 else "are")
            print(f"... {which} not shown: the output was not read in time", flush=True)


def _has(events: int) -> bool:
    """Return whether standard output is in one of these states of poll(2): an error if its reader has left."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), events & select.POLLOUT)
    return any(found & events for _, found in poller.poll(0))
