"""How an event leaves the buffer. There is no other way out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, assert_never

from forwarder.event import DeadLetter, Event
from forwarder.words import DeadReason, DropReason

MAX_ANSWER_BYTES: Final = 2048
"""How much of an answer is kept with a dead letter."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """Growlytics has it."""


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """It is not sent again, and is kept as a dead letter. Times are in seconds since 1970."""

    reason: DeadReason
    status: int | None
    """Of the last answer; None if there was none."""
    answer: bytes = field(repr=False)
    """The first `MAX_ANSWER_BYTES` of the last answer."""
    attempts: int
    first_attempt_at: float
    last_attempt_at: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """It is lost, for a reason that is counted."""

    reason: DropReason


Fate = HandedOver | DeadLettered | Dropped


def letters_of(fates: Iterable[tuple[Event, Fate]]) -> Iterable[DeadLetter]:
    """Yield the dead letters among events with their fates."""
    for event, fate in fates:
        if isinstance(fate, DeadLettered):
            yield DeadLetter(
                event, fate.reason, fate.status, fate.answer, fate.attempts, fate.first_attempt_at, fate.last_attempt_at
            )


def counter_of(fate: Fate) -> str:
    """Return the name of a fate's counter in the ledger."""
    match fate:
        case HandedOver():
            return "delivered"
        case DeadLettered(reason=reason):
            return f"dead_lettered.{reason}"
        case Dropped(reason):
            return f"dropped.{reason}"
        case _:
            assert_never(fate)
