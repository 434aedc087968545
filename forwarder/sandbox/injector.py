"""What happens to one request: the sandbox's decision, from the fault settings, chance and the clock.

Pure: the random numbers and the clock are injected, so the same seed gives the same decisions again, in the order of the
requests. Only the sandbox and tests import this module.
"""

import enum
from random import Random
from typing import Final, NamedTuple

from forwarder.event import Clock
from forwarder.sandbox.faults import Faults

_BURST_SECONDS: Final = 0.1


class Action(enum.Enum):
    """What happens to one request."""

    SERVE = enum.auto()
    FAIL = enum.auto()
    LIMIT = enum.auto()
    SUCCESS_FALSE = enum.auto()
    RESET_BEFORE_READ = enum.auto()
    RESET_AFTER_READ = enum.auto()
    RESET_AFTER_STORE = enum.auto()
    HANG = enum.auto()


class Decision(NamedTuple):
    """What happens to one request, and when."""

    action: Action
    status: int = 200
    """Of the answer, when the action is FAIL or LIMIT."""
    delay_seconds: float = 0
    """How long to wait once the request was read."""


_SERVE: Final = Decision(Action.SERVE)
_ACTIONS: Final = {  # the shares of `sandbox_faults.SHARES`
    "reset_before_read_rate": Action.RESET_BEFORE_READ,
    "hang_rate": Action.HANG,
    "reset_after_read_rate": Action.RESET_AFTER_READ,
    "fail_rate": Action.FAIL,
    "success_false_rate": Action.SUCCESS_FALSE,
    "reset_after_store_rate": Action.RESET_AFTER_STORE,
}


class FaultInjector:
    """Decides for each request, in the order of their arrival, what happens to it."""

    def __init__(self, faults: Faults, *, random: Random, clock: Clock) -> None:
        self._random = random
        self._clock = clock
        self._bucket = TokenBucket(faults.rate_limit_per_second, clock())
        self._use(faults)

    @property
    def faults(self) -> Faults:
        """The settings in force; they may be set at any time and hold from the next request on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        if faults.rate_limit_per_second != self._faults.rate_limit_per_second:
            self._bucket = TokenBucket(faults.rate_limit_per_second, self._clock())
        self._use(faults)

    def _use(self, faults: Faults) -> None:
        self._faults = faults
        self._shares = _cumulated(faults)
        self._has_delay = bool(faults.latency_ms or faults.jitter_ms)
        self._has_none = not (self._shares or self._has_delay or faults.down or faults.rate_limit_per_second)

    def decide(self) -> Decision:
        """Return what happens to the request that came now."""
        if self._has_none:
            return _SERVE
        delay_seconds = self._delay_seconds() if self._has_delay else 0
        if self._faults.down:
            return Decision(Action.FAIL, self._faults.fail_status, delay_seconds)
        if self._faults.rate_limit_per_second and not self._bucket.take(self._clock()):
            return Decision(Action.LIMIT, 429, delay_seconds)
        action = self._action()
        return Decision(action, self._status() if action is Action.FAIL else 200, delay_seconds)

    def _delay_seconds(self) -> float:
        jitter_ms = self._faults.jitter_ms * self._random.random() if self._faults.jitter_ms else 0
        return (self._faults.latency_ms + jitter_ms) / 1000

    def _action(self) -> Action:
        if self._shares:
            drawn = self._random.random()
            for bound, action in self._shares:
                if drawn < bound:
                    return action
        return Action.SERVE

    def _status(self) -> int:
        weights = self._faults.fail_statuses
        if not weights:
            return self._faults.fail_status
        return self._random.choices(list(weights), list(weights.values()))[0]


class TokenBucket:
    """Lets `rate_per_second` requests pass, and bursts of a tenth of a second's worth, at least one."""

    def __init__(self, rate_per_second: float, now: float) -> None:
        self._rate_per_second = rate_per_second
        self._capacity = max(1.0, rate_per_second * _BURST_SECONDS)
        self._tokens = self._capacity
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Return whether a request at `now`, in seconds of a clock that never goes back, may pass."""
        self._tokens = min(self._capacity, self._tokens + (now - self._filled_at) * self._rate_per_second)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _cumulated(faults: Faults) -> tuple[tuple[float, Action], ...]:
    """Return the actions that may be drawn, each with the upper bound of its part of the interval from 0 to 1."""
    bound, cumulated = 0.0, []
    for name, action in _ACTIONS.items():
        if share := getattr(faults, name):
            bound += share
            cumulated.append((bound, action))
    return tuple(cumulated)
