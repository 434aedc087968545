"""The settings of the faults that the sandbox plays: units, ranges, and how they change while it runs.

Pure. Only the sandbox, its command and tests import this module.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from email.utils import formatdate
from typing import Any, Final, Literal, NamedTuple, get_args

RetryAfter = Literal["none", "seconds", "date"]

_STATUSES_WITH_RETRY_AFTER: Final = frozenset({429, 503})

SHARES: Final = (
    "reset_before_read_rate",
    "hang_rate",
    "reset_after_read_rate",
    "fail_rate",
    "success_false_rate",
    "reset_after_store_rate",
)
"""The settings that are shares of all requests."""


class InvalidFault(NamedTuple):
    """One reason why fault settings cannot be used."""

    code: Literal["unknown_fault", "invalid_fault"]
    field: str | None
    """The setting; None when several together are wrong."""
    message: str


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, and how often. The defaults: nothing.

    Each `*_rate` is a share of all requests, 0 to 1. They exclude one another, so their sum is at most 1. Raises
    ValueError, naming every setting that is out of its range.
    """

    latency_ms: float = 0
    """How long every answer, failure or reset waits after the request was read. Milliseconds, 0 to 3,600,000."""
    jitter_ms: float = 0
    """At most how much is added to it, uniformly drawn. Milliseconds, 0 to 3,600,000."""
    fail_rate: float = 0
    """Share answered with `fail_status` or one of `fail_statuses`, not stored."""
    fail_status: int = 503
    """The status of an injected failure, 201 to 599."""
    fail_statuses: Mapping[int, float] = field(default_factory=dict)
    """If not empty, in place of `fail_status`: status to its weight among the failures that `fail_rate` injects."""
    success_false_rate: float = 0
    """Share answered 200 with `{"success":false}`, not stored."""
    retry_after: RetryAfter = "none"
    """The form of `Retry-After` on injected 429 and 503 and on rate-limited answers: whole seconds or an HTTP-date."""
    retry_after_seconds: int = 1
    """How far ahead `Retry-After` points. Seconds, 0 to 1,000,000,000."""
    reset_before_read_rate: float = 0
    """Share of connections reset when the head of the request has come: its body is not looked at, nothing is stored."""
    reset_after_read_rate: float = 0
    """Share reset when the request was read whole, and not stored."""
    reset_after_store_rate: float = 0
    """Share handled as usual but reset in place of a 200: stored, though the client cannot know."""
    hang_rate: float = 0
    """Share read and never answered; the connection stays until the client closes it. Not stored."""
    close_idle_seconds: float = 0
    """Closes a connection this long after its last answer. Seconds, 0 to 3600; 0: never."""
    rate_limit_per_second: float = 0
    """Requests above it get 429; bursts of a tenth of a second's worth (at least 1) pass. 0 to 1,000,000; 0: no limit."""
    down: bool = False
    """Every request is answered `fail_status`, whatever the other settings say."""

    def __post_init__(self) -> None:
        if invalid := _violations(as_values(self)):
            raise ValueError("; ".join(f"{each.field or 'faults'}: {each.message}" for each in invalid))


def as_values(faults: Faults) -> dict[str, Any]:
    """Return the settings by name."""
    return {each.name: getattr(faults, each.name) for each in fields(faults)}


def as_json(faults: Faults) -> dict[str, Any]:
    """Return the settings by name as JSON can hold them: the statuses of `fail_statuses` become strings."""
    statuses = {str(status): weight for status, weight in faults.fail_statuses.items()}
    return as_values(faults) | {"fail_statuses": statuses}


def merged(faults: Faults, changes: Mapping[str, object]) -> Faults | tuple[InvalidFault, ...]:
    """Return `faults` with `changes`, which come from JSON; or everything that is wrong with the changes."""
    known = {name: value for name, value in changes.items() if name in _CHECKS}
    if isinstance(statuses := known.get("fail_statuses"), dict):
        known["fail_statuses"] = {_status_from_json(status): weight for status, weight in statuses.items()}
    unknown = tuple(
        InvalidFault("unknown_fault", name, f"there is no such fault; there are {', '.join(_CHECKS)}")
        for name in changes.keys() - _CHECKS.keys()
    )
    if invalid := unknown + _violations(as_values(faults) | known):
        return invalid
    changed: dict[str, Any] = known
    return replace(faults, **changed)


def what_is_wrong(name: str, value: object) -> str | None:
    """Return why `value` cannot be the setting `name`, None if it can."""
    return _CHECKS[name](value)


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
    invalid = tuple(
        InvalidFault("invalid_fault", name, wrong) for name, check in _CHECKS.items() if (wrong := check(values[name]))
    )
    if invalid:
        return invalid
    if (total := math.fsum(values[name] for name in SHARES)) > 1 + 1e-9:
        message = f"{', '.join(SHARES)} are shares of all requests, and their sum is {total:g}: at most 1"
        return (InvalidFault("invalid_fault", None, message),)
    return ()


def _status_from_json(status: object) -> object:
    return int(status) if isinstance(status, str) and status.isascii() and status.isdigit() else status


_Check = Callable[[object], str | None]


def _number(most: float) -> _Check:
    def check(value: object) -> str | None:
        fits = isinstance(value, (int, float)) and type(value) is not bool and 0 <= value <= most
        return None if fits else f"must be a number from 0 to {most:,}"

    return check


def _whole_number(least: int, most: int) -> _Check:
    def check(value: object) -> str | None:
        fits = type(value) is int and least <= value <= most
        return None if fits else f"must be a whole number from {least} to {most:,}"

    return check


_check_status: Final = _whole_number(201, 599)
_check_weight: Final = _number(1_000_000)


def _check_statuses(value: object) -> str | None:
    fits = (
        isinstance(value, Mapping)
        and not any(_check_status(status) for status in value)
        and not any(_check_weight(weight) for weight in value.values())
        and (not value or any(value.values()))
    )
    return None if fits else "must map statuses from 201 to 599 to weights, at least one of them above 0"


def _check_retry_after(value: object) -> str | None:
    forms = get_args(RetryAfter)
    return None if value in forms else f"must be one of {', '.join(forms)}"


def _check_flag(value: object) -> str | None:
    return None if type(value) is bool else "must be true or false"


_CHECKS: Final[Mapping[str, _Check]] = {
    "latency_ms": _number(3_600_000),
    "jitter_ms": _number(3_600_000),
    "fail_rate": _number(1),
    "fail_status": _check_status,
    "fail_statuses": _check_statuses,
    "success_false_rate": _number(1),
    "retry_after": _check_retry_after,
    "retry_after_seconds": _whole_number(0, 1_000_000_000),
    "reset_before_read_rate": _number(1),
    "reset_after_read_rate": _number(1),
    "reset_after_store_rate": _number(1),
    "hang_rate": _number(1),
    "close_idle_seconds": _number(3600),
    "rate_limit_per_second": _number(1_000_000),
    "down": _check_flag,
}

NO_FAULTS: Final = Faults()
