"""The engine between a backlog and scripted answers, in virtual time: what the buffer and the workers do, without them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from forwarder.buffer import fates
from forwarder.delivery.engine import Ack, Attempt, Decision, Engine, Release, Waits
from forwarder.delivery.holds import Holds
from forwarder.delivery.limiter import Limiter
from forwarder.delivery.pacing import RetrySchedule
from forwarder.event import Event
from forwarder.growlytics.outcome import DELIVERED, Blocked, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from tests.fakes.events import EventMaker

FAILED: Final = Retryable("status_5xx", maybe_delivered=False)
LOST: Final = Retryable("timeout", maybe_delivered=True)
REJECTED: Final = Rejected(400, b"no")
BLOCKED: Final = Blocked(401, "key")
REFUSED: Final = Blocked(403, "refusal")
PAGE: Final = Blocked(200, "not_growlytics")
PROXY: Final = Blocked(403, "proxy")

OLD: Final = 0.0
"""When an event was accepted that is older than any `max_age_seconds`."""
WALL: Final = 1e9 + 100_000.0


class Delays(RetrySchedule):
    """The longest delays instead of random ones; a rest is 1000 seconds."""

    def __init__(self, settings: DeliverySettings) -> None:
        super().__init__(settings)
        self._initial, self._max = settings.retry_initial_seconds, settings.retry_max_seconds

    def delay_seconds(self, attempts: int) -> float:
        """See RetrySchedule."""
        return float(min(self._initial * 2 ** (attempts - 1), self._max))

    def deferral_seconds(self) -> float:
        """See RetrySchedule."""
        return 1000.0


class Backlog:
    """Events in the order of acceptance, handed out as a buffer does it; those of one customer may rest for a while."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._rests: dict[str, float] = {}

    def put(self, events: Iterable[Event]) -> None:
        self.events += events

    def take(self, now: float, *, room: tuple[int, int], skip: AbstractSet[str], max_lane_events: int) -> list[Event]:
        (max_events, max_bytes), taken, of_lane = room, list[Event](), Counter[str]()
        left: list[Event] = []
        for place, event in enumerate(self.events):
            if len(taken) >= max_events or max_bytes <= 0:
                left += self.events[place:]
                break
            customer = event.customer
            if customer in skip or of_lane[customer] >= max_lane_events or now < self._rests.get(customer, now):
                left.append(event)
                continue
            taken.append(event)
            of_lane[customer] += 1
            max_bytes -= event.size_bytes
        self.events = left
        return taken

    def give_back(self, events: Sequence[Event], *, not_before: float) -> None:
        self.events = sorted([*self.events, *events], key=lambda event: event.id)
        for event in events:
            self._rests[event.customer] = max(not_before, self._rests.get(event.customer, not_before))

    def end_deferrals(self) -> None:
        self._rests.clear()

    @property
    def rests(self) -> list[float]:
        """When rests end, or have ended, of customers who have events here."""
        return [self._rests[event.customer] for event in self.events if event.customer in self._rests]


class Driver:
    """Feeds an engine, and carries out what it decides."""

    def __init__(
        self, settings: DeliverySettings | None = None, *, random_share: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.settings = settings or DeliverySettings()
        self.engine = Engine(
            self.settings,
            limiter=Limiter(self.settings.max_concurrency),
            schedule=Delays(self.settings),
            holds=Holds(self.settings, random_share=random_share),
            age_seconds=lambda accepted_at: self.wall - accepted_at,
        )
        self.lanes, self.holds, self.limiter = self.engine.lanes, self.engine.holds, self.engine.limiter
        self.backlog = Backlog()
        self.make = EventMaker()
        self.now = 1000.0
        self.fates: dict[int, fates.Fate] = {}
        self.attempts: Counter[str] = Counter()

    @property
    def wall(self) -> float:
        return WALL + self.now

    @property
    def causes(self) -> set[str]:
        return set(self.holds.causes)

    @property
    def delivered(self) -> list[int]:
        return [event_id for event_id, fate in self.fates.items() if fate == fates.HandedOver()]

    @property
    def dead(self) -> dict[int, str]:
        return {event_id: fate.reason for event_id, fate in self.fates.items() if isinstance(fate, fates.DeadLettered)}

    def put(self, customers: Iterable[str], *, accepted_at: float | None = None) -> None:
        """Accept an event of each customer, a second ago by default."""
        at = self.wall - 1 if accepted_at is None else accepted_at
        self.backlog.put([self.make(customer, accepted_at=at) for customer in customers])
        self.feed()

    def feed(self) -> None:
        """Fill the window as the worker does."""
        while True:
            taken = self.backlog.take(
                self.now,
                room=self.lanes.room(),
                skip=self.lanes.full_lanes,
                max_lane_events=self.lanes.max_new_of_lane,
            )
            if not taken:
                return
            if back := self.lanes.add(taken):
                self._give_back(back, self.engine.deferred_until(self.now))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed()

    def try_start(self) -> Attempt | None:
        attempt = self.engine.start(self.now, self.wall)
        if attempt:
            self.attempts[attempt.taken.event.customer] += 1
        return attempt

    def start(self) -> Attempt:
        attempt = self.try_start()
        assert attempt is not None
        return attempt

    def start_all(self) -> list[Attempt]:
        return list(iter(self.try_start, None))

    def end(self, attempt: Attempt, outcome: Outcome) -> Decision:
        """End an attempt; an ack is committed at once."""
        decision = self.engine.ended(attempt, outcome, self.now)
        if isinstance(decision, Ack):
            self.ack(attempt, decision)
        elif isinstance(decision, Release):
            self.give_back(decision)
        self.feed()
        return decision

    def ack(self, attempt: Attempt, decision: Ack) -> None:
        event_id = attempt.taken.event.id
        assert event_id not in self.fates, "it has left already"
        self.fates[event_id] = decision.fate
        self.lanes.end(attempt.lane)
        if self.engine.deferred_may_return():
            self.backlog.end_deferrals()

    def run(self, outcome: Outcome) -> Decision:
        """Start the next attempt, and end it so."""
        return self.end(self.start(), outcome)

    def deliver(self, customer: str = "one that is delivered") -> None:
        """Have one event more accepted and delivered; nothing else may be ready."""
        self.put([customer])
        attempt = self.start()
        assert attempt.taken.event.customer == customer
        self.end(attempt, DELIVERED)

    def saturate(self, limit: int) -> list[Attempt]:
        """Deliver, at 50 ms an attempt, until so many may be on the wire, and return those that are, oldest first."""
        on_wire: list[Attempt] = []
        for number in range(10_000):
            self.put([f"{number} of very many", f"{number} of very many as well"])
            on_wire += self.start_all()
            if self.limiter.limit >= limit:
                return on_wire
            self.now = max(self.now, on_wire[0].started_at + 0.05)
            self.end(on_wire.pop(0), DELIVERED)
        raise AssertionError(f"the limit stays at {self.limiter.limit}")

    def pass_to_next_probe(self) -> Attempt:
        """Wait until a probe may go, and start it."""
        assert self.try_start() is None
        wakes_at = self.engine.wakes_at()
        assert wakes_at is not None
        assert wakes_at > self.now
        self.now = wakes_at
        attempt = self.start()
        assert attempt.is_probe
        return attempt

    def give_back(self, decision: Release) -> None:
        self._give_back(decision.events, decision.not_before)

    def _give_back(self, events: Sequence[Event], not_before: float) -> None:
        self.backlog.give_back(events, not_before=not_before)
        self.lanes.were_released(events)


def why(decision: Decision) -> str:
    """Return what a decision is, and because of what, in one word."""
    match decision:
        case Ack(fate=fates.DeadLettered(reason)):
            return reason
        case Ack():
            return "delivered"
        case Waits(reason) | Release(why=Waits(reason)):
            return reason
