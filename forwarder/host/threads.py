"""Work that may block for ever, such as reading from a file system that does not answer, beside the event loop.

It has a thread of its own that the end of the process does not wait for, but for a moment; those of asyncio's executor it
would.
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
    """The system has no more threads for this process, for now."""


def end_threads(*, within_seconds: float) -> None:
    """Wait so long for the threads that work is still under way in, at the end of the process.

    One that is inside of OpenSSL while the process exits crashes it; one that hangs in a file system does not.
    """
    deadline = time.monotonic() + within_seconds
    for thread in threading.enumerate():
        if thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))


async def in_own_thread(work: Callable[[], Result], *, name: str) -> Result:
    """Return what `work` returns, or raise what it raises, or NoThreadError.

    Where this is cancelled, the work goes on, for nobody.
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
        except BaseException as error:  # noqa: BLE001 - it is told to who waits
            outcome = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(tell, outcome)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise NoThreadError from error
    return await done
