"""The limiter decides how many attempts may be on the wire at once: enough to keep the far side busy, but no more.

Pure, with times given by the caller: seconds of any clock that never goes back. Every attempt that started ends in exactly
one of `succeeded`, `failed` and `cancelled`.

It decides once a round, not at each answer. A round has as many answers as the limit, and at least 16. Only latencies of
successes that started in the round count, so that they belong to the present limit. There are two signs of load:

- Failures: more answers of the round failed than usual, by a margin that chance hardly reaches. What always fails is not
  load. Nor is what fails as often, beside successes, with only one attempt at a time. A 429 always is a sign of load.
- Latency: by Little's law `limit * (1 - base / latency)` of the attempts wait in line at the far side (TCP Vegas, Netflix).
  The base is the latency when none waits. It is measured anew with half of the attempts that keep the far side busy (BBR,
  Envoy): now and then, and when a lower limit did not lower the latency.

Without a sign the limit doubles each round (slow start). After the first sign it grows by one a round. It grows only while
it is used up. In slow start, latency is a sign only in two rounds one after the other, as our own loop may have been late in
one. Either sign multiplies the limit by the share of it that did useful work, at least 0.5 as in TCP.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Final

START_LIMIT: Final = 4
"""Every slow start begins with so many, which is not too much for a far side that just came back."""
MIN_ROUND_ANSWERS: Final = 16
"""The share of failures and the mean latency of fewer answers are mostly chance."""
USUAL_ROUNDS: Final = 16
"""The usual share of failures is that of so many rounds. While the limit grows into overload it must lag behind."""
MIN_USUAL_SHARE: Final = 0.05
MAX_USUAL_SHARE: Final = 0.3
"""A smaller share of failures is no sign of load. A larger one than the maximum always is, however long it lasts."""
FAILURE_SIGMAS: Final = 3.0
"""By chance one round in a thousand has so many standard deviations more failures than usual."""
LATENCY_SIGMAS: Final = 2.0
"""The same for the mean latency, by chance in one round of forty, as one such round costs less."""
FEW_WAITING: Final = 0.5
"""While fewer than this times the root of the limit wait in line, the limit grows; from twice that, it falls.

Chance makes as many of a limit seem to wait as its root. Netflix's Vegas has 3 and 6 log10 of the limit.
"""
FOLLOW: Final = 0.1
"""How far the base moves to the latency of a round without a line, as a share of the difference."""
QUIET_ROUNDS: Final = 16
"""For so many rounds the limit stays after failures lowered it, as trying a higher one costs more failures."""
PROBE_ROUNDS: Final = 64
"""After so many rounds the base is measured anew, which costs a hundredth of the throughput."""
PROBE_SOON_ROUNDS: Final = 8
"""The same while the base is a guess."""


@dataclass(slots=True)
class _Round:
    began_at: float
    answers: int = 0
    full: int = 0
    """How many answers came while the limit was used up."""
    overloads: int = 0
    throttled: int = 0
    """How many of the overloads the far side itself called overload."""
    useful_seconds: float = 0.0
    wasted_seconds: float = 0.0
    """How long the successes were on the wire, in sum; and the overloads."""
    latencies: int = 0
    latency_sum: float = 0.0
    latency_squares: float = 0.0
    own_sum: float = 0.0
    """How much of the latencies passed in this process at most, in sum."""

    def useful_share(self) -> float:
        """Return which part of the limit did useful work, 0 to 1.

        By time, as a refusal may take a hundredth of a success, or by number, as a timeout may take a hundred times it.
        """
        by_time = self.useful_seconds / (self.useful_seconds + self.wasted_seconds)
        return max(by_time, 1 - self.overloads / self.answers)

    def mean_latency(self) -> tuple[float, float]:
        """Return the mean latency, and how much of it may come from chance or from us, in seconds. Needs one at least."""
        mean = self.latency_sum / self.latencies
        deviation = sqrt(max(0.0, self.latency_squares / self.latencies - mean * mean))
        return mean, LATENCY_SIGMAS * deviation / sqrt(self.latencies) + self.own_sum / self.latencies


class Limiter:
    """A limit between 1 and `max_concurrency`. It starts at 4."""

    def __init__(self, max_concurrency: int) -> None:
        self._max = max_concurrency
        self.limit = min(START_LIMIT, max_concurrency)
        """How many attempts may be on the wire; changed here alone. During a hold it means nothing."""
        self._slow_start_until = max_concurrency  # below it the limit doubles
        self._lowered_at = -inf
        self.in_flight = 0
        """How many attempts are on the wire. Whoever starts one adds it here; the limiter subtracts it."""
        self._frozen = False
        self._round = _Round(-inf)
        self._usual_share = 0.0
        self._max_usual_share = MAX_USUAL_SHARE  # 1 while it is known that what fails is not load
        self._usual_rounds = USUAL_ROUNDS // 4  # as if so many had been without any; so the first ones count more
        self._outage = False  # since a round in which less than half was useful, until one without a sign of failures
        self._quiet_rounds = 0
        self._base = 0.0  # seconds; 0 while unknown
        self._before_probe = 0  # the limit to go back to; 0 if this round is no probe
        self._rounds_to_probe = PROBE_SOON_ROUNDS
        self._suspects_line = False  # since a round of slow start whose latency looked like a line, until one without
        self._cut: tuple[int, float] | None = None  # limit and mean latency of the last round, if it lowered the limit

    def change_max(self, max_concurrency: int) -> None:
        """Stay between 1 and another `max_concurrency` from now on."""
        if self._slow_start_until == self._max:  # the old one was all that was in the way
            self._slow_start_until = max_concurrency
        self._max = max_concurrency
        self.limit = min(self.limit, max_concurrency)
        self._before_probe = min(self._before_probe, max_concurrency)

    def succeeded(self, started_at: float, now: float, *, own_seconds: float = 0.0) -> None:
        """Count a success. Only the latency of successes matters.

        `own_seconds` is how much of the latency may have passed in this process, which is no sign of load of the far side.
        """
        this, seconds = self._round, max(now - started_at, 1e-9)
        this.answers += 1
        this.full += self.in_flight >= self.limit
        self.in_flight -= 1
        if self._frozen:
            return
        this.useful_seconds += seconds
        if started_at >= this.began_at:
            this.latencies += 1
            this.latency_sum += seconds
            this.latency_squares += seconds * seconds
            this.own_sum += own_seconds
        if this.latencies + this.overloads >= max(self.limit, MIN_ROUND_ANSWERS):
            self._end_round(now)

    def failed(self, started_at: float, now: float, *, overload: bool, throttled: bool = False) -> None:
        """Count a failure; `throttled` if the far side said that it is overload, as by 429 or Retry-After.

        `overload` is for what load may cause: 429, 5xx, and no answer (a timeout, a connection refused or lost). It is not
        for what concerns the event or the key, as 400 or 401.

        An overload is ignored if the attempt started before the limit was lowered.
        """
        this = self._round
        self.in_flight -= 1
        if overload and started_at < self._lowered_at:
            return
        this.answers += 1
        this.full += self.in_flight + 1 >= self.limit
        if overload and not self._frozen:
            this.overloads += 1
            this.throttled += throttled
            this.wasted_seconds += max(now - started_at, 1e-9)
            if this.latencies + this.overloads >= max(self.limit, MIN_ROUND_ANSWERS):
                self._end_round(now)

    def cancelled(self) -> None:
        """Count an attempt that ended without an answer that tells anything."""
        self.in_flight -= 1

    def freeze(self, *, overload: bool) -> None:
        """Begin a hold. The outcomes of its few attempts do not tell how many there could be.

        If `overload` is the cause, rather than a refusal, the next slow start ends at half of the limit.
        """
        if not self._frozen:
            self._frozen = True
            self._end_probe()
            if overload:
                self._aim_at_half()

    def thaw(self, now: float) -> None:
        """End a hold: slow start."""
        if self._frozen:
            self._frozen = False
            self.limit = min(START_LIMIT, self._slow_start_until, self._max)
            self._lowered_at = now
            self._cut = None
            self._round = _Round(now)

    def _end_round(self, now: float) -> None:
        this = self._round
        if is_unusual(this.overloads, this.answers, usual_share=min(self._usual_share, self._max_usual_share)):
            if self.limit == 1 and this.latencies and not this.throttled:
                self._max_usual_share = 1.0
                self._usual_share = this.overloads / this.answers
                self._outage = False
            else:
                self._lower_for_failures(this.useful_share(), now)
        else:
            self._outage = False
            if this.latencies:
                self._judge_latency(now)
        if not self._outage:  # which never becomes usual
            self._usual_rounds = min(self._usual_rounds + 1, USUAL_ROUNDS)
            self._usual_share += (this.overloads / this.answers - self._usual_share) / self._usual_rounds
            if self._usual_share < MAX_USUAL_SHARE:
                self._max_usual_share = MAX_USUAL_SHARE
        self._round = _Round(now)

    def _lower_for_failures(self, useful_share: float, now: float) -> None:
        self._end_probe()
        self._cut = None
        if useful_share < 0.5:
            self._aim_at_half()
            self._outage = True
            self._quiet_rounds = 0
            self._set(self.limit // 2, now)
        else:
            self._set(min(round(self.limit * useful_share), self.limit - 1), now)
            self._quiet_rounds = QUIET_ROUNDS
            if not self._outage:
                self._slow_start_until = self.limit

    def _judge_latency(self, now: float) -> None:
        mean, margin = self._round.mean_latency()
        if self._before_probe:
            self._base = mean
            self._end_probe()
            return
        used = 2 * self._round.full >= self._round.answers
        cut, self._cut = self._cut, None
        base = self._base = self._base or mean
        busy = self.limit * base / max(base, mean - margin)
        waiting, few = self.limit - busy, FEW_WAITING * sqrt(self.limit)
        if not used or 2 * waiting <= few:
            self._base += FOLLOW * (min(mean, 2 * base) - base)
        if not used:
            return
        self._rounds_to_probe -= 1
        if cut and mean > cut[1] * (1 + self.limit / cut[0]) / 2:
            # A lower limit took away less than half of what it would from a line: it may be the base that changed.
            self._slow_start_until = cut[0]
            self._probe(int(busy) // 2, now)
        elif waiting > few and self.limit < self._slow_start_until and not self._suspects_line:
            self._suspects_line = True  # the next round, with the same limit, tells whether it was our own loop
            return
        elif waiting > 2 * few:
            self._cut = self.limit, mean
            self._set(max(self.limit // 2, round(busy)), now)
            self._slow_start_until = self.limit
        elif self._rounds_to_probe <= 0:
            self._probe(int(busy) // 2, now)
        elif waiting > few:
            self._slow_start_until = min(self._slow_start_until, self.limit)
        else:
            self._grow(now)
        self._suspects_line = False

    def _grow(self, now: float) -> None:
        if self.limit < self._slow_start_until:
            self._set(min(2 * self.limit, self._slow_start_until), now)
        elif self._quiet_rounds:
            self._quiet_rounds -= 1
        else:
            self._set(self.limit + 1, now)

    def _aim_at_half(self) -> None:
        """Let the next slow start end at half of the limit, or of its present end if that is higher."""
        if not self._outage:
            self._slow_start_until = max(1, max(self.limit, self._slow_start_until) // 2)

    def _probe(self, limit: int, now: float) -> None:
        self._rounds_to_probe = PROBE_ROUNDS
        self._before_probe = self.limit
        self._set(limit, now)

    def _end_probe(self) -> None:
        if self._before_probe:
            self.limit, self._before_probe = self._before_probe, 0

    def _set(self, limit: int, now: float) -> None:
        if limit < self.limit:
            self._lowered_at = now
        self.limit = max(1, min(self._max, limit))


def is_unusual(overloads: int, answers: int, *, usual_share: float) -> bool:
    """Return whether more answers are overloads than the usual share, 0 to 1, and chance explain.

    The margin is that of a binomial distribution plus one, as a single failure never is a sign.
    """
    share = max(MIN_USUAL_SHARE, usual_share)
    return overloads > 1 + answers * share + FAILURE_SIGMAS * sqrt(answers * share * (1 - share))
