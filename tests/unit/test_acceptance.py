"""Acceptance: one put for a request, each element counted once, keys claimed while their events are being put."""

import asyncio
import itertools
import json
from collections.abc import Sequence

import pytest

from forwarder import words
from forwarder.attribute import LearnedType
from forwarder.attribute_types.guard import AttributeTypes
from forwarder.buffer.base import NO_NOTES, Full, NeverFits, Notes, PutAnswer, Stored, Unavailable
from forwarder.buffer.memory import MemoryBuffer
from forwarder.event import Event
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.intake.acceptance import Acceptance, Accepted, Acceptor
from forwarder.intake.duplicates import DuplicateKeys, key_of
from forwarder.intake.elements import Elements
from forwarder.intake.judging import ELEMENTS_PER_TURN
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings, IntakeSettings
from tests.fakes.buffers import memory_buffer
from tests.fakes.events import counted

BAD = b'{"name":"N"}'


def event(number: int = 0, **attributes: object) -> bytes:
    content = {"name": "N", "customerId": f"C{number}", "time": 1_700_000_000_000, "attributes": attributes}
    return json.dumps(content).encode()


class ScriptedBuffer(MemoryBuffer):
    """Answers puts when it is told to, or else at once with `answer`."""

    answer: PutAnswer = Stored()
    gate: asyncio.Event | None = None
    puts: list[tuple[list[Event], Notes]]

    async def put(
        self, events: Sequence[Event], *, intake: words.Intake, replayed: Sequence[int] = (), notes: Notes = NO_NOTES
    ) -> PutAnswer:
        self.puts.append((list(events), notes))
        if self.gate is not None:
            await self.gate.wait()
        if not isinstance(self.answer, Stored):
            return self.answer
        return await super().put(events, intake=intake, replayed=replayed, notes=notes)


class Intake:
    def __init__(self, *, attribute_types: str = "observe", fill_missing_time: bool = False) -> None:
        self.telemetry = Telemetry()
        buffer = memory_buffer(self.telemetry, asyncio.get_running_loop().time)
        buffer.__class__ = ScriptedBuffer
        assert isinstance(buffer, ScriptedBuffer)
        self.buffer = buffer
        self.buffer.puts = []
        contract = ContractSettings(
            attribute_types=attribute_types,  # type: ignore[arg-type]  # one of its words
            fill_missing_time=fill_missing_time,
        )
        self.clock = 1e9
        self.keys = DuplicateKeys(IntakeSettings(), clock=lambda: self.clock)
        self.types = AttributeTypes(contract, telemetry=self.telemetry, clock=lambda: self.clock)
        self.acceptor = Acceptor(
            Elements(contract, clock=lambda: self.clock),
            buffer=self.buffer,
            types=self.types,
            keys=self.keys,
            telemetry=self.telemetry,
            ids=itertools.count(1),
            clock=lambda: self.clock,
        )

    async def post(self, *bodies: bytes, keys: Sequence[str | None] = (), patient: bool = False) -> Acceptance:
        padded = [*keys, *[None] * (len(bodies) - len(keys))]
        elements = [self.acceptor.read.line(body, key) for body, key in zip(bodies, padded, strict=True)]
        return await self.acceptor.accept(elements, intake="http", patient=patient)

    async def taken(self, *bodies: bytes, keys: Sequence[str | None] = ()) -> Accepted:
        answer = await self.post(*bodies, keys=keys)
        assert isinstance(answer, Accepted)
        return answer

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Received, accepted, duplicates, rejected; these three are all that is received."""
        received, accepted, duplicates = (
            int(counted(self.telemetry, f"events_{name}_total", **labels))
            for name, labels in (("received", {"intake": "http"}), ("accepted", {"intake": "http"}), ("duplicate", {}))
        )
        assert received == accepted + duplicates + self.telemetry.tally.refused
        assert received == self.telemetry.tally.received
        return received, accepted, duplicates, self.telemetry.tally.refused


@pytest.fixture
async def intake() -> Intake:
    return Intake()


async def test_the_good_of_a_request_is_put_together_and_each_element_is_counted_once(intake: Intake) -> None:
    answer = await intake.taken(event(1), BAD, event(2), b"[", event(3))
    assert (answer.ids, answer.accepted, answer.duplicates) == ([1, None, 2, None, 3], 3, 0)
    assert [index for index, _ in answer.refusals] == [1, 3]
    ((put, _),) = intake.buffer.puts
    assert [one.body for one in put] == [event(1), event(2), event(3)]
    assert intake.counts == (5, 3, 0, 2)


async def test_a_repeated_key_is_a_success_that_is_not_buffered_twice(intake: Intake) -> None:
    first = await intake.taken(event(1), keys=["k"])
    second = await intake.taken(event(1), event(2), keys=["k", "other"])
    assert (first.ids, second.ids, second.accepted, second.duplicates) == ([1], [1, 2], 1, 1)
    assert intake.counts == (3, 2, 1, 0)
    assert intake.buffer.occupancy().events == 2


async def test_a_request_of_duplicates_alone_is_a_success_without_a_put(intake: Intake) -> None:
    await intake.taken(event(1), keys=["k"])
    again = await intake.taken(event(1), keys=["k"])
    assert (again.ids, again.accepted, again.duplicates) == ([1], 0, 1)
    assert len(intake.buffer.puts) == 1


async def test_a_key_that_comes_twice_in_one_request_counts_once(intake: Intake) -> None:
    answer = await intake.taken(event(1), event(2), event(1), keys=["k", "x", "k"])
    assert (answer.ids, answer.accepted, answer.duplicates) == ([1, 2, 1], 2, 1)
    assert intake.counts == (3, 2, 1, 0)


async def test_a_duplicate_waits_for_the_commit_of_the_first(intake: Intake) -> None:
    intake.buffer.gate = asyncio.Event()
    first = asyncio.create_task(intake.taken(event(1), keys=["k"]))
    await asyncio.sleep(0)
    others = [asyncio.create_task(intake.taken(event(1), keys=["k"])) for _ in range(3)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not first.done()
    assert not any(other.done() for other in others)
    assert len(intake.buffer.puts) == 1
    intake.buffer.gate.set()
    assert (await first).accepted == 1
    assert [(await other).duplicates for other in others] == [1, 1, 1]
    assert intake.counts == (4, 1, 3, 0)


@pytest.mark.parametrize("answer", [Full(), NeverFits(), Unavailable()])
async def test_a_post_that_was_not_stored_is_not_remembered_and_who_waited_takes_its_place(
    intake: Intake, answer: PutAnswer
) -> None:
    intake.buffer.gate = asyncio.Event()
    intake.buffer.answer = answer
    first = asyncio.create_task(intake.post(event(1), keys=["k"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(intake.post(event(1), keys=["k"]))
    await asyncio.sleep(0)
    intake.buffer.gate.set()
    assert (await first, await second) == (answer, answer)
    assert len(intake.buffer.puts) == 2, "the second one tried for itself"
    intake.buffer.answer = Stored()
    assert (await intake.taken(event(1), keys=["k"])).accepted == 1
    assert intake.counts == (3, 1, 0, 2)


async def test_a_put_that_is_cancelled_lets_those_go_on_that_wait_for_its_key(intake: Intake) -> None:
    intake.buffer.gate = asyncio.Event()
    first = asyncio.create_task(intake.post(event(1), keys=["k"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(intake.taken(event(1), keys=["k"]))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    intake.buffer.gate.set()
    assert (await second).accepted == 1


async def test_a_refused_event_does_not_take_its_key(intake: Intake) -> None:
    assert (await intake.taken(BAD, keys=["k"])).accepted == 0
    assert (await intake.taken(event(1), keys=["k"])).accepted == 1


async def test_keys_go_with_the_events_and_what_is_forgotten_with_the_next(intake: Intake) -> None:
    await intake.taken(event(1), event(2), event(3), keys=[None, "a"])
    intake.clock += 5000
    await intake.taken(event(4), keys=["b"])
    await intake.taken(event(5))
    notes = [notes for _, notes in intake.buffer.puts]
    assert [(key.event_id, (key.digest, key.event), key.accepted_at) for each in notes for key in each.keys] == [
        (2, key_of("a", b"", json.loads(event(2))), 1e9),
        (4, key_of("b", b"", json.loads(event(4))), 1e9 + 5000),
    ]
    assert [each.keys_forgotten_to for each in notes] == [0, 2, 0], "it is told once"


async def test_who_is_patient_tries_again_uncounted(intake: Intake) -> None:
    for answer in (Full(), Unavailable(), NeverFits()):
        intake.buffer.answer = answer
        assert await intake.post(event(1), BAD, keys=["k"], patient=True) == answer
        assert intake.counts == (0, 0, 0, 0)
    intake.buffer.answer = Stored()
    assert isinstance(await intake.post(event(1), BAD, keys=["k"], patient=True), Accepted)
    assert intake.counts == (2, 1, 0, 1)


async def test_ids_rise_in_the_order_of_the_puts_whoever_waits_for_a_key(intake: Intake) -> None:
    intake.buffer.gate = asyncio.Event()
    posts = [
        asyncio.create_task(intake.post(event(ord(key or "c")), keys=[key]))
        for key in ["a", "a", None, "b", "a", "b", None]
    ]
    await asyncio.sleep(0)
    intake.buffer.gate.set()
    await asyncio.gather(*posts)
    put = [one.id for events, _ in intake.buffer.puts for one in events]
    assert put == sorted(put)
    assert intake.counts == (7, 4, 3, 0)


async def test_what_is_learned_of_attributes_goes_with_the_put_and_is_not_learned_if_it_fails(intake: Intake) -> None:
    intake.buffer.answer = Full()
    await intake.post(event(1, a="text"))
    assert intake.types.remembered() == {}
    intake.buffer.answer = Stored()
    await intake.taken(event(2, a=3), event(3, a="text", b=True))
    _, notes = intake.buffer.puts[-1]
    assert {name: known and known.type for name, known in notes.types.items()} == {
        ("N", "a"): "number",
        ("N", "b"): "boolean",
    }
    assert dict(notes.types) == intake.types.remembered()
    assert counted(intake.telemetry, "attribute_type_conflicts_total", action="observe", kind="hard") == 1


async def test_while_the_buffer_is_full_nothing_grows() -> None:
    intake = Intake()
    intake.buffer.answer = Full()
    for number in range(100):
        await intake.post(event(1, **{f"a{number}": 1}), keys=[f"k{number}"])
    assert intake.types.remembered() == {}
    assert intake.keys.remembered() == []
    assert [len(notes.types) for _, notes in intake.buffer.puts] == [1] * 100


async def test_a_type_that_was_imported_while_a_put_was_under_way_stays() -> None:
    intake = Intake()
    intake.buffer.gate = asyncio.Event()
    post = asyncio.create_task(intake.taken(event(1, a=3)))
    await asyncio.sleep(0)
    intake.types.imported({("N", "a"): "string"})
    intake.buffer.gate.set()
    await post
    assert intake.types.remembered()["N", "a"].type == "string"
    assert counted(intake.telemetry, "attribute_type_conflicts_total", action="observe", kind="hard") == 1


async def test_where_the_window_is_nothing_no_key_is_kept_or_told(intake: Intake) -> None:
    intake.keys = intake.acceptor._keys = DuplicateKeys(
        IntakeSettings(duplicate_window_seconds=0.0), clock=lambda: intake.clock
    )
    for _ in range(2):
        assert (await intake.taken(event(1), keys=["k"])).accepted == 1
    assert not any(notes.keys for _, notes in intake.buffer.puts)


async def test_a_conflict_is_counted_only_once_the_event_is_taken() -> None:
    intake = Intake()
    await intake.taken(event(1, a="text"))
    for answer, conflicts in ((Full(), 0), (Unavailable(), 0), (Stored(), 1)):
        intake.buffer.answer = answer
        await intake.post(event(2, a=3))
        assert counted(intake.telemetry, "attribute_type_conflicts_total", action="observe", kind="hard") == conflicts


def code_of(answer: Accepted, index: int) -> str:
    return dict(answer.refusals)[index].violations[0].code


async def test_a_key_that_comes_again_with_another_event_is_refused_and_its_first_event_stays_known() -> None:
    intake = Intake()
    await intake.taken(event(1), keys=["k"])
    other = await intake.taken(event(2), event(3), BAD, keys=["k", "x"])
    assert (other.ids, other.accepted, other.duplicates) == ([None, 2, None], 1, 0)
    assert [index for index, _ in other.refusals] == [0, 2], "in their order"
    assert code_of(other, 0) == "idempotency_key_reused"
    assert other.reused == {0}
    assert (await intake.taken(event(1), keys=["k"])).duplicates == 1
    assert intake.counts == (5, 2, 1, 2)
    assert counted(intake.telemetry, "events_rejected_total", reason="idempotency_key_reused") == 1


async def test_a_key_that_comes_with_two_events_in_one_request_is_the_first_ones() -> None:
    intake = Intake()
    answer = await intake.taken(event(1), event(2), event(1), keys=["k", "k", "k"])
    assert (answer.ids, answer.accepted, answer.duplicates) == ([1, None, 1], 1, 1)
    assert code_of(answer, 1) == "idempotency_key_reused"
    assert intake.counts == (3, 1, 1, 1)


async def test_a_key_is_free_whose_first_event_the_contract_refused_in_the_same_request() -> None:
    answer = await Intake().taken(BAD, event(2), keys=["k", "k"])
    assert (answer.ids, answer.accepted) == ([None, 1], 1)


async def test_another_event_with_a_key_that_is_being_put_waits_and_is_refused() -> None:
    intake = Intake()
    intake.buffer.gate = asyncio.Event()
    first = asyncio.create_task(intake.taken(event(1), keys=["k"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(intake.taken(event(2), keys=["k"]))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not second.done()
    intake.buffer.gate.set()
    assert (await first).accepted == 1
    assert code_of(await second, 0) == "idempotency_key_reused"
    assert intake.counts == (2, 1, 0, 1)


async def test_another_event_takes_a_key_whose_first_event_could_not_be_stored() -> None:
    intake = Intake()
    intake.buffer.gate = asyncio.Event()
    intake.buffer.answer = Unavailable()
    first = asyncio.create_task(intake.post(event(1), keys=["k"]))
    await asyncio.sleep(0)
    second = asyncio.create_task(intake.post(event(2), keys=["k"]))
    await asyncio.sleep(0)
    intake.buffer.gate.set()
    assert await first == Unavailable()
    await asyncio.sleep(0)
    intake.buffer.answer = Stored()
    answers = [await second, await intake.taken(event(2), keys=["k"])]
    assert sum(answer.accepted for answer in answers if isinstance(answer, Accepted)) == 1


async def test_a_key_is_free_again_after_its_window() -> None:
    intake = Intake()
    await intake.taken(event(1), keys=["k"])
    intake.clock += 3700
    assert (await intake.taken(event(2), keys=["k"])).accepted == 1


async def test_a_repetition_is_one_whatever_the_forwarder_makes_of_the_event() -> None:
    intake = Intake(attribute_types="coerce", fill_missing_time=True)
    without_time = event(1, a="3").replace(b'"time": 1700000000000, ', b"")
    await intake.taken(event(1, a=1))
    await intake.taken(without_time, keys=["k"])
    intake.clock += 60
    assert (await intake.taken(without_time, keys=["k"])).duplicates == 1
    assert json.loads(intake.buffer.puts[1][0][0].body)["attributes"] == {"a": 3}


async def test_of_an_event_whose_key_was_reused_no_conflicts_are_counted_and_nothing_is_learned() -> None:
    intake = Intake()
    await intake.taken(event(1, a="text"), keys=["k"])
    await intake.taken(event(1, a=3, b=1), event(2, a=4), keys=["k", None])
    assert counted(intake.telemetry, "attribute_type_conflicts_total", action="observe", kind="hard") == 1
    await intake.taken(event(3, b=True))
    assert counted(intake.telemetry, "attribute_type_conflicts_total", action="observe", kind="hard") == 1
    assert intake.types.remembered().keys() == {("N", "a"), ("N", "b")}


async def test_an_event_that_the_guard_refuses_fails_alone() -> None:
    intake = Intake(attribute_types="reject")
    answer = await intake.taken(event(1, a="text"), event(2, a=3), event(3, a="more"))
    assert (answer.ids, answer.accepted) == ([1, None, 2], 2)
    ((index, refused),) = answer.refusals
    assert (index, refused.violations[0].code) == (1, "attribute_type_conflict")
    assert counted(intake.telemetry, "events_rejected_total", reason="attribute_type_conflict") == 1
    assert intake.counts == (3, 2, 0, 1)


async def test_that_an_attribute_came_again_is_noted_once_with_the_event_or_where_that_fails_with_a_later_one() -> None:
    intake = Intake()
    await intake.taken(event(1, a=1))
    intake.buffer.answer = Unavailable()
    await intake.post(event(2, a=1))
    intake.buffer.answer = Stored()
    await intake.taken(event(3, a=1, b=1))
    await intake.taken(event(4, a=1, b=1))
    await intake.taken(event(5, a=1, b=1))
    again = {attribute: LearnedType("number", 1e9, seen_again=True) for attribute in "ab"}
    changed = [{place[1]: each for place, each in notes.changed_types.items()} for _, notes in intake.buffer.puts]
    assert changed == [{}, {"a": again["a"]}, {"a": again["a"]}, {"b": again["b"]}, {}]


# Whole bodies


def batch(*elements: bytes) -> bytes:
    return b"[%b]" % b",".join(elements)


@pytest.mark.parametrize("number", [1, 300])
@pytest.mark.parametrize("end", [b",]", b",{]", b"", b'}"]', b',"\xff"]', b"] ]"])
async def test_of_a_body_that_is_refused_as_a_whole_nothing_is_put_learned_or_counted(number: int, end: bytes) -> None:
    intake = Intake()
    await intake.taken(event(1, a=1))
    known = intake.types.status(), intake.types.changes()
    body = b"[" + b",".join(event(number, a=1, **{f"b{number}": 1}) for number in range(number)) + b"," + BAD + end
    for key in (None, "k"):
        with pytest.raises(MalformedJsonError):
            await intake.acceptor.accept_body(body, key, intake="http", is_lines=False)
    assert intake.counts == (1, 1, 0, 0)
    assert len(intake.buffer.puts) == 1
    assert (intake.types.status(), intake.types.changes()) == known
    assert intake.keys.remembered() == []
    good = body[: body.rindex(BAD) - 1] + b"]"
    answer = await intake.acceptor.accept_body(good, "k", intake="http", is_lines=False)
    assert isinstance(answer, Accepted)
    assert answer.accepted == number


@pytest.mark.parametrize("is_lines", [False, True])
async def test_a_large_body_is_taken_as_a_small_one_is(*, is_lines: bool) -> None:
    intake = Intake(attribute_types="reject")
    elements = [BAD if number % 7 == 0 else event(number, a="x" if number % 5 == 0 else 1) for number in range(1, 2001)]
    body = b"\n".join(elements) if is_lines else batch(*elements)
    answer = await intake.acceptor.accept_body(body, None, intake="http", is_lines=is_lines)
    assert isinstance(answer, Accepted)
    refused = [index for index, event_id in enumerate(answer.ids) if event_id is None]
    assert refused == [number - 1 for number in range(1, 2001) if number % 7 == 0 or number % 5 == 0]
    assert [index for index, _ in answer.refusals] == sorted(index for index, _ in answer.refusals)
    ((put, _),) = intake.buffer.puts
    assert [one.body for one in put] == [each for index, each in enumerate(elements) if index not in set(refused)]
    assert intake.counts == (2000, 2000 - len(refused), 0, len(refused))


async def test_large_bodies_are_read_one_after_the_other_and_small_ones_meanwhile() -> None:
    intake = Intake()
    done: list[str] = []

    async def post(name: str, body: bytes) -> None:
        assert isinstance(await intake.acceptor.accept_body(body, None, intake="http", is_lines=False), Accepted)
        done.append(name)

    many = batch(*[b"1"] * 2000)
    large = batch(*[event(1)] * 2000)
    small = batch(*[event(1)] * 200)
    tasks = [
        asyncio.create_task(post(name, body))
        for name, body in (("first", large), ("second", many), ("third", large), ("small", small))
    ]
    await asyncio.gather(*tasks)
    assert done == ["small", "first", "second", "third"]


async def test_a_large_body_that_is_given_up_lets_the_next_one_be_read() -> None:
    intake = Intake()
    body = batch(*[event(1)] * 2000)
    first, second = (
        asyncio.create_task(intake.acceptor.accept_body(body, None, intake="http", is_lines=False)) for _ in range(2)
    )
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    assert isinstance(await second, Accepted)
    assert intake.counts == (2000, 2000, 0, 0)


async def test_others_get_their_turn_while_a_large_body_is_read() -> None:
    intake = Intake()
    body = batch(*[b"1"] * 10 * ELEMENTS_PER_TURN)
    reading = asyncio.create_task(intake.acceptor.accept_body(body, None, intake="http", is_lines=False))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 10


async def test_what_the_guard_changes_is_what_is_put() -> None:
    intake = Intake(attribute_types="coerce")
    await intake.taken(event(1, a=1), event(2, a="3"))
    ((put, _),) = intake.buffer.puts
    assert json.loads(put[1].body)["attributes"] == {"a": 3}
