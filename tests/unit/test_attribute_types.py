"""The guard of rule 5: what it learns and takes back, what it does about a conflict, and its bounds."""

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.attribute import LearnedType, Place, converted
from forwarder.attribute_types.conflicts import MAX_RECORDED_ATTRIBUTES, MAX_SHOWN_ATTRIBUTES
from forwarder.attribute_types.guard import AttributeTypes, Judged, Seen
from forwarder.attribute_types.known import TooManyTypesError
from forwarder.observing.telemetry import Telemetry
from forwarder.settings import ContractSettings
from forwarder.words import CONFLICT_ACTIONS, AttributeType
from tests.fakes.attribute_events import conforming, event

Policy = Literal["observe", "coerce", "strip", "reject"]
POLICIES: tuple[Policy, ...] = ("observe", "coerce", "strip", "reject")
NOW = 1_700_000_000.0
NOW_TEXT = "2023-11-14T22:13:20Z"
PLACE = ("Buy", "Price")


def has_nothing_to_say(judged: Judged | None) -> bool:
    return judged is None or not (judged.learned or judged.conflicts or judged.refused)


class Heard(Telemetry):
    """Telemetry that remembers what it was told of attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.first: list[dict[str, str]] = []
        self.full = 0
        self.crowded: list[tuple[str, int]] = []
        self.unfixed: list[str] = []

    def attribute_conflicts_first(self, *, name: str, attribute: str, expected: str, found: str, action: str) -> None:
        self.first.append(
            {"name": name, "attribute": attribute, "expected": expected, "found": found, "action": action}
        )

    def attribute_types_full(self) -> None:
        self.full += 1

    def attribute_names_too_many(self, *, name: str, most: int) -> None:
        self.crowded.append((name, most))

    def attribute_types_unfixed(self, policy: str) -> None:
        self.unfixed.append(policy)

    def conflicts(self) -> dict[tuple[str, str], int]:
        """Return what the metrics say, without what is 0."""
        found = {}
        for action in CONFLICT_ACTIONS:
            for kind in ("hard", "date"):
                labels = {"action": action, "kind": kind}
                count = self.registry.get_sample_value("growlytics_forwarder_attribute_type_conflicts_total", labels)
                assert count is not None
                found[action, kind] = int(count)
        return {labels: count for labels, count in found.items() if count}


class Guard:
    """The subject, with words for what is done to it."""

    def __init__(
        self,
        policy: Policy = "observe",
        *,
        fixed: Mapping[Place, AttributeType] | None = None,
        max_types: int = 100,
        types_file: str | None = None,
    ) -> None:
        self.telemetry = Heard()
        self.now = NOW
        settings = ContractSettings(attribute_types=policy, max_attribute_types=max_types, types_file=types_file)
        self.types = AttributeTypes(settings, telemetry=self.telemetry, clock=lambda: self.now)
        self.types.fix(fixed or {})

    def judge(self, attributes: object, name: str = "Buy", seen: Seen | None = None) -> tuple[bytes, Judged | None]:
        """Judge an event with these attributes, as JSON or as what becomes JSON; return it as it came, too.

        It is a request of its own, unless `seen` is of one with others.
        """
        body = event(attributes, name)
        return body, self.types.judge(body, conforming(body), seen)

    def accept(self, attributes: object, name: str = "Buy") -> bytes:
        """Have an event accepted, and return its body."""
        body, judged = self.judge(attributes, name)
        if judged is None:
            return body
        assert judged.refused is None
        self.types.settled([judged])
        return judged.body

    def attributes(self, attributes: object) -> object:
        """Return the attributes of an event after it was accepted."""
        return json.loads(self.accept(attributes))["attributes"]

    def types_of(self, name: str = "Buy") -> dict[str, str]:
        return {str(each["attribute"]): str(each["type"]) for _, each in self.types.listed() if each["name"] == name}

    def conflicts_of(self, attribute: str) -> int:
        (found,) = (each["conflicts"] for _, each in self.types.listed() if each["attribute"] == attribute)
        assert isinstance(found, int)
        return found

    def shown(self) -> list[dict[str, Any]]:
        shown = self.types.status()["conflicts"]
        assert isinstance(shown, list)
        return shown


def learned(kind: AttributeType, first_seen: float = NOW) -> LearnedType:
    return LearnedType(kind, first_seen)


# Learning


@pytest.mark.parametrize("policy", POLICIES)
def test_the_first_event_decides_and_the_next_like_it_leaves_nothing_to_say(policy: Policy) -> None:
    guard = Guard(policy)
    attributes = {"s": "x", "n": 1, "f": 1.5, "b": True, "d": "2020-01-20"}
    body, judged = guard.judge(attributes)
    assert judged is not None
    assert judged.body is body
    assert judged.learned[("Buy", "d")] == learned("date")
    guard.types.settled([judged])
    assert guard.types_of() == {"s": "string", "n": "number", "f": "number", "b": "boolean", "d": "date"}
    _, again = guard.judge({"s": "", "n": -1.5, "f": 7, "b": False, "d": "2020-01-20T00:00:00Z"})
    assert has_nothing_to_say(again)
    assert again is not None, "but that they came again is to be noted, once"
    assert guard.judge({"s": "", "n": -1.5, "f": 7, "b": False, "d": "2020-01-20T00:00:00Z"})[1] is None
    assert guard.judge({"n": 3})[1] is None
    assert guard.judge({})[1] is None
    assert guard.telemetry.conflicts() == {}


def test_names_differ_by_case_and_attributes_by_their_events() -> None:
    guard = Guard()
    guard.accept({"Price": 1, "price": "one"})
    guard.accept({"Price": True}, name="buy")
    guard.accept({"Price": "1"}, name="Buy ")
    assert guard.types_of() == {"Price": "number", "price": "string"}
    assert guard.types_of("buy") == {"Price": "boolean"}
    assert guard.telemetry.conflicts() == {}


def test_a_conflict_within_a_request_is_seen_before_anything_of_it_is_accepted() -> None:
    guard = Guard("reject")
    seen = Seen()
    _, first = guard.judge({"Price": 1}, seen=seen)
    guard.now += 10
    _, second = guard.judge({"Price": "1"}, seen=seen)
    assert first is not None
    assert second is not None
    assert first.refused is None
    assert second.refused is not None
    assert "2023-11-14T22:13:20" in second.refused.violations[0].message, "when it was first seen"
    assert guard.telemetry.conflicts() == {}
    guard.types.settled([first, second])
    assert guard.telemetry.conflicts() == {("reject", "hard"): 1}


@pytest.mark.parametrize("policy", ["observe", "coerce", "strip", "reject"])
def test_an_event_that_is_not_accepted_yet_decides_nothing_for_other_requests(policy: Policy) -> None:
    guard = Guard(policy)
    guard.judge({"Price": 1})
    body, other = guard.judge({"Price": "1"})
    assert other is not None
    assert other.refused is None
    assert other.body == body
    assert other.conflicts == []
    guard.types.settled([other])
    assert guard.types_of() == {"Price": "string"}


def test_nothing_is_learned_from_events_that_are_not_accepted() -> None:
    guard = Guard()
    guard.judge({"Price": 1, "Brand": "Nike"})
    assert guard.types_of() == {}
    assert guard.types.remembered() == {}
    assert guard.types.counts()["learned"] == 0


def test_of_two_requests_at_the_same_time_whose_acceptance_is_told_first_is_the_first() -> None:
    guard = Guard("reject")
    _, number = guard.judge({"Price": 1})
    _, text = guard.judge({"Price": "1"})
    assert number is not None
    assert text is not None
    guard.types.settled([text])
    guard.types.settled([number])
    assert guard.types_of() == {"Price": "string"}
    assert guard.telemetry.conflicts() == {("observe", "hard"): 1}, "both were forwarded"


def test_what_several_events_of_a_request_had_is_learned_from_any_that_is_accepted() -> None:
    for index in (0, 1):
        guard = Guard()
        seen = Seen()
        both = [guard.judge({"Price": number}, seen=seen)[1] for number in (1, 2)]
        accepted = both[index]
        assert accepted is not None
        guard.types.settled([accepted])
        assert guard.types_of() == {"Price": "number"}


def test_nothing_is_learned_from_an_event_that_is_refused() -> None:
    guard = Guard("reject")
    guard.accept({"Price": 1})
    _, judged = guard.judge({"Price": "x", "Brand": "Nike"})
    assert judged is not None
    assert judged.refused is not None
    assert judged.learned == {}
    guard.types.settled([judged])
    assert guard.types_of() == {"Price": "number"}


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.dictionaries(st.sampled_from("ab"), st.sampled_from([1, "x", True, "2020-01-01"])), max_size=3),
        st.booleans(),
    ),
    max_size=8,
)


@given(REQUESTS, st.data())
def test_the_types_are_always_those_of_some_accepted_event_whatever_the_order_of_the_answers(
    requests: list[tuple[list[dict[str, Any]], bool]], data: st.DataObject
) -> None:
    guard = Guard()
    pending = []
    for attributes, stored in requests:
        seen = Seen()
        pending.append(
            (attributes, [judged for each in attributes if (judged := guard.judge(each, seen=seen)[1])], stored)
        )
    accepted: dict[str, set[str]] = {}
    for attributes, all_judged, stored in data.draw(st.permutations(pending)):
        if stored:
            guard.types.settled(all_judged)
            for each in attributes:
                for attribute, value in each.items():
                    kind = {int: "number", bool: "boolean", str: "string" if value == "x" else "date"}[type(value)]
                    accepted.setdefault(attribute, set()).add(kind)
    types = guard.types_of()
    assert types.keys() == accepted.keys()
    assert all(kind in accepted[attribute] for attribute, kind in types.items())
    assert guard.types.counts()["learned"] == len(types) == len(guard.types.remembered())


# What is done about a conflict


def test_observe_forwards_every_byte_and_counts() -> None:
    guard = Guard("observe")
    guard.accept({"Price": 1})
    body = '{"Price" :  "3"}'
    assert guard.accept(body) == event(body)
    assert guard.accept({"Price": True}) == event({"Price": True})
    assert guard.telemetry.conflicts() == {("observe", "hard"): 2}
    assert guard.types_of() == {"Price": "number"}


@pytest.mark.parametrize(
    ("first", "then", "sent"),
    [
        (1, "3", 3),
        (1, "3.5", 3.5),
        ("x", 3, "3"),
        ("x", 3.0, "3"),
        ("x", 3.25, "3.25"),
        ("x", True, "true"),
        (True, "false", False),
    ],
)
def test_coerce_converts_what_says_the_same(first: object, then: object, sent: object) -> None:
    guard = Guard("coerce")
    guard.accept({"Price": first})
    assert repr(guard.attributes({"a": 1, "Price": then, "z": "z"})) == repr({"a": 1, "Price": sent, "z": "z"})
    assert guard.telemetry.conflicts() == {("coerce", "hard"): 1}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("1", '"x"'), ("1", '"007"'), ("1", '"3.10"'), ("1", '"1e3"'), ("1", '"-0"'), ("1", '" 3"'), ("1", "true"),
        ("1", '"9007199254740993"'), ("true", "1"), ("true", '"yes"'), ('"x"', "1e21"), ('"x"', "-0"), ('"x"', "-0.0"),
        ('"x"', "9007199254740993"), ('"x"', "123456789012345678901234567890"), ('"2020-01-20"', "3"),
        ('"2020-01-20"', "true"), ("1", '"2020-01-20"'), ("true", '"2020-01-20T00:00:00Z"'),
    ],
)  # fmt: skip
def test_coerce_forwards_every_byte_of_what_it_cannot_convert(first: str, then: str) -> None:
    guard = Guard("coerce")
    guard.accept(f'{{"Price":{first}}}')
    body = f'{{ "Price" :{then} }}'
    assert guard.accept(body) == event(body)
    assert guard.telemetry.conflicts() == {("observe", "hard"): 1}


def test_coerce_converts_what_it_can_of_an_event_and_forwards_the_rest() -> None:
    guard = Guard("coerce")
    guard.accept({"a": 1, "b": 1, "c": "x"})
    assert guard.attributes({"a": "1", "b": "one", "c": 1.0, "d": 1}) == {"a": 1, "b": "one", "c": "1", "d": 1}
    assert guard.telemetry.conflicts() == {("coerce", "hard"): 2, ("observe", "hard"): 1}
    assert guard.types_of() == {"a": "number", "b": "number", "c": "string", "d": "number"}


def test_strip_removes_the_attribute_and_leaves_the_others() -> None:
    guard = Guard("strip")
    guard.accept({"a": 1, "b": True, "c": "x"})
    assert guard.attributes({"a": "1", "b": False, "c": True}) == {"b": False}
    assert guard.telemetry.conflicts() == {("strip", "hard"): 2}


def test_reject_refuses_with_every_conflict_both_types_and_when_the_first_was_seen() -> None:
    guard = Guard("reject", fixed={("Buy", "Total"): "boolean"})
    guard.accept({"Price": 1})
    guard.now += 1000
    _, judged = guard.judge({"Price": "3", "Total": 4, "Brand": "Nike"})
    assert judged is not None
    assert judged.refused is not None
    price, total = judged.refused.violations
    assert (price.code, price.field) == ("attribute_type_conflict", "attributes.Price")
    assert price.message == (
        f"the attribute is a string, but it was a number when it was first seen, at {NOW_TEXT}; "
        "Growlytics would silently ignore it"
    )
    assert (total.code, total.field) == ("attribute_type_conflict", "attributes.Total")
    assert "is a number, but it is fixed as a boolean in contract.types_file" in total.message
    guard.types.settled([judged])
    assert guard.telemetry.conflicts() == {("reject", "hard"): 2}


def test_a_refusal_names_the_first_time_also_of_what_no_event_was_accepted_with_yet() -> None:
    guard = Guard("reject")
    seen = Seen()
    guard.judge({"Price": 1}, seen=seen)
    _, judged = guard.judge({"Price": "1"}, seen=seen)
    assert judged is not None
    assert judged.refused is not None
    assert NOW_TEXT in judged.refused.violations[0].message


def test_a_hostile_name_cannot_play_with_a_terminal_and_no_value_is_shown() -> None:
    guard = Guard("reject")
    name = "\x1b[2J\ud83d" + "x" * 200
    guard.accept({name: 1})
    _, judged = guard.judge({name: "4111-1111"})
    assert judged is not None
    assert judged.refused is not None
    (violation,) = judged.refused.violations
    assert violation.field is not None
    assert violation.field.isprintable()
    assert len(violation.field) < 150
    assert "4111" not in violation.message


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("first", "then"), [("x", "2020-01-20"), ("2020-01-20T19:14:15.000Z", "soon")])
def test_a_date_for_another_string_is_only_counted_whatever_the_policy(policy: Policy, first: str, then: str) -> None:
    for fixed in (False, True):
        guard = Guard(policy, fixed={PLACE: "date" if first != "x" else "string"} if fixed else None)
        guard.accept({"Price": first})
        body = f'{{ "Price":"{then}"}}'
        for _ in range(3):
            assert guard.accept(body) == event(body)
        assert guard.telemetry.conflicts() == {("observe", "date"): 3}
        assert len(guard.telemetry.first) == 1
        assert guard.shown()[0]["action"] == "observe"


@pytest.mark.parametrize("policy", ["coerce", "strip"])
def test_a_date_beside_a_hard_conflict_is_left_alone(policy: Policy) -> None:
    guard = Guard(policy)
    guard.accept({"at": "x", "Price": 1})
    attributes = guard.attributes({"at": "2020-01-20", "Price": "3"})
    assert attributes == {"at": "2020-01-20"} | ({"Price": 3} if policy == "coerce" else {})
    assert guard.telemetry.conflicts() == {("observe", "date"): 1, (policy, "hard"): 1}


def test_a_date_beside_a_refused_attribute_is_no_violation() -> None:
    guard = Guard("reject")
    guard.accept({"at": "x", "Price": 1})
    _, judged = guard.judge({"at": "2020-01-20", "Price": "3"})
    assert judged is not None
    assert judged.refused is not None
    assert [each.field for each in judged.refused.violations] == ["attributes.Price"]
    guard.types.settled([judged])
    assert guard.telemetry.conflicts() == {("observe", "date"): 1, ("reject", "hard"): 1}


# Encoding anew

VALUES = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(["3", "true", "2020-01-20", 10**30, -0.0, "\ud800"]),
)
UNKNOWN = st.recursive(
    VALUES | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
EVENTS = st.tuples(
    st.dictionaries(st.sampled_from("abcdef"), VALUES), st.dictionaries(st.text(max_size=3), UNKNOWN, max_size=3)
)
FIXED: st.SearchStrategy[dict[str, AttributeType]] = st.dictionaries(
    st.sampled_from("abcdef"), st.sampled_from(["string", "number", "boolean", "date"])
)


def exactly(value: object) -> object:
    """Return something that is equal only if the other has the same type, digits and sign everywhere."""
    match value:
        case dict():
            return {name: exactly(each) for name, each in value.items()}
        case list():
            return [exactly(each) for each in value]
        case float():
            return float, value, math.copysign(1, value)
    return type(value), value


@given(EVENTS, FIXED, st.sampled_from(["coerce", "strip"]))
@example(({"a": "3"}, {"u": {"deep": [10**40, -0.0, "\ud800", None]}}), {"a": "number"}, "coerce")
def test_all_but_the_attributes_in_conflict_stays_exactly_as_it_was(
    made: tuple[dict[str, Any], dict[str, Any]], fixed: dict[str, AttributeType], policy: Policy
) -> None:
    attributes, unknown = made
    whole = unknown | {"name": "Buy", "customerId": "c\ud800é", "time": 1700000000000, "attributes": attributes}
    body = json.dumps(whole).encode()
    guard = Guard(policy, fixed={("Buy", attribute): kind for attribute, kind in fixed.items()})
    judged = guard.types.judge(body, conforming(body), None)
    sent = json.loads(body if judged is None else judged.body)
    assert exactly(sent | {"attributes": None}) == exactly(whole | {"attributes": None})
    hard = {each.attribute: each for each in judged.conflicts if each.kind == "hard"} if judged else {}
    untouched = {name: value for name, value in attributes.items() if name not in hard}
    kept = {name: value for name, value in sent["attributes"].items() if name not in hard}
    assert exactly(kept) == exactly(untouched)
    assert list(sent["attributes"]) == [name for name in attributes if name not in hard or policy == "coerce"]
    for name, conflict in hard.items():
        assert conflict.found != conflict.expected == fixed[name]
        if policy == "coerce":
            mended = converted(attributes[name], fixed[name])
            assert conflict.action == ("observe" if mended is None else "coerce")
            assert exactly(sent["attributes"][name]) == exactly(attributes[name] if mended is None else mended)
    if judged is not None and not any(each.action in {"coerce", "strip"} for each in judged.conflicts):
        assert judged.body is body


def test_lone_surrogates_stay_escapes_and_other_text_needs_none() -> None:
    guard = Guard("strip", fixed={PLACE: "number"})
    sent = guard.accept(r'{"Price":"x","a\ud800":"\u00e9\ud83d\ude00\udfff"}')
    assert sent.decode().endswith(r'"attributes":{"a\ud800":"é😀\udfff"}}')


@pytest.mark.parametrize("policy", ["coerce", "strip"])
def test_of_a_repeated_name_only_the_last_is_meant_as_everywhere(policy: Policy) -> None:
    guard = Guard(policy, fixed={PLACE: "number"})
    body = '{"Price":"x","Price":3}'
    assert guard.accept(body) == event(body)
    sent = json.loads(guard.accept('{"Price":5,"Price":"3","a":true}'))["attributes"]
    assert sent == ({"Price": 3, "a": True} if policy == "coerce" else {"a": True})


@pytest.mark.parametrize("policy", ["coerce", "strip"])
@pytest.mark.parametrize("depth", [900, 1020])
def test_what_is_too_deep_to_be_encoded_anew_is_forwarded_as_it_came(policy: Policy, depth: int) -> None:
    guard = Guard(policy, fixed={PLACE: "number"})
    unknown = b"[" * depth + b"]" * depth
    body = event({"Price": "3"})[:-1] + b',"unknown":' + unknown + b"}"
    judged = guard.types.judge(body, conforming(body), None)
    assert judged is not None
    assert judged.refused is None
    if judged.body is body:
        assert [each.action for each in judged.conflicts] == ["observe"]
    else:  # a Python that goes deeper
        assert unknown in judged.body
        assert [each.action for each in judged.conflicts] == [policy]


def test_too_deep_is_a_case_that_happens() -> None:
    guard = Guard("strip", fixed={PLACE: "number"})
    body = event({"Price": "3"})
    too_deep = body[:-1] + b',"unknown":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    judged = guard.types.judge(too_deep, conforming(body), None)
    assert judged is not None
    assert judged.body is too_deep
    assert [each.action for each in judged.conflicts] == ["observe"]


# Fixed types, and what was learned before


def test_fixed_types_come_before_what_events_say_and_before_what_was_learned() -> None:
    guard = Guard(fixed={PLACE: "number"})
    guard.types.load({PLACE: learned("string"), ("Buy", "Brand"): learned("string")})
    assert has_nothing_to_say(guard.judge({"Price": 1, "Brand": "x"})[1])
    guard.accept({"Price": "1"})
    assert guard.telemetry.conflicts() == {("observe", "hard"): 1}
    assert guard.types.remembered() == {("Buy", "Brand"): LearnedType("string", NOW, seen_again=True)}


def test_fixed_types_do_not_count_towards_the_bound() -> None:
    guard = Guard(fixed={("Buy", f"f{number}"): "number" for number in range(50)}, max_types=2)
    guard.accept({"a": 1, "b": 1})
    assert guard.types.counts() == {"policy": "observe", "learned": 2, "fixed": 50, "max": 2, "full": True}


def test_what_was_learned_before_this_process_counts_with_the_time_it_was_seen() -> None:
    guard = Guard("reject")
    guard.types.load({PLACE: learned("number", 0.0), ("Buy", "gone"): None})
    _, judged = guard.judge({"Price": "1"})
    assert judged is not None
    assert judged.refused is not None
    assert "1970-01-01T00:00:00Z" in judged.refused.violations[0].message
    assert guard.types_of() == {"Price": "number"}


def test_not_more_is_loaded_than_may_be_learned() -> None:
    guard = Guard(max_types=3)
    guard.types.load({("Buy", str(number)): learned("number") for number in range(5)})
    assert len(guard.types.remembered()) == 3
    assert guard.telemetry.full == 1


@pytest.mark.parametrize("policy", POLICIES)
def test_the_start_warns_if_learned_types_alone_change_events(policy: Policy) -> None:
    for types_file, told in ((None, [] if policy == "observe" else [policy]), ("types.toml", [])):
        guard = Guard(policy, types_file=types_file)
        assert guard.telemetry.unfixed == []
        guard.types.warn_if_unfixed()
        assert guard.telemetry.unfixed == told


# Bounds


def test_when_it_is_full_what_was_seen_once_makes_room_and_it_says_so() -> None:
    guard = Guard("reject", max_types=2)
    guard.accept({"a": 1})
    guard.accept({"a": 1})
    assert guard.types.status()["full"] is False
    _, judged = guard.judge({"b": 1, "c": 1})
    assert judged is not None
    assert list(judged.learned) == [("Buy", "b")], "c would have it make room at once"
    assert guard.telemetry.full == 1
    guard.types.settled([judged])
    assert guard.types.status()["full"] is True
    guard.accept({"x": 1}, name="Other")
    assert guard.types_of("Buy") == {"a": "number"}
    assert guard.types_of("Other") == {"x": "number"}
    assert guard.telemetry.full == 2
    assert guard.types.status()["not_remembered"] == 2
    _, judged = guard.judge({"a": "x"})
    assert judged is not None
    assert judged.refused is not None, "what is known is still guarded"
    guard.types.forget("Buy", "a")
    guard.accept({"c": 1})
    assert guard.types_of() == {"c": "number"}


@pytest.mark.parametrize("name", ["a" * 257, "é" * 129])
def test_attributes_with_very_long_names_are_not_learned(name: str) -> None:
    guard = Guard()
    assert guard.judge({name: 1})[1] is None
    assert guard.judge({name[:128]: 1})[1] is not None
    assert guard.telemetry.full == 0


def test_conflicts_are_recorded_for_so_many_attributes_and_counted_for_all() -> None:
    count = MAX_RECORDED_ATTRIBUTES + 20
    names = [f"a{number}" for number in range(count)]
    guard = Guard(fixed={("Buy", name): "number" for name in names}, max_types=1)
    for name in names:
        guard.now += 1
        guard.accept({name: "x"})
    assert guard.telemetry.conflicts() == {("observe", "hard"): count}
    assert len(guard.telemetry.first) == count
    assert {each["attribute"] for each in guard.shown()} == set(names[-MAX_SHOWN_ATTRIBUTES:]), "the latest ones"
    assert sum(int(str(each["conflicts"])) for _, each in guard.types.listed()) == MAX_RECORDED_ATTRIBUTES
    assert len(guard.shown()) == MAX_SHOWN_ATTRIBUTES


# What is told


def test_a_conflict_is_logged_once_for_each_attribute_and_kind() -> None:
    guard = Guard()
    guard.accept({"Price": 1, "at": "x"})
    for _ in range(3):
        guard.accept({"Price": "x", "at": "2020-01-20"})
    guard.accept({"Price": True, "at": 7})
    assert [(each["attribute"], each["expected"], each["found"]) for each in guard.telemetry.first] == [
        ("Price", "number", "string"),
        ("at", "string", "date"),
        ("at", "string", "number"),
    ]


def test_the_status_shows_the_latest_conflicts_first_with_names_made_printable() -> None:
    guard = Guard("coerce")
    guard.accept({"a": 1, "\x1b": 1})
    for attributes in ({"a": "x"}, {"\x1b": True}, {"a": "3"}):
        guard.now += 1
        guard.accept(attributes)
    status = guard.types.status()
    assert status == {
        "policy": "coerce",
        "learned": 2,
        "fixed": 0,
        "max": 100,
        "full": False,
        "not_remembered": 0,
        "conflicts": [
            {"name": "Buy", "attribute": "a", "expected": "number", "found": "string", "action": "coerce",
             "conflicts": 2, "last_at": NOW + 3, "learned": True},
            {"name": "Buy", "attribute": "\\x1b", "expected": "number", "found": "boolean", "action": "observe",
             "conflicts": 1, "last_at": NOW + 2, "learned": True},
        ],
    }  # fmt: skip


def test_a_conflict_with_a_fixed_type_is_not_said_to_be_with_a_learned_one() -> None:
    guard = Guard(fixed={("Buy", "f"): "number"})
    guard.accept({"f": "x"})
    conflicts: Any = guard.types.status()["conflicts"]
    assert [each["learned"] for each in conflicts] == [False]


def test_the_list_has_every_type_with_its_origin_and_its_conflicts() -> None:
    guard = Guard(fixed={("Buy", "f"): "date"})
    guard.accept({"a": 1})
    guard.accept({"a": "x", "f": 3})
    assert [each for _, each in guard.types.listed()] == [
        {"name": "Buy", "attribute": "f", "type": "date", "fixed": True, "first_seen": None, "conflicts": 1},
        {"name": "Buy", "attribute": "a", "type": "number", "fixed": False, "first_seen": NOW, "conflicts": 1},
    ]


# What an operator changes


def test_forget_takes_effect_at_once_and_the_next_event_decides() -> None:
    guard = Guard("reject", fixed={("Buy", "f"): "number"})
    guard.accept({"a": 1, "b": 1})
    guard.accept({"a": 1}, name="Other")
    assert guard.types.forget("Buy", "a") == {("Buy", "a"): None}
    assert guard.accept({"a": "x"})
    assert guard.types_of() == {"f": "number", "b": "number", "a": "string"}
    assert guard.types.forget("Buy", None) == {("Buy", "a"): None, ("Buy", "b"): None}
    assert guard.types_of() == {"f": "number"}
    assert guard.types_of("Other") == {"a": "number"}
    assert guard.types.forget("Buy", "f") == {}
    assert guard.types.forget("buy", None) == {}
    guard.types.forget("Other", None)
    assert guard.types._known.usual.keys() == {"Buy"}, "nothing is kept of names that have no types"


def test_an_event_that_matched_what_is_forgotten_meanwhile_does_not_teach_it_again() -> None:
    guard = Guard()
    guard.accept({"Price": 1})
    _, judged = guard.judge({"Price": 2, "Brand": "x"})
    assert judged is not None
    guard.types.forget("Buy", None)
    guard.types.settled([judged])
    assert guard.types_of() == {"Brand": "string"}


def test_conflicts_are_forgotten_with_their_type() -> None:
    guard = Guard()
    guard.accept({"Price": 1})
    guard.accept({"Price": "x"})
    guard.types.forget("Buy", "Price")
    assert guard.shown() == []
    guard.accept({"Price": "x"})
    assert guard.conflicts_of("Price") == 0


def test_import_replaces_what_was_learned_but_nothing_that_is_fixed() -> None:
    guard = Guard(fixed={("Buy", "f"): "number"})
    guard.accept({"same": 1, "other": 1, "gone": 1})
    _, judged = guard.judge({"new": 1, "under way": 1})
    assert judged is not None
    guard.now += 10
    changes = guard.types.imported(
        {
            ("Buy", "same"): "number",
            ("Buy", "other"): "string",
            ("Buy", "new"): "date",
            ("Buy", "f"): "string",
        }
    )
    assert changes == {
        ("Buy", "same"): LearnedType("number", NOW, seen_again=True),
        ("Buy", "other"): LearnedType("string", NOW + 10, seen_again=True),
        ("Buy", "gone"): None,
        ("Buy", "new"): LearnedType("date", NOW + 10, seen_again=True),
    }
    guard.types.settled([judged])
    assert guard.types_of() == {
        "f": "number", "same": "number", "other": "string", "new": "date", "under way": "number",
    }  # fmt: skip
    assert guard.types.remembered()["Buy", "same"] == LearnedType("number", NOW, seen_again=True)


def test_an_import_of_more_than_may_be_learned_changes_nothing() -> None:
    guard = Guard(max_types=2, fixed={("Buy", "f"): "number"})
    guard.accept({"a": 1})
    with pytest.raises(TooManyTypesError):
        guard.types.imported({("Buy", str(number)): "number" for number in range(3)})
    assert guard.types_of() == {"f": "number", "a": "number"}
    guard.types.imported({("Buy", "f"): "number", ("Buy", "b"): "date", ("Buy", "c"): "date"})
    assert guard.types_of() == {"f": "number", "b": "date", "c": "date"}


def test_it_is_told_what_is_fixed() -> None:
    guard = Guard(fixed={("Buy", "f"): "number"})
    guard.accept({"a": 1})
    assert guard.types.is_fixed("Buy", "f")
    assert guard.types.is_fixed("Buy", None)
    assert not guard.types.is_fixed("Buy", "a")
    assert not guard.types.is_fixed("Other", None)


@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), st.sampled_from(["string", "date"])))
def test_what_is_remembered_and_loaded_anew_is_the_same(types: dict[Place, AttributeType]) -> None:
    guard, later = Guard(), Guard()
    guard.types.imported(types)
    later.types.load(guard.types.remembered())
    assert later.types.remembered() == guard.types.remembered()
    assert sorted(map(str, later.types.listed())) == sorted(map(str, guard.types.listed()))
