"""Holds: while there is any cause to hold, only one probe at a time is sent. Pure, with times given by the caller.

No probe starts before the latest of the causes' times. A delivered probe clears every cause. Each failed probe makes the
next one wait longer, from `probe_initial_seconds` to `probe_max_seconds`. Jitter never makes a wait longer than its limit.
Times are seconds of the event loop's clock.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forwarder.settings import DeliverySettings
from forwarder.words import HoldCause

MAX_RETRY_AFTER_SECONDS: Final = 300.0
_JITTER: Final = 0.25
"""A wait for a probe is shorter by up to this share, and a Retry-After longer, so that not all forwarders come at once."""


@dataclass(frozen=True, slots=True)
class HoldStarted:
    """There is a new cause, because of which no probe starts for so many seconds."""

    cause: HoldCause
    seconds: float


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """A cause is gone, after so many seconds."""

    cause: HoldCause
    seconds: float


class Holds:
    """The causes to hold, and when the next probe may start. `random_share` returns numbers from 0 to 1."""

    def __init__(self, settings: DeliverySettings, *, random_share: Callable[[], float] = random.random) -> None:
        self._random_share = random_share
        self.causes: dict[HoldCause, float] = {}
        """The causes, and since when there is each; changed here alone."""
        self.use(settings)
        self._next_probe_at = 0.0
        self._early_probe_at = 0.0
        self._retry_after_until = 0.0
        self._probing = False
        self._news: list[HoldStarted | HoldEnded] = []
        self.has_news = False
        """Whether `news` has something to tell."""

    def use(self, settings: DeliverySettings) -> None:
        """Use other settings from the next wait on."""
        self._initial_seconds = settings.probe_initial_seconds
        self._max_seconds = settings.probe_max_seconds
        if not self.causes:
            self._interval_seconds = self._initial_seconds

    @property
    def probe_at(self) -> float | None:
        """When the next probe may start; None without a hold, and while a probe is under way."""
        if not self.causes or self._probing:
            return None
        return max(self._next_probe_at, self._retry_after_until)

    @property
    def early_probe_at(self) -> float | None:
        """The same for a lane not yet tried. It waits for the initial interval only, however long the interval is by now."""
        if not self.causes or self._probing:
            return None
        return max(min(self._early_probe_at, self._next_probe_at), self._retry_after_until)

    def hold(self, cause: HoldCause, now: float, *, seconds: float | None = None) -> None:
        """Add a cause, or prolong it. `seconds` is that of Retry-After, if the far side sent one."""
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
        """Remove a cause, if there is that one."""
        if (since := self.causes.pop(cause, None)) is not None:
            self._news.append(HoldEnded(cause, now - since))
            self.has_news = True
        if not self.causes:
            self._interval_seconds = self._initial_seconds
            self._next_probe_at = self._early_probe_at = self._retry_after_until = 0.0

    def probe_started(self) -> None:
        """Note that a probe is under way."""
        self._probing = True

    def probe_cancelled(self) -> None:
        """Note that the probe ended without an outcome."""
        self._probing = False

    def probe_failed(self, now: float) -> None:
        """Let the next probe wait longer, as this one was not delivered."""
        self._probing = False
        if self.causes:
            self._interval_seconds = min(2 * self._interval_seconds, self._max_seconds)
            jitter = self._jitter()
            self._next_probe_at = now + self._interval_seconds * jitter
            self._early_probe_at = now + self._initial_seconds * jitter

    def probe_delivered(self, now: float) -> None:
        """Remove all causes, as the probe was delivered."""
        self._probing = False
        for cause in tuple(self.causes):
            self.clear(cause, now)

    def probe_soon(self, now: float) -> None:
        """Let a probe start at once, as the cause may be fixed; but not before a Retry-After ends."""
        self._interval_seconds = self._initial_seconds
        self._next_probe_at = now

    def news(self) -> list[HoldStarted | HoldEnded]:
        """Return which causes came and went since the last call."""
        news, self._news, self.has_news = self._news, [], False
        return news

    def _jitter(self) -> float:
        return 1 - _JITTER * self._random_share()
