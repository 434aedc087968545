"""The workers: they make the attempts that the engine starts, and carry out what it decides.

Whatever may let something start asks for the pump, which then runs once in the next turn of the loop: it takes what the
buffer has ready, hands attempts to idle workers, and sets one timer for what is due next. Without any of that nothing runs.
Workers are made as they are needed, and live on. Each makes one attempt at a time, applies what was decided, and goes on
with the next attempt itself if one may start.

The buffer commits acks in batches while attempts go on. Together no more than twice as many events as attempts may be on
the wire are that, or wait for the commit of their acks. A worker that is cancelled leaves its event pending, unless that
may have arrived and is never repeated.

A store that several processes share may revoke lanes. What has not started of them leaves the window. An attempt under way
ends as any other, and what it came to is told to the store, which may refuse the ack.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never

from forwarder.buffer.base import Buffer
from forwarder.buffer.fates import DeadLettered, Fate
from forwarder.delivery.engine import Ack, Attempt, Decision, Engine, GoesBack, Waits, ambiguous
from forwarder.delivery.holds import HoldEnded, Holds
from forwarder.delivery.lag import LagTimer
from forwarder.delivery.limiter import Limiter
from forwarder.delivery.retry import RetrySchedule
from forwarder.event import Clock, Event
from forwarder.growlytics.outcome import Blocked, CancelledUnsentError, Delivered, Outcome, Rejected, Retryable
from forwarder.observing.recent import FailureFields
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeliverySettings
from forwarder.words import HoldCause, OutcomeName

LAST_ACKS_SECONDS: Final = 2.0
"""How long the end waits for the disk. Where that fails, what was delivered is sent again by the next process, and what is
never repeated has a mark.
"""


@dataclass(frozen=True, slots=True)
class Suspected:
    """An event that is refused, and perhaps no other."""

    event: Event
    status: int
    """That of the last refusal."""
    refusals: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the taken events are."""

    parked: int
    in_flight: int
    """On the wire or waiting for the commit of their ack."""
    attempting: int
    """On the wire."""


class Delivery:
    """Delivers what is in `buffer` by `post`, which makes one attempt with an event's bytes.

    `clock` gives seconds since 1970; `age_seconds`, how long ago an event was accepted, by default as `clock` tells. The
    buffer holds at most `buffer_events` and `buffer_bytes`.
    """

    _loop: asyncio.AbstractEventLoop
    """The one that serves; there is none before."""

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        buffer: Buffer,
        post: Callable[[bytes], Awaitable[Outcome]],
        telemetry: Telemetry,
        clock: Clock = time.time,
        age_seconds: Callable[[float], float] | None = None,
        buffer_events: int = sys.maxsize,
        buffer_bytes: int = sys.maxsize,
    ) -> None:
        self._engine = Engine(
            settings,
            limiter=Limiter(settings.max_concurrency),
            schedule=RetrySchedule(settings),
            holds=Holds(settings),
            age_seconds=age_seconds or (lambda accepted_at: clock() - accepted_at),
            buffer_events=buffer_events,
            buffer_bytes=buffer_bytes,
        )
        self._lanes = self._engine.lanes
        self._buffer = buffer
        self._post = post
        self._telemetry = telemetry
        self._clock = clock
        self._max_concurrency = settings.max_concurrency
        self._tasks: asyncio.TaskGroup | None = None  # while something may start
        self._workers = 0
        self._idle: list[asyncio.Future[Attempt]] = []
        self._pumping: asyncio.Handle | None = None  # from when the pump is asked for until it runs
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None  # kept here, as uvloop does not tell it of every timer
        self._may_take = True  # the buffer may have something ready that it has not handed out
        self._going_back: asyncio.Queue[tuple[Sequence[Event], float] | Exception] = asyncio.Queue()
        self._gives_back = False  # what was taken last, before more is taken
        self._unacked = 0  # how many events wait for their acks to be committed
        self._waits_for_acks = False
        self._to_unmark: list[Event] = []  # of which the attempts were cancelled before they left
        self._lag = LagTimer(while_=self._is_limited)

    async def serve(self) -> None:
        """Deliver until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._buffer.listen(changed=self._changed, left=self._left, revoked=self._revoked)
                self._ask()
                try:
                    while True:
                        match await self._going_back.get():
                            case Exception() as bug:
                                raise bug
                            case events, not_before:
                                await self._give_back(events, not_before)
                                self._gives_back = False
                                self._changed()
                finally:
                    self._stop()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if self._buffer.stalled else LAST_ACKS_SECONDS):
                    if self._to_unmark:
                        await self._buffer.unmark(self._to_unmark)
                    await self._buffer.settle_acks()

    def use(self, settings: DeliverySettings) -> None:
        """Go by other settings from now on, save for the order."""
        self._engine.use(settings, schedule=RetrySchedule(settings))
        self._max_concurrency = settings.max_concurrency
        self._changed()

    def use_new_key(self) -> None:
        """Try the new key that `post` uses from now on."""
        self._engine.key_changed(asyncio.get_running_loop().time())
        self._ask()

    def try_soon(self) -> None:
        """What makes attempts fail may have been fixed: if anything holds, probe now, but not before a Retry-After ends."""
        if self._engine.holds.causes:
            self._engine.holds.probe_soon(asyncio.get_running_loop().time())
            self._ask()

    async def end_waits(self) -> None:
        """Try what waits for a retry without waiting for its time: there is not much left."""
        self._lanes.end_waits()
        self._ask()
        self._buffer.end_rests()

    # What may be known of it

    def progress(self) -> Progress:
        """Return where the taken events are now."""
        lanes = self._lanes
        return Progress(
            parked=lanes.parked_events,
            in_flight=lanes.started + self._unacked,
            attempting=self._engine.limiter.in_flight,
        )

    def holds(self) -> dict[HoldCause, float]:
        """Return what holds, and for how many seconds."""
        now = asyncio.get_running_loop().time()
        return {cause: now - since for cause, since in self._engine.holds.causes.items()}

    def suspects(self) -> list[Suspected]:
        """Return the events of the window that are suspects, the longest accepted first. Looks at all of its lanes."""
        found = [
            Suspected(taken.event, refusals.status, refusals.number)
            for taken in self._lanes.firsts()
            if (refusals := taken.story.refusals) and refusals.suspect
        ]
        return sorted(found, key=lambda suspected: suspected.event.id)

    def probe_seconds(self) -> float | None:
        """Return in how many seconds the next probe goes; None if nothing holds, one is under way, or nothing waits."""
        if not self._engine.holds.causes or (wakes_at := self._engine.wakes_at()) is None:
            return None
        return max(0.0, wakes_at - asyncio.get_running_loop().time())

    @property
    def limit(self) -> int:
        """How many attempts may be on the wire now."""
        return 1 if self._engine.holds.causes else self._engine.limiter.limit

    def parked_until(self, event_id: int) -> float | None:
        """Return when an event is tried again that waits for that here, by the event loop's clock."""
        return self._lanes.parked_until(event_id)

    def can_move_before(self, deadline: float) -> bool:
        """Return whether an attempt is under way or may begin before `deadline`, by the event loop's clock.

        Nothing moves while the disk commits nothing: what is delivered then would be sent again.
        """
        if self._buffer.stalled:
            return False
        if self._lanes.started or self._unacked:
            return True
        wakes_at = self._engine.wakes_at()
        if wakes_at is not None and wakes_at <= deadline:
            return True
        if self._lanes.room() == (0, 0) or self._buffer.occupancy().events <= self._lanes.events:
            return False
        now = asyncio.get_running_loop().time()
        ready_at = self._buffer.ready_at(now, skip_lanes=self._lanes.full_lanes)
        return ready_at is not None and ready_at <= deadline

    # The pump

    def _ask(self) -> None:
        """Have the pump run in the next turn of the loop, once."""
        if self._pumping is None and self._tasks:
            self._pumping = self._loop.call_soon(self._pump)

    def _changed(self) -> None:
        """The buffer may have something that it has not handed out."""
        self._may_take = True
        if self._pumping is None and self._tasks:  # as `_ask`, which would be a call more for each event
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Take what is ready, start what may start, and have this run again when something is due."""
        self._pumping = None
        try:
            now, lanes = self._loop.time(), self._lanes
            if self._may_take:
                self._take(now)
            while (lanes.ready or lanes.parked_events) and not (self._unacked and self._acks_lag_behind()):
                if not self._idle:
                    self._add_workers()
                    break
                attempt = self._engine.start(now, self._clock())
                if attempt is None:
                    if self._is_limited():
                        self._lag.measure()
                    break
                self._idle.pop().set_result(attempt)
            if lanes.ready or lanes.parked_events or self._timer:
                self._set_timer()
        except Exception as bug:  # noqa: BLE001 - which ends `serve`
            self._going_back.put_nowait(bug)

    def _take(self, now: float) -> None:
        """Fill the window with what the buffer has ready, as far as there is room."""
        lanes = self._lanes
        while self._may_take and not self._gives_back:
            max_events, max_bytes = lanes.room()
            if not max_events:
                return
            bytes_before = lanes.bytes
            self._may_take = False
            events = self._buffer.take_ready(
                max_events=max_events,
                max_bytes=max_bytes,
                skip_lanes=lanes.full_lanes,
                max_lane_events=lanes.max_new_of_lane,
            )
            if not events:
                return
            back = lanes.add(events)
            if back:
                self._gives_back = True
                self._going_back.put_nowait((back, self._engine.rest_ends(now)))
            elif len(events) == max_events or 2 * (lanes.bytes - bytes_before) > max_bytes:
                self._may_take = True

    def _set_timer(self) -> None:
        """Have the pump run when something may start, if a worker is idle then; those that are not, look themselves."""
        lanes = self._lanes
        is_needed = (
            (lanes.ready or lanes.parked_events) and self._idle and not (self._unacked and self._acks_lag_behind())
        )
        at = self._engine.wakes_at() if is_needed else None
        if at != self._timer_at:
            if self._timer:
                self._timer.cancel()
            self._timer_at = at
            self._timer = None if at is None else self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = self._timer_at = None
        self._ask()

    def _acks_lag_behind(self) -> bool:
        """Whether so many acks wait that nothing may start until some are committed: at least one does."""
        self._waits_for_acks = self._unacked + self._engine.limiter.in_flight >= 2 * self._max_concurrency
        return self._waits_for_acks

    def _is_limited(self) -> bool:
        """Whether as many attempts are on the wire as the limiter allows: then it learns from how late answers are."""
        return self._engine.limiter.in_flight >= self._engine.limiter.limit

    def _stop(self) -> None:
        """Start nothing more."""
        self._tasks = None
        self._lag.stop()
        for handle in (self._pumping, self._timer):
            if handle:
                handle.cancel()

    # To Growlytics

    def _add_workers(self) -> None:
        """Have as many more as may be of use now, but no more in all than attempts at a time. They begin by themselves."""
        limiter = self._engine.limiter
        wanted = self._workers + max(1, min(self._lanes.ready, limiter.limit - limiter.in_flight))
        while self._tasks and self._workers < min(wanted, self._max_concurrency):
            self._tasks.create_task(self._work(), name=f"delivery worker {self._workers}")
            self._workers += 1

    async def _work(self) -> None:
        """Make one attempt after the other, and wait for the pump to hand over the next where none may start now."""
        lanes, may_start = self._lanes, self._buffer.may_start
        attempt: Attempt | None = None
        handed: asyncio.Future[Attempt] | None = None
        may_have_left = False
        try:
            while True:
                if self._may_take or lanes.ready or lanes.parked_events:
                    attempt = self._next()
                if attempt is None:
                    handed = self._loop.create_future()
                    self._idle.append(handed)
                    attempt, handed = await handed, None
                event, story = attempt.taken.event, attempt.taken.story
                if attempt.never_repeated:
                    await self._buffer.mark([(event, story.attempts + attempt.is_probe)])
                    attempt.started_at = self._loop.time()
                if attempt.lane.revoked or (may_start is not None and not may_start(event)):
                    unstarted, attempt = attempt, None
                    await self._drop(unstarted)
                    continue
                may_have_left = True
                outcome = await self._post(event.body)
                ended, attempt, may_have_left = attempt, None, False
                decision = self._ended(ended, outcome)
                if not isinstance(decision, Ack):
                    await self._carry_out(ended, decision)
        except BaseException as end:
            if handed and handed.done() and not handed.cancelled():
                attempt = handed.result()
            if attempt:
                self._cancel(attempt, end, may_have_left=may_have_left)
            raise
        finally:
            self._stop()  # a worker ends only where all of them do

    def _next(self) -> Attempt | None:
        """Start the next attempt, if one may start now."""
        now, lanes = self._loop.time(), self._lanes
        if self._may_take:
            self._take(now)
        if not (lanes.ready or lanes.parked_events) or (self._unacked and self._acks_lag_behind()):
            return None
        attempt = self._engine.start(now, self._clock())
        is_limited = lanes.ready and self._is_limited()
        if is_limited:
            self._lag.measure()
        if attempt is None or (lanes.ready and not is_limited):
            self._ask()  # for more workers to go on, or for the timer
        return attempt

    async def _drop(self, attempt: Attempt) -> None:
        """End an attempt that may not start, as the event's lane was revoked."""
        if not attempt.lane.revoked:  # or what is in it now came again
            self._revoked({attempt.taken.event.customer})
        self._engine.cancelled(attempt)
        if attempt.never_repeated:
            await self._buffer.unmark([attempt.taken.event])
        await asyncio.sleep(0)  # if the store hands out the same again and again, others have their turn

    def _revoked(self, lanes: AbstractSet[str]) -> None:
        """Drop what has not started of these lanes: it is another process's now."""
        self._lanes.revoke(lanes)
        self._changed()  # as there is room for others

    def _cancel(self, attempt: Attempt, end: BaseException, *, may_have_left: bool) -> None:
        if not isinstance(end, asyncio.CancelledError):
            self._engine.cancelled(attempt)
            return
        may_have_left &= not isinstance(end, CancelledUnsentError)
        if may_have_left and attempt.never_repeated:
            self._ack(attempt, ambiguous(attempt).fate)
            return
        if may_have_left:
            self._telemetry.attempt_cancelled()
        elif attempt.never_repeated:
            self._to_unmark.append(attempt.taken.event)
        self._engine.cancelled(attempt)

    # What they came to

    def _ended(self, attempt: Attempt, outcome: Outcome) -> Decision:
        """Have it decided what follows, and tell that; an event that leaves the buffer is acked."""
        now = self._loop.time()
        decision = self._engine.ended(attempt, outcome, now, own_seconds=self._lag.seconds)
        failure = None
        if isinstance(outcome, Delivered):
            self._telemetry.attempt_ended("delivered", now - attempt.started_at)
        else:
            failure = outcome.failure.described()
            self._tell_of_failure(attempt, outcome, decision, now - attempt.started_at, failure)
        if self._engine.holds.has_news:
            self._tell_of_holds(failure)
        if isinstance(decision, Ack):
            self._ack(attempt, decision.fate)
        return decision

    def _ack(self, attempt: Attempt, fate: Fate) -> None:
        self._unacked += 1
        self._buffer.begin_ack(attempt.taken.event, fate)
        if self._unacked >= self._max_concurrency:
            self._buffer.hurry_acks()
        if self._lanes.end(attempt.lane):
            self._may_take = True

    def _left(self, events: Sequence[Event]) -> None:
        """Go on with what waited for these events' acks: they are committed, or refused."""
        self._unacked -= len(events)
        try:
            if self._engine.some_rest and self._engine.rests_may_end():
                self._buffer.end_rests()
        except Exception as bug:  # noqa: BLE001 - which ends `serve`
            self._going_back.put_nowait(bug)
        if self._waits_for_acks:
            self._waits_for_acks = False  # the pump looks again
            self._ask()

    async def _carry_out(self, attempt: Attempt, decision: Waits | GoesBack) -> None:
        """Have the event tried again later; the pump runs meanwhile, as something may start."""
        self._ask()
        match decision:
            case Waits():
                if attempt.never_repeated:
                    await self._buffer.unmark([attempt.taken.event])
            case GoesBack(events, not_before):
                await self._give_back(events, not_before)
            case _:
                assert_never(decision)

    async def _give_back(self, events: Sequence[Event], not_before: float) -> None:
        await self._buffer.release(events, not_before=not_before)
        self._lanes.have_gone(events)
        self._changed()

    # Telling

    def _tell_of_holds(self, failure: FailureFields | None) -> None:
        for news in self._engine.holds.news():
            if isinstance(news, HoldEnded):
                self._telemetry.hold_ended(news.cause, seconds=news.seconds)
            else:
                self._telemetry.hold_started(news.cause, probe_in_seconds=news.seconds, failure=failure)

    def _tell_of_failure(
        self,
        attempt: Attempt,
        outcome: Retryable | Rejected | Blocked,
        decision: Decision,
        seconds: float,
        failure: FailureFields,
    ) -> None:
        name = _NAMES[type(outcome)]
        match decision:
            case Waits(reason, maybe_delivered) | GoesBack(why=Waits(reason, maybe_delivered)):
                if isinstance(outcome, Blocked):
                    self._tell_of_refusal(attempt, outcome)
                self._telemetry.attempt_ended(name, seconds, failure, retry=reason, maybe_delivered=maybe_delivered)
            case Ack(fate):
                self._telemetry.attempt_ended(name, seconds, failure)
                is_rejected = isinstance(fate, DeadLettered) and fate.reason == "rejected"
                if is_rejected and isinstance(outcome, Rejected | Blocked):
                    self._telemetry.event_rejected(name=attempt.taken.event.name, status=outcome.status)

    def _tell_of_refusal(self, attempt: Attempt, outcome: Blocked) -> None:
        refusals = attempt.taken.story.refusals
        if outcome.why == "proxy":
            self._telemetry.proxy_refused(status=outcome.status)
        elif refusals is None or not refusals.suspect:
            self._telemetry.delivery_blocked(status=outcome.status)
        elif refusals.number == 1 or refusals.counted == 1:
            is_page = outcome.why == "not_growlytics"
            self._telemetry.event_suspected(name=attempt.taken.event.name, status=outcome.status, is_page=is_page)


_NAMES: Final[Mapping[type[Outcome], OutcomeName]] = {
    Retryable: "retryable",
    Rejected: "rejected",
    Blocked: "blocked",
}
