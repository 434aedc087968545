"""Whose turn it is among requests of one kind that a full buffer refused, and when nobody waits any more."""

import pytest
from msgspec.structs import replace

from forwarder.buffer.base import Full
from forwarder.buffer.turns import MAX_RETRY_AFTER_SECONDS, MAX_TURNS, SLACK_SECONDS, Turns
from forwarder.settings import BufferSettings
from tests.fakes.events import EventMaker

ROOM = 1 << 30
"""In bytes: events are what is full."""


class Asked:
    """Requests to one buffer; `free` events are free."""

    def __init__(self, *, max_events: int = 1000) -> None:
        self.now = 0.0
        self.free = 0
        self.turns = Turns(BufferSettings(max_events=max_events, max_bytes=ROOM), lambda: self.now)
        self._make = EventMaker()

    def gets_in(self, customer: str, events: int) -> bool:
        """Ask for a request, which is known by its customer and its size."""
        made = [replace(self._make(customer), name="n") for _ in range(events)]
        full = self.turns.ask(made, 20 * events, intake="http", free=(self.free, ROOM - 1))
        assert full is None or isinstance(full, Full)
        self.free -= 0 if full else events
        return full is None


@pytest.fixture
def asked() -> Asked:
    """One of 70 events was refused, for which there is room now."""
    asked = Asked()
    assert not asked.gets_in("first", 70)
    asked.free = 70
    return asked


def test_who_was_refused_first_gets_in_when_there_is_room_for_it(asked: Asked) -> None:
    assert asked.gets_in("first", 70)


def test_a_smaller_request_that_comes_later_leaves_the_first_its_turn(asked: Asked) -> None:
    assert not asked.gets_in("smaller", 65)
    assert asked.gets_in("first", 70)


def test_a_smaller_request_has_what_is_kept_beyond_the_first_turn(asked: Asked) -> None:
    asked.free = 135
    assert asked.gets_in("smaller", 65)
    assert asked.gets_in("first", 70)


def test_a_request_that_was_refused_later_leaves_the_first_its_turn_although_it_is_larger(asked: Asked) -> None:
    assert not asked.gets_in("larger", 100)
    asked.free = 100
    assert not asked.gets_in("larger", 100)
    assert asked.gets_in("first", 70)


@pytest.mark.parametrize("events", [70, 100])
def test_a_request_no_smaller_than_the_first_that_was_never_refused_gets_in_where_there_is_room(
    asked: Asked, events: int
) -> None:
    """It comes as it is the first one's turn, and has no turn of its own to wait for."""
    asked.free = events
    assert asked.gets_in("new", events)


def test_a_turn_is_kept_as_long_as_its_request_comes_again(asked: Asked) -> None:
    asked.free = 0
    for _ in range(5):
        asked.now += 1.5
        assert not asked.gets_in("first", 70)
    asked.now += 1.5
    asked.free = 70
    assert not asked.gets_in("smaller", 65)


def test_only_so_many_have_turns_and_later_ones_take_what_they_find() -> None:
    asked = Asked()
    for number in range(MAX_TURNS + 1):
        assert not asked.gets_in(f"customer {number}", 70)
    asked.free = 70
    assert not asked.gets_in(f"customer {MAX_TURNS - 1}", 70)
    assert asked.gets_in(f"customer {MAX_TURNS}", 70)


def test_nobody_waits_before_a_request_is_refused_nor_after_its_time(asked: Asked) -> None:
    assert not Asked().turns.waiting
    assert asked.turns.waiting
    asked.now = MAX_RETRY_AFTER_SECONDS + SLACK_SECONDS + 1
    assert asked.gets_in("other", 1)
    assert not asked.turns.waiting
