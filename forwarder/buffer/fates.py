"""How an event leaves the buffer. There is no other way out."""

from dataclasses import dataclass
from typing import Literal

DropReason = Literal["rejected", "shutdown"]
"""`rejected`: Growlytics refuses the event for good. `shutdown`: the process stopped before the event was delivered."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """Growlytics has it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """It is lost, for a reason that is counted."""

    reason: DropReason


Fate = Delivered | Dropped
