"""The workers make the attempts that the engine starts, and carry out what it decides.

- The pump runs once in the next turn of the loop after anything that may let an attempt start. It takes what the buffer has
  ready, hands attempts to idle workers, and sets one timer for what is due next. If there is nothing to do, nothing runs.
- Workers are made when they are needed, and live on. Each makes one attempt at a time, applies what was decided, and starts
  the next attempt itself if one may start.
- The buffer commits acks in batches while attempts go on. At most twice `max_concurrency` events are on the wire or wait for
  the commit of their acks.
- A cancelled worker leaves its event pending, or makes it a dead letter if it may have arrived and is never repeated.
- A store may revoke lanes, as another process has them now or their customers are erased. Their events leave the window
  unless an attempt is under way. Such an attempt ends as any other, and the store is told; it may refuse the ack.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, Protocol, assert_never

from forwarder.buffer.base import Buffer, BufferUnavailableError
from forwarder.buffer.fates import MAX_ANSWER_BYTES, DeadLettered, Fate
from forwarder.delivery.engine import Ack, Attempt, Decision, Engine, Release, Waits, ambiguous
from forwarder.delivery.holds import HoldEnded, Holds
from forwarder.delivery.lanes import Story
from forwarder.delivery.limiter import Limiter
from forwarder.delivery.pacing import LagTimer, RetrySchedule
from forwarder.event import Clock, Event
from forwarder.growlytics.outcome import Blocked, CancelledUnsentError, Delivered, Outcome, Rejected, Retryable
from forwarder.observing.recent import FailureFields
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import DeliverySettings
from forwarder.words import DelayCause, HoldCause, OutcomeName, RetryReason

LAST_ACKS_SECONDS: Final = 2.0
"""How long `serve` waits at its end for the last acks. If they are not committed, the next process sends those events again;
events that are never repeated have marks.
"""


@dataclass(frozen=True, slots=True)
class Suspected:
    """An event that is refused; perhaps it is the only one."""

    event: Event
    status: int
    """The status of the last refusal."""
    refusals: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How many of the taken events are where."""

    parked: int
    in_flight: int
    """On the wire or waiting for the commit of their ack."""
    attempting: int
    """On the wire."""


Buried = Literal["buried", "after_attempt"]
"""Whether an event is a dead letter now, or will be one unless the attempt under way delivers it."""


class Post(Protocol):
    """Makes one attempt to deliver an event."""

    def __call__(self, body: bytes, may_leave: Callable[[], bool] | None, /) -> Awaitable[Outcome | None]:
        """Send the bytes of an event, and return the outcome.

        `may_leave` is asked right before the first byte leaves. If it says no, none leaves, and this returns None.
        """
        ...


class Delivery:
    """Delivers what is in `buffer` by `post`.

    `clock` gives seconds since 1970; `age_seconds`, how long ago an event was accepted, by default as `clock` tells. The
    buffer holds at most `buffer_events` and `buffer_bytes`.
    """

    _loop: asyncio.AbstractEventLoop
    """The loop that `serve` runs on; not set before."""

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        buffer: Buffer,
        post: Post,
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
        self._pumping: asyncio.Handle | None = None  # set while the pump is due in the next turn
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None  # kept here, as not every timer of uvloop tells it
        self._may_take = True  # whether the buffer may have something ready
        self._for_serve: asyncio.Queue[tuple[Sequence[Event], float] | Exception] = asyncio.Queue()
        """What `serve` is to do: release events, which then rest until a time, or end with a bug."""
        self._releasing = False  # nothing is taken until the events that were just taken are released
        self._unacked = 0  # how many events wait for their acks to be committed
        self._waits_for_acks = False
        self._to_bury: set[int] = set()  # the ids of events to make dead letters when their attempts have ended
        self._to_unmark: list[Event] = []  # marked, but their attempts were cancelled before any byte left
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
                        match await self._for_serve.get():
                            case Exception() as bug:
                                raise bug
                            case events, not_before:
                                await self._release(events, not_before)
                                self._releasing = False
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
        """Use other settings from now on, except for the order."""
        self._engine.use(settings, schedule=RetrySchedule(settings))
        self._max_concurrency = settings.max_concurrency
        self._changed()

    def use_new_key(self) -> None:
        """Try the new key that `post` uses from now on."""
        self._engine.key_changed(asyncio.get_running_loop().time())
        self._ask()

    def try_soon(self) -> None:
        """Probe now if there is a hold, as its cause may be fixed; but not before a Retry-After ends."""
        if self._engine.holds.causes:
            self._engine.holds.probe_soon(asyncio.get_running_loop().time())
            self._ask()

    async def end_waits(self) -> None:
        """Retry everything that is parked or deferred at once, as the process is about to stop."""
        self._lanes.end_waits()
        self._ask()
        self._buffer.end_deferrals()

    # For operators

    def under_way(self, customer: str) -> int:
        """Return of how many events of a customer an attempt is under way."""
        return self._lanes.under_way(customer)

    async def bury(self, event_id: int, *, dry_run: bool = False) -> Buried | None:
        """Make an event that waits a dead letter, reason `rejected`, or do so when the attempt that is under way has ended.

        Return None if no such event waits. Raise BufferUnavailableError if the buffer cannot be read.
        """
        state = self._bury_in_window(event_id, dry_run=dry_run)
        if state is not None:
            return state
        if dry_run:
            return "buried" if await self._buffer.contains(event_id) else None
        if (event := await self._buffer.pull(event_id)) is not None:
            self._bury(event, self._lanes.story_of(event_id) or Story())
            return "buried"
        return self._bury_in_window(event_id)  # it may have been taken meanwhile

    def _bury_in_window(
        self, event_id: int, *, dry_run: bool = False, story: Story | None = None, outcome: Outcome | None = None
    ) -> Buried | None:
        """Bury an event of the window; return None if it is not there. `outcome` is that of its last attempt, if known."""
        if (found := self._lanes.find(event_id)) is None:
            return None
        if self._lanes.is_under_way(*found):
            if not dry_run:
                self._to_bury.add(event_id)
            return "after_attempt"
        if not dry_run:
            taken = self._lanes.pull(*found)
            self._bury(taken.event, story or taken.story, outcome)
        return "buried"

    async def _obey(self, attempt: Attempt, outcome: Outcome, *, was_revoked: bool) -> None:
        """Do what an operator or the store has asked for while an attempt was under way that did not deliver the event."""
        if was_revoked:
            self._to_bury.discard(attempt.taken.event.id)
            await self._buffer.release([attempt.taken.event], not_before=self._loop.time())
        elif attempt.taken.event.id in self._to_bury:
            await self._bury_after(attempt, outcome)

    async def _bury_after(self, attempt: Attempt, outcome: Outcome) -> None:
        """Bury an event whose attempt did not deliver it, wherever it is now.

        If the buffer cannot be read, it is buried after the next attempt.
        """
        event_id, story = attempt.taken.event.id, attempt.taken.story
        self._to_bury.discard(event_id)
        if self._bury_in_window(event_id, story=story, outcome=outcome) is not None:
            return
        try:
            event = await self._buffer.pull(event_id)
        except BufferUnavailableError:
            self._to_bury.add(event_id)
            return
        if event is not None:
            self._bury(event, story, outcome)
        else:  # it may have been taken meanwhile
            self._bury_in_window(event_id, story=story, outcome=outcome)

    def _bury(self, event: Event, story: Story, outcome: Outcome | None = None) -> None:
        """Ack an event as a dead letter, with what is known of its last attempt."""
        status = story.refusals.status if story.refusals else None
        answer = b""
        if isinstance(outcome, Rejected | Blocked):
            status, answer = outcome.status, outcome.answer[:MAX_ANSWER_BYTES]
        elif isinstance(outcome, Retryable):
            status = outcome.failure.status
        now = self._clock()
        first, last = story.first_attempt_at or now, story.last_attempt_at or now
        fate = DeadLettered("rejected", status, answer, story.attempts, first_attempt_at=first, last_attempt_at=last)
        self._unacked += 1
        self._buffer.begin_ack(event, fate)
        self._buffer.hurry_acks()
        self._changed()

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
        """Return the causes of the hold, and for how many seconds each has held."""
        now = asyncio.get_running_loop().time()
        return {cause: now - since for cause, since in self._engine.holds.causes.items()}

    def suspects(self) -> list[Suspected]:
        """Return the suspects of the window, oldest first. Looks at all lanes of the window."""
        found = [
            Suspected(taken.event, refusals.status, refusals.number)
            for taken in self._lanes.firsts()
            if (refusals := taken.story.refusals) and refusals.suspect
        ]
        return sorted(found, key=lambda suspected: suspected.event.id)

    def probe_seconds(self) -> float | None:
        """Return in how many seconds the next probe starts; None without a hold, while a probe runs, or if nothing waits."""
        if not self._engine.holds.causes or (wakes_at := self._engine.wakes_at()) is None:
            return None
        return max(0.0, wakes_at - asyncio.get_running_loop().time())

    @property
    def failures_in_a_row(self) -> int:
        """How many attempts failed since one was delivered, rejected or refused."""
        return self._engine.failures_in_a_row

    def waits_for(self) -> DelayCause | None:
        """Return what the events that wait wait for, without a hold; None if nothing keeps them."""
        if self._unacked and self._unacked + self._engine.limiter.in_flight >= 2 * self._max_concurrency:
            return "commit"
        return self._engine.delay()

    @property
    def limit(self) -> int:
        """How many attempts may be on the wire now."""
        return 1 if self._engine.holds.causes else self._engine.limiter.limit

    def parked_until(self, event_id: int) -> float | None:
        """Return when an event that is parked is tried again, by the event loop's clock; None if it is not parked."""
        return self._lanes.parked_until(event_id)

    def can_move_before(self, deadline: float) -> bool:
        """Return whether an attempt is under way or may begin before `deadline`, by the event loop's clock.

        Nothing moves while the disk commits nothing: events delivered then would be sent again.
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
        """The buffer may have something ready."""
        self._may_take = True
        if self._pumping is None and self._tasks:  # as `_ask`, which would be a call more for each event
            self._pumping = self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Take what is ready, start what may start, and set the timer for what is due next."""
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
            self._for_serve.put_nowait(bug)

    def _take(self, now: float) -> None:
        """Fill the window with what the buffer has ready."""
        lanes = self._lanes
        while self._may_take and not self._releasing:
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
                self._releasing = True
                self._for_serve.put_nowait((back, self._engine.deferred_until(now)))
            elif len(events) == max_events or 2 * (lanes.bytes - bytes_before) > max_bytes:
                self._may_take = True

    def _set_timer(self) -> None:
        """Let the pump run when something may start, if a worker is idle. A busy worker looks when its attempt ends."""
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
        """Whether so many acks wait for their commit that nothing may start. Only asked if at least one waits."""
        self._waits_for_acks = self._unacked + self._engine.limiter.in_flight >= 2 * self._max_concurrency
        return self._waits_for_acks

    def _is_limited(self) -> bool:
        """Whether the limit of attempts is used up. Only then does the limiter learn from latencies."""
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
        """Add as many workers as are of use now, at most `max_concurrency` in all. They begin by themselves."""
        limiter = self._engine.limiter
        wanted = self._workers + max(1, min(self._lanes.ready, limiter.limit - limiter.in_flight))
        while self._tasks and self._workers < min(wanted, self._max_concurrency):
            self._tasks.create_task(self._work(), name=f"delivery worker {self._workers}")
            self._workers += 1

    async def _work(self) -> None:
        """Make one attempt after the other. If none may start, wait until the pump hands one over."""
        lanes, always_may = self._lanes, self._buffer.may_start is None
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
                may_have_left = not attempt.lane.revoked
                may_leave = None if always_may else partial(self._may_leave, attempt)
                outcome = await self._post(event.body, may_leave) if may_have_left else None
                ended, attempt, may_have_left = attempt, None, False
                if outcome is None:
                    await self._drop(ended)
                    continue
                was_revoked = ended.lane.revoked
                decision = self._ended(ended, outcome)
                if not isinstance(decision, Ack):
                    await self._carry_out(ended, decision)
                    await self._obey(ended, outcome, was_revoked=was_revoked)
        except BaseException as end:
            if handed and handed.done() and not handed.cancelled():
                attempt = handed.result()
            if attempt:
                self._cancel(attempt, end, may_have_left=may_have_left)
            raise
        finally:
            self._stop()  # a worker ends only if all of them do

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
            self._ask()  # other workers may start something, or the timer must be set
        return attempt

    def _may_leave(self, attempt: Attempt) -> bool:
        """Return whether the event of an attempt is still ours to send."""
        may_start = self._buffer.may_start
        return not attempt.lane.revoked and (may_start is None or may_start(attempt.taken.event))

    async def _drop(self, attempt: Attempt) -> None:
        """End an attempt of which no byte left, as the event's lane was revoked."""
        if not attempt.lane.revoked:  # or what is in it now came again
            self._revoked({attempt.taken.event.customer})
        self._engine.cancelled(attempt)
        self._to_bury.discard(attempt.taken.event.id)
        self._ask()  # another may start now, and this worker is not free yet
        if attempt.never_repeated:
            await self._buffer.unmark([attempt.taken.event])
        await self._buffer.release([attempt.taken.event], not_before=self._loop.time())
        await asyncio.sleep(0)  # so that a store that hands out the same event again and again does not block the loop

    def _revoked(self, lanes: AbstractSet[str]) -> Sequence[Event]:
        """Remove from the window what has not started of these lanes; return the events that have.

        Another process has the lanes now, or they are erased.
        """
        under_way: Sequence[Event] = ()
        try:
            under_way = self._lanes.revoke(lanes)
            if self._engine.some_deferred and self._engine.deferred_may_return():
                self._buffer.end_deferrals()
        except Exception as bug:  # noqa: BLE001 - which ends `serve`
            self._for_serve.put_nowait(bug)
        self._changed()  # there is room for other lanes
        return under_way

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
        """Ask the engine what follows, tell telemetry, and ack the event if it leaves the buffer."""
        now = self._loop.time()
        decision = self._engine.ended(attempt, outcome, now, own_seconds=self._lag.seconds)
        failure = None
        if isinstance(outcome, Delivered):
            self._telemetry.attempt_ended("delivered", now - attempt.started_at)
        else:
            failure = outcome.failure.described()
            self._tell_of_failure(attempt, outcome, decision, now - attempt.started_at, failure)
        if self._telemetry.taps.open:
            self._tell_taps(attempt, outcome, decision, now - attempt.started_at, failure)
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
        """The acks of these events are committed, or refused: let what waited for them start."""
        self._unacked -= len(events)
        if self._to_bury:
            self._to_bury.difference_update(event.id for event in events)
        try:
            if self._engine.some_deferred and self._engine.deferred_may_return():
                self._buffer.end_deferrals()
        except Exception as bug:  # noqa: BLE001 - which ends `serve`
            self._for_serve.put_nowait(bug)
        if self._waits_for_acks:
            self._waits_for_acks = False  # the pump looks again
            self._ask()

    async def _carry_out(self, attempt: Attempt, decision: Waits | Release) -> None:
        """Let the event be tried again later. Meanwhile the pump runs, as a permit is free."""
        self._ask()
        match decision:
            case Waits():
                if attempt.never_repeated:
                    await self._buffer.unmark([attempt.taken.event])
            case Release(events, not_before):
                await self._release(events, not_before)
            case _:
                assert_never(decision)

    async def _release(self, events: Sequence[Event], not_before: float) -> None:
        await self._buffer.release(events, not_before=not_before)
        self._lanes.were_released(events)
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
            case Waits(reason, maybe_delivered) | Release(why=Waits(reason, maybe_delivered)):
                if isinstance(outcome, Blocked):
                    self._tell_of_refusal(attempt, outcome)
                self._telemetry.attempt_ended(name, seconds, failure, retry=reason, maybe_delivered=maybe_delivered)
            case Ack(fate):
                self._telemetry.attempt_ended(name, seconds, failure)
                is_rejected = isinstance(fate, DeadLettered) and fate.reason == "rejected"
                if is_rejected and isinstance(outcome, Rejected | Blocked):
                    self._telemetry.event_rejected(name=attempt.taken.event.name, status=outcome.status)

    def _tell_taps(
        self, attempt: Attempt, outcome: Outcome, decision: Decision, seconds: float, failure: FailureFields | None
    ) -> None:
        retry: RetryReason | None = None
        match decision:
            case Waits(reason) | Release(why=Waits(reason)):
                retry = reason
            case Ack():
                pass
        self._telemetry.taps.attempted(
            attempt.taken.event,
            _NAMES.get(type(outcome), "delivered"),
            attempt=attempt.taken.story.attempts + attempt.is_probe,
            seconds=seconds,
            retry=retry,
            failure=failure,
            answer=b"" if isinstance(outcome, Delivered) else outcome.answer,
        )

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
