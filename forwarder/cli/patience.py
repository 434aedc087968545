"""Asking a daemon again: when it says to wait, when it cannot be reached, and when an answer was lost.

What is asked must be such that asking twice does no harm, or less than not asking. Used by the commands that are clients.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from forwarder.cli.daemon import AnswerLostError, DaemonAnswer, DaemonError, described_errors

RETRY_SECONDS: Final = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0)
"""How long to wait after each failure in a row to connect, or to get an answer; after that it is given up.

Together longer than a daemon takes to restart, with its drain, by default.
"""
DEFAULT_WAIT_SECONDS: Final = 1
"""If the daemon asks to wait and does not say how long."""


class StoppedError(Exception):
    """There is no point in asking for the rest; the message says why."""


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
