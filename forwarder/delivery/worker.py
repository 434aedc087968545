"""The workers: they make the attempts that the engine starts, and carry out what it decides.

One feeder fills the engine's window with batches from the buffer; workers make one attempt at a time each; the buffer
commits what they came to, in batches, while attempts go on. Together no more than twice as many events as attempts may be
on the wire are that, or wait for the commit of their acks. A worker that is cancelled leaves its event pending, unless that
may have arrived and is never repeated.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never

from forwarder.buffer.base import Buffer
from forwarder.buffer.fates import DeadLettered, Fate
from forwarder.delivery.engine import Ack, Attempt, Decision, Engine, GoesBack, Waits, ambiguous
from forwarder.delivery.holds import HoldEnded, Holds
from forwarder.delivery.lag import BUSY_INTERVAL_SECONDS, IDLE_INTERVAL_SECONDS, LoopLag
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
        self._workers = 0
        self._tasks: asyncio.TaskGroup | None = None
        self._idle: list[asyncio.Future[Attempt]] = []
        self._unacked = 0  # how many events wait for their acks to be committed
        self._to_unmark: list[Event] = []  # of which the attempts were cancelled before they left
        self._lag = LoopLag()
        self._has_room = asyncio.Event()
        self._taking: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # kept here, as uvloop does not tell it of every timer

    async def serve(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(), name="delivery feeder")
                tasks.create_task(self._measure_lag(), name="loop lag")
                self._buffer.listen(changed=_nothing, left=self._left)
                self._tasks = tasks
                self._add_workers()
        finally:
            if self._timer:
                self._timer.cancel()
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if self._buffer.stalled else LAST_ACKS_SECONDS):
                    await self._buffer.unmark(self._to_unmark)
                    await self._buffer.settle_acks()

    def use(self, settings: DeliverySettings) -> None:
        """Go by other settings from now on, save for the order."""
        self._engine.use(settings, schedule=RetrySchedule(settings))
        self._max_concurrency = settings.max_concurrency
        if self._tasks:
            self._add_workers()
            self._start_what_may()
            self._tell_feeder(lane_has_room=True)

    def use_new_key(self) -> None:
        """Try the new key that `post` uses from now on."""
        self._engine.key_changed(asyncio.get_running_loop().time())
        self._start_what_may()

    def try_soon(self) -> None:
        """What makes attempts fail may have been fixed: if anything holds, probe now, but not before a Retry-After ends."""
        if self._engine.holds.causes:
            self._engine.holds.probe_soon(asyncio.get_running_loop().time())
            self._start_what_may()

    async def end_waits(self) -> None:
        """Try what waits for a retry without waiting for its time: there is not much left."""
        self._lanes.end_waits()
        self._start_what_may()
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

    def _add_workers(self) -> None:
        """Have as many as there may be attempts at a time; more than that wait."""
        assert self._tasks, "serve() began"
        for number in range(self._workers, self._max_concurrency):
            self._tasks.create_task(self._work(), name=f"delivery worker {number}")
        self._workers = max(self._workers, self._max_concurrency)

    # From the buffer

    async def _feed(self) -> None:
        while True:
            self._has_room.clear()
            max_events, max_bytes = self._lanes.room()
            if not max_events:
                await self._has_room.wait()
                continue
            self._lanes.take_begins()
            events: Sequence[Event] = ()
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._taking:
                    events = await self._buffer.take(
                        max_events=max_events,
                        max_bytes=max_bytes,
                        skip_lanes=self._lanes.full_lanes,
                        max_lane_events=self._lanes.max_new_of_lane,
                    )
            self._taking = None
            back, not_before = self._engine.add(events, asyncio.get_running_loop().time())
            self._start_what_may()
            if back:
                await self._give_back(back, not_before)

    def _tell_feeder(self, *, lane_has_room: bool) -> None:
        """There may be room; `lane_has_room`: perhaps for lanes that the take under way leaves out, so begin it anew."""
        if lane_has_room and self._taking:
            self._taking.reschedule(asyncio.get_running_loop().time())
            self._taking = None
        if not self._has_room.is_set() and self._lanes.room() != (0, 0):
            self._has_room.set()

    # To Growlytics

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            attempt = self._start(loop.time(), self._clock())
            if self._idle:
                self._start_what_may()
            if attempt is None:
                attempt = await self._next_attempt()
            decision = await self._make(attempt)
            match decision:
                case Ack(fate):
                    self._ack(attempt.taken.event, fate)
                    self._tell_feeder(lane_has_room=self._engine.acked(attempt))
                case Waits():
                    if attempt.never_repeated:
                        self._start_what_may()
                        await self._buffer.unmark([attempt.taken.event])
                    self._tell_feeder(lane_has_room=False)
                case GoesBack():
                    self._start_what_may()
                    await self._give_back(decision.events, decision.not_before)
                case _:
                    assert_never(decision)

    async def _next_attempt(self) -> Attempt:
        """Wait until the engine starts one."""
        future: asyncio.Future[Attempt] = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        self._set_timer()
        try:
            return await future
        except asyncio.CancelledError:
            if future in self._idle:
                self._idle.remove(future)
            elif not future.cancelled():
                self._engine.cancelled(future.result())
            raise

    async def _make(self, attempt: Attempt) -> Decision:
        """Make an attempt, and have it decided what follows."""
        event, story = attempt.taken.event, attempt.taken.story
        loop = asyncio.get_running_loop()
        may_have_left = False
        try:
            if attempt.never_repeated:
                await self._buffer.mark([(event, story.attempts + attempt.is_probe)])
                attempt.started_at = loop.time()
            may_have_left = True
            outcome = await self._post(event.body)
        except asyncio.CancelledError as cancelled:
            may_have_left &= not isinstance(cancelled, CancelledUnsentError)
            self._cancel(attempt, may_have_left=may_have_left)
            raise
        except BaseException:
            self._engine.cancelled(attempt)
            raise
        now = loop.time()
        decision = self._engine.ended(attempt, outcome, now, own_seconds=self._lag.seconds)
        self._tell(attempt, outcome, decision, now - attempt.started_at)
        return decision

    async def _give_back(self, events: Sequence[Event], not_before: float) -> None:
        await self._buffer.release(events, not_before=not_before)
        self._lanes.have_gone(events)
        self._tell_feeder(lane_has_room=True)

    def _cancel(self, attempt: Attempt, *, may_have_left: bool) -> None:
        if may_have_left and attempt.never_repeated:
            self._ack(attempt.taken.event, ambiguous(attempt).fate)
            return
        if may_have_left:
            self._telemetry.attempt_cancelled()
        elif attempt.never_repeated:
            self._to_unmark.append(attempt.taken.event)
        self._engine.cancelled(attempt)

    # What they came to

    def _ack(self, event: Event, fate: Fate) -> None:
        self._unacked += 1
        self._buffer.begin_ack(event, fate)
        if self._unacked >= self._max_concurrency:
            self._buffer.hurry_acks()

    def _left(self, events: Sequence[Event]) -> None:
        """Go on with what waited for these events' acks: they are committed."""
        self._unacked -= len(events)
        if self._engine.rests_may_end():
            self._buffer.end_rests()
        self._start_what_may()

    # When

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            interval = BUSY_INTERVAL_SECONDS if self._engine.limiter.in_flight else IDLE_INTERVAL_SECONDS
            due = loop.time() + interval
            await asyncio.sleep(interval)
            self._lag.add(loop.time() - due)

    def _start_what_may(self) -> None:
        """Give idle workers what the engine starts, and have that done again in time."""
        now, wall = asyncio.get_running_loop().time(), self._clock()
        while self._idle and self._idle[-1].cancelled():
            del self._idle[-1]  # its worker is about to end
        while self._idle and (attempt := self._start(now, wall)):
            self._idle.pop().set_result(attempt)
        self._set_timer()

    def _start(self, now: float, wall: float) -> Attempt | None:
        return None if self._acks_lag_behind else self._engine.start(now, wall)

    @property
    def _acks_lag_behind(self) -> bool:
        """Whether so many acks wait that nothing may start until some are committed."""
        return self._unacked + self._engine.limiter.in_flight >= 2 * self._max_concurrency

    def _set_timer(self) -> None:
        at = None if not self._idle or self._acks_lag_behind else self._engine.wakes_at()
        if self._timer and (at is None or at != self._timer_at):
            self._timer.cancel()
            self._timer = None
        if at is not None and self._timer is None:
            self._timer_at = at
            self._timer = asyncio.get_running_loop().call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._start_what_may()

    # Telling

    def _tell(self, attempt: Attempt, outcome: Outcome, decision: Decision, seconds: float) -> None:
        if isinstance(outcome, Delivered):
            failure = None
            self._telemetry.attempt_ended("delivered", seconds)
        else:
            failure = outcome.failure.described()
            self._tell_of_failure(attempt, outcome, decision, seconds, failure)
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


def _nothing() -> None:
    """The feeder waits in `take`, and needs no call."""


_NAMES: Final[Mapping[type[Outcome], OutcomeName]] = {
    Retryable: "retryable",
    Rejected: "rejected",
    Blocked: "blocked",
}
