"""The window: events taken from the buffer, in lanes, of each of which one event at most is on its way. Pure.

A lane is the events of one customer, in order; where order is not wanted, each event is a lane of its own. A lane is
ready (its first event may be tried), started, or parked until a time; the events behind the first wait for it. In a hold,
lanes that were probes in vain wait behind all others, and are ready like them when it ends.

Bounded in events and bytes. At most half of either may be lanes that are retried; one beyond that goes back to the buffer,
whole, and how often its first event was tried is remembered here. A lane that is retried gets no more events until the
first is done with, and one that has its share of the window none until half of that is gone.

The store may revoke a lane, which then is another process's. Its events leave the window at once. While an attempt of it is
under way, the lane waits for that to end before an event of it that came again is tried.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import count
from typing import Final

from forwarder.delivery.lane import Lane, Story, Taken
from forwarder.event import Event

_MAX_STORIES: Final = 10_000


class Lanes:
    """The window. Times are seconds of the event loop's clock."""

    def __init__(self, *, ordered: bool, max_events: int, max_bytes: int, max_lanes: int) -> None:
        """`max_lanes`: so many lanes find room, however many events each of them has."""
        self._ordered = ordered
        self._max_bytes = max_bytes
        self.change_max(max_events=max_events, max_lanes=max_lanes)
        self._lanes: dict[str | int, Lane] = {}
        self.full_lanes: set[str] = set()
        """The customers of whom no more events may be added now; changed here alone."""
        self.ready = 0
        """How many lanes may be started; changed here alone."""
        self._first: deque[Lane] = deque()  # ready, and never tried
        self._again: deque[Lane] = deque()  # ready to be retried
        self._probed: deque[Lane] = deque()  # ready, and probes of this hold that were not delivered
        self._parked: list[tuple[float, int, Lane]] = []  # a heap by due time; see _is_parked
        self._parkings = count(1)
        self._retry_was_last = False
        self._held = False
        self._newest_next = False
        self.parked_suspects = 0
        """How many lanes are parked of which the first event is a suspect; changed here alone."""
        self._stories: OrderedDict[int, Story] = OrderedDict()
        self._left: Counter[str | int] = Counter()  # how many events of a lane are on their way back
        self._retried_events = 0
        self._retried_bytes = 0
        self._admits_all = False
        self.events = 0
        self.bytes = 0
        self.parked_events = 0
        self._started_first = 0  # those of the started that are not retried
        self.started = 0
        """How many lanes, and so events, are being tried or wait for their ack to be committed."""

    def change_max(self, *, max_events: int, max_lanes: int) -> None:
        """Be of another size from now on; what is in it stays."""
        self._max_events = max_events
        self._share_events = max(1, max_events // (2 * max_lanes))
        self._share_bytes = self._max_bytes // max_lanes
        self._enough_lanes = max_lanes + max(1, max_lanes // 2)
        self.max_new_of_lane = self._share_events if self._ordered else max_events
        """How many events of one lane may be added at once."""

    # Filling it

    def room(self) -> tuple[int, int]:
        """Return how many events, and bytes of them, may be added.

        `(0, 0)` unless a quarter of the window is free, so that the buffer is asked for batches; and while there are enough
        lanes besides those that are retried, as others may be far behind many events of these. In a hold there are never
        enough: a lane that is refused nothing may be behind very many that are.
        """
        if not self._held and len(self._first) + self._started_first >= self._enough_lanes:
            return 0, 0
        events, size = self._max_events - self.events, self._max_bytes - self.bytes
        return (events, size) if events >= max(1, self._max_events // 4) and size > 0 else (0, 0)

    def add(self, events: Sequence[Event]) -> list[Event]:
        """Add events that were taken from the buffer; return those that must go back.

        They do if too many are retried already, or if earlier events of their lane are still on their way back.
        """
        back: list[Event] = []
        for event in events:
            key = event.customer if self._ordered else event.id
            size = len(event.body)
            lane = self._lanes.get(key)
            story = self._stories.get(event.id) if self._stories else None
            is_retried = lane.retried if lane else story is not None
            if key in self._left or (is_retried and not self._admits(size)):
                self._left[key] += 1
                back.append(event)
                continue
            if story:
                del self._stories[event.id]
            if lane is None:
                lane = self._lanes[key] = Lane(key, retried=is_retried)
                self.ready += 1
                (self._again if is_retried else self._first).append(lane)
            lane.events.append(Taken(event, story or Story()))
            lane.bytes += size
            self.events += 1
            self.bytes += size
            if is_retried:
                self._retried_events += 1
                self._retried_bytes += size
            if lane.state == "parked":
                self.parked_events += 1
            if self._ordered and (
                is_retried or len(lane.events) >= self._share_events or lane.bytes >= self._share_bytes
            ):
                self.full_lanes.add(event.customer)
        return back

    def _admits(self, size: int) -> bool:
        """Whether an event of so many bytes may come to those that are retried."""
        return self._admits_all or not self._retried_events or self._fits(1, size)

    def have_gone(self, events: Sequence[Event]) -> None:
        """What had to go back is there."""
        self._left.subtract(map(self._key, events))
        for key in {self._key(event) for event in events}:
            if not self._left[key]:
                del self._left[key]

    def _key(self, event: Event) -> str | int:
        return event.customer if self._ordered else event.id

    # What is tried

    @property
    def has_fresh(self) -> bool:
        """Whether a lane is ready of which the first event was never tried, or not since the last hold."""
        return bool(self._first)

    @property
    def next_due(self) -> float | None:
        """When the next parked lane becomes ready."""
        while self._parked and not _is_parked(self._parked[0]):
            heapq.heappop(self._parked)
        return self._parked[0][0] if self._parked else None

    def start(self) -> Lane | None:
        """Start the next ready lane; None if there is none. Where both wait, retries and first attempts take turns."""
        self._retry_was_last = bool(self._again) and not (self._first and self._retry_was_last)
        queue = self._again if self._retry_was_last else self._first
        if not queue:
            return None
        lane = queue.popleft()
        self.ready -= 1
        lane.state = "started"
        self.started += 1
        self._started_first += not lane.retried
        return lane

    def start_probe(self, *, spare: Callable[[Event], bool] | None = None) -> Lane | None:
        """Start the best lane for a probe: one not yet tried, else one to be retried, else the one probed longest ago.

        Of those not yet tried it takes the oldest and the newest in turn, as the refused ones may all have come in a row.
        An event that is to be spared is taken only if there is no other.
        """
        self._newest_next = not self._newest_next
        lane = next((lane for lane in self._probes() if not (spare and spare(lane.first.event))), None)
        lane = lane or next(self._probes(), None)
        if lane is None:
            return None
        if lane.state == "parked":
            self._unpark(lane)
        else:
            self.ready -= 1
            (self._probed if lane in self._probed else self._again if lane.retried else self._first).remove(lane)
        lane.state = "started"
        self.started += 1
        self._started_first += not lane.retried
        return lane

    def _probes(self) -> Iterator[Lane]:
        """Go through the lanes that a probe may be of, the best first."""
        yield from self._first if self._newest_next else reversed(self._first)
        yield from self._again
        if self.next_due is not None:
            yield self._parked[0][2]  # most often
            yield from (entry[2] for entry in sorted(self._parked) if _is_parked(entry))
        yield from self._probed

    def park(self, lane: Lane, *, until: float) -> list[Event]:
        """Park a started lane; or if too many are retried, remove it and return its events, which go back."""
        if lane.revoked:
            return self._go_on(lane)
        self._leave_started(lane)
        self._set_retried(lane)
        if not self._fits(0, 0):
            return self._remove(lane)
        lane.state = "parked"
        self.parked_events += len(lane.events)
        self.parked_suspects += lane.first.story.suspect
        lane.parking = next(self._parkings)
        heapq.heappush(self._parked, (until, lane.parking, lane))
        return []

    def put_back(self, lane: Lane) -> None:
        """Make a started lane ready again, behind the others, as if its first event had not been tried."""
        if lane.revoked:
            self._go_on(lane)
            return
        self._leave_started(lane)
        self._make_ready(lane)

    def put_back_probed(self, lane: Lane) -> None:
        """Make a started lane ready behind all others until the hold ends: it was a probe in vain."""
        if lane.revoked:
            self._go_on(lane)
            return
        self._leave_started(lane)
        lane.state = "ready"
        self.ready += 1
        self._probed.append(lane)

    def hold_begins(self) -> None:
        """Only probes are started from now on."""
        self._held = True

    def hold_ends(self) -> None:
        """Everything may start again."""
        self._held = False
        self.forget_probes()

    def forget_probes(self) -> None:
        """Let those that were probes in vain have their turn: those that were refused are retried from now on."""
        while self._probed:
            lane = self._probed.popleft()
            self.ready -= 1
            if lane.first.story.refusals and not lane.retried and self._fits(len(lane.events), lane.bytes):
                self._set_retried(lane)
            self._make_ready(lane)

    def end(self, lane: Lane) -> bool:
        """Remove the first event of a started lane, which was acked; the lane goes on with the next.

        Return whether more events of it may be added now, other than before.
        """
        if lane.revoked:
            self._go_on(lane)
            return False
        self.started -= 1
        self._started_first -= not lane.retried
        size = len(lane.events.popleft().event.body)
        lane.bytes -= size
        self.events -= 1
        self.bytes -= size
        if lane.retried:
            lane.retried = False
            self._retried_events -= len(lane.events) + 1
            self._retried_bytes -= lane.bytes + size
        if lane.events:
            self._make_ready(lane)
        else:
            del self._lanes[lane.key]
        is_half_gone = 2 * len(lane.events) <= self._share_events and 2 * lane.bytes <= self._share_bytes
        if isinstance(lane.key, str) and lane.key in self.full_lanes and is_half_gone:
            self.full_lanes.discard(lane.key)
            return True
        return False

    def revoke(self, customers: AbstractSet[str]) -> None:
        """Remove the events of these customers, which are no longer ours: they neither are acked nor go back."""
        lanes = self._lanes
        if self._ordered:
            revoked = [lane for customer in customers if (lane := lanes.get(customer))]
        else:
            revoked = [lane for lane in lanes.values() if lane.events and lane.first.event.customer in customers]
        for lane in revoked:
            self._empty(lane)
            if lane.state != "started":
                lane.state = "revoked"
                del lanes[lane.key]
        for queue in (self._first, self._again, self._probed):
            if any(lane.state == "revoked" for lane in queue):
                left = [lane for lane in queue if lane.state != "revoked"]
                queue.clear()
                queue.extend(left)
        self._parked = [entry for entry in self._parked if _is_parked(entry)]
        heapq.heapify(self._parked)

    def _empty(self, lane: Lane) -> None:
        """Remove all events of a lane; an attempt with its first one may be under way."""
        if lane.state == "ready":
            self.ready -= 1
        elif lane.state == "parked":
            self._unpark(lane)
        elif not lane.revoked:
            self._leave_started(lane)
            lane.revoked = True
        if lane.retried:
            lane.retried = False
            self._retried_events -= len(lane.events)
            self._retried_bytes -= lane.bytes
        self.events -= len(lane.events)
        self.bytes -= lane.bytes
        lane.events.clear()
        lane.bytes = 0
        self.full_lanes.discard(lane.key)

    def _go_on(self, lane: Lane) -> list[Event]:
        """The attempt of a revoked lane has ended: go on with what came again. Nothing of it goes back."""
        lane.revoked = False
        if lane.events:
            self._make_ready(lane)
        else:
            del self._lanes[lane.key]
        return []

    def unpark_due(self, now: float) -> None:
        """Make lanes ready whose time has come."""
        while (due := self.next_due) is not None and due <= now:
            lane = heapq.heappop(self._parked)[2]
            self._unpark(lane)
            self._make_ready(lane)

    def unpark_suspects(self, *, also_refused: bool = False) -> None:
        """Make the lanes ready whose first event is a suspect, as something was delivered.

        With `also_refused`, as a hold has ended, also those whose first event was refused otherwise.
        """
        if self.parked_suspects or also_refused:
            for entry in sorted(self._parked):
                story = entry[2].first.story if _is_parked(entry) else None
                if story and (story.suspect or (also_refused and story.refusals)):
                    self._unpark(entry[2])
                    self._make_ready(entry[2])

    def end_waits(self) -> None:
        """Make every parked lane ready, and let in what comes: there is no time to wait."""
        self._admits_all = True
        self.unpark_due(float("inf"))

    def parked_until(self, event_id: int) -> float | None:
        """Return when an event is tried again that waits for that now. Looks at all that are parked."""
        found = (entry for entry in self._parked if _is_parked(entry) and entry[2].first.event.id == event_id)
        return next((due for due, _, _ in found), None)

    def firsts(self) -> Iterator[Taken]:
        """Go through the events whose turn it is. Looks at all lanes."""
        return (lane.first for lane in self._lanes.values() if lane.events)

    # Keeping the lanes

    def _leave_started(self, lane: Lane) -> None:
        self.started -= 1
        self._started_first -= not lane.retried

    def _make_ready(self, lane: Lane) -> None:
        lane.state = "ready"
        self.ready += 1
        (self._again if lane.retried else self._first).append(lane)

    def _unpark(self, lane: Lane) -> None:
        lane.state = "ready"
        self.parked_events -= len(lane.events)
        self.parked_suspects -= lane.first.story.suspect

    @property
    def has_room_for_retries(self) -> bool:
        """Whether a good many more may be retried."""
        return self._fits(self._max_events // 4, self._max_bytes // 4)

    def _fits(self, events: int, size: int) -> bool:
        """Whether so many more may be retried."""
        fits = 2 * (self._retried_bytes + size) <= self._max_bytes
        return fits and 2 * (self._retried_events + events) <= self._max_events

    def _set_retried(self, lane: Lane) -> None:
        if not lane.retried:
            lane.retried = True
            self._retried_events += len(lane.events)
            self._retried_bytes += lane.bytes
            if isinstance(lane.key, str):
                self.full_lanes.add(lane.key)

    def _remove(self, lane: Lane) -> list[Event]:
        del self._lanes[lane.key]
        if isinstance(lane.key, str):
            self.full_lanes.discard(lane.key)
        self.events -= len(lane.events)
        self.bytes -= lane.bytes
        self._retried_events -= len(lane.events)
        self._retried_bytes -= lane.bytes
        self._left[lane.key] += len(lane.events)
        self._stories[lane.first.event.id] = lane.first.story
        if len(self._stories) > _MAX_STORIES:
            self._stories.popitem(last=False)
        return [taken.event for taken in lane.events]


def _is_parked(entry: tuple[float, int, Lane]) -> bool:
    """Whether the lane still waits for that time; where not, the entry is left over."""
    return entry[2].state == "parked" and entry[2].parking == entry[1]
