"""Event loops over real sockets and threads whose clock a test can move on, so that nobody waits for a timeout.

Real time passes as usual besides. What a loop's timers were set for while the test moved the clock is done in its order.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final, TypeVarTuple

import uvloop

Ts = TypeVarTuple("Ts")

STEPS: Final = 20
TURNS: Final = 5
"""Of the event loop in each step: so many callbacks may follow from each other, and so often sockets are looked at."""


class PassingTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's loop."""

    _passed = 0.0

    def time(self) -> float:
        return super().time() + self._passed

    def let_pass(self, seconds: float) -> None:
        self._passed += seconds


class _Timer(asyncio.TimerHandle):
    """A timer of a uvloop, which is set anew when time passes, as uvloop keeps its own clock."""

    handle: asyncio.Handle

    def run(self) -> None:
        self._loop.timers.pop(self, None)  # type: ignore[attr-defined]
        self._run()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class PassingTimeUvloop(uvloop.Loop):
    """uvloop's loop."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = 0.0
        self.timers: dict[_Timer, None] = {}

    def time(self) -> float:
        return super().time() + self._passed

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(self.time() + delay, callback, args, self, context)
        self.timers[timer] = None
        timer.handle = super().call_later(delay, timer.run)
        return timer

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_later(when - self.time(), callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        assert isinstance(handle, _Timer)
        handle.handle.cancel()
        self.timers.pop(handle, None)

    def let_pass(self, seconds: float) -> None:
        self._passed += seconds
        now = self.time()
        for timer in sorted(self.timers):
            timer.handle.cancel()
            if timer.when() <= now:
                timer.handle = self.call_soon(timer.run)
            else:
                timer.handle = super().call_later(timer.when() - now, timer.run)


LOOPS: Final = {"asyncio": PassingTimeLoop, "uvloop": PassingTimeUvloop}


async def let_pass(seconds: float) -> None:
    """Have the loop's clock go on by so many seconds, in steps, each of which is answered by whatever waits for it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PassingTimeLoop | PassingTimeUvloop)
    for _ in range(STEPS):
        loop.let_pass(seconds / STEPS)
        for _ in range(TURNS):
            await asyncio.sleep(0)
