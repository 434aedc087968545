"""A `post` for Delivery that takes as long, and comes to what, a test wants, and remembers every attempt."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from forwarder.growlytics.outcome import DELIVERED, CancelledUnsentError, Outcome, Retryable
from tests.fakes.virtual_time import now


@dataclass
class Attempt:
    """One attempt, as the far side sees it."""

    event: int
    """The event's id, which the bodies of `EventMaker` are."""
    number: int
    """The how-manieth attempt of this event, from 1."""
    began: float
    ended: float | None = None
    """None until it is answered; an attempt that was cancelled has none for good."""


Answer = Outcome | BaseException
Script = Callable[[Attempt], Answer]


class ScriptedPost:
    """Answers every attempt by `script`, after `seconds` of the loop's time; an exception is raised."""

    def __init__(self, script: Script | None = None, *, seconds: float = 0.01) -> None:
        self.script: Script = script or (lambda _: DELIVERED)
        self.seconds = seconds
        self.attempts: list[Attempt] = []
        self.on_wire = 0
        self.most_on_wire = 0
        self.watch: Callable[[], None] = lambda: None
        """Called at the beginning of every attempt."""
        self.unsent = False
        """Whether an attempt that is cancelled has sent nothing."""
        self._numbers: Counter[int] = Counter()

    async def __call__(self, body: bytes, may_leave: Callable[[], bool] | None = None, /) -> Outcome | None:
        if may_leave is not None and not may_leave():
            return None
        event = int(body)
        self._numbers[event] += 1
        attempt = Attempt(event, self._numbers[event], now())
        self.attempts.append(attempt)
        self.on_wire += 1
        self.most_on_wire = max(self.most_on_wire, self.on_wire)
        self.watch()
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            if self.unsent:
                raise CancelledUnsentError from None
            raise
        finally:
            self.on_wire -= 1
        attempt.ended = now()
        answer = self.script(attempt)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def of(self, event: int) -> list[Attempt]:
        """Return the attempts of one event."""
        return [attempt for attempt in self.attempts if attempt.event == event]


def network_error(*, maybe_delivered: bool = False) -> Retryable:
    return Retryable("network", maybe_delivered=maybe_delivered)
