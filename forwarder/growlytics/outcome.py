"""What one delivery attempt came to, decided here and nowhere else, from the answer's status, body and Retry-After.

An outcome says whose fault it is: the event's (`Rejected`), ours or our account's (`Blocked`), or nobody's that is known
(`Retryable`). Pure; the exceptions of the HTTP library are turned into outcomes in `client`, which alone knows it.
"""

import asyncio
import re
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, Literal

from forwarder.growlytics import json_text

RetryReason = Literal["network", "timeout", "status_408", "status_425", "status_429", "status_5xx"]
FailureKind = Literal[
    "dns", "connect", "tls", "proxy", "timeout_connect", "timeout_answer", "reset", "protocol", "status"
]
BlockedWhy = Literal["key", "proxy", "refusal", "not_growlytics"]

MAX_ANSWER_BYTES: Final = 64 * 1024
"""How much of an answer is read; what Growlytics documents is far shorter."""

MAX_RETRY_AFTER_SECONDS: Final = 86_400.0
"""What a longer Retry-After is taken for; who waits may cap it further."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, for people: it decides nothing."""

    kind: FailureKind
    text: str
    """Short, as in "certificate has expired" or "connection refused"; never from an answer's body."""
    host: str = ""
    """Whom it concerns: host and port of Growlytics or of the proxy; empty if it is not known."""
    status: int | None = None
    """The status of the answer, if there was one."""

    def described(self) -> dict[str, str | int | None]:
        """Return it as the log and /v1/status show it."""
        return {"kind": self.kind, "status": self.status, "error": self.text, "host": self.host or None}


UNEXPLAINED: Final = Failure("protocol", "no cause is known")


@dataclass(frozen=True, slots=True)
class Delivered:
    """Growlytics has the event."""

    connecting_seconds: float = field(default=0.0, compare=False)
    """How long it took before that to make a connection, which says nothing of how busy Growlytics is."""


@dataclass(frozen=True, slots=True)
class Retryable:
    """It did not work this time, for a reason that may pass."""

    reason: RetryReason
    maybe_delivered: bool
    """Whether request bytes may have left without a complete answer: the event may be there, and a retry duplicates it."""
    retry_after_seconds: float | None = None
    """How long Growlytics asks to wait, 0 to `MAX_RETRY_AFTER_SECONDS`; None if it does not say."""
    failure: Failure = field(default=UNEXPLAINED, compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Growlytics refuses this event, and will every time."""

    status: int
    answer: bytes = field(default=b"", repr=False, compare=False)
    """The body that came with it, at most `MAX_ANSWER_BYTES`."""
    failure: Failure = field(default=UNEXPLAINED, compare=False)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Something refuses us, or this event: one answer alone does not tell. See `why`.

    `key`: a 401, so our key is wrong. `proxy`: a forward proxy refuses us. `refusal`: any other refusal, of us or of this
    event, as by a web application firewall. `not_growlytics`: a 2xx that is no answer of Growlytics, such as a page of a
    captive portal; the event may be there.
    """

    status: int
    why: BlockedWhy
    failure: Failure = field(default=UNEXPLAINED, compare=False)


class CancelledUnsentError(asyncio.CancelledError):
    """The attempt was cancelled before any byte of the request left: the event is not there."""


Outcome = Delivered | Retryable | Rejected | Blocked

DELIVERED: Final = Delivered()

_REJECTED: Final = frozenset({400, 409, 413, 422})
_RETRYABLE: Final[dict[int, RetryReason]] = {408: "status_408", 425: "status_425", 429: "status_429"}
_BLOCKED_BY: Final[dict[int, BlockedWhy]] = {401: "key", 407: "proxy"}
_GATEWAY_LOST_THE_ANSWER: Final = frozenset({502, 504})
_SAYS_WHEN_TO_RETRY: Final = frozenset({429, 503})


def of_answer(status: int, body: bytes, *, retry_after: str | None = None, now: float = 0.0, host: str = "") -> Outcome:
    """Decide from a complete answer: its status, 100 to 599, and at most the first `MAX_ANSWER_BYTES` of its body.

    `retry_after` is its Retry-After header, if there is one, and `now` is the time, in seconds since 1970, that a date in
    it is compared with. `host` is whose answer it is, for `Failure`.
    """
    if 200 <= status < 300:
        if not _says_failure(body):
            return DELIVERED
        return Rejected(status, body, _of_status(status, host, ', with "success": false'))
    failure = _of_status(status, host)
    if status in _REJECTED:
        return Rejected(status, body, failure)
    if reason := _RETRYABLE.get(status):
        wait = _wait_seconds(status, retry_after, now)
        return Retryable(reason, maybe_delivered=False, retry_after_seconds=wait, failure=failure)
    if 500 <= status < 600:
        return Retryable(
            "status_5xx",
            maybe_delivered=status in _GATEWAY_LOST_THE_ANSWER,
            retry_after_seconds=_wait_seconds(status, retry_after, now),
            failure=failure,
        )
    return Blocked(status, _BLOCKED_BY.get(status, "refusal"), failure)


def of_proxy_refusal(status: int, *, host: str = "") -> Outcome:
    """Decide from the status with which a forward proxy refused to make a tunnel: no byte of the event left.

    5xx, 408, 425 and 429 may pass: the proxy is overloaded or cannot reach Growlytics, to us a fault of the network. All
    else is Blocked, above all 407: the proxy does not know us and accepts nothing of ours until somebody mends a setting.
    `host` is the proxy's, for `Failure`.
    """
    failure = Failure("proxy", f"the proxy refused: {_phrase(status)}", host, status)
    if 500 <= status < 600 or status in _RETRYABLE:
        return Retryable("network", maybe_delivered=False, failure=failure)
    return Blocked(status, "proxy", failure)


def _of_status(status: int, host: str, more: str = "") -> Failure:
    return Failure("status", f"{_phrase(status)}{more}", host, status)


def _phrase(status: int) -> str:
    """Return a status and what it means, as in "503 Service Unavailable"; the words are HTTP's, not those of the answer."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _wait_seconds(status: int, retry_after: str | None, now: float) -> float | None:
    """Read a Retry-After, a number of whole seconds or an HTTP date, where it has a meaning; None for anything else."""
    if retry_after is None or status not in _SAYS_WHEN_TO_RETRY:
        return None
    text = retry_after.strip(" \t")
    if re.fullmatch("-?[0-9]+", text):
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text)
            # Without a zone it is the third of the formats that HTTP knows, which is in UTC as all of them are.
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, TypeError, IndexError, OverflowError):  # as email.utils has it, which promises the first
            return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS)


def _says_failure(body: bytes) -> bool:
    if b'"success"' not in body:
        return False
    try:
        answer = json_text.parse(body)
    except json_text.MalformedJsonError:
        return False
    return isinstance(answer, dict) and answer.get("success") is False
