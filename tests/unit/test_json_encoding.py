"""JSON encoded anew: nothing of it is lost but space, escapes and other ways to write the same number."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given

from forwarder.growlytics.json_text import TooDeepError, encode, parse, parse_exactly
from tests.unit.test_json_text import VALUES


def exact(text: bytes | str) -> object:
    """Read JSON by the standard library alone, so that every number shows whether a digit or its sign is lost."""

    def integer(digits: str) -> object:
        return ("double", -0.0, True) if digits == "-0" else ("integer", digits)

    def double(digits: str) -> object:
        value = float(digits)
        return ("double", value, math.copysign(1, value) < 0)

    return json.loads(text, parse_int=integer, parse_float=double)


@given(VALUES)
def test_what_is_encoded_anew_says_exactly_the_same(text: str) -> None:
    # Elsewhere numbers out of range are refused before.
    if all(part not in repr(exact(text)) for part in ("inf", "'integer', '" + "9" * 309)):
        anew = encode(parse_exactly(text.encode()))
        assert exact(anew.decode()) == exact(text)
        assert parse(anew) == parse(text.encode())


@pytest.mark.parametrize(
    ("text", "anew"),
    [
        ('{ "b" : 1 ,\n"a":[ ] }', '{"b":1,"a":[]}'),
        (r'"caf\u00e9 \ud83d\ude00 \/"', '"café 😀 /"'),
        (r'"\ud83d x \ude00\udc00"', r'"\ud83d x \ude00\udc00"'),
        (r'{"\ud800":"\n\u0000\""}', r'{"\ud800":"\n\u0000\""}'),
        ("-0", "-0.0"),
        ("-0.0", "-0.0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1E2", "100.0"),
        ("1.50", "1.5"),
        ("0.1000000000000000055", "0.1"),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"a":1e400,"a":2}', '{"a":2}'),
    ],
)
def test_it_is_compact_and_escapes_only_what_must_be(text: str, anew: str) -> None:
    assert encode(parse_exactly(text.encode())).decode() == anew


def test_the_longest_integers_keep_every_digit() -> None:
    digits = "1" + "0" * 307 + "1"
    assert encode(parse_exactly(digits.encode())) == digits.encode()
    assert Decimal(digits) == parse_exactly(digits.encode())


def test_what_is_nested_too_deeply_is_told_and_nothing_breaks() -> None:
    deep: object = 1
    for _ in range(200_000):
        deep = [deep]
    with pytest.raises(TooDeepError):
        encode(deep)
    while isinstance(deep, list):
        deep = deep.pop()
    with pytest.raises(TooDeepError):
        parse_exactly(b"[" * 200_000 + b"]" * 200_000)
