"""How the buffers' callers wait, and are told."""

import asyncio
from contextlib import suppress
from typing import TypeVar

from forwarder.event import Clock

T = TypeVar("T")


async def wait_until(changed: asyncio.Event, at: float | None, *, clock: Clock) -> None:
    """Wait until `changed` is set, or until a time, of the clock in seconds; None is never."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if at is None else max(0.0, at - clock())):
            await changed.wait()


def tell(done: asyncio.Future[T], value: T) -> None:
    """Tell who waits, unless that was told something else, or is there no more."""
    if not done.done():
        done.set_result(value)
