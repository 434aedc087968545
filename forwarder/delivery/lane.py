"""What the window holds: lanes, their events, and what is known of the attempts with each."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from forwarder.delivery.suspects import Refusals
from forwarder.event import Event


@dataclass(slots=True)
class Story:
    """What is known of the attempts with an event. Times are in seconds since 1970."""

    attempts: int = 0
    first_attempt_at: float = 0.0
    last_attempt_at: float = 0.0
    suspect: bool = False
    """It was rejected while nothing else was delivered."""
    refusals: Refusals | None = None
    """How it was refused otherwise, with the last key that it was tried with."""


@dataclass(slots=True, eq=False)
class Taken:
    """An event in the window."""

    event: Event
    story: Story


@dataclass(slots=True, eq=False)
class Lane:
    """Events of one customer in the window."""

    key: str | int
    events: deque[Taken] = field(default_factory=deque)
    state: Literal["ready", "started", "parked", "revoked"] = "ready"
    retried: bool = False
    """The first event was parked, and is not done with."""
    bytes: int = 0
    parking: int = 0
    """The number of the last time that it was parked."""
    revoked: bool = False
    """It was revoked while an attempt was under way, which is not of any event in `events`."""

    @property
    def first(self) -> Taken:
        """The event whose turn it is."""
        return self.events[0]
