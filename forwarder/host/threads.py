"""Runs work that may block for ever, such as reading from a file system that hangs, beside the event loop.

Each piece of work has a thread of its own. The process waits only a moment for these threads when it ends; for the threads
of asyncio's executor it would wait for ever.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

Result = TypeVar("Result")


class NoThreadError(Exception):
    """The system has no more threads for this process at present."""


def end_threads(*, within_seconds: float) -> None:
    """At the end of the process, wait so long for threads that still work.

    A thread that is inside OpenSSL when the process exits would crash it; one that hangs in a file system would not.
    """
    deadline = time.monotonic() + within_seconds
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))


async def in_own_thread(work: Callable[[], Result], *, name: str) -> Result:
    """Return what `work` returns, or raise what it raises, or NoThreadError.

    If this is cancelled, the work goes on, and its result is lost.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(outcome: Callable[[], None]) -> None:
        if not done.done():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        try:
            outcome = partial(done.set_result, work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the caller waits
            outcome = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, outcome)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThreadError from error
    return await done
