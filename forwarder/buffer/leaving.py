"""The taken events of a customer that is being erased. Used by the buffers in memory and on disk, on the event loop.

Delivery has them in its window. Those of which no attempt is under way leave at once. The others leave when it has ended:
acked as delivered, or else as erased, whether delivery acks them as dead letters or releases them to try again.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Final

from forwarder.buffer.fates import Dropped, Fate, HandedOver
from forwarder.event import Event

ERASED: Final = Dropped("erased")


class Leaving:
    """The taken events that are being erased, and leave when their attempts have ended."""

    def __init__(self) -> None:
        self.events: dict[int, Event] = {}
        """Those that are not acked yet, by their ids."""
        self.acked: set[int] = set()
        """Those whose acks are not committed yet."""
        self.dropped: set[int] = set()
        """Those of them that the buffer dropped, so that nobody waits to be told."""
        self.pulled: set[int] = set()
        """The ids of events that were pulled, and some that have left since. Who pulled one is about to ack it."""
        self.has_revoked = False
        """Whether delivery may have events that are not its own any more."""

    def fate_of(self, event: Event, fate: Fate) -> Fate:
        """Note that an event is acked, and return its fate: it does not become a dead letter."""
        if self.events.pop(event.id, None) is None:
            return fate
        self.acked.add(event.id)
        return fate if isinstance(fate, HandedOver) else ERASED

    def pull(self, event: Event, *, taken: dict[int, Event]) -> None:
        """Note that an event is pulled, and taken now."""
        taken[event.id] = event
        self.pulled = {event.id, *(self.pulled & taken.keys())}

    def drop(self, events: Sequence[Event]) -> list[Event]:
        """Return those of these events that leave now; each must be acked as `ERASED`."""
        found = [event for event in events if event.id in self.events]
        self.dropped.update(event.id for event in found)
        return found

    def have_left(self, events: Sequence[Event]) -> list[Event]:
        """Note that the acks of these events are committed; return those of which the listener is to be told."""
        told = [event for event in events if event.id not in self.dropped]
        for event in events:
            self.acked.discard(event.id)
            self.dropped.discard(event.id)
        return told

    def leave(
        self,
        customer: str,
        is_meant: Callable[[Event], bool],
        *,
        taken: dict[int, Event],
        acked: set[int],
        revoke: Callable[[set[str]], Sequence[Event] | None],
    ) -> tuple[list[Event], list[Event]]:
        """Revoke the lane of a customer if something that is meant is taken. `acked` are events whose acks wait.

        Return the events that nobody has any more, and those newer ones that must be offered again. Both are not taken any
        more.
        """
        mine = [event for event in taken.values() if event.customer == customer and event.id not in acked]
        if not any(is_meant(event) and event.id not in self.events for event in mine):
            return [], []
        revoked = revoke({customer})
        self.has_revoked = True
        under_way = {event.id for event in (mine if revoked is None else revoked)} | self.pulled
        gone: list[Event] = []
        back: list[Event] = []
        for event in mine:
            if event.id in under_way:
                if is_meant(event):
                    self.events[event.id] = event
            elif event.id not in self.events:
                del taken[event.id]
                if is_meant(event):
                    gone.append(event)
                else:
                    back.append(copy(event))  # so that a late release of the one before can be told
        return gone, back
