"""The workers: they take events from the buffer by way of the window, and make delivery attempts.

One feeder fills the window with batches; workers make one attempt at a time each. A permit is held only while a request is
on the wire: parked events hold nothing, and there are twice as many workers as permits so that attempts go on while acks
are committed. A worker that is cancelled leaves its event pending.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final, assert_never

from forwarder.buffer import fates
from forwarder.buffer.base import Buffer
from forwarder.delivery.retry import RetrySchedule
from forwarder.delivery.window import Taken, Window
from forwarder.event import Clock
from forwarder.growlytics.outcome import Blocked, Delivered, Outcome, Rejected, Retryable
from forwarder.settings import DeliverySettings
from forwarder.telemetry import Telemetry

WINDOW_EVENTS_PER_PERMIT: Final = 16
WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
CROWDED_PAUSE_SECONDS: Final = 1.0
"""While more fail than may be retried, as many events as there are permits are taken from the buffer this often."""


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

    `clock` gives seconds since 1970.
    """

    def __init__(
        self,
        settings: DeliverySettings,
        *,
        buffer: Buffer,
        post: Callable[[bytes], Awaitable[Outcome]],
        telemetry: Telemetry,
        clock: Clock = time.time,
    ) -> None:
        self._buffer = buffer
        self._clock = clock
        self._post = post
        self._telemetry = telemetry
        self._max_concurrency = settings.max_concurrency
        self._workers = 2 * settings.max_concurrency
        self._permits = asyncio.Semaphore(settings.max_concurrency)
        self._schedule = RetrySchedule(settings)
        self._window = Window(
            max_events=WINDOW_EVENTS_PER_PERMIT * settings.max_concurrency, max_bytes=WINDOW_MAX_BYTES
        )
        self._attempting = 0
        self._startable = asyncio.Semaphore(0)  # as many as the window has startable events, less the workers woken
        self._has_room = asyncio.Event()
        self._crowded = False  # since an event had to go back to the buffer, until the window is calm
        self._timer: asyncio.Handle | None = None
        self._timer_due = 0.0  # kept here, as uvloop does not tell it of every timer

    async def serve(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(), name="delivery feeder")
                for number in range(self._workers):
                    tasks.create_task(self._work(), name=f"delivery worker {number}")
        finally:
            if self._timer:
                self._timer.cancel()

    def progress(self) -> Progress:
        """Return where the taken events are now."""
        return Progress(parked=self._window.parked, in_flight=self._window.started, attempting=self._attempting)

    def parked_until(self, event_id: int) -> float | None:
        """Return when an event is tried again that waits for that here, by the event loop's clock."""
        return self._window.parked_until(event_id)

    def can_move_before(self, deadline: float) -> bool:
        """Return whether an attempt is under way or may begin before `deadline`, by the event loop's clock."""
        window = self._window
        in_window = window.parked + window.startable + window.started
        times = [window.next_due]
        if self._buffer.occupancy().events > in_window and window.room() != (0, 0):
            times.append(self._buffer.ready_at(asyncio.get_running_loop().time()))
        return bool(window.startable or window.started or any(each is not None and each <= deadline for each in times))

    async def end_rests(self) -> None:
        """Try what was given back to the buffer without waiting for its time, which was chosen long."""
        self._crowded = False
        await self._buffer.end_rests()

    async def _feed(self) -> None:
        while True:
            self._has_room.clear()
            max_events, max_bytes = self._window.room()
            if not max_events:
                await self._has_room.wait()
                continue
            if self._crowded:
                # So much fails that most likely nothing would succeed. To go on regardless would send the whole buffer
                # again and again; to stop would let a few events that always fail keep all others back.
                await asyncio.sleep(CROWDED_PAUSE_SECONDS)
                max_events = min(max_events, self._max_concurrency)
            events = await self._buffer.take(max_events=max_events, max_bytes=max_bytes)
            self._window.add(events)
            self._let_start(len(events))

    async def _work(self) -> None:
        while True:
            await self._startable.acquire()
            taken = self._window.start()
            async with self._permits:
                outcome = await self._attempt(taken)
            await self._settle(taken, outcome)
            if self._crowded and self._window.calm:
                await self.end_rests()
            self._tell_feeder()

    async def _attempt(self, taken: Taken) -> Outcome:
        taken.attempts += 1
        taken.last_attempt_at = self._clock()
        taken.first_attempt_at = taken.first_attempt_at or taken.last_attempt_at
        self._attempting += 1
        started = perf_counter()
        try:
            outcome = await self._post(taken.event.body)
        finally:
            self._attempting -= 1
        self._telemetry.attempt_finished(_LABELS[type(outcome)], perf_counter() - started)
        return outcome

    async def _settle(self, taken: Taken, outcome: Outcome) -> None:
        match outcome:
            case Delivered():
                await self._end(taken, fates.Delivered())
            case Rejected(status, answer):
                self._telemetry.event_rejected(name=taken.event.name, status=status)
                await self._end(taken, _dead_letter(taken, "rejected", status=status, answer=answer))
            case Retryable(reason, maybe_delivered):
                self._telemetry.retry_scheduled(reason=reason, maybe_delivered=maybe_delivered)
                await self._retry_later(taken)
            case Blocked(status):
                self._telemetry.delivery_blocked(status=status)
                self._telemetry.retry_scheduled(reason="blocked", maybe_delivered=False)
                await self._retry_later(taken)
            case _:
                assert_never(outcome)

    async def _end(self, taken: Taken, fate: fates.Fate) -> None:
        await self._buffer.ack([(taken.event, fate)])
        self._window.remove(taken)

    async def _retry_later(self, taken: Taken) -> None:
        until = asyncio.get_running_loop().time() + self._schedule.delay_seconds(taken.attempts)
        if self._window.park(taken, until=until):
            self._set_timer()
            return
        # Of an event too large for its half of the window nothing follows for the others.
        self._crowded = self._crowded or self._window.crowded
        self._window.remove(taken)
        rested = asyncio.get_running_loop().time() + self._schedule.rest_seconds()
        await self._buffer.release([taken.event], not_before=rested)

    def _set_timer(self) -> None:
        """Have the parked event that is due first made startable in time."""
        due = self._window.next_due
        if due is None or (self._timer and self._timer_due <= due):
            return
        if self._timer:
            self._timer.cancel()
        self._timer_due = due
        self._timer = asyncio.get_running_loop().call_at(due, self._unpark)

    def _unpark(self) -> None:
        self._timer = None
        self._let_start(self._window.unpark_due(asyncio.get_running_loop().time()))
        self._tell_feeder()
        self._set_timer()

    def _tell_feeder(self) -> None:
        if self._window.room() != (0, 0):
            self._has_room.set()

    def _let_start(self, events: int) -> None:
        for _ in range(events):
            self._startable.release()


def _dead_letter(taken: Taken, reason: fates.DeadReason, *, status: int | None, answer: bytes) -> fates.DeadLettered:
    return fates.DeadLettered(
        reason,
        status=status,
        answer=answer[: fates.MAX_ANSWER_BYTES],
        attempts=taken.attempts,
        first_attempt_at=taken.first_attempt_at,
        last_attempt_at=taken.last_attempt_at,
    )


_LABELS: Final[dict[type[Outcome], str]] = {
    Delivered: "delivered",
    Retryable: "retryable",
    Rejected: "rejected",
    Blocked: "blocked",
}
