"""What one delivery attempt came to, decided here and nowhere else, from the answer's status, some headers and its body.

An outcome says what was wrong: the event (`Rejected`), our key, account or network (`Blocked`), or something that may pass
(`Retryable`). Pure: `client` turns exceptions of the HTTP library into outcomes. Used by `client` and delivery.
"""

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from forwarder.growlytics import answer_body
from forwarder.observing.recent import FailureFields
from forwarder.words import BlockedWhy, FailureKind, RetryableReason

MAX_RETRY_AFTER_SECONDS: Final = 86_400.0
"""A longer Retry-After counts as this; delivery may wait less."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, for people: nothing is decided by it."""

    kind: FailureKind
    text: str
    """Short, such as "certificate has expired" or "connection refused"; never from an answer's body."""
    host: str = ""
    """Host and port of Growlytics or of the proxy, whichever failed; empty if that is not known."""
    status: int | None = None
    """The status of the answer, if there was one."""

    def described(self) -> FailureFields:
        """Return the failure as the log and /v1/status show it."""
        return {"kind": self.kind, "status": self.status, "error": self.text, "host": self.host or None}


UNEXPLAINED: Final = Failure("protocol", "no cause is known")


@dataclass(frozen=True, slots=True)
class Delivered:
    """Growlytics has the event."""

    connecting_seconds: float = field(default=0.0, compare=False)
    """How long it took to connect, 0 on a kept connection. It says nothing about how busy Growlytics is."""


@dataclass(frozen=True, slots=True)
class Retryable:
    """The attempt failed for a reason that may pass."""

    reason: RetryableReason
    maybe_delivered: bool
    """Whether bytes of the request may have left without an answer: then a retry may deliver the event twice."""
    retry_after_seconds: float | None = None
    """How long Growlytics asks us to wait, 0 to `MAX_RETRY_AFTER_SECONDS`; None if it does not say."""
    failure: Failure = field(default=UNEXPLAINED, compare=False)
    answer: bytes = field(default=b"", repr=False, compare=False)
    """The answer's body, if there was one, at most `MAX_ANSWER_BYTES`."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Growlytics rejects this event, and will every time."""

    status: int
    answer: bytes = field(default=b"", repr=False, compare=False)
    """The answer's body, at most `answer_body.MAX_ANSWER_BYTES`."""
    failure: Failure = field(default=UNEXPLAINED, compare=False)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something blocks us, or this event: one answer alone does not tell which.

    - `key`: a 401 or 407: our key is wrong, or a proxy on the way demands credentials.
    - `proxy`: our forward proxy refuses to make a tunnel.
    - `refusal`: any other refusal of us or of this event, for example by a web application firewall.
    - `not_growlytics`: a 2xx that is not from Growlytics, such as the page of a captive portal. The event may have arrived.
    """

    status: int
    why: BlockedWhy
    failure: Failure = field(default=UNEXPLAINED, compare=False)
    answer: bytes = field(default=b"", repr=False, compare=False)
    """The answer's body, at most `MAX_ANSWER_BYTES`: it may say why."""


class CancelledUnsentError(asyncio.CancelledError):
    """The attempt was cancelled before any byte of the request left, so the event cannot have arrived."""


Outcome = Delivered | Retryable | Rejected | Blocked

DELIVERED: Final = Delivered()

_WITHOUT_BODY: Final = frozenset({204, 205})
"""Successes that have no body by definition, so a declared type of it means nothing."""
_REJECTED: Final = frozenset({400, 409, 413, 422})
_TOO_LARGE: Final = 413
"""HTTP says that it is temporary with a Retry-After; without one the event is too large."""
_RETRYABLE: Final[dict[int, RetryableReason]] = {
    408: "status_408",
    413: "status_413",
    425: "status_425",
    429: "status_429",
}
_BLOCKED_BY: Final[dict[int, BlockedWhy]] = {401: "key", 407: "key"}
_GATEWAY_LOST_THE_ANSWER: Final = frozenset({502, 504})
_SECONDS: Final = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
"""HTTP allows whole seconds only, but some servers send fractions."""


def of_answer(
    status: int,
    body: bytes,
    *,
    content_type: str | None = None,
    content_encoding: str | None = None,
    retry_after: str | None = None,
    date: str | None = None,
    now: float = 0.0,
    host: str = "",
) -> Outcome:
    """Decide from an answer: its status, 100 to 999, some headers, and its body, at most `MAX_ANSWER_BYTES`.

    The head is complete; the body need not be. A date in Retry-After is compared with the answer's own `date`, or with
    `now`, in seconds since 1970, if there is none. `host` is for `Failure`.
    """
    if 200 <= status < 300:
        its_type = None if status in _WITHOUT_BODY else content_type
        match answer_body.said(body, content_type=its_type, content_encoding=content_encoding):
            case "success":
                return DELIVERED
            case "failure":
                return Rejected(status, body, _of_status(status, host, ', with "success": false'))
            case "page":
                failure = _of_status(status, host, ", with a page instead of Growlytics' answer")
                return Blocked(status, "not_growlytics", failure, body)
    failure = _of_status(status, host)
    wait = _wait_seconds(retry_after, date, now)
    if status in _REJECTED and (status != _TOO_LARGE or wait is None):
        return Rejected(status, body, failure)
    if reason := _RETRYABLE.get(status) or ("status_5xx" if 500 <= status < 600 else None):
        maybe_delivered = status in _GATEWAY_LOST_THE_ANSWER
        return Retryable(reason, maybe_delivered, wait, failure, body)
    return Blocked(status, _BLOCKED_BY.get(status, "refusal"), failure, body)


def of_proxy_refusal(
    status: int, *, retry_after: str | None = None, date: str | None = None, now: float = 0.0, host: str = ""
) -> Outcome:
    """Decide from the status with which a forward proxy refused to make a tunnel: no byte of the event left.

    5xx, 408, 425 and 429 may pass: the proxy is overloaded or cannot reach Growlytics, a fault of the network to us. All
    else is Blocked, above all 407: the proxy wants other credentials, and refuses us until somebody fixes a setting.
    Retry-After and Date are read as in `of_answer`. `host` is the proxy's, for `Failure`.
    """
    failure = Failure("proxy", f"the proxy refused: {_phrase(status)}", host, status)
    if 500 <= status < 600 or (status in _RETRYABLE and status != _TOO_LARGE):
        wait = _wait_seconds(retry_after, date, now)
        return Retryable("network", maybe_delivered=False, retry_after_seconds=wait, failure=failure)
    return Blocked(status, "proxy", failure)


def _of_status(status: int, host: str, more: str = "") -> Failure:
    return Failure("status", f"{_phrase(status)}{more}", host, status)


def _phrase(status: int) -> str:
    """Return a status with its name in HTTP, such as "503 Service Unavailable"; the answer's own words are not used."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _wait_seconds(retry_after: str | None, date: str | None, now: float) -> float | None:
    """Return the wait of a Retry-After, which is a number of seconds or an HTTP date; None for anything else."""
    if retry_after is None:
        return None
    text = retry_after.strip(" \t")
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    elif (at := _timestamp(text)) is not None:
        sent_at = None if date is None else _timestamp(date)
        seconds = at - (now if sent_at is None else sent_at)
    else:
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def _timestamp(text: str) -> float | None:
    """Return an HTTP date, in any of its three formats, in seconds since 1970; None if the text is no date."""
    try:
        date = parsedate_to_datetime(text)
        # The third of HTTP's formats has no zone. It is in UTC, as all of them are.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # email.utils documents only the first, and raises all
        return None
