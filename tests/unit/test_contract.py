"""The contract, judged by an oracle of its own."""

import json
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forwarder.growlytics.contract import Conforming, Refused, Violation, check
from forwarder.growlytics.json_text import parse
from tests.fakes.contract_oracle import (
    ALLOWED,
    ANYTHING,
    FIELDS,
    HUGE,
    as_read,
    events,
    javascript_length,
    render,
    wrongs,
)


def judged(value: object) -> Conforming | Refused:
    return judged_text(render(value))


def judged_text(text: str) -> Conforming | Refused:
    return check(parse(text.encode()))


def violations(text: str) -> tuple[Violation, ...]:
    answer = judged_text(text)
    assert isinstance(answer, Refused), "refused"
    return answer.violations


@given(st.one_of(events(), events(), events(), ANYTHING))
@example({"customerId": "c", "name": "n", "time": 10**11, "attributes": {}})
@example({"customerId": "", "name": "", "time": True, "attributes": {"": None}, "x": [[{"y": HUGE}]]})
@example({})
def test_an_event_is_accepted_if_nothing_is_wrong_and_else_told_all_that_is(event: object) -> None:
    wanted = sorted(wrongs(event), key=str)
    match judged(event):
        case Conforming(customer, name):
            assert wanted == []
            assert isinstance(event, dict)
            assert (customer, name) == as_read((event["customerId"], event["name"]))
        case Refused(found):
            assert sorted([(one.code, one.field) for one in found], key=str) == wanted
            assert found, "a refusal says why"
            assert all(one.message for one in found)


@given(
    st.text(min_size=1, max_size=80),
    st.text(st.sampled_from("a☃\U0001f600\ud800\udc00"), min_size=1, max_size=49),
    st.one_of(st.integers(10**11, 10**14 - 1), st.floats(1e11, 1e14, exclude_max=True)),
    st.dictionaries(st.text(max_size=120), ALLOWED, max_size=50),
    st.dictionaries(st.text(), st.recursive(st.none() | ALLOWED, st.lists), max_size=5),
)
def test_whatever_satisfies_the_document_is_accepted(
    customer: str, name: str, time: float, attributes: dict[str, object], extras: dict[str, object]
) -> None:
    fields = {"customerId": customer, "name": name, "time": time, "attributes": attributes}
    answer = judged(extras | fields)
    if javascript_length(name) < 50:
        assert isinstance(answer, Conforming)
        assert [answer.customer, answer.name] == list(as_read((customer, name)))
    else:
        assert isinstance(answer, Refused)
        assert [one.code for one in answer.violations] == ["name_too_long"]


# Tables


def event_with(**fields: str) -> str:
    """Write an event, each field given as JSON text; without those that are empty."""
    usual = {"customerId": '"c"', "name": '"n"', "time": "1700000000000", "attributes": "{}"}
    return "{" + ",".join(f'"{field}":{text}' for field, text in (usual | fields).items() if text) + "}"


def codes(text: str) -> list[str]:
    answer = judged_text(text)
    return [one.code for one in answer.violations] if isinstance(answer, Refused) else []


@pytest.mark.parametrize(
    ("name", "is_accepted"),
    [
        ('"a"', True),
        ('" "', True),
        ('"' + "a" * 49 + '"', True),
        ('"' + "a" * 50 + '"', False),
        ('"' + "é" * 49 + '"', True),
        ('"' + "é" * 50 + '"', False),
        ('"' + "\U0001f600" * 24 + 'a"', True),
        ('"' + "\U0001f600" * 25 + '"', False),
        ('"' + "\U0001f600" * 24 + 'ab"', False),
        ('"' + "\\ud83d\\ude00" * 24 + 'a"', True),
        ('"' + "\\ud83d\\ude00" * 25 + '"', False),
        ('"' + "\\ud83d" * 49 + '"', True),
        ('"' + "\\ud83d" * 50 + '"', False),
        ('"' + "\\ude00" * 49 + '"', True),
        ('"' + "\\ude00" * 50 + '"', False),
        ('"\\ud83d' + "\U0001f600" * 24 + '"', True),
        ('"\\ud83d' + "\U0001f600" * 24 + 'a"', False),
        ('"' + "e\u0301" * 24 + 'e"', True),
        ('"' + "e\u0301" * 25 + '"', False),
        ('"\\u0000"', True),
    ],
)
def test_a_name_has_fewer_than_50_characters_as_javascript_counts_them(name: str, is_accepted: bool) -> None:
    assert codes(event_with(name=name)) == ([] if is_accepted else ["name_too_long"])


def test_a_name_too_long_is_told_the_limit_and_its_length() -> None:
    (found,) = violations(event_with(name='"' + "\U0001f600" * 30 + '"'))
    assert found.field == "name"
    assert "50" in found.message
    assert "60" in found.message


def _object(names: list[str]) -> str:
    return "{" + ",".join(f'"{name}":1' for name in names) + "}"


@pytest.mark.parametrize(
    ("attributes", "is_accepted"),
    [
        ("{}", True),
        (_object([f"a{i}" for i in range(50)]), True),
        (_object([f"a{i}" for i in range(51)]), False),
        (_object([f"{case}{i}" for i in range(25) for case in "aA"]), True),
        (_object([f"{case}{i}" for i in range(25) for case in "aA"] + ["b"]), False),
        (_object([f"a{i}" for i in range(50)] + ["a0"]), True),
        (_object(["é", "e\u0301", "É"] + [f"a{i}" for i in range(47)]), True),
        (_object(["é", "e\u0301", "É"] + [f"a{i}" for i in range(48)]), False),
    ],
)
def test_an_event_has_at_most_50_attributes_and_case_tells_them_apart(attributes: str, is_accepted: bool) -> None:
    assert codes(event_with(attributes=attributes)) == ([] if is_accepted else ["too_many_attributes"])


def test_too_many_attributes_are_told_how_many() -> None:
    (found,) = violations(event_with(attributes=_object([f"a{i}" for i in range(73)])))
    assert found.field == "attributes"
    assert "50" in found.message
    assert "73" in found.message


@pytest.mark.parametrize(
    ("time", "code"),
    [
        ("99999999999", "time_not_milliseconds"),
        ("99999999999.999", "time_not_milliseconds"),
        ("100000000000", None),
        ("1e11", None),
        ("100000000000.5", None),
        ("1700000000000", None),
        ("1.7e12", None),
        ("1700000000000.123", None),
        ("99999999999999", None),
        ("99999999999999.9", None),
        ("100000000000000", "time_not_milliseconds"),
        ("1e14", "time_not_milliseconds"),
        ("1700000000", "time_not_milliseconds"),
        ("1700000000000000", "time_not_milliseconds"),
        ("18446744073709551617", "time_not_milliseconds"),
        ("123456789012345678901234567890", "time_not_milliseconds"),
        ("1e308", "time_not_milliseconds"),
        ("0", "time_not_milliseconds"),
        ("-0.0", "time_not_milliseconds"),
        ("-1700000000000", "time_not_milliseconds"),
        ("1e-400", "time_not_milliseconds"),
        ("1e400", "number_out_of_range"),
        ("-1e400", "number_out_of_range"),
        ("9" * 400, "number_out_of_range"),
        ("true", "wrong_type"),
        ("false", "wrong_type"),
        ("null", "wrong_type"),
        ('"1700000000000"', "wrong_type"),
        ('"2020-01-20T19:14:15.000Z"', "wrong_type"),
        ("[1700000000000]", "wrong_type"),
        ("{}", "wrong_type"),
        ("", "missing_field"),
    ],
)
def test_time_is_a_number_of_milliseconds(time: str, code: str | None) -> None:
    assert codes(event_with(time=time)) == ([] if code is None else [code])


@pytest.mark.parametrize("time", ["1700000000", "1700000000.123", "100000000", "99999999999"])
def test_a_time_in_seconds_is_recognized_and_the_mend_is_named(time: str) -> None:
    (found,) = violations(event_with(time=time))
    assert found.field == "time"
    assert "millisecond" in found.message
    assert " seconds" in found.message
    assert "multiply" in found.message
    assert "1000" in found.message


@pytest.mark.parametrize("time", ["1700000000000000", "1700000000000000000"])
def test_a_time_in_microseconds_or_finer_is_recognized_and_the_mend_is_named(time: str) -> None:
    (found,) = violations(event_with(time=time))
    assert "micro" in found.message
    assert "divide" in found.message


@pytest.mark.parametrize("time", ["0", "-5", "99999999"])
def test_a_time_that_is_no_time_in_seconds_either_is_not_called_seconds(time: str) -> None:
    (found,) = violations(event_with(time=time))
    assert "multiply" not in found.message


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ('"text"', None),
        ('""', None),
        ('"2020-01-20T19:14:15.000Z"', None),
        ("0", None),
        ("-1.50", None),
        ("123456789012345678901234567890", None),
        ("9007199254740993", None),
        ("true", None),
        ("false", None),
        ('"\\ud800"', None),
        ("null", "attribute_type_not_allowed"),
        ("[]", "attribute_type_not_allowed"),
        ("[1]", "attribute_type_not_allowed"),
        ("{}", "attribute_type_not_allowed"),
        ('{"a":1}', "attribute_type_not_allowed"),
        ("1e400", "number_out_of_range"),
        ("1" + "0" * 400, "number_out_of_range"),
    ],
)
def test_an_attribute_is_a_string_a_number_a_boolean_or_a_date(value: str, code: str | None) -> None:
    text = event_with(attributes=f'{{"Product Id":"a","Price":{value}}}')
    if code is None:
        assert isinstance(judged_text(text), Conforming)
    else:
        assert [(one.code, one.field) for one in violations(text)] == [(code, "attributes.Price")]


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["null", "true", "[]", "{}", "17", '"text"', "1e400"])
def test_a_field_of_the_wrong_type_is_told_so(field: str, value: str) -> None:
    right = {"customerId": '"text"', "name": '"text"', "attributes": "{}"}
    if field == "time":
        wanted = {"17": "time_not_milliseconds", "1e400": "number_out_of_range"}.get(value, "wrong_type")
    else:
        wanted = "" if value == right[field] else "wrong_type"
    assert codes(event_with(**{field: value})) == ([wanted] if wanted else [])


def test_a_field_of_another_case_is_missing_and_the_look_alike_is_named() -> None:
    for field, other in [("name", "Name"), ("customerId", "customer_id"), ("customerId", "customerID")]:
        (found,) = violations(event_with(**{field: "", other: '"c"'}))
        assert (found.code, found.field) == ("missing_field", field)
        assert other in found.message


@pytest.mark.parametrize("value", ["1", "null", "true", '"text"', "[]", "[{}]", "1e400"])
def test_what_is_no_object_is_no_event(value: str) -> None:
    (found,) = violations(value)
    assert (found.code, found.field) == ("not_an_object", None)


@pytest.mark.parametrize("bad", ['"\\ud800"', "1"])
def test_of_a_key_given_twice_the_last_one_counts_as_in_javascript(bad: str) -> None:
    # A lone surrogate makes the slower parser read it.
    extra = f'"x":{bad},'
    assert codes("{" + extra + event_with()[1:-1] + ',"name":7}') == ["wrong_type"]
    assert codes("{" + extra + '"name":7,' + event_with()[1:]) == []
    assert codes(event_with(attributes=f'{{{extra}"a":null,"a":1}}')) == []
    assert codes(event_with(attributes=f'{{{extra}"a":1,"a":null}}')) == ["attribute_type_not_allowed"]
    assert codes(event_with(attributes=f'{{{extra}"a":1e400,"a":1}}')) == []


def test_unknown_fields_pass_whatever_they_hold() -> None:
    text = event_with(extra='{"a":[null,{"b":[1,2,3]}],"c":123456789012345678901234567890}', other="null")
    assert isinstance(judged_text(text), Conforming)


@pytest.mark.parametrize("value", ["1e400", "[1e400]", '{"a":[[{"b":-1e400}]]}', "[1," + "9" * 400 + "]"])
def test_a_number_out_of_range_anywhere_in_an_unknown_field_is_refused(value: str) -> None:
    (found,) = violations(event_with(extra=value))
    assert (found.code, found.field) == ("number_out_of_range", "extra")


def test_an_unknown_field_without_a_name_is_searched_too() -> None:
    (found,) = violations(event_with()[:-1] + ',"":1e400}')
    assert (found.code, found.field) == ("number_out_of_range", "")


def test_an_unknown_field_nested_as_deep_as_the_parser_goes_is_searched() -> None:
    deep = "[" * 300 + "1e400" + "]" * 300
    assert codes(event_with(extra=deep)) == ["number_out_of_range"]


# What a violation may show

SECRET: Final = "Zq7SECRETq7Z"
NUMBER: Final = "7350917350917"


@pytest.mark.parametrize(
    "text",
    [
        *(event_with(**{field: value}) for field in FIELDS for value in (
            f'"{SECRET}"', f'["{SECRET}"]', f'{{"a":["{SECRET}"]}}', NUMBER, f"[{NUMBER}]", f"{NUMBER}00", f"-{NUMBER}",
        )),
        event_with(customerId=f'"{SECRET}"', name=f'"{SECRET * 5}"', time=f'"{SECRET}"', attributes=f'["{SECRET}"]'),
        event_with(customerId=f'"{SECRET}"', name=f'"{SECRET}"', time="", attributes=""),
        event_with(attributes=f'{{"a":["{SECRET}"],"b":{{"c":"{SECRET}"}},"d":"{SECRET}","e":null,"f":{NUMBER},"g":1e400}}'),
        event_with(attributes=f'{{"a":{{"{SECRET}":1}}}}'),
        event_with(x=f'["{SECRET}",{NUMBER},1e400,{{"{SECRET}":1}}]', y=f'"{SECRET}"', Name=f'"{SECRET}"', name=""),
        f'"{SECRET}"', f'["{SECRET}"]', NUMBER,
    ],
)  # fmt: skip
def test_no_value_of_an_event_appears_in_what_is_said_of_it(text: str) -> None:
    answer = judged_text(text)
    if isinstance(answer, Refused):
        for one in answer.violations:
            said = f"{one.code} {one.field} {one.message}"
            assert SECRET not in said
            assert NUMBER not in said


NASTY = ["\x00", "\n", "\r", "\x1b[31m", "\x7f", "\x85", "\u202e", "\u2028", "\u200b", "\ud800", "\ufeff", "\U000e0001"]


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_characters_that_could_harm_a_terminal_or_a_log_are_escaped_in_field_names(nasty: str) -> None:
    name = json.dumps(f"a{nasty}b")
    found = violations("{" + event_with(attributes=f"{{{name}:null}}")[1:-1] + f",{name}:1e400" + "}")
    assert [one.code for one in found] == ["attribute_type_not_allowed", "number_out_of_range"]
    for one in found:
        assert one.field is not None
        assert one.field.isprintable()
        assert one.message.isprintable()
        assert "a" in one.field
        assert "b" in one.field, "what is printable is shown"
    assert len({one.field for one in found}) == 2


@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_a_look_alike_with_such_characters_is_not_shown_as_it_is(nasty: str) -> None:
    for one in violations("{" + json.dumps(f"na{nasty}me") + ":1," + json.dumps(f"{nasty}name") + ":1}"):
        assert one.message.isprintable()


@given(st.text(max_size=300))
def test_a_field_is_named_printably_and_shortly_whatever_its_name(name: str) -> None:
    (found,) = violations(event_with(attributes=f"{{{json.dumps(name)}:null}}"))
    assert found.field is not None
    assert found.field.startswith("attributes.")
    assert found.field.isprintable()
    assert len(found.field) <= 1100
    if name.isprintable() and len(name) <= 100:
        assert found.field == f"attributes.{name}"


def test_a_very_long_name_of_an_attribute_is_cut() -> None:
    (found,) = violations(event_with(attributes=f'{{"{"x" * 100_000}":null}}'))
    assert found.field is not None
    assert len(found.field) < 200
    assert len(found.message) < 500


@pytest.mark.parametrize("value", ["null", "[]", "1e400"])
def test_of_thousands_of_bad_attributes_a_bounded_number_is_listed_and_the_rest_counted(value: str) -> None:
    found = violations(event_with(attributes="{" + ",".join(f'"a{i}":{value}' for i in range(20_000)) + "}"))
    assert len(found) <= 110
    assert found[0].code == "too_many_attributes"
    assert "20000" in found[0].message
    listed = [one for one in found if one.field is not None and one.field.startswith("attributes.")]
    assert len(listed) >= 20
    assert str(20_000 - len(listed)) in found[-1].message


@pytest.mark.parametrize("nested", ["1e400", "[1e400]"])
def test_of_thousands_of_unknown_fields_out_of_range_a_bounded_number_is_listed(nested: str) -> None:
    found = violations(event_with()[:-1] + "," + ",".join(f'"x{i}":{nested}' for i in range(20_000)) + "}")
    assert {one.code for one in found} == {"number_out_of_range"}
    assert len(found) <= 110


def test_bad_attributes_that_are_not_listed_one_by_one_are_not_called_what_they_are_not() -> None:
    found = violations(event_with(attributes="{" + ",".join(f'"a{i}":1e400' for i in range(150)) + "}"))
    assert {one.code for one in found} == {"too_many_attributes", "number_out_of_range"}


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = '{"customerId":7,"name":"","time":"now","attributes":{"a":null,"b":1e400,"c":[],"d":1},"x":1e400}'
    assert {(one.code, one.field) for one in violations(text)} == {
        ("wrong_type", "customerId"),
        ("empty", "name"),
        ("wrong_type", "time"),
        ("attribute_type_not_allowed", "attributes.a"),
        ("number_out_of_range", "attributes.b"),
        ("attribute_type_not_allowed", "attributes.c"),
        ("number_out_of_range", "x"),
    }


def test_the_documented_example_is_accepted() -> None:
    text = """{"name": "Add To Cart", "customerId": "YOUR_APP_CUSTOMER_ID", "time": 1700000000000,
     "attributes": {"Product Id": "abcdef", "Product Name": "Orange BagPack", "Quantity": 3, "Price": 4531,
                    "Discount": 0, "Brand": "Nike", "Category": "BagPack"}}"""
    assert judged_text(text) == Conforming("YOUR_APP_CUSTOMER_ID", "Add To Cart", json.loads(text)["attributes"])
