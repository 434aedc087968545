"""How an event leaves the buffer. There is no other way out."""

from dataclasses import dataclass, field
from typing import Final

from forwarder.words import DeadReason, DropReason

MAX_ANSWER_BYTES: Final = 2048
"""How much of an answer is kept with a dead letter."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Growlytics has it."""


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """It was given up, and is kept as a dead letter. Times are in seconds since 1970."""

    reason: DeadReason
    status: int | None
    """Of the last answer; None if there was none."""
    answer: bytes = field(repr=False)
    """The first `MAX_ANSWER_BYTES` of it."""
    attempts: int
    first_attempt_at: float
    last_attempt_at: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """It is lost, for a reason that is counted."""

    reason: DropReason


Fate = Delivered | DeadLettered | Dropped
