"""The endpoints that take events out of the buffer: erase a customer, bury one event. Operators only.

An erasure may take long: there may be very many events, a disk that fails, and attempts under way. So it goes on by itself,
and its client asks again until it is complete. Neither the log nor an answer says whose events it was.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Final, Protocol

from msgspec import Meta

from forwarder.buffer.base import Buffer, BufferUnavailableError, Erased
from forwarder.growlytics.contract import lane_of_customer
from forwarder.http.messages import Answer
from forwarder.intake import answers
from forwarder.intake.operations import MAX_ID_DIGITS, Asked, Id, Operation, Operations, Question, refused
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry

ANSWER_SECONDS: Final = 15.0
"""After so long the client is told to ask again."""
MAX_ERASURES: Final = 16
"""How many customers may be erased at a time."""
_LOOK_SECONDS: Final = 1.0
"""How often an erasure whose attempts have not ended is tried anew."""
_LOOKS: Final = 20
"""How often it looks in that time whether they have."""


class _CustomerToErase(Question):
    customer: Annotated[str, Meta(min_length=1)]
    dry_run: bool = False

    example: ClassVar = '{"customer": "42"}'
    explained: ClassVar = {
        "customer": "the customerId of the events, as text, and not empty",
        "dry_run": "true or false",
    }


class _EventToBury(Question):
    id: Id
    dry_run: bool = False

    example: ClassVar = '{"id": "1"}'
    explained: ClassVar = {
        "id": f"the id of an event, a decimal number of 1 to {MAX_ID_DIGITS} digits, as text",
        "dry_run": "true or false",
    }


class InDelivery(Protocol):
    """What delivery does for operators."""

    def under_way(self, customer: str) -> int:
        """Return of how many events of a customer an attempt is under way."""
        ...

    def bury(self, event_id: int, *, dry_run: bool = False) -> Awaitable[str | None]:
        """Make an event that waits a dead letter; return `buried`, or `after_attempt`, or None if no such event waits."""
        ...


@dataclass(frozen=True, slots=True)
class _Erasure:
    """What was removed, or would be."""

    erased: Erased
    receipts: int

    def after(self, earlier: "_Erasure") -> "_Erasure":
        """Return both as one: this one was begun when the earlier one had ended."""
        return _Erasure(_sum(earlier.erased, self.erased), earlier.receipts + self.receipts)


class EraseRoutes:
    """Answers requests to erase and to bury. `changing` is held while dead letters are changed."""

    def __init__(
        self,
        *,
        buffer: Buffer,
        delivery: InDelivery,
        receipts: Receipts,
        receipt: Callable[[int], Awaitable[object]],
        changing: asyncio.Lock,
        telemetry: Telemetry,
    ) -> None:
        """`receipt` returns what is known of an event; None if nothing is."""
        self._buffer = buffer
        self._delivery = delivery
        self._receipts = receipts
        self._receipt = receipt
        self._changing = changing
        self._telemetry = telemetry
        self._erasures: dict[str, asyncio.Task[_Erasure]] = {}
        self.operations: Operations = {
            "/v1/erase": Operation("POST", self._erase, is_guarded=True),
            "/v1/dead-letters/bury": Operation("POST", self._bury, is_guarded=True),
        }

    async def close(self) -> None:
        """End the erasures that are under way; what they have not removed yet stays. May be called again."""
        for erasing in self._erasures.values():
            erasing.cancel()
        await asyncio.gather(*self._erasures.values(), return_exceptions=True)

    async def _erase(self, asked: Asked) -> Answer:
        wanted = _CustomerToErase.of_body(asked.body)
        lane = lane_of_customer(wanted.customer)
        if wanted.dry_run:
            return _described(await self._look(lane), dry_run=True)
        erasing = self._erasures.get(lane)
        if erasing is None or erasing.done():
            if erasing is None:
                self._forget_ended()
                if len(self._erasures) >= MAX_ERASURES:
                    return answers.refusal("busy")
            erasing = self._erasures[lane] = asyncio.create_task(self._erase_all(lane, erasing), name="erase")
            erasing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # perhaps nobody asks again
        await asyncio.wait({erasing}, timeout=ANSWER_SECONDS)
        if not erasing.done():
            return answers.content({"complete": False}, status=202)
        if self._erasures.get(lane) is erasing:
            del self._erasures[lane]
        return _described(erasing.result(), dry_run=False)

    def _forget_ended(self) -> None:
        """Forget the erasures of which nobody asked for the end, if there are many."""
        if len(self._erasures) >= MAX_ERASURES:
            for lane in [lane for lane, erasing in self._erasures.items() if erasing.done()]:
                del self._erasures[lane]

    async def _look(self, lane: str) -> _Erasure:
        async with _in_time():  # the disk may fail, or another customer be erased
            found = await self._buffer.erase(lane, dry_run=True)
        in_flight = min(self._delivery.under_way(lane), found.events)
        receipts = self._receipts.erase(lane, up_to=found.up_to, dry_run=True)
        return _Erasure(replace(found, events=found.events - in_flight, in_flight=in_flight), receipts)

    async def _erase_all(self, lane: str, earlier: asyncio.Task[_Erasure] | None) -> _Erasure:
        """Erase a customer; return when the attempts that were under way have ended, too.

        Nobody was told of the end of an `earlier` erasure, which may be long ago, so its numbers are added.
        """
        async with self._changing:
            first = await self._buffer.erase(lane)
        receipts = self._receipts.erase(lane, up_to=first.up_to)
        last = first
        while last.in_flight:
            await self._until_ended(lane)
            async with self._changing:
                last = await self._buffer.erase(lane, up_to=first.up_to)
            first = _sum(first, replace(last, in_flight=0))  # they are some of those that it found first
        self._receipts.erase(lane, up_to=first.up_to)
        self._telemetry.customer_erased(events=first.events, in_flight=first.in_flight, dead_letters=first.dead_letters)
        erasure = _Erasure(first, receipts)
        is_known = earlier is not None and not earlier.cancelled() and earlier.exception() is None
        return erasure.after(earlier.result()) if earlier is not None and is_known else erasure

    async def _until_ended(self, lane: str) -> None:
        """Wait until no attempt of a customer is under way, or a second has passed."""
        for _ in range(_LOOKS):
            if not self._delivery.under_way(lane):
                break
            await asyncio.sleep(_LOOK_SECONDS / _LOOKS)
        await self._buffer.settle_acks()

    async def _bury(self, asked: Asked) -> Answer:
        wanted = _EventToBury.of_body(asked.body)
        event_id = int(wanted.id)
        state = await self._delivery.bury(event_id, dry_run=wanted.dry_run)
        if state is not None:
            if not wanted.dry_run and state == "buried":
                async with _in_time():
                    await self._buffer.settle_acks()
            return answers.content({"id": str(event_id), "state": state})
        known = await self._receipt(event_id)
        why = f"it is not in the buffer: its state is {known['state']}" if isinstance(known, dict) else "it is unknown"
        raise refused("not_found", f"no event with the id {event_id} waits: {why}")


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    """Raise BufferUnavailableError if it takes too long."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            yield
    except TimeoutError:
        raise BufferUnavailableError("it takes too long") from None


def _sum(first: Erased, later: Erased) -> Erased:
    """Return what two steps removed together."""
    return Erased(
        later.up_to,
        events=first.events + later.events,
        in_flight=first.in_flight + later.in_flight,
        dead_letters=first.dead_letters + later.dead_letters,
        files=first.files + later.files,
    )


def _described(result: _Erasure, *, dry_run: bool) -> Answer:
    erased = result.erased
    return answers.content(
        {
            "complete": True,
            "dry_run": dry_run,
            "buffered": erased.events,
            "in_flight": erased.in_flight,
            "dead_letters": erased.dead_letters,
            "receipts": result.receipts,
            "quarantined_files": erased.files,
        }
    )
