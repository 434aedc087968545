"""How a buffer tells its news: those who wait for it, and its listener. On the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from forwarder.event import Clock, Event

T = TypeVar("T")


class News:
    """`clock` gives the event loop's time in seconds.

    A listener that raises is a bug, of which the event loop's exception handler is told; the buffer goes on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed: Callable[[], None] | None = None
        self._left: Callable[[Sequence[Event]], None] | None = None
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def listen(self, *, changed: Callable[[], None], left: Callable[[Sequence[Event]], None]) -> None:
        """Call these from now on: see Buffer."""
        self._changed, self._left = changed, left

    def tell(self) -> None:
        """Tell that something may be taken now that could not be before."""
        self._event.set()
        if self._changed is not None:
            try:
                self._changed()
            except Exception as error:  # noqa: BLE001 - see above
                _report(error)

    def tell_at(self, at: float | None) -> None:
        """Tell it at a time, too; None is never. There is one timer, and an earlier one stays."""
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._tell_now)

    def _tell_now(self) -> None:
        self._timer = None
        self.tell()

    def have_left(self, events: Sequence[Event]) -> None:
        """Tell that the acks of these events are committed."""
        if self._left is not None:
            try:
                self._left(events)
            except Exception as error:  # noqa: BLE001 - see above
                _report(error)

    def wake(self) -> None:
        """Wake those who wait, although there may be nothing to take."""
        self._event.set()

    def expect(self) -> None:
        """Begin to wait: only what is told from now on ends it."""
        self._event.clear()

    async def wait(self) -> None:
        """Wait until something was told since `expect`."""
        await self._event.wait()

    def close(self) -> None:
        """Tell nothing later any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _report(error: Exception) -> None:
    message = "a listener of the buffer failed"
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


def tell(done: asyncio.Future[T], value: T) -> None:
    """Tell who waits, unless that was told something else, or is there no more."""
    if not done.done():
        done.set_result(value)
