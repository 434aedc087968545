"""Which event comes next: the order of acceptance, with lanes that are skipped or deferred for a while. Pure.

An event is in one of two places: in `_fresh`, or in a lane aside, if it was passed over or released. All events aside
precede all fresh ones, so the next event is the one with the smallest id of the lanes that are offered, or else the first
fresh one whose lane is not aside. No step costs more than the logarithm of the number of lanes, however many events wait,
except the rare ones that say so.

If a store has the events as well, not all need to be here. More may follow `_fresh` there (`more_fresh`). Of the lanes aside
at most `max_aside_bytes` and one event are kept; of the other events only the id is known, 8 bytes each, and the owner of
the ordering reads them when they are `wanted`.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from typing import Final

from forwarder.buffer.lane import OVERHEAD_BYTES, StoredLane, cost_bytes
from forwarder.event import Event, LaneOf, by_customer

MAX_STEPS: Final = 1000
"""How many events may be passed over in one turn of the event loop."""
MAX_STEPS_FOR_MORE: Final = 100
"""How many may be if there is something to hand out already: a fuller batch is not worth a longer search."""
UNREAD_OF_A_LANE: Final = 16
"""How many events of a lane are read at a time: the taker wants other lanes, too."""


class Ordering:
    """The events to hand out, and when. Times are in seconds of one clock, whichever; ids rise as events are added."""

    def __init__(self, *, max_aside_bytes: float = float("inf"), lane_of: LaneOf = by_customer) -> None:
        self._lane_of = lane_of
        self.more_fresh = False
        """Whether the store has events that are newer than all known here."""
        self.fresh_bytes = 0
        """About what the fresh events take in memory."""
        self.unfinished = False
        """Whether the last `hand_out` ended its search early: call it again when others had their turn."""
        self.nothing_aside = True
        """Whether the last `hand_out` left no lane aside. Then nothing is `wanted`, and `next_change` is None."""
        self._max_aside_bytes = max_aside_bytes
        self._aside_bytes = 0
        self._fresh: deque[Event] = deque()
        # Each lane aside is offered, or in `_deferred` or `_skipped`. An empty one stays until it would be offered.
        self._aside: dict[str, StoredLane] = {}
        self._keeping: dict[str, StoredLane] = {}  # those of which events are kept, and not only ids
        # Heaps. An entry that no longer holds is discarded when it is the first.
        self._offers: list[tuple[int, str]] = []  # offered lanes, by the id of their first event
        self._deferred: list[tuple[float, str]] = []  # lanes not offered, by their `not_before`
        self._oldest: list[tuple[int, str]] = []  # all lanes, by the id of their first event or a lower one
        self._skipped: set[str] = set()  # lanes not offered because the taker skipped them

    def add(self, events: Sequence[Event]) -> None:
        """Append new events."""
        self._fresh.extend(events)
        for event in events:
            self.fresh_bytes += len(event.body) + OVERHEAD_BYTES

    def release(self, events: Sequence[Event], *, not_before: float) -> None:
        """Return handed out events to their places, and defer their lanes until `not_before`."""
        for event in events:
            lane = self._lane_aside(self._lane_of(event))
            if lane.release(event):
                self._keep(event, lane)
            if self._aside_bytes > self._max_aside_bytes:
                self._keep_ids(self._lane_of(event), lane)
            self._note_first(event, lane)
            lane.not_before = max(lane.not_before, not_before)
            lane.offered = False
            heapq.heappush(self._deferred, (lane.not_before, self._lane_of(event)))

    def end_deferrals(self) -> None:
        """Offer every deferred lane. Looks at all of them."""
        deferred, self._deferred = self._deferred, []
        for not_before, customer in deferred:
            lane = self._aside.get(customer)
            if lane is not None and not lane.offered and lane.not_before <= not_before:
                lane.not_before = 0.0
                self._offer(customer, lane)

    def hand_out(
        self,
        *,
        now: float,
        max_events: int,
        max_bytes: int,
        skip_lanes: AbstractSet[str] = frozenset(),
        max_lane_events: int | None = None,
        max_steps: float = float("inf"),
    ) -> list[Event]:
        """Remove and return the next events, at most `max_lane_events` of a lane. The first may exceed `max_bytes`.

        Return fewer, or none, if no more are offered now; if the next must be read first (see `wanted`); or if `max_steps`
        were passed over, or the next one is very large (see `unfinished`).
        """
        steps = self._offer_due(now, skip_lanes, max_steps) if self._skipped or self._deferred else 0
        batch: list[Event] = []
        size = passed = 0
        lane_events: dict[str, int] = {}
        self.unfinished = False
        while len(batch) < max_events and steps < max_steps:
            event: Event | None
            if self._offers and (offered := self._first_offered()) is not None:
                event, customer, lane = offered
            elif self._fresh:
                event = self._fresh[0]
                customer, lane = self._lane_of(event), None
            else:
                break
            if batch and passed >= MAX_STEPS_FOR_MORE:
                self.unfinished = True
                break
            steps += 1
            if customer in skip_lanes or lane_events.get(customer, 0) == max_lane_events:
                self._skipped.add(customer)
                passed += 1
                if lane is None:
                    self._pass_over()
                else:
                    lane.offered = False
            elif lane is None and customer in self._aside:
                passed += 1
                self._pass_over()  # earlier events of its lane are deferred
            elif event is None or (batch and size + len(event.body) > max_bytes):
                self.unfinished = event is not None and 2 * size <= max_bytes
                break
            else:
                self._remove(event, lane)
                batch.append(event)
                size += len(event.body)
                lane_events[customer] = lane_events.get(customer, 0) + 1
                steps -= 1
        else:
            self.unfinished = steps >= max_steps
        self.nothing_aside = not (self._aside or self._deferred)
        return batch

    def take_oldest(self) -> Event | None:
        """Remove and return the oldest event, deferred or not. None if there is none, or if it must be read first."""
        lane = self._oldest_lane()
        event = lane.first() if lane is not None else self._fresh[0] if self._fresh else None
        if event is not None:
            self._remove(event, lane)
        return event

    def discard(self, is_meant: Callable[[Event], bool], ids: AbstractSet[int] = frozenset()) -> list[Event]:
        """Remove the events that are meant, and those only in the store that have these ids. Return the former.

        Looks at all events and lanes.
        """
        removed = [event for event in self._fresh if is_meant(event)]
        if removed:
            self._fresh = deque(event for event in self._fresh if not is_meant(event))
            self.fresh_bytes -= sum(map(cost_bytes, removed))
        for customer, lane in list(self._aside.items()):
            kept = lane.discard(is_meant, ids)
            if kept is None:
                continue
            removed += kept
            self._aside_bytes -= sum(map(cost_bytes, kept))
            if lane.first() is None:
                self._keeping.pop(customer, None)
            self._offer_again(customer, lane)
        return removed

    # What is in the store

    def wanted(self, max_events: int) -> list[int]:
        """Return the ids of the events to read from the store because they come next; mostly none."""
        offered = self._first_offered()
        if offered is None or offered[0] is not None:
            return []
        ids: list[int] = []
        offers = [heapq.heappop(self._offers) for _ in range(min(max_events, len(self._offers)))]
        for first_id, customer in offers:
            lane = self._aside.get(customer)
            if lane and lane.offered and lane.first_id() == first_id and first_id not in ids:
                ids.extend(lane.next_unread(min(UNREAD_OF_A_LANE, max_events - len(ids))))
            heapq.heappush(self._offers, (first_id, customer))
        return ids

    def oldest_wanted(self, max_events: int) -> list[int]:
        """Return the ids to read before `take_oldest` can return an event; none if it can."""
        lane = self._oldest_lane()
        return [] if lane is None else list(lane.next_unread(max_events))

    def add_read(self, ids: Sequence[int], events: Sequence[Event]) -> list[int]:
        """Add what was read of the `ids` that were wanted; return the ids of the events that cannot be read.

        At least one is kept, and others while there is room; the others are wanted again later. So are those that are not
        the first unread ones of their lanes any more, because an earlier one was released. If one cannot be read, look at
        all lanes.
        """
        by_id = {event.id: event for event in events}
        customers = {self._lane_of(event) for event in events}
        gone: list[int] = []
        kept = False
        who_awaits = self._who_awaits() if len(by_id) < len(ids) else {}
        for event_id in ids:
            event = by_id.get(event_id)
            customer = who_awaits.get(event_id) if event is None else self._lane_of(event)
            lane = None if customer is None else self._aside.get(customer)
            if customer is None or lane is None or lane.awaited() != event_id:
                continue
            if event is None:
                gone.append(event_id)
            elif self._find_room(cost_bytes(event), customers) or not kept:
                self._keep(event, lane)
                kept = True
            else:
                break
            lane.read(event)
            if (awaited := lane.awaited()) is not None:
                who_awaits[awaited] = customer
            self._offer_again(customer, lane)
        return gone

    def forget_unread(self) -> None:
        """Forget whatever is only in the store, which is lost. Looks at all lanes."""
        self.more_fresh = False
        for customer, lane in list(self._aside.items()):
            lane.forget_unread()
            self._offer_again(customer, lane)

    # What may be known of it

    def next_change(self) -> float | None:
        """Return until when the next lane is deferred; None if none is."""
        return self._deferred[0][0] if self._deferred else None

    def ready_at(self, now: float, *, skip_lanes: AbstractSet[str] = frozenset()) -> float | None:
        """Return from when on something may be handed out: `now`, later, or None for never.

        This may be too early if all fresh events are of lanes that are deferred or skipped.
        """
        if self.more_fresh or self._fresh or self._first_offered() or not self._skipped <= skip_lanes:
            return now
        return max(now, self._deferred[0][0]) if self._deferred else None

    def oldest_accepted_at(self) -> float | None:
        """Return when the oldest event was accepted, or an earlier time if it is only in the store.

        Looks at all lanes, as the next two do.
        """
        fresh = (event.accepted_at for event in islice(self._fresh, 1))
        aside = (lane.oldest_accepted_at() for lane in self._aside.values() if lane)
        return min(chain(fresh, aside), default=None)

    def count_deferred(self, now: float) -> int:
        """Count the events in deferred lanes, without the fresh ones."""
        return sum(len(lane) for lane in self._aside.values() if not lane.offered and lane.not_before > now)

    def __len__(self) -> int:
        """Count the events known here."""
        return len(self._fresh) + sum(map(len, self._aside.values()))

    def __iter__(self) -> Iterator[Event]:
        """Yield every event kept here, lane by lane."""
        return chain(*(lane.kept() for lane in self._aside.values()), self._fresh)

    # Keeping the lanes

    def _offer_due(self, now: float, skip_lanes: AbstractSet[str], max_steps: float) -> int:
        """Offer lanes that are deferred no longer, at most `max_steps`; return how many steps that took."""
        for customer in self._skipped - skip_lanes:
            self._skipped.discard(customer)
            if (lane := self._aside.get(customer)) is not None:
                heapq.heappush(self._deferred, (lane.not_before, customer))
        steps = 0
        while self._deferred and self._deferred[0][0] <= now and steps < max_steps:
            steps += 1
            not_before, customer = heapq.heappop(self._deferred)
            lane = self._aside.get(customer)
            if lane is not None and not lane.offered and lane.not_before <= not_before:
                self._offer(customer, lane)
        return steps

    def _offer(self, customer: str, lane: StoredLane) -> None:
        if lane:
            lane.offered = True
            heapq.heappush(self._offers, (lane.first_id(), customer))
        else:
            del self._aside[customer]

    def _first_offered(self) -> tuple[Event | None, str, StoredLane] | None:
        """Return the first event of the lanes offered, or None in its place if it must be read; its customer; its lane."""
        while self._offers:
            first_id, customer = self._offers[0]
            lane = self._aside.get(customer)
            if lane and lane.offered and lane.first_id() == first_id:
                return lane.first(), customer, lane
            heapq.heappop(self._offers)
        return None

    def _pass_over(self) -> None:
        """Move the first fresh event aside."""
        event = self._fresh.popleft()
        cost = cost_bytes(event)
        self.fresh_bytes -= cost
        lane = self._lane_aside(self._lane_of(event))
        if lane.append(event, keep=self._aside_bytes + cost <= self._max_aside_bytes):
            self._keep(event, lane)
        self._note_first(event, lane)

    def _remove(self, event: Event, lane: StoredLane | None) -> None:
        """Remove the first event of a lane, or the first fresh one if that is None."""
        if lane is None:
            self._fresh.popleft()
            self.fresh_bytes -= len(event.body) + OVERHEAD_BYTES
        else:
            lane.remove_first()
            self._aside_bytes -= cost_bytes(event)
            if lane.first() is None:
                del self._keeping[self._lane_of(event)]
            self._offer_again(self._lane_of(event), lane)

    def _offer_again(self, customer: str, lane: StoredLane) -> None:
        """Offer a lane with another first event, if it was offered."""
        if lane.offered:
            self._offer(customer, lane)

    def _lane_aside(self, customer: str) -> StoredLane:
        if (lane := self._aside.get(customer)) is None:
            lane = self._aside[customer] = StoredLane()
        return lane

    def _note_first(self, event: Event, lane: StoredLane) -> None:
        """Note an added event if it is now the first of its lane."""
        if lane.first_id() != event.id:
            return
        heapq.heappush(self._oldest, (event.id, self._lane_of(event)))
        if len(self._oldest) > 2 * len(self._aside) + 100:  # most entries no longer hold
            self._oldest = [(lane.first_id(), customer) for customer, lane in self._aside.items() if lane]
            heapq.heapify(self._oldest)

    def _oldest_lane(self) -> StoredLane | None:
        """Return the lane aside with the oldest event."""
        while self._oldest:
            event_id, customer = self._oldest[0]
            lane = self._aside.get(customer)
            if not lane:
                heapq.heappop(self._oldest)
            elif lane.first_id() == event_id:
                return lane
            else:
                heapq.heapreplace(self._oldest, (lane.first_id(), customer))
        return None

    def _who_awaits(self) -> dict[int | None, str]:
        """Return the lanes by the id of the first event to read."""
        return {lane.awaited(): customer for customer, lane in self._aside.items()}

    def _keep(self, event: Event, lane: StoredLane) -> None:
        self._aside_bytes += cost_bytes(event)
        self._keeping[self._lane_of(event)] = lane

    def _keep_ids(self, customer: str, lane: StoredLane) -> None:
        self._aside_bytes -= lane.keep_ids()
        self._keeping.pop(customer, None)

    def _find_room(self, size: int, customers: AbstractSet[str]) -> bool:
        """Return whether there is room for an event that was read. To make some, keep only the ids of other lanes."""
        while self._aside_bytes + size > self._max_aside_bytes:
            customer = next((each for each in reversed(self._keeping) if each not in customers), None)
            if customer is None:
                return False
            self._keep_ids(customer, self._keeping[customer])
        return True
