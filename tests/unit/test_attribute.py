"""What is a date, and which values say the same in another type."""

import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.attribute import Value, converted, is_nameable, is_soft, type_of
from forwarder.words import AttributeType

MAX_SAFE = 2**53 - 1
NUMBERS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(10**6), 10**6).map(lambda n: n / 100)
)
NUMBER_LIKE = st.from_regex(r"[-+]?[0-9]{0,18}(\.[0-9]{0,8})?([eE][0-9])? ?", fullmatch=True)


@pytest.mark.parametrize(
    "text",
    [
        "2020-01-20T19:14:15.000Z",
        "2020-01-20T19:14:15Z",
        "2020-01-20t19:14:15z",
        "2020-01-20T19:14:15.123456789+05:30",
        "2020-12-31T23:59:60-23:59",
        "2020-01-20",
        "2020-01-20 19:14:15",
        "0000-02-31",
    ],
)
def test_a_string_in_one_of_the_forms_is_a_date(text: str) -> None:
    assert type_of(text) == "date"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2020",
        "2020-01",
        "2020-1-2",
        "2020-13-01",
        "2020-00-01",
        "2020-01-32",
        "2020-01-00",
        "20-01-2020",
        "2020-01-20T",
        "2020-01-20T19:14:15",
        "2020-01-20T24:00:00Z",
        "2020-01-20T19:60:15Z",
        "2020-01-20T19:14:61Z",
        "2020-01-20T19:14:15.Z",
        "2020-01-20T19:14:15+5:30",
        "2020-01-20T19:14:15+24:00",
        "2020-01-20 19:14",
        "2020-01-20 19:14:15Z",
        "2020-01-20  19:14:15",
        "2020-01-20\n",
        " 2020-01-20",
        "2020-01-20 ",
        "2020-01-20T19:14:15Z\n",
        "\u0662\u0660\u0662\u0660-\u0660\u0661-\u0662\u0660",
        "1234-Main-Street",
        "abcd-12-12",
    ],
)
def test_any_other_string_is_none(text: str) -> None:
    assert type_of(text) == "string"


@given(st.datetimes(), st.integers(-1439, 1439))
def test_what_programs_write_as_dates_are_dates(moment: datetime, offset_minutes: int) -> None:
    zone = timezone(timedelta(minutes=offset_minutes))
    javascript = moment.replace(tzinfo=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for text in (
        javascript,
        moment.replace(tzinfo=zone).isoformat(),
        moment.date().isoformat(),
        moment.isoformat(" ", "seconds"),
    ):
        assert type_of(text) == "date", text


@pytest.mark.parametrize(
    ("value", "kind"), [(True, "boolean"), (0, "number"), (0.5, "number"), ("true", "string"), ("3", "string")]
)
def test_the_other_types_are_those_of_json(value: Value, kind: str) -> None:
    assert type_of(value) == kind


def test_only_a_string_and_a_date_differ_softly() -> None:
    kinds: list[AttributeType] = ["string", "number", "boolean", "date"]
    soft = {(one, other) for one in kinds for other in kinds if is_soft(one, other)}
    assert soft == {("string", "date"), ("date", "string")}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3", 3),
        ("0", 0),
        ("-3", -3),
        ("3.1", 3.1),
        ("-0.5", -0.5),
        ("0.1", 0.1),
        ("0.00001", 1e-5),
        ("0.000001", 1e-6),
        ("-0.0000012345678901234567", -1.2345678901234567e-6),
        ("9007199254740991", MAX_SAFE),
        ("-9007199254740991", -MAX_SAFE),
        ("123456789012345.6", 123456789012345.6),
    ],
)
def test_a_canonical_text_and_its_number_say_the_same(text: str, number: float) -> None:
    there, back = converted(text, "number"), converted(number, "string")
    assert (there, type(there)) == (number, type(number))
    assert back == text


@pytest.mark.parametrize(
    "text",
    [
        "", "007", "3.10", "3.0", "1e3", "1E3", "-0", "-0.0", "0.0", "+3", " 3", "3 ", "3\n", ".5", "5.", "0x10", "1_000",
        "1,000", "NaN", "Infinity", "\u0663", "9007199254740992", "-9007199254740992", "0.0000001", "0.1000000000000000055",
        "9007199254740993", "123456789012345678901234567890", "1" * 10_000, "true", "2020-01-20",
    ],
)  # fmt: skip
def test_a_text_that_is_not_canonical_is_no_number(text: str) -> None:
    assert converted(text, "number") is None


@pytest.mark.parametrize(
    "number", [1e21, 1e22, MAX_SAFE + 1, -MAX_SAFE - 1, 1e16, -0.0, 1e-7, 5e-324, 10**300, 1.7976931348623157e308]
)
def test_a_number_whose_text_is_not_plain_is_no_string(number: float) -> None:
    assert converted(number, "string") is None


def test_a_whole_number_is_written_without_a_fraction_as_javascript_does() -> None:
    assert converted(3.0, "string") == "3"
    assert converted(float(MAX_SAFE), "string") == str(MAX_SAFE)


@given(NUMBERS)
def test_the_text_of_a_number_leads_back_to_it(number: float) -> None:
    text = converted(number, "string")
    if text is not None:
        assert isinstance(text, str)
        assert converted(text, "number") == number
        assert float(text) == number
        assert math.copysign(1, float(text)) == math.copysign(1, number)
        assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]*[1-9])?", text)


@given(NUMBERS)
def test_a_number_of_common_size_has_a_text(number: float) -> None:
    if 1e-6 <= abs(number) <= MAX_SAFE:
        assert converted(number, "string") is not None


@given(st.text(max_size=12) | NUMBER_LIKE)
@example("-0")
@example("3.10")
def test_the_number_of_a_text_leads_back_to_it_and_is_what_json_reads(text: str) -> None:
    number = converted(text, "number")
    if number is not None:
        assert converted(number, "string") == text
        assert json.loads(text) == number
        assert json.loads(json.dumps(number)) == number


def test_a_boolean_and_its_text_say_the_same() -> None:
    assert converted("true", "boolean") is True
    assert converted("false", "boolean") is False
    assert converted(True, "string") == "true"
    assert converted(False, "string") == "false"


@pytest.mark.parametrize("text", ["True", "TRUE", "1", "0", "yes", " true", ""])
def test_only_the_words_of_json_are_booleans(text: str) -> None:
    assert converted(text, "boolean") is None


@pytest.mark.parametrize("value", ["2020-01-20", "3", 3, 1579547655000, True])
def test_nothing_becomes_a_date(value: Value) -> None:
    assert converted(value, "date") is None


@pytest.mark.parametrize("wanted", ["number", "boolean"])
def test_a_date_becomes_nothing(wanted: AttributeType) -> None:
    assert converted("2020-01-20", wanted) is None


def test_a_boolean_and_a_number_never_say_the_same() -> None:
    for value in (True, False):
        assert converted(value, "number") is None
    for number in (0, 1, 0.0, 1.0):
        assert converted(number, "boolean") is None


def test_a_name_of_more_than_256_bytes_is_too_long_to_be_known() -> None:
    for fits, too_long in (("a" * 256, "a" * 257), ("é" * 128, "é" * 128 + "a"), ("\ud800" * 85, "\ud800" * 86)):
        assert is_nameable(fits)
        assert not is_nameable(too_long)
