"""The bound of what all requests of the process have parsed at the same time, in bytes of their bodies.

Whoever parses a body reserves its bytes first, first come, first served, and holds them until the request is answered: till
then its events are held. So a compressed body, of which nobody knows the size, takes its worst case until it is inflated.
Bodies that are small and came as they are need no leave, so that single events never wait for batches.

Invariants: no more than `max_bytes` are reserved at any time; nobody is overtaken; a wait is bounded; what a request
reserved is given back however it ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

from forwarder.intake.bodies import Inflater, RefusedBodyError, inflate

EXEMPT_BYTES: Final = 64 * 1024
"""Below it a body that is not compressed reserves nothing."""
WAIT_SECONDS: Final = 1.0
"""How long a request may wait for others before it is refused."""


class ParsingBudget:
    """At most `max_bytes`, shared by all who parse. Used on one event loop."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._first = asyncio.Lock()
        """Held by who has its turn, but has no room yet. The others wait for it in the order in which they came."""
        self._returned = asyncio.Event()
        """Set when there may be room for who has its turn."""
        self.reserved_bytes = 0
        """How much is reserved now."""

    async def reserve(self, size_bytes: int) -> "Reservation":
        """Wait until there is room, and reserve so many bytes, or all there are if it is more than that.

        Raises RefusedBodyError, code `busy`, if there is no room for WAIT_SECONDS.
        """
        size_bytes = min(size_bytes, self._max_bytes)
        try:
            async with asyncio.timeout(WAIT_SECONDS), self._first:
                while self.reserved_bytes + size_bytes > self._max_bytes:
                    self._returned.clear()
                    await self._returned.wait()
                self.reserved_bytes += size_bytes
        except TimeoutError:
            raise RefusedBodyError("busy") from None
        return Reservation(self, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Return bytes that were reserved, and let those go on that wait for them."""
        self.reserved_bytes -= size_bytes
        self._returned.set()


class Reservation:
    """Bytes of the budget, held until `release` or the end of its block."""

    __slots__ = ("_budget", "_size_bytes")

    def __init__(self, budget: ParsingBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Hold no more than so many bytes from now on."""
        surplus = self._size_bytes - size_bytes
        if surplus > 0:
            self._size_bytes = size_bytes
            self._budget.give_back(surplus)

    def release(self) -> None:
        """Hold nothing any more. May be called again."""
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@asynccontextmanager
async def unpacked(
    body: bytes, inflater: Inflater | None, *, max_bytes: int, budget: ParsingBudget
) -> AsyncIterator[bytes]:
    """Inflate a body of at most `max_bytes`, if it is compressed, and hold what it takes of the budget until the block ends.

    Raises RefusedBodyError.
    """
    if inflater is None and len(body) < EXEMPT_BYTES:
        yield body
        return
    with await budget.reserve(len(body) if inflater is None else max_bytes) as reservation:
        if inflater is not None:
            body = await inflate(body, inflater, max_bytes=max_bytes)
            reservation.shrink(len(body))
        yield body
