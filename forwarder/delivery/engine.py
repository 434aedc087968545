"""The engine decides which event is tried next, and what follows from the outcome of an attempt.

It joins the window of lanes, the limiter, the rate limit and the holds. It returns its decisions as values, and the worker
carries them out. Pure. The caller gives the times: `now` in seconds of the event loop's clock, `wall` in seconds since 1970.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from forwarder.buffer import fates
from forwarder.delivery.holds import Holds
from forwarder.delivery.lanes import Lane, Lanes, Taken
from forwarder.delivery.limiter import Limiter
from forwarder.delivery.pacing import RateLimit, RetrySchedule
from forwarder.delivery.suspects import Suspects
from forwarder.event import Event
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from forwarder.words import HOLD_CAUSES, REFUSAL_CAUSES, DeadReason, DelayCause, HoldCause, RetryReason

WINDOW_EVENTS_PER_PERMIT: Final = 16
WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
_NO_SIGN_OF_LOAD: Final = frozenset({"status_413", "status_425"})
_REFUSED: Final = frozenset(REFUSAL_CAUSES)
_MAYBE_THERE: Final = frozenset(HOLD_CAUSES) - {"auth", "systemic"}
"""In holds of these causes nobody may know of a failed probe whether the event arrived."""
_NEVER: Final = float("-inf")


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt that has started."""

    lane: Lane
    taken: Taken
    started_at: float
    is_probe: bool
    number: int
    """Attempts are numbered from 1 in the order of their starts."""
    key_number: int
    never_repeated: bool
    """If the event may have arrived, it becomes a dead letter instead of being sent again."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The event leaves the buffer with this fate. Call `Lanes.end` next; it need not wait for the commit."""

    fate: fates.Fate


@dataclass(frozen=True, slots=True)
class Waits:
    """The event is tried again later. `reason` is named as in the metric of retries."""

    reason: RetryReason
    maybe_delivered: bool


@dataclass(frozen=True, slots=True)
class Release:
    """The same, but there is no room to park its lane: release its events, which are deferred until `not_before`."""

    events: Sequence[Event]
    not_before: float
    why: Waits


Decision = Ack | Waits | Release


class Engine:
    """All that delivery knows of lanes, holds and limits."""

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        limiter: Limiter,
        schedule: RetrySchedule,
        holds: Holds,
        age_seconds: Callable[[float], float],
        buffer_events: int = sys.maxsize,
        buffer_bytes: int = sys.maxsize,
    ) -> None:
        """`age_seconds` returns the age of an event, given when it was accepted.

        The window holds at most half of `buffer_events` and `buffer_bytes`, as a full buffer cannot drop what is in it.
        """
        self._follow(settings)
        self._max_window_events = max(1, buffer_events // 2)
        self._age_seconds = age_seconds
        self._schedule = schedule
        self._rate_limit = RateLimit(settings.rate_limit_per_second)
        self.limiter = limiter
        self.holds = holds
        self.lanes = Lanes(
            ordered=settings.order == "customer",
            max_events=self._window_events(settings),
            max_bytes=min(WINDOW_MAX_BYTES, buffer_bytes // 2),
            max_lanes=settings.max_concurrency,
        )
        self._failures_in_a_row = 0
        self._rejected_in_a_row: set[int] = set()
        self.some_deferred = False
        """Whether events were released that may still be deferred in the buffer."""
        self._suspects = Suspects(settings)
        self._refuses_us = False
        """Whether a key or a proxy is the cause of the hold, which only a probe may end."""
        self._last_delivery_at = _NEVER
        self._last_hold_ended_at = _NEVER

    def use(self, settings: DeliverySettings, *, schedule: RetrySchedule) -> None:
        """Use other settings from now on, except for the order. Earlier decisions stay as they are."""
        self._follow(settings)
        self._schedule = schedule
        self._rate_limit.change(settings.rate_limit_per_second)
        self.limiter.change_max(settings.max_concurrency)
        self.holds.use(settings)
        self._suspects.use(settings)
        self.lanes.change_max(max_events=self._window_events(settings), max_lanes=settings.max_concurrency)

    def _follow(self, settings: DeliverySettings) -> None:
        self._settings = settings
        self._may_spare = settings.on_ambiguous == "dead_letter" or bool(settings.on_ambiguous_events)
        """Whether there may be events that are never repeated."""

    def _window_events(self, settings: DeliverySettings) -> int:
        return min(WINDOW_EVENTS_PER_PERMIT * settings.max_concurrency, self._max_window_events)

    # Before an attempt

    def deferred_until(self, now: float) -> float:
        """Return until when events are deferred in the buffer for which the retry quota had no room."""
        self.some_deferred = True
        return now + self._schedule.deferral_seconds()

    def start(self, now: float, wall: float) -> Attempt | None:
        """Start the next attempt; None if none may start now. Each attempt must be `ended` or `cancelled`."""
        if self.lanes.parked_events:
            self.lanes.unpark_due(now)
        if now < self._rate_limit.next_at:
            return None
        is_probe = bool(self.holds.causes)
        if is_probe:
            probe_at = self._probe_at
            lane = None if probe_at is None or now < probe_at else self.lanes.start_probe(spare=self._spared())
        else:
            lane = self.lanes.start() if self.limiter.in_flight < self.limiter.limit else None
        if lane is None:
            return None
        if self._rate_limit.is_on:
            self._rate_limit.started(now)
        self.limiter.in_flight += 1
        self._suspects.attempts_begun += 1
        taken = lane.events[0]
        story = taken.story
        story.last_attempt_at = wall
        story.first_attempt_at = story.first_attempt_at or wall
        if is_probe:
            self.holds.probe_started()
        else:
            story.attempts += 1
        return Attempt(
            lane,
            taken,
            now,
            is_probe,
            self._suspects.attempts_begun,
            self._suspects.key_number,
            self._may_spare and self._is_never_repeated(taken.event),
        )

    def wakes_at(self) -> float | None:
        """Return when something may start even if no attempt ends before; None if nothing may."""
        if self.holds.causes:
            time = self._probe_at if self.lanes.ready or self.lanes.next_due is not None else None
        elif not self.lanes.ready:
            time = self.lanes.next_due
        else:
            time = self._rate_limit.next_at if self.limiter.in_flight < self.limiter.limit else None
        return None if time is None else max(time, self._rate_limit.next_at)

    @property
    def failures_in_a_row(self) -> int:
        """How many attempts failed since one was delivered, rejected or refused."""
        return self._failures_in_a_row

    def delay(self) -> DelayCause | None:
        """Return what keeps the events of the window from being tried, without a hold; None if nothing does."""
        lanes = self.lanes
        if self.holds.causes:
            return None
        if lanes.ready:
            if self.limiter.in_flight >= self.limiter.limit:
                return "concurrency"
            return "rate_limit" if self._rate_limit.is_on else None
        if lanes.events > lanes.started + lanes.parked_events:
            return "order"
        return "retry" if lanes.parked_events else None

    @property
    def _probe_at(self) -> float | None:
        """When the next probe may start. It is earlier if we are refused and a lane was not yet tried."""
        early = self.lanes.has_fresh and self._suspects.hurries and _REFUSED.issuperset(self.holds.causes)
        if early and "not_growlytics" in self.holds.causes and self._may_spare:
            early = False  # each such probe may turn an event into a dead letter
        return self.holds.early_probe_at if early else self.holds.probe_at

    def _spared(self) -> Callable[[Event], bool] | None:
        """Return a predicate for events that are probes only if there are no others; None if every event may be a probe.

        A lost answer would make them dead letters. Very old events are among them. Otherwise one that always fails could be
        every probe, and the hold would never end.
        """
        if not self._may_spare or _MAYBE_THERE.isdisjoint(self.holds.causes):
            return None
        return lambda event: self._is_never_repeated(event) or self._is_old(event)

    def _is_never_repeated(self, event: Event) -> bool:
        settings = self._settings
        return settings.on_ambiguous_events.get(event.name, settings.on_ambiguous) == "dead_letter"

    # After it

    def ended(self, attempt: Attempt, outcome: Outcome, now: float, *, own_seconds: float = 0.0) -> Decision:
        """Decide what follows from an outcome. `own_seconds` of the attempt's time passed in this process."""
        match outcome:
            case Delivered(connecting_seconds):
                self.limiter.succeeded(attempt.started_at, now, own_seconds=own_seconds + connecting_seconds)
                return self._delivered(attempt, now)
            case Rejected():
                self.limiter.failed(attempt.started_at, now, overload=False)
                self._failures_in_a_row = 0
                return self._rejected(attempt, outcome, now)
            case Retryable(reason):
                throttled = reason == "status_429" or outcome.retry_after_seconds is not None
                overload = reason not in _NO_SIGN_OF_LOAD
                self.limiter.failed(attempt.started_at, now, overload=overload, throttled=throttled)
                self._note_failure(attempt, outcome, now)
                return self._failed(attempt, Waits(reason, outcome.maybe_delivered), now)
            case Blocked():
                self.limiter.failed(attempt.started_at, now, overload=False)
                return self._blocked(attempt, outcome, now)
            case _:
                assert_never(outcome)

    def deferred_may_return(self) -> bool:
        """Whether there is room again for what is deferred in the buffer. True only once."""
        may_end = self.some_deferred and self.lanes.has_room_for_retries
        self.some_deferred &= not may_end
        return may_end

    def cancelled(self, attempt: Attempt) -> None:
        """Put a cancelled attempt's event back as untried."""
        self.limiter.cancelled()
        if attempt.is_probe:
            self.holds.probe_cancelled()
        self.lanes.put_back(attempt.lane)

    def key_changed(self, now: float) -> None:
        """Forget what is known of the old key. If that was refused, probe the new one at once."""
        self._suspects.key_changed()
        if "auth" in self.holds.causes:
            self.lanes.forget_probes()
            self.holds.probe_soon(now)

    def _delivered(self, attempt: Attempt, now: float) -> Decision:
        self._suspects.delivered(attempt.number, attempt.key_number, attempt.taken.story.refusals, now)
        self._last_delivery_at = now
        self._failures_in_a_row = 0
        self._rejected_in_a_row.clear()
        if self.lanes.parked_suspects:
            self.lanes.unpark_suspects()
        if attempt.is_probe or self.holds.causes:
            self._end_holds(attempt, now)
        return Ack(fates.HandedOver())

    def _end_holds(self, attempt: Attempt, now: float) -> None:
        """End the holds that are over, as a probe, or an attempt from before the hold, was delivered."""
        held = bool(self.holds.causes)
        if attempt.is_probe:
            self.holds.probe_delivered(now)
        else:
            # Not everything is refused. But we may be, since this attempt began.
            self.holds.clear("systemic", now)
            if attempt.key_number == self._suspects.key_number:
                self.holds.clear("not_growlytics", now)
                if not self._refuses_us:
                    self.holds.clear("auth", now)
        if held and not self.holds.causes:
            self.limiter.thaw(now)
            self._last_hold_ended_at = now
            self._refuses_us = False
            self.lanes.hold_ends()
            self.lanes.unpark_suspects(also_refused=True)

    def _note_failure(self, attempt: Attempt, failure: Retryable, now: float) -> None:
        if attempt.started_at >= self._last_hold_ended_at:  # older failures are no news
            self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._settings.breaker_failures:
            self._hold("breaker", now)
        if failure.retry_after_seconds is not None:
            self._hold("retry_after", now, seconds=failure.retry_after_seconds)

    def _hold(self, cause: HoldCause, now: float, *, seconds: float | None = None) -> None:
        self.limiter.freeze(overload=cause not in _REFUSED)
        if not self.holds.causes:
            self._suspects.hold_began()
            self.lanes.hold_begins()
        self.holds.hold(cause, now, seconds=seconds)

    def _rejected(self, attempt: Attempt, outcome: Rejected, now: float) -> Decision:
        """Decide what follows from a rejection.

        It is final only if something was delivered lately, or if the event is too old to wait for that. Very many rejections
        in a row are never final: then the events are not the cause.
        """
        story, in_a_row = attempt.taken.story, self._rejected_in_a_row
        if len(in_a_row) <= self._settings.systemic_rejections:
            in_a_row.add(attempt.taken.event.id)
        was_delivered = now - self._last_delivery_at <= self._settings.systemic_seconds
        is_final = was_delivered and len(in_a_row) <= self._settings.systemic_rejections
        if is_final or (story.suspect and self._is_old(attempt.taken.event)):
            self._end_probe(attempt, now)
            return _dead_letter(attempt, "rejected", status=outcome.status, answer=outcome.answer)
        story.suspect = True
        if len(in_a_row) >= self._settings.systemic_rejections:
            self._hold("systemic", now)
        return self._wait(attempt, Waits("suspect", maybe_delivered=False), now)

    def _blocked(self, attempt: Attempt, outcome: Blocked, now: float) -> Decision:
        """Decide what follows if we, or this event, are refused: see `suspects`."""
        if outcome.why == "proxy":
            if attempt.key_number == self._suspects.key_number:
                self._refuses_us = True
                self._hold("auth", now)
            self._put_back(attempt, now)
            return Waits("blocked", maybe_delivered=False)
        story, event = attempt.taken.story, attempt.taken.event
        is_ambiguous = outcome.why == "not_growlytics" and attempt.never_repeated
        is_first = story.attempts + attempt.is_probe == 1 and story.refusals is None
        refused = self._suspects.refused(
            story.refusals,
            outcome.why,
            status=outcome.status,
            key_number=attempt.key_number,
            counts_for=event.id if is_ambiguous else attempt.lane.key if is_first else None,
            now=now,
        )
        story.refusals = refused.refusals
        if refused.hold:
            self._refuses_us |= not refused.refusals.suspect
            self._hold(refused.hold, now)
        if is_ambiguous:
            self._end_probe(attempt, now)
            return _dead_letter(attempt, "ambiguous", status=outcome.status, answer=outcome.answer)
        if refused.confirmed:
            self._end_probe(attempt, now)
            reason: DeadReason = "ambiguous" if refused.refusals.maybe_there else "rejected"
            return _dead_letter(attempt, reason, status=outcome.status, answer=outcome.answer)
        why = Waits("blocked", maybe_delivered=outcome.why == "not_growlytics")
        if not refused.refusals.suspect:
            self._put_back(attempt, now)
            return why
        if refused.has_evidence and not attempt.is_probe and not self.holds.causes and self._is_old(event):
            return _dead_letter(attempt, "expired", status=outcome.status, answer=outcome.answer)
        story.suspect = False
        return self._wait(attempt, why, now)

    def _failed(self, attempt: Attempt, why: Waits, now: float) -> Decision:
        if why.maybe_delivered and attempt.never_repeated:
            self._end_probe(attempt, now)
            return ambiguous(attempt)
        # In a hold the age of an event does not tell whether it can be delivered.
        if not attempt.is_probe and not self.holds.causes and self._is_old(attempt.taken.event):
            return _dead_letter(attempt, "expired")
        if not attempt.is_probe:
            attempt.taken.story.suspect = False  # otherwise each delivery would end its wait
        return self._wait(attempt, why, now)

    def _wait(self, attempt: Attempt, why: Waits, now: float) -> Decision:
        if attempt.is_probe:
            self._put_back(attempt, now)
            return why
        until = now + self._schedule.delay_seconds(attempt.taken.story.attempts)
        back = self.lanes.park(attempt.lane, until=until)
        if not back:
            return why
        self.some_deferred = True
        return Release(back, until, why)

    def _put_back(self, attempt: Attempt, now: float) -> None:
        """Make the event's lane ready again, behind others."""
        self._end_probe(attempt, now)
        if self.holds.causes and attempt.key_number == self._suspects.key_number:
            self.lanes.put_back_probed(attempt.lane)
        else:
            self.lanes.put_back(attempt.lane)

    def _end_probe(self, attempt: Attempt, now: float) -> None:
        if not attempt.is_probe:
            return
        if attempt.key_number == self._suspects.key_number:
            self._suspects.probe_failed(attempt.lane.key)
            self.holds.probe_failed(now)
        else:
            self.holds.probe_cancelled()  # its outcome tells nothing about the new key

    def _is_old(self, event: Event) -> bool:
        return self._age_seconds(event.accepted_at) >= self._settings.max_age_seconds


def ambiguous(attempt: Attempt) -> Ack:
    """Return the ack of an event that may have arrived and is never repeated."""
    return _dead_letter(attempt, "ambiguous")


def _dead_letter(attempt: Attempt, reason: DeadReason, *, status: int | None = None, answer: bytes = b"") -> Ack:
    story = attempt.taken.story
    return Ack(
        fates.DeadLettered(
            reason,
            status=status,
            answer=answer[: fates.MAX_ANSWER_BYTES],
            attempts=story.attempts + attempt.is_probe,
            first_attempt_at=story.first_attempt_at,
            last_attempt_at=story.last_attempt_at,
        )
    )
