"""Which event comes next: the order of acceptance, with lanes that are skipped or rest for a while. Pure.

An event stands in one of two places: `_fresh`, in order; or the `_aside` lane of its customer, when it was passed over or
given back. The events of an aside lane all precede those of the same customer in `_fresh`, so handing out the smallest
id of what is offered keeps every lane in order. No step costs more than the logarithm of the number of lanes, however
many events wait.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, islice

from forwarder.event import Event


@dataclass(slots=True)
class _Lane:
    returned: list[tuple[int, Event]] = field(default_factory=list)
    """A heap of what was given back; all of it precedes `events`, from which it was handed out in order."""
    events: deque[Event] | None = None
    """Those passed over; most lanes have none, and an empty deque takes more memory than all the rest."""
    not_before: float = 0.0
    offered: bool = False

    def __len__(self) -> int:
        return len(self.returned) + len(self.events or ())

    def first(self) -> Event:
        if self.returned:
            return self.returned[0][1]
        assert self.events, "a lane without events is removed"
        return self.events[0]

    def remove_first(self) -> None:
        if self.returned:
            heapq.heappop(self.returned)
        elif self.events:
            self.events.popleft()

    def append(self, event: Event) -> None:
        if self.events is None:
            self.events = deque()
        self.events.append(event)


class Ordering:
    """The events that may be handed out, and when. Times are seconds of any one clock; ids rise as events are added."""

    def __init__(self) -> None:
        self._fresh: deque[Event] = deque()
        self._aside: dict[str, _Lane] = {}
        # Heaps; an entry that no longer holds is discarded when it comes up.
        self._offers: list[tuple[int, str]] = []  # offered lanes, by the id of their first event
        self._resting: list[tuple[float, str]] = []  # lanes not offered, by the end of their rest
        self._skipped: set[str] = set()  # lanes not offered because the taker skipped them

    def add(self, events: Sequence[Event]) -> None:
        """Append new events."""
        self._fresh.extend(events)

    def give_back(self, events: Sequence[Event], *, not_before: float) -> None:
        """Put events that were handed out back in their places; their lanes rest until `not_before`."""
        for event in events:
            lane = self._aside.setdefault(event.customer, _Lane())
            heapq.heappush(lane.returned, (event.id, event))
            lane.not_before = max(lane.not_before, not_before)
            lane.offered = False
            heapq.heappush(self._resting, (lane.not_before, event.customer))

    def end_rests(self) -> None:
        """Let every lane that rests be handed out again."""
        for not_before, customer in self._resting:
            lane = self._aside.get(customer)
            if lane and not lane.offered and lane.not_before <= not_before:
                lane.not_before = 0.0
                self._offer(customer, lane)
        self._resting.clear()

    def hand_out(self, *, now: float, max_events: int, max_bytes: int, skip_lanes: AbstractSet[str]) -> list[Event]:
        """Remove and return what comes next; the first event may exceed `max_bytes`. Empty if nothing may be had now."""
        self._offer_what_may_be_had(now, skip_lanes)
        batch: list[Event] = []
        size = 0
        while len(batch) < max_events and (found := self._first()):
            event, lane = found
            if event.customer in skip_lanes:
                self._pass_over(event, lane)
                self._skipped.add(event.customer)
            elif lane is None and event.customer in self._aside:
                self._pass_over(event, lane)  # earlier events of its lane rest
            elif batch and size + event.size_bytes > max_bytes:
                break
            else:
                self._remove(event, lane)
                batch.append(event)
                size += event.size_bytes
        return batch

    def next_change(self) -> float | None:
        """Return when the next lane ends its rest, if any rests."""
        return self._resting[0][0] if self._resting else None

    def ready_at(self, now: float) -> float | None:
        """Return from when on something may be handed out if no lane is skipped: `now`, later, or None for never.

        It may say `now` too early, where all that is fresh is of lanes that rest.
        """
        if self._fresh or self._offers or self._skipped:
            return now
        return max(now, self._resting[0][0]) if self._resting else None

    def first_of_each_place(self) -> Iterator[Event]:
        """Yield the first fresh event and the first of each aside lane: the oldest of all is among them."""
        return chain(islice(self._fresh, 1), (lane.first() for lane in self._aside.values()))

    def resting(self, now: float) -> int:
        """Count the events in lanes that rest; those still fresh are not among them."""
        return sum(len(lane) for lane in self._aside.values() if not lane.offered and lane.not_before > now)

    def __len__(self) -> int:
        """Count the events, one lane after the other."""
        return len(self._fresh) + sum(map(len, self._aside.values()))

    def __iter__(self) -> Iterator[Event]:
        """Yield every event, lane by lane."""
        returned = (event for lane in self._aside.values() for _, event in lane.returned)
        return chain(returned, *(lane.events or () for lane in self._aside.values()), self._fresh)

    def _offer_what_may_be_had(self, now: float, skip_lanes: AbstractSet[str]) -> None:
        for customer in self._skipped - skip_lanes:
            self._skipped.discard(customer)
            if lane := self._aside.get(customer):
                heapq.heappush(self._resting, (lane.not_before, customer))
        while self._resting and self._resting[0][0] <= now:
            not_before, customer = heapq.heappop(self._resting)
            lane = self._aside.get(customer)
            if lane and not lane.offered and lane.not_before <= not_before:
                self._offer(customer, lane)

    def _offer(self, customer: str, lane: _Lane) -> None:
        lane.offered = True
        heapq.heappush(self._offers, (lane.first().id, customer))

    def _first(self) -> tuple[Event, _Lane | None] | None:
        """Return the next event that is offered, and its lane if that is aside."""
        while self._offers:
            first_id, customer = self._offers[0]
            lane = self._aside.get(customer)
            if lane and lane.offered and lane.first().id == first_id:
                if self._fresh and self._fresh[0].id < first_id:
                    break
                return lane.first(), lane
            heapq.heappop(self._offers)
        return (self._fresh[0], None) if self._fresh else None

    def _pass_over(self, event: Event, lane: _Lane | None) -> None:
        if lane is None:
            self._aside.setdefault(event.customer, _Lane()).append(self._fresh.popleft())
        else:
            lane.offered = False

    def _remove(self, event: Event, lane: _Lane | None) -> None:
        if lane is None:
            self._fresh.popleft()
            return
        heapq.heappop(self._offers)
        lane.remove_first()
        if lane:
            self._offer(event.customer, lane)
        else:
            del self._aside[event.customer]
