"""Arrays taken apart: judged against the parser of whole texts, which looks at everything at once."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.growlytics import json_text
from forwarder.growlytics.json_text import OUT_OF_RANGE, JsonArray, MalformedJsonError, OutOfRange, is_array
from tests.unit.test_json_text import JSON_ISH, SPACE, VALUES


def at_once(text: bytes) -> list[object] | None:
    """Return the elements of an array as the parser of whole texts finds them; None if it refuses the text."""
    try:
        whole = json_text.parse(text)
    except MalformedJsonError:
        return None
    assert isinstance(whole, list)
    return whole


def one_by_one(text: bytes) -> list[tuple[bytes, object]] | None:
    try:
        return list(JsonArray(text))
    except MalformedJsonError:
        return None


def doubles(value: object) -> object:
    """Return a value with integers that no 64 bits hold as floats: whether they come back as such is left open."""
    match value:
        case dict():
            return {name: doubles(each) for name, each in value.items()}
        case list():
            return [doubles(each) for each in value]
        case int() if not isinstance(value, bool) and not -(1 << 63) <= value < 1 << 64:
            return float(value)
        case OutOfRange():
            return "out of range"
        case _:
            return value


def assert_same(text: bytes) -> None:
    """Assert that an array is refused, or what it holds, is the same whichever way it is read."""
    wanted, found = at_once(text), one_by_one(text)
    assert (wanted is None) == (found is None)
    if wanted is not None and found is not None:
        assert repr(doubles([value for _, value in found])) == repr(doubles(wanted))
        assert repr(doubles([json_text.parse(raw) for raw, _ in found])) == repr(doubles(wanted))
        assert JsonArray(text).most >= len(found)


ITEMS = st.lists(st.tuples(SPACE, VALUES, SPACE), max_size=6)


@given(ITEMS, SPACE, SPACE, SPACE)
def test_the_elements_are_the_very_texts_the_array_was_made_of(
    items: list[tuple[str, str, str]], before: str, inside: str, after: str
) -> None:
    content = ",".join(map("".join, items)) if items else inside
    text = f"{before}[{content}]{after}".encode()
    assert is_array(text)
    found = one_by_one(text)
    assert found is not None
    assert [raw for raw, _ in found] == [value.encode() for _, value, _ in items]
    assert_same(text)


@st.composite
def _damaged_arrays(draw: st.DrawFn) -> bytes:
    content = ",".join(map("".join, draw(ITEMS)))
    text = f"{draw(SPACE)}[{content}]{draw(SPACE)}".encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 3)))
        text = text[:start] + draw(st.one_of(st.binary(max_size=3), JSON_ISH)) + text[end:]
    return text


@given(st.one_of(_damaged_arrays(), JSON_ISH.map(b"[%b".__mod__), st.binary(max_size=20).map(b"[%b]".__mod__)))
@example(b"[1,]")
@example(b"[,1]")
@example(b"[,]")
@example(b"[1,,2]")
@example(b"[1 2]")
@example(b"[]x")
@example(b"[] []")
@example(b"[1],2")
@example(b'["\\ud800"],[2]')
@example(b'["\\ud800",]')
@example(b'["\\ud800",,1]')
@example(b'["\\ud800" 1]')
@example(b'["\\ud800"}')
@example(b'["\\ud800",{]')
@example(b'["\\ud800",[}]')
@example(b'["\\ud800",1')
@example(b'["\\ud800",')
@example(b'["\\ud800')
@example(b'["\\ud800","\xff"]')
@example(b'["\xff"]')
@example(b'[{"\xed\xa0\x80":1}]')
@example(b"[1]\x00")
@example(b"[\x001]")
@example(b"[1\x0c]")
@example(b"[ \n")
@example(b"[")
@example(b"[[[[[[[[")
@example(b"[1e400,-1e400]")
@example(b"[" + b"9" * 400 + b"]")
@example(b"[18446744073709551616,-9223372036854775809]")
@example(b'[{"a":1,"a":"\\ud800"}]')
@example(b'[{"a":1,"a":2}]')
def test_an_array_is_refused_exactly_if_the_whole_text_is(text: bytes) -> None:
    if is_array(text):
        assert_same(text)


@pytest.mark.parametrize("innermost", [b"1", b"", b'"\\ud800"', b"1e400", b"x"])
@pytest.mark.parametrize("depth", [2, 5, 100, 400, *range(1010, 1035, 2), 5000, 20_000])
@pytest.mark.parametrize("beside", [b"", b"1,", b'"\\ud800",'])
def test_depth_is_judged_as_in_the_whole_text_but_whatever_stands_beside(
    depth: int, innermost: bytes, beside: bytes
) -> None:
    for element in (
        b"[" * (depth - 1) + innermost + b"]" * (depth - 1),
        b'{"a":' * (depth - 1) + (innermost or b"{}") + b"}" * (depth - 1),
    ):
        assert (one_by_one(b"[%b%b]" % (beside, element)) is None) == (at_once(b"[%b]" % element) is None)


BAD = {
    "a value": (b"[1,{}, x ,2]", "in element 2, counted from 0: "),
    "what is in an object": (b'[1,{"SECRET":SECRET}]', "in element 1, counted from 0: "),
    "a string that is not UTF-8": (b'[1,2,"SECRET\xff"]', "in element 2, counted from 0: "),
    "nothing between commas": (b"[1,,2]", "in element 1, counted from 0: a value is missing"),
    "nothing before the end": (b"[1,]", "in element 1, counted from 0: a value is missing"),
    "no comma": (b'[{} "SECRET"]', "at byte 4"),
    "no end": (b'[{},"SECRET"', "at byte 12"),
    "something behind the end": (b"[1] SECRET", "at byte 4"),
}


@pytest.mark.parametrize(("text", "where"), BAD.values(), ids=BAD.keys())
def test_the_message_says_where_the_fault_is_and_quotes_nothing(text: bytes, where: str) -> None:
    with pytest.raises(MalformedJsonError) as refused:
        list(JsonArray(text))
    assert where in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_what_comes_before_a_fault_is_handed_out_and_no_more_than_asked_for_is_parsed() -> None:
    elements = iter(JsonArray(b'[1,{"a":"\xff"},2]'))
    assert next(elements) == (b"1", 1)
    with pytest.raises(MalformedJsonError):
        next(elements)


def test_a_number_no_double_holds_is_marked_alone() -> None:
    assert list(JsonArray(b"[1e400, 2]")) == [(b"1e400", OUT_OF_RANGE), (b"2", 2)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(b"[", True), (b" \t\r\n[1]", True), (b"{}", False), (b"", False), (b" ", False), (b"\x0b[", False)],
)
def test_an_array_begins_with_a_bracket_behind_white_space(text: bytes, *, wanted: bool) -> None:
    assert is_array(text) is wanted


# Broken arrays that nobody parsed before must not cost more than their length

HOSTILE = {
    "open arrays": b"[" * 200_000,
    "open objects": b'[{"a":' * 50_000,
    "open arrays with much in each": b"[" + (b'{"a":[1,2]},' * 10 + b"[") * 2_000,
    "open strings": b'["\\ud800",' + b'"a" "' * 50_000,
    "an array that is closed wrongly": b"[" + b'{"a":[}]},' * 20_000,
    "a lone surrogate and no end": b'["\\ud800",' + b"[[[[[[1]]]]]]," * 10_000,
    "backslashes": b'["\\ud800","' + b"\\" * 200_001,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(10)
def test_a_broken_array_of_any_kind_is_refused_soon(text: bytes) -> None:
    def read() -> Iterator[object]:
        yield from JsonArray(text)

    with pytest.raises(MalformedJsonError):
        list(read())


def test_an_array_of_a_million_numbers_is_split_into_that_many() -> None:
    array = JsonArray(json.dumps([1] * 1_000_000).encode())
    assert array.most == 1_000_000


@pytest.mark.parametrize("before", [b"", b'"\\ud800",', b"1e400,{}, "])
def test_what_is_nested_beyond_all_reason_is_not_looked_at_to_its_end(before: bytes) -> None:
    with pytest.raises(MalformedJsonError, match="nested too deeply at byte") as raised:
        list(JsonArray(b"[" + before + b"[" * 1_000_000))
    assert int(str(raised.value).rpartition(" ")[2]) < 11_000
