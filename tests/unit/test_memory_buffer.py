"""What only the buffer in memory has to prove: the contract tests have everything else."""

import asyncio

import pytest

from forwarder.buffer.base import Stored
from forwarder.buffer.fates import DeadLettered
from forwarder.database import dead_letters
from forwarder.observing.telemetry import Telemetry
from tests.fakes.buffers import memory_buffer
from tests.fakes.events import EventMaker

REJECTED = DeadLettered("rejected", 422, b"no", attempts=1, first_attempt_at=1.0, last_attempt_at=1.0)


async def test_a_bug_in_writing_a_dead_letter_ends_what_serves_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object, **__: object) -> int:
        raise LookupError("the test says so")

    monkeypatch.setattr(dead_letters, "insert", bug)
    buffer = memory_buffer(Telemetry(), asyncio.get_running_loop().time)
    serving = asyncio.create_task(buffer.serve(), name="buffer")
    assert await buffer.put(EventMaker().of("ab"), intake="http") == Stored()
    first, second = buffer.take_ready(max_events=2, max_bytes=1000)
    buffer.begin_ack(first, REJECTED)
    with pytest.raises(LookupError):
        await buffer.ack([(second, REJECTED)])
    with pytest.raises(LookupError):
        await serving
    assert buffer.ledger().buffered == 2


async def test_an_event_that_leaves_twice_ends_what_serves_and_the_close_does_not_wait_for_it() -> None:
    """It becomes a dead letter twice, which is a bug of whoever acks."""
    buffer = memory_buffer(Telemetry(), asyncio.get_running_loop().time)
    serving = asyncio.create_task(buffer.serve(), name="buffer")
    assert await buffer.put(EventMaker().of("a"), intake="http") == Stored()
    (event,) = buffer.take_ready(max_events=1, max_bytes=1000)
    buffer.begin_ack(event, REJECTED)
    buffer.begin_ack(event, REJECTED)
    with pytest.raises(KeyError):
        await asyncio.wait_for(serving, 10)
    await asyncio.wait_for(buffer.close(), 10)
    assert buffer.ledger().unaccounted == 0
