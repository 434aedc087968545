"""Requests to erase a customer whose events take long to remove, in virtual time."""

import asyncio
import json
import time
from typing import Any

from forwarder.buffer.base import Erased, Stored
from forwarder.intake.erase_routes import ANSWER_SECONDS, EraseRoutes
from forwarder.intake.operations import Asked
from forwarder.observing.recent import Receipts
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ReceiptsSettings
from tests.fakes.buffers import ObservedBuffer, memory_buffer
from tests.fakes.events import EventMaker
from tests.fakes.virtual_time import in_virtual_time, now


class SlowlyErasing(ObservedBuffer):
    """Its erasures take a while, and so does to say what they would remove."""

    seconds = 0.0

    async def erase(self, customer: str, *, up_to: int | None = None, dry_run: bool = False) -> Erased:
        erased = await super().erase(customer, up_to=up_to, dry_run=dry_run)
        await asyncio.sleep(self.seconds)
        return erased


class NothingUnderWay:
    """Delivery, while it sends nothing. What is buried waits for the disk."""

    def under_way(self, customer: str) -> int:  # noqa: ARG002
        return 0

    async def bury(self, event_id: int, *, dry_run: bool = False) -> str:  # noqa: ARG002
        return "buried"


class Operator:
    """Asks a buffer's daemon to erase customers."""

    def __init__(self) -> None:
        telemetry = Telemetry()
        receipts = Receipts(ReceiptsSettings(), clock=time.time)

        async def receipt(event_id: int) -> object:
            return receipts.find(event_id)

        self.buffer = SlowlyErasing(memory_buffer(telemetry, now))
        self.make = EventMaker()
        self.routes = EraseRoutes(
            buffer=self.buffer,
            delivery=NothingUnderWay(),
            receipts=receipts,
            receipt=receipt,
            changing=asyncio.Lock(),
            telemetry=telemetry,
        )

    async def put(self, customers: str) -> None:
        assert await self.buffer.put(self.make.of(customers), intake="http") == Stored()

    async def ask(self, customer: str, *, dry_run: bool = False) -> tuple[int, Any]:
        body = json.dumps({"customer": customer, "dry_run": dry_run}).encode()
        answer = await self.routes.operations["/v1/erase"].ask(Asked(0, {}, body, lambda: None))
        return answer.status, json.loads(answer.body)


@in_virtual_time
async def test_an_erasure_that_takes_long_is_told_to_who_asks_again() -> None:
    operator = Operator()
    operator.buffer.seconds = 2.5 * ANSWER_SECONDS
    await operator.put("aab")
    assert await operator.ask("a") == (202, {"complete": False})
    assert await operator.ask("a") == (202, {"complete": False})
    await operator.put("a")
    status, answer = await operator.ask("a")
    assert (status, answer["complete"], answer["buffered"]) == (200, True, 2)
    assert operator.buffer.occupancy().events == 2, "what came meanwhile stays"


@in_virtual_time
async def test_an_erasure_of_whose_end_nobody_was_told_is_not_taken_for_one_that_is_asked_for_later() -> None:
    operator = Operator()
    operator.buffer.seconds = 2 * ANSWER_SECONDS
    await operator.put("aab")
    assert await operator.ask("a") == (202, {"complete": False})
    await asyncio.sleep(1000.0)
    await operator.put("aaab")
    operator.buffer.seconds = 0.0
    status, answer = await operator.ask("a")
    assert (status, answer["buffered"]) == (200, 5), "also those of which nobody was told"
    assert operator.buffer.occupancy().events == 2
    assert (await operator.ask("a"))[1]["buffered"] == 0


@in_virtual_time
async def test_a_dry_run_does_not_wait_for_the_disk_for_ever() -> None:
    operator = Operator()
    operator.buffer.seconds = 1000 * ANSWER_SECONDS
    await operator.put("aab")
    before = now()
    status, answer = await operator.ask("a", dry_run=True)
    assert (status, answer["code"]) == (503, "buffer_unavailable")
    assert now() - before <= 2 * ANSWER_SECONDS


@in_virtual_time
async def test_who_buries_an_event_does_not_wait_for_the_disk_for_ever() -> None:
    operator = Operator()
    operator.buffer.commit_seconds = 1000 * ANSWER_SECONDS
    bury = operator.routes.operations["/v1/dead-letters/bury"]
    before = now()
    answer = await bury.ask(Asked(0, {}, b'{"id": "1"}', lambda: None))
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "buffer_unavailable")
    assert now() - before <= 2 * ANSWER_SECONDS
    operator.buffer.commit_seconds = 0.0
    assert (await bury.ask(Asked(0, {}, b'{"id": "1"}', lambda: None))).status == 200
