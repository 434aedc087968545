"""How an event leaves the buffer. There is no other way out."""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

DeadReason = Literal["rejected", "expired", "ambiguous"]
"""`rejected`: Growlytics refuses the event for good. `expired`: it was retried past `delivery.max_age_seconds`. `ambiguous`:
it may have arrived, and `delivery.on_ambiguous` says that such an event is not sent again.
"""

DropReason = Literal["drop_oldest", "corrupt", "shutdown"]
"""`drop_oldest`: to make room for newer ones. `corrupt`: the disk lost or altered it. `shutdown`: the process stopped before
it was delivered.
"""

DEAD_REASONS: Final[tuple[DeadReason, ...]] = get_args(DeadReason)
DROP_REASONS: Final[tuple[DropReason, ...]] = get_args(DropReason)

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
