"""The sandbox's faults: their settings, how they change while it runs, and what they do to each request.

Pure: the random numbers and the clock are injected, so the same seed makes the same decisions, in the order of the
requests. Only the sandbox, its command and tests import this module.
"""

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from email.utils import formatdate
from itertools import accumulate
from random import Random
from typing import Any, Final, Literal, NamedTuple, get_args

from forwarder.event import Clock

RetryAfter = Literal["none", "seconds", "date"]

_STATUSES_WITH_RETRY_AFTER: Final = frozenset({429, 503})
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


_ACTIONS: Final = {
    "reset_before_read_rate": Action.RESET_BEFORE_READ,
    "hang_rate": Action.HANG,
    "reset_after_read_rate": Action.RESET_AFTER_READ,
    "fail_rate": Action.FAIL,
    "success_false_rate": Action.SUCCESS_FALSE,
    "reset_after_store_rate": Action.RESET_AFTER_STORE,
}
SHARES: Final = tuple(_ACTIONS)
"""The settings that are shares of all requests."""


class InvalidFault(NamedTuple):
    """One reason why fault settings cannot be used."""

    code: Literal["unknown_fault", "invalid_fault"]
    field: str | None
    """The setting; None when several together are wrong."""
    message: str


def _setting(default: object, must: str, fits: Callable[[Any], bool]) -> Any:
    """Declare a setting: its default, what an error says it must be, and whether a value is that."""
    return field(default_factory=lambda: default, metadata={"must": must, "fits": fits})


def _is_number(value: object, most: float) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and 0 <= value <= most


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_weighted(value: object) -> bool:
    return isinstance(value, Mapping) and (
        all(_is_whole(status, 201, 599) and _is_number(weight, 1_000_000) for status, weight in value.items())
        and (not value or any(value.values()))
    )


def _number(most: float) -> Any:
    return _setting(0, f"a number from 0 to {most:,}", lambda value: _is_number(value, most))


def _whole_number(default: int, least: int, most: int) -> Any:
    return _setting(default, f"a whole number from {least} to {most:,}", lambda value: _is_whole(value, least, most))


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and how often. By default nothing does.

    Each `*_rate` is a share of all requests, 0 to 1. They exclude one another, so their sum is at most 1. Raises
    ValueError, naming every setting that is out of its range.
    """

    latency_ms: float = _number(3_600_000)
    """How long every answer, failure or reset waits after the request was read. Milliseconds."""
    jitter_ms: float = _number(3_600_000)
    """The most that is added to the latency, drawn uniformly. Milliseconds."""
    fail_rate: float = _number(1)
    """Share answered with `fail_status` or one of `fail_statuses`, not stored."""
    fail_status: int = _whole_number(503, 201, 599)
    """The status of an injected failure."""
    fail_statuses: Mapping[int, float] = _setting(
        {}, "a table of statuses from 201 to 599 and their weights, at least one of them above 0", _is_weighted
    )
    """If not empty, used instead of `fail_status`: status to its weight among the failures that `fail_rate` injects."""
    success_false_rate: float = _number(1)
    """Share answered 200 with `{"success":false}`, not stored."""
    retry_after: RetryAfter = _setting(  # noqa: RUF009 - it returns a field
        "none", f"one of {', '.join(get_args(RetryAfter))}", lambda value: value in get_args(RetryAfter)
    )
    """The form of `Retry-After` on injected 429 and 503 and on rate-limited answers: whole seconds or an HTTP-date."""
    retry_after_seconds: int = _whole_number(1, 0, 1_000_000_000)
    """How far ahead `Retry-After` points."""
    reset_before_read_rate: float = _number(1)
    """Share of connections reset once the head of the request is read: its body is not looked at, nothing is stored."""
    reset_after_read_rate: float = _number(1)
    """Share reset after the whole request was read, and not stored."""
    reset_after_store_rate: float = _number(1)
    """Share handled as usual, but reset instead of a 200: the event is stored, though the client cannot know."""
    hang_rate: float = _number(1)
    """Share read and never answered; the connection stays until the client closes it. Not stored."""
    close_idle_seconds: float = _number(3600)
    """The sandbox closes a connection this long after its last answer; 0: never."""
    rate_limit_per_second: float = _number(1_000_000)
    """Requests above it get 429; bursts of a tenth of a second's worth (at least 1) pass. 0: no limit."""
    down: bool = _setting(False, "true or false", lambda value: type(value) is bool)
    """Every request is answered `fail_status`, whatever the other settings say."""

    def __post_init__(self) -> None:
        if invalid := _violations(as_values(self)):
            raise ValueError("; ".join(f"{each.field or 'faults'}: {each.message}" for each in invalid))


_SETTINGS: Final = {each.name: each for each in fields(Faults)}
FAULT_NAMES: Final = frozenset(_SETTINGS)


def as_values(faults: Faults) -> dict[str, Any]:
    """Return the settings by name."""
    return {name: getattr(faults, name) for name in _SETTINGS}


def as_json(faults: Faults) -> dict[str, Any]:
    """Return the settings by name as JSON can hold them: the statuses of `fail_statuses` become strings."""
    statuses = {str(status): weight for status, weight in faults.fail_statuses.items()}
    return as_values(faults) | {"fail_statuses": statuses}


def merged(faults: Faults, changes: Mapping[str, object]) -> Faults | tuple[InvalidFault, ...]:
    """Return `faults` with `changes`, which come from JSON; or everything that is wrong with the changes."""
    known: dict[str, Any] = {name: value for name, value in changes.items() if name in _SETTINGS}
    if isinstance(statuses := known.get("fail_statuses"), dict):
        known["fail_statuses"] = {_status_from_json(status): weight for status, weight in statuses.items()}
    unknown = tuple(
        InvalidFault("unknown_fault", name, f"is not a fault; the faults are {', '.join(_SETTINGS)}")
        for name in changes.keys() - _SETTINGS.keys()
    )
    return unknown + _violations(as_values(faults) | known) or replace(faults, **known)


def what_is_wrong(name: str, value: object) -> str | None:
    """Return why `value` cannot be the setting `name`; None if it can."""
    about = _SETTINGS[name].metadata
    return None if about["fits"](value) else f"must be {about['must']}"


def retry_after(faults: Faults, status: int, now: float) -> str | None:
    """Return the `Retry-After` header of an injected answer with `status`; `now` in seconds since 1970."""
    if status not in _STATUSES_WITH_RETRY_AFTER or faults.retry_after == "none":
        return None
    if faults.retry_after == "seconds":
        return str(faults.retry_after_seconds)
    # An HTTP-date has whole seconds; rounded up, it never means less than the setting says.
    return formatdate(math.ceil(now) + faults.retry_after_seconds, usegmt=True)


def _violations(values: Mapping[str, Any]) -> tuple[InvalidFault, ...]:
    """Return all that is wrong with `values`, which hold every setting."""
    wrong = {name: what_is_wrong(name, values[name]) for name in _SETTINGS}
    if invalid := tuple(InvalidFault("invalid_fault", name, why) for name, why in wrong.items() if why is not None):
        return invalid
    if (total := math.fsum(values[name] for name in SHARES)) > 1 + 1e-9:
        message = f"{', '.join(SHARES)} are shares of all requests, and their sum is {total:g}: at most 1 is possible"
        return (InvalidFault("invalid_fault", None, message),)
    return ()


def _status_from_json(status: object) -> object:
    return int(status) if isinstance(status, str) and status.isascii() and status.isdigit() else status


NO_FAULTS: Final = Faults()

# What happens to one request


class Decision(NamedTuple):
    """What happens to one request, and when."""

    action: Action
    status: int = 200
    """Of the answer, when the action is FAIL or LIMIT."""
    delay_seconds: float = 0
    """How long to wait once the request was read."""


_SERVE: Final = Decision(Action.SERVE)


class FaultInjector:
    """Decides for each request, in the order of their arrival, what happens to it."""

    def __init__(self, faults: Faults, *, random: Random, clock: Clock) -> None:
        self._random = random
        self._clock = clock
        self._bucket = TokenBucket(faults.rate_limit_per_second, clock())
        self._use(faults)

    @property
    def faults(self) -> Faults:
        """The settings in force; may be set at any time, and hold from the next request on."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        if faults.rate_limit_per_second != self._faults.rate_limit_per_second:
            self._bucket = TokenBucket(faults.rate_limit_per_second, self._clock())
        self._use(faults)

    def _use(self, faults: Faults) -> None:
        self._faults = faults
        # Each action that may be drawn has its part of the interval from 0 to 1; here is the upper bound of that part.
        bounds = accumulate(getattr(faults, name) for name in _ACTIONS)
        drawn = zip(_ACTIONS.items(), bounds, strict=True)
        self._shares = [(bound, action) for (name, action), bound in drawn if getattr(faults, name)]
        self._has_delay = bool(faults.latency_ms or faults.jitter_ms)
        self._has_none = not (self._shares or self._has_delay or faults.down or faults.rate_limit_per_second)

    def decide(self) -> Decision:
        """Return what happens to the request that has just arrived."""
        if self._has_none:
            return _SERVE
        faults = self._faults
        delay_seconds = 0.0
        if self._has_delay:
            jitter_ms = faults.jitter_ms * self._random.random() if faults.jitter_ms else 0
            delay_seconds = (faults.latency_ms + jitter_ms) / 1000
        if faults.down:
            return Decision(Action.FAIL, faults.fail_status, delay_seconds)
        if faults.rate_limit_per_second and not self._bucket.take(self._clock()):
            return Decision(Action.LIMIT, 429, delay_seconds)
        drawn = self._random.random() if self._shares else 1.0
        action = next((action for bound, action in self._shares if drawn < bound), Action.SERVE)
        return Decision(action, self._status() if action is Action.FAIL else 200, delay_seconds)

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
