"""How the buffers' takers wait."""

import asyncio
from contextlib import suppress

from forwarder.event import Clock


async def wait_until(changed: asyncio.Event, at: float | None, *, clock: Clock) -> None:
    """Wait until `changed` is set, or until a time, of the clock in seconds; None is never."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None if at is None else max(0.0, at - clock())):
            await changed.wait()
