"""The engine: which event is tried next, and what follows from what an attempt came to.

It joins the window of lanes, the limiter, the rate limit and the holds. What it decides it returns as a value; to carry
that out is the worker's part. Pure, with times given by the caller: `now` in seconds of the event loop's clock, `wall` in
seconds since 1970.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from forwarder.buffer import fates
from forwarder.delivery.holds import Holds
from forwarder.delivery.lane import Lane, Taken
from forwarder.delivery.lanes import Lanes
from forwarder.delivery.limiter import Limiter
from forwarder.delivery.rate_limit import RateLimit
from forwarder.delivery.retry import RetrySchedule
from forwarder.delivery.suspects import Suspects
from forwarder.event import Event
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from forwarder.words import HOLD_CAUSES, REFUSAL_CAUSES, DeadReason, HoldCause, RetryReason

WINDOW_EVENTS_PER_PERMIT: Final = 16
WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
_NO_SIGN_OF_LOAD: Final = frozenset({"status_413", "status_425"})
_REFUSED: Final = frozenset(REFUSAL_CAUSES)
_MAYBE_THERE: Final = frozenset(HOLD_CAUSES) - {"auth", "systemic"}
"""In holds of these causes a probe may come to an attempt of which nobody knows whether the event arrived."""
_NEVER: Final = float("-inf")


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt, from its start."""

    lane: Lane
    taken: Taken
    started_at: float
    is_probe: bool
    number: int
    """How many attempts had begun with this one."""
    key_number: int
    never_repeated: bool
    """If the event may have arrived, it becomes a dead letter instead of being sent again."""


@dataclass(frozen=True, slots=True)
class Ack:
    """The event leaves the buffer with this fate. End its lane next; that need not wait for the commit."""

    fate: fates.Fate


@dataclass(frozen=True, slots=True)
class Waits:
    """The event is tried again later, because of a failure named as in the metric."""

    reason: RetryReason
    maybe_delivered: bool


@dataclass(frozen=True, slots=True)
class GoesBack:
    """The same, but its lane goes back to the buffer, and rests there until then."""

    events: Sequence[Event]
    not_before: float
    why: Waits


Decision = Ack | Waits | GoesBack


class Engine:
    """The state of the delivery."""

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
        """`age_seconds` tells from when an event was accepted how old it is now.

        At most half of so many events and bytes are in the window, as what is in it cannot be dropped from a full buffer.
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
        self.some_rest = False
        """Whether something went back to the buffer, and may rest there yet."""
        self._suspects = Suspects(settings)
        self._refuses_us = False
        """Whether a hold is because of a key or a proxy, which only a probe may end."""
        self._last_delivery_at = _NEVER
        self._last_hold_ended_at = _NEVER

    def use(self, settings: DeliverySettings, *, schedule: RetrySchedule) -> None:
        """Go by other settings from now on, save for the order; what was decided stays so."""
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

    def rest_ends(self, now: float) -> float:
        """Return until when events rest in the buffer that had no room among those that are retried."""
        self.some_rest = True
        return now + self._schedule.rest_seconds()

    def start(self, now: float, wall: float) -> Attempt | None:
        """Start the next attempt that may go now; None if none may. Each that is started must be ended or cancelled."""
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
        """Return when something may start although nothing ends until then; None if nothing may."""
        if self.holds.causes:
            time = self._probe_at if self.lanes.ready or self.lanes.next_due is not None else None
        elif not self.lanes.ready:
            time = self.lanes.next_due
        else:
            time = self._rate_limit.next_at if self.limiter.in_flight < self.limiter.limit else None
        return None if time is None else max(time, self._rate_limit.next_at)

    @property
    def _probe_at(self) -> float | None:
        """From when on a probe may go; earlier where we or an event are refused, and a lane was not yet tried."""
        early = self.lanes.has_fresh and self._suspects.hurries and _REFUSED.issuperset(self.holds.causes)
        if early and "not_growlytics" in self.holds.causes and self._may_spare:
            early = False  # each such probe may cost an event
        return self.holds.early_probe_at if early else self.holds.probe_at

    def _spared(self) -> Callable[[Event], bool] | None:
        """Return which events are no probes if there are others: those that a lost answer makes a dead letter.

        Events that are very old are no better, or one that always fails would be every probe, and the hold never end.
        """
        if not self._may_spare or _MAYBE_THERE.isdisjoint(self.holds.causes):
            return None
        return lambda event: self._is_never_repeated(event) or self._is_old(event)

    def _is_never_repeated(self, event: Event) -> bool:
        settings = self._settings
        return settings.on_ambiguous_events.get(event.name, settings.on_ambiguous) == "dead_letter"

    # After it

    def ended(self, attempt: Attempt, outcome: Outcome, now: float, *, own_seconds: float = 0.0) -> Decision:
        """Decide what follows from what an attempt came to; `own_seconds` of the time it took are not the far side's."""
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

    def rests_may_end(self) -> bool:
        """Whether there is room again for what went back and rests in the buffer; says so once."""
        may_end = self.some_rest and self.lanes.has_room_for_retries
        self.some_rest &= not may_end
        return may_end

    def cancelled(self, attempt: Attempt) -> None:
        """Make the event of a cancelled attempt ready again, as if it had not been tried."""
        self.limiter.cancelled()
        if attempt.is_probe:
            self.holds.probe_cancelled()
        self.lanes.put_back(attempt.lane)

    def key_changed(self, now: float) -> None:
        """Use what is known of the key no longer: there is a new one, which is probed at once if the old one was refused."""
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
        return Ack(fates.Delivered())

    def _end_holds(self, attempt: Attempt, now: float) -> None:
        """End what the delivery of a probe ends, or of an attempt that began before delivery was held."""
        held = bool(self.holds.causes)
        if attempt.is_probe:
            self.holds.probe_delivered(now)
        else:
            # Not everything is refused; but whether we are may have changed since this attempt began.
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
        if attempt.started_at >= self._last_hold_ended_at:  # or it is no news
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
        """A rejection is final only if something was delivered lately, or the event is too old to wait for that.

        Nor are very many in a row, however lately: then it is not the events.
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
        """Something refuses us, or this event: see `suspects`."""
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
        # Not in a hold: how old an event is says nothing then of whether it can be delivered.
        if not attempt.is_probe and not self.holds.causes and self._is_old(attempt.taken.event):
            return _dead_letter(attempt, "expired")
        if not attempt.is_probe:
            attempt.taken.story.suspect = False  # or each delivery would end its wait
        return self._wait(attempt, why, now)

    def _wait(self, attempt: Attempt, why: Waits, now: float) -> Decision:
        if attempt.is_probe:
            self._put_back(attempt, now)
            return why
        until = now + self._schedule.delay_seconds(attempt.taken.story.attempts)
        back = self.lanes.park(attempt.lane, until=until)
        if not back:
            return why
        self.some_rest = True
        return GoesBack(back, until, why)

    def _put_back(self, attempt: Attempt, now: float) -> None:
        """Have its event pending, behind others."""
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
            self.holds.probe_cancelled()  # it says nothing of the new key

    def _is_old(self, event: Event) -> bool:
        return self._age_seconds(event.accepted_at) >= self._settings.max_age_seconds


def ambiguous(attempt: Attempt) -> Ack:
    """Return what becomes of an event that may have arrived and is never repeated."""
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
