"""The window holds the events that delivery took from the buffer, in lanes. Pure.

- A lane is the events of one customer, in order. Without order (`delivery.order = "none"`) each event is a lane of its own.
- At most one event of a lane is being tried. A lane is ready (its first event may be tried), started, or parked until a
  time. The events behind the first one wait for it.
- In a hold, lanes whose probes failed wait behind all others. They are ready like the others when the hold ends.
- The window is bounded in events and bytes. Lanes that are retried may have half of either (the retry quota). A lane beyond
  that is released to the buffer as a whole, and the story of its first event is remembered here.
- A lane that is retried gets no more events until its first one has left. A lane that has its share of the window gets none
  until half of the share is free.
- The store may revoke a lane, when another process gets it. Its events leave the window at once. If an attempt is under way,
  events of the lane that come again wait until that attempt has ended.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal

from forwarder.delivery.suspects import RefusalHistory
from forwarder.event import Event

_MAX_STORIES: Final = 10_000


@dataclass(slots=True)
class Story:
    """What is known of the attempts with an event. Times are in seconds since 1970."""

    attempts: int = 0
    first_attempt_at: float = 0.0
    last_attempt_at: float = 0.0
    suspect: bool = False
    """It was rejected while nothing else was delivered."""
    refusals: RefusalHistory | None = None
    """Other refusals, with the key that it was last tried with."""


@dataclass(slots=True, eq=False)
class Taken:
    """An event in the window."""

    event: Event
    story: Story


@dataclass(slots=True, eq=False)
class Lane:
    """Events of one customer in the window."""

    key: str | int
    customer: str
    events: deque[Taken] = field(default_factory=deque)
    state: Literal["ready", "started", "parked", "revoked"] = "ready"
    retried: bool = False
    """The first event was parked, and has not left yet."""
    bytes: int = 0
    parking: int = 0
    """Which entry of the heap of parked lanes is valid."""
    revoked: bool = False
    """It was revoked while an attempt was under way. `events` has only what came again since."""

    @property
    def first(self) -> Taken:
        """The event whose turn it is."""
        return self.events[0]


class Lanes:
    """The window. Times are seconds of the event loop's clock."""

    def __init__(self, *, ordered: bool, max_events: int, max_bytes: int, max_lanes: int) -> None:
        """Keep room for `max_lanes` lanes, however many events each of them has."""
        self._ordered = ordered
        self._max_bytes = max_bytes
        self.change_max(max_events=max_events, max_lanes=max_lanes)
        self._lanes: dict[str | int, Lane] = {}
        self.full_lanes: set[str] = set()
        """The customers whose events must not be added now; changed here alone."""
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
        self._left: Counter[str | int] = Counter()  # how many events of a lane are being released
        self._retried_events = 0
        self._retried_bytes = 0
        self._admits_all = False
        self.events = 0
        self.bytes = 0
        self.parked_events = 0
        self._started_first = 0  # started lanes that are not retried
        self.started = 0
        """How many lanes have an attempt under way, without those that were revoked."""

    def change_max(self, *, max_events: int, max_lanes: int) -> None:
        """Have another size from now on. What is in the window stays."""
        self._max_events = max_events
        self._share_events = max(1, max_events // (2 * max_lanes))
        self._share_bytes = self._max_bytes // max_lanes
        self._enough_lanes = max_lanes + max(1, max_lanes // 2)
        self.max_new_of_lane = self._share_events if self._ordered else max_events
        """How many events of one lane may be added at once."""

    # Filling it

    def room(self) -> tuple[int, int]:
        """Return how many events, and bytes of them, may be added.

        It is `(0, 0)` unless a quarter of the window is free, so that the buffer is asked for batches. It is also `(0, 0)`
        while there are enough lanes besides those that are retried. In a hold there are never enough, as a lane that is not
        refused may be behind very many that are.
        """
        if not self._held and len(self._first) + self._started_first >= self._enough_lanes:
            return 0, 0
        events, size = self._max_events - self.events, self._max_bytes - self.bytes
        return (events, size) if events >= max(1, self._max_events // 4) and size > 0 else (0, 0)

    def add(self, events: Sequence[Event]) -> list[Event]:
        """Add events that were taken from the buffer; return those that must be released.

        An event must if it has no room in the retry quota, or if earlier events of its lane are still being released.
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
                lane = self._lanes[key] = Lane(key, event.customer, retried=is_retried)
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
        """Whether the retry quota has room for an event of so many bytes."""
        return self._admits_all or not self._retried_events or self._fits(1, size)

    def were_released(self, events: Sequence[Event]) -> None:
        """These events are released now."""
        self._left.subtract(map(self._key, events))
        for key in {self._key(event) for event in events}:
            if not self._left[key]:
                del self._left[key]

    def _key(self, event: Event) -> str | int:
        return event.customer if self._ordered else event.id

    # What is tried

    @property
    def has_fresh(self) -> bool:
        """Whether a lane is ready whose first event was never tried, or not since the last hold."""
        return bool(self._first)

    @property
    def next_due(self) -> float | None:
        """When the next parked lane becomes ready."""
        while self._parked and not _is_parked(self._parked[0]):
            heapq.heappop(self._parked)
        return self._parked[0][0] if self._parked else None

    def start(self) -> Lane | None:
        """Start the next ready lane; None if there is none. Retries and first attempts take turns."""
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

        It takes the oldest and the newest of those not yet tried in turn, as the refused ones may all have come in a row. It
        takes an event that `spare` names only if there is no other.
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
        """Iterate over the lanes that may be probed, the best first."""
        yield from self._first if self._newest_next else reversed(self._first)
        yield from self._again
        if self.next_due is not None:
            yield self._parked[0][2]  # most often
            yield from (entry[2] for entry in sorted(self._parked) if _is_parked(entry))
        yield from self._probed

    def park(self, lane: Lane, *, until: float) -> list[Event]:
        """Park a started lane. If the retry quota is full, remove it and return its events, which must be released."""
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
        """Make a started lane ready, behind all others until the hold ends, as its probe failed."""
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
        """Make lanes whose probes failed ready like all others. Those that were refused are retried from now on."""
        while self._probed:
            lane = self._probed.popleft()
            self.ready -= 1
            if lane.first.story.refusals and not lane.retried and self._fits(len(lane.events), lane.bytes):
                self._set_retried(lane)
            self._make_ready(lane)

    def end(self, lane: Lane) -> bool:
        """Remove the first event of a started lane, as it is acked. The lane goes on with the next one.

        Return whether more events of the lane may be added now but not before.
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

    def find(self, event_id: int) -> tuple[Lane, int] | None:
        """Return the lane of an event and its place in it; None if it is not in the window. Looks at all events."""
        for lane in self._lanes.values():
            for place, taken in enumerate(lane.events):
                if taken.event.id == event_id:
                    return lane, place
        return None

    def is_under_way(self, lane: Lane, place: int) -> bool:
        """Whether the event in this place of its lane is being tried. If the lane was revoked, it came again, and waits."""
        return lane.state == "started" and place == 0 and not lane.revoked

    def pull(self, lane: Lane, place: int) -> Taken:
        """Remove an event that waits from its place, as it is acked. The others of its lane keep their order."""
        taken, was_first = lane.events[place], place == 0 and lane.state != "started"
        if was_first:
            if lane.state == "parked":
                self._unpark(lane)
            else:
                self.ready -= 1
                (self._probed if lane in self._probed else self._again if lane.retried else self._first).remove(lane)
        elif lane.state == "parked":
            self.parked_events -= 1
        size = len(taken.event.body)
        if lane.retried:
            lane.retried = not was_first
            self._retried_events -= len(lane.events) if was_first else 1
            self._retried_bytes -= lane.bytes if was_first else size
        del lane.events[place]
        lane.bytes -= size
        self.events -= 1
        self.bytes -= size
        if was_first and lane.events:
            self._make_ready(lane)
        elif was_first:
            del self._lanes[lane.key]
        is_half_gone = 2 * len(lane.events) <= self._share_events and 2 * lane.bytes <= self._share_bytes
        if isinstance(lane.key, str) and not lane.retried and is_half_gone:
            self.full_lanes.discard(lane.key)
        return taken

    def story_of(self, event_id: int) -> Story | None:
        """Return what is known of an event that was released."""
        return self._stories.get(event_id)

    def under_way(self, customer: str) -> int:
        """Return of how many events of a customer an attempt is under way. Looks at all lanes."""
        return sum(lane.customer == customer for lane in self._lanes.values() if lane.state == "started")

    def revoke(self, customers: AbstractSet[str]) -> list[Event]:
        """Remove the events of these customers, which are no longer ours. They are neither acked nor released.

        Return those of which an attempt is under way.
        """
        lanes = self._lanes
        if self._ordered:
            revoked = [lane for customer in customers if (lane := lanes.get(customer))]
        else:
            revoked = [lane for lane in lanes.values() if lane.events and lane.first.event.customer in customers]
        under_way = [lane.first.event for lane in revoked if lane.state == "started" and not lane.revoked]
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
        return under_way

    def _empty(self, lane: Lane) -> None:
        """Remove all events of a lane, also one that has an attempt under way."""
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
        """Go on with what came again of a revoked lane, as its attempt has ended. Return the events to release: none."""
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
        """Make every parked lane ready, and lift the retry quota, as there is no time to wait."""
        self._admits_all = True
        self.unpark_due(float("inf"))

    def parked_until(self, event_id: int) -> float | None:
        """Return when a parked event is tried again; None if it is not parked. Looks at all parked lanes."""
        found = (entry for entry in self._parked if _is_parked(entry) and entry[2].first.event.id == event_id)
        return next((due for due, _, _ in found), None)

    def firsts(self) -> Iterator[Taken]:
        """Iterate over the first events of all lanes."""
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
        """Whether at least half of the retry quota is free."""
        return self._fits(self._max_events // 4, self._max_bytes // 4)

    def _fits(self, events: int, size: int) -> bool:
        """Whether the retry quota has room for so many more."""
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
    """Whether the lane still waits for the time of this entry. If not, the entry is left over."""
    return entry[2].state == "parked" and entry[2].parking == entry[1]
