"""Holds: while there is any cause, nothing is sent but one probe at a time. Pure, with times given by the caller.

No probe goes before the latest of the causes' times. A delivered probe clears every cause; each that fails makes the next
one wait longer, from `probe_initial_seconds` to `probe_max_seconds`. Jitter never makes a wait longer than its limit. Times
are seconds of the event loop's clock.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forwarder.settings import DeliverySettings
from forwarder.words import HoldCause

MAX_RETRY_AFTER_SECONDS: Final = 300.0
_JITTER: Final = 0.25
"""A wait for a probe is up to this share shorter than it may be, and one that was asked for is longer, so that not all
forwarders come at once.
"""


@dataclass(frozen=True, slots=True)
class HoldStarted:
    """There is a new cause; there is no probe because of it for so long."""

    cause: HoldCause
    seconds: float


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """A cause is gone, after so long."""

    cause: HoldCause
    seconds: float


class Holds:
    """The causes that hold, and when the next probe may go. `random_share` gives numbers from 0 to 1."""

    def __init__(self, settings: DeliverySettings, *, random_share: Callable[[], float] = random.random) -> None:
        self._random_share = random_share
        self.causes: dict[HoldCause, float] = {}
        """What holds, and since when; changed here alone."""
        self.use(settings)
        self._next_probe_at = 0.0
        self._early_probe_at = 0.0
        self._retry_after_until = 0.0
        self._probing = False
        self._news: list[HoldStarted | HoldEnded] = []
        self.has_news = False
        """Whether `news` has something to tell."""

    def use(self, settings: DeliverySettings) -> None:
        """Go by other settings from the next wait on."""
        self._initial_seconds = settings.probe_initial_seconds
        self._max_seconds = settings.probe_max_seconds
        if not self.causes:
            self._interval_seconds = self._initial_seconds

    @property
    def probe_at(self) -> float | None:
        """From when on a probe may go; None if nothing holds, or while one is under way."""
        if not self.causes or self._probing:
            return None
        return max(self._next_probe_at, self._retry_after_until)

    @property
    def early_probe_at(self) -> float | None:
        """The same for a lane not yet tried: after the initial interval, however long the interval is by now."""
        if not self.causes or self._probing:
            return None
        return max(min(self._early_probe_at, self._next_probe_at), self._retry_after_until)

    def hold(self, cause: HoldCause, now: float, *, seconds: float | None = None) -> None:
        """Add a cause, or prolong it; `seconds` is how long the far side asked to be left alone, if it did."""
        until = self._next_probe_at
        if seconds is not None:
            until = now + min(seconds * (1 + _JITTER * self._random_share()), MAX_RETRY_AFTER_SECONDS)
            until = self._retry_after_until = max(until, self._retry_after_until)
        elif cause not in self.causes:
            until = self._next_probe_at = max(self._next_probe_at, now + self._interval_seconds * self._jitter())
            if not self.causes:
                self._early_probe_at = until
        if cause not in self.causes:
            self.causes[cause] = now
            self._news.append(HoldStarted(cause, until - now))
            self.has_news = True

    def clear(self, cause: HoldCause, now: float) -> None:
        """Remove one cause, if it is there."""
        if (since := self.causes.pop(cause, None)) is not None:
            self._news.append(HoldEnded(cause, now - since))
            self.has_news = True
        if not self.causes:
            self._interval_seconds = self._initial_seconds
            self._next_probe_at = self._early_probe_at = self._retry_after_until = 0.0

    def probe_started(self) -> None:
        """A probe is under way."""
        self._probing = True

    def probe_cancelled(self) -> None:
        """It came to nothing that is known."""
        self._probing = False

    def probe_failed(self, now: float) -> None:
        """It was not delivered: the next one waits longer."""
        self._probing = False
        if self.causes:
            self._interval_seconds = min(2 * self._interval_seconds, self._max_seconds)
            jitter = self._jitter()
            self._next_probe_at = now + self._interval_seconds * jitter
            self._early_probe_at = now + self._initial_seconds * jitter

    def probe_delivered(self, now: float) -> None:
        """It was delivered: nothing holds any more."""
        self._probing = False
        for cause in tuple(self.causes):
            self.clear(cause, now)

    def probe_soon(self, now: float) -> None:
        """The cause may have been fixed: a probe may go at once, unless the far side asked to be left alone."""
        self._interval_seconds = self._initial_seconds
        self._next_probe_at = now

    def news(self) -> list[HoldStarted | HoldEnded]:
        """Return what started and ended since the last call."""
        news, self._news, self.has_news = self._news, [], False
        return news

    def _jitter(self) -> float:
        return 1 - _JITTER * self._random_share()
