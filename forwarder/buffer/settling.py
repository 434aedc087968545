"""What is told of events that leave a buffer: to the metrics, and to the receipts."""

from collections.abc import Iterable, Sequence
from typing import assert_never

from forwarder.buffer.fates import DeadLettered, Delivered, Dropped, Fate
from forwarder.event import Event
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry


class Settling:
    """Used by the buffers when what they tell is so: committed, where that is what it takes."""

    def __init__(self, telemetry: Telemetry, receipts: Receipts) -> None:
        self._telemetry = telemetry
        self._receipts = receipts

    def settle(self, fates: Iterable[tuple[Event, Fate]]) -> None:
        """Tell of events and their fates."""
        for event, fate in fates:
            match fate:
                case Delivered():
                    self._telemetry.event_delivered(accepted_at=event.accepted_at)
                    self._receipts.ended(event.id, "delivered")
                case DeadLettered(reason=reason, status=status):
                    self._telemetry.event_dead_lettered(event.id, reason=reason, status=status, name=event.name)
                    self._receipts.ended(event.id, "dead_letter", reason)
                case Dropped(reason):
                    self._telemetry.events_dropped(1, reason=reason)
                    self._receipts.ended(event.id, "dropped", reason)
                case _:
                    assert_never(fate)

    def corrupt(self, ids: Sequence[int]) -> None:
        """Tell of events that are lost, as their rows cannot be read."""
        for event_id in ids:
            self._telemetry.events_dropped(1, reason="corrupt")
            self._receipts.ended(event_id, "dropped", "corrupt")
