"""The window of lanes against a naive model, in runs that hypothesis makes up: a buffer in front of it, takes under way."""

from collections.abc import Iterable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forwarder.delivery.lanes import Lane, Lanes
from forwarder.delivery.suspects import RefusalHistory
from forwarder.event import Event
from tests.fakes.events import ids

CUSTOMERS = ("a", "b", "c", "d")
MAX_EVENTS, MAX_BYTES = 8, 80
places = st.integers(0, 50)
"""A place in some list, wrapped around its length."""


class LanesAgainstModel(RuleBasedStateMachine):
    """Events wait in a buffer, are on their way from or to it, in the window, or ended."""

    lanes: Lanes
    ordered: bool

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.events: list[Event] = []
        self.waiting: list[int] = []  # in the buffer
        self.going_back: list[Event] = []
        self.ended: list[int] = []
        self.pulled: set[int] = set()
        self.started: list[Lane] = []
        self.revoked: list[Lane] = []  # an attempt was under way, and still is
        self.due: dict[str | int, float] = {}  # of the lanes that are parked
        self.retry_was_last = False
        self.probed: list[Lane] = []

    @initialize(ordered=st.booleans())
    def opened(self, ordered: bool) -> None:
        self.ordered = ordered
        self.lanes = Lanes(ordered=ordered, max_events=MAX_EVENTS, max_bytes=MAX_BYTES, max_lanes=2)

    def key(self, event: Event) -> str | int:
        return event.customer if self.ordered else event.id

    def is_first_of_its_lane(self, event: Event) -> bool:
        return not self.ordered or not any(
            other.customer == event.customer for other in self.events[: event.id - 1] if other.id not in self.ended
        )

    def ready(self) -> list[Lane]:
        busy = [*self.started, *self.revoked]
        return [lane for lane in self.lanes._lanes.values() if lane not in busy and lane.key not in self.due]

    # The buffer

    @rule(customers=st.lists(st.sampled_from(CUSTOMERS), min_size=1, max_size=4), size_bytes=st.integers(1, 30))
    def put(self, customers: list[str], size_bytes: int) -> None:
        for customer in customers:
            event_id = len(self.events) + 1
            self.events.append(Event(event_id, customer, "n", b" " * size_bytes, 0.0))
            self.waiting.append(event_id)

    @rule(passes=st.integers(0, 2))
    def take(self, passes: int) -> None:
        """Take what there is room for, except of some customer, of whom the events rest."""
        max_events, max_bytes = room = self.lanes.room()
        skip = {*self.lanes.full_lanes, *CUSTOMERS[:passes]}
        of_lane = dict.fromkeys(CUSTOMERS, 0)
        taken: list[Event] = []
        for event in [self.events[event_id - 1] for event_id in self.waiting]:
            if len(taken) == max_events or max_bytes <= 0:
                break
            if event.customer not in skip and of_lane[event.customer] < self.lanes.max_new_of_lane:
                of_lane[event.customer] += 1
                max_bytes -= event.size_bytes
                taken.append(event)
        self.waiting = [event_id for event_id in self.waiting if event_id not in ids(taken)]
        back = self.lanes.add(taken)
        self.going_back += back
        assert set(ids(back)) <= set(ids(taken))
        assert self.lanes.events <= MAX_EVENTS or room == (0, 0)

    @precondition(lambda self: self.going_back)
    @rule()
    def has_gone_back(self) -> None:
        self.waiting = sorted([*self.waiting, *ids(self.going_back)])
        self.lanes.were_released(self.going_back)
        self.going_back = []

    # Attempts

    def has_started(self, lane: Lane) -> None:
        assert lane not in [*self.started, *self.revoked]
        assert self.is_first_of_its_lane(lane.first.event)
        assert lane.first.event.id not in self.ended
        self.started.append(lane)

    @precondition(lambda self: not self.probed)  # it is not called in a hold
    @rule()
    def start(self) -> None:
        ready = self.ready()
        lane = self.lanes.start()
        assert (lane is None) == (not ready)
        if lane:
            assert lane in ready
            assert lane.retried or not any(first.retried for first in ready) or self.retry_was_last
            assert not lane.retried or not self.retry_was_last or all(first.retried for first in ready)
            self.has_started(lane)
        self.retry_was_last = lane is not None and lane.retried

    @rule()
    def start_probe(self) -> None:
        ready, parked = self.ready(), [lane for lane in self.lanes._lanes.values() if lane.key in self.due]
        lane = self.lanes.start_probe()
        assert (lane is None) == (not ready and not parked)
        if lane:
            fresh = [one for one in ready if not one.retried and one not in self.probed]
            again = [one for one in ready if one.retried and one not in self.probed]
            assert lane in (fresh or again or parked or self.probed[:1])
            if lane in parked:
                assert self.due[lane.key] == min(self.due.values())
                del self.due[lane.key]
            self.probed = [one for one in self.probed if one is not lane]
            self.has_started(lane)
        self.retry_was_last = self.lanes._retry_was_last

    @precondition(lambda self: self.started)
    @rule(place=places, seconds=st.integers(0, 5), suspect=st.booleans())
    def park(self, place: int, seconds: int, suspect: bool) -> None:
        lane = self.started.pop(place % len(self.started))
        lane.first.story.attempts += 1
        lane.first.story.suspect = suspect
        back = self.lanes.park(lane, until=self.now + seconds)
        if back:
            assert back == [taken.event for taken in lane.events]
            assert 2 * sum(len(one.events) for one in self.retried()) + 2 * len(back) > MAX_EVENTS or (
                2 * sum(one.bytes for one in self.retried()) + 2 * lane.bytes > MAX_BYTES
            ), "it went back although there was room"
            self.going_back += back
        else:
            self.due[lane.key] = self.now + seconds

    @precondition(lambda self: self.started)
    @rule(place=places)
    def put_back(self, place: int) -> None:
        self.lanes.put_back(self.started.pop(place % len(self.started)))

    @precondition(lambda self: self.started)
    @rule(place=places, refused=st.booleans())
    def put_back_probed(self, place: int, refused: bool) -> None:
        lane = self.started.pop(place % len(self.started))
        if refused:
            lane.first.story.refusals = RefusalHistory(0, 0, suspect=True)
        self.lanes.put_back_probed(lane)
        self.probed.append(lane)

    @rule()
    def hold_ends(self) -> None:
        self.lanes.hold_ends()
        self.probed = []

    @precondition(lambda self: self.started)
    @rule(place=places)
    def end(self, place: int) -> None:
        lane = self.started.pop(place % len(self.started))
        event, before = lane.first.event, set(self.lanes.full_lanes)
        self.ended.append(event.id)
        assert self.lanes.end(lane) == (before - self.lanes.full_lanes == {event.customer})

    @rule(customers=st.sets(st.sampled_from(CUSTOMERS), min_size=1, max_size=3))
    def revoke(self, customers: set[str]) -> None:
        """These lanes are another's, and perhaps come again."""
        gone = [
            lane
            for lane in self.lanes._lanes.values()
            if any(taken.event.customer in customers for taken in lane.events)
        ]
        events = [taken.event for lane in gone for taken in lane.events]
        under_way = [lane.first.event for lane in gone if lane in self.started]
        assert sorted(ids(self.lanes.revoke(customers))) == sorted(ids(under_way))
        self.waiting = sorted([*self.waiting, *ids(events)])
        self.revoked += [lane for lane in gone if lane in self.started]
        self.started = [lane for lane in self.started if lane not in gone]
        self.probed = [lane for lane in self.probed if lane not in gone]
        for lane in gone:
            assert not lane.events
            self.due.pop(lane.key, None)

    @precondition(lambda self: self.revoked)
    @rule(place=places, how=st.sampled_from(["park", "put_back", "put_back_probed", "end"]))
    def end_revoked(self, place: int, how: str) -> None:
        """What the attempt came to changes nothing: whatever came again of the lane is ready."""
        lane = self.revoked.pop(place % len(self.revoked))
        before = list(lane.events)
        if how == "park":
            assert self.lanes.park(lane, until=self.now + 1) == []
        else:
            assert not getattr(self.lanes, how)(lane)
        assert list(lane.events) == before
        assert (lane in self.ready()) == bool(before)

    @precondition(lambda self: self.lanes.events)
    @rule(place=places)
    def pull(self, place: int) -> None:
        """An event that waits leaves from its place, whatever its lane does; the others keep their order."""
        inside = [taken.event.id for lane in self.lanes._lanes.values() for taken in lane.events]
        event_id = inside[place % len(inside)]
        found = self.lanes.find(event_id)
        assert found is not None
        lane, at = found
        assert self.lanes.is_under_way(lane, at) == (lane in self.started and at == 0)
        if self.lanes.is_under_way(lane, at):
            return
        others = [taken for taken in lane.events if taken.event.id != event_id]
        taken = self.lanes.pull(lane, at)
        assert taken.event.id == event_id
        assert list(lane.events) == others
        assert self.lanes.find(event_id) is None
        self.ended.append(event_id)
        self.pulled.add(event_id)
        if at == 0 and lane not in self.started and lane not in self.revoked:
            self.due.pop(lane.key, None)
            self.probed = [one for one in self.probed if one is not lane]
            assert (lane in self.ready()) == bool(others)

    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.lanes.unpark_due(self.now)
        self.due = {key: due for key, due in self.due.items() if due > self.now}

    @rule()
    def something_is_delivered(self) -> None:
        self.lanes.unpark_suspects()
        suspects = {key for key in self.due if self.lanes._lanes[key].first.story.suspect}
        self.due = {key: due for key, due in self.due.items() if key not in suspects}

    # What always holds

    def retried(self) -> Iterable[Lane]:
        return [lane for lane in self.lanes._lanes.values() if lane.retried]

    @invariant()
    def its_counters_are_what_a_recount_gives(self) -> None:
        lanes, each = self.lanes, list(self.lanes._lanes.values())
        assert all(lane.events for lane in each if lane not in self.revoked)
        assert all(self.lanes._lanes[lane.key] is lane for lane in self.revoked)
        assert len(list(lanes.firsts())) == sum(bool(lane.events) for lane in each)
        assert all(lane.bytes == sum(taken.event.size_bytes for taken in lane.events) for lane in each)
        assert lanes.events == sum(len(lane.events) for lane in each)
        assert lanes.bytes == sum(lane.bytes for lane in each)
        assert lanes.parked_events == sum(len(lane.events) for lane in each if lane.key in self.due)
        assert lanes.started == len(self.started)
        assert lanes.ready == len(self.ready())
        assert lanes._retried_events == sum(len(lane.events) for lane in self.retried())
        assert lanes._retried_bytes == sum(lane.bytes for lane in self.retried())
        assert lanes.parked_suspects == sum(lanes._lanes[key].first.story.suspect for key in self.due)

    @invariant()
    def each_lane_is_in_one_place(self) -> None:
        lanes = self.lanes
        assert {lane.key for lane in lanes._lanes.values() if lane.state == "parked"} == set(self.due)
        assert sorted(str(lane.key) for lane in [*lanes._first, *lanes._again, *lanes._probed]) == sorted(
            str(lane.key) for lane in self.ready()
        )
        assert all(lane.retried for lane in lanes._again)
        assert not any(lane.retried for lane in lanes._first)
        assert lanes.next_due == min(self.due.values(), default=None)
        for key, due in self.due.items():
            assert lanes.parked_until(lanes._lanes[key].first.event.id) == due

    @invariant()
    def no_more_than_half_is_retried_but_for_one_event(self) -> None:
        retried = list(self.retried())
        if sum(len(lane.events) for lane in retried) > 1:
            assert 2 * sum(len(lane.events) for lane in retried) <= MAX_EVENTS
            assert 2 * sum(lane.bytes for lane in retried) <= MAX_BYTES

    @invariant()
    def lanes_are_full_that_are_retried_or_have_their_share(self) -> None:
        lanes = self.lanes
        assert lanes.full_lanes <= set(lanes._lanes)
        if self.ordered:
            assert lanes.full_lanes >= {lane.key for lane in self.retried()}
            assert lanes.full_lanes >= {lane.key for lane in lanes._lanes.values() if len(lane.events) >= 2}

    @invariant()
    def nothing_is_lost_doubled_or_out_of_order(self) -> None:
        held = [taken.event.id for lane in self.lanes._lanes.values() for taken in lane.events]
        everywhere = [*held, *self.waiting, *ids(self.going_back), *self.ended]
        assert sorted(everywhere) == [event.id for event in self.events]
        for lane in self.lanes._lanes.values():
            own = [taken.event.id for taken in lane.events]
            assert own == sorted(own)
            assert {self.key(taken.event) for taken in lane.events} <= {lane.key}
            if self.ordered and own:
                assert self.is_first_of_its_lane(lane.first.event)

    def teardown(self) -> None:
        """Have all end, in the order accepted."""
        if not hasattr(self, "lanes"):
            return
        self.hold_ends()
        while self.revoked:
            self.end_revoked(0, "end")
        for _ in range(3 * len(self.events) + 3):
            self.lanes.end_waits()
            self.due = {}
            self.start()
            while self.started:
                self.end(0)
                self.start()
            if self.going_back:
                self.has_gone_back()
            self.take(0)
            self.start()
            if self.going_back:
                self.has_gone_back()
        assert len(self.ended) == len(self.events), "nothing moves"
        if self.ordered:
            for customer in CUSTOMERS:
                own = [event_id for event_id in self.ended if self.events[event_id - 1].customer == customer]
                in_turn = [event_id for event_id in own if event_id not in self.pulled]
                assert in_turn == sorted(in_turn)


TestLanesAgainstModel = LanesAgainstModel.TestCase
