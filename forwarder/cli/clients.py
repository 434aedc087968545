"""What the commands that talk to a daemon share: arguments that say where it is, their actions, and asking again."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from time import sleep
from typing import Final, NamedTuple

from forwarder.cli import EXIT_CONFIGURATION, EXIT_NO
from forwarder.cli.daemon import (
    AnswerLostError,
    Daemon,
    DaemonAnswer,
    DaemonError,
    add_url_argument,
    described_errors,
)
from forwarder.cli.options import add_config_arguments, discard_output

RETRY_SECONDS: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0)
"""The wait after each failure in a row to connect or to get an answer; after the last, the command stops.

Together they are longer than a daemon with default settings takes to restart, drain included.
"""
MAX_LISTED_ERRORS: Final = 5
"""For one event."""
DEFAULT_WAIT_SECONDS: Final = 1
"""Used if the daemon asks to wait and does not say how long."""


# Where the daemon is


def add_daemon_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, `--set`, `--url` and `--unix-socket`, which say where the daemon is, and `--token-file`."""
    group = parser.add_argument_group("where the daemon is", "by default it is found where daemons usually are")
    add_config_arguments(group)
    parser.set_defaults(config=None)
    place = group.add_mutually_exclusive_group()
    add_url_argument(place, "the daemon's intake.http; instead of --config")
    place.add_argument(
        "--unix-socket", metavar="PATH", help="the daemon's control.socket or intake.unix_socket; instead of --config"
    )
    group.add_argument("--token-file", metavar="FILE", help="a file with the daemon's token, if it needs one")


def daemon_of(args: argparse.Namespace, *, changes: bool = False) -> Daemon:
    """Return the daemon that the arguments name, or else the one to be found; exit with 78 if they cannot be used.

    A command that `changes` something never does so at another daemon than the one that the environment means.
    """
    from forwarder.cli.finding import UnusableError, find

    try:
        return Daemon(*find(args, os.environ, changes=changes))
    except UnusableError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_CONFIGURATION) from None


# Actions


def actions_of(
    parser: argparse.ArgumentParser,
) -> Callable[[str, str, Callable[[argparse.Namespace], int]], argparse.ArgumentParser]:
    """Return a function that adds an action to a command: its name, a summary and what it does."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, summary: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=summary, description=summary)
        add_daemon_arguments(action)
        action.set_defaults(run_action=run)
        return action

    return add


def run_action(args: argparse.Namespace) -> int:
    """Run the chosen action and return its exit code. If the daemon does not do it, say why and return 1."""
    try:
        code: int = args.run_action(args)
        sys.stdout.flush()
    except DaemonError as error:
        print(error.explained, file=sys.stderr)
        return EXIT_NO
    except BrokenPipeError:
        discard_output()
        return EXIT_NO
    return code


# Asking again


class TryLater(NamedTuple):
    """The daemon has no room now, or is stopping."""

    seconds: float
    why: str


class Answered(NamedTuple):
    """An answer that does not ask to wait."""

    answer: DaemonAnswer
    lost: int
    """How many answers were lost before this one; the daemon may have done what was asked each time."""


def later(answer: DaemonAnswer) -> TryLater | None:
    """Return how long the daemon asks to wait, and why; None if it does not."""
    if answer.status not in {429, 503}:
        return None
    errors = described_errors(answer.content)
    seconds = DEFAULT_WAIT_SECONDS if answer.retry_after_seconds is None else answer.retry_after_seconds
    return TryLater(max(seconds, RETRY_SECONDS[0]), errors[0] if errors else f"answered {answer.status}")


class Patience:
    """Asks until there is an answer.

    It asks again when the daemon says to wait, when it cannot be reached, and when an answer was lost. So asking twice must
    do no harm, or less harm than not asking.
    """

    def __init__(
        self,
        *,
        say: Callable[[str], object],
        note: Callable[[str], object],
        sleep: Callable[[float], object] = sleep,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        """`say` prints each failure, `note` shows why nothing moves."""
        self._say = say
        self._note = note
        self._sleep = sleep
        self._retry_seconds = retry_seconds

    def answer(self, ask: Callable[[], DaemonAnswer], *, doing: str, doubt: str = "") -> Answered:
        """Ask until there is an answer. Raises DaemonError if too many attempts in a row fail.

        For messages, `doing` says what is asked, and `doubt` what is unknown after a lost answer.
        """
        failures = lost = 0
        while True:
            try:
                answer = ask()
            except DaemonError as error:
                if failures == len(self._retry_seconds):
                    raise
                is_lost = isinstance(error, AnswerLostError)
                lost += is_lost
                seconds = self._retry_seconds[failures]
                self._say(f"{error}{f'; {doubt}' if is_lost and doubt else ''}; {doing} again in {seconds:g} s")
                self._sleep(seconds)
                failures += 1
                continue
            wait = later(answer)
            if wait is None:
                return Answered(answer, lost)
            failures = 0
            self._note(f"waiting {wait.seconds:g} s: {wait.why}")
            self._sleep(wait.seconds)


def in_one_line(errors: Sequence[str]) -> str:
    """Return the first errors, and how many more there are, as one line."""
    more = f"; and {len(errors) - MAX_LISTED_ERRORS} more" if len(errors) > MAX_LISTED_ERRORS else ""
    return f"{'; '.join(errors[:MAX_LISTED_ERRORS])}{more}"
