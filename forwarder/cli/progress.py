"""What clients of a daemon share: showing how far they are, and asking again.

A request is repeated when the daemon says to wait, when it cannot be reached, and when an answer was lost. So asking twice
must do no harm, or less than not asking.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from time import monotonic
from typing import Final, NamedTuple, TextIO

from forwarder.cli.daemon import AnswerLostError, DaemonAnswer, DaemonError, described_errors

BAR_SECONDS: Final = 0.1
LINE_SECONDS: Final = 5
"""How often progress is shown, at most: on a terminal, and elsewhere."""
RETRY_SECONDS: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0)
"""How long to wait after each failure in a row to connect, or to get an answer; after that it is given up.

Together longer than a daemon takes to restart, with its drain, by default.
"""
DEFAULT_WAIT_SECONDS: Final = 1
"""If the daemon asks to wait and does not say how long."""


class Ticker:
    """Shows how far it is: a bar on a terminal, else a line now and then. What is said otherwise goes above the bar."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._every_seconds = BAR_SECONDS if self._is_terminal else LINE_SECONDS
        self._began = clock()
        self._shown = self._began
        self._noted = -inf

    def tell(self, text: str, *, bar: str = "", note: str = "") -> None:
        """Show it, unless that was done a moment ago; a bar always shows a note, which is why nothing moves."""
        now = self._clock()
        since_seconds = now - (self._noted if note else self._shown)
        if since_seconds < self._every_seconds and not (note and self._is_terminal):
            return
        self._shown = now
        self._noted = now if note else self._noted
        text = f"{note}; {text}" if note else text  # in this order, as a narrow terminal cuts the end
        if self._is_terminal:
            columns = _columns(self._stream)
            self._write(f"\r\x1b[K{f'{bar} {text}'[: columns - 1]}")
        else:
            self._write(f"{text}\n")

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self.clear()
        self._write(f"{line}\n")

    def clear(self) -> None:
        """Take the bar away."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def progress_bar(done: int, total: int | None) -> str:
    """Return the bar with its per cent; nothing if the total is not known."""
    if not total:
        return ""
    share = min(done / total, 1.0)  # the file may grow
    return f"[{'#' * int(share * 20):<20}] {int(share * 100):>3} %"


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


class TryLater(NamedTuple):
    """The daemon has no room now, or is stopping."""

    seconds: float
    why: str


class Answered(NamedTuple):
    """An answer that is not to wait."""

    answer: DaemonAnswer
    lost: int
    """How many answers were lost before, each of which may have been this one."""


def later(answer: DaemonAnswer) -> TryLater | None:
    """Return for how long the daemon asks to wait, and why; None if it does not."""
    if answer.status not in {429, 503}:
        return None
    errors = described_errors(answer.content)
    seconds = DEFAULT_WAIT_SECONDS if answer.retry_after_seconds is None else answer.retry_after_seconds
    return TryLater(max(seconds, RETRY_SECONDS[0]), errors[0] if errors else f"answered {answer.status}")


class Patience:
    """Asks until there is an answer."""

    def __init__(
        self,
        *,
        say: Callable[[str], object],
        note: Callable[[str], object],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        """`say` is told of each failure, `note` why nothing moves."""
        self._say = say
        self._note = note
        self._sleep = sleep
        self._retry_seconds = retry_seconds

    async def answer(self, ask: Callable[[], Awaitable[DaemonAnswer]], *, doing: str, doubt: str = "") -> Answered:
        """Ask, again and again if need be. Raises DaemonError if too many attempts in a row come to nothing.

        `doing` says what is done each time, and `doubt` what a lost answer leaves open.
        """
        failures = lost = 0
        while True:
            try:
                answer = await ask()
            except DaemonError as error:
                if failures == len(self._retry_seconds):
                    raise
                is_lost = isinstance(error, AnswerLostError)
                lost += is_lost
                seconds = self._retry_seconds[failures]
                self._say(f"{error}{f'; {doubt}' if is_lost and doubt else ''}; {doing} again in {seconds:g} s")
                await self._sleep(seconds)
                failures += 1
                continue
            wait = later(answer)
            if wait is None:
                return Answered(answer, lost)
            failures = 0
            self._note(f"waiting {wait.seconds:g} s: {wait.why}")
            await self._sleep(wait.seconds)
