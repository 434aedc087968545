"""What every Buffer promises of pages of dead letters of which only some are meant."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from forwarder.buffer.base import Buffer
from forwarder.event import Event, LetterFilter
from forwarder.settings import DeadLettersSettings
from tests.contract.conftest import OpenBuffer
from tests.contract.steps import REJECTED, ack, put, take_all
from tests.fakes.events import EventMaker

MANY = 12_000
"""More than are looked at for one page."""


async def die(buffer: Buffer, events: Sequence[Event]) -> None:
    """Make dead letters of events; the last attempt of each is at the time of its id."""
    await put(buffer, events)
    for event in await take_all(buffer):
        await ack(buffer, [event], replace(REJECTED, last_attempt_at=float(event.id)))


async def all_meant(buffer: Buffer, only: LetterFilter, *, max_letters: int = 1000) -> list[int]:
    found: list[int] = []
    after: int | None = 0
    while after is not None:
        page = await buffer.dead_letters.page(after_place=after, max_letters=max_letters, only=only)
        assert page.next_place is None or page.next_place > after
        assert len(page.letters) <= max_letters
        found += (letter.event.id for letter in page.letters)
        after = page.next_place
    return found


@pytest.mark.parametrize("max_letters", [1, 1000])
@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ({}, [1, 2, 3, 4]),
        ({"customer": "a"}, [1, 4]),
        ({"customer": "A"}, []),
        ({"customer": "a' OR 1=1 --"}, []),
        ({"customer": ""}, []),
        ({"name": "event 3"}, [3]),
        ({"name": "event 3", "customer": "a"}, []),
        ({"reason": "rejected", "since": 3.0}, [3, 4]),
        ({"reason": "expired"}, []),
        ({"since": 4.5}, []),
        ({"customer": "\ud800"}, [2]),
    ],
)
async def test_only_those_that_are_meant_come_the_oldest_first(
    buffer: Buffer, make: EventMaker, only: dict[str, Any], expected: list[int], max_letters: int
) -> None:
    await die(buffer, make.of(["a", "\ud800", "b", "a"]))
    assert await all_meant(buffer, LetterFilter(**only), max_letters=max_letters) == expected


async def test_one_that_is_meant_is_found_behind_very_many_that_are_not(
    open_buffer: OpenBuffer, make: EventMaker
) -> None:
    buffer = await open_buffer(
        max_events=2 * MANY, dead_letters=DeadLettersSettings(max_events=2 * MANY, max_bytes=1 << 30)
    )
    await put(buffer, make.of([*("b" * MANY), "a"]))
    await ack(buffer, await take_all(buffer), REJECTED)
    assert await all_meant(buffer, LetterFilter(customer="a")) == [MANY + 1]
