"""What is wrong with the events of a file, and where."""

import io

import pytest

from forwarder.cli.event_files import TOO_LONG, Entry, entries
from forwarder.cli.lint import Checker
from forwarder.cli.options import ErrorShown

GOOD = b'{"name":"n","customerId":"c","time":1700000000000,"attributes":{}}'


def check(entry: Entry) -> list[ErrorShown]:
    return Checker({}).check(entry)[0]


def test_a_good_event_has_nothing_wrong() -> None:
    assert check(Entry(1, GOOD, 0)) == []
    assert check(Entry(1, GOOD.replace(b",", b",\n"), 0)) == []


def test_all_that_is_wrong_with_an_event_is_told_with_field_and_code() -> None:
    errors = check(Entry(1, b'{"name":"","customerId":7,"time":1700000000000}', 0))
    assert [error.field for error in errors] == ["customerId", "name", "attributes"]
    assert [error.code for error in errors] == ["wrong_type", "empty", "missing_field"]
    assert str(errors[1]) == "name: name must not be empty (empty)"


@pytest.mark.parametrize(
    ("text", "code"), [(b"{", "malformed_json"), (b"7", "not_an_object"), (b"[]", "not_an_object")]
)
def test_what_is_no_event_at_all_is_told_without_a_field(text: bytes, code: str) -> None:
    (error,) = check(Entry(1, text, 0))
    assert (error.field, error.code) == (None, code)


def test_what_has_a_fault_is_told_by_it() -> None:
    assert check(Entry(1, None, 0, TOO_LONG)) == [TOO_LONG]


def test_the_name_of_an_attribute_cannot_play_with_the_terminal() -> None:
    (error,) = check(Entry(1, GOOD.replace(b"{}", b'{"\\u001b[2J":null}'), 0))
    assert str(error).isprintable()
    assert "\\x1b[2J" in str(error)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": tru}\n', "column 7"),
        (b'\n\n{"a":\n1,\n  "b": tru}\n', "line 5 column 8"),
        (b'[{"a": 1}, {"b": tru}]', "column 18"),
        (b'[\n  {"b": tru}]', "column 9"),
        (b'[\n  {"b":\n tru}]', "line 3 column 2"),
    ],
)
def test_a_fault_of_the_json_is_told_by_its_place_in_the_file(content: bytes, place: str) -> None:
    *_, entry = entries(io.BytesIO(content), name="f")
    (error,) = check(entry)
    assert error.message.endswith(f": {place}")
