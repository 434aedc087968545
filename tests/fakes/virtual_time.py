"""An event loop whose clock jumps: hours of waiting pass at once, in exactly the order of real ones.

When nothing is ready, the clock moves to the next timer. When there is no timer either, nothing would ever happen again,
and the test fails rather than hangs. Only for code that waits for nothing but timers: no threads, no sockets. What is for
`asyncio.to_thread` is done at once.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, ParamSpec

P = ParamSpec("P")

START_SECONDS: Final = 1000.0
"""What the clock says at first: not 0, so that nothing mistakes "at 0" for "long ago"."""


class NothingWillHappenError(Exception):
    """Every task waits for another one: in real time this is a test, or a daemon, that hangs."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, it reports how long it would have waited."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise NothingWillHappenError("no task can go on, and no timer is set")
            self._jump(max(0.0, timeout))
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `time()` is its clock."""

    def __init__(self) -> None:
        self._now = START_SECONDS
        self._jumping = _JumpingSelector(self._jump)
        super().__init__(self._jumping)

    @property
    def turns(self) -> int:
        """How many turns it has begun: an idle one begins none."""
        return self._jumping.turns

    def time(self) -> float:
        return self._now

    def stand_still(self, seconds: float) -> None:
        """Let time go by in which the loop does nothing, as when the process is stopped."""
        self._now += seconds

    def run_in_executor(  # type: ignore[override]  # with fewer type variables
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - told to who waits
            done.set_exception(error)
        return done

    def _jump(self, seconds: float) -> None:
        self._now += seconds


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a coroutine function a test that runs in a virtual-time loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def turns() -> int:
    """Return how many turns the running loop has begun."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop.turns


def now() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()
