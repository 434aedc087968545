"""The engine in runs that hypothesis makes up: any outcomes, in any order, with keys that change and time that passes."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from forwarder.buffer import fates
from forwarder.delivery.engine import Ack, Attempt, Release
from forwarder.delivery.holds import MAX_RETRY_AFTER_SECONDS
from forwarder.event import Event
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from tests.fakes.engine_harness import BLOCKED, FAILED, LOST, PAGE, REFUSED, REJECTED, Driver

CUSTOMERS = ("a", "b", "c", "d", "e")
MAX_AGE_SECONDS = 20.0
SYSTEMIC_SECONDS = 5.0
places = st.integers(0, 50)
"""A place in some list, wrapped around its length."""
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.sampled_from([DELIVERED, DELIVERED, FAILED, LOST, REJECTED, BLOCKED, REFUSED, REFUSED, PAGE]),
    st.floats(0, 1000).map(lambda seconds: Retryable("status_429", False, seconds)),
)


@dataclass(slots=True)
class Before:
    """What an attempt's decision depends on, as it was when its answer came."""

    held: bool
    was_suspect: bool
    was_delivered_lately: bool
    is_old: bool
    counted: int
    """How many of its refusals counted."""
    has_evidence: bool
    """Another event's attempt with its key, begun since it was refused last, was delivered."""


class EngineInvariants(RuleBasedStateMachine):
    """Events are in the backlog, in the window, or have a fate."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver()
        self.events: list[Event] = []
        self.open: list[Attempt] = []
        self.committing: list[tuple[Attempt, Ack]] = []
        self.revoked: list[Attempt] = []  # under way since before their lanes were revoked
        self.last_delivery_at = float("-inf")
        self.last_number = 0
        self.refused_at: dict[int, int] = {}
        self.delivered_attempts: list[tuple[int, int]] = []
        self.asked_to_wait_until = float("-inf")  # by Retry-After, while that holds

    @initialize(
        order=st.sampled_from(["customer", "none"]),
        on_ambiguous=st.sampled_from(["retry", "dead_letter"]),
        max_concurrency=st.integers(1, 5),
        breaker_failures=st.integers(1, 5),
        systemic_rejections=st.integers(1, 4),
        rate_limit_per_second=st.sampled_from([0.0, 0.0, 0.5, 3.0]),
        share=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def opened(self, share: float, **changed: object) -> None:
        settings = DeliverySettings(
            retry_initial_seconds=0.5,
            retry_max_seconds=8.0,
            max_age_seconds=MAX_AGE_SECONDS,
            systemic_seconds=SYSTEMIC_SECONDS,
            probe_max_seconds=10.0,
            **changed,  # type: ignore[arg-type] # values of those settings
        )
        self.driver = Driver(settings, random_share=lambda: share)

    @rule(customers=st.lists(st.sampled_from(CUSTOMERS), min_size=1, max_size=12))
    def accept(self, customers: list[str]) -> None:
        events = [self.driver.make(customer, accepted_at=self.driver.wall) for customer in customers]
        self.events += events
        self.driver.backlog.put(events)
        self.driver.feed()

    @rule()
    def start_all_that_may(self) -> None:
        some, holds = self.driver, self.driver.holds
        while True:
            held, probe_at, now = bool(holds.causes), some.engine._probe_at, some.now
            had_room = some.limiter.in_flight < some.limiter.limit
            attempt = some.try_start()
            if attempt is None:
                break
            self.last_number = attempt.number
            assert attempt.is_probe == held
            assert attempt.lane not in [other.lane for other in (*self.open, *self.revoked)]
            assert attempt.taken is attempt.lane.first
            if held:
                assert not any(other.is_probe for other in (*self.open, *self.revoked))
                assert probe_at is not None
                assert probe_at <= now
                assert self.asked_to_wait_until <= now
            else:
                assert had_room
            self.open.append(attempt)
        wakes_at = some.engine.wakes_at()
        assert wakes_at is None or wakes_at > some.now, "the timer would spin"
        waits = some.lanes.ready or some.lanes.next_due is not None
        assert not waits or wakes_at is not None or self.open or self.revoked, "it would never wake"

    @precondition(lambda self: self.open)
    @rule(place=places, outcome=outcomes)
    def end(self, place: int, outcome: Outcome) -> None:
        some = self.driver
        attempt = self.open.pop(place % len(self.open))
        before = Before(
            bool(some.holds.causes),
            attempt.taken.story.suspect,
            some.now - self.last_delivery_at <= SYSTEMIC_SECONDS,
            some.wall - attempt.taken.event.accepted_at >= MAX_AGE_SECONDS,
            attempt.taken.story.refusals.counted if attempt.taken.story.refusals else 0,
            any(
                number > self.refused_at.get(attempt.taken.event.id, attempt.number) and key == attempt.key_number
                for number, key in self.delivered_attempts
            ),
        )
        lane_before = [taken.event for taken in attempt.lane.events]
        decision = some.engine.ended(attempt, outcome, some.now)
        self.note(outcome, attempt)
        if isinstance(outcome, Blocked):
            self.refused_at[attempt.taken.event.id] = self.last_number
        if isinstance(decision, Ack):
            self.check_fate(attempt, outcome, decision.fate, before)
            self.committing.append((attempt, decision))
        elif isinstance(decision, Release):
            assert decision.events == lane_before, "the whole lane goes back"
            assert decision.not_before > some.now
            some.give_back(decision)
        else:
            refusals = attempt.taken.story.refusals
            blocked = isinstance(outcome, Blocked) and not (refusals and refusals.suspect)
            assert attempt.lane.state == ("ready" if attempt.is_probe or blocked else "parked")
        some.feed()

    def note(self, outcome: Outcome, attempt: Attempt) -> None:
        some = self.driver
        if outcome == DELIVERED:
            self.last_delivery_at = some.now
            self.delivered_attempts.append((attempt.number, attempt.key_number))
            assert "systemic" not in some.causes
            assert not attempt.is_probe or not some.causes
        if isinstance(outcome, Retryable) and outcome.retry_after_seconds is not None:
            seconds = min(outcome.retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
            self.asked_to_wait_until = max(self.asked_to_wait_until, some.now + seconds)
        if "retry_after" not in some.causes:
            self.asked_to_wait_until = float("-inf")

    def check_fate(self, attempt: Attempt, outcome: Outcome, fate: fates.Fate, before: Before) -> None:
        some = self.driver
        assert attempt.taken.event.id not in some.fates
        assert (fate == fates.HandedOver()) == (outcome == DELIVERED)
        if not isinstance(fate, fates.DeadLettered):
            return
        match fate.reason:
            case "rejected" if isinstance(outcome, Blocked):
                assert before.has_evidence
                assert before.counted >= 2, "this is the third that counts"
            case "rejected":
                assert isinstance(outcome, Rejected)
                assert before.was_delivered_lately or (before.was_suspect and before.is_old)
            case "expired":
                assert isinstance(outcome, Retryable) or (isinstance(outcome, Blocked) and before.has_evidence)
                assert before.is_old
                assert not before.held
                assert not some.holds.causes
                assert not attempt.is_probe
            case "ambiguous" if some.settings.on_ambiguous == "retry":
                assert isinstance(outcome, Blocked)
                assert before.has_evidence
                assert before.counted >= 2
            case "ambiguous":
                assert outcome == PAGE or (isinstance(outcome, Retryable) and outcome.maybe_delivered)

    @precondition(lambda self: self.open)
    @rule(place=places)
    def cancel(self, place: int) -> None:
        self.driver.engine.cancelled(self.open.pop(place % len(self.open)))

    @rule(customers=st.sets(st.sampled_from(CUSTOMERS), min_size=1, max_size=3))
    def revoke(self, customers: set[str]) -> None:
        """The store takes lanes away, and hands them out again when there is room; so acks not committed are refused."""
        some = self.driver
        gone = [
            each for each in some.lanes._lanes.values() for taken in each.events if taken.event.customer in customers
        ]
        events = {taken.event.id: taken.event for lane in gone for taken in lane.events}
        self.revoked += [attempt for attempt in self.open if attempt.lane in gone]
        self.open = [attempt for attempt in self.open if attempt.lane not in gone]
        refused = [each for each in self.committing if each[0].lane in gone]
        self.committing = [each for each in self.committing if each[0].lane not in gone]
        some.lanes.revoke(customers)
        for attempt, _ in refused:
            some.lanes.end(attempt.lane)
        some.backlog.give_back(list(events.values()), not_before=some.now)

    @precondition(lambda self: self.revoked)
    @rule(place=places, outcome=outcomes)
    def end_revoked(self, place: int, outcome: Outcome) -> None:
        """What an attempt of a revoked lane comes to is news of the far side, and of the event to nobody here."""
        some = self.driver
        attempt = self.revoked.pop(place % len(self.revoked))
        before = list(attempt.lane.events)
        decision = some.engine.ended(attempt, outcome, some.now)
        self.note(outcome, attempt)
        if isinstance(outcome, Blocked):
            self.refused_at[attempt.taken.event.id] = self.last_number
        if isinstance(decision, Ack):
            some.lanes.end(attempt.lane)
        else:
            assert not isinstance(decision, Release)
        assert list(attempt.lane.events) == before
        assert not attempt.lane.revoked
        some.feed()

    @precondition(lambda self: self.revoked)
    @rule(place=places)
    def cancel_revoked(self, place: int) -> None:
        self.driver.engine.cancelled(self.revoked.pop(place % len(self.revoked)))

    @precondition(lambda self: self.committing)
    @rule(place=places)
    def commit(self, place: int) -> None:
        self.driver.ack(*self.committing.pop(place % len(self.committing)))
        self.driver.feed()

    @rule(seconds=st.floats(0, 4))
    def time_passes(self, seconds: float) -> None:
        self.driver.wait(seconds)

    @rule()
    def time_passes_until_it_wakes(self) -> None:
        some = self.driver
        wakes_at = some.engine.wakes_at()
        if wakes_at is not None and wakes_at > some.now:
            some.now = wakes_at
            self.start_all_that_may()

    @rule()
    def key_changes(self) -> None:
        some = self.driver
        some.engine.key_changed(some.now)
        if "auth" in some.causes and some.holds.probe_at is not None:
            assert some.holds.probe_at <= max(some.now, some.holds._retry_after_until)

    @invariant()
    def permits_are_held_by_attempts_on_the_wire_alone(self) -> None:
        some = self.driver
        assert some.limiter.in_flight == len(self.open) + len(self.revoked)
        assert some.lanes.started == len(self.open) + len(self.committing)
        assert sum(attempt.is_probe for attempt in (*self.open, *self.revoked)) <= 1

    @invariant()
    def no_more_are_rejected_in_a_row_without_a_hold_than_may_be(self) -> None:
        engine = self.driver.engine
        if len(engine._rejected_in_a_row) > engine._settings.systemic_rejections:  # so many are final after a delivery
            assert self.driver.causes
        row = [each for lane in self.driver.lanes._lanes.values() for each in lane.events if each.story.suspect]
        if len({each.event.id for each in row} & engine._rejected_in_a_row) >= engine._settings.systemic_rejections:
            assert self.driver.causes

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        some = self.driver
        in_window = [taken.event.id for lane in some.lanes._lanes.values() for taken in lane.events]
        everywhere = [*in_window, *(event.id for event in some.backlog.events), *some.fates]
        assert sorted(everywhere) == [event.id for event in self.events]

    @invariant()
    def customers_events_leave_in_order(self) -> None:
        some = self.driver
        if some.settings.order == "customer":
            for customer in CUSTOMERS:
                own = [event_id for event_id in some.fates if self.events[event_id - 1].customer == customer]
                assert own == sorted(own)

    def teardown(self) -> None:
        """Have everything delivered from now on: all that was accepted leaves, and nothing holds."""
        some = self.driver
        while self.revoked:
            self.cancel_revoked(0)
        for _ in range(20 * len(self.events) + 20):
            while self.open:
                self.end(0, DELIVERED)
            while self.committing:
                self.commit(0)
            some.feed()
            if len(some.fates) == len(self.events):
                break
            self.start_all_that_may()
            if not self.open:
                times = [some.engine.wakes_at(), *some.backlog.rests]
                some.now = min(time for time in times if time is not None and time > some.now)
        assert len(some.fates) == len(self.events), "some were lost"


TestEngineInvariants = EngineInvariants.TestCase
