"""JSON taken apart: judged against the standard library's decoder and against the texts that were joined."""

import json
import math
import string
import time
from collections.abc import Callable
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.growlytics.json_text import OUT_OF_RANGE, MalformedJsonError, elements, lines, parse

SPACE = st.text(" \t\n\r", max_size=3)

NUMBERS = st.one_of(
    st.sampled_from(
        ["0", "-0", "-0.0", "0.1", "1.50", "1e22", "1E+2", "1e-400", "0e99999", "123456789012345678901234567890"]
    ),
    st.sampled_from([str(sign * (1 << bits) + off) for sign in (1, -1) for bits in (53, 63, 64) for off in (-1, 0, 1)]),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds(
        "{}{}.{}{}{}".format,
        st.sampled_from(["", "-"]),
        st.integers(0, 10**20),
        st.text(string.digits, min_size=1, max_size=25),
        st.sampled_from(["e", "E", "e+", "e-"]),
        st.integers(0, 250),
    ),
)

PLAIN_CHARACTERS = st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters='"\\')
ESCAPES = st.one_of(
    st.sampled_from(['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t", "\\ud800", "\\uDFFF", "\\uD83d\\uDe00"]),
    st.integers(0, 0xFFFF).map("\\u{:04X}".format),
)
STRINGS = st.lists(st.one_of(st.sampled_from("{}[],: "), PLAIN_CHARACTERS, ESCAPES), max_size=8).map(
    lambda pieces: '"' + "".join(pieces) + '"'
)


def _containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.builds("{}{}{}:{}{}{}".format, SPACE, STRINGS, SPACE, SPACE, inner, SPACE)
    item = st.builds("{}{}{}".format, SPACE, inner, SPACE)
    return st.one_of(
        st.lists(member, min_size=1, max_size=4).map(lambda members: "{" + ",".join(members) + "}"),
        st.lists(item, min_size=1, max_size=4).map(lambda items: "[" + ",".join(items) + "]"),
        SPACE.map(lambda space: "{" + space + "}"),
        SPACE.map(lambda space: "[" + space + "]"),
    )


VALUES = st.recursive(
    st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null"])), _containers, max_leaves=15
)
"""The texts of JSON values, without space around them but with any inside."""


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def judge(text: bytes) -> object:
    """Parse as the standard library does, to the letter of RFC 8259. Raises ValueError or RecursionError."""
    return json.loads(text.decode(), parse_constant=_refuse_constant)


def same(got: object, wanted: object) -> bool:
    """Whether two parsed values are the same, but for the integers beyond 64 bits, which may have become floats."""
    match wanted:
        case dict():
            return (
                isinstance(got, dict) and got.keys() == wanted.keys() and all(same(got[k], wanted[k]) for k in wanted)
            )
        case list():
            return isinstance(got, list) and len(got) == len(wanted) and all(map(same, got, wanted))
        case float():
            if math.isinf(wanted):
                return got is OUT_OF_RANGE
            return type(got) is float and got == wanted and math.copysign(1, got) == math.copysign(1, wanted)
        case int() if type(wanted) is int and not -(1 << 63) <= wanted < 1 << 64:
            return got == wanted or (type(got) is float and got == float(wanted))
        case _:
            return type(got) is type(wanted) and got == wanted


@given(st.lists(st.tuples(SPACE, VALUES, SPACE), max_size=6), SPACE, SPACE, SPACE)
def test_the_elements_of_an_array_are_the_very_texts_it_was_made_of(
    items: list[tuple[str, str, str]], before: str, inside: str, after: str
) -> None:
    content = ",".join(map("".join, items)) if items else inside
    array = f"{before}[{content}]{after}".encode()
    assert list(elements(array)) == [text.encode() for _, text, _ in items]
    parsed = parse(array)
    assert isinstance(parsed, list)
    assert len(parsed) == len(items)


@given(VALUES, SPACE, SPACE)
@example('"\\ud800"', "", "")
@example('{"a":1,"a":2}', "", "")
@example('{"a":1,"a":"\\udc00"}', "", "")
@example('{"a":"\\ud800","a":2}', "", "")
@example("18446744073709551616", "", "")
def test_every_json_text_is_parsed_as_the_standard_library_parses_it(value: str, before: str, after: str) -> None:
    text = (before + value + after).encode()
    assert same(parse(text), judge(text))


JSON_ISH = st.lists(
    st.one_of(
        st.sampled_from(list('{}[],:" \t\r\n\\-+.eE019')),
        st.sampled_from(
            ["true", "false", "null", "NaN", "Infinity", "-Infinity", "nan", "\\u12", "\\x41", "\x00", "\x1f"]
        ),
        st.sampled_from(["\ufeff", "\xa0", "\u2028", "\u0661", "'a'", "/**/", "1_0", "0x1", "01", "1.", ".5", "+1"]),
    ),
    max_size=12,
).map(lambda pieces: "".join(pieces).encode())


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    text = draw(VALUES).encode()
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 3)))
    return text[:start] + draw(st.one_of(st.binary(max_size=3), JSON_ISH)) + text[end:]


@given(st.one_of(st.binary(max_size=20), JSON_ISH, _damaged()))
@example(b"")
@example(b" ")
@example(b"\xef\xbb\xbf{}")
@example(b'"\xed\xa0\x80"')
@example(b'"\xc0\x80"')
@example(b"1\x00")
@example(b"\x0b1")
@example("1\xa0".encode())
@example("\u0661".encode())
def test_any_bytes_at_all_are_parsed_or_refused_exactly_as_rfc_8259_says(text: bytes) -> None:
    try:
        wanted = judge(text)
    except (ValueError, RecursionError):
        with pytest.raises(MalformedJsonError):
            parse(text)
    else:
        assert same(parse(text), wanted)


MALFORMED = {
    "NaN": b"NaN",
    "NaN inside": b'{"a":[NaN]}',
    "Infinity": b"Infinity",
    "minus Infinity": b"[-Infinity]",
    "minus NaN": b"-NaN",
    "bad UTF-8": b'"\xff"',
    "bad UTF-8 beside a lone surrogate": b'["\\ud800","\xff"]',
    "a surrogate as UTF-8": b'"\xed\xa0\x80"',
    "truncated UTF-8": b'"\xe2\x82"',
    "UTF-16": "{}".encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "trailing garbage": b"{} x",
    "two values": b"{}{}",
    "a trailing comma": b"[1,]",
    "a trailing comma in an object": b'{"a":1,}',
    "a control character": b'"\x01"',
    "a raw newline in a string": b'"\n"',
    "a NUL behind": b"{}\x00",
    "a NUL inside": b'{"a":\x001}',
    "nothing": b"",
    "only space": b" \n",
    "open array": b"[",
    "open string": b'"abc',
    "a bad escape": b'"\\x41"',
    "a short escape": b'"\\u12"',
    "a leading zero": b"01",
    "a bare point": b"1.",
    "a plus": b"+1",
    "single quotes": b"{'a':1}",
    "a key that is no string": b"{1:2}",
    "a comment": b"/* */ 1",
    "100,000 open brackets": b"[" * 100_000,
    "100,000 nested arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested arrays around a lone surrogate": b"[" * 100_000 + b'"\\ud800"' + b"]" * 100_000,
    "a million open brackets": b"[" * 1_000_000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_json_is_refused_and_nothing_else_is_raised(text: bytes) -> None:
    with pytest.raises(MalformedJsonError):
        parse(text)


@pytest.mark.parametrize("innermost", [b"1", b'"\\ud800"', b"1e400"])
@pytest.mark.parametrize("depth", [1, 100, 400])
def test_nesting_as_deep_as_any_program_means_it_is_parsed(depth: int, innermost: bytes) -> None:
    value = parse(b'[{"a":' * depth + innermost + b"}]" * depth)
    for _ in range(depth):
        assert isinstance(value, list)
        assert len(value) == 1
        assert value[0].keys() == {"a"}
        value = value[0]["a"]
    assert value is parse(innermost) or value == parse(innermost)


@pytest.mark.parametrize("depth", range(900, 1100, 7))
@pytest.mark.parametrize("innermost", [b"1", b'"\\ud800"', b"1e400"])
def test_nesting_near_the_parsers_limits_is_parsed_or_refused(depth: int, innermost: bytes) -> None:
    try:
        value = parse(b"[" * depth + innermost + b"]" * depth)
    except MalformedJsonError:
        return
    assert isinstance(value, list)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":"SECRET"',
        b'{"a":"SECRET\x01"}',
        b'{"a":"SECRET\xff"}',
        b'{"a":"SECRET\\x"}',
        b'{"a":SECRET}',
        b'{"SECRET" 1}',
        b'"SECRET" SECRET',
        b'"\\uSECRET"',
        b'["\\ud800", SECRET]',
    ],
)
def test_the_message_about_malformed_json_quotes_nothing_of_it(text: bytes) -> None:
    with pytest.raises(MalformedJsonError) as refused:
        parse(text)
    assert str(refused.value)
    assert "SECRET" not in str(refused.value)


# Numbers that no double holds

LARGEST_DOUBLE = (2**53 - 1) * 2**971
FIRST_BEYOND = LARGEST_DOUBLE + 2**970  # halfway to what would come next: rounds to infinity

IN_RANGE = [
    "1e308",
    "1.7976931348623157e308",
    "-1.7976931348623157e308",
    "1.7976931348623158e308",
    str(LARGEST_DOUBLE),
    str(-LARGEST_DOUBLE),
    str(FIRST_BEYOND - 1),
    str(-(FIRST_BEYOND - 1)),
    "1" + "0" * 308,
    "-1" + "0" * 308,
    "1" + "0" * 400 + "e-200",
    "0." + "0" * 400 + "1e400",
    "0e999999999999",
    "0.0e400",
    "1e-999999999999",
    "0." + "1" * 5000,
]
BEYOND = [
    "1e309",
    "1e400",
    "-1e400",
    "1.8e308",
    "1E+00400",
    "1e999999999999999999999",
    str(FIRST_BEYOND),
    str(-FIRST_BEYOND),
    str(2**1024),
    "1" + "0" * 309,
    "-1" + "0" * 309,
    "9" * 400,
    "-" + "9" * 400,
    "9" * 5000,
    "9" * 100_000,
    "9" * 400 + ".5",
]


def _embedded(number: str) -> list[tuple[str, Callable[[object], object]]]:
    return [
        (number, lambda value: value),
        (f"[0, {number} ]", lambda value: value[1] if isinstance(value, list) else None),
        (f'{{"a":{{"b":{number}}}}}', lambda value: value["a"]["b"] if isinstance(value, dict) else None),
        (f'["\\ud800",{number}]', lambda value: value[1] if isinstance(value, list) else None),
    ]


@pytest.mark.parametrize("number", BEYOND, ids=lambda number: number[:30])
def test_a_number_beyond_the_finite_doubles_is_marked_wherever_it_stands(number: str) -> None:
    for text, find in _embedded(number):
        assert find(parse(text.encode())) is OUT_OF_RANGE


@pytest.mark.parametrize("number", IN_RANGE, ids=lambda number: number[:30])
def test_a_number_that_a_double_holds_is_a_number_however_it_is_written(number: str) -> None:
    for text, find in _embedded(number):
        value = find(parse(text.encode()))
        assert isinstance(value, int | float)
        assert float(value) == float(number)


@given(
    st.integers(FIRST_BEYOND - 2**960, FIRST_BEYOND + 2**960), st.sampled_from(["", "-"]), st.sampled_from(["", ".5"])
)
def test_the_border_of_the_doubles_is_drawn_where_rounding_draws_it(number: int, sign: str, fraction: str) -> None:
    text = f"{sign}{number}{fraction}"
    assert (parse(text.encode()) is OUT_OF_RANGE) == math.isinf(float(text))


def test_lone_surrogates_are_json() -> None:
    assert parse(b'"\\ud800"') == "\ud800"
    assert parse(b'["\\udc00\\ud800", 9007199254740993]') == ["\udc00\ud800", 9007199254740993]
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


# Lines


@given(
    st.lists(st.tuples(SPACE, st.binary(max_size=8), st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"])), max_size=8)
)
def test_lines_are_what_stands_between_newlines_without_the_space_around(
    parts: list[tuple[str, bytes, bytes]],
) -> None:
    stripped = [(line.replace(b"\n", b"")).strip(b" \t\r\n") for _, line, _ in parts]
    text = b"".join(
        space.replace("\n", "").encode() + line + ending
        for (space, _, ending), line in zip(parts, stripped, strict=True)
    )
    assert list(lines(text)) == [line for line in stripped if line]


def test_the_last_line_needs_no_newline_and_other_separators_separate_nothing() -> None:
    assert list(lines(b'{"a":1}\r\n\r\n \t\n{"b":2}')) == [b'{"a":1}', b'{"b":2}']
    assert list(lines(b'"a\x0bb\x0cc\x1cd\xe2\x80\xa8e"')) == [b'"a\x0bb\x0cc\x1cd\xe2\x80\xa8e"']
    assert list(lines(b"")) == []


# Time


def _join(element: bytes) -> Callable[[int], bytes]:
    return lambda n: b"[" + b",".join([element] * n) + b"]"


HOSTILE: dict[str, tuple[int, Callable[[int], bytes]]] = {
    "small objects": (1000, _join(b'{"name":"a","attributes":{"b":"c"}}')),
    "zeros": (4000, _join(b"0")),
    "empty arrays": (4000, _join(b"[]")),
    "objects too deep for the short cut": (700, _join(b'{"a":{"b":{"c":{"d":[[]]}}}}')),
    "braces in strings": (1000, _join(b'{"a":"}}}]]]{{{[[[","b":"{"}')),
    "quotes and backslashes": (1000, _join(rb'{"\"\\\"{":"\\\\\"\\"}')),
    "elements nested 300 deep": (30, _join(b"[" * 300 + b"]" * 300)),
    "one string of backslashes": (20_000, lambda n: b'["' + b"\\\\" * n + b'"]'),
    "one string of quotes": (20_000, lambda n: b'[{"a":"' + b'\\"' * n + b'"}]'),
    "one string of braces": (20_000, lambda n: b'[{"a":"' + b"{[" * n + b'"}]'),
    "one array of arrays": (4000, lambda n: b"[[" + b",".join([b"[]"] * n) + b"]]"),
    "one array of strings": (4000, lambda n: b"[[" + b",".join([b'"a"'] * n) + b"]]"),
    "one wide object": (4000, lambda n: b"[{" + b",".join([b'"a":{"b":"c"}'] * n) + b"}]"),
    "one wide object with something deep at its end": (
        4000,
        lambda n: b"[{" + b",".join([b'"a":{"b":"c"}'] * n) + b',"d":{"e":{"f":1}}}]',
    ),
    "many wide objects with something deep at their ends": (
        30,
        _join(b"{" + b",".join([b'"a":{"b":"c"}'] * 50) + b',"d":{"e":{"f":1}}}'),
    ),
    "something wide at every level": (
        90,
        lambda n: b"[" + b'[{"a":{"b":"c"}},' * n + b"0" + b',{"a":{"b":"c"}}]' * n + b"]",
    ),
    "levels just too deep beside one another": (200, _join(b"[[[[[[[[[[[[0]]]],[[[[0]]]]]]]]]]]]")),
    "space between": (500, lambda n: b"[" + b",".join([b" " * 50 + b"0" + b"\n" * 50] * n) + b"]"),
    "space at one place": (50_000, lambda n: b"[0" + b" " * n + b"," + b"\t" * n + b"1]"),
    "long numbers": (200, _join(b"1" * 200)),
}


def _seconds_to_split(array: bytes) -> float:
    best = math.inf
    for _ in range(3):
        started = time.thread_time()
        for _ in elements(array):
            pass
        best = min(best, time.thread_time() - started)
    return best


@pytest.mark.parametrize(("n", "make"), HOSTILE.values(), ids=HOSTILE.keys())
def test_splitting_takes_linear_time(n: int, make: Callable[[int], bytes]) -> None:
    small, large = make(n), make(8 * n)
    ratio = _seconds_to_split(large) / max(_seconds_to_split(small), 1e-5)
    assert ratio < 32, "eight times the input takes about eight times as long; 64 times would be quadratic"


@pytest.mark.parametrize(("n", "make"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_arrays_are_split_where_the_parser_splits_them(n: int, make: Callable[[int], bytes]) -> None:
    array = make(min(n, 1000))
    wanted = parse(array)
    assert isinstance(wanted, list)
    assert [parse(element) for element in elements(array)] == wanted


@given(st.binary(max_size=40).filter(lambda text: b"\xef\xbb\xbf" not in text))
def test_lines_never_lose_or_invent_a_byte_that_is_not_space(text: bytes) -> None:
    squeezed = bytes(byte for byte in text if byte not in b" \t\r\n")
    assert bytes(byte for byte in b"".join(lines(text)) if byte not in b" \t\r\n") == squeezed
