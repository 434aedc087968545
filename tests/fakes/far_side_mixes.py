"""A far side that refuses some events, or some attempts, and customers who post on: simulated in virtual time."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from forwarder.delivery.engine import Attempt
from forwarder.event import Event
from forwarder.growlytics.outcome import Outcome
from forwarder.settings import DeliverySettings
from tests.fakes.engine_harness import Delays, Driver

Answer = Callable[[Event, float], Outcome]
"""What the far side answers to an attempt with an event, so many seconds after the start."""


class RandomDelays(Delays):
    """Full jitter, as the real schedule has it, from numbers that are the same each time."""

    def __init__(self, settings: DeliverySettings, numbers: random.Random) -> None:
        super().__init__(settings)
        self._numbers = numbers

    def delay_seconds(self, attempts: int) -> float:
        """See RetrySchedule."""
        return super().delay_seconds(attempts) * self._numbers.random()

    def deferral_seconds(self) -> float:
        """See RetrySchedule."""
        return self._max * self._numbers.random()


@dataclass
class Mix:
    """Customers post at a steady rate, each event to `answer`, which takes a while."""

    answer: Answer
    per_second: float = 10.0
    customers: int = 200
    settings: DeliverySettings = field(default_factory=DeliverySettings)
    latency_seconds: float = 0.05
    seed: int = 1
    customer_of: Callable[[int], str] | None = None

    def __post_init__(self) -> None:
        numbers = random.Random(self.seed)
        self.driver = Driver(self.settings, random_share=numbers.random)
        self.driver.engine.use(self.settings, schedule=RandomDelays(self.settings, numbers))
        self.began = self.driver.now
        self.attempts = Counter[int]()
        self.attempts_in_a_second = Counter[int]()
        self.accepted_at: dict[int, float] = {}
        self.left_at: dict[int, float] = {}
        self.customer_by_id: dict[int, str] = {}
        self.held_seconds = 0.0
        self._on_wire: list[tuple[float, int, Attempt]] = []
        self._places = count()
        self._arrivals = self._arrive()
        self._next_arrival = next(self._arrivals)

    @property
    def seconds(self) -> float:
        return self.driver.now - self.began

    def run(self, seconds: float, *, posting: bool = True) -> "Mix":
        """Let so much time pass, in which customers post or do not."""
        some, end = self.driver, self.driver.now + seconds
        if not posting:
            self._next_arrival = float("inf")
        while True:
            self._start()
            at = min([self._next_arrival, *self._times()])
            if at > end:
                self._pass_to(end)
                return self
            self._pass_to(at)
            if self._next_arrival <= some.now:
                self._post()
                self._next_arrival = next(self._arrivals)
            while self._on_wire and self._on_wire[0][0] <= some.now:
                self._end(heapq.heappop(self._on_wire)[2])
                self._start()

    def post(self, number: int) -> None:
        """Have so many events posted at once."""
        for _ in range(number):
            self._post()

    @property
    def backlog(self) -> int:
        return len(self.accepted_at) - len(self.driver.fates)

    def late(self, *, beyond_seconds: float) -> list[int]:
        """Return the events that were not delivered within so long, but for those that may yet be."""
        return [
            event_id
            for event_id, at in self.accepted_at.items()
            if at + beyond_seconds < min(self.left_at.get(event_id, float("inf")), self.driver.now)
        ]

    def _arrive(self) -> Iterator[float]:
        for number in count(1):
            yield self.began + number / self.per_second

    def _times(self) -> list[float]:
        some = self.driver
        times = [self._on_wire[0][0]] if self._on_wire else []
        if (wakes_at := some.engine.wakes_at()) is not None:
            times.append(wakes_at)
        times += [rest for rest in some.backlog.rests if rest > some.now]
        return times

    def _pass_to(self, at: float) -> None:
        some = self.driver
        if some.causes:
            self.held_seconds += at - some.now
        some.now = max(some.now, at)
        some.feed()

    def _post(self) -> None:
        some = self.driver
        number = len(self.accepted_at)
        customer = self.customer_of(number) if self.customer_of else f"c{number % self.customers}"
        some.put([customer], accepted_at=some.wall)
        event_id = number + 1
        self.accepted_at[event_id] = some.now
        self.customer_by_id[event_id] = customer

    def _start(self) -> None:
        some = self.driver
        while attempt := some.try_start():
            self.attempts[attempt.taken.event.id] += 1
            self.attempts_in_a_second[int(self.seconds)] += 1
            heapq.heappush(self._on_wire, (some.now + self.latency_seconds, next(self._places), attempt))

    def _end(self, attempt: Attempt) -> None:
        event = attempt.taken.event
        self.driver.end(attempt, self.answer(event, self.seconds))
        if event.id in self.driver.fates:
            self.left_at[event.id] = self.driver.now
