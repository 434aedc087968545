"""The apps' own keys: remembered exactly within the window and the bound, claimed while an event is being put."""

import asyncio
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forwarder.event import DuplicateKey
from forwarder.growlytics import json_text
from forwarder.intake.duplicates import DuplicateKeys, Key, key_of
from forwarder.settings import IntakeSettings


class Clock:
    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def make(clock: Clock, *, window: float = 100.0, most: int = 1000) -> DuplicateKeys:
    return DuplicateKeys(IntakeSettings(duplicate_window_seconds=window, duplicate_max_keys=most), clock=clock)


def named(text: str, event: object = None) -> Key:
    return key_of(text, b"", event)


async def remember(keys: DuplicateKeys, **ids: int) -> None:
    new = {named(key): event_id for key, event_id in ids.items()}
    keys.claim(new)
    keys.settle(new)


async def test_a_key_is_claimed_while_its_event_is_put_and_known_after() -> None:
    keys = make(Clock())
    key = named("k")
    assert keys.find(key) is None
    keys.claim([key])
    claim = keys.find(key)
    assert isinstance(claim, asyncio.Future)
    assert not claim.done()
    keys.settle({key: 7})
    assert claim.done()
    assert keys.find(key) == 7


async def test_a_key_whose_event_was_not_stored_is_not_remembered() -> None:
    keys = make(Clock())
    key = named("k")
    keys.claim([key])
    claim = keys.find(key)
    assert isinstance(claim, asyncio.Future)
    keys.abandon([key])
    assert claim.done()
    assert keys.find(key) is None
    assert keys.remembered() == []


async def test_a_key_is_known_to_the_end_of_its_window_and_not_long_after() -> None:
    clock = Clock()
    keys = make(clock)
    for number in range(200):
        clock.now += 0.3
        await remember(keys, **{f"k{number}": number + 1})
        keys.forget_old()
        assert keys.find(named(f"k{number}")) == number + 1
    for number in range(200):
        clock.now = 1e9 + 0.3 * (number + 1) + 99.9
        keys.forget_old()
        assert keys.find(named(f"k{number}")) == number + 1
        if number >= 4:
            assert keys.find(named(f"k{number - 4}")) is None, "it was remembered 101.1 s ago"
            assert keys.forgotten_to >= number - 3


async def test_beyond_the_bound_the_oldest_are_forgotten() -> None:
    keys = make(Clock(), most=3)
    await remember(keys, a=1, b=2)
    await remember(keys, c=3, d=4, e=5)
    assert [keys.find(named(key)) for key in "abcde"] == [None, None, 3, 4, 5]
    assert keys.forgotten_to == 2


async def test_a_window_of_nothing_is_off() -> None:
    keys = make(Clock(), window=0.0)
    await remember(keys, a=1)
    assert keys.find(named("a")) is None
    assert keys.remembered() == []


async def test_what_was_remembered_is_loaded_again_without_what_is_too_old_by_then() -> None:
    clock = Clock()
    before = make(clock)
    await remember(before, a=1, b=2)
    clock.now += 60
    await remember(before, c=3)
    clock.now += 50
    after = make(clock)
    after.load([*before.remembered(), DuplicateKey(3, named("c").digest, clock.now)])
    after.forget_old()
    assert [after.find(named(key)) for key in "abc"] == [None, None, 3]
    assert after.forgotten_to == 2
    assert [key.event_id for key in after.remembered()] == [3]


def test_keys_differ_whatever_is_in_them() -> None:
    texts = ["", "k", "K", "k ", "\ud800", "é", "e\u0301", "x" * 100_000]
    assert len({named(text).digest for text in texts}) == len(texts)


async def test_a_key_is_told_apart_that_comes_with_another_event() -> None:
    keys = make(Clock())
    await remember(keys, a=1)
    assert keys.find(named("a")) == 1
    assert keys.find(named("a", "another")) == "other"
    assert keys.find(named("b", "another")) is None


async def test_of_a_key_that_version_0_1_0_kept_any_event_is_a_repetition_also_after_another_restart() -> None:
    keys = make(Clock())
    keys.load([DuplicateKey(7, named("a").digest, 1e9)])
    assert [keys.find(named("a", event)) for event in ("one", "another")] == [7, 7]
    assert keys.remembered() == [DuplicateKey(7, named("a").digest, 1e9, None)]


SAME = b'{"name":"N","attributes":{"a":1.5,"b":"x"}}'


@pytest.mark.parametrize(
    ("raw", "is_same"),
    [
        (SAME, True),
        (b' {\n "name" : "N", "attributes":{"a":1.5,"b":"x"} }\r\n', True),
        (b'{"attributes":{"b":"x","a":1.5},"name":"N"}', True),
        (b'{"name":"\\u004e","attributes":{"a":1.50,"b":"x"}}', True),
        (b'{"name":"n","attributes":{"a":1.5,"b":"x"}}', False),
        (b'{"name":"N","attributes":{"a":1.5,"b":"x "}}', False),
        (b'{"name":"N","attributes":{"a":"1.5","b":"x"}}', False),
        (b'{"name":"N","attributes":{"a":1.5}}', False),
        (b'{"name":"N","attributes":{"a":1.5,"b":"x"},"more":null}', False),
        (b'{"name":"N","attributes":{"a":1.5,"b":"\\ud800"}}', False),
    ],
)
def test_what_says_the_same_is_the_same_event_however_it_is_written(raw: bytes, is_same: bool) -> None:
    event = key_of("k", raw, json_text.parse(raw)).event
    assert (event == key_of("k", SAME, json_text.parse(SAME)).event) is is_same
    assert 0 < event < 1 << 64


@pytest.mark.parametrize(
    "text",
    [b'{"a":"\\ud800"}', b'{"a":' + b"[" * 600 + b"]" * 600 + b"}", b'{"a":1e400}'],
    ids=["surrogate", "deep", "far"],
)
def test_an_event_that_cannot_be_written_anew_is_known_by_its_bytes(text: bytes) -> None:
    first, again, other = (
        key_of("k", raw, json_text.parse(raw)) for raw in (text, text + b"\n", text[:-1] + b',"b":1}')
    )
    assert first == again != other


class Machine(RuleBasedStateMachine):
    """Against a dict with a time for each key. The window is a hundred spans, so a key may be known a span longer."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.keys = make(self.clock, window=100.0, most=10)
        self.model: OrderedDict[Key, tuple[int, float]] = OrderedDict()
        self.next_id = 1

    @rule(keys=st.sets(st.integers(0, 30), min_size=1, max_size=12))
    def post(self, keys: set[int]) -> None:
        self.keys.forget_old()
        new = {}
        for key in keys:
            if not isinstance(self.keys.find(named(str(key))), int):
                new[named(str(key))] = self.next_id
                self.next_id += 1
        asyncio.run(self.settle(new))
        for one, event_id in new.items():
            self.model[one] = (event_id, self.clock.now)
            self.model.move_to_end(one)
        while len(self.model) > 10:
            self.model.popitem(last=False)

    async def settle(self, new: dict[Key, int]) -> None:
        self.keys.claim(new)
        self.keys.settle(new)

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.9, 1.0, 7.0, 49.0, 99.0, 101.5]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def restart(self) -> None:
        kept = self.keys.remembered()
        self.keys = make(self.clock, window=100.0, most=10)
        self.keys.load(kept)

    @invariant()
    def knows_what_it_must_and_no_more(self) -> None:
        self.keys.forget_old()
        for key, (event_id, at) in self.model.items():
            found = self.keys.find(key)
            age = self.clock.now - at
            if age < 100:
                assert found == event_id
            if age > 101:
                assert found is None
        assert len(self.keys.remembered()) <= 10
        for kept in self.keys.remembered():
            assert kept.event
            assert self.keys.find(Key(kept.digest, kept.event)) == kept.event_id
            assert self.keys.find(Key(kept.digest, kept.event ^ 1)) == "other"


TestMachine = Machine.TestCase


@given(st.lists(st.tuples(st.floats(0, 1000), st.integers(1, 5)), max_size=30))
def test_forgotten_to_never_covers_a_key_that_is_known(posts: list[tuple[float, int]]) -> None:
    clock = Clock()
    keys = make(clock, most=7)

    async def run() -> None:
        event_id = 0
        for at, count in sorted(posts):
            clock.now = 1e9 + at
            new = {named(f"{event_id + number}"): event_id + number + 1 for number in range(count)}
            event_id += count
            keys.claim(new)
            keys.settle(new)
            assert all(key.event_id > keys.forgotten_to for key in keys.remembered())

    asyncio.run(run())


@pytest.mark.parametrize("back", [10.0, 1e6])
async def test_a_clock_that_goes_back_loses_no_key(back: float) -> None:
    clock = Clock()
    keys = make(clock)
    await remember(keys, a=1)
    clock.now -= back
    await remember(keys, b=2)
    keys.forget_old()
    assert [keys.find(named(key)) for key in "ab"] == [1, 2]
