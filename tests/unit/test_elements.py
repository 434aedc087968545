"""What is posted, split into elements: raw bytes, keys, times."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, Refused
from forwarder.growlytics.json_text import MalformedJsonError
from forwarder.intake.duplicates import Key, key_of
from forwarder.intake.elements import Element, Elements
from forwarder.settings import ContractSettings

NOW = 1_700_000_000.5
GOOD = b'{ "name":"N" , "customerId":"C", "time":1700000000000,"attributes":{"a":1.50,"n":12345678901234567890123} }'
WITHOUT_TIME = b' {"name":"N","customerId":"C","attributes":{}}'


def elements(*, fill: bool = False) -> Elements:
    return Elements(ContractSettings(fill_missing_time=fill), clock=lambda: NOW)


def key(text: str) -> Key:
    return key_of(text, GOOD, json_text.parse(GOOD))


def code(element: Element) -> str:
    assert isinstance(element[1], Refused)
    return element[1].violations[0].code


def is_good(element: Element) -> bool:
    return isinstance(element[1], Conforming)


def test_an_event_keeps_its_bytes_however_it_comes() -> None:
    read = elements()
    wrapped = b'{"idempotency_key": "k", "event" :%b}' % GOOD
    assert [read.one(GOOD)[0], read.line(GOOD)[0], read.line(wrapped)[0]] == [GOOD] * 3
    assert [raw for raw, _, _ in read.json(b"[%b , %b]" % (GOOD, wrapped)).elements] == [GOOD, GOOD]
    assert [raw for raw, _, _ in read.lines(b"%b\r\n\n  %b \n" % (GOOD, wrapped)).elements] == [GOOD, GOOD]
    assert all(map(is_good, read.json(b"[%b,%b]" % (GOOD, wrapped)).elements))


def test_a_wrapped_event_brings_its_key_which_comes_before_that_of_the_request() -> None:
    read = elements()
    wrapped = b'{"event":%b,"idempotency_key":"own"}' % GOOD
    assert read.line(wrapped)[2] == key("own")
    assert read.line(wrapped, "header")[2] == key("own")
    assert [one[2] for one in read.json(b"[%b,%b]" % (wrapped, GOOD), "header").elements] == [
        key("own"),
        key("header\n1"),
    ]
    assert [one[2] for one in read.json(GOOD, "header").elements] == [key("header")]
    assert [one[2] for one in read.lines(GOOD + b"\n" + GOOD, "h").elements] == [key("h\n0"), key("h\n1")]
    assert [one[2] for one in read.json(b"[%b]" % GOOD).elements] == [None]


def test_a_key_goes_with_the_event_as_it_came_not_as_it_is_sent() -> None:
    (filled, plain) = (elements(fill=fill).one(WITHOUT_TIME, "k") for fill in (True, False))
    assert filled[0] != plain[0]
    assert filled[2] == plain[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"idempotency_key":"","event":%b}' % GOOD, "empty"),
        (b'{"idempotency_key":7,"event":%b}' % GOOD, "wrong_type"),
        (b'{"idempotency_key":null,"event":%b}' % GOOD, "wrong_type"),
        (b'{"idempotency_key":"k","event":[]}', "not_an_object"),
        (b'{"idempotency_key":"k","event":{"event":%b,"idempotency_key":"k"}}' % GOOD, "missing_field"),
        (b'{"idempotency_key":"k"}', "missing_field"),
        (b'{"event":%b}' % GOOD, "missing_field"),
        (b'{"idempotency_key":"k","event":%b,"more":1}' % GOOD, "missing_field"),
        (b"nothing", "malformed_json"),
    ],
)
def test_what_is_wrapped_wrongly_is_refused(text: bytes, expected: str) -> None:
    assert code(elements().line(text)) == expected


def test_a_key_of_the_request_must_not_be_empty() -> None:
    read = elements()
    assert code(read.one(GOOD, "")) == "empty"
    assert [code(element) for element in read.json(b"[%b]" % GOOD, "").elements] == ["empty"]
    assert [code(element) for element in read.lines(GOOD, "").elements] == ["empty"]


def test_a_single_event_on_its_own_path_is_not_unwrapped() -> None:
    assert code(elements().one(b'{"idempotency_key":"k","event":%b}' % GOOD)) == "missing_field"


def test_a_batch_that_is_no_json_is_refused_as_a_whole_but_lines_fail_alone() -> None:
    with pytest.raises(MalformedJsonError):
        list(elements().json(b"[%b,]" % GOOD).elements)
    found = list(elements().lines(b"[\n%b" % GOOD).elements)
    assert (code(found[0]), is_good(found[1])) == ("malformed_json", True)


def test_what_is_wrapped_twice_is_refused_and_an_escaped_name_is_as_good() -> None:
    twice = b'{"event":1,"idempotency_key":"a","event":%b}' % GOOD
    assert code(elements().line(twice)) == "missing_field"
    assert elements().line(b'{"\\u0065vent":%b,"idempotency_key":"b"}' % GOOD)[0::2] == (GOOD, key("b"))


def test_a_missing_time_is_filled_in_if_that_is_wanted_and_nothing_else_changes() -> None:
    assert code(elements().one(WITHOUT_TIME)) == "missing_field"
    raw, checked, _ = elements(fill=True).one(WITHOUT_TIME)
    assert raw == b' {"time":1700000000500,"name":"N","customerId":"C","attributes":{}}'
    assert isinstance(checked, Conforming)
    (wrapped,) = elements(fill=True).json(b'[{"idempotency_key":"k","event":%b}]' % WITHOUT_TIME).elements
    assert wrapped[0] == raw.strip()


@pytest.mark.parametrize("time", [b"null", b'"x"', b"5", b"1e400"])
def test_a_time_that_is_there_is_left_alone_and_so_is_one_of_another_case(time: bytes) -> None:
    wrong = b'{"time":%b,"name":"N","customerId":"C","attributes":{}}' % time
    assert elements(fill=True).one(wrong)[0] == wrong
    assert isinstance(elements(fill=True).one(wrong)[1], Refused)
    other_case = WITHOUT_TIME.replace(b"{", b'{"Time":1700000000000,', 1)
    assert code(elements(fill=True).one(other_case)) == "missing_field"
    assert elements(fill=True).one(GOOD)[0] == GOOD


def test_what_has_nothing_at_all_stays_without_a_time_worth_mentioning() -> None:
    raw, checked, _ = elements(fill=True).one(b"{ }")
    assert json.loads(raw) == {"time": 1700000000500}
    assert isinstance(checked, Refused)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, min_size=1), st.sampled_from([None, 1]), st.data())
def test_members_are_found_whatever_stands_around_them(
    content: dict[str, Any], indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    members = json_text.members(text, most=len(content))
    assert members is not None
    assert members.keys() == content.keys()
    for name, raw in members.items():
        assert json.loads(raw) == content[name]
        assert raw in text
        assert raw == raw.strip()
    assert json_text.members(text, most=len(content) - 1) is None


def test_an_object_may_have_no_members() -> None:
    assert json_text.members(b" { } ", most=0) == {}
