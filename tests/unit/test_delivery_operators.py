"""What operators ask of delivery, in virtual time: to bury an event wherever it is, and to let go of an erased customer."""

import asyncio
from typing import Any

import pytest

from forwarder.buffer.fates import DeadLettered, Fate, HandedOver
from forwarder.delivery.worker import Progress
from forwarder.growlytics.outcome import DELIVERED, Blocked, Failure, Outcome, Rejected, Retryable
from tests.fakes.posts import Attempt, ScriptedPost
from tests.fakes.virtual_time import in_virtual_time
from tests.unit.test_delivery import Running, delivering, ordered

NOTHING = Progress(parked=0, in_flight=0, attempting=0)
BUSY = Retryable("status_5xx", maybe_delivered=False, failure=Failure("status", "503", "a:443", 503))


def fate_of(running: Running, event_id: int) -> Fate:
    fates = [fate for acked, fate in running.buffer.acked if acked == event_id]
    assert len(fates) == 1
    return fates[0]


def first_fails(outcome: Outcome) -> Any:
    return lambda attempt: outcome if attempt.event == 1 else DELIVERED


@pytest.mark.parametrize("outcome", [BUSY, Blocked(403, "refusal")])
@in_virtual_time
async def test_a_buried_event_that_is_parked_is_a_dead_letter_and_its_lane_goes_on(outcome: Outcome) -> None:
    post = ScriptedPost(first_fails(outcome))
    async with delivering(post, order="customer", retry_seconds=(1000.0, 1000.0)) as running:
        await running.put(running.make.of("aab"))
        await running.until(lambda: running.delivery.progress().parked)
        assert await running.delivery.bury(1, dry_run=True) == "buried"
        assert await running.delivery.bury(1) == "buried"
        await running.until_empty(seconds=10)
        fate = fate_of(running, 1)
        assert isinstance(fate, DeadLettered)
        assert (fate.reason, fate.attempts) == ("rejected", ordered(post.attempts).count(1))
        assert fate.status == (403 if isinstance(outcome, Blocked) else None), "as far as it is known"
        assert fate_of(running, 2) == HandedOver()
        await running.until(lambda: running.delivery.progress() == NOTHING, seconds=10)
        assert await running.delivery.bury(1) is None


@pytest.mark.parametrize("outcome", [BUSY, Blocked(403, "refusal", answer=b"why"), Rejected(422, b"why")])
@pytest.mark.parametrize("order", ["customer", "none"])
@in_virtual_time
async def test_an_event_that_is_buried_while_it_is_sent_is_a_dead_letter_with_what_came_of_that(
    outcome: Outcome, order: str
) -> None:
    post = ScriptedPost(first_fails(outcome), seconds=10.0)
    async with delivering(post, order=order, retry_seconds=(1000.0, 1000.0)) as running:
        await running.put(running.make.of("aa"))
        await asyncio.sleep(1.0)
        assert await running.delivery.bury(1, dry_run=True) == "after_attempt"
        assert await running.delivery.bury(1) == "after_attempt"
        assert not running.buffer.acked
        await running.until_empty(seconds=100)
        fate = fate_of(running, 1)
        assert isinstance(fate, DeadLettered)
        assert (fate.reason, fate.attempts) == ("rejected", 1)
        assert (fate.status, fate.answer) == {
            Retryable: (503, b""), Blocked: (403, b"why"), Rejected: (422, b"why"),
        }[type(outcome)]  # fmt: skip
        assert ordered(post.attempts).count(1) == 1
        await running.until(lambda: running.delivery.progress() == NOTHING, seconds=10)


@in_virtual_time
async def test_an_event_that_arrives_after_all_is_delivered_and_not_buried() -> None:
    async with delivering(ScriptedPost(seconds=10.0)) as running:
        await running.put(running.make.of("a"))
        await asyncio.sleep(1.0)
        assert await running.delivery.bury(1) == "after_attempt"
        await running.until_empty(seconds=100)
        assert fate_of(running, 1) == HandedOver()


@pytest.mark.parametrize("fails", [0, 1])
@in_virtual_time
async def test_an_event_that_is_buried_while_it_is_sent_and_goes_back_to_the_buffer_is_buried_there(fails: int) -> None:
    """If the disk cannot be read then, delivery goes on, and the event is buried after a later attempt."""
    post = ScriptedPost(lambda attempt: BUSY if attempt.event == 9 or attempt.number < 10 else DELIVERED, seconds=10.0)
    async with delivering(post, order="customer", max_concurrency=1, retry_seconds=(1.0, 1.0)) as running:
        await running.put(running.make.of("a" * 8 + "b" * 8))
        await running.until(lambda: running.delivery.progress().parked)
        await running.until(lambda: running.delivery.under_way("b"))
        assert await running.delivery.bury(9) == "after_attempt"
        running.buffer.fails_to_pull = fails
        await running.until(lambda: running.buffer.released)
        await running.until(lambda: running.buffer.dead_letters.events)
        fate = fate_of(running, 9)
        assert isinstance(fate, DeadLettered)
        assert (fate.reason, fate.status) == ("rejected", 503)
        assert running.buffer.fails_to_pull == 0


@in_virtual_time
async def test_an_event_that_waits_in_the_buffer_is_buried_before_delivery_takes_it() -> None:
    async with delivering(ScriptedPost(seconds=10.0), order="customer", max_concurrency=1) as running:
        await running.put(running.make.of("a" * 200))
        await asyncio.sleep(1.0)
        for event_id in (200, 2):
            assert await running.delivery.bury(event_id, dry_run=True) == "buried"
            assert await running.delivery.bury(event_id) == "buried"
        assert await running.delivery.bury(999, dry_run=True) is None
        await running.until_empty(seconds=10_000)
        assert [event for event, fate in running.buffer.acked if fate != HandedOver()] == [200, 2]
        assert ordered(running.post.attempts) == [1, *range(3, 200)]


@in_virtual_time
async def test_what_waits_of_an_erased_customer_is_not_tried_and_what_was_sent_is_not_tried_again() -> None:
    def script(attempt: Attempt) -> Outcome:
        return BUSY if attempt.event in (1, 2) else DELIVERED

    post = ScriptedPost(script, seconds=10.0)
    async with delivering(post, order="customer", retry_seconds=(1.0, 1.0)) as running:
        await running.put(running.make.of("aaabbbc"))
        await asyncio.sleep(1.0)
        found = await running.buffer.erase("a")
        assert (found.events, found.in_flight) == (2, 1)
        assert running.delivery.under_way("a") == 1
        await running.until_empty(seconds=1000)
        assert ordered(post.attempts) == [1, 4, 7, 5, 6]
        assert running.buffer.ledger().dropped["erased"] == 3
        await running.until(lambda: running.delivery.progress() == NOTHING, seconds=10)
        await running.put(running.make.of("a"))
        await running.until_empty(seconds=1000)
        assert ordered(post.attempts)[-1] == 8, "what comes later is delivered"


@in_virtual_time
async def test_a_customer_who_is_erased_while_many_are_retried_leaves_nothing_behind() -> None:
    """Whatever was released, deferred or parked: all counts are 0 at the end."""
    post = ScriptedPost(lambda attempt: BUSY if attempt.number < 30 else DELIVERED, seconds=0.5)
    async with delivering(post, order="customer", max_concurrency=2, retry_seconds=(0.1, 5.0)) as running:
        await running.put(running.make.of("abcde" * 40))
        for customer in "abc":
            await asyncio.sleep(3.0)
            await running.buffer.erase(customer)
        await running.until_empty(seconds=100_000)
        ledger = running.buffer.ledger()
        assert ledger.delivered + ledger.dropped["erased"] == 200
        assert ledger.dropped["erased"] > 0
        await running.until(lambda: running.delivery.progress() == NOTHING, seconds=10)
        assert running.delivery.under_way("a") == 0
