"""What `send` makes of its arguments."""

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder.cli.send import add_arguments, attribute, event_json
from forwarder.growlytics import json_text
from forwarder.growlytics.contract import Conforming, check

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("K=3", "3"),
        ("K=1.50", "1.50"),
        ("K=-0.0e+10", "-0.0e+10"),
        ("K=123456789012345678901234567890", "123456789012345678901234567890"),
        ("K=true", "true"),
        ("K=false", "false"),
        ('K="42"', '"42"'),
        ('K="a\\tb"', '"a\\tb"'),
        ("K=", '""'),
        ("K=Nike", '"Nike"'),
        ("K=a=b", '"a=b"'),
        ("K=True", '"True"'),
        ("K=null", '"null"'),
        ("K=[1]", '"[1]"'),
        ("K=007", '"007"'),
        ("K=1.", '"1."'),
        ("K= 1", '" 1"'),
        ("K=1\n", '"1\\n"'),
        ("K=٣", '"٣"'),
        ("K=NaN", '"NaN"'),
        ('K="', '"\\""'),
        ('K="a"b"', '"\\"a\\"b\\""'),
    ],
)
def test_a_value_is_a_number_or_a_truth_value_if_it_is_exactly_one_and_else_a_string(typed: str, value: str) -> None:
    assert attribute(typed) == ("K", value)


@pytest.mark.parametrize("typed", ["Price", "=3", "K=\udcff"])
def test_an_attribute_that_cannot_be_meant_is_refused(typed: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        attribute(typed)


@given(customer=TEXT, name=TEXT, attributes=st.dictionaries(TEXT, TEXT))
def test_the_event_is_json_and_says_what_was_typed(customer: str, name: str, attributes: dict[str, str]) -> None:
    body = event_json(customer, name, 1700000000000, [(key, json.dumps(value)) for key, value in attributes.items()])
    assert json.loads(body) == {
        "name": name,
        "customerId": customer,
        "time": 1700000000000,
        "attributes": attributes,
    }


def test_the_digits_leave_as_they_were_typed() -> None:
    body = event_json("c", "n", 1700000000000, [attribute("Price=1.50")])
    assert b'"Price": 1.50}' in body
    assert isinstance(check(json_text.parse(body)), Conforming)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--attribute", "a=1", "--attribute", "a=2"],
        ["--time", "1e12"],
        ["--time", "1_700_000_000_000"],
        ["--time", "٣"],
        ["--customer", "\udcff"],
        ["--url", "ftp://127.0.0.1:1"],
    ],
)
def test_arguments_that_cannot_be_meant_are_usage_errors(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--customer", "c", "--name", "n", *arguments])


def test_attributes_keep_their_order_and_their_case() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(
        ["--customer", "c", "--name", "n", "--attribute", "price=1", "--attribute", "Price=2", "--time", "17"]
    )
    assert args.attributes == [("price", "1"), ("Price", "2")]
    assert args.time_milliseconds == 17
