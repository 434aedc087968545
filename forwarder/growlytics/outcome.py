"""What one delivery attempt came to, decided here and nowhere else, from the answer's status and body.

An outcome says whose fault it is: the event's (`Rejected`), ours or our account's (`Blocked`), or nobody's that is known
(`Retryable`). Pure; the exceptions of the HTTP library are turned into outcomes in `client`, which alone knows it.
"""

from dataclasses import dataclass
from typing import Final, Literal

from forwarder.growlytics import json_text

RetryReason = Literal["network", "timeout", "status_408", "status_425", "status_429", "status_5xx"]

MAX_ANSWER_BYTES: Final = 64 * 1024
"""How much of an answer is read; what Growlytics documents is far shorter."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Growlytics has the event."""


@dataclass(frozen=True, slots=True)
class Retryable:
    """It did not work this time, for a reason that may pass."""

    reason: RetryReason
    maybe_delivered: bool
    """Whether request bytes may have left without a complete answer: the event may be there, and a retry duplicates it."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """Growlytics refuses this event, and will every time."""

    status: int


@dataclass(frozen=True, slots=True)
class Blocked:
    """Growlytics refuses us: a key, an address, a proxy or an account is wrong, and no event is at fault."""

    status: int


Outcome = Delivered | Retryable | Rejected | Blocked

DELIVERED: Final = Delivered()

_REJECTED: Final = frozenset({400, 409, 413, 422})
_RETRYABLE: Final[dict[int, RetryReason]] = {408: "status_408", 425: "status_425", 429: "status_429"}
_GATEWAY_LOST_THE_ANSWER: Final = frozenset({502, 504})


def of_answer(status: int, body: bytes) -> Outcome:
    """Decide from a complete answer: its status, 100 to 599, and at most the first `MAX_ANSWER_BYTES` of its body."""
    if 200 <= status < 300:
        return Rejected(status) if _says_failure(body) else DELIVERED
    if status in _REJECTED:
        return Rejected(status)
    if reason := _RETRYABLE.get(status):
        return Retryable(reason, maybe_delivered=False)
    if 500 <= status < 600:
        return Retryable("status_5xx", maybe_delivered=status in _GATEWAY_LOST_THE_ANSWER)
    return Blocked(status)


def _says_failure(body: bytes) -> bool:
    if b'"success"' not in body:
        return False
    try:
        answer = json_text.parse(body)
    except json_text.MalformedJsonError:
        return False
    return isinstance(answer, dict) and answer.get("success") is False
