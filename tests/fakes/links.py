"""Links: models of a far side in virtual time, and a sender that always has more to send than a limiter allows.

What is random follows from a seed, so a run is the same each time. What changes is given as a timeline: a value by the time,
in seconds since the run began.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from forwarder.delivery.limiter import Limiter
from forwarder.delivery.pacing import BUSY_INTERVAL_SECONDS, LoopLag

BASE_SECONDS: Final = 0.05
REFUSAL_SECONDS: Final = 0.005
"""How soon 429 or 503 comes from a far side that does not even try."""
STEP_SECONDS: Final = 0.1
"""A run is summed up in steps of so long."""

Timeline = Callable[[float], float]
Spread = Callable[[random.Random], float]
"""What latencies are multiplied by: 1 on average."""


def always(value: float) -> Timeline:
    return lambda _now: value


def steps(*values: tuple[float, float]) -> Timeline:
    """Take pairs of a time, the first 0, and the value from then on."""
    return lambda now: next(value for since, value in reversed(values) if now >= since)


def none(_chance: random.Random) -> float:
    return 1.0


def jitter(share: float) -> Spread:
    """Normal, with a standard deviation of `share`."""
    return lambda chance: max(0.1, chance.gauss(1.0, share))


def long_tail(sigma: float) -> Spread:
    """Lognormal. At 0.5 one in a hundred takes 2.8 times the mean, at 1.0 six times, and half take less than 0.6 times."""
    return lambda chance: math.exp(chance.gauss(-sigma * sigma / 2, sigma))


def exponential(chance: random.Random) -> float:
    return chance.expovariate(1.0)


CONSTANT_50_MS: Final = always(BASE_SECONDS)
UNLIMITED: Final = always(math.inf)
NEVER: Final = always(0.0)
LITTLE: Final = jitter(0.02)


class Link(Protocol):
    """A far side."""

    def answer(self, now: float) -> tuple[float, bool]:
        """Take a request, later than the one before; return after how many seconds it is answered, and whether well."""
        ...

    def capacity(self, now: float) -> float:
        """Return how many requests on the wire just keep it busy: infinite if any number is well, 0 while it is down."""
        ...

    def ideal_rate(self, now: float, most: int) -> float:
        """Return how many successes per second there would be with the best number on the wire, but `most` at most."""
        ...


class Queueing:
    """Works on `parallel` requests at once, the others wait in line. Some fail for reasons of their own.

    A failure takes as long as a success, and a place, unless it has a time of its own.
    """

    def __init__(
        self,
        *,
        mean: Timeline = CONSTANT_50_MS,
        spread: Spread = LITTLE,
        parallel: Timeline = UNLIMITED,
        failing_share: Timeline = NEVER,
        fail_seconds: float | None = None,
        seed: int = 1,
    ) -> None:
        self._mean, self._spread, self.capacity = mean, spread, parallel
        self._failing_share, self._fail_seconds = failing_share, fail_seconds
        self._chance = random.Random(seed)
        self._free_at: list[float] = []  # a heap: when each place will be done with all that it was given

    def answer(self, now: float) -> tuple[float, bool]:
        good = self._chance.random() >= self._failing_share(now)
        if not good and self._fail_seconds is not None:
            return self._fail_seconds, False
        seconds, parallel = self._mean(now) * self._spread(self._chance), self.capacity(now)
        if parallel == math.inf:
            return seconds, good
        while len(self._free_at) < parallel:
            heapq.heappush(self._free_at, now)
        while len(self._free_at) > parallel:
            heapq.heappop(self._free_at)
        done = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        return done - now, good

    def ideal_rate(self, now: float, most: int) -> float:
        fails, seconds = self._failing_share(now), self._mean(now)
        fail_seconds = seconds if self._fail_seconds is None else self._fail_seconds
        return min(most, self.capacity(now)) * (1 - fails) / ((1 - fails) * seconds + fails * fail_seconds)


class Dropping:
    """Works on `parallel` requests at once, and refuses the others."""

    def __init__(self, parallel: Timeline, *, refusal_seconds: float = REFUSAL_SECONDS) -> None:
        self.capacity, self._refusal_seconds = parallel, refusal_seconds
        self._chance = random.Random(2)
        self._done_at: list[float] = []  # a heap

    def answer(self, now: float) -> tuple[float, bool]:
        while self._done_at and self._done_at[0] <= now:
            heapq.heappop(self._done_at)
        if len(self._done_at) >= self.capacity(now):
            return self._refusal_seconds, False
        seconds = BASE_SECONDS * LITTLE(self._chance)
        heapq.heappush(self._done_at, now + seconds)
        return seconds, True

    def ideal_rate(self, now: float, most: int) -> float:
        return min(most, self.capacity(now)) / BASE_SECONDS


class RateLimited:
    """Refuses what comes faster than a rate, by a bucket of `burst` tokens. A refusal costs none."""

    def __init__(self, per_second: float, *, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._tokens, self._filled_at = burst, 0.0
        self.capacity = always(per_second * BASE_SECONDS)

    def answer(self, now: float) -> tuple[float, bool]:
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            return REFUSAL_SECONDS, False
        self._tokens -= 1.0
        return BASE_SECONDS, True

    def ideal_rate(self, now: float, most: int) -> float:
        return min(most, self.capacity(now)) / BASE_SECONDS


class Connecting:
    """Another link, over connections that are kept: a request that finds none free waits for a new one first."""

    def __init__(self, link: Link, *, connect_seconds: float) -> None:
        self._link, self._connect_seconds = link, connect_seconds
        self.capacity, self.ideal_rate = link.capacity, link.ideal_rate
        self._connections = 0
        self._busy_until: list[float] = []  # a heap

    def answer(self, now: float) -> tuple[float, bool]:
        while self._busy_until and self._busy_until[0] <= now:
            heapq.heappop(self._busy_until)
        seconds, good = self._link.answer(now)
        if len(self._busy_until) == self._connections:
            self._connections += 1
            seconds += self._connect_seconds
        heapq.heappush(self._busy_until, now + seconds)
        return seconds, good


class Outage:
    """Another link, which is down for a while: then all fails, after `fail_seconds`."""

    def __init__(self, link: Link, *, since: float, until: float, fail_seconds: float = REFUSAL_SECONDS) -> None:
        self._link, self._fail_seconds, self._up = link, fail_seconds, steps((0, 1), (since, 0), (until, 1))

    def answer(self, now: float) -> tuple[float, bool]:
        return self._link.answer(now) if self._up(now) else (self._fail_seconds, False)

    def capacity(self, now: float) -> float:
        return self._link.capacity(now) if self._up(now) else 0.0

    def ideal_rate(self, now: float, most: int) -> float:
        return self._link.ideal_rate(now, most) * self._up(now)


class OwnLoop:
    """Our event loop, whose turns take as long as `turn` says: an attempt waits for one to three of them.

    A timer tells the limiter of the lag as the worker's does, but `noticed_after` so many seconds.
    """

    def __init__(self, turn: Timeline, *, noticed_after: float = 0.0, seed: int = 1) -> None:
        self._turn, self._noticed_after = turn, noticed_after
        self._chance = random.Random(seed)
        self._lag = LoopLag()
        self._measured_at = 0.0

    def waits(self, now: float) -> float:
        """Return how long an answer that comes now waits for us, its request's wait included."""
        return self._turn(now) * self._chance.uniform(1.0, 3.0)

    def own_seconds(self, now: float) -> float:
        """Return what the timer made known by now."""
        while self._measured_at + BUSY_INTERVAL_SECONDS <= now:
            late = self._chance.random() * self._turn(max(0.0, self._measured_at - self._noticed_after))
            self._lag.add(late)
            self._measured_at += BUSY_INTERVAL_SECONDS + late
        return self._lag.seconds


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen, in steps of STEP_SECONDS."""

    limits: Sequence[float]
    """The mean of each."""
    successes: Sequence[int]
    overloads: Sequence[int]


def saturate(
    limiter: Limiter, link: Link, *, seconds: float, hold_after: int | None = None, loop: OwnLoop | None = None
) -> Run:
    """Send over `link` whatever `limiter` allows, from `loop`, which never lags unless given.

    With `hold_after`, so many failures in a row begin a hold: one probe at a time, a second after the other, until one
    succeeds.
    """
    return _Sender(limiter, link, seconds, hold_after, loop or OwnLoop(NEVER)).run()


class _Sender:
    def __init__(self, limiter: Limiter, link: Link, seconds: float, hold_after: int | None, loop: OwnLoop) -> None:
        self._loop = loop
        self._limiter, self._link, self._seconds, self._hold_after = limiter, link, seconds, hold_after
        length = math.ceil(seconds / STEP_SECONDS)
        self._limits, self._successes, self._overloads = [0.0] * length, [0] * length, [0] * length
        self._now, self._step = 0.0, 0
        self._held_at: float | None = None
        self._failed_in_a_row = 0
        self._tie = count()
        self._wire: list[tuple[float, int, float | None, bool]] = []  # a heap: when, tie, started at, good; None: probe

    def run(self) -> Run:
        self._fill()
        while self._wire[0][0] < self._seconds:
            at, _, started_at, good = heapq.heappop(self._wire)
            self._pass_until(at)
            if started_at is None:
                self._send()
            else:
                self._end(started_at, good=good)
                self._fill()
        self._pass_until(self._seconds)
        return Run(self._limits, self._successes, self._overloads)

    def _pass_until(self, until: float) -> None:
        while self._now < until:
            end = (self._step + 1) * STEP_SECONDS
            self._limits[self._step] += self._limiter.limit * (min(end, until) - self._now) / STEP_SECONDS
            self._now = min(end, until)
            if end <= until:
                self._step = min(self._step + 1, len(self._limits) - 1)

    def _fill(self) -> None:
        while self._held_at is None and self._limiter.in_flight < self._limiter.limit:
            self._send()

    def _send(self) -> None:
        self._limiter.in_flight += 1
        seconds, good = self._link.answer(self._now)
        seconds += self._loop.waits(self._now + seconds)
        heapq.heappush(self._wire, (self._now + seconds, next(self._tie), self._now, good))

    def _end(self, started_at: float, *, good: bool) -> None:
        is_probe = self._held_at is not None and started_at > self._held_at
        if good:
            self._successes[self._step] += 1
            self._failed_in_a_row = 0
            self._limiter.succeeded(started_at, self._now, own_seconds=self._loop.own_seconds(self._now))
            if is_probe:
                self._held_at = None
                self._limiter.thaw(self._now)
            return
        self._overloads[self._step] += 1
        self._failed_in_a_row += 1
        self._limiter.failed(started_at, self._now, overload=True)
        begins = self._held_at is None and self._hold_after is not None and self._failed_in_a_row >= self._hold_after
        if begins:
            self._held_at = self._now
            self._limiter.freeze(overload=True)
        if begins or is_probe:
            heapq.heappush(self._wire, (self._now + 1.0, next(self._tie), None, False))
